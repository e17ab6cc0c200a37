"""The long table at the door of all statistics: what is refused, and in which words; the logit scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probe
from probe.errors import BadInput
from probe.logits import inverse_logit, logit
from probe.long_tables import crossed, source_of


def study(m: int = 4, d: int = 3, regimes: tuple[str, ...] = ("logistic",), seeds: int = 1) -> pd.DataFrame:
    """Model i on data set j: 0.5 + i/20 + j/50, a little more in later regimes and seeds."""
    return pd.DataFrame(
        [
            {"model": f"net{i}", "dataset": f"set{j}", "regime": r, "seed": s, "n": 100 * (j + 1), "metric": "accuracy"}
            | {"accuracy": 0.5 + i / 20 + j / 50 + k / 100 + s / 1000, "source": 0.6 + i / 20}
            for i in range(m)
            for j in range(d)
            for k, r in enumerate(regimes)
            for s in range(seeds)
        ]
    )


def test_logit_is_scipys_and_its_inverse_its_inverse() -> None:
    from scipy.special import expit
    from scipy.special import logit as scipys

    p = np.concatenate([np.linspace(0.001, 0.999, 77), [1e-300, 1 - 1e-16]])
    assert logit(p) == pytest.approx(scipys(p), rel=1e-12, abs=1e-12)
    x = np.array([-800.0, -30, -1e-9, 0, 2, 40, 800])
    assert inverse_logit(x) == pytest.approx(expit(x), rel=1e-12)
    assert inverse_logit(logit(p)) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("n", [1, 2, 17, 10_000])
def test_all_and_none_right_are_half_an_answer_from_the_limit(n: int) -> None:
    """Odds of 2 n + 1, whatever is between stays as it is, and more right answers stay more."""
    counts = np.arange(n + 1)
    x = logit(counts / n, n)
    assert np.exp(x[-1]) == pytest.approx(2 * n + 1)
    assert x[0] == pytest.approx(-x[-1])
    assert (np.diff(x) > 0).all()
    assert x[1:-1] == pytest.approx(logit(counts[1:-1] / n))


def test_logit_refuses_what_has_none() -> None:
    with pytest.raises(BadInput, match=r"1 of 2 accuracies are exactly 0 or 1.*say of how many"):
        logit([0.5, 1.0])
    with pytest.raises(BadInput, match="exactly 0 or 1"):
        logit([0.0, 0.5], [np.nan, 10])
    with pytest.raises(BadInput, match=r"first: 76\.1.*divide percents by 100"):
        logit([76.1])
    with pytest.raises(BadInput, match="scale='plain'"):
        logit([-0.1])
    with pytest.raises(BadInput, match="at least one sample"):
        logit([1.0], 0)


def test_crossed_averages_seeds_and_keeps_the_order_of_the_table() -> None:
    table = study(seeds=3).sample(frac=1, random_state=1)
    data = crossed(table)
    for i, model in enumerate(data.models):
        for j, dataset in enumerate(data.datasets):
            cell = table[(table["model"] == model) & (table["dataset"] == dataset)]
            assert data.accuracy[i, j] == pytest.approx(cell["accuracy"].mean())
            assert data.n[j] == cell["n"].iloc[0]
    assert data.models == tuple(dict.fromkeys(table["model"]))
    assert data.on("logit") == pytest.approx(np.log(data.accuracy / (1 - data.accuracy)))
    assert data.on("plain") is data.accuracy


def test_what_a_table_must_not_be() -> None:
    good = study()
    cases = [
        (good.drop(columns="accuracy"), r"lacks the columns accuracy; it has model, dataset"),
        (good.iloc[:0], "no rows"),
        (good.assign(accuracy=good["accuracy"] * 100), "accuracy is 50 but must be between 0 and 1"),
        (good.assign(accuracy="high"), "'accuracy' must hold numbers"),
        (good.iloc[1:], r"1 of 12 results are missing \(net0 on set0\).*probe.complete"),
        (good.assign(accuracy=good["accuracy"].where(good.index != 5)), r"missing \(net1 on set2\)"),
        (study(regimes=("a", "b")), r"2 regimes \(a, b\): say which one"),
        (good.assign(n=range(12)), "'set0' say that n is 0 and 3, so that they are not the same test"),
        (good.assign(metric=["a", "b"] * 6), "metric is a and b"),
    ]
    for table, message in cases:
        with pytest.raises(BadInput, match=message):
            crossed(table)
    with pytest.raises(BadInput, match="no regime 'c'; there are a, b"):
        crossed(study(regimes=("a", "b")), regime="c")
    with pytest.raises(BadInput, match="no column 'regime'"):
        crossed(good.drop(columns="regime"), regime="a")
    with pytest.raises(BadInput, match="scale is 'log'"):
        crossed(good).on("log")  # type: ignore[arg-type]


def test_complete_leaves_out_models_or_data_sets() -> None:
    table = study(regimes=("a", "b"))
    holed = table[~((table["model"] == "net2") & (table["dataset"] == "set1") & (table["regime"] == "b"))]
    assert set(probe.complete(holed)["model"]) == {"net0", "net1", "net3"}
    assert set(probe.complete(holed, keep="models")["dataset"]) == {"set0", "set2"}
    assert set(probe.complete(holed, keep="models")["model"]) == {f"net{i}" for i in range(4)}
    assert len(probe.complete(table)) == len(table)
    for keep in ("datasets", "models"):
        crossed(probe.complete(holed, keep=keep), regime="b")  # type: ignore[arg-type]


def test_source_accuracies_come_from_the_column_or_a_mapping() -> None:
    table = study()
    models = ["net0", "net3"]
    assert source_of(table, models, None) == pytest.approx([0.6, 0.75])
    assert source_of(table, models, {"net0": 0.1, "net3": 0.2}) == pytest.approx([0.1, 0.2])
    with pytest.raises(BadInput, match=r"1 of 2 models have no accuracy on the source task \(net3\)"):
        source_of(table, models, {"net0": 0.1})
    with pytest.raises(BadInput, match="76 but must be between 0 and 1"):
        source_of(table, models, {"net0": 0.1, "net3": 76})
    with pytest.raises(BadInput, match="'net0' say that source is"):
        source_of(table.assign(source=np.linspace(0.1, 0.9, 12)), models, None)
    with pytest.raises(BadInput, match="pass source="):
        source_of(table.drop(columns="source"), models, None)


def test_long_table_of_a_sweep() -> None:
    results = pd.DataFrame(
        {"backbone": ["a", "b"], "unit": ["penultimate"] * 2, "test": ["cars"] * 2, "test_score": [0.5, 0.6]}
        | {"n_test": [10, 10], "seed": [0, 0], "metric": ["accuracy"] * 2, "C": [1.0, 2.0]}
    )
    long = probe.long_table(results, source={"a": 0.7, "b": 0.8})
    assert long.to_dict("records")[1] == {
        "model": "b", "dataset": "cars", "accuracy": 0.6, "n": 10, "seed": 0, "metric": "accuracy", "unit": "penultimate",
        "regime": "logistic", "source": 0.8,
    }  # fmt: skip
    crossed(long)
    with pytest.raises(BadInput, match="'a' has results of 2 units"):
        probe.long_table(results.assign(backbone="a", unit=["x", "y"]))


def test_read_table(tmp_path: Path) -> None:
    study().to_csv(tmp_path / "t.csv", index=False)
    assert crossed(probe.read_table(tmp_path / "t.csv")).accuracy == pytest.approx(crossed(study()).accuracy)
    (tmp_path / "names.csv").write_text("model,dataset,accuracy\n001,1,0.5\n")
    assert probe.read_table(tmp_path / "names.csv")["model"][0] == "001"
    (tmp_path / "bad.csv").write_text("model,dataset,accuracy\na,b,good\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    for name, message in [
        ("bad.csv", "'accuracy' must hold numbers"),
        ("empty.csv", "not a table in CSV"),
        ("binary.csv", "not a table in CSV"),
        ("nowhere.csv", "cannot be read: No such file"),
    ]:
        with pytest.raises(BadInput, match=message):
            probe.read_table(tmp_path / name)
