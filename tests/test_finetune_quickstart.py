"""``finetune quickstart``: every choice beside every baseline, then again without tuning anything."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import finetune
from finetune import task
from finetune.cli import main, quickstart
from probe import Predictions, compare

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run from nothing, as JSON; its folder. One shift of three, trainings half as long as a user's."""
    out = tmp_path_factory.mktemp("quickstart") / "run"
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(quickstart, "RECIPE", _SHORT)
        patch.setattr(quickstart, "SHIFTS", _SHIFTS)
        assert main(["quickstart", "--out", str(out), "--json"]) == 0
    return out, json.loads(said.getvalue())


_SHORT = replace(quickstart.RECIPE, epochs=20)
_SHIFTS = {"blurred": quickstart.SHIFTS["blurred"]}


def of(said: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Method -> its row, of one shift."""
    return {row["method"]: row for row in said["methods"]}


def test_every_method_stands_beside_every_baseline(first: tuple[Path, dict[str, Any]]) -> None:
    """Nine trainings: four units, everything, everything for one epoch, the last two units, scales and shifts, in front."""
    _, said = first
    assert said["n_trained"] == 9
    assert [s["shift"] for s in said["shifts"]] == ["blurred"]
    for shift in said["shifts"]:
        rows = of(shift)
        assert list(rows) == [
            "flex", "fast", "faster", "rgn", "probe", "ft-fc (1)", "ft-fc (2)", "ft-ss", "ft-all", "image-to-image",
            "as it is",
        ]  # fmt: skip
        assert list(shift["candidates"]) == ["conv1", "conv2", "penultimate", "head", "all"]
        assert all(row["interval"][0] < row["test"] < row["interval"][1] for row in rows.values())
    assert Path(said["figure"]).read_bytes().startswith(b"\x89PNG")


def test_choices_are_those_of_the_validation_accuracies(first: tuple[Path, dict[str, Any]]) -> None:
    """Flex takes the best candidate; what a choice says of test is what its candidate says, trained once for all."""
    _, said = first
    for shift in said["shifts"]:
        rows, candidates = of(shift), shift["candidates"]
        assert candidates[rows["flex"]["tunes"]] == max(candidates.values())
        same = {"head": "ft-fc (1)", "all": "ft-all"}
        for method in quickstart.METHODS:
            assert rows[method]["val"] == candidates[rows[method]["tunes"]]
            if rows[method]["tunes"] in same:
                assert rows[method]["test"] == rows[same[rows[method]["tunes"]]]["test"]
        assert rows["flex"]["test"] > rows["as it is"]["test"] + 0.2


def test_the_second_run_tunes_nothing(
    first: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training loop is made to fail; the same verdicts, and it says so."""
    out, said = first
    monkeypatch.setattr(quickstart, "RECIPE", _SHORT)
    monkeypatch.setattr(quickstart, "SHIFTS", _SHIFTS)
    monkeypatch.setattr(task, "train_loop", None)
    assert main(["quickstart", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "nothing had to be tuned again" in text
    for shift in said["shifts"]:
        assert shift["verdict"] in text


def predictions(n_right: int, n: int = 400) -> Predictions:
    """So many right of n."""
    y = np.arange(n) % 10
    return Predictions(np.arange(n).astype(str), y, np.where(np.arange(n) < n_right, y, -1))


@pytest.mark.parametrize(
    ("flex", "head", "everything", "words"),
    [
        (
            350,
            300,
            349,
            ["0.875", "better than ft-fc (1) (0.750, p < 0.0001)", "no more than chance apart from ft-all"],
        ),
        (300, 300, 350, ["no more than chance apart from ft-fc (1)", "worse than ft-all (0.875, p < 0.0001)"]),
    ],
)
def test_the_verdict_says_what_the_numbers_say(flex: int, head: int, everything: int, words: list[str]) -> None:
    """Every word follows from a number beside it, and each of the cheaper choices is told."""
    right = {"flex": flex, "ft-fc (1)": head, "ft-all": everything}
    tunes = {"flex": "conv2", "fast": "conv2", "faster": "conv1", "rgn": "conv1", "probe": "conv2"}
    outcomes = {
        name: quickstart.Outcome(name, tunes.get(name, name), predictions(right.get(name, 200)), 0.5, 1.0)
        for name in (*tunes, "ft-fc (1)", "ft-all")
    }
    against = {name: compare(outcomes["flex"].test, outcomes[name].test) for name in ("ft-fc (1)", "ft-all")}
    sentence = quickstart.Finding("blurred", outcomes, {"conv1": 0.4, "conv2": 0.5}, against).verdict
    assert all(word in sentence for word in [*words, "of 2 candidates flex-tuning chose 'conv2'"]), sentence
    assert sentence.endswith("fast and probe chose it too, faster and rgn chose 'conv1'.")
    outcomes["ft-all"] = replace(outcomes["flex"], method="ft-all")  # a network is not compared with itself
    same = quickstart.Finding("blurred", outcomes, {"conv1": 0.4, "conv2": 0.5}, against).verdict
    assert "(ft-all), which reads" in same
    assert "apart from ft-all" not in same


def test_an_adapter_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One library call: the run is `tune_adapter`'s, with the adapter that was named; an unknown one is wrong usage."""
    words = ["adapter", "featstore:digits_net", "--train", "digits:train+invert()", "--val", "digits:val+invert()",
             "--head-rows", "0-9", "--lr", "0.05", "--steps", "5", "--out", str(tmp_path / "run"), "--quiet"]  # fmt: skip
    assert main([*words, "--adapter", "colour:4"]) == 0
    assert "tune_adapter" in capsys.readouterr().out
    assert finetune.open_run(tmp_path / "run").identity["adapter"] == {
        "kind": "Colour",
        "n_hidden": 4,
        "is_squashed": False,
    }
    with pytest.raises(SystemExit) as left:
        main([*words, "--adapter", "color"])
    assert left.value.code == 2
    assert "colour, colour:16" in capsys.readouterr().err
