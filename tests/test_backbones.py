"""Backbones: the weights that were asked for, read without executing anything, and identified by what they are."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from featstore import Backbone, BadInput, IdentityError, Preprocessing, UnknownName, load_backbone, load_split
from featstore.architectures import ARCHITECTURES

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = ARCHITECTURES["digits_net"]
GREY8 = DIGITS.preprocessing


def golden_input(channels: int, size: int) -> torch.Tensor:
    return (
        torch.sin(torch.arange(channels * size * size, dtype=torch.float64) * 0.0137)
        .float()
        .reshape(1, channels, size, size)
    )


def mobilenetv2_padded_evenly() -> tuple[nn.Module, Preprocessing]:
    """The network with which the golden output was computed: without TensorFlow's padding, for which the card asks."""
    import timm

    from benchmarks.networks import tensorflow_preprocessing

    return timm.create_model("mobilenetv2_100", pretrained=False), tensorflow_preprocessing(224)


@pytest.mark.parametrize(
    ("card", "spec"),
    [
        ("cifar10_resnet20", "featstore:cifar_resnet20"),
        ("cifar10_resnet56", "featstore:cifar_resnet56"),
        ("mnist_lenet", "featstore:lenet"),
        ("squeezenet1_1", "torchvision:squeezenet1_1"),
        ("mobilenetv1_025_128", "benchmarks.networks:mobilenetv1_025"),
        ("mobilenetv1_050_160", "benchmarks.networks:mobilenetv1_050"),
        ("mobilenetv2_100_keras", "test_backbones:mobilenetv2_padded_evenly"),
    ],
)
def test_real_weights_give_their_golden_output(shared: Path, card: str, spec: str) -> None:
    """Published weights in our architectures and in the libraries' give what their card says, through the chain of units."""
    said = json.loads((shared / "weights" / f"{card}.json").read_text())
    backbone = load_backbone(f"{spec}@{shared / 'weights' / card}.safetensors")
    prepared = said["preprocessing"]
    size = said.get("input_size", prepared.get("size"))
    assert backbone.preprocessing.input_size == (size, size)
    if "mean" in prepared:
        assert backbone.preprocessing.mean == tuple(prepared["mean"])
        assert backbone.preprocessing.std == tuple(prepared["std"])
    with torch.no_grad():
        output = backbone.chain.run(golden_input(backbone.preprocessing.n_channels, size))[0]
    # sums in another order on another machine: a relative 1e-4 is far above that, and far below any mistake
    assert np.allclose(output[:5].numpy(), said["golden"]["first5"], rtol=1e-4, atol=1e-3)
    assert output.norm().item() == pytest.approx(said["golden"]["norm"], rel=1e-4)


def test_the_digits_network_knows_its_source_domain() -> None:
    """What `probe quickstart` rests on: good on clean digits, lost on shifted ones."""
    backbone = load_backbone("featstore:digits_net")
    assert backbone.units == ("conv1", "conv2", "penultimate", "head")
    assert DIGITS.bundled is not None
    assert DIGITS.bundled.stat().st_size < 300_000

    def accuracy(name: str) -> float:
        split = load_split(name)
        with torch.no_grad():
            logits = backbone.module(torch.stack([backbone.preprocessing(split.image(i)) for i in range(len(split))]))
        return float((logits.argmax(1).numpy() == split.labels).mean())

    assert accuracy("digits:test") > 0.96, "451 images it has not seen"
    assert accuracy("digits:source#held(0.2,seed=0)") > 0.97, "179 images that were held out of its training"
    for shift in ("blur(1.0)", "rotate(30)", "invert()"):
        assert accuracy(f"digits:test+{shift}") < 0.7, shift


def saved(path: Path, change: float = 0.0) -> Path:
    """Write the digits network's weights, one of them changed."""
    assert DIGITS.bundled is not None
    tensors = load_file(DIGITS.bundled)
    if change:
        flat = tensors["conv2.weight"].view(-1)
        flat[7] = flat[7] + change
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def test_the_digest_is_that_of_the_tensors(tmp_path: Path) -> None:
    """One changed weight must be another network; how the file was written must not matter."""
    original = load_backbone("featstore:digits_net").weights_digest
    again = load_backbone("featstore:digits_net", weights=saved(tmp_path / "a.safetensors"))
    assert again.weights_digest == original
    assert again.weights == "file a.safetensors"
    assert load_backbone(f"featstore:digits_net@{saved(tmp_path / 'a.pth')}").weights_digest == original
    wrapped = tmp_path / "wrapped.pt"
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in load_file(tmp_path / "a.safetensors").items()}},
        wrapped,
    )
    assert load_backbone(f"featstore:digits_net@{wrapped}").weights_digest == original
    assert DIGITS.bundled is not None
    weight = load_file(DIGITS.bundled)["conv2.weight"].view(-1)[7]
    ulp = float(torch.nextafter(weight, torch.tensor(9.0)) - weight)
    assert load_backbone(f"featstore:digits_net@{saved(tmp_path / 'b.pth', ulp)}").weights_digest != original


def test_the_digest_follows_training() -> None:
    """Features of a network that was tuned since it was loaded must not be filed under the old weights."""
    backbone = load_backbone("featstore:digits_net")
    before = backbone.weights_digest
    with torch.no_grad():
        backbone.module.get_parameter("conv1.bias").data += 1e-3
    assert backbone.weights_digest != before


class Normed(nn.Module):
    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=stride, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(x)).mean((2, 3)))


def made(module: nn.Module, **arguments: object) -> Backbone:
    return load_backbone(module, preprocessing=GREY8, **arguments)  # type: ignore[arg-type]


def test_what_changes_no_output_changes_no_digest_and_the_other_way_round() -> None:
    torch.manual_seed(0)
    first = made(Normed())
    digest, cut = first.weights_digest, first.cut
    first.module.get_buffer("bn.num_batches_tracked").add_(5)
    assert first.weights_digest == digest, "batch norm's counter is not part of what it computes in eval mode"
    first.module.get_buffer("bn.running_mean").add_(1e-3)
    assert first.weights_digest != digest, "its statistics are"
    torch.manual_seed(0)
    strided = made(Normed(stride=2))
    assert strided.weights_digest == digest, "the same weights"
    assert strided.cut != cut, "in another architecture"
    torch.manual_seed(0)
    looser = made(Normed())
    bn = looser.module.get_submodule("bn")
    assert isinstance(bn, nn.BatchNorm2d)
    bn.eps = 1e-3
    assert made(looser.module).cut != cut, "settings of layers are part of the architecture"


def test_cuts_differ_by_granularity_and_are_the_same_each_time() -> None:
    coarse, fine = (load_backbone("featstore:cifar_resnet20", weights=None, units=u) for u in ("coarse", "fine"))  # type: ignore[arg-type]
    assert coarse.cut.startswith("coarse:")
    assert fine.cut.startswith("fine:")
    assert coarse.weights_digest == fine.weights_digest
    assert coarse.cut == load_backbone("featstore:cifar_resnet20", weights=None, seed=1).cut


CUTS = """
import sys, featstore
for spec in sys.argv[1:]:
    for units in ("coarse", "fine"):
        print(featstore.load_backbone(spec, weights=None, units=units).cut)
"""


def test_a_cut_is_the_same_in_every_process() -> None:
    """An address or an order of hashing in what identifies a network would make every process extract anew."""
    specs = ("timm:swin_tiny_patch4_window7_224", "torchvision:densenet121", "featstore:lenet")
    runs = [run_python(CUTS, *specs, PYTHONHASHSEED=seed) for seed in ("1", "2")]
    assert runs[0].stdout == runs[1].stdout, runs[0].stderr
    assert len(set(runs[0].stdout.split())) == 6


def test_auxiliary_classifiers_do_not_count() -> None:
    """torchvision's GoogLeNet with and without its auxiliary classifiers computes the same in eval mode."""
    torch.manual_seed(0)
    import torchvision

    arguments = {"weights": None, "init_weights": False, "transform_input": True}
    with_aux = torchvision.models.googlenet(aux_logits=True, **arguments)
    without = torchvision.models.googlenet(aux_logits=False, **arguments)
    without.load_state_dict({k: v for k, v in with_aux.state_dict().items() if not k.startswith("aux")})
    small = Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3, resize=64, crop=(64, 64))
    a, b = (load_backbone(m, preprocessing=small) for m in (with_aux, without))
    assert a.weights_digest == b.weights_digest
    assert a.cut == b.cut


def test_files_for_networks_with_auxiliary_classifiers_fit(tmp_path: Path) -> None:
    import torchvision

    for aux in (True, False):
        module = torchvision.models.googlenet(weights=None, aux_logits=aux, init_weights=False)
        torch.save(module.state_dict(), tmp_path / "googlenet.pth")
        backbone = load_backbone(f"torchvision:googlenet@{tmp_path / 'googlenet.pth'}")
        assert backbone.units[-3:] == ("inception5b", "penultimate", "head")
        assert backbone.module.transform_input is True, "as torchvision builds it for its own weights"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil-was-here",)


def test_a_file_that_wants_to_run_something_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": torch.zeros(1), "extra": Evil()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(BadInput, match=rf"{name} (holds more than tensors|is not a file of weights)") as error:
            load_backbone(f"featstore:digits_net@{name}")
        assert "weights_only" not in str(error.value), "torch's advice is to run what is in it"
    assert not Path("evil-was-here").exists()


def test_weights_that_do_not_fit_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"conv1.weight": torch.zeros(32, 1, 3, 3), "conv1.bias": torch.zeros(31), "other": torch.zeros(1)}, path)
    with pytest.raises(BadInput) as error:
        load_backbone("featstore:digits_net", weights=path)
    for words in (
        "6 tensors are missing",
        "1 are unknown to the network (other)",
        "conv1.bias is (31,) in the file and (32,)",
    ):
        assert words in str(error.value)
    with pytest.raises(BadInput, match="does not exist"):
        load_backbone("featstore:digits_net", weights=tmp_path / "nowhere.pth")
    path.write_bytes(b"no safetensors")
    with pytest.raises(BadInput, match="not a whole safetensors file"):
        load_backbone("featstore:digits_net", weights=path)
    for junk in (b"no pickle", b"junk", b""):  # as pickles they spell different failures
        path.with_suffix(".pth").write_bytes(junk)
        with pytest.raises(BadInput, match=r"w\.pth"):
            load_backbone("featstore:digits_net", weights=path.with_suffix(".pth"))
    with pytest.raises(BadInput, match="give one of them"):
        load_backbone(f"featstore:digits_net@{path}", weights=path)


def test_random_weights_are_seeded_and_said_aloud(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    digests = [load_backbone("featstore:lenet", weights=None, seed=s).weights_digest for s in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers are left alone"
    assert "featstore:lenet has random weights (seed 1)" in capsys.readouterr().err
    with pytest.raises(BadInput, match="no weights are installed for featstore:lenet"):
        load_backbone("featstore:lenet")


def test_timm_names_are_resolved_with_their_tag() -> None:
    backbone = load_backbone("timm:resnet18", weights=None)
    assert backbone.name == "timm:resnet18.a1_in1k"
    tagged = load_backbone("timm:resnet18.tv_in1k", weights=None)
    assert tagged.name == "timm:resnet18.tv_in1k"
    assert backbone.preprocessing.interpolation == "bicubic"
    assert tagged.preprocessing.interpolation == "bilinear", "preprocessing is that of the tag"
    for spec, nearest in (
        ("timm:resnet-18", "resnet18"),
        ("timm:resnet18.tv_in2k", "resnet18.tv_in1k"),
        ("torchvision:resnet-18", "resnet18"),
        ("torchvision:resnet50.IMAGENET1K_V3", "IMAGENET1K_V1"),
        ("featstore:cifar-resnet20", "cifar_resnet20"),
        ("tim:resnet18", "timm"),
    ):
        with pytest.raises(UnknownName) as error:
            load_backbone(spec, weights=None)
        assert nearest in error.value.nearest, spec


def test_timm_weights_of_its_authors_format_are_renamed(tmp_path: Path) -> None:
    """ConvNeXt's authors publish other names than timm has; timm knows how to rename them."""
    import timm

    torch.manual_seed(0)
    module = timm.create_model("convnext_atto", num_classes=1000)
    published = {}
    for name, tensor in module.state_dict().items():
        new = name.replace("stem.", "downsample_layers.0.").replace("head.norm", "norm").replace("head.fc", "head")
        published[new] = tensor
    torch.save({"model": published}, tmp_path / "a.pth")
    backbone = load_backbone("timm:convnext_atto.d2_in1k", weights=tmp_path / "a.pth")
    assert torch.equal(backbone.module.state_dict()["stem.0.weight"], module.state_dict()["stem.0.weight"])


CACHED = """
import sys, featstore
backbone = featstore.load_backbone(sys.argv[1])
print(backbone.name, backbone.weights, backbone.weights_digest)
"""


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[1]
    env = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=120
    )


def test_hub_weights_by_the_real_path_of_timm(tmp_path: Path) -> None:
    """timm asks the hub's cache first; a cache with the file in it is all that tells this machine from one with a network."""
    import timm

    torch.manual_seed(0)
    module = timm.create_model("mobilenetv3_small_050.lamb_in1k")
    snapshot = tmp_path / "hub" / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (snapshot / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (snapshot / "refs").mkdir()
    (snapshot / "refs" / "main").write_text("0" * 40)
    save_file(module.state_dict(), snapshot / "snapshots" / ("0" * 40) / "model.safetensors")
    found = run_python(CACHED, "timm:mobilenetv3_small_050", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert found.returncode == 0, found.stderr
    expected = load_backbone(
        "timm:mobilenetv3_small_050", weights=snapshot / "snapshots" / ("0" * 40) / "model.safetensors"
    )
    assert found.stdout.split() == ["timm:mobilenetv3_small_050.lamb_in1k", "hub", expected.weights_digest]


def test_hub_weights_by_the_real_path_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    path = shared / "weights" / "squeezenet1_1.safetensors"
    tensors = {k: v.float() for k, v in load_file(path).items()}
    torch.save(tensors, tmp_path / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth")
    backbone = load_backbone("torchvision:squeezenet1_1")
    assert backbone.weights == "hub"
    assert backbone.name == "torchvision:squeezenet1_1.IMAGENET1K_V1"
    assert backbone.weights_digest == load_backbone(f"torchvision:squeezenet1_1@{path}").weights_digest


def test_a_download_that_fails_says_the_way_out(tmp_path: Path) -> None:
    code = (
        "import sys, featstore\n"
        "try:\n    featstore.load_backbone(sys.argv[1])\n"
        "except featstore.BadInput as error:\n    print(error)\n"
    )
    found = run_python(code, "timm:resnet18", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert found.returncode == 0, found.stderr
    assert "the weights of timm:resnet18 could not be loaded" in found.stdout
    assert "weights='file.safetensors'" in found.stdout


def test_a_failing_download_of_torchvision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match="the weights of torchvision:squeezenet1_0 could not be loaded"):
        load_backbone("torchvision:squeezenet1_0")


def test_a_module_of_your_own() -> None:
    torch.manual_seed(0)
    module = Normed().train()
    with pytest.raises(BadInput, match="not known how images must be prepared for Normed"):
        load_backbone(module)
    backbone = made(module)
    assert (backbone.name, backbone.weights) == ("Normed", "as passed in")
    assert not module.training, "features are taken in eval mode"
    with pytest.raises(BadInput, match="weights=None means random"):
        made(module, weights=None)
    with pytest.raises(BadInput, match="'coarse'"):
        made(module, units="finer")
    with pytest.raises(BadInput, match=r"does not run on an input of shape \(1, 3, 32, 32\)"):
        load_backbone(module, preprocessing=Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))


class Branching(Normed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x if x.sum() > 0 else -x)


def test_a_network_that_cannot_be_identified_is_refused() -> None:
    """Its weights are known, but not what is done with them: stale features could be returned for changed code."""
    with pytest.raises(IdentityError, match="version="):
        made(Branching())
    backbone = made(Branching(), version="1")
    assert backbone.version == "1"
    assert backbone.chain.reason is not None


def my_network() -> nn.Module:
    return Normed()


def my_network_prepared() -> tuple[nn.Module, Preprocessing]:
    return Normed(), GREY8


def my_backbone() -> Backbone:
    return load_backbone("featstore:digits_net")


def my_mistake() -> int:
    return 3


def test_a_function_of_your_own() -> None:
    here = __name__
    assert load_backbone(f"{here}:my_network", preprocessing=GREY8).name == f"{here}:my_network"
    first, second = (load_backbone(f"{here}:my_network_prepared").weights_digest for _ in range(2))
    assert first == second, "also random weights of a function are seeded"
    assert load_backbone(f"{here}:my_backbone").name == "featstore:digits_net"
    with pytest.raises(BadInput, match="returned a int"):
        load_backbone(f"{here}:my_mistake")
    with pytest.raises(BadInput, match="No module named 'nowhere'"):
        load_backbone("nowhere.at_all:net")
    with pytest.raises(UnknownName, match="my_network"):
        load_backbone(f"{here}:my_netwrk")
