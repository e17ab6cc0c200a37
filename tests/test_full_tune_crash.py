"""A whole network trained with augmentation, killed in the middle: the same call ends with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import featstore
import finetune
from finetune import AdamW, Augmentation, KeepBest, Recipe
from finetune.files import read_tensors

RECIPE = Recipe(
    lr=2e-3, epochs=8, batch_size=32, optimizer=AdamW(), weight_decay=1e-2, keep=KeepBest(), label_smoothing=0.1,
    augmentation=Augmentation((0.5, 1.0), policy="rand-m9-mstd0.5-inc1"), dropout=0.3,
)  # fmt: skip

PROGRAM = """
import functools, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
import test_full_tune_crash as t
from finetune import loop, task
from finetune.checkpoint import Checkpoint
save = Checkpoint.save
def said(self, position, *rest):
    save(self, position, *rest)
    print(position.step, flush=True)
Checkpoint.save = said
task.train_loop = functools.partial(loop.train, checkpoint_every_s=0.0)
t.trained(t.Path(sys.argv[2]), workers=2)
"""


def trained(out: Path, **options: Any) -> finetune.Run:
    """Fine-tune the bundled network on inverted digits; dropout, augmentation and momentum all have a state."""
    backbone = featstore.load_backbone("featstore:digits_net")
    train, val = featstore.load_split("digits:train+invert()").holdout(0.3)
    return finetune.full_tune(backbone, train, val, recipe=RECIPE, out=out, progress=False, **options)


def killed(out: Path, least: int) -> None:
    """Start the training in a process of its own, which writes a checkpoint after every step; kill it after some."""
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < least:
            pass
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


def test_killed_twice_and_resumed_is_the_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 early and late, then the same call with another number of threads for the images: weights, best and
    last, history and predictions of a process that was never disturbed."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = trained(tmp_path / "whole", workers=0)
        out, steps = tmp_path / "killed", []
        for least in (5, 30):
            killed(out, least)
            steps.append(read_tensors(out / "checkpoint.safetensors")[1]["position"]["step"])
        assert 5 <= steps[0] < 30 <= steps[1] < whole.history[-1].step == 64
        with pytest.raises(finetune.BadInput, match="not finished"):
            finetune.open_run(out)
        resumed = trained(out, workers=3)
    finally:
        torch.set_num_threads(n)
    for which in ("best", "last"):
        a, b = whole.weights(which), resumed.weights(which)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert [replace(row, seconds=0.0) for row in whole.history] == [
        replace(row, seconds=0.0) for row in resumed.history
    ]
    assert (whole.predictions["val"].scores == resumed.predictions["val"].scores).all()
    assert len(resumed.sessions) == 3
    assert not (out / "checkpoint.safetensors").exists()
