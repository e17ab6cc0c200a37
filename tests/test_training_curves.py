"""Convergence, few-shot and t-SNE: against closed forms, SciPy, and clouds whose neighbours are known."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import probe
from probe.convergence import first_at
from probe.errors import BadInput

STEPS = np.array([0, *2 ** np.arange(14)])


def history(halfway: dict[tuple[str, str], float], best: float = 0.95) -> pd.DataFrame:
    """Odds that grow as M t / (t + h): half of the best at step h, 90 % at 9 h."""
    odds = best / (1 - best)
    return pd.DataFrame(
        [
            {"dataset": d, "regime": r, "step": t, "epoch": t / 32, "accuracy": o / (1 + o)}
            for (d, r), h in halfway.items()
            for t in STEPS
            if (o := 0.01 + odds * t / (t + h)) is not None
        ]
    )


# ------------------------------------------------------------------------------------------------------- convergence


def test_ninety_per_cent_of_the_odds_not_of_the_accuracy() -> None:
    """Best odds 9: the threshold is 8.1, an accuracy of 0.8901, not 0.81."""
    accuracy = np.array([0.5, 0.85, 0.889, 0.8902, 0.9, 0.87])
    assert first_at(accuracy) == 3
    assert first_at(accuracy, share=1.0) == 4
    assert first_at(np.array([0.2, 1.0, 1.0]), n=100) == 1
    assert first_at(np.array([0.5])) == 0
    with pytest.raises(BadInput, match="share is 0 but"):
        first_at(accuracy, share=0)
    with pytest.raises(BadInput, match="exactly 0 or 1"):
        first_at(np.array([0.2, 1.0]))


def test_converged_at_the_step_of_the_closed_form() -> None:
    """9 h lies between the step that is found and the one before it (the best is that of the last step, all but 0.1 % of M)."""
    out = probe.converged_at(history({("cars", "tuned"): 3, ("cars", "scratch"): 50, ("dogs", "tuned"): 0.01}))
    assert [tuple(row) for row in out[["dataset", "regime"]].to_numpy()] == [
        ("cars", "tuned"), ("cars", "scratch"), ("dogs", "tuned"),
    ]  # fmt: skip
    for (_, row), h in zip(out.iterrows(), (3, 50, 0.01), strict=True):
        assert row["step_before"] < 9 * h <= row["step"]
        assert row["epoch"] == row["step"] / 32
        assert not row["is_last"]
    assert probe.converged_at(history({("cars", "scratch"): 1e6}))["is_last"][0]


def test_histories_of_runs() -> None:
    """Rows of a run's history, those without a validation score left out."""
    rows = [SimpleNamespace(step=s, epoch=s / 10, val=v) for s, v in ((0, None), (10, 0.5), (20, 0.9))]
    table = probe.history_table(rows, dataset="cars", regime="tuned", n=50)
    assert table.to_dict("list") == {
        "step": [10, 20], "epoch": [1.0, 2.0], "accuracy": [0.5, 0.9], "dataset": ["cars"] * 2, "regime": ["tuned"] * 2,
        "n": [50, 50],
    }  # fmt: skip
    with pytest.raises(BadInput, match="no validation scores"):
        probe.history_table(rows[:1])
    with pytest.raises(BadInput, match=r"cars, tuned has two accuracies at step 10: give a column 'seed'"):
        probe.converged_at(pd.concat([table, table]))


def test_speed_up_is_a_ratio_of_geometric_means() -> None:
    from scipy.stats import ttest_rel

    steps = {"a": (10, 160), "b": (20, 640), "c": (40, 320)}
    rows = [
        {"dataset": d, "regime": r, "step": v, "epoch": v / 5, "is_last": v == 640}
        for d, pair in steps.items()
        for r, v in zip(("tuned", "scratch"), pair, strict=True)
    ]
    found = probe.speed_up(pd.DataFrame(rows).sample(frac=1, random_state=0), "tuned", "scratch")
    assert (found.fast_mean, found.slow_mean) == pytest.approx((20, 320))
    assert found.ratio == pytest.approx(16)
    logs = np.log(np.array(list(steps.values())))
    ends = ttest_rel(logs[:, 1], logs[:, 0]).confidence_interval(0.95)
    assert found.interval == pytest.approx((math.exp(ends.low), math.exp(ends.high)))
    assert found.fast_quartiles == pytest.approx((math.sqrt(200), math.sqrt(800)))
    assert "16 times as long" in found.sentence
    assert "1 training(s) reached it only at the last" in found.sentence
    by_epoch = probe.speed_up(pd.DataFrame(rows), "tuned", "scratch", by="epoch")
    assert (by_epoch.fast_mean, by_epoch.ratio) == pytest.approx((4, 16))


def test_speed_up_refuses_what_cannot_be_paired() -> None:
    table = probe.converged_at(history({("cars", "tuned"): 3, ("cars", "scratch"): 50, ("dogs", "tuned"): 2}))
    with pytest.raises(BadInput, match=r"1 trainings are of one regime only \(dogs\)"):
        probe.speed_up(table, "tuned", "scratch")
    with pytest.raises(BadInput, match="'full' is not in the table; there are tuned, scratch"):
        probe.speed_up(table, "full", "scratch")
    with pytest.raises(BadInput, match="has a step of 0, which has no logarithm"):
        probe.speed_up(table.assign(step=0), "tuned", "scratch")
    with pytest.raises(BadInput, match="by is 'hour'"):
        probe.speed_up(table, "tuned", "scratch", by="hour")
    one = probe.speed_up(table[table["dataset"] == "cars"], "tuned", "scratch")
    assert math.isnan(one.interval.low)
    assert "interval" not in one.sentence


# ---------------------------------------------------------------------------------------------------------- few shot


def shots(
    lines: dict[str, tuple[float, float]], sizes: tuple[int, ...] = (1, 2, 4, 8, 16), noise: float = 0.0
) -> pd.DataFrame:
    """Log odds a + b log2(k) per regime, three subsets."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"dataset": "cars", "regime": r, "per_class": k, "seed": s, "n": 1000}
            | {"accuracy": 1 / (1 + math.exp(-(a + b * math.log2(k) + noise * rng.normal())))}
            for r, (a, b) in lines.items()
            for k in sizes
            for s in range(3)
        ]
    )


def test_means_and_standard_errors_over_subsets() -> None:
    from scipy.stats import sem

    table = shots({"logistic": (0, 0.3)}, noise=0.2)
    out = probe.few_shot_means(table)
    for _, row in out.iterrows():
        values = table[table["per_class"] == row["per_class"]]["accuracy"]
        assert row["accuracy"] == pytest.approx(values.mean())
        assert row["standard_error"] == pytest.approx(sem(values))
        assert row["n_subsets"] == 3
    assert out["per_class"].is_monotonic_increasing
    assert probe.few_shot_means(table[table["seed"] == 0])["standard_error"].isna().all()
    with pytest.raises(BadInput, match="same subset: cars, logistic, 1, 0"):
        probe.few_shot_means(pd.concat([table, table]))
    with pytest.raises(BadInput, match="lacks the columns per_class"):
        probe.few_shot_means(table.drop(columns="per_class"))


def test_lines_cross_where_they_cross() -> None:
    """0.3 log2 k and -1 + 0.8 log2 k meet at log2 k = 2."""
    for sizes, below, above in [((1, 2, 3, 16), 3, 16), ((1, 8), 1, 8), ((1, 4, 16), 1, 16)]:
        out = probe.crossings(shots({"logistic": (0, 0.3), "tuned": (-1, 0.8)}, sizes), "tuned", "logistic")
        assert len(out) == 1
        row = out.iloc[0]
        assert row["per_class"] == pytest.approx(4)
        assert (row["below"], row["above"]) == (below, above)
        assert (row["leader_before"], row["leader_after"]) == ("logistic", "tuned")
        assert row["is_clear"]


def test_crossings_that_are_not_clear_or_not_there() -> None:
    noisy = shots({"logistic": (0, 0.3), "tuned": (-0.02, 0.31)}, noise=0.3)
    assert not probe.crossings(noisy, "logistic", "tuned")["is_clear"].any()
    none = probe.crossings(shots({"logistic": (0, 0.3), "tuned": (1, 0.3)}), "logistic", "tuned")
    assert none.columns[0] == "dataset"
    assert len(none) == 0
    one = shots({"logistic": (0, 0.3), "tuned": (-1, 0.8)})
    assert not probe.crossings(one[one["seed"] == 0], "logistic", "tuned")["is_clear"].any()
    with pytest.raises(BadInput, match="no regime 'full'; there are logistic, tuned"):
        probe.crossings(one, "full", "tuned")


# ------------------------------------------------------------------------------------------------------------- t-SNE


def test_clouds_stay_clouds() -> None:
    """Three clouds in 64 dimensions: every point's nearest neighbour in the plane is of its own class; seeds decide."""
    rng = np.random.default_rng(0)
    y = np.repeat(["cat", "dog", "owl"], 30)
    X = rng.normal(size=(90, 64)) + 6 * rng.normal(size=(3, 64))[np.repeat(range(3), 30)]
    found = probe.tsne(X, y, perplexity=10, seed=1)
    distance = np.linalg.norm(found.points[:, None] - found.points[None], axis=2) + 1e9 * np.eye(90)
    assert (y[distance.argmin(axis=1)] == y).all()
    assert found.library == "scikit-learn"
    assert 0 < found.divergence < 2
    assert (probe.tsne(X, y, perplexity=10, seed=1).points == found.points).all()
    assert found.y is not None
    with pytest.raises(BadInput, match="perplexity is 90 but must be between 0 and the number of rows, 90"):
        probe.tsne(X, perplexity=90)
    with pytest.raises(BadInput, match="90 rows but y has 3"):
        probe.tsne(X, y[:3])


def test_what_is_told_to_cuml(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU here: that cuML is asked where X is on one, in the words of its documented signature, with as many neighbours as
    there are; and that its absence is an error, not another library."""
    import sys
    from types import ModuleType

    told: dict[str, object] = {}

    class TSNE:
        kl_divergence_ = 0.25

        def __init__(self, **options: object) -> None:
            told.update(options)

        def fit_transform(self, X: np.ndarray) -> np.ndarray:
            told["shape"] = X.shape
            return X[:, :2]

    monkeypatch.setattr("probe.embedding.is_on_cpu", lambda X: False)
    X = np.random.default_rng(0).normal(size=(40, 60))
    monkeypatch.setitem(sys.modules, "cuml", None)
    with pytest.raises(probe.MissingExtra, match=r"t-SNE on a GPU.*featprobe\[cuda12\]"):
        probe.tsne(X)
    cuml, manifold = ModuleType("cuml"), ModuleType("cuml.manifold")
    manifold.TSNE = TSNE  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuml", cuml)
    monkeypatch.setitem(sys.modules, "cuml.manifold", manifold)
    found = probe.tsne(X, perplexity=20, seed=3)
    assert told == {"perplexity": 20, "n_neighbors": 39, "random_state": 3, "output_type": "numpy", "shape": (40, 40)}
    assert (found.library, found.divergence) == ("cuML", 0.25)


def test_chosen_classes() -> None:
    X, y = np.arange(20.0).reshape(10, 2), np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    kept, labels = probe.chosen_classes(X, y, [2, 0])
    assert labels.tolist() == [2] * 3 + [0] * 4
    assert kept[:, 0].tolist() == [4, 10, 16, 0, 6, 12, 18]
    few, labels = probe.chosen_classes(X, y, [2, 0], per_class=2, seed=3)
    assert labels.tolist() == [2, 2, 0, 0]
    assert set(few[:2, 0]) <= {4, 10, 16}
    assert (probe.chosen_classes(X, y, [2, 0], per_class=2, seed=3)[0] == few).all()
    with pytest.raises(BadInput, match=r"2 of 2 classes have fewer than 4 rows: 1 \(3\), 9 \(0\)"):
        probe.chosen_classes(X, y, [1, 9], per_class=4)
