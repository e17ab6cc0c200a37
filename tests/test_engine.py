"""How a network is run changes no bit, or rounding at most, and what is said of its speed is what happened."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_extraction import extract, pictures

import featstore
from featstore import Backbone, BadInput, Engine, Preprocessing, Report, Split, UnreadableImage, WorkerLost, forwarding
from featstore.capture import capture
from featstore.compiled import apart, filled_up, trunk
from featstore.datasets.arrays import ArraySamples
from featstore.engine import channels_last
from featstore.jpegs import EncodedBatch, _is_plain_jpeg, load_encoded, resized
from featstore.loading import Loader, load_batches
from featstore.roofline import flops_per_image, peak_flops
from featstore.stages import STAGES, Stages
from featstore.units import cut

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return featstore.load_backbone("featstore:cifar_resnet20", weights=None)


class Files:
    """Encoded images in memory."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, i: int) -> bytes:
        return self.contents[i]

    def describe(self, i: int) -> str:
        return f"file {i}"

    def stat(self, i: int) -> None:
        return None


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(height: int, width: int, mode: str = "RGB") -> Image.Image:
    """A smooth picture, of which every decoder makes nearly the same."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    values = np.stack([255 * x, 255 * y, 120 + 100 * np.sin(5 * (x + y))], 2).clip(0, 255).astype(np.uint8)
    return Image.fromarray(values).convert(mode)


def files(contents: list[bytes], **changes: Any) -> Split:
    ids = np.array([f"{i}.jpg" for i in range(len(contents))])
    return replace(Split("files", ids, None, (), Files(contents)), **changes)


# ---- processes


def test_processes_and_threads_prepare_the_same_bytes(backbone: Backbone, tmp_path: Path) -> None:
    """Else how many cores a machine has would change its features."""
    split = pictures(70)
    batches = [range(40), range(40, 41), range(41, 70)]
    by_threads = list(load_batches(split, backbone.preprocessing, batches, Loader(2), Stages()))
    assert [rows for rows, _ in by_threads] == batches
    for n, ahead in ((1, 0), (2, 2)):
        stages = Stages()
        by_processes = load_batches(split, backbone.preprocessing, batches, Loader(n, ahead, processes=True), stages)
        for (_, expected), (rows, found) in zip(by_threads, by_processes, strict=True):
            assert torch.equal(found, expected), rows
        assert stages.seconds["preprocess"] > 0, "measured in the processes"
    plain = extract(backbone, split, tmp_path / "threads")
    other = extract(backbone, split, tmp_path / "processes", workers=1, engine=Engine(processes=True))
    for unit in backbone.units[:-1]:
        assert plain.features(unit, split).numpy().tobytes() == other.features(unit, split).numpy().tobytes()


class Slow(ArraySamples):
    """Takes a while for each image."""

    def read(self, i: int) -> Any:
        time.sleep(0.05)
        return super().read(i)


def test_a_killed_worker_is_one_clear_error_and_the_store_goes_on(backbone: Backbone, tmp_path: Path) -> None:
    quick = pictures(64)
    split = replace(
        quick, samples=Slow(quick.samples.pixels if hasattr(quick.samples, "pixels") else _pixels(quick), "p")
    )
    split.digest()
    killed: list[int] = []

    def kill() -> None:
        stop = time.monotonic() + 60
        while not killed and time.monotonic() < stop:
            workers = multiprocessing.active_children()
            written = list((tmp_path / "s").rglob("c.*")) if (tmp_path / "s").exists() else []
            if workers and written:
                workers[0].kill()
                killed.append(workers[0].pid or 0)
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with pytest.raises(
            WorkerLost, match=r"was killed.*What was stored is kept, and the same command goes on there"
        ):
            extract(backbone, split, tmp_path / "s", workers=1, engine=Engine(processes=True), block_rows=8)
    finally:
        thread.join()
    assert killed
    there = featstore.open_store(tmp_path / "s").entries()
    assert 0 < min(e.share for e in there) < 1
    extract(backbone, quick, tmp_path / "s", block_rows=8)
    extract(backbone, quick, tmp_path / "alone", block_rows=8)
    for unit in backbone.units[:-1]:
        again, alone = (featstore.open_store(tmp_path / name).features(unit, quick).numpy() for name in ("s", "alone"))
        assert again.tobytes() == alone.tobytes()
    assert not multiprocessing.active_children(), "no worker is left behind"


def _pixels(split: Split) -> np.ndarray:
    return np.stack([np.asarray(split.samples.read(i)) for i in range(len(split))])


def test_an_unreadable_image_is_named_by_a_process_as_by_a_thread(backbone: Backbone) -> None:
    split = files([encoded(picture(32, 32)), b"no image"])
    said = []
    for processes in (False, True):
        with pytest.raises(UnreadableImage, match="file 1 does not decode") as error:
            list(load_batches(split, backbone.preprocessing, [range(2)], Loader(1, processes=processes), Stages()))
        said.append(str(error.value))
    assert said[0] == said[1]


def test_images_that_cannot_travel_are_refused(backbone: Backbone) -> None:
    class Local(Files):
        pass

    split = replace(files([b""]), samples=Local([b""]))
    with pytest.raises(BadInput, match="cannot be handed to other processes"):
        list(load_batches(split, backbone.preprocessing, [range(1)], Loader(1, processes=True), Stages()))


# ---- JPEG files on the device; the code is the same on a CPU, where torchvision decodes with libjpeg


SMALL = Preprocessing((24, 24), (0.0,) * 3, (1.0,) * 3, resize=32, crop=(24, 24), decoder="nvjpeg")


def on_device(split: Split, prepared: Preprocessing = SMALL) -> torch.Tensor:
    (batch,) = load_encoded(split, prepared, [range(len(split))], Loader(2), Stages())
    return batch[1].to(CPU)


def test_jpegs_are_prepared_as_pil_does_up_to_its_rounding(tmp_path: Path) -> None:
    """Smooth pictures, by another decoder and a resize of tensors: within 4 of 255 levels, and half a level on average."""
    split = files([encoded(picture(h, w), quality=95) for h, w in ((40, 60), (60, 40), (32, 32), (90, 33))])
    found = on_device(split)
    assert found.shape == (4, 24, 24, 3)
    assert found.dtype == torch.uint8
    expected = np.stack([SMALL.decoded_by("pil").pixels(split.image(i)) for i in range(4)])
    difference = np.abs(found.numpy().astype(int) - expected)
    assert difference.max() <= 4
    assert difference.mean() < 0.5


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_tensors_are_resized_and_cropped_as_images_are(interpolation: str) -> None:
    """The same steps as PIL's, whose weights are rounded to 8 bits: within 1 of 255 levels."""
    for size in ((40, 60), (33, 90), (20, 30), (24, 24)):
        for prepared in (
            replace(SMALL, interpolation=interpolation),
            replace(SMALL, interpolation=interpolation, resize=(24, 24), crop=None),
            replace(SMALL, interpolation=interpolation, resize=None),
            replace(SMALL, interpolation=interpolation, resize=15),
        ):
            image = picture(*size)
            mine = resized(torch.from_numpy(np.array(image)).permute(2, 0, 1), prepared).permute(1, 2, 0)
            pils = prepared.decoded_by("pil").pixels(image)
            assert np.abs(mine.numpy().astype(int) - pils).max() <= 1, (size, prepared)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(picture(40, 60), quality=95, exif=exif)


OTHERS = {
    "png": lambda: encoded(picture(40, 60), "PNG"),
    "cmyk": lambda: encoded(picture(40, 60, "CMYK"), quality=95),
    "turned": turned,
    "rgb": lambda: encoded(picture(40, 60), quality=95, keep_rgb=True),
    "16 bit": lambda: encoded(Image.fromarray(np.full((40, 40), 30_000, np.uint16)), "PNG"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_a_gpu_does_not_decode_pil_does(kind: str) -> None:
    """Turned photographs stay upright and CMYK gets its colours, whatever the decoder."""
    split = files([OTHERS[kind](), encoded(picture(40, 60), quality=95)])
    (_, batch), = load_encoded(split, SMALL, [range(2)], Loader(1), Stages())  # fmt: skip
    assert [isinstance(image, bytes) for image in batch.images] == [False, True]
    expected = SMALL.decoded_by("pil").pixels(split.image(0))
    assert np.abs(batch.to(CPU)[0].numpy().astype(int) - expected).max() <= 1


def test_what_no_decoder_reads_is_named() -> None:
    whole = encoded(picture(64, 64), quality=95)
    with pytest.raises(UnreadableImage, match="file 1 does not decode"):
        on_device(files([whole, whole[:-400]]))  # cut off: a decoder on the device might fill the rest with grey
    holed = whole[:2] + b"\xff\xe0" + whole[4:20] + b"\0" * (len(whole) - 22) + b"\xff\xd9"
    with pytest.raises(UnreadableImage, match="file 1 does not decode"):
        on_device(files([whole, holed]))
    broken = EncodedBatch(files([whole, whole]), range(2), SMALL, [whole, whole[:200] + b"\xff\xd9"])
    with pytest.raises(UnreadableImage, match="file 1 does not decode on cpu"):
        broken.to(CPU)
    with pytest.raises(BadInput, match="file 0: the image is 40 × 60 after preprocessing"):
        on_device(files([encoded(picture(40, 60))]), replace(SMALL, resize=None, crop=None))


def test_a_shift_is_applied_before() -> None:
    dark = featstore.versioned(lambda image, name: image.point(lambda v: 0), version="black")
    assert on_device(files([encoded(picture(40, 60))], transforms=(dark,))).max() == 0


def test_the_decoder_is_identity(backbone: Backbone, tmp_path: Path) -> None:
    """PIL's is not named in it, so that what was stored before is found."""
    other = backbone.decoded_by("nvjpeg")
    split = pictures(4)
    digests = {featstore.plan(b, split, tmp_path / "s").parts[0].key.digest for b in (backbone, other)}
    assert len(digests) == 2
    assert "decoder" not in backbone.preprocessing.to_json()
    assert Preprocessing.from_json(other.preprocessing.to_json()) == other.preprocessing
    with pytest.raises(BadInput, match="'nvjpeg' runs on CUDA devices and the device is 'cpu'"):
        extract(other, split, tmp_path / "s")
    with pytest.raises(BadInput, match="takes files, and an image is decoded already"):
        other.preprocessing(split.image(0))
    with pytest.raises(featstore.UnknownName, match="decoder"):
        backbone.decoded_by("libjpeg")


def test_usual_photographs_go_to_the_device() -> None:
    """All samplings that cameras and PIL write; another one, which nvJPEG may not know, is PIL's."""
    kinds = [encoded(picture(40, 60), quality=95, subsampling=s) for s in ("4:4:4", "4:2:2", "4:2:0")]
    kinds += [encoded(picture(40, 60, "L")), encoded(picture(40, 60), progressive=True)]
    odd = bytearray(kinds[0])
    frame = odd.index(b"\xff\xc0")
    assert odd[frame + 10 : frame + 18 : 3] == b"\x01\x02\x03"
    odd[frame + 14] = 0x22  # the blue channel as fine as two by two: no sampling that has a name
    batches = load_encoded(files([*kinds, bytes(odd)]), SMALL, [range(5)], Loader(1), Stages())
    (_, batch), = batches  # fmt: skip
    assert all(isinstance(image, bytes) for image in batch.images)
    assert not _is_plain_jpeg(bytes(odd))


# ---- how the network is run


def test_the_compiled_function_is_the_chain(backbone: Backbone) -> None:
    """What torch compiles says what the units say, also where the next unit writes into its input."""
    x = backbone.example(3)
    chain, wanted = backbone.chain, backbone.units
    expected: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        chain.visit(x.clone(), wanted, lambda unit, y: expected.update({unit: y.clone()}))
        for unit, output in zip(wanted, trunk(chain, wanted)(x.clone()), strict=True):
            assert torch.equal(output, expected[unit]), unit


def test_every_network_is_compiled() -> None:
    """torch keeps eight compiled versions of a function's code and runs the ninth uncompiled: networks must not share one code."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    for width in range(2, 12):
        layers = torch.nn.Sequential(torch.nn.Conv2d(3, width, 1), torch.nn.Flatten(), torch.nn.Linear(16 * width, 2))
        chain = cut(layers.eval(), torch.zeros(1, 3, 4, 4))
        for _ in range(2):
            with torch.no_grad():
                torch.compile(apart(trunk(chain, chain.names), chain, chain.names), dynamic=False, backend=counter)(
                    torch.ones(2, 3, 4, 4)
                )
    assert counter.frame_count == 10, "and the same network once"


def test_a_batch_is_filled_up_in_its_order_in_memory() -> None:
    """Another order would be compiled for again, a minute for one batch."""
    for order in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(3, 4, 5, 6).contiguous(memory_format=order)
        whole = filled_up(x, 5)
        assert torch.equal(whole[:3], x)
        assert torch.equal(whole[3:], x[2:].expand(2, 4, 5, 6))
        assert whole.stride() == torch.empty(5, 4, 5, 6, memory_format=order).stride()


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_features(tmp_path: Path) -> None:
    """Up to the order of sums, 1e-5 of the largest; the last batch is smaller than the others."""
    small = featstore.load_backbone("featstore:digits_net")
    split = featstore.load_split("digits:test")
    split = split.subset(range(21), "few")
    plain = extract(small, split, tmp_path / "plain", units="conv1")
    fused = extract(small, split, tmp_path / "fused", units="conv1", engine=Engine(compile=True))
    a, b = (store.features("conv1", split) for store in (plain, fused))
    assert np.abs(a.numpy() - b.numpy()).max() <= 1e-5 * np.abs(a.numpy()).max()
    assert b.manifest["provenance"]["compile"] is True
    assert "compile" not in a.manifest["provenance"]


def test_channels_last_changes_rounding_alone_and_is_put_back(backbone: Backbone, tmp_path: Path) -> None:
    """On a CPU it is the default, as a comparison with what was asked for shows."""
    split = pictures(9)
    first = extract(backbone, split, tmp_path / "first", engine=Engine(channels_last=False))
    last = extract(backbone, split, tmp_path / "last", engine=Engine(channels_last=True))
    usual = extract(backbone, split, tmp_path / "usual")
    for unit in backbone.units[:-1]:
        a, b, c = (store.features(unit, split).numpy() for store in (first, last, usual))
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
        assert np.array_equal(b, c)
    said = [store.features("layer1", split).manifest["provenance"]["channels_last"] for store in (first, last, usual)]
    assert said == [False, True, True]
    with channels_last(backbone.chain, True):
        assert not backbone.module.conv1.weight.is_contiguous()
    assert all(p.is_contiguous() for p in backbone.module.parameters())


class Viewing(torch.nn.Module):
    """Depends on the order in memory, as many networks written by hand do."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(n_channels, 4, 3), torch.nn.Linear(4 * 30 * 30, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.fc(x.view(x.size(0), -1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_network_that_views_its_maps_gets_the_order_that_it_needs(tmp_path: Path, mode: Any) -> None:
    """Of grey images both orders are one, but not of the maps that come after them."""
    torch.manual_seed(0)
    n = len(mode)
    plain = featstore.Preprocessing((32, 32), mean=(0,) * n, std=(1,) * n, mode=mode)
    backbone = featstore.load_backbone(Viewing(n).eval(), preprocessing=plain)
    split = pictures(19)
    first = extract(backbone, split, tmp_path / "first", engine=Engine(channels_last=False), units=["all", "head"])
    usual = extract(backbone, split, tmp_path / "usual", units=["all", "head"])
    for unit in backbone.units:
        a, b = (store.features(unit, split).numpy() for store in (first, usual))
        assert np.allclose(a, b, atol=1e-6)
    assert not backbone.prefers_channels_last("cpu")
    with pytest.raises(BadInput, match="Viewing views its maps"):
        extract(backbone, split, tmp_path / "asked", engine=Engine(channels_last=True), units=["all", "head"])


def test_what_breaks_a_promise_is_refused(backbone: Backbone, tmp_path: Path) -> None:
    for engine in (Engine(compile=True), Engine(channels_last=True)):
        with pytest.raises(BadInput, match="promised to the bit"):
            extract(backbone, pictures(2), tmp_path, deterministic=True, engine=engine)
    with pytest.raises(BadInput, match="ahead is -1"):
        Engine(ahead=-1)


# ---- what is said of it


def test_a_report_says_what_the_stages_took(backbone: Backbone, tmp_path: Path) -> None:
    """Decoding that sleeps is the bottleneck, and the seconds of all stages are those of the whole, nearly."""
    quick = pictures(24)
    slow = replace(quick, samples=Slow(_pixels(quick), "p"))
    slow.digest()
    reports: list[Report] = []
    extract(backbone, slow, tmp_path / "s", workers=2, report=reports.append, engine=Engine(roofline=True))
    (said,) = reports
    assert tuple(said.stages) == STAGES
    assert said.bottleneck == "read and decode"
    assert said.n_images == 24
    assert 24 * 0.05 / 2 <= said.stages["read and decode"] <= said.seconds
    assert said.waiting >= 24 * 0.05 / 2, "on a CPU nothing is prepared ahead"
    assert sum(said.stages.values()) <= said.seconds * 1.05
    assert min(said.stages.values()) >= 0
    assert said.stages["forward"] > 0
    assert said.share_of_peak is not None
    assert 0 < said.share_of_peak < 1
    assert json.loads(json.dumps(said.to_json()))["bottleneck"] == "read and decode"
    assert "longest: read and decode" in str(said)
    reports.clear()
    extract(backbone, slow, tmp_path / "s", report=reports.append)
    assert reports == [], "nothing was computed"


def test_operations_are_counted_as_by_hand(backbone: Backbone) -> None:
    """He et al. (2015): 40.8 million multiply-adds for 20 layers on 32 × 32, shortcuts without parameters; two operations each."""
    x = backbone.example(1)
    assert flops_per_image(backbone.chain, x, {"head"}) == pytest.approx(2 * 40.8e6, rel=0.01)
    conv = 2 * 16 * 3 * 9 * 32 * 32
    assert flops_per_image(backbone.chain, x, {"conv1"}) == conv
    assert peak_flops(CPU, "fp32") == peak_flops(CPU, "fp32"), "measured once"
    assert peak_flops(CPU, "fp32") > 1e8


def test_capture_times_pooling_inside_the_forward_pass(backbone: Backbone) -> None:
    stages = Stages()

    def slow(x: torch.Tensor, axis: int) -> torch.Tensor:
        time.sleep(0.05)
        return x.flatten(1)

    with stages.timed("forward"):
        capture(
            backbone.chain,
            backbone.example(1),
            [("conv1", featstore.pooling(slow, version="1"))],
            {"conv1": 0},
            stages.timed,
        )
    assert stages.seconds["pool"] >= 0.05
    assert stages.seconds["forward"] < 0.05


# ---- memory


MEMORY = """
import sys
sys.path.insert(0, {tests!r})
import numpy as np, torch
torch.set_num_threads(1)
import featstore
from test_engine import Made
from toys import peak_megabytes
from featstore import Split
n = int(sys.argv[1])
split = Split("made", np.array([str(i) for i in range(n)]), None, (), Made(n))
backbone = featstore.load_backbone("featstore:digits_net")
featstore.extract(backbone, split.subset(range(64), "few"), {root!r} + "/few", batch_size=64, block_rows=256, progress=False)
featstore.extract(backbone, split, {root!r} + f"/{{n}}", pool=["none", "mean"], dtype="float32", batch_size=64,
                  block_rows=256, progress=False)
print(peak_megabytes())
"""


class Made:
    """Grey pictures of 8 × 8 pixels that are made when they are asked for."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> np.ndarray:
        return (np.arange(64, dtype=np.int64) * (i + 1) % 251).astype(np.uint8).reshape(8, 8)

    def describe(self, i: int) -> str:
        return f"picture {i}"

    def stat(self, i: int) -> None:
        return None


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the peak of a process of its own")
def test_the_memory_of_an_extraction_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """1,000 and 10,000 images, 5 and 46 MB of features, in processes of their own: the peaks differ by less than 20 MB."""
    peaks = []
    for n in (1_000, 10_000):
        script = MEMORY.format(tests=str(Path(__file__).parent), root=str(tmp_path))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-W", "ignore", "-c", script, str(n)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(float(done.stdout))
    size = sum(p.stat().st_size for p in (tmp_path / "10000").rglob("c.*")) / 1e6
    assert size > 40
    assert abs(peaks[1] - peaks[0]) < 20, peaks


def test_the_benchmark_for_a_gpu_runs(tmp_path: Path) -> None:
    """On a CPU, in seconds; where there is no GPU it says what was not measured."""
    script = ROOT / "benchmarks" / "gpu_extract.py"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}", "OMP_NUM_THREADS": "1"}

    def run(*options: str) -> str:
        command = [sys.executable, str(script), "--out", str(tmp_path), *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "by threads, bar 0.90" in run("--quick")
    rows = json.loads((tmp_path / "gpu_extract.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["pixels ready", "threads", "nvjpeg"]
    assert set(rows[1]["report"]["stages"]) == set(STAGES)
    assert "runs on CUDA devices" in rows[2]["why"]
    if not torch.cuda.is_available():
        assert "not measured: no CUDA device" in run()


# ---- on a GPU


class Queue:
    """Events of a GPU that gets no further than the host has waited for: the slowest there can be."""

    def __init__(self) -> None:
        self.recorded = self.reached = 0

    def event(self) -> Any:
        queue = self

        class Event:
            at = 0

            def record(self, stream: object = None) -> None:
                queue.recorded += 1
                self.at = queue.recorded

            def synchronize(self) -> None:
                queue.reached = max(queue.reached, self.at)

            def elapsed_time(self, end: Any) -> float:
                assert 0 < self.at < end.at <= queue.reached, "CUDA raises: an event has not been reached"
                return 1.0

        return Event()


def test_no_time_is_asked_for_before_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span's end that is recorded after the event that is waited for is reached in time nearly always, and then not."""
    from contextlib import nullcontext

    queue, empty = Queue(), torch.empty
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(forwarding, "_event", queue.event)
    monkeypatch.setattr(torch, "empty", lambda *a, pin_memory=False, **k: empty(*a, **k))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    for name, value in (
        ("Stream", stream),
        ("current_stream", stream),
        ("stream", nullcontext()),
        ("device", nullcontext()),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *a, value=value: value)

    class Network:
        device = CPU

        def __call__(self, x: torch.Tensor, clock: Any) -> dict[tuple[str, str], torch.Tensor]:
            with clock("forward"), clock("pool", "forward"):
                return {("unit", "mean"): x.float().mean((1, 2))}

    batches = [(range(3 * i, 3 * i + 3), torch.full((3, 2, 2, 1), i, dtype=torch.uint8)) for i in range(4)]
    stages = Stages()
    for i, (rows, found) in enumerate(forwarding._overlapping(Network(), iter(batches), stages)):  # type: ignore[arg-type]
        assert (rows, found["unit", "mean"].tolist()) == (batches[i][0], [[float(i)]] * 3)
    assert i == 3
    assert stages.seconds["copy back"] == pytest.approx(0.004)
    assert stages.seconds["forward"] == pytest.approx(0.0), "one millisecond each, and pooling lay inside"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "amp-fp16", "amp-bf16"])
def test_overlapping_changes_nothing(backbone: Backbone, tmp_path: Path, precision: str) -> None:
    """Streams, pinned memory and batches ahead: every row is its own image's, within the precision's rounding of the CPU's."""
    split = pictures(203)
    reports: list[Report] = []
    store = extract(
        backbone,
        split,
        tmp_path / "gpu",
        device="cuda",
        precision=precision,
        report=reports.append,
        engine=Engine(roofline=True),
    )
    plain = extract(backbone, split, tmp_path / "cpu")
    allowed = {"fp32": 1e-4, "tf32": 1e-2, "amp-fp16": 2e-2, "amp-bf16": 8e-2}[precision]
    for unit in backbone.units[:-1]:
        a, b = plain.features(unit, split).numpy(), store.features(unit, split).numpy()
        assert np.abs(a - b).max() <= allowed * np.abs(a).max(), unit
    assert all(p.is_contiguous() for p in backbone.module.parameters())
    assert min(reports[0].stages[stage] for stage in ("copy in", "forward", "pool", "copy back")) > 0


@pytest.mark.gpu
@pytest.mark.parametrize(("subsampling", "most", "mean"), [(0, 8, 1), (2, 40, 5)])
def test_nvjpeg_gives_nearly_pils_pixels(subsampling: int, most: int, mean: int) -> None:
    """Where colours have half the resolution (4:2:0) it repeats them and PIL interpolates.

    With libjpeg-turbo, either way, that makes up to 22 levels in one pixel of these pictures, 1.2 to 3.7 on average.
    """
    sizes = ((40, 60), (60, 40), (32, 32), (90, 33))
    split = files([encoded(picture(h, w), quality=95, subsampling=subsampling) for h, w in sizes])
    (_, batch), = load_encoded(split, SMALL, [range(4)], Loader(2), Stages())  # fmt: skip
    found = batch.to(torch.device("cuda")).cpu().numpy().astype(int)
    expected = np.stack([SMALL.decoded_by("pil").pixels(split.image(i)) for i in range(4)])
    assert np.abs(found - expected).max() <= most
    assert np.abs(found - expected).mean() < mean
