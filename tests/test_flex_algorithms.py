"""Algorithms 1 to 3 as names and numbers, what feeds what, and what it costs: against brute force and by hand."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune import algorithms
from finetune.cost import Spent, cost_of, table1, training_passes
from finetune.feeding import FLOPS_PER_BYTE, sources_of

NAMES = ("u1", "u2", "u3", "u4")
accuracies = st.sampled_from([0.25, 0.5, 0.75])  # few values, so that ties are common


def brute_force(method: str, a: dict[str, float | None], prox: dict[str, float]) -> tuple[str | None, set[str]]:
    """The algorithms read once more from the paper, by sorting instead of searching: (output, what is trained). What
    diverges is taken from the list and the algorithm begun again."""

    def order(names: list[str], of: dict[str, float]) -> str:
        return sorted(names, key=lambda name: (-of[name], (*NAMES, "all").index(name)))[0]

    if method == "flex":
        good = {name: value for name, value in a.items() if value is not None}
        return (order(list(good), good) if good else None), {*NAMES, "all"}
    if method == "fast" and a["all"] is None:
        return None, {"all"}
    trained = {"all"} if method == "fast" else set()
    listed = list(NAMES)
    while listed:
        best = order(listed, prox)
        trained.add(best)
        value, a_all = a[best], a["all"]
        if value is None:
            listed.remove(best)
        elif method == "fast" and a_all is not None and a_all > value:
            return "all", trained
        else:
            return best, trained
    return ("all" if method == "fast" else None), trained


@settings(suppress_health_check=[HealthCheck.too_slow])  # on a busy machine drawing three small tuples is
@given(
    st.tuples(*[st.none() | accuracies] * 5), st.tuples(*[accuracies] * 4), st.sampled_from(["flex", "fast", "faster"])
)
def test_choices_are_those_of_the_paper(trained: Any, proxies: Any, method: str) -> None:
    """Another output, another tie, or a training too many would make this another algorithm than the paper's; one that
    diverged (None) chosen, or ending the search while others are left, would lose what it found."""
    a = dict(zip((*NAMES, "all"), trained, strict=True))
    prox = dict(zip(NAMES, proxies, strict=True))
    asked: list[str] = []

    def tuned(name: str) -> float | None:
        asked.append(name)
        return a[name]

    def proxy(name: str) -> float:
        assert method != "fast" or "all" in asked, "a proxy needs the units of ft-all"
        return prox[name]

    if method == "flex":
        choice = algorithms.flex(NAMES, tuned)
    elif method == "fast":
        choice = algorithms.fast(NAMES, tuned, proxy)
    else:
        choice = algorithms.by_score(NAMES, tuned, proxy)
    chosen, trains = brute_force(method, a, prox)
    assert choice.chosen == chosen
    assert sorted(asked) == sorted(trains)
    assert choice.tuned == {name: a[name] for name in trains if a[name] is not None}
    if method == "flex":
        assert choice.scores == choice.tuned
    else:
        assert choice.scores == ({} if method == "fast" and a["all"] is None else prox)


def test_a_tie_between_the_unit_and_all_goes_to_the_unit() -> None:
    """Line 10 of Algorithm 2 says ≥."""
    choice = algorithms.fast(("u1",), {"u1": 0.5, "all": 0.5}.__getitem__, lambda name: 0.0)
    assert choice.chosen == "u1"


UNITS = ("a", "b", "c", "d")


@given(
    st.tuples(*[st.floats(1, 1e6)] * 4),
    st.tuples(*[st.floats(1, 1e6)] * 4),
    st.sets(st.sampled_from(UNITS), min_size=1),
)
def test_what_is_stored_is_worth_reading(flops: Any, sizes: Any, firsts: set[str]) -> None:
    """Each input comes from the image or an earlier output; a stored one saves more work than reading it costs, and one
    that is computed again costs less than reading would."""
    work, size = dict(zip(UNITS, flops, strict=True)), dict(zip(UNITS, sizes, strict=True))
    found = sources_of(UNITS, sorted(firsts), work, size)
    assert set(found) == firsts
    stored = [None, *sorted({s for s in found.values() if s is not None})]
    for first, source in found.items():
        start, stop = (UNITS.index(source) + 1 if source else 0), UNITS.index(first)
        assert start <= stop
        again = sum(work[unit] for unit in UNITS[start:stop])
        if start < stop:
            assert again <= FLOPS_PER_BYTE * size[UNITS[stop - 1]] * (1 + 1e-9)
        elif source is not None:
            before = stored[stored.index(source) - 1]
            saved = sum(work[unit] for unit in UNITS[(UNITS.index(before) + 1 if before else 0) : stop])
            assert saved >= FLOPS_PER_BYTE * size[source] * (1 - 1e-9)


@given(st.sets(st.sampled_from(UNITS)), st.tuples(*[st.floats(1, 1e6)] * 4))
def test_what_hands_on_two_tensors_is_never_stored(pairs: set[str], flops: Any) -> None:
    """Where reading costs nothing, each input comes from the nearest earlier output that is a single tensor."""
    found = sources_of(UNITS, UNITS, dict(zip(UNITS, flops, strict=True)), dict.fromkeys(UNITS, 0.0), pairs=pairs)
    single = {unit: [before for before in UNITS[:i] if before not in pairs] for i, unit in enumerate(UNITS)}
    assert found == {unit: before[-1] if before else None for unit, before in single.items()}


def test_table_1_is_the_papers() -> None:
    """Evaluated by hand: 7 · 10 · 2 + 20 · 3 and so on; nothing is made up where a training is missing."""
    assert table1(L=7, E_one=10, c_one=2, E_all=20, c_all=3) == {
        "flex": 200, "fast": 80, "faster": 23, "ft-fc": 20, "ft-all": 60,
    }  # fmt: skip
    known = table1(L=7, E_one=10, c_one=2, E_all=None, c_all=3)
    assert known["faster"] == 23
    assert known["flex"] is known["fast"] is known["ft-all"] is None


def test_the_formula_of_flex_is_what_flex_took() -> None:
    """With E and c as means over the trainings, L·E_one·c_one + E_all·c_all is their total when epochs are equal."""
    units = Spent(1.0, 5.0, 10, 1) + Spent(3.0, 5.0, 20, 1)
    cost = cost_of(2, {"units": units, "all": Spent(4.0, 8.0, 30, 1), "test": Spent(9.0)}, 123)
    assert cost.formulas["flex"] is not None
    assert math.isclose(cost.formulas["flex"], 8.0)
    assert cost.total == Spent(17.0, 18.0, 60, 3)
    assert type(cost).from_json(cost.to_json()) == cost


def test_unit_passes_are_counted_one_by_one() -> None:
    """Against a loop over every image, epoch and unit."""
    n, n_val, epochs, evaluations, forward, backward = 5, 3, 4, 2, 7, 2
    counted = sum(1 for _ in product(range(epochs), range(n), range(forward + backward)))
    counted += sum(1 for _ in product(range(evaluations), range(n_val), range(forward)))
    said = training_passes(
        n_images=n, n_forward=forward, n_backward=backward, epochs=epochs, n_val=n_val, n_evaluations=evaluations
    )
    assert said == counted


@pytest.mark.parametrize("scores", [{"a": 1.0, "b": 1.0}, {"b": 1.0, "a": 1.0}])
def test_ties_go_to_the_first(scores: dict[str, float]) -> None:
    """The order of the table decides, not the names."""
    assert algorithms.first_best(scores) == next(iter(scores))
