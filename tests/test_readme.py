"""The README's recipes run as they stand, in an empty folder, in the order they are printed."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[1] / "README.md"


def _blocks() -> list[tuple[str, str]]:
    """Language and text of every fenced block."""
    return re.findall(r"^```(\w+)\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.S | re.M)


def _command(words: list[str]) -> int:
    import importlib

    status: int = importlib.import_module(f"{words[0]}.cli").main(words[1:])
    return status


def test_recipes_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe that does not run is worse than none."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    n_recipes = 0
    for language, text in _blocks():
        if language == "python":
            exec(compile(text, f"README.md, recipe {n_recipes + 1}", "exec"), namespace)
            n_recipes += 1
        elif language == "console":
            for line in text.strip().splitlines():
                assert subprocess.run(["sh", "-nc", line]).returncode == 0, f"a shell does not read: {line}"
                assert _command(shlex.split(line)) == 0, line
    out, said = capsys.readouterr()
    assert n_recipes == 14
    assert "('conv1', 'conv2', 'penultimate', 'head')" in out
    assert out.count("{'converged'}") == 2
    assert "[45, 45, 45]" in out
    assert "(90, 256)" in out
    assert said.count("pooled from stored maps") == 2
    assert (tmp_path / "runs" / "results").is_dir()


def test_the_two_commands_are_those_of_the_package() -> None:
    """The commands a stranger types name extras and programs that exist."""
    import tomllib

    project = tomllib.loads((README.parent / "pyproject.toml").read_text())["project"]
    shell = "".join(text for language, text in _blocks() if language == "sh")
    extras = set(re.findall(r"(?:'\.|featprobe)\[(\w+)\]", README.read_text(encoding="utf-8")))
    assert extras == set(project["optional-dependencies"]) - {"dev"}
    assert "probe quickstart" in shell
    assert "pytest" in shell
    for name in ("featstore", "probe", "finetune"):
        assert project["scripts"][name] == f"{name}.cli:main"


def test_links_and_pictures_exist() -> None:
    """A picture that is not there shows nothing."""
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists() or target.startswith("http"), target
