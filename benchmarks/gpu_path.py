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
from typing import Any, TypeAlias

import numpy as np
from path_measures import (
    BAR,
    HEADER,
    Certifier,
    Rival,
    Row,
    Task,
    Walked,
    certifier,
    environment,
    line,
    row_of,
    val_accuracy,
    verdict,
    walk,
)

import probe
from probe.engines import Aim, Answer, Fitter, cuml_walk, fit_cuml_estimator, fit_sklearn
from probe.engines import Problem as Given

SECONDS, COLD = 3.0, 40.0
"""Targets: seconds of our path in float32, and times our seconds for 45 cold fits."""
N, D, K, N_UNITS = 50_000, 2_048, 100, 6
NOT_MEASURED = "not measured"
Data: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""X, y, X_val, y_val."""


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


# ---- features


def made_up(n: int, n_val: int, d: int, k: int) -> Data:
    """Rectified mixtures with a spectrum that falls like a power law: X, y, X_val, y_val."""
    draw = np.random.default_rng(0)
    r = min(256, d)
    spectrum = np.arange(1, r + 1, dtype=np.float32) ** -0.5
    means = draw.standard_normal((k, r), np.float32)
    mixing = draw.standard_normal((r, d), np.float32) / r**0.5
    y = np.concatenate([np.arange(k), draw.integers(0, k, n + n_val - k)])
    Z = (means[y] + 1.5 * draw.standard_normal((len(y), r), np.float32)) * spectrum
    X = np.maximum(Z @ mixing + 0.02 * draw.standard_normal((len(y), d), np.float32), 0.0).astype(np.float32)
    return X[:n], y[:n], X[n:], y[n:]


def resampled(X: np.ndarray, y: np.ndarray, n: int) -> Data:
    """X, y of n rows between real ones of a class, and a fifth of the real ones, left alone, as X_val, y_val."""
    draw = np.random.default_rng(0)
    order = draw.permutation(len(y))
    val, base = order[: len(y) // 5], order[len(y) // 5 :]
    by_class = {c: base[y[base] == c] for c in np.unique(y[base])}
    first = base[np.arange(n) % len(base)]
    second = np.array([draw.choice(by_class[y[i]]) for i in first])
    t = draw.uniform(0, 0.5, (n, 1)).astype(np.float32)
    noise = 0.05 * X[base].std(axis=0) * draw.standard_normal((n, X.shape[1]), np.float32)
    return (X[first] + t * (X[second] - X[first]) + noise).astype(np.float32), y[first], X[val], y[val]


def base_of(features: Path) -> tuple[np.ndarray, np.ndarray]:
    """Real features (m, 2048) float32 and labels (m,) from a store of `bench_path.py`, or from an npz of `--export`."""
    if features.suffix == ".npz":
        with np.load(features) as file:
            return file["X"].astype(np.float32), file["y"]
    from path_problems import SOURCES, read_units

    return read_units(SOURCES["pairs"], features, N_UNITS)


def extracted(shared: Path, features: Path, n: int, device: str) -> Data:
    """Real features of n images to fit and a fifth of that to choose C, extracted on the device."""
    from path_problems import SOURCES, extract_units, pairs, read_units

    images = pairs(shared, n + n // 5)
    root = features / "gpu"
    extract_units(SOURCES["pairs"], images, shared, root, device)
    X, y = read_units(SOURCES["pairs"], root, N_UNITS)
    return X[:n], y[:n], X[n:], y[n:]


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


# ---- the other solvers


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


# ---- measuring


def synchronizer(device: str) -> Callable[[], None]:
    """What waits for a device."""
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


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


def rate(call: Callable[[], object], work: float, device: str, at_least_s: float) -> float:
    """Work per second of a call that is repeated for a while."""
    synchronize = synchronizer(device)
    call()
    synchronize()
    n, started = 0, time.perf_counter()
    while True:
        call()
        n += 1
        if n % 4 == 0:
            synchronize()
            took = time.perf_counter() - started
            if took > at_least_s:
                return n * work / took


def peaks(device: str, n: int, d: int, k: int) -> dict[str, float]:
    """FLOP/s of products and bytes/s of a copy, as measured on this device."""
    import torch

    size, at_least_s = (8192, 0.5) if device == "cuda" else (128, 0.01)
    found: dict[str, float] = {}
    for name in ("float32", "float64"):
        A = torch.randn(size, size, device=device, dtype=getattr(torch, name))
        found[f"gemm_{name}_flops"] = rate(lambda A=A: A @ A, 2.0 * size**3, device, at_least_s)  # type: ignore[misc]
    X, W = torch.randn(n, d, device=device), torch.randn(k, d, device=device)
    found["own_product_flops"] = rate(lambda: X @ W.T, 2.0 * n * d * k, device, at_least_s)
    source = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(source)
    found["bandwidth_bytes"] = rate(lambda: target.copy_(source), 2.0 * source.nbytes, device, at_least_s)
    return found


def roofline(seconds: float, reads: int, shape: tuple[int, int, int], peak: dict[str, float]) -> dict[str, float]:
    """Counted work, the least seconds it takes at the measured peaks, and the share of that in the seconds measured."""
    n, d, k = shape
    products, X_bytes = 2.0 * n * d * k * reads, 4.0 * n * d * reads
    gram, rotation = 2.0 * n * d * min(n, d), 2.0 * n * d * min(n, d)
    by_flops = products / peak["gemm_float32_flops"]
    by_bytes = X_bytes / peak["bandwidth_bytes"]
    setup = gram / peak["gemm_float64_flops"] + rotation / peak["gemm_float32_flops"]
    least = max(by_flops, by_bytes) + setup
    return {
        "reads": reads, "product_flops": products, "X_bytes": X_bytes, "gram_flops": gram, "rotation_flops": rotation,
        "least_by_flops_s": by_flops, "least_by_bytes_s": by_bytes, "setup_s": setup, "least_s": least,
        "share": least / seconds,
    }  # fmt: skip


def measure(s: Setting, asked: argparse.Namespace, show: Callable[[Row], None]) -> dict[str, Any]:
    """Every row, shown as it comes; what else goes into the JSON."""
    import torch

    single = torch.from_numpy(s.X).to(s.device)
    certify = certifier(single, s.y)
    mine = ours("probe, torch, float32", s, single, certify, asked.repeats)
    row, _, walked = mine
    is_fast = row.seconds is not None and row.seconds <= SECONDS and row.n_certified == row.n_values
    ruling = "means nothing" if asked.quick else "pass" if is_fast else "falls short"
    show(replace(row, ratio=row.seconds, target=SECONDS, verdict=ruling, note=f"seconds, at most; {row.note}"))
    peak = peaks(s.device, *s.shape)
    found = {"peaks": peak, "roofline": roofline(walked.seconds, walked.passes, s.shape, peak)}
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
    return found


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
    parser.add_argument("--most-s", type=float, default=120.0, help="allowance of a rival in seconds, at most")
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

    if not asked.quick and not torch.cuda.is_available():
        print(f"no CUDA device\n{HEADER}")
        for row in absent(asked):
            show(row)
    else:
        s = setting(asked, device)
        name = torch.cuda.get_device_name() if device == "cuda" else "CPU, quick: the figures mean nothing"
        budget = 0.0 if asked.quick else 4 * asked.most_s + 20
        print(f"{name}; features: {s.what}; rivals take at most about {budget:.0f} s\n{HEADER}", flush=True)
        found = {"device": name, "features": s.what, **measure(s, asked, show)}
        share = found["roofline"]
        print(
            f"roofline: at least {share['least_s']:.3g} s, {share['share']:.1%} of the time; {share['reads']} products with X"
        )
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        versions = {**environment(), "torch": torch.__version__, "cuda": torch.version.cuda}
        kept = {"environment": versions, **found, "rows": [asdict(row) for row in rows]}
        (asked.out / "gpu_path.json").write_text(json.dumps(kept, indent=1))
    return 0


if __name__ == "__main__":
    os.environ.setdefault("SCIPY_ARRAY_API", "1")  # read by scipy when it is first imported; scikit-learn insists on it
    sys.exit(main())
