"""The benchmark of the path runs at its tiny size, and its table says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_tiny_size(tmp_path: Path) -> None:
    """A benchmark nobody runs rots; its figures at this size mean nothing, its certificates do."""
    script = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_path.py"
    command = [sys.executable, str(script), "--problems", "digits", "--tiny", "--patience", "3", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "bench_path.json").read_text())
    mine, theirs = found["rows"]
    assert (mine["solver"], theirs["solver"]) == ("probe", "scikit-learn, warm")
    assert mine["n_certified"] == mine["n_values"] == 12
    assert mine["worst_gap"] <= 1e-4
    assert "12/12 at 1e-4" in done.stdout
    assert (tmp_path / "bench_path.png").stat().st_size > 10_000
