"""The ``featstore`` command: does it print what the library says, and end as it should when something is wrong?

A real network over real images: this package's own digits network and scikit-learn's handwritten digits.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toys import tree_bytes

from featstore import open_store
from featstore.cli import main

MODEL, SPLIT = "featstore:digits_net", "digits:test"
UNITS = ("conv1", "conv2", "penultimate")


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store filled by the command."""
    root = tmp_path_factory.mktemp("cli") / "feats"
    assert main(["extract", MODEL, SPLIT, str(root), "--quiet"]) == 0
    return root


@pytest.fixture
def feats(extracted: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(extracted, tmp_path / "feats")
    return tmp_path / "feats"


def chunk_of(root: Path, unit: str) -> Path:
    found = next(e for e in open_store(root).entries() if e.unit == unit)
    return root / found.pass_id / "arrays" / found.array_id / "data.zarr" / "c.0.0"


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[5] ^= 1
    path.write_bytes(raw)


def test_extract_prints_what_is_there(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And a second run computes nothing and changes no byte."""
    before = tree_bytes(extracted)
    assert main(["extract", MODEL, SPLIT, str(extracted)]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].split()[:5] == ["backbone", "weights", "pass", "split", "unit"]
    assert [line.split()[4] for line in lines[1:]] == list(UNITS)
    assert "nothing to extract" in err
    assert tree_bytes(extracted) == before


def test_extract_passes_its_options_on(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = extracted.parent / "options"
    options = ["--units", "conv2", "--dtype", "float32", "--batch-size", "100", "--workers", "1", "--json", "--quiet"]
    assert main(["extract", MODEL, "digits:val", "digits:test", str(root), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sorted((e["split"], e["unit"], e["dtype"]) for e in said["matrices"]) == [
        ("digits:test", "conv2", "float32"),
        ("digits:val", "conv2", "float32"),
    ]
    assert [(r["split"], r["n_images"]) for r in said["reports"]] == [("digits:val", 90), ("digits:test", 451)]
    assert all(r["bottleneck"] in r["stages"] and r["flops_per_image"] is None for r in said["reports"])
    wide = open_store(root).features("conv2", SPLIT).numpy()
    half = open_store(extracted).features("conv2", SPLIT).numpy()
    assert np.array_equal(wide.astype(np.float16), half)
    assert open_store(root).features("conv2", SPLIT).manifest["provenance"]["batch_size"] == 100


def test_extract_says_what_took_longest(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = extracted.parent / "engine"
    options = ["--units", "conv1", "--processes", "--workers", "1", "--no-channels-last", "--roofline", "--quiet"]
    assert main(["extract", MODEL, SPLIT, str(root), *options]) == 0
    out = capsys.readouterr().out
    assert "'digits:test': 451 images in" in out
    assert re.search(r"longest: [a-z ]+, \d+ %; \d+ % of the device's peak FLOP/s", out)
    assert re.search(r"read and decode +\d+\.\d\d s", out)
    assert np.array_equal(*(open_store(r).features("conv1", SPLIT).numpy() for r in (root, extracted)))
    assert main(["extract", MODEL, SPLIT, str(root), "--decoder", "nvjpeg", "--quiet"]) == 1
    assert "'nvjpeg' runs on CUDA devices and the device is 'cpu'" in capsys.readouterr().err


def test_extract_takes_several_poolings(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one more from the maps that are stored then, without the network."""
    root = extracted.parent / "poolings"
    store = [MODEL, SPLIT, str(root), "--units", "conv2", "--dtype", "float32"]
    assert main(["extract", *store, "--pool", "none", "grid2", "--json"]) == 0
    assert {(e["pool"], tuple(e["shape"])) for e in json.loads(capsys.readouterr().out)["matrices"]} == {
        ("none", (451, 64, 2, 2)),
        ("grid2", (451, 256)),
    }
    assert main(["extract", *store, "--pool", "max"]) == 0
    assert "451 images of conv2, pooled from stored maps" in capsys.readouterr().err


def test_ls_and_its_json_agree_with_the_store(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", str(extracted)]) == 0
    text = capsys.readouterr().out
    assert main(["ls", str(extracted), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    entries = open_store(extracted).entries()
    assert said == json.loads(json.dumps([e.to_json() for e in entries]))
    for entry in entries:
        assert f"{entry.unit} " in text
        assert entry.created in text
    assert main(["ls", str(extracted), "--backbone", MODEL, "--split", SPLIT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == said


def test_info_shows_what_identifies_the_features(extracted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(extracted)]) == 0
    text = capsys.readouterr().out
    key = open_store(extracted).passes()[0].key()
    for said in (
        key.weights_digest,
        key.content_digest,
        "input_size: 8, 8",
        "targets: labels",
        "torch: ",
        "unit conv1: mean",
    ):
        assert said in text
    assert main(["info", str(extracted), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["passes"][0]["key"] == key.to_json()
    assert [a["unit"] for a in said["passes"][0]["arrays"]] == list(UNITS)
    assert said["n_bytes"] == sum(e.n_bytes for e in open_store(extracted).entries())


def test_verify_finds_damage_and_extract_repairs_it(feats: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(feats)]) == 0
    assert capsys.readouterr().out.startswith("3 matrices are as they were written (")
    before = tree_bytes(feats)
    flip(chunk_of(feats, "conv2"))
    assert main(["verify", str(feats)]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"rows 0 to 450 of unit 'conv2' of {MODEL} over '{SPLIT}': its file c.0.0 has the checksum")
    assert err.startswith(f"featstore: error: 1 problem in {feats}.")
    assert f"`featstore repair {feats}`" in err
    assert main(["verify", str(feats), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["rows"] == [0, 451]
    assert main(["extract", MODEL, SPLIT, str(feats), "--repair"]) == 0
    assert "451 images through featstore:digits_net for conv2\n" in capsys.readouterr().err
    assert tree_bytes(feats) == before
    assert main(["verify", str(feats)]) == 0


def test_passes_that_differ_only_in_arithmetic_are_told_apart(
    feats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All names are the same; without the pass neither could be exported, and both would be removed together."""
    one = ["extract", MODEL, SPLIT, str(feats), "--quiet", "--units", "conv2", "--precision", "amp-bf16"]
    assert main(one) == 0
    passes = {e.precision: e.pass_id for e in open_store(feats).entries()}
    file = str(tmp_path / "x.npz")
    assert main(["export", str(feats), file, "--unit", "conv2"]) == 1
    said = capsys.readouterr().err
    assert all(digest[:8] in said for digest in passes.values())
    assert main(["export", str(feats), file, "--unit", "conv2", "--pass", passes["amp-bf16"][:8]]) == 0
    with np.load(file) as found:
        assert json.loads(str(found["manifest"]))["pass_id"] == passes["amp-bf16"]
    capsys.readouterr()
    assert main(["ls", str(feats)]) == 0
    assert {line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]} == {p[:8] for p in passes.values()}
    assert main(["rm", str(feats), "--pass", passes["amp-bf16"][:8]]) == 0
    assert {e.pass_id for e in open_store(feats).entries()} == {passes["fp32"]}
    assert main(["rm", str(feats), "--pass", "zzz"]) == 1
    assert passes["fp32"][:8] in capsys.readouterr().err


def test_weights_without_a_backbone_belong_to_the_one_that_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They were dropped without a word, and the sentence that asked for them came again."""
    from safetensors.torch import save_file

    from featstore import load_backbone

    weights, root = tmp_path / "w.safetensors", str(tmp_path / "feats")
    save_file(load_backbone("featstore:lenet", weights=None, seed=3).module.state_dict(), weights)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "train.npz", images=rng.integers(0, 255, (12, 28, 28), dtype=np.uint8), labels=np.arange(12) % 2
    )
    split = f"npz:{tmp_path / 'train.npz'}"
    assert main(["extract", f"featstore:lenet@{weights}", split, root, "--quiet"]) == 0
    chunk_of(Path(root), "conv2").unlink()
    assert main(["repair", root, "--quiet"]) == 1
    assert main(["repair", root, "--quiet", "--weights", str(weights)]) == 0
    assert main(["verify", root, "--recompute", "3", "--weights", str(weights)]) == 0
    assert main(["extract", MODEL, SPLIT, root, "--quiet"]) == 0
    capsys.readouterr()
    assert main(["verify", root, "--recompute", "3", "--weights", str(weights)]) == 1
    assert "--weights belongs to one network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "{feats}", "{tmp}/nowhere/x.npz", "--unit", "conv2"], "there is no folder"),
        (["ls", "{tmp}/nowhere"], "there is no feature store at"),
        (["ls", "{tmp}"], "without featstore.json"),
        (["ls", "{feats}", "--split", "digits:tst"], "nearest known names are 'digits:test'"),
        (["info", "{feats}", "--backbone", "featstore:digit_net"], "nearest known names are 'featstore:digits_net'"),
        (["extract", "featstore:digit_net", SPLIT, "{feats}"], "'digits_net'"),
        (["extract", MODEL, "digits:tst", "{feats}"], "'test'"),
        (["extract", MODEL, SPLIT, "{feats}", "--units", "conv3"], "'conv"),
        (["extract", MODEL, SPLIT, "{feats}", "--pool", "men"], "'mean'"),
        (["extract", MODEL, SPLIT, "{feats}", "--batch-size", "0"], "batch_size is 0"),
        (["extract", MODEL, SPLIT, "{tmp}/file/feats"], "file"),
        (["extract", MODEL, "imagefolder:{tmp}/nowhere", "{feats}"], "nowhere"),
        (["extract", MODEL, "imagefolder:{tmp}/empty", "{feats}"], "empty"),
    ],
)
def test_one_sentence_and_exit_code_1(
    feats: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """No traceback, nothing on stdout, and the store as it was."""
    (feats.parent / "file").touch()
    (feats.parent / "empty").mkdir()
    before = tree_bytes(feats)
    assert main([a.format(tmp=feats.parent, feats=feats) for a in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("featstore: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {k: v for k, v in tree_bytes(feats).items() if not k.startswith("cache/")} == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["ls"],
        ["extract", MODEL],
        ["extract", MODEL, SPLIT, "s", "--dtype", "float64"],
        ["ls", "a", "b"],
    ],
)
def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: featstore" in capsys.readouterr().err


def run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-m", "featstore", *arguments], env=environment, text=True, **options)


@pytest.mark.parametrize("arguments", [["--help"], ["extract", "--help"], ["ls", "--help"]])
def test_help_is_there_at_once(arguments: list[str]) -> None:
    """No heavy library may be imported for it. Seconds of the processor: what else runs on the machine is not tested."""
    times = []
    for _ in range(3):
        before = os.times()
        process = run(*arguments, stdout=subprocess.PIPE)
        out, _ = process.communicate()
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
        assert process.returncode == 0
        assert out.startswith("usage: featstore")
    assert min(times) < 1.5


def test_a_reader_that_leaves_is_no_error(extracted: Path) -> None:
    """``featstore ls STORE | head -1``."""
    process = run("info", str(extracted), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 0
    process.stderr.close()


@pytest.fixture
def long_extraction(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An extraction that takes long enough to be interrupted: a deep network over images made large."""
    process = run(
        "extract", "torchvision:resnet18", "digits:source", str(tmp_path / "feats"), "--weights", "random", "--batch-size", "8",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_ctrl_c_twice_is_one_line_and_130(long_extraction: subprocess.Popen[str], tmp_path: Path) -> None:
    assert long_extraction.stderr is not None
    said = ""
    while "images through" not in said:
        line = long_extraction.stderr.readline()
        assert line, said
        said += line
    time.sleep(0.3)
    long_extraction.send_signal(signal.SIGINT)
    time.sleep(0.05)
    long_extraction.send_signal(signal.SIGINT)
    out, err = long_extraction.communicate(timeout=20)
    assert long_extraction.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    assert "featstore: interrupted; what was written is kept" in err
    store = open_store(tmp_path / "feats")
    assert store.verify() == []
    assert not any(e.is_complete for e in store.entries())
    assert not list(store.root.rglob("*.partial"))


def test_a_store_behind_a_url_is_refused_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A path would swallow a slash of it, and features would go to a local folder called 'http:'."""
    monkeypatch.chdir(tmp_path)
    assert main(["extract", "featstore:digits_net", "digits:val", "http://localhost:1/feats", "--quiet"]) == 1
    assert "stores behind a URL are only read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
