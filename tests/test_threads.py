"""Threads of the BLAS libraries: as many after fits as before, also where several fits run at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

OVERLAPPING = """
import json, threading
import numpy as np
from threadpoolctl import threadpool_info
import probe
from probe.threads import threads_for

def threads():
    return sorted(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")

probe.fit([[0.0], [1.0]], [0, 1])  # every library is loaded
small, large = np.zeros((10, 10)), np.zeros((3000, 3000))
found = [threads()]
for first, second in ((small, small), (small, large), (large, small)):
    is_in, ends = threading.Event(), threading.Event()
    def work():
        with threads_for(first, 2):
            is_in.set()
            assert ends.wait(10)
    thread = threading.Thread(target=work)
    thread.start()
    assert is_in.wait(10)
    with threads_for(second, 2):
        ends.set()
        thread.join()
    found.append(threads())
with threads_for(small, 2):
    found.append(threads())
try:
    with threads_for(small, 2):
        raise ValueError
except ValueError:
    found.append(threads())
print(json.dumps(found))
"""


def test_fits_that_overlap_leave_the_threads_as_they_were() -> None:
    """The one that began first ends first: the other put back what it had found, and one thread stayed for good."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, "2")}
    command = [sys.executable, "-c", OVERLAPPING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    before, *overlapped, within, after = json.loads(done.stdout)
    assert set(before) == {2}, "this machine has no two threads to tell apart"
    assert overlapped == [before] * 3
    assert set(within) == {1}
    assert after == before
