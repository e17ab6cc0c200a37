"""The whole path on a GPU: 50,000 × 2,048 features, 100 classes, 45 values, against what else runs there.

    python benchmarks/gpu_path.py --out runs/gpu                             features made up
    python benchmarks/gpu_path.py --features runs/bench/features --out runs/gpu   resampled from those of bench_path.py
    python benchmarks/gpu_path.py --extract --shared ../shared               real ones: 50,000 images through the network
    python benchmarks/gpu_path.py --features runs/bench/features --export base.npz   what --features needs, in one small file
    python benchmarks/gpu_path.py --quick                                    tensors on the CPU: tests that the script runs

Without a CUDA device the table says "not measured", and why; a library that is not installed likewise.

Rows: `probe.fit_path` on CUDA tensors in float32, on float16 features (read and converted on the device), and on cupy arrays;
cuML's LogisticRegression, 45 cold fits, as DINOv2 does it, and its solver ``QN`` from value to value; scikit-learn's L-BFGS on
CUDA tensors, from value to value (its LogisticRegression takes them from version 1.8 or so, with ``array_api_dispatch``; the
row says what an older one answers); torch's own L-BFGS with autograd, from value to value. Rivals are stopped as in
`bench_path.py`, by float64 certificates computed on the device; their seconds do not include these.

Features, by what is at hand:

real            pairs of MNIST digits through MobileNet v1 0.5, the last six blocks side by side: 2,048 columns, 100 classes
resampled       the same of fewer images; a row is ``x_i + t (x_j − x_i)`` with i and j of one class, t uniform in [0, ½], and
                noise of 5 % of each column's standard deviation; the validation rows are real ones that no row is made of
made up         rectified mixtures of 100 classes in 256 dimensions whose spectrum falls like a power law: no real features

Share of the roofline: the products with all rows of X that the path says it made (`Path.reads`), 2 n d k floating-point
operations and one reading of X each, the Gram product in float64 and the rotation of the rows, at the rates that products of
8,192 × 8,192 matrices and a copy reach on this device; over the seconds measured. Products with some of the rows, the
eigendecomposition and elementwise work are not in it, so that it is a lower bound of what the device was made to do.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gpu_features import base_of, extracted, made_up, resampled
from gpu_roofline import peaks, roofline, synchronizer
from path_certificates import BAR, Certifier, certifier, val_accuracy
from path_rivals import Rival, Task, Walked, walk
from path_tables import HEADER, Row, environment, line, row_of, verdict

import probe
from probe.engines import Aim, Answer, Fitter, cuml_walk, fit_cuml_estimator, fit_sklearn
from probe.engines import Problem as Given

SECONDS, COLD = 3.0, 40.0
"""Targets: seconds of our path in float32, and times our seconds for 45 cold fits."""
N, D, K = 50_000, 2_048, 100
NOT_MEASURED = "not measured"


@dataclass(frozen=True, eq=False)
class Setting:
    """Features and labels on the host, the grid, and where to compute."""

    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    C: np.ndarray
    what: str
    device: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows to fit, columns, classes."""
        return int(self.X.shape[0]), int(self.X.shape[1]), len(np.unique(self.y))


def setting(asked: argparse.Namespace, device: str) -> Setting:
    """What is fitted, by what is at hand."""
    if asked.quick:
        return Setting(*made_up(400, 100, 24, 5), probe.C_GRID[::9], "made up, tiny", device)
    if asked.extract:
        return Setting(
            *extracted(asked.shared, asked.features or Path("runs/bench/features"), asked.n, device),
            probe.C_GRID,
            "real",
            device,
        )
    if asked.features is not None:
        X, y = base_of(asked.features)
        return Setting(*resampled(X, y, asked.n), probe.C_GRID, f"resampled from {len(y)} real rows", device)
    return Setting(*made_up(asked.n, asked.n // 5, D, K), probe.C_GRID, "made up, no real features", device)


def fit_torch(problem: Given, aim: Aim, max_iter: int, start: Answer | None = None) -> Answer:
    """One fit by ``torch.optim.LBFGS`` with autograd: what a user of torch would write.

    Parameters and return value as in `probe.engines`.
    """
    import torch

    X = problem.X
    d = int(X.shape[1])
    y = torch.as_tensor(problem.codes, device=X.device)
    origin = Answer(np.zeros((problem.k, d)), np.zeros(problem.k), 0) if start is None else start
    W, b = (torch.tensor(v, dtype=X.dtype, device=X.device, requires_grad=True) for v in (origin.W, origin.b))
    optimiser = torch.optim.LBFGS(
        [W, b], max_iter=max_iter, max_eval=20 * max_iter, tolerance_grad=aim.gradient, tolerance_change=0.0,
        history_size=10, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(X @ W.T + b, y) + 0.5 * aim.l2 / aim.mass * (W * W).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    n_iter = int(optimiser.state[W].get("n_iter", 0))
    host = [v.detach().to("cpu", torch.float64).numpy() for v in (W, b)]
    return Answer(host[0], host[1], n_iter)


def fit_sklearn_on_tensors(problem: Given, aim: Aim, max_iter: int, start: Answer | None = None) -> Answer:
    """scikit-learn's L-BFGS on tensors where they are."""
    import sklearn

    with sklearn.config_context(array_api_dispatch=True):
        return fit_sklearn(problem, aim, max_iter, start)


def ours(name: str, s: Setting, X: Any, certify: Certifier, repeats: int) -> tuple[Row, probe.Path, Walked]:
    """One call on features that are on the device; the median of some, after one that warms up libraries."""
    synchronize = synchronizer(s.device)
    took: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", probe.NotConverged)
        for _ in range(repeats + 1):
            synchronize()
            started = time.perf_counter()
            path = probe.fit_path(X, s.y, s.C)
            synchronize()
            took.append(time.perf_counter() - started)
    coef, intercept = host(path.coef), host(path.intercept)
    accuracy = accuracy_of(s)
    proofs = tuple(certify(float(c), coef[i], intercept[i]) for i, c in enumerate(path.C))
    scores = np.array([accuracy(W, b) for W, b in zip(coef, intercept, strict=True)])
    walked = Walked(float(np.median(took[1:])), path.reads, proofs, scores)
    row = row_of("gpu" if s.device == "cuda" else "quick, on the CPU", name, s.shape, walked, s.C)
    return replace(row, note=f"first call {took[0]:.2f} s"), path, walked


def accuracy_of(s: Setting) -> Callable[[np.ndarray, np.ndarray], float]:
    """Accuracy on the validation rows, computed on the device."""
    import torch

    return val_accuracy(torch.from_numpy(s.X_val).to(s.device), s.y_val, np.unique(s.y))


def host(x: Any) -> np.ndarray:
    """An array of any of the libraries on the host."""
    from probe.arrays import to_numpy

    return to_numpy(x)


def rivals(s: Setting) -> dict[str, tuple[float | None, Callable[[Any, Any], Rival]]]:
    """Who else is asked: name → (target, maker from the features on the device in float32 and float64)."""

    def warm(name: str, fitter: Fitter) -> Callable[[Any, Any], Rival]:
        return lambda single, double: Rival(name, fitter, (single, double), is_warm=True)

    def cuml_cold(single: Any, double: Any) -> Rival:
        importlib.import_module("cuml")
        return Rival("cuML, 45 cold fits", fit_cuml_estimator, (single, double), is_warm=False, resumes=False)

    def cuml_warm(single: Any, double: Any) -> Rival:
        importlib.import_module("cuml")
        return Rival("cuML QN, warm", cuml_walk(), (single,), is_warm=True)

    place = "CUDA" if s.device == "cuda" else "CPU"
    return {
        "cuML, 45 cold fits": (COLD, cuml_cold),
        "cuML QN, warm": (None, cuml_warm),
        f"scikit-learn, {place} tensors": (None, warm(f"scikit-learn, {place} tensors", fit_sklearn_on_tensors)),
        "torch L-BFGS, autograd, warm": (None, warm("torch L-BFGS, autograd, warm", fit_torch)),
    }


def against(s: Setting, rival: Rival, mine: tuple[Row, probe.Path, Walked], target: float | None, task: Task) -> Row:
    """One rival's line."""
    own, _, walked = mine
    theirs = walk(rival, task)
    ratio = theirs.seconds / walked.seconds
    is_bound = bool((theirs.gaps > task.asked).any())
    row = row_of(own.problem, rival.name, s.shape, theirs, s.C)
    n_fitted = sum(proof is not None for proof in theirs.proofs)
    note = "" if n_fitted == len(s.C) else f"reached {n_fitted} of {len(s.C)} values"
    is_certified = own.n_certified == own.n_values
    ruling = "" if target is None else verdict(ratio, target, is_bound=is_bound, is_certified=is_certified)
    return replace(row, ratio=ratio, is_bound=is_bound, target=target, verdict=ruling, note=note)


def measure(s: Setting, asked: argparse.Namespace, found: dict[str, Any], show: Callable[[Row], None]) -> None:
    """Every row, shown as it comes; what else goes into the JSON is put into `found`."""
    import torch

    single = torch.from_numpy(s.X).to(s.device)
    certify = certifier(single, s.y)
    mine = ours("probe, torch, float32", s, single, certify, asked.repeats)
    row, _, walked = mine
    is_fast = row.seconds is not None and row.seconds <= SECONDS and row.n_certified == row.n_values
    ruling = "means nothing" if asked.quick else "pass" if is_fast else "falls short"
    show(replace(row, ratio=row.seconds, target=SECONDS, verdict=ruling, note=f"seconds, at most; {row.note}"))
    peak = peaks(s.device, *s.shape)
    found |= {"peaks": peak, "roofline": roofline(walked.seconds, walked.passes, s.shape, peak)}
    half = single.half()
    others: dict[str, Callable[[], tuple[Any, Certifier]]] = {
        "probe, torch, float16 features": lambda: (half, certifier(half, s.y)),
        "probe, cupy, float32": lambda: (importlib.import_module("cupy").asarray(s.X), certify),
    }
    for name, features in others.items():
        try:
            show(ours(name, s, *features(), asked.repeats)[0])
        except Exception as error:  # no cupy, or no driver for it; and the rows that follow are still worth having
            show(unmeasured(row.problem, name, s.shape, None, why(error)))
    double = single.double()
    for name, (target, make) in rivals(s).items():
        patience = asked.patience or (1.25 * target if target else 20.0)
        task = Task(
            s.y, s.C, np.maximum(walked.gaps, BAR), np.array([p.objective for p in walked.proofs if p is not None]),
            min(patience * walked.seconds, asked.most_s), certify, accuracy_of(s), synchronizer(s.device),
        )  # fmt: skip
        try:
            show(against(s, make(single, double), mine, None if asked.quick else target, task))
        except Exception as error:  # a rival that is absent, or refuses, is a line of the table: it says why
            show(unmeasured(row.problem, name, s.shape, target, why(error)))


def why(error: Exception) -> str:
    """One line about an error."""
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:160]}"


def unmeasured(problem: str, name: str, shape: tuple[int, int, int], target: float | None, note: str) -> Row:
    """A line that says what was not measured, and why."""
    return Row(problem, name, *shape, target=target, verdict=NOT_MEASURED, note=note)


def absent(asked: argparse.Namespace) -> list[Row]:
    """The table of a machine without a GPU."""
    shape = (asked.n, D, K)
    nothing = np.zeros((0, 0))
    nowhere = Setting(nothing, nothing, nothing, nothing, nothing, "", "cuda")
    lines: list[tuple[str, float | None]] = [
        ("probe, torch, float32", SECONDS),
        ("probe, torch, float16 features", None),
    ]
    lines += [("probe, cupy, float32", None), *((name, target) for name, (target, _) in rivals(nowhere).items())]
    return [unmeasured("gpu", name, shape, target, "no CUDA device") for name, target in lines]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=Path, help="store of bench_path.py --prepare, or an npz of --export")
    parser.add_argument("--extract", action="store_true", help="extract real features of all rows on the device")
    parser.add_argument("--shared", type=Path, default=Path(__file__).resolve().parents[2] / "shared")
    parser.add_argument("--export", type=Path, help="write what --features holds into one npz, and do nothing else")
    parser.add_argument("--n", type=int, default=N, help="rows")
    parser.add_argument("--repeats", type=int, default=3, help="of our own paths, after one that is not counted")
    parser.add_argument("--patience", type=float, help="allowance of a rival, in multiples of our time")
    parser.add_argument("--most-s", type=float, default=90.0, help="allowance of a rival in seconds, at most")
    parser.add_argument(
        "--quick", action="store_true", help="tiny, on the CPU: the script runs, the figures mean nothing"
    )
    parser.add_argument("--out", type=Path, help="folder for gpu_path.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    import torch

    asked = arguments(argv)
    if asked.export is not None:
        X, y = base_of(asked.features or Path("runs/bench/features"))
        np.savez(asked.export, X=X.astype(np.float16), y=y)
        return 0
    device = "cpu" if asked.quick else "cuda"
    rows: list[Row] = []
    found: dict[str, Any] = {}

    def show(row: Row) -> None:
        print(line(row), flush=True)
        rows.append(row)
        keep(asked.out, found, rows)  # a machine may be taken away in the middle

    if not asked.quick and not torch.cuda.is_available():
        print(f"no CUDA device\n{HEADER}")
        for row in absent(asked):
            show(row)
        return 0
    s = setting(asked, device)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU, quick: the figures mean nothing"
    found |= {"device": name, "features": s.what}
    most_s = 0.0 if asked.quick else len(rivals(s)) * asked.most_s
    print(f"{name}; features: {s.what}; rivals take at most about {most_s:.0f} s\n{HEADER}", flush=True)
    measure(s, asked, found, show)
    bound = found["roofline"]
    print(
        f"roofline: at least {bound['least_s']:.3g} s, {bound['share']:.1%} of ours; {bound['reads']} products with X"
    )
    return 0


def keep(out: Path | None, found: dict[str, Any], rows: list[Row]) -> None:
    """Write what is known so far, whole or not at all."""
    if out is None:
        return
    import torch

    out.mkdir(parents=True, exist_ok=True)
    versions = {**environment(), "torch": torch.__version__, "cuda": torch.version.cuda}
    kept = {"environment": versions, **found, "rows": [asdict(row) for row in rows]}
    aside = out / "gpu_path.json.partial"
    aside.write_text(json.dumps(kept, indent=1))
    aside.replace(out / "gpu_path.json")


if __name__ == "__main__":
    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by scipy when it is first imported; scikit-learn insists on it
    sys.exit(main())
