"""``probe correlate``, and ``probe compare`` with several models: what is printed is what the library says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_correlation import noisy
from test_long_tables import study
from test_many_models import models

import probe
from probe.cli import main
from probe.predictions import Predictions

Output = pytest.CaptureFixture[str]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    """Two regimes of 16 models on 5 data sets, the second a little better everywhere."""
    table = noisy()[0].assign(regime="logistic", n=1000)
    tuned = table.assign(regime="tuned", accuracy=probe.inverse_logit(probe.logit(table["accuracy"]) + 0.1))
    pd.concat([table, tuned]).to_csv(tmp_path / "study.csv", index=False)
    return tmp_path / "study.csv"


# ------------------------------------------------------------------------------------------------------- correlate


def test_correlate_prints_what_the_library_finds(csv: Path, capsys: Output) -> None:
    assert main(["correlate", str(csv)]) == 0
    out = capsys.readouterr().out
    table = probe.read_table(csv)
    for regime in ("logistic", "tuned"):
        assert probe.correlate(table, regime=regime)[-1].sentence in out
        assert f"16 models on 5 data sets, {regime}; log odds, 95 % intervals" in out
    assert probe.what_few_models_show(16) in out
    assert "public checkpoints" in out
    assert "logistic against tuned: better in 0 of 80 pairs" in out
    assert "0 of 16       0.905  3e-05   0.00015" in out
    assert out.count("rho others") == 2
    best = probe.average_over_datasets(table, regime="tuned").iloc[0]
    assert f"{best['model']}" in out
    assert f"{best['accuracy']:.3f}    {best['adjusted']:+.3f}" in out


def test_correlate_as_json(csv: Path, capsys: Output) -> None:
    assert main(["correlate", str(csv), "--json", "--regime", "tuned", "--level", "0.9", "--above", "0.7"]) == 0
    value = json.loads(capsys.readouterr().out)
    (part,) = value["regimes"]
    expected = probe.correlate(probe.read_table(csv), regime="tuned", level=0.9, above=0.7)
    assert part["n_models"] == expected[0].n_models < 16
    assert [c["r"] for c in part["correlations"]] == [c.r for c in expected]
    assert part["correlations"][0]["r_interval"] == list(expected[0].r_interval)
    assert len(part["averages"]) == part["n_models"]
    assert value["pairs"] == []
    assert main(["correlate", str(csv), "--json", "--scale", "plain"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["pairs"][0]["datasets"][0]["odds_ratio"] is None


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_correlate_draws_a_panel_per_regime(csv: Path, tmp_path: Path, ending: str) -> None:
    assert main(["correlate", str(csv), "--plot", str(tmp_path / f"f.{ending}")]) == 0
    assert (tmp_path / f"f.{ending}").stat().st_size > 10_000


def test_correlate_with_sources_of_another_file(tmp_path: Path, capsys: Output) -> None:
    study().drop(columns="source").to_csv(tmp_path / "t.csv", index=False)
    study()[["model", "source"]].to_csv(tmp_path / "s.csv", index=False)
    arguments = ["correlate", str(tmp_path / "t.csv"), "--source", str(tmp_path / "s.csv"), "--json"]
    assert main(arguments) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["regimes"][0]["correlations"][0]["r"] == probe.correlate(study())[0].r


def test_correlate_leaves_out_what_is_incomplete(tmp_path: Path, capsys: Output) -> None:
    study().iloc[1:].to_csv(tmp_path / "t.csv", index=False)
    for what, sizes in (("models", (3, 3)), ("datasets", (4, 2))):
        assert main(["correlate", str(tmp_path / "t.csv"), "--leave-out", what, "--json"]) == 0
        part = json.loads(capsys.readouterr().out)["regimes"][0]
        assert (part["n_models"], part["n_datasets"]) == sizes


@pytest.mark.parametrize("m", [1, 2, 3])
def test_correlate_with_almost_no_models_claims_nothing(m: int, tmp_path: Path, capsys: Output) -> None:
    study(m).to_csv(tmp_path / "t.csv", index=False)
    assert main(["correlate", str(tmp_path / "t.csv")]) == 0
    out = capsys.readouterr().out
    assert "by more than chance" not in out
    assert ("nothing can be said" in out) == (m < 3)


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda t: t.assign(accuracy=t["accuracy"] * 100), [], "divide percents by 100"),
        (lambda t: t.drop(columns="source"), [], "column 'source'"),
        (lambda t: t.iloc[1:], [], "1 of 12 results are missing (net0 on set0)"),
        (lambda t: t.assign(accuracy=1.0).drop(columns="n"), [], "exactly 0 or 1"),
        (lambda t: t.iloc[:0], [], "no rows"),
        (lambda t: t[["model"]], [], "lacks the columns dataset, accuracy"),
        (lambda t: t, ["--regime", "x"], "no regime 'x'"),
        (lambda t: t, ["--above", "70"], "accuracies are between 0 and 1"),
        (lambda t: t, ["--level", "2"], "between 0 and 1"),
        (lambda t: t, ["--source", "nowhere.csv"], "'nowhere.csv' cannot be read"),
    ],
)
def test_correlate_refuses_in_one_sentence(
    change: object, more: list[str], message: str, tmp_path: Path, capsys: Output
) -> None:
    change(study()).to_csv(tmp_path / "t.csv", index=False)  # type: ignore[operator]
    assert main(["correlate", str(tmp_path / "t.csv"), *more]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.startswith("probe: error: ")


# --------------------------------------------------------------------------------------------------------- compare


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Predictions of three models on disk."""
    for model in models(2000):
        model.save(tmp_path / f"{model.name}.npz")
    return [str(tmp_path / f"net{i}.npz") for i in range(3)]


def test_compare_prints_the_digits_that_can_be_told_apart(files: list[str], capsys: Output) -> None:
    """2,000 samples: whole per cents, not 0.9015; and how large a difference must be."""
    assert main(["compare", *files[:2]]) == 0
    out = capsys.readouterr().out
    c = probe.compare(*models(2000)[:2])
    assert c.n_digits == 2
    assert f"{c.value_a:.2f}" in out
    assert f"{c.value_a:.3f}" not in out
    assert f"differences below about {c.smallest_detectable:.3f} could not have been told from chance here" in out
    assert "calibration error: net0 0." in out
    assert c.sentence in out


def test_compare_of_three_corrects_for_all_pairs(files: list[str], tmp_path: Path, capsys: Output) -> None:
    assert main(["compare", *files, "--plot", str(tmp_path / "d.png")]) == 0
    out = capsys.readouterr().out
    found = probe.compare_all(models(2000))
    assert probe.comparison_text(found) in out
    assert (tmp_path / "d.png").stat().st_size > 5000
    assert main(["compare", *files, "--json", "--measure", "label_accuracy"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert [v["measure"] for v in values] == ["label_accuracy"] * 3
    assert [v["p_holm"] for v in values] == pytest.approx(probe.holm([v["p_value"] for v in values]))


def test_compare_refuses_average_precision_with_the_alternative(files: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", *files[:2], "--measure", "map11"])
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "ranks all samples by their scores" in err
    assert "label_accuracy" in err


def test_compare_without_scores_and_with_several_labels(tmp_path: Path, capsys: Output) -> None:
    y = (np.arange(60).reshape(20, 3) % 2).astype(int)
    ids = np.arange(20).astype(str)
    Predictions(ids, y, y, name="a").save(tmp_path / "a.npz")
    Predictions(ids, y, 1 - y, name="b").save(tmp_path / "b.npz")
    both = [str(tmp_path / "a.npz"), str(tmp_path / "b.npz")]
    assert main(["compare", *both]) == 1
    assert "3 labels each are not simply right or wrong" in capsys.readouterr().err
    assert main(["compare", *both, "--measure", "label_accuracy"]) == 0
    out = capsys.readouterr().out
    assert "calibration: no scores were kept" in out
    assert "a is ahead of b by 1.00 in label accuracy" in out
