"""Recipes: checks reported together, learning rates against closed forms and torch's own schedulers, the papers'
values, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import BadInput, CorruptRun
from finetune.keeping import KeepBest, KeepLast, StopEarly
from finetune.optimizers import SGD, Adam, AdamW
from finetune.recipe import Recipe
from finetune.schedules import Constant, Cosine, EpochShare, StepDecay


def test_all_problems_of_a_recipe_come_in_one_error() -> None:
    """If only the first problem were reported, a user would run once for each."""
    with pytest.raises(BadInput) as caught:
        Recipe(
            lr=-0.1,
            steps=0,
            batch_size=0,
            weight_decay=math.nan,
            label_smoothing=1.0,
            optimizer=SGD(momentum=1.5),
            seed=-1,
        )
    message = str(caught.value)
    parts = ["7 problems", "lr is -0.1", "steps is 0", "batch_size is 0", "weight_decay is nan"]
    for part in [*parts, "label_smoothing is 1.0", "momentum is 1.5", "seed is -1"]:
        assert part in message


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({}, "neither steps nor epochs"),
        ({"steps": 10, "epochs": 2}, "steps is 10 and epochs is 2"),
        ({"steps": 1.5}, "steps is 1.5; it must be an int"),
        ({"steps": True}, "steps is True"),
        ({"steps": 10, "lr": "0.1"}, "lr is '0.1'"),
        ({"steps": 10, "optimizer": SGD(momentum=0.0)}, "Nesterov"),
        ({"steps": 10, "optimizer": Adam(betas=(1.0, 0.9))}, "betas"),
        ({"steps": 10, "optimizer": AdamW(eps=0.0)}, "eps"),
        ({"steps": 10, "schedule": StepDecay((20, 10))}, "at_epochs"),
        ({"steps": 10, "schedule": StepDecay((20,), by=2.0)}, "by is 2.0"),
        ({"steps": 10, "keep": StopEarly(drop=-1.0)}, "drop is -1.0"),
        ({"steps": 10, "bn_momentum": 0.0}, "bn_momentum is 0.0"),
        ({"steps": 10, "bn_momentum": EpochShare(share=0.0)}, "share is 0.0"),
    ],
)
def test_each_bad_value_is_named(fields: dict[str, Any], part: str) -> None:
    """A message that does not name the field and its value cannot be acted on."""
    with pytest.raises(BadInput) as caught:
        Recipe(**{"lr": 0.1, **fields})
    assert part in str(caught.value)


def test_what_only_the_data_can_show_is_reported_together_too() -> None:
    """Warm-up longer than the training, and best-on-val without val, are known only with the data."""
    recipe = Recipe(lr=0.1, epochs=2, batch_size=10, warmup_steps=20, keep=KeepBest())
    assert len(recipe.problems_with(100, has_val=False)) == 2
    assert recipe.problems_with(101, has_val=True) == []  # 11 steps an epoch: the training has 22


def test_epochs_count_the_last_smaller_batch() -> None:
    """10 samples in batches of 4 are 3 steps; with floor division two samples would never be trained on."""
    recipe = Recipe(lr=0.1, epochs=5, batch_size=4)
    assert recipe.steps_per_epoch(10) == 3
    assert recipe.n_steps(10) == 15


@given(n_steps=st.integers(2, 300), warmup=st.integers(0, 50), seed=st.integers(0, 10))
@settings(max_examples=30, deadline=None)
def test_cosine_and_warmup_are_the_closed_form(n_steps: int, warmup: int, seed: int) -> None:
    """Warm-up reaches lr exactly on its last step, cosine starts there and its next value would be 0 after the last."""
    warmup = min(warmup, n_steps - 1)
    recipe = Recipe(lr=0.3, steps=n_steps, batch_size=8, warmup_steps=warmup, seed=seed)
    rates = [recipe.lr_at(t, n_train=64) for t in range(n_steps + 1)]
    for t in range(warmup):
        assert math.isclose(rates[t], 0.3 * (t + 1) / warmup)
    assert rates[warmup] == 0.3
    assert abs(rates[n_steps]) < 1e-15
    assert all(a > b for a, b in zip(rates[warmup:], rates[warmup + 1 :], strict=False))


@pytest.mark.parametrize("schedule", [Cosine(), Cosine(per_epoch=True), StepDecay((2, 3)), Constant()])
def test_schedules_equal_torchs(schedule: Cosine | StepDecay | Constant) -> None:
    """Torch's schedulers are the independent truth; theirs are recursive, so equal up to rounding."""
    import torch

    per_epoch, epochs = 5, 4
    recipe = Recipe(lr=0.2, epochs=epochs, batch_size=2, schedule=schedule)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    if isinstance(schedule, Cosine):
        length = epochs if schedule.per_epoch else epochs * per_epoch
        truth: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length)
    elif isinstance(schedule, StepDecay):
        truth = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(schedule.at_epochs), gamma=schedule.by)
    else:
        truth = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    by_step = schedule in (Cosine(), Constant())
    for step in range(epochs * per_epoch):
        assert math.isclose(
            recipe.lr_at(step, n_train=10), optimizer.param_groups[0]["lr"], rel_tol=1e-9, abs_tol=1e-15
        )
        optimizer.step()
        if by_step or (step + 1) % per_epoch == 0:
            truth.step()


def test_kornblith_recipe_is_the_paper() -> None:
    """20,000 steps of 256, Nesterov 0.9, cosine; the grid's decay is the product of learning rate and weight decay."""
    recipe = Recipe.kornblith2019(lr=0.01, decay=1e-5)
    assert (recipe.steps, recipe.batch_size, recipe.optimizer, recipe.schedule) == (
        20_000,
        256,
        SGD(0.9, True),
        Cosine(),
    )
    assert math.isclose(recipe.weight_decay * recipe.lr, 1e-5)
    assert recipe.keep == KeepLast()
    # protocols A1.4, TensorFlow's convention max(1 - 10/s, 0.9): 0.9 below 100 steps an epoch, 0.966 for Food-101's 296
    assert isinstance(recipe.bn_momentum, EpochShare)
    assert 1 - recipe.bn_momentum.momentum(50) == 0.9
    assert abs(1 - recipe.bn_momentum.momentum(296) - 0.966) < 5e-4


def test_fang_recipe_is_the_authors_code() -> None:
    """Their code divides the decay by lr for AdamW only; 30 epochs pretrained, 50 from scratch, batch 128, best
    epoch."""
    sgd = Recipe.fang2023(lr=0.01, decay=1e-4)
    adamw = Recipe.fang2023(lr=0.01, decay=1e-4, optimizer=AdamW(), pretrained=False)
    assert (sgd.epochs, sgd.batch_size, sgd.keep, sgd.weight_decay) == (30, 128, KeepBest(), 1e-4)
    assert (adamw.epochs, adamw.optimizer) == (50, AdamW())
    assert math.isclose(adamw.weight_decay, 1e-2)
    assert sgd.schedule == Cosine(per_epoch=True)


def test_royer_recipe_is_the_authors_code() -> None:
    """Batch, epochs, evaluation step, drop and least steps of the authors' code, the paper's learning rates."""
    mnist = Recipe.royer2020("mnist", ratio=0.01)
    assert (mnist.lr, mnist.batch_size, mnist.epochs, mnist.evaluate_every) == (1e-3, 32, 500, 50)
    assert mnist.keep == StopEarly(drop=0.0025, min_steps=250)
    assert mnist.optimizer == Adam()
    pacs = Recipe.royer2020("pacs", ratio=1, keep=StopEarly(drop=0.025, min_steps=800, restore_best=False))
    assert (pacs.lr, pacs.batch_size, pacs.epochs, pacs.evaluate_every) == (1e-4, 8, 150, 800)
    assert not pacs.keep.keeps_best
    with pytest.raises(BadInput, match=r"ratio 0\.5 of mnist; it has 0\.001, 0\.01, 0\.1, 1"):
        Recipe.royer2020("mnist", ratio=0.5)
    with pytest.raises(BadInput, match="'svhn'"):
        Recipe.royer2020("svhn", ratio=0.5)


def test_a_papers_length_is_replaced_by_one_in_the_other_unit() -> None:
    """Without that, kornblith2019(epochs=3) would be a recipe with two lengths, which is refused."""
    recipe = Recipe.kornblith2019(lr=0.01, decay=0.0, epochs=3)
    assert (recipe.steps, recipe.epochs) == (None, 3)


def test_early_stop_compares_with_the_evaluation_before() -> None:
    """The authors compare with the previous evaluation, not the best, and take no score before min_steps."""
    rule = StopEarly(drop=0.1, min_steps=20)
    assert not rule.stops([(10, 0.9), (20, 0.5)])
    assert not rule.stops([(20, 0.9), (30, 0.85), (40, 0.79)])  # 0.11 below the best, 0.06 below the one before
    assert rule.stops([(20, 0.9), (30, 0.79)])


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(lr=0.1, steps=5),
        Recipe.kornblith2019(lr=0.1, decay=1e-6),
        Recipe.fang2023(lr=0.1, decay=1e-6, optimizer=AdamW(betas=(0.8, 0.9)), schedule=StepDecay((15, 20, 25))),
        Recipe.royer2020("pacs", ratio=0.1),
    ],
)
def test_json_gives_an_equal_recipe_back(recipe: Recipe) -> None:
    """A stored run must know the recipe it was made with exactly; JSON turns tuples into lists and loses types."""
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_json_of_another_version_is_refused() -> None:
    """An unknown field or kind that were dropped silently would be another recipe under the same name."""
    stored = Recipe(lr=0.1, steps=5).to_json()
    with pytest.raises(CorruptRun, match="mixup"):
        Recipe.from_json({**stored, "mixup": 0.2})
    with pytest.raises(CorruptRun, match="Lion"):
        Recipe.from_json({**stored, "optimizer": {"kind": "Lion"}})


def test_a_recipe_is_frozen() -> None:
    """A recipe changed after the run began would be stored with values that were not used."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe(lr=0.1, steps=5).lr = 0.2  # type: ignore[misc]
