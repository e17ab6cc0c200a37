"""The shape of the project: which way imports point, what an import costs, which file knows which library."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("featstore", "probe", "finetune")
MAY_IMPORT = {"featstore": set(), "probe": {"featstore"}, "finetune": {"featstore", "probe"}}
HEAVY = {"torch", "torchvision", "timm", "zarr", "dask", "sklearn", "matplotlib", "scipy", "pandas", "cupy", "cuml"}
MOST_S = 0.5


@dataclass(frozen=True)
class Import:
    """One name that a file takes from another package, by import statement or as an attribute of the package."""

    file: str
    line: int
    package: str
    module: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.module}{f' … {self.name}' if self.name else ''}"


@cache
def tree(path: Path) -> ast.Module:
    """The parsed file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def files(package: str) -> list[Path]:
    """Every Python file of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, wherever it stands, type-checking blocks included."""
    file = path.relative_to(ROOT).as_posix()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name.split(".")[0], alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} is a relative import; the project writes them in full"
            module = node.module or ""
            for alias in node.names:
                yield Import(file, node.lineno, module.split(".")[0], module, alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in PACKAGES:
            yield Import(file, node.lineno, node.value.id, node.value.id, node.attr)


def across(package: str) -> list[Import]:
    """What a package takes from the two others."""
    return [i for path in files(package) for i in imports(path) if i.package in PACKAGES and i.package != package]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    """featstore knows neither of the others, probe may know featstore, finetune both; a cycle would end the
    layering."""
    wrong = [str(i) for i in across(package) if i.package not in MAY_IMPORT[package]]
    assert not wrong


def test_probe_knows_featstore_in_its_sweeps_studies_and_command_line_only() -> None:
    """Everything else of probe works on arrays of any origin; a solver that knew a store could not be used without
    one. A sweep reads a store that is there; the probes of a study are given names, and load networks and images to fill it."""
    doors = ("probe/sweeps.py", "probe/studies/probing.py", "probe/cli/")
    wrong = [str(i) for i in across("probe") if not i.file.startswith(doors)]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_meet_at_their_public_names(package: str) -> None:
    """A name that another package's __init__ does not export may change without notice."""
    wrong = []
    for found in across(package):
        public = set(importlib.import_module(found.package).__all__)
        is_package_itself = found.module == found.package
        if not is_package_itself or (found.name is not None and found.name not in public):
            wrong.append(str(found))
    assert not wrong


def test_finetune_uses_both_others() -> None:
    """The direction of imports is real only if something is imported."""
    assert {i.package for i in across("finetune")} == {"featstore", "probe"}


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist_and_are_documented(package: str) -> None:
    """A lazily exported name is looked up only when used: a misspelt one would break at its first user."""
    module = importlib.import_module(package)
    assert module.__all__
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        found = getattr(module, name)
        assert not callable(found) or found.__doc__, f"{package}.{name} has no docstring"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


LANGUAGE = {"numpy", "torch"}
"""What the project is written in; every other library has one file per package that knows it."""

SEVERAL_FILES = {
    "pyarrow": "it is the format: reading data sets in parquet and writing features to it have nothing in common",
    "PIL": "an image is decoded, shifted and prepared in three places, and PIL's image is what passes between them",
    "array_api_compat": "it is the standard that probe's arrays speak, not a library behind one door",
    "pandas": "its tables are what probe returns, so that whoever shows them speaks it",
    "torchvision": "its networks and its downloads of data sets are two libraries under one name",
    "scipy": "a collection of unrelated parts",
    "sklearn": "probe is a classifier of its kind in one file, and fits with its solver as a rival in another",
}


def libraries(path: Path) -> set[str]:
    """Third-party libraries that a file imports when it runs; imports for the type checker know nothing."""
    unseen = {
        inner
        for node in ast.walk(tree(path))
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import) and node not in unseen:
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node not in unseen:
            found.add((node.module or "").split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES) - LANGUAGE


@pytest.mark.parametrize("package", PACKAGES)
def test_each_library_is_known_by_one_file(package: str) -> None:
    """When a library changes, one file must be looked at. A new exception goes into SEVERAL_FILES, with its reason."""
    homes: dict[str, list[str]] = {}
    for path in files(package):
        for library in libraries(path):
            homes.setdefault(library, []).append(path.relative_to(ROOT).as_posix())
    assert {library: known for library, known in homes.items() if len(known) > 1 and library not in SEVERAL_FILES} == {}


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python; the programs must be found whatever the working directory is."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def best_s(arguments: tuple[str, ...], n: int) -> float:
    """Least time of the processor of n runs, seconds: wall time would count what the other processes of the tests do."""
    times = []
    for _ in range(n):
        before = os.times()
        done = run_python(*arguments)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert done.returncode == 0, done.stderr
    return min(times)


@pytest.fixture(scope="module")
def bare_s() -> float:
    """Python's own start."""
    return best_s(("-c", "pass"), 5)


@pytest.mark.parametrize("what", ["import", "--help"])
@pytest.mark.parametrize("package", PACKAGES)
def test_import_and_help_answer_at_once(package: str, what: str, bare_s: float) -> None:
    """Below half a second more than Python's own start; best of up to five, because other processes only add time.

    Nothing is waited for on the way, so that the processor's time is what a user waits.
    """
    arguments = ("-c", f"import {package}") if what == "import" else ("-m", package, "--help")
    extra = float("inf")
    for _ in range(5):
        extra = min(extra, best_s(arguments, 1) - bare_s)
        if extra < MOST_S:
            return
    pytest.fail(f"{' '.join(arguments)} takes {extra:.2f} s more than Python itself; at most {MOST_S} s are allowed")


LOADED_AFTER = """
import contextlib, importlib, io, re, sys
heavy = set(sys.argv[2].split(","))
package = sys.argv[1]
importlib.import_module(package)
print("import:", *sorted(heavy & set(sys.modules)))
main = importlib.import_module(package + ".cli").main
def helped(*arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            code = main([*arguments])
        except SystemExit as error:
            code = error.code
    assert not code, (arguments, code)
    return out.getvalue()
commands = re.findall(r"^ {4}([a-z][a-z0-9-]*)\\b", helped("--help"), re.MULTILINE)
assert commands
for command in commands:
    helped(command, "--help")
print("help:", *sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_heavy_libraries_are_imported_by_what_needs_them(package: str) -> None:
    """Structure instead of time: neither the import nor any command's --help loads torch, timm, zarr, scikit-learn …"""
    done = run_python("-c", LOADED_AFTER, package, ",".join(sorted(HEAVY)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["import:", "help:"]
