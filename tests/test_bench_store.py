"""The benchmark of the store runs: a figure nobody can make again is no figure."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_benchmark_runs() -> None:
    root = Path(__file__).parents[1]
    command = [sys.executable, "benchmarks/bench_store.py", "--tiny", "--json"]
    done = subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert len(rows) == 24
    assert all(row["figure"] > 0 and row["best"] > 0 and row["speed"] > 0 for row in rows)
