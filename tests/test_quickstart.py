"""``probe quickstart``: the whole way on real images, then again without extracting or fitting anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
from probe.cli import main, quickstart
from probe.comparison import compare
from probe.predictions import Predictions
from probe.results import load_results

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One run from nothing, as JSON; its folder."""
    import contextlib
    import io

    out = tmp_path_factory.mktemp("quickstart") / "run"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert main(["quickstart", "--out", str(out), "--json"]) == 0
    return out, json.loads(said.getvalue())


def test_the_first_run_extracts_and_probes_everything(first: tuple[Path, dict[str, Any]]) -> None:
    """Four units (the head included) over three splits of three shifts; a probe of every unit but the head."""
    out, said = first
    assert said["n_extracted"] == 4 * 3 * 3
    assert said["n_fitted"] == 3 * 4
    assert said["seconds"] < 60
    assert [s["shift"] for s in said["shifts"]] == ["blurred", "rotated", "inverted"]
    for shift in said["shifts"]:
        assert [u["unit"] for u in shift["units"]] == ["conv1", "conv2", "penultimate", "head"]
        for unit in shift["units"]:
            assert unit["n_penalties"] == unit["n_converged"] == 45
            assert unit["test_low"] < unit["test_score"] < unit["test_high"]
    assert Path(said["figure"]).read_bytes().startswith(b"\x89PNG")
    assert len(load_results(out / "results")) == 12


def test_probing_helps_and_the_verdict_says_what_the_numbers_say(first: tuple[Path, dict[str, Any]]) -> None:
    """Every word of the three verdicts follows from a number that stands beside it."""
    _, said = first
    for shift in said["shifts"]:
        best = max(shift["units"], key=lambda u: u["val_score"])
        last = next(u for u in shift["units"] if u["unit"] == "penultimate")
        verdict = shift["verdict"]
        assert f"'{best['unit']}', of 4 units the best on {best['n_val']} validation images" in verdict
        assert f"{best['test_score']:.3f} [{best['test_low']:.3f}, {best['test_high']:.3f}]" in verdict
        assert shift["against_source"]["p_value"] < 1e-4
        assert f"better than the network as it is ({shift['source_accuracy']:.3f}, p < 0.0001)" in verdict
        if best["unit"] == last["unit"]:
            assert "no earlier unit" in verdict
        elif shift["against_usual"]["p_value"] >= 0.05:
            assert "no more than chance apart from the usual" in verdict
        else:
            word = "better" if best["test_score"] > last["test_score"] else "worse"
            assert f"{word} than the usual" in verdict


def test_the_source_networks_accuracy_is_that_of_a_direct_forward(first: tuple[Path, dict[str, Any]]) -> None:
    """The reference line, computed again without the store."""
    import torch

    _, said = first
    backbone = featstore.load_backbone(quickstart.NETWORK)
    split = featstore.load_split("digits:test+invert()")
    batch = torch.stack([backbone.preprocessing(split.image(i)) for i in range(len(split))])
    with torch.no_grad():
        predicted = backbone.module(batch).argmax(1).numpy()
    assert said["shifts"][2]["source_accuracy"] == pytest.approx(float((predicted == split.labels).mean()), abs=1e-12)


def test_the_second_run_does_nothing_again(
    first: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No forward pass and no fit: both are made to fail. The same tables, and it says so."""
    from probe import jobs

    out, said = first

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(featstore, "extract", refuse)
    monkeypatch.setattr(jobs, "run", refuse)
    assert main(["quickstart", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "nothing had to be extracted and nothing had to be refitted" in text
    for shift in said["shifts"]:
        assert shift["verdict"] in text
        for unit in shift["units"]:
            assert unit["digest"][:8] in text


def predictions(n_right: int, n: int = 400, name: str = "") -> Predictions:
    y = np.arange(n) % 10
    return Predictions(
        y.astype(str) + "/" + np.arange(n).astype(str), y, np.where(np.arange(n) < n_right, y, -1), name=name
    )


def finding(best: int, last: int, source: int, *, is_last: bool = False) -> quickstart.Finding:
    """A finding with given numbers of right images among 400."""
    from test_results import record

    from probe.records import ResultFolder
    from probe.results import Results

    units = [record(unit="conv1", val_score=0.8 if not is_last else 0.6, test_score=best / 400)]
    units.append(record(unit="penultimate", depth=1, val_score=0.7, test_score=last / 400))
    chosen = predictions(last if is_last else best)
    return quickstart.Finding(
        "blurred", Results(tuple(units), ResultFolder("nowhere"), 0, 2), predictions(source),
        compare(chosen, predictions(last)), compare(chosen, predictions(source)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((350, 300, 200), ["better than the usual 'penultimate' (0.750, p < 0.0001)", "is better than the network"]),
        ((300, 350, 200), ["worse than the usual", "so few validation images chose badly"]),
        (
            (301, 300, 301),
            ["no more than chance apart from the usual", "is no more than chance apart from the network"],
        ),
        ((200, 200, 300), ["is worse than the network as it is (0.750, p < 0.0001)"]),
    ],
)
def test_every_case_of_the_verdict(numbers: tuple[int, int, int], words: list[str]) -> None:
    sentence = finding(*numbers).verdict
    assert all(word in sentence for word in words), sentence
    assert ("chose badly" in sentence) == (numbers[0] < numbers[1])


def test_the_verdict_where_the_last_unit_is_best() -> None:
    sentence = finding(200, 300, 100, is_last=True).verdict
    assert "'penultimate', of 2 units the best" in sentence
    assert "so that no earlier unit need be read" in sentence
