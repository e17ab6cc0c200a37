"""The benchmark of flex-tuning runs at a tiny size; its times mean nothing there, its bound does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_benchmark_runs_and_its_bound_is_the_hand_made_one(tmp_path: Path) -> None:
    """One candidate, one epoch: (F + S) images trained and F seen twice in evaluation, over 2 S and S; F and S from the
    shapes of the seven layers. The peer's loop, written apart, ends with the same accuracies."""
    root = Path(__file__).parents[1]
    options = ["--n-train", "18", "--n-val", "9", "--epochs", "1", "--threads", "1", "--candidates", "conv5"]
    command = [
        sys.executable,
        "benchmarks/bench_flex.py",
        "flex_cifar",
        *options,
        "--json",
        str(tmp_path / "flex.json"),
    ]
    done = subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True)
    assert "counted" in done.stdout
    found = json.loads((tmp_path / "flex.json").read_text())["results"][0]
    assert [row["unit"] for row in found["candidates"]] == ["conv5", "all"]
    assert all(row["same"] for row in found["candidates"])
    assert found["store"]["bytes"] == 27 * 256 * 4 * 4 * 4  # the input of conv5, float32
    convolutions = [(3, 32, 32), (32, 64, 32), (64, 128, 16), (128, 256, 8), (256, 512, 4)]
    work = [2 * 9 * a * b * side**2 for a, b, side in convolutions] + [2 * 2048 * 1024, 2 * 1024 * 9]
    whole, suffix = sum(work), sum(work[4:])
    plain, fed = 18 * (whole + suffix) + 2 * 9 * whole, 18 * 2 * suffix + 2 * 9 * suffix
    both, peer = 18 * 3 * whole + 2 * 9 * whole, 18 * 3 * whole + 2 * 9 * whole
    bounds = {"plain_units_alone": plain / fed, "plain": (plain + both) / (fed + both)}
    bounds |= {"peer_units_alone": peer / fed, "peer": (peer + both) / (fed + both)}
    for name, expected in bounds.items():
        assert found["ratio"][f"bound_{name}"] == pytest.approx(expected, rel=1e-6)
