"""Units: a network's parts are the network, for every family, and are cut where its own modules end."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from featstore import UnknownName
from featstore.architectures import ARCHITECTURES
from featstore.errors import BadInput
from featstore.units import Chain, cut, live_tensors

# Small inputs: what is tested does not depend on the size. Each network once from every family that the papers use.
NETWORKS = {
    "torchvision:resnet18": 64,
    "timm:resnet50": 64,
    "torchvision:squeezenet1_1": 64,
    "timm:mobilenetv1_100": 64,
    "timm:mobilenetv2_100": 64,
    "torchvision:mobilenet_v2": 64,
    "torchvision:densenet121": 64,
    "timm:vit_tiny_patch16_224": 224,
    "torchvision:vit_b_32": 224,
    "timm:convnext_atto": 64,
    "timm:efficientnet_b0": 64,
    "timm:inception_v3": 128,
    "torchvision:inception_v3": 128,
    "torchvision:googlenet": 64,
    "torchvision:vgg11_bn": 64,
    "torchvision:alexnet": 80,
    "torchvision:shufflenet_v2_x0_5": 64,
    "torchvision:swin_t": 64,
    "featstore:cifar_resnet20": 32,
    "featstore:lenet": 28,
    "featstore:digits_net": 8,
}
COARSE = {
    "torchvision:resnet18": "conv1 layer1 layer2 layer3 layer4",
    "timm:resnet50": "conv1 layer1 layer2 layer3 layer4",
    "torchvision:squeezenet1_1": "features.0 features.3 features.4 features.6 features.7 features.9 features.10 "
    "features.11",
    "timm:mobilenetv1_100": "conv_stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4",
    "timm:mobilenetv2_100": "conv_stem blocks.0 blocks.1 blocks.2 blocks.3 blocks.4 blocks.5 blocks.6 conv_head",
    "torchvision:densenet121": "features.conv0 features.denseblock1 features.transition1 features.denseblock2 "
    "features.transition2 features.denseblock3 features.transition3 features.denseblock4",
    "timm:vit_tiny_patch16_224": "patch_embed " + " ".join(f"blocks.{i}" for i in range(12)),
    "timm:convnext_atto": "stem stages.0 stages.1 stages.2 stages.3",
    "timm:efficientnet_b0": "conv_stem " + " ".join(f"blocks.{i}" for i in range(7)) + " conv_head",
    "torchvision:googlenet": "conv1 conv2 conv3 inception3a inception3b inception4a inception4b inception4c "
    "inception4d inception4e inception5a inception5b",
    "torchvision:vgg11_bn": "features.0 features.4 features.11 features.18 features.25 classifier.0",
    "torchvision:swin_t": " ".join(f"features.{i}" for i in range(8)),
    "featstore:cifar_resnet20": "conv1 layer1 layer2 layer3",
    "featstore:lenet": "conv1 conv2",
    "featstore:digits_net": "conv1 conv2",
}
N_FINE = {  # counted by hand in the papers' tables: blocks, and the stem before and the last convolution after them
    "torchvision:resnet18": 1 + 8,
    "timm:resnet50": 1 + 16,
    "timm:mobilenetv1_100": 1 + 13,
    "timm:mobilenetv2_100": 1 + 17 + 1,
    "timm:efficientnet_b0": 1 + 16 + 1,
    "torchvision:vgg11_bn": 8 + 1,
    "featstore:cifar_resnet20": 1 + 9,
}


@functools.cache
def build(name: str) -> nn.Module:
    """Return a network with random weights, in eval mode, and running statistics that are not all 0 and 1."""
    library, _, bare = name.partition(":")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if library == "timm":
            import timm

            module = timm.create_model(bare)
        elif library == "torchvision":
            import torchvision

            module = torchvision.models.get_model(bare, weights=None)
        else:
            module = ARCHITECTURES[bare].build()
    for m in module.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(m.running_mean, std=0.1)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    return module.eval()


def image(name: str, n: int = 2) -> torch.Tensor:
    module = build(name)
    channels = next(p for p in module.parameters() if p.ndim == 4).shape[1]
    size = NETWORKS[name]
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(1))


@functools.cache
def chain_of(name: str, fine: bool) -> Chain:
    return cut(build(name), image(name, 1), fine=fine)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small inputs: threads would only wait for one another
    with torch.no_grad():
        yield
    torch.set_num_threads(before)


AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")


def check_chain(chain: Chain, x: torch.Tensor, *, has_head: bool = True, unused: tuple[str, ...] = AUXILIARY) -> None:
    """Check that a chain is its network: bit for bit, in parts as whole, with all its tensors, and shapes as declared."""
    expected = chain.module(x)
    assert chain.reason is None
    assert chain.names[-1 - has_head :] == (("penultimate", "head") if has_head else ("penultimate",))

    seen: dict[str, torch.Tensor] = {}
    chain.visit(x.clone(), chain.names, lambda unit, y: seen.update({unit: y.clone()}))
    assert tuple(seen) == chain.names
    assert torch.equal(seen[chain.names[-1]], expected), (
        "the composition of all units must equal the network bit for bit"
    )
    for unit, output in seen.items():
        assert tuple(output.shape[1:]) == chain.shapes[unit], f"declared shape of {unit}"

    before = x
    for unit in chain.names:
        kept = copy.deepcopy(before)
        after = chain.run(before, unit, unit)
        assert isinstance(after, tuple) == (unit in chain.passed)
        assert all(map(torch.equal, as_tuple(after), [seen[u] for u in chain.passed.get(unit, (unit,))])), (
            f"{unit} run alone"
        )
        assert all(map(torch.equal, as_tuple(before), as_tuple(kept))), f"{unit} wrote into the caller's tensor"
        before = after
    middle, following = chain.names[len(chain.names) // 2 :][:2]
    assert torch.equal(chain.run(chain.run(x, None, middle), following), expected)
    check_tensors(chain, unused)


def as_tuple(passed: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return passed if isinstance(passed, tuple) else (passed,)


def check_tensors(chain: Chain, unused: tuple[str, ...]) -> None:
    """Check that every parameter and buffer belongs to one unit, which shares it under the network's name."""
    owned = [tensor for unit in chain.names for tensor in chain.tensors[unit]]
    assert len(owned) == len(set(owned))
    assert set(owned) | set(chain.unused) == set(live_tensors(chain.module))
    assert all(tensor.startswith(unused) for tensor in chain.unused), "only auxiliary classifiers are never run"
    network = live_tensors(chain.module)
    for unit in chain.names:
        shared = {n: t for n, t in live_tensors(chain.unit(unit)).items() if n in chain.tensors[unit]}
        assert set(shared) == set(chain.tensors[unit])
        assert all(shared[n] is network[n] for n in shared), "units share tensors with the network under the same names"


@pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_units_are_the_network(name: str, fine: bool) -> None:
    """Else features would be of another network than the one that is named, a tuned unit would not fit back into it, or
    weights could change without a change of the digest."""
    check_chain(chain_of(name, fine), image(name))


@pytest.mark.parametrize("name", COARSE)
def test_coarse_units_are_the_networks_own_stages(name: str) -> None:
    assert chain_of(name, False).names == (*COARSE[name].split(), "penultimate", "head")


@pytest.mark.parametrize("name", N_FINE)
def test_fine_units_are_the_blocks(name: str) -> None:
    assert len(chain_of(name, True).names) - 2 == N_FINE[name]


# timm groups the layers of Inception v3 by its pooling layers, not by its modules
@pytest.mark.parametrize("name", [n for n in NETWORKS if n.startswith("timm:") and "inception" not in n])
@pytest.mark.parametrize("fine", [False, True], ids=["coarse", "fine"])
def test_no_unit_mixes_what_timm_keeps_apart(name: str, fine: bool) -> None:
    """timm's own grouping of parameters by depth is an independent witness of what a stage or a block is."""
    from timm.models import group_parameters

    module, chain = build(name), chain_of(name, fine)
    groups = group_parameters(module, module.group_matcher(coarse=not fine))
    depth = {tensor: k for k, tensors in groups.items() for tensor in tensors}
    for unit in chain.names[:-2]:
        kinds = {depth[t] for t in chain.tensors[unit] if t in depth}
        assert len(kinds) == 1, f"{unit} holds parameters of several of timm's groups"


HOOKED = {  # unit -> the module whose output, or input, it must be; written by hand from the networks' source
    "torchvision:resnet18": {
        "conv1": ("maxpool", "output"),
        **{f"layer{i}": (f"layer{i}", "output") for i in range(1, 5)},
        "penultimate": ("fc", "input"),
    },
    "torchvision:squeezenet1_1": {
        "features.0": ("features.2", "output"),
        "features.3": ("features.3", "output"),
        "features.4": ("features.5", "output"),
        "penultimate": ("classifier.1", "input"),
    },
    "torchvision:densenet121": {
        "features.denseblock4": ("features.denseblock4", "output"),
        "penultimate": ("classifier", "input"),
    },
    "timm:vit_tiny_patch16_224": {
        "blocks.0": ("blocks.0", "output"),
        "blocks.11": ("blocks.11", "output"),
        "penultimate": ("head", "input"),
    },
    "timm:efficientnet_b0": {
        "blocks.3": ("blocks.3", "output"),
        "conv_head": ("bn2", "output"),
        "penultimate": ("classifier", "input"),
    },
    "torchvision:vgg11_bn": {
        "features.4": ("features.7", "output"),
        "classifier.0": ("classifier.2", "output"),
        "penultimate": ("classifier.5", "output"),
    },
    "featstore:lenet": {"conv1": ("conv2", "input"), "penultimate": ("fc2", "input")},
}


@pytest.mark.parametrize("name", HOOKED)
def test_outputs_equal_those_of_hooks(name: str) -> None:
    """Captured activations equal a plain forward of the network with hooks, bit for bit."""
    module, chain, x = build(name), chain_of(name, False), image(name)
    expected: dict[str, torch.Tensor] = {}
    handles = []
    for unit, (path, side) in HOOKED[name].items():

        def keep(m: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor, u: str = unit, s: str = side) -> None:
            if s == "output":
                expected[u] = out.clone()

        def keep_input(m: nn.Module, args: tuple[torch.Tensor, ...], u: str = unit, s: str = side) -> None:
            if s == "input":
                expected[u] = args[0].clone()

        handles.append(module.get_submodule(path).register_forward_hook(keep))
        handles.append(module.get_submodule(path).register_forward_pre_hook(keep_input))
    module(x.clone())
    for handle in handles:
        handle.remove()
    seen: dict[str, torch.Tensor] = {}
    chain.visit(x.clone(), list(HOOKED[name]), lambda unit, y: seen.update({unit: y.clone()}))
    assert set(seen) == set(expected)
    for unit in expected:
        assert torch.equal(seen[unit], expected[unit]), unit


def test_a_network_without_classifier_ends_with_its_penultimate_vector() -> None:
    import timm

    module = timm.create_model("resnet18", num_classes=0).eval()
    x = torch.randn(2, 3, 64, 64)
    chain = cut(module, x[:1])
    assert chain.names[-1] == "penultimate"
    assert torch.equal(chain.run(x), module(x))


def test_dropout_before_the_classifier_belongs_to_the_head() -> None:
    """Dropout moves with the head that is trained; the stored vector is what it drops from."""
    chain = chain_of("featstore:digits_net", False)
    kinds = [type(m).__name__ for m in chain.unit("head").modules()]
    assert "Dropout" in kinds
    head = chain.unit("head").train()
    torch.manual_seed(0)
    with torch.enable_grad():
        first, second = head(torch.ones(4, 128)), head(torch.ones(4, 128))
    chain.unit("head").eval()
    assert not torch.equal(first, second), "a unit in training mode must drop"


class Stubborn(nn.Module):
    """Looks at its values, which no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1)) for _ in range(3))
        )
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        if x.abs().mean() > 1e6:
            x = x / 2
        return self.fc(self.blocks(x).mean((2, 3)))


def test_an_untraceable_network_is_watched_by_hooks() -> None:
    torch.manual_seed(0)
    module, x = Stubborn().eval(), torch.randn(2, 1, 8, 8)
    chain = cut(module, x[:1])
    assert chain.reason is not None
    assert "Stubborn" in chain.reason
    assert chain.names == ("stem", "blocks.0", "blocks.1", "blocks.2", "penultimate", "head")
    seen: dict[str, torch.Tensor] = {}
    chain.visit(x, chain.names, lambda unit, y: seen.update({unit: y.clone()}))
    assert torch.equal(seen["blocks.0"], module.blocks[0](module.stem(x)))
    assert torch.equal(seen["penultimate"], module.blocks(module.stem(x)).mean((2, 3)))
    assert torch.equal(seen["head"], module(x))
    assert torch.equal(chain.run(x), module(x))
    assert {t for names in chain.tensors.values() for t in names} == set(live_tensors(module))
    with pytest.raises(BadInput, match="cannot be run alone: Stubborn cannot be written as a graph"):
        chain.run(x, "blocks.1", "head")


def test_wrong_names_and_wrong_order_are_refused() -> None:
    chain, x = chain_of("featstore:lenet", False), image("featstore:lenet")
    with pytest.raises(UnknownName, match="'conv1'") as error:
        chain.run(x, "conv_1", "head")
    assert "conv1" in error.value.nearest
    with pytest.raises(BadInput, match="'conv1' comes before 'penultimate'"):
        chain.run(x, "penultimate", "conv1")
    with pytest.raises(BadInput, match=r"does not run on an input of shape \(1, 3, 8, 8\)"):
        cut(build("featstore:lenet"), torch.zeros(1, 3, 8, 8))


def test_a_copy_of_a_chain_is_a_whole_network_of_its_own() -> None:
    """finetune copies a network before it trains: the copy's units must train the copy."""
    chain, x = chain_of("featstore:digits_net", False), image("featstore:digits_net")
    before = chain.run(x)
    twin = copy.deepcopy(chain)
    for parameter in twin.unit("conv1").parameters():
        parameter.add_(0.1)
    assert torch.equal(chain.run(x), before)
    assert torch.equal(twin.run(x), twin.module(x))
    assert not torch.equal(twin.run(x), before)


class Remembering(nn.Module):
    """Keeps what it has computed from a parameter, as LeViT does with its attention biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Conv2d(1, 4, 1), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.cache: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "scale" not in self.cache:
            self.cache["scale"] = self.scale * 2
        return self.fc((self.a(x) * self.cache["scale"]).mean((2, 3)))


def test_tracing_leaves_no_stand_ins_in_the_network() -> None:
    """Else the network itself would be broken after it was cut."""
    module, x = Remembering().eval(), torch.randn(1, 1, 4, 4)
    fresh = copy.deepcopy(module)
    for fine in (False, True):
        module.cache.clear()
        assert torch.equal(cut(module, x, fine=fine).run(x), fresh(x))
    assert torch.equal(module(x), fresh(x))


class Preactivated(nn.Module):
    """Ends a unit before an in-place activation, twice through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(64, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.b(self.a(x)).flatten(1)
        return self.c(self.act(x))


def test_in_place_activations_do_not_reach_stored_outputs() -> None:
    torch.manual_seed(0)
    module = Preactivated().eval()
    x = torch.randn(3, 1, 4, 4)
    chain = cut(module, x[:1])
    assert torch.equal(chain.run(x), module(x))
    features = {unit: chain.run(x, None, unit) for unit in chain.names}
    for k, unit in enumerate(chain.names[1:], 1):
        kept = features[chain.names[k - 1]].clone()
        chain.run(features[chain.names[k - 1]], unit)
        assert torch.equal(features[chain.names[k - 1]], kept)
