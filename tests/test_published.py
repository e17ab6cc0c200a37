"""The networks of the papers: each under the study's name, of the published size, and cut into units that are the network."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_units import check_chain
from torch import nn
from torch.nn import functional as F

from featstore import Backbone, BadInput, Preprocessing, UnknownName, load_backbone
from featstore.architectures import ARCHITECTURES
from featstore.architectures.nasnet import NasNetA
from featstore.architectures.same import SameConv2d, halving_avg_pool, halving_max_pool
from featstore.backbones import LIBRARIES
from featstore.published import FANG_2023, KORNBLITH_2019, STUDIES, Published
from featstore.units import cut

ALL = {f"{study}:{name}": network for study, networks in STUDIES.items() for name, network in networks.items()}
SPECS = sorted({network.spec for network in ALL.values()} | {f"featstore:{name}" for name in ARCHITECTURES})
SIZES = {  # pixels; what is tested does not depend on the size, and small inputs are quick
    "deit": 224,
    "vit_b_16": 224,
    "inception_v4": 96,
    "inception_v3": 96,
    "inception_resnet": 96,
    "nasnet": 64,
    "pnasnet": 64,
    "alexnet": 64,
    "cifar": 32,
    "flex_mnist": 28,
    "featstore:lenet": 28,
    "featstore:digits": 8,
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


def size_of(spec: str) -> int:
    return next((size for part, size in SIZES.items() if part in spec), 64)


def load(spec: str) -> Backbone:
    """Return the network with random weights and a small input."""
    size, grey = size_of(spec), any(name in spec for name in ("flex_mnist", "featstore:lenet", "featstore:digits"))
    small = Preprocessing(
        (size, size), (0.5,) * (1 if grey else 3), (0.5,) * (1 if grey else 3), mode="L" if grey else "RGB"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # timm and torchvision say that random weights take time
        return load_backbone(spec, weights=None, preprocessing=small)


CELLS = {  # from the papers: two stem cells, then three times N cells, with a reduction cell before the second and third
    "timm:nasnetalarge.tf_in1k": (6, True),
    "featstore:nasnet_a_mobile": (4, True),
    "timm:pnasnet5large.tf_in1k": (4, False),  # its first cells of a stage reduce
}


def check_cells(backbone: Backbone) -> None:
    """Check that every cell is a unit, its output that of the module, and that a run goes on from a pair."""
    n, with_reduction = CELLS[backbone.name]
    chain, module = backbone.chain, backbone.module
    cells = ["cell_stem_0", "cell_stem_1"]
    for stage in range(3):
        cells += [f"reduction_cell_{stage - 1}"] if with_reduction and stage else []
        cells += [f"cell_{(6 if with_reduction else n) * stage + i}" for i in range(n)]
    assert chain.names[1:-2] == tuple(cells)
    x = backbone.example(2)
    expected: dict[str, torch.Tensor] = {}
    handles = [
        module.get_submodule(name).register_forward_hook(
            lambda m, a, out, name=name: expected.update({name: out.clone()})
        )
        for name in cells
    ]
    logits = module(x)
    for handle in handles:
        handle.remove()
    seen: dict[str, torch.Tensor] = {}
    chain.visit(x, cells, lambda unit, y: seen.update({unit: y.clone()}))
    assert all(torch.equal(seen[name], expected[name]) for name in cells)
    middle = cells[len(cells) // 2]
    pair = tuple(seen[unit] for unit in chain.passed[middle])
    following = chain.names[chain.index(middle) + 1]
    assert torch.equal(chain.run(pair, following), logits)  # type: ignore[arg-type]
    older = chain.passed[middle][0]
    with pytest.raises(BadInput, match=f"takes the output of {older} and of {middle}, as a tuple .* and got 1"):
        chain.run(seen[middle], following)
    with pytest.raises(BadInput, match="takes the images, one tensor, and got 2"):
        chain.run(pair, None, middle)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", SPECS)
def test_the_units_are_the_network(spec: str) -> None:
    """Composition bit for bit, names kept, every tensor in one unit, declared shapes measured: coarse and fine."""
    backbone = load(spec)
    assert backbone.name == spec
    x = torch.randn(2, *backbone.example().shape[1:], generator=torch.Generator().manual_seed(1))
    stretch_statistics(backbone.module)
    check_chain(backbone.chain, x)
    if spec in CELLS:
        check_cells(backbone)
    fine = cut(backbone.module, x[:1], fine=True)
    assert set(fine.names) >= {"penultimate", "head"}
    if fine.names != backbone.units:  # else it is the same chain
        check_chain(fine, x)


def stretch_statistics(module: nn.Module) -> None:
    """Give running statistics other values than 0 and 1, with which a unit that lost them would still be right."""
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            assert m.running_mean is not None
            assert m.running_var is not None
            m.running_mean.normal_(std=0.1)
            m.running_var.uniform_(0.5, 1.5)


def skeleton(spec: str) -> nn.Module:
    """Return a network without memory for its weights."""
    library, _, name = spec.partition(":")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            import timm

            return timm.create_model(name)
        if library == "torchvision":
            import torchvision

            bare = name.partition(".")[0]
            extra = {"aux_logits": False, "init_weights": False} if bare == "googlenet" else {}
            return torchvision.models.get_model(bare, weights=None, **extra)
        return ARCHITECTURES[name].build()


def weighted_layers(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if any(p.ndim >= 2 for p in m.parameters(recurse=False))]


@pytest.mark.parametrize("name", ALL)
def test_sizes_are_the_published_ones(name: str) -> None:
    network = ALL[name]
    module = skeleton(network.spec)
    classifier = weighted_layers(module)[-1]
    assert isinstance(classifier, nn.Linear | nn.Conv2d)
    assert classifier.weight.shape[:2] == (1000, network.penultimate)
    n_parameters = sum(p.numel() for p in module.parameters()) - sum(p.numel() for p in classifier.parameters())
    assert n_parameters == network.n_parameters
    if network.millions is not None:
        says_so = "0.1 million parameters more" in network.differences
        assert round(n_parameters / 1e6, 1) == pytest.approx(network.millions + (0.1 if says_so else 0.0))


def test_the_studies_are_complete() -> None:
    """16 and 19 networks, with the accuracies between which the papers say theirs lie."""
    assert (len(KORNBLITH_2019), len(FANG_2023)) == (16, 19)
    published = [n.published_top1 for n in KORNBLITH_2019.values()]
    assert all(p is not None for p in published)
    assert (min(p or 0 for p in published), max(p or 0 for p in published)) == (71.6, 80.8)
    ours = [n.top1 or 0 for n in FANG_2023.values()]
    assert (round(min(ours)), round(max(ours))) == (57, 83)
    for network in ALL.values():
        tag = network.spec.rpartition(".")[2]
        assert network.spec.startswith("featstore:") or re.fullmatch(r"[a-zA-Z][A-Za-z0-9_]+", tag), "pinned to a tag"
        assert (network.top1 is None) == network.spec.startswith("featstore:")


@pytest.mark.parametrize(
    "network", [n for n in ALL.values() if n.spec.startswith("torchvision:")], ids=lambda n: n.spec
)
def test_accuracies_are_torchvisions(network: Published) -> None:
    import torchvision

    bare, _, tag = network.spec.removeprefix("torchvision:").partition(".")
    said = torchvision.models.get_model_weights(bare)[tag].meta
    assert said["_metrics"]["ImageNet-1K"]["acc@1"] == network.top1


def test_a_study_s_name_is_the_network_behind_it() -> None:
    """What is stored is found again under either name."""
    backbone = load("kornblith2019:densenet_121")
    assert backbone.name == "timm:densenet121.tv_in1k"
    assert backbone.weights_digest == load("timm:densenet121.tv_in1k").weights_digest
    assert load("fang2023:squeezenet1_1").name == "torchvision:squeezenet1_1.IMAGENET1K_V1"
    assert set(STUDIES) <= set(LIBRARIES)
    with pytest.raises(UnknownName, match="no network of kornblith2019 called 'resnet50'") as error:
        load("kornblith2019:resnet50")
    assert "resnet_v1_50" in error.value.nearest
    with pytest.raises(
        BadInput, match=r"no weights are installed for featstore:nasnet_a_mobile; .*nasnetamobile-7e03cead"
    ):
        load_backbone("kornblith2019:nasnet_a_mobile")


UNITS = {
    "featstore:inception_v2_flex": "block1 block2 block3a block3b block3c block4a block4b block4c block4d block4e block5a block5b "
    "penultimate head",
    "featstore:flex_mnist": "conv1 conv2 penultimate head",
    "featstore:flex_cifar": "conv1 conv2 conv3 conv4 conv5 penultimate head",
}


@pytest.mark.parametrize(("spec", "n"), list(zip(UNITS, (13, 4, 7), strict=True)))
def test_the_units_of_flex_tuning(spec: str, n: int) -> None:
    """13, 4 and 7 units can be tuned: those with parameters. Pooling before the classifier has none."""
    chain = load(spec).chain
    assert chain.names == tuple(UNITS[spec].split())
    assert sum(bool(chain.tensors[unit]) for unit in chain.names) == n


class TwoBranches(nn.Module):
    """Two tensors flow on, as from a cell, but the older is always the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        for i in range(8):
            setattr(self, f"block{i}", nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.stem(x)
        y = first
        for i in range(8):
            y = self.get_submodule(f"block{i}")(y)
        logits: torch.Tensor = self.fc(torch.cat([first, y], 1).mean((2, 3)))
        return logits


def test_a_long_branch_is_no_row_of_cells() -> None:
    """A tensor kept for the end makes a pair of whatever runs meanwhile; cut there, each unit would store one of two halves."""
    chain = cut(TwoBranches().eval(), torch.zeros(1, 3, 8, 8))
    assert chain.names == ("stem", "block7", "penultimate", "head"), "all blocks in one, with what joins the two"
    assert not chain.passed


def test_the_flex_networks_have_the_papers_layers() -> None:
    """Counted by hand from the description: (weights + bias) per layer."""
    mnist, cifar = (skeleton(f"featstore:flex_{name}") for name in ("mnist", "cifar"))
    assert [sum(p.numel() for p in m.parameters()) for m in weighted_layers(mnist)] == [
        25 * 32 + 32,
        25 * 32 * 64 + 64,
        7 * 7 * 64 * 1024 + 1024,
        1024 * 10 + 10,
    ]
    widths = [3, 32, 64, 128, 256, 512]
    assert [sum(p.numel() for p in m.parameters()) for m in weighted_layers(cifar)] == [
        *(9 * a * b + b for a, b in itertools.pairwise(widths)),
        2 * 2 * 512 * 1024 + 1024,
        1024 * 9 + 9,
    ]
    from featstore.architectures.flex_nets import FlexCifarNet

    assert FlexCifarNet(n_channels=1).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 9), "QuickDraw's bitmaps"


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_cifar_resnets_have_the_published_sizes(depth: int, millions: float) -> None:
    """He et al. (2015), table 6, which prints 1.7 for 110 layers; counted here with the classifier, as there."""
    n = sum(p.numel() for p in skeleton(f"featstore:cifar_resnet{depth}").parameters())
    assert round(n / 1e6, 2) == millions


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("shape", [(8, 8), (9, 9), (7, 12), (12, 7)])
def test_padding_is_tensorflows(kernel: int, shape: tuple[int, int]) -> None:
    """TensorFlow's rule, written out: as many outputs as half the input rounded up, what is padded split, the odd one right."""
    x = torch.randn(2, 3, *shape)
    total = [(-(-n // 2) - 1) * 2 + kernel - n for n in shape]
    (top, left), (bottom, right) = ([t // 2 for t in total], [t - t // 2 for t in total])
    padded = F.pad(x, (left, right, top, bottom))
    conv = SameConv2d(3, 4, kernel)
    assert torch.equal(conv(x), F.conv2d(padded, conv.weight, stride=2))
    if kernel == 3:
        lowest = F.pad(x, (left, right, top, bottom), value=float("-inf"))
        assert torch.equal(halving_max_pool(x), F.max_pool2d(lowest, 3, 2))
        inside = F.pad(torch.ones_like(x), (left, right, top, bottom))
        mean = F.avg_pool2d(padded, 3, 2) / F.avg_pool2d(inside, 3, 2)
        assert torch.allclose(halving_avg_pool(x), mean, rtol=1e-5, atol=1e-6)


def test_nasnet_is_timms_where_timm_has_it() -> None:
    """The large network with timm's weights, of which the mobile one is a smaller copy.

    timm counts the padded border in means of stride 2, TensorFlow and ours do not; with ours in their place the two agree to
    rounding: 1e-5 of the largest logit.
    """
    from timm.layers.pool2d_same import AvgPool2dSame
    from timm.models.nasnet import NASNetALarge

    class Halving(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return halving_avg_pool(x)

    torch.manual_seed(0)
    theirs = NASNetALarge(num_classes=7, stem_size=32, num_features=24 * 8).eval()
    stretch_statistics(theirs)
    for path, module in list(theirs.named_modules()):
        if isinstance(module, AvgPool2dSame):
            parent, _, name = path.rpartition(".")
            setattr(theirs.get_submodule(parent), name, Halving())
    ours = NasNetA(6, 8, 32, skips_reduction=True, n_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 67, 91)
    expected = theirs(x)
    assert (ours(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_public_nasnet_weights_fit_as_they_are(tmp_path: Path) -> None:
    """The public file has its names and no counters of batch norm."""
    module = NasNetA()
    names = set(module.state_dict())
    for name in (  # from the code that the public file belongs to
        "conv0.conv.weight",
        "conv0.bn.running_mean",
        "cell_stem_0.comb_iter_1_right.separable_1.depthwise_conv2d.weight",
        "cell_stem_1.path_2.conv.weight",
        "cell_stem_1.final_path_bn.bias",
        "cell_0.conv_1x1.bn.weight",
        "cell_3.conv_prev_1x1.conv.weight",
        "reduction_cell_1.comb_iter_4_left.bn_sep_2.weight",
        "cell_15.comb_iter_4_left.separable_2.pointwise_conv2d.weight",
        "last_linear.bias",
    ):
        assert name in names
    assert sum(p.numel() for p in module.parameters()) == 5_289_978
    tensors = {k: v.clone() for k, v in module.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(tensors, tmp_path / "nasnetamobile.safetensors")
    backbone = load_backbone(f"kornblith2019:nasnet_a_mobile@{tmp_path / 'nasnetamobile.safetensors'}")
    assert backbone.weights == "file nasnetamobile.safetensors"
    assert backbone.shapes["penultimate"] == (1056,)
    assert backbone.preprocessing.input_size == (224, 224)


def test_the_whole_image_is_what_kornblith_resize() -> None:
    prepared = ARCHITECTURES["inception_v2"].preprocessing
    whole = prepared.whole_image()
    assert (whole.resize, whole.crop, whole.input_size) == ((224, 224), None, (224, 224))
    assert (whole.mean, whole.std, whole.interpolation) == (prepared.mean, prepared.std, prepared.interpolation)
