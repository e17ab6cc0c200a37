"""The one table that statistics and drawings of studies take: a row per result.

Conventions
-----------
A pandas data frame with the columns

``model``, ``dataset``
    Text.
``accuracy``
    Between 0 and 1, whatever the metric; NaN is a result that is missing.
``regime``
    Text, such as "logistic", "fine-tuned", "scratch"; may be left out where there is one.
``seed``
    Optional. Accuracies of one model, data set and regime are averaged over seeds, before any logit; rows that not even the
    seed tells apart are refused.
``n``
    Optional: test samples, at least 1, the same for all results on a data set. Needed where an accuracy is exactly 0 or 1.
``metric``
    Optional text, the same for all results on a data set.
``source``
    Optional: the model's accuracy on the source task (top-1 on ImageNet), between 0 and 1, one per model.
``per_class``
    Training samples per class, of few-shot results (see `probe.few_shot`).

Other columns are ignored. A model that lacks a data set would be averaged over easier or harder ones than the others: such
tables are refused, and `complete` says what to leave out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from probe.chosen import a_mapping, a_name, one_word
from probe.errors import BadInput
from probe.files import as_path
from probe.logits import logit
from probe.reals import reals

if TYPE_CHECKING:
    import pandas

Scale = Literal["logit", "plain"]
"""Log odds, as Kornblith et al.; or scores as they are, as Fang et al."""


@dataclass(frozen=True, eq=False)
class Crossed:
    """Models × data sets of one regime, complete.

    Attributes
    ----------
    models, datasets : tuple of str
        In the order of their first rows.
    accuracy : numpy.ndarray of shape (m, d)
        Means over seeds.
    n : numpy.ndarray of shape (d,)
        Test samples, NaN where unknown.
    metrics : tuple of str
        Per data set; "" where the table does not say.
    """

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    accuracy: np.ndarray
    n: np.ndarray
    metrics: tuple[str, ...]

    def on(self, scale: Scale) -> np.ndarray:
        """Return the values on a scale, (m, d)."""
        one_word(scale, ("logit", "plain"), "scale")
        return logit(self.accuracy, self.n[None, :]) if scale == "logit" else self.accuracy


def crossed(table: pandas.DataFrame, *, regime: str | None = None) -> Crossed:
    """Bring one regime of a long table into models × data sets.

    Parameters
    ----------
    table : pandas.DataFrame
        See the conventions at the top of the module.
    regime : str, optional
        May be left out where the table has one.

    Returns
    -------
    Crossed

    Raises
    ------
    BadInput
        On missing columns, several regimes, missing results, or numbers of samples or metrics that differ on one data set.
    """
    table = of_regime(table, regime)
    _each_once(table)
    means = table.groupby(["model", "dataset"], sort=False)["accuracy"].mean().unstack()
    models, datasets = list(dict.fromkeys(table["model"])), list(dict.fromkeys(table["dataset"]))
    values = means.reindex(index=models, columns=datasets).to_numpy(dtype=float)
    missing = [f"{models[i]} on {datasets[j]}" for i, j in np.argwhere(np.isnan(values))]
    if missing:
        raise BadInput(
            f"{len(missing)} of {values.size} results are missing ({_some(missing)}): models must be compared on the same "
            "data sets. Add them, or leave models or data sets out with probe.complete (--leave-out on the command line)."
        )
    n = _one_each(table, "n", datasets, float("nan"), "so that they are not the same test")
    metrics = _one_each(table, "metric", datasets, "", "which cannot be compared")
    return Crossed(
        tuple(map(str, models)),
        tuple(map(str, datasets)),
        values,
        np.array(n, dtype=np.float64),
        tuple(map(str, metrics)),
    )


def of_regime(table: pandas.DataFrame, regime: str | None) -> pandas.DataFrame:
    """Take the rows of one regime, after checking the columns; ``None`` where there is only one."""
    table = checked(table, ("model", "dataset", "accuracy"))
    regime = None if regime is None else a_name(regime, "regime")
    if "regime" not in table:
        if regime is not None:
            raise BadInput(f"The table has no column 'regime', so that '{regime}' cannot be found in it.")
        return table
    there = list(dict.fromkeys(map(str, table["regime"])))
    if regime is None:
        if len(there) > 1:
            raise BadInput(f"The table has {len(there)} regimes ({_some(there)}): say which one, with regime=.")
        return table
    if regime not in there:
        raise BadInput(f"The table has no regime '{regime}'; there are {_some(there)}.")
    return table[table["regime"].astype(str) == regime]


def _each_once(table: pandas.DataFrame) -> None:
    cell = ["model", "dataset", *(["seed"] if "seed" in table else [])]
    there = table[table["accuracy"].notna()]
    again = there[there.duplicated(cell)]
    if len(again):
        first = again.iloc[0]
        seed = f", seed {first['seed']}" if "seed" in table else ""
        raise BadInput(
            f"The table has several accuracies of {first['model']} on {first['dataset']}{seed}: keep one of them, or tell them "
            "apart by a column 'seed', over which accuracies are averaged."
        )


def need_table(table: Any) -> None:
    """Refuse what is no data frame.

    Raises
    ------
    BadInput
    """
    if not hasattr(table, "columns") or not hasattr(table, "groupby"):
        raise BadInput(
            f"A pandas data frame is needed, a row per result, not {type(table).__name__}; probe.read_table reads a CSV file."
        )


def checked(table: pandas.DataFrame, columns: Sequence[str]) -> pandas.DataFrame:
    """Check that a table has rows, the columns that are needed, and accuracies that are proportions."""
    need_table(table)
    missing = [column for column in columns if column not in table]
    if missing:
        known = _some([str(column) for column in table.columns], 12) or "none"
        raise BadInput(f"The table lacks the columns {', '.join(missing)}; it has {known}. See probe.long_tables.")
    if not len(table):
        raise BadInput("There is nothing to analyse: the table has no rows.")
    for column in ("accuracy", "source"):
        if column in columns or column in table:
            values = _numbers(table[column], column)
            if (np.abs(values[~np.isnan(values)]) > 1).any():
                worst = float(values[np.abs(values) > 1][0])
                raise BadInput(f"{column} is {worst:g} but must be between 0 and 1: divide percents by 100.")
    if "n" in table and (_numbers(table["n"], "n") < 1).any():
        raise BadInput(f"n is {table['n'].min():g} but counts test samples, of which there is at least 1.")
    return table


def source_of(table: pandas.DataFrame, models: Iterable[str], source: Mapping[str, float] | None) -> np.ndarray:
    """Accuracy on the source task per model, (m,), from a mapping or from the table's column.

    Raises
    ------
    BadInput
        Where a model has none, or several.
    """
    models = list(models)
    if source is None:
        if "source" not in table:
            raise BadInput(
                "Accuracies on the source task are needed: pass source={model: accuracy}, or give the table a column "
                "'source'."
            )
        source = dict(
            zip(models, _one_each(table, "source", models, float("nan"), "but it has one", "model"), strict=True)
        )
    given = a_mapping(source, "source", "{model: accuracy}")
    source = {name: reals(given[name], f"source of '{name}'", ndim=0).item() for name in models if name in given}
    missing = [name for name in models if name not in source or not np.isfinite(source[name])]
    if missing:
        raise BadInput(
            f"{len(missing)} of {len(models)} models have no accuracy on the source task ({_some(missing)})."
        )
    values = np.array([source[name] for name in models], dtype=np.float64)
    if (values > 1).any() or (values < 0).any():
        worst = float(values[(values > 1) | (values < 0)][0])
        raise BadInput(
            f"An accuracy on the source task is {worst:g} but must be between 0 and 1: divide percents by 100."
        )
    return values


def complete(table: pandas.DataFrame, keep: Literal["models", "datasets"] = "datasets") -> pandas.DataFrame:
    """Leave out what is incomplete, in any regime.

    Parameters
    ----------
    table : pandas.DataFrame
    keep : {"models", "datasets"}
        What is kept whole: "datasets" leaves out models that lack a data set, "models" data sets that a model lacks.

    Returns
    -------
    pandas.DataFrame
        Rows of the table, possibly none.
    """
    one_word(keep, ("models", "datasets"), "keep")
    table = checked(table, ("model", "dataset", "accuracy"))
    table = table[table["accuracy"].notna()]
    what, other = ("model", "dataset") if keep == "datasets" else ("dataset", "model")
    cell = [other, "regime"] if "regime" in table else [other]
    wanted = len(table.drop_duplicates(cell))
    there = table.drop_duplicates([what, *cell]).groupby(what).size()
    return table[table[what].map(there) == wanted]


def long_table(
    results: pandas.DataFrame, *, regime: str = "logistic", source: Mapping[str, float] | None = None
) -> pandas.DataFrame:
    """Turn the table of a sweep into a long one.

    Parameters
    ----------
    results : pandas.DataFrame
        As `probe.results.table` makes it, one unit per backbone (choose it first).
    regime : str
    source : mapping of str to float, optional
        Accuracy on the source task by backbone.

    Returns
    -------
    pandas.DataFrame
        Columns model, dataset, regime, seed, per_class, metric, accuracy, n, n_train, unit, and source where given.
    """
    import pandas

    checked(results, ("backbone", "unit", "test", "test_score", "n_test"))
    a_name(regime, "regime")
    several = results.groupby("backbone")["unit"].nunique()
    if (several > 1).any():
        raise BadInput(
            f"'{several.idxmax()}' has results of {several.max()} units: keep one row per backbone and data set, for "
            "example table[table['unit'] == 'penultimate']."
        )
    names = {"backbone": "model", "test": "dataset", "test_score": "accuracy", "n_test": "n"}
    kept = ["seed", "per_class", "metric", "n_train", "unit"]
    long = results.rename(columns=names)[[*names.values(), *(c for c in kept if c in results)]].assign(regime=regime)
    if source is not None:
        long = long.assign(source=source_of(long, long["model"], source))
    return pandas.DataFrame(long)


def read_table(path: str | Path) -> pandas.DataFrame:
    """Read a long table from a CSV file.

    Raises
    ------
    BadInput
        Where there is no such file, it is no CSV, or a column of numbers holds something else.
    """
    import pandas

    try:
        table = pandas.read_csv(
            as_path(path, "The table"), dtype={"model": str, "dataset": str, "regime": str, "metric": str}
        )
    except OSError as error:
        raise BadInput(f"The table '{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, pandas.errors.ParserError) as error:
        raise BadInput(f"'{path}' is not a table in CSV: {str(error).strip()}.") from error
    for column in ("accuracy", "n", "source", "per_class", "step", "epoch"):
        if column in table:
            _numbers(table[column], column)
    return table


def _numbers(column: pandas.Series, name: str) -> np.ndarray:
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise BadInput(f"The column '{name}' must hold numbers: {error}.") from error


def _one_each(
    table: pandas.DataFrame, column: str, names: Sequence[str], absent: Any, why: str, of: str = "dataset"
) -> list[Any]:
    """The one value of a column per data set (or model), which must not have two."""
    if column not in table:
        return [absent] * len(names)
    found = table[[of, column]].dropna().drop_duplicates().groupby(of, sort=False)[column].agg(list)
    for name, values in found.items():
        if len(values) > 1:
            shown = " and ".join(f"{v:,g}" if isinstance(v, float | int) else str(v) for v in values[:2])
            raise BadInput(f"The results of {of} '{name}' say that {column} is {shown}, {why}.")
    return [found[name][0] if name in found.index else absent for name in names]


def _some(names: Sequence[str], most: int = 4) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
