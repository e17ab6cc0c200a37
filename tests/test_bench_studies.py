"""The papers' studies as dry runs, of the sizes that the papers have, and their tiny versions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import finetune
from benchmarks import fang2023, kornblith2019, small_study
from finetune.study import recipes_of


def test_the_studies_are_as_large_as_the_papers() -> None:
    """16 × 12 × 3 and 19 × 6; the parts named by the issue are all there."""
    whole = kornblith2019.studies()
    assert set(whole) == {"main", "svm", "augmented", "regularisers", "few_shot", "convergence"}
    assert len(whole["main"].cells) == 16 * 12 * 3
    assert len(whole["svm"].cells) == len(whole["augmented"].cells) == 16 * 12
    assert {cell.seed for cell in whole["few_shot"].cells} == {0, 1, 2}
    steps = [r.options["recipe"]["steps"] for r in whole["convergence"].regimes]
    assert steps[:4] == [78_125, 39_062, 19_531, 9_766]
    other = fang2023.studies()
    assert set(other) == {"main", "augmentation", "clip"}
    assert len(other["main"].cells) == 19 * 6 * 2
    assert len(other["augmentation"].cells) == 5 * 2 * 3


@pytest.mark.parametrize("script", [kornblith2019, fang2023])
def test_every_regime_of_the_papers_can_be_imported(script: object) -> None:
    for study in script.studies().values():  # type: ignore[attr-defined]
        for regime in study.regimes:
            assert callable(regime.resolve()), regime.name


@pytest.mark.parametrize("script", [kornblith2019, fang2023])
def test_every_training_of_the_papers_has_a_recipe(script: object) -> None:
    """Who has the data would otherwise learn after days that a field is misspelt."""
    n = 0
    for study in script.studies().values():  # type: ignore[attr-defined]
        for regime in study.regimes:
            if regime.function.startswith("finetune."):
                n += len(recipes_of(regime.options.get("recipe", {}), regime.options.get("grid")))
    assert n > 100
    with pytest.raises(finetune.BadInput, match="cannot be made"):
        recipes_of({"auxiliary": {"kind": "Auxiliary"}, "lr": 0.1, "steps": 1})


def test_a_dry_run_needs_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kornblith2019.main(["--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "main: 16 networks × 12 data sets, 3 regimes: 576 cells, of which 0 are done and 576 missing" in out
    assert list(tmp_path.iterdir()) == []


def test_tiny(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three networks, two sets, three regimes, correlations and a figure; a second run computes nothing."""
    monkeypatch.chdir(tmp_path)
    assert kornblith2019.main(["--tiny", "--out", "runs"]) == 0
    first = capsys.readouterr()
    assert "digits_net" in first.out
    assert "random_1" in first.out
    assert "blurred" in first.out
    assert (tmp_path / "runs" / "tiny.png").stat().st_size > 5000
    assert kornblith2019.main(["--tiny", "--out", "runs"]) == 0
    second = capsys.readouterr()
    assert second.err.count("there already") == 3 * 2 * 3
    assert second.out == first.out


def test_small_splits_are_disjoint_and_of_all_classes() -> None:
    shared = Path(__file__).resolve().parents[2] / "shared"
    if not (shared / "data").is_dir():
        pytest.skip("the real images are not beside the checkout")
    for dataset in small_study.datasets(shared):
        assert not set(dataset.train.ids) & set(dataset.test.ids), dataset.name
        assert set(dataset.train.labels.tolist()) == set(dataset.test.labels.tolist()), dataset.name
