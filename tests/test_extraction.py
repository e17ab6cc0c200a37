"""Extraction: the stored features are what the network says of these images, computed once, whatever interrupts it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import featstore
from featstore import Backbone, BadInput, NotStored, Preprocessing, Split, Store, UnknownName, UnreadableImage
from featstore.datasets.arrays import ArraySamples
from featstore.devices import arithmetic, memory_errors, on_device

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
UNITS = ("conv1", "layer1", "layer2", "layer3", "penultimate")


def pictures(n: int, name: str = "pictures", seed: int = 0, size: int = 32) -> Split:
    """Return a split of n random pictures in three classes."""
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)
    ids = np.array([f"{name}/{i:04d}" for i in range(n)])
    return Split(name, ids, np.arange(n) % 3, ("a", "b", "c"), ArraySamples(images, name))


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return featstore.load_backbone("featstore:cifar_resnet20", weights=None)


def extract(backbone: Backbone, split: Split | list[Split], root: Path | Store, **arguments: Any) -> Store:
    return featstore.extract(
        backbone, split, root, **{"dtype": "float32", "batch_size": 8, "progress": False, **arguments}
    )


FIRST = featstore.Engine(channels_last=False)
"""The order in memory of a plain forward; the other one rounds otherwise."""


class Calls:
    """Counts the images and batches that go through a module of a network."""

    def __init__(self, module: nn.Module) -> None:
        self.n_batches = self.n_images = 0
        self._handle = module.register_forward_hook(self._count)

    def _count(self, module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self.n_batches += 1
        self.n_images += len(args[0])

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()


def by_hand(backbone: Backbone, split: Split, batch: int) -> dict[str, np.ndarray]:
    """Return features from a plain forward of the network with hooks, without anything of featstore but the images."""
    kept: dict[str, list[torch.Tensor]] = {unit: [] for unit in (*UNITS, "head")}
    module = backbone.module
    handles = [
        module.get_submodule(f"layer{i}").register_forward_hook(
            lambda m, a, out, i=i: kept[f"layer{i}"].append(out.mean((2, 3)))
        )
        for i in (1, 2, 3)
    ]
    handles.append(
        module.get_submodule("layer1").register_forward_pre_hook(lambda m, a: kept["conv1"].append(a[0].mean((2, 3))))
    )
    handles.append(module.get_submodule("fc").register_forward_pre_hook(lambda m, a: kept["penultimate"].append(a[0])))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        for start in range(0, len(split), batch):
            rows = range(start, min(start + batch, len(split)))
            x = torch.stack([torch.from_numpy(np.array(split.image(i))).permute(2, 0, 1).contiguous() for i in rows])
            x = (x.float() / 255 - mean[:, None, None]) / std[:, None, None]
            kept["head"].append(module(x))
    for handle in handles:
        handle.remove()
    return {unit: torch.cat(values).numpy() for unit, values in kept.items()}


def test_features_equal_a_plain_forward_bit_for_bit(backbone: Backbone, tmp_path: Path) -> None:
    split = pictures(27)
    store = extract(backbone, split, tmp_path / "s", units=["all", "head"], engine=FIRST)
    expected = by_hand(backbone, split, 8)
    assert store.units("pictures") == (*UNITS, "head")
    for unit, values in expected.items():
        found = store.features(unit, "pictures")
        assert np.array_equal(found.numpy(), values), unit
        assert found.ids.tolist() == split.ids.tolist()
        assert found.labels is not None
        assert found.labels.tolist() == (np.arange(27) % 3).tolist()
        assert found.classes == ("a", "b", "c")


def test_float16_is_the_rounded_float32(backbone: Backbone, tmp_path: Path) -> None:
    split = pictures(9)
    store = extract(backbone, split, tmp_path / "s")
    extract(backbone, split, store, dtype="float16")
    exact = store.features("layer2", split, dtype="float32").numpy()
    half = store.features("layer2", split, dtype="float16")
    assert half.dtype == np.float16
    assert np.array_equal(half.numpy(), exact.astype(np.float16))


def test_one_pass_for_all_units_and_none_when_all_is_there(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split, conv1 = pictures(20), backbone.module.get_submodule("conv1")
    with Calls(conv1) as calls:
        store = extract(backbone, split, tmp_path / "s")
        assert (calls.n_batches, calls.n_images) == (3, 20), "every image once, for all units together"
    with Calls(conv1) as calls:
        extract(backbone, split, tmp_path / "s", progress=True)
        assert calls.n_batches == 0
    assert "nothing to extract: 5 units of 'pictures' (20 images) are complete" in capsys.readouterr().err
    with Calls(conv1) as calls:
        extract(backbone, split, store, units=["head", "layer1"])
        assert calls.n_images == 20, "a unit that is added later needs a pass"
    with Calls(backbone.module.get_submodule("fc")) as calls:
        extract(backbone, split, store, dtype="float16", units=["conv1", "layer3"])
        assert calls.n_images == 0, "the pass ends after the last wanted unit"


def test_labels_are_replaced_without_a_pass(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = pictures(10)
    store = extract(backbone, split, tmp_path / "s", units="penultimate")
    relabelled = replace(split, name="renamed", labels=np.zeros(10, np.int64), classes=("all",))
    with Calls(backbone.module.get_submodule("conv1")) as calls:
        extract(backbone, relabelled, store, units="penultimate")
        assert calls.n_images == 0
    found = store.features("penultimate", "renamed")
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 10
    said = capsys.readouterr().err
    assert said.count("the labels of 'renamed' replace those") == 1  # who reads by the first name gets other labels now


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_rounding_alone(backbone: Backbone, tmp_path: Path, batch_size: int) -> None:
    """A convolution may sum in another order for another batch: errors of a few float32 roundings, 1e-5 of the largest feature."""
    split = pictures(20)
    store = extract(backbone, split, tmp_path / "s", batch_size=batch_size, workers=3)
    for unit, values in by_hand(backbone, split, 20).items():
        if unit != "head":
            found = store.features(unit, "pictures").numpy()
            assert np.abs(found - values).max() <= 1e-5 * np.abs(values).max(), unit


def test_workers_change_nothing(backbone: Backbone, tmp_path: Path) -> None:
    split = pictures(33)
    trees = [files(extract(backbone, split, tmp_path / f"s{w}", workers=w).root) for w in (1, 4)]
    assert trees[0] == trees[1]


def files(root: Path) -> dict[str, bytes]:
    """Return everything that is in a store but its cache and locks."""
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    return {
        name: content
        for name, content in found.items()
        if not name.startswith("cache/") and not name.endswith("/.lock")
    }


def test_other_things_are_other_entries(backbone: Backbone, tmp_path: Path) -> None:
    """Other weights, cuts, preprocessing, images: each beside the others, nothing overwritten."""
    split = pictures(6)
    store = extract(backbone, split, tmp_path / "s", units="penultimate")
    before = store.features("penultimate", split).numpy()
    other = featstore.load_backbone("featstore:cifar_resnet20", weights=None, seed=1)
    fine = featstore.load_backbone("featstore:cifar_resnet20", weights=None, units="fine")
    darker = replace(backbone, preprocessing=replace(backbone.preprocessing, mean=(0.5, 0.5, 0.5)))
    for b, s in ((other, split), (fine, split), (darker, split), (backbone, pictures(6, seed=1))):
        with Calls(b.module.get_submodule("conv1")) as calls:
            extract(b, s, store, units="penultimate")
            assert calls.n_images == 6
    assert len(store.passes()) == 5
    moved = tmp_path / "moved"
    store.root.rename(moved)
    with Calls(backbone.module.get_submodule("conv1")) as calls:
        extract(backbone, split, moved, units="penultimate")
        assert calls.n_images == 0, "moving a store does not change what is in it"
    first = [e for e in featstore.open_store(moved).entries() if e.pass_id == store_key(backbone, split)]
    assert len(first) == 1
    assert before.shape == (6, 64)


def store_key(backbone: Backbone, split: Split) -> str:
    return featstore.plan(backbone, split, Path("no-such-store"), units="penultimate").parts[0].key.digest


def test_the_plan_is_pure_and_can_be_read(backbone: Backbone, tmp_path: Path) -> None:
    split, root = pictures(50), tmp_path / "s"
    made = featstore.plan(backbone, [split], root, units=["conv1", "penultimate"])
    assert not root.exists()
    assert (made.n_images, made.n_bytes, made.is_done) == (50, 50 * (16 + 64) * 2, False)
    assert "pictures (50 images): 0 of 2 units stored; to do: conv1 16, penultimate 64; 50 images, 8.0 kB" in str(made)
    store = extract(backbone, split, root, units="conv1", dtype="float16")
    made = featstore.plan(backbone, split, store, units=["penultimate", "conv1"])
    assert [key.unit for key in made.parts[0].missing] == ["penultimate"]
    extract(backbone, split, root, units="penultimate", dtype="float16")
    made = featstore.plan(backbone, split, root, units=["conv1", "penultimate"])
    assert made.is_done
    assert "2 of 2 units stored, nothing to do" in str(made)


INTERRUPTED = """
import sys, torch
torch.set_num_threads(1)
sys.path.insert(0, "tests")
import featstore, test_extraction as t
backbone = featstore.load_backbone("featstore:cifar_resnet20", weights=None)
print("ready", flush=True)
t.extract(backbone, t.pictures(600), sys.argv[1], block_rows=16, workers=2)
print("done", flush=True)
"""


def start(root: Path) -> subprocess.Popen[str]:
    """Start an extraction of many small blocks in a process of its own, and return when it has written some of them."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(root)],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 60
    while len(list(root.glob("*/staging/*/data.zarr/c.*"))) < 25 and time.monotonic() < deadline:
        time.sleep(0.01)
    return child


def end(child: subprocess.Popen[str]) -> tuple[str, str]:
    said, errors = child.communicate(timeout=60)
    return said, errors


def test_killed_and_resumed_is_as_if_never_interrupted(backbone: Backbone, tmp_path: Path) -> None:
    """Byte for byte, and without computing again what the killed process had written."""
    fresh = extract(backbone, pictures(600), tmp_path / "fresh", block_rows=16)
    child = start(tmp_path / "killed")
    child.send_signal(signal.SIGKILL)
    assert "done" not in end(child)[0]
    with pytest.raises(NotStored, match="not complete"):
        featstore.open_store(tmp_path / "killed").features("penultimate", "pictures")
    with Calls(backbone.module.get_submodule("conv1")) as calls:
        resumed = extract(backbone, pictures(600), tmp_path / "killed", block_rows=16)
        assert 0 < calls.n_images < 600
    assert files(resumed.root) == files(fresh.root)


def test_two_interrupts_leave_a_store_that_can_be_resumed(backbone: Backbone, tmp_path: Path) -> None:
    child = start(tmp_path / "s")
    child.send_signal(signal.SIGINT)
    time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    said, errors = end(child)
    assert "done" not in said
    assert "KeyboardInterrupt" in errors
    with Calls(backbone.module.get_submodule("conv1")) as calls:
        store = extract(backbone, pictures(600), tmp_path / "s", block_rows=16)
        assert 0 < calls.n_images < 600
    assert store.verify() == []
    assert not list(store.root.rglob("*.partial"))


def write_photos(root: Path, n: int = 6) -> Path:
    for i in range(n):
        (root / "abc"[i % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pictures(n).image(i))).save(root / "abc"[i % 3] / f"{i}.png")
    return root


def test_an_unreadable_image_is_named_or_left_out(
    backbone: Backbone, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_photos(tmp_path / "photos")
    whole = (root / "b" / "4.png").read_bytes()
    (root / "b" / "4.png").write_bytes(whole[:60])
    split = featstore.load_split(f"imagefolder:{root}")
    with pytest.raises(UnreadableImage, match=r"4\.png does not decode"):
        extract(backbone, split, tmp_path / "s")
    store = extract(backbone, split, tmp_path / "s", skip_unreadable=True)
    found = store.features("penultimate", str(root))
    assert found.ids.tolist() == ["a/0.png", "a/3.png", "b/1.png", "c/2.png", "c/5.png"]
    assert "left out b/4.png" in capsys.readouterr().err
    assert list(found.manifest["provenance"]["skipped"]) == ["b/4.png"]
    kept = split.subset(found.ids, "kept")
    assert np.array_equal(store.features("penultimate", kept).numpy(), found.numpy()), (
        "its identity is that of what was run"
    )
    with Calls(backbone.module.get_submodule("conv1")) as calls:
        extract(backbone, split, store, skip_unreadable=True)
        assert calls.n_images == 0
    (root / "b" / "4.png").write_bytes(whole)
    mended = extract(backbone, featstore.load_split(f"imagefolder:{root}"), store, skip_unreadable=True)
    assert len(mended.features("penultimate", featstore.load_split(f"imagefolder:{root}")).ids) == 6
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UnreadableImage, match="none of the 6 images"):
        extract(backbone, featstore.load_split(f"imagefolder:{root}"), store, skip_unreadable=True)


def test_an_image_of_the_wrong_size_is_named(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"small row 0: the image is 16 × 16"):
        extract(backbone, pictures(3, "small", size=16), tmp_path / "s")


class Exploding(nn.Module):
    """Multiplies by so much that bright images do not fit into float16, or into anything."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 1, bias=False), nn.Linear(4, 2)
        nn.init.constant_(self.conv.weight, scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(x).mean((2, 3)))


PLAIN = Preprocessing((32, 32), (0.0,) * 3, (1.0,) * 3)


def test_features_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    big = featstore.load_backbone(Exploding(1e5), preprocessing=PLAIN)
    with pytest.raises(BadInput, match=r"unit 'conv' reaches 15\d+, .*float16 ends at 65504.* dtype='float32'"):
        extract(big, pictures(4), tmp_path / "s", dtype="float16")
    assert extract(big, pictures(4), tmp_path / "s").features("conv", "pictures").shape == (4, 4)
    split = pictures(5)
    assert isinstance(split.samples, ArraySamples)
    split.samples.images[[0, 1, 3]] = 0
    endless = featstore.load_backbone(Exploding(float("inf")), preprocessing=PLAIN)
    with pytest.raises(
        BadInput, match=r"NaN or infinity for 5 of 5 images of 'pictures': 'pictures/0000', 'pictures/0001'"
    ):
        extract(endless, split, tmp_path / "t")
    huge = featstore.load_backbone(Exploding(3e38), preprocessing=PLAIN)
    with pytest.raises(
        BadInput, match=r"unit 'conv' gives NaN or infinity for 2 of 5 images .*: 'pictures/0002', 'pictures/0004'\."
    ):
        extract(huge, split, tmp_path / "t")


def test_arguments_that_cannot_be_used(backbone: Backbone, tmp_path: Path) -> None:
    split, root = pictures(4), tmp_path / "s"
    with pytest.raises(UnknownName) as error:
        extract(backbone, split, root, units="penultimat")
    assert error.value.nearest[0] == "penultimate"
    with pytest.raises(UnknownName, match="'mean'"):
        extract(backbone, split, root, pool="meen")
    with pytest.raises(UnknownName, match="'amp-fp16'"):
        extract(backbone, split, root, precision="fp16")
    with pytest.raises(BadInput, match="stored as float16, float32, bfloat16"):
        extract(backbone, split, root, dtype="float64")
    with pytest.raises(BadInput, match="'tf32' exists on CUDA devices only"):
        extract(backbone, split, root, precision="tf32")
    with pytest.raises(BadInput, match=r"'cuda:99' is not there: torch .* sees cpu"):
        extract(backbone, split, root, device="cuda:99")
    with pytest.raises(BadInput, match="'tpu' is no device"):
        extract(backbone, split, root, device="tpu")
    for name in ("batch_size", "workers", "block_rows"):
        with pytest.raises(BadInput, match=f"{name} is 0"):
            extract(backbone, split, root, **{name: 0})
    with pytest.raises(BadInput, match="no split was given"):
        extract(backbone, [], root)
    with pytest.raises(BadInput, match="no unit was asked for"):
        extract(backbone, split, root, units=[])


def test_half_precision_is_another_entry_and_leaves_no_trace(backbone: Backbone, tmp_path: Path) -> None:
    split = pictures(8)
    torch.set_float32_matmul_precision("high")
    try:
        store = extract(backbone, split, tmp_path / "s", units="penultimate", precision="amp-bf16")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
    half = store.features("penultimate", split).numpy()
    exact = by_hand(backbone, split, 8)["penultimate"]
    assert not np.array_equal(half, exact)
    assert np.abs(half - exact).max() < 0.05 * np.abs(exact).max(), "bfloat16 keeps 8 bits: 0.4 % per operation"
    extract(backbone, split, store, units="penultimate")
    assert {e.precision for e in store.entries()} == {"fp32", "amp-bf16"}


SWITCHES = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "backends.cudnn.allow_tf32 = False",
    "backends.fp32_precision = 'tf32'",
    "backends.cuda.matmul.fp32_precision = 'tf32'",
    "backends.cudnn.conv.fp32_precision = 'ieee'",
]
"""What a training may have set: by torch's old switches, and by its new ones, after which the old cannot be read."""

ARITHMETIC = """
import sys, torch
from torch import backends
from featstore.devices import arithmetic

def said():
    switches = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv
    return [switch.fp32_precision for switch in switches]

exec(sys.argv[1])
before = said()
for precision, expected in (("fp32", ["ieee"] * 5), ("tf32", ["tf32"] * 3 + ["ieee"] * 2)):
    with arithmetic(precision, torch.device("cpu" if precision == "fp32" else "cuda")):
        assert said() == expected, (precision, said())
    assert said() == before, (precision, said(), before)
"""


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="this torch has the old switches alone")
@pytest.mark.parametrize("setting", SWITCHES)
def test_arithmetic_is_what_is_asked_for_whatever_is_set(setting: str) -> None:
    """TF32 under the name fp32 would be features of another precision under the same identity; in a process of its own."""
    command = [sys.executable, "-W", "error", "-c", ARITHMETIC, setting]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_memory_that_ends_in_cuda_itself_is_the_same_error() -> None:
    """torch has an error for its own blocks; pinned memory, cuBLAS and cuDNN end in others."""
    for words in ("CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"):
        with pytest.raises(BadInput, match="batches of 7 images need more memory"), memory_errors(7):
            raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="device-side assert"), memory_errors(7):
        raise RuntimeError("CUDA error: device-side assert triggered")


def test_the_network_is_put_back_as_it_was_found(backbone: Backbone, tmp_path: Path) -> None:
    """A network in the middle of its training must give features in eval mode, and go on training."""
    expected = by_hand(backbone, pictures(6), 8)["penultimate"]
    backbone.module.train()
    backbone.module.get_submodule("layer2").eval()
    flags = [m.training for m in backbone.module.modules()]
    store = extract(backbone, pictures(6), tmp_path / "s", units="penultimate", engine=FIRST)
    assert [m.training for m in backbone.module.modules()] == flags
    backbone.module.eval()
    assert np.array_equal(store.features("penultimate", "pictures").numpy(), expected)
    with (
        pytest.raises(RuntimeError),
        on_device(backbone.chain, torch.device("cpu")),
        arithmetic("fp32", torch.device("cpu")),
    ):
        raise RuntimeError


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.blocks, self.fc = (
            nn.Conv2d(3, 4, 3),
            nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)),
            nn.Linear(4, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.blocks(self.conv(x if x.sum() > 0 else -x)).mean((2, 3)))


def test_a_network_that_cannot_be_traced_is_extracted_by_hooks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Branching().eval()
    backbone = featstore.load_backbone(module, preprocessing=PLAIN, version="1")
    split = pictures(5)
    store = extract(backbone, split, tmp_path / "s", engine=FIRST)
    with torch.no_grad():
        x = torch.stack([PLAIN(split.image(i)) for i in range(5)])
        expected = module.blocks(module.conv(x)).mean((2, 3)).numpy()
    assert np.array_equal(store.features("penultimate", split).numpy(), expected)
    assert len(store.units(split)) == len(backbone.units) - 1


def test_several_splits_and_real_images(shared: Path, tmp_path: Path) -> None:
    """Real weights, real drawings: equal to torch, torchvision and timm used by hand as the weights' card says."""
    from safetensors.torch import load_file
    from timm.models.efficientnet import _gen_mobilenet_v1
    from torchvision import transforms

    weights = shared / "weights" / "mobilenetv1_025_128.safetensors"
    backbone = featstore.load_backbone(f"benchmarks.networks:mobilenetv1_025@{weights}")
    sketch = featstore.load_split(f"imagefolder:{shared / 'data/pacs/sketch.zip'}").per_class(1)
    art = featstore.load_split(f"imagefolder:{shared / 'data/pacs/art_painting.zip'}").per_class(1)
    store = extract(backbone, [sketch, art], tmp_path / "s", batch_size=16, engine=FIRST)
    module = _gen_mobilenet_v1("mobilenetv1_100", 0.25, pretrained=False, pad_type="same").eval()
    module.load_state_dict(load_file(weights), strict=False)
    prepare = transforms.Compose(
        [
            transforms.Resize(146),
            transforms.CenterCrop(128),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    for split in (sketch, art):
        assert len(split) == 7
        images = [Image.open(io.BytesIO(bytes(split.samples.read(i)))).convert("RGB") for i in range(len(split))]
        with torch.no_grad():
            expected = module.forward_head(
                module.forward_features(torch.stack([prepare(i) for i in images])), pre_logits=True
            )
        found = store.features("penultimate", split)
        assert np.array_equal(found.numpy(), expected.numpy())


def test_the_benchmark_runs() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_extract.py"), "--tiny"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "penultimate" in done.stdout
    assert "of the bare loop" in done.stdout


@pytest.mark.gpu
def test_a_gpu_gives_the_same_features(backbone: Backbone, tmp_path: Path) -> None:
    """In fp32 without TF32, sums in another order: 1e-4 of the largest feature."""
    split = pictures(40)
    store = extract(backbone, split, tmp_path / "s", device="cuda")
    assert next(backbone.module.parameters()).device.type == "cpu", "put back where it was"
    for unit, values in by_hand(backbone, split, 40).items():
        if unit != "head":
            assert np.abs(store.features(unit, split).numpy() - values).max() <= 1e-4 * np.abs(values).max(), unit
