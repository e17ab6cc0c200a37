"""How a training is scored: any metric of `probe`, or macro F1 with thresholds that are chosen on val and then kept."""

from __future__ import annotations

import contextlib
import math
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeAlias

import numpy as np

from finetune.errors import BadInput, NotFinite

if TYPE_CHECKING:
    from probe import metrics as probe_metrics

    AnyMetric: TypeAlias = "probe_metrics.Metric | MacroF1AtThresholds"


@dataclass(frozen=True)
class MacroF1AtThresholds:
    """Macro F1 of several labels per image, with one threshold per class chosen on val (Fang et al. 2023, HPA).

    At each evaluation the thresholds are chosen anew on the validation logits; the test split is judged with those of
    the kept weights.

    Parameters
    ----------
    choose : callable or None
        ``(y_val (n, k), logits_val (n, k)) -> thresholds (k,)`` on logits; None is `probe.metrics.thresholds_by_f1`.
    """

    choose: Callable[[Any, Any], np.ndarray] | None = field(default=None)

    @property
    def name(self) -> str:
        """The name in records, with the rule's."""
        own = getattr(self.choose, "name", None) or getattr(self.choose, "__name__", "thresholds_by_f1")
        return f"macro_f1_at_{own}"

    @property
    def higher_is_better(self) -> bool:
        """True."""
        return True


def as_any_metric(metric: Any, *, is_multi_label: bool) -> AnyMetric:
    """A metric in one form; None is accuracy, and 11-point mean average precision for several labels per image.

    Raises
    ------
    BadInput
        A metric, or a rule that chooses thresholds, that has no name of its own: a run is known by it.
    """
    from probe import metrics

    if metric is None:
        return metrics.map11 if is_multi_label else metrics.accuracy
    if isinstance(metric, MacroF1AtThresholds):
        if metric.choose is not None:
            _refuse_nameless(metric.choose, "the rule that chooses thresholds", "a rule of")
        return metric
    if isinstance(metric, metrics.PredictionMetric | metrics.ScoreMetric):
        return metric
    if callable(metric):
        _refuse_nameless(metric, "the metric", "a metric or a PredictionMetric of")
        if isinstance(name := getattr(metric, "name", None), str):
            return metrics.PredictionMetric(name, metric)
    return metrics.as_metric(metric)


def _refuse_nameless(function: Any, what: str, kind: str) -> None:
    """Refuse what another function would be taken for, since runs are told apart by names."""
    if not callable(function):
        raise BadInput(f"{what} is {function!r:.80}, which cannot be called; pass {kind} probe.metrics, or a function.")
    named = getattr(function, "name", None)
    if isinstance(named, str) and named:
        return
    name = getattr(function, "__qualname__", None)
    owner = getattr(function, "__self__", None)  # of a built-in function its module, of a class method the class
    is_bound = owner is not None and not isinstance(owner, type | types.ModuleType)
    if name is None or "<" in name or is_bound:
        raise BadInput(
            f"{what} is {function!r:.120}, which has no name of its own, and a finished run of another would be taken for "
            f"its: pass {kind} probe.metrics, or a function of a module, or give it a name as an attribute."
        )


def metric_named(name: str) -> AnyMetric:
    """A metric by its name on the command line.

    Raises
    ------
    probe.BadInput
        With the nearest known names.
    """
    from probe import metrics

    return MacroF1AtThresholds() if name == "macro_f1_at_thresholds" else metrics.get(name)


@dataclass(frozen=True, eq=False)
class Settled:
    """A metric whose thresholds, if it has any, are chosen.

    Attributes
    ----------
    metric : Metric
        Of `probe`.
    thresholds : ndarray of shape (k,), or None
        On logits.
    """

    metric: probe_metrics.Metric
    thresholds: np.ndarray | None

    def details(self) -> dict[str, list[float | str]]:
        """The thresholds as plain JSON, in which infinity is a text; nothing where there are none."""
        if self.thresholds is None:
            return {}
        values = np.asarray(self.thresholds, np.float64).ravel().tolist()
        return {"thresholds": [value if math.isfinite(value) else str(value) for value in values]}

    def score(self, labels: np.ndarray, logits: np.ndarray) -> float:
        """The metric of ``(n, k)`` logits.

        Raises
        ------
        BadInput
            A metric of the user's own that raises, or gives something else than a number.
        """
        from probe import metrics

        with _own_errors_explained(self.metric.name):
            found = metrics.evaluate(self.metric, labels, logits)
            if np.ndim(found) > 0 or not isinstance(found, SupportsFloat):
                raise TypeError(f"it gave {found!r:.80}, and one number is needed")
            return float(found)

    def predicted(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Predicted labels of the same form as the true ones."""
        from probe import metrics

        if self.thresholds is not None:
            return (logits > self.thresholds).astype(np.uint8)
        said = np.asarray(metrics.predicted_labels(logits, multi_label=labels.ndim == 2))
        return said.astype(np.int64) if labels.ndim == 1 else said


def settled_at(thresholds: Sequence[float | str]) -> Settled:
    """Macro F1 at thresholds that a run has chosen: what `Settled.details` wrote."""
    from probe import metrics

    values = np.array([float(value) for value in thresholds])
    return Settled(metrics.macro_f1_at(values), values)


def settled(metric: AnyMetric, labels: np.ndarray, logits: np.ndarray) -> Settled:
    """A metric with its thresholds chosen on these logits, the validation split's.

    Raises
    ------
    NotFinite
        Logits that are not numbers.
    BadInput
        Thresholds for labels that are neither 0 nor 1.
    """
    from probe import metrics

    if not np.isfinite(logits).all():
        n = int((~np.isfinite(logits)).any(1).sum())
        raise NotFinite(
            f"the logits of {n} of {len(logits)} images are NaN or infinite, which cannot rank weights; lower the "
            "learning rate."
        )
    if isinstance(metric, MacroF1AtThresholds):
        n_difficult = int((labels == metrics.DIFFICULT).sum()) if labels.ndim == 2 else 0
        if n_difficult:
            raise BadInput(
                f"{n_difficult} labels are marked as difficult, and F1 takes every class to be there or not: make them 0 or 1, "
                "or use map11, which leaves them out."
            )
        with _own_errors_explained(metric.name):
            thresholds = np.asarray((metric.choose or metrics.thresholds_by_f1)(labels, logits))
            return Settled(metrics.macro_f1_at(thresholds), thresholds)
    return Settled(metric, None)


def rehearsed(metric: AnyMetric, labels: np.ndarray, n_classes: int) -> str | None:
    """Why a metric cannot score these labels, whatever a network says; None where it can.

    Made-up logits are scored, so that this is found before a training and not at its first evaluation.

    Parameters
    ----------
    metric : Metric or MacroF1AtThresholds
        Asked for.
    labels : ndarray of shape (n,) or (n, k)
        Of val or test.
    n_classes : int
        k.
    """
    from probe import ProbeError

    logits = np.random.default_rng(0).standard_normal((len(labels), n_classes), dtype=np.float32)
    try:
        found = settled(metric, labels, logits).score(labels, logits)
    except (BadInput, ProbeError) as error:
        return str(error)
    return None if math.isfinite(found) else f"metric {metric.name} is {found} of made-up logits, which ranks nothing."


@contextlib.contextmanager
def _own_errors_explained(name: str) -> Iterator[None]:
    """Say of what a user's own function raises that it was the metric; our own errors say so themselves."""
    from probe import ProbeError

    try:
        yield
    except (ProbeError, MemoryError):
        raise
    except Exception as error:
        raise BadInput(
            f"metric {name} cannot score these images: {type(error).__name__}: {error}. It is called with labels and "
            "predictions (n,) or (n, k) and gives one number."
        ) from error
