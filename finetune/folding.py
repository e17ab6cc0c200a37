"""Frozen units with their batch norm merged into the convolutions before it: less to compute, the same up to rounding.

In evaluation mode batch norm is one factor and one shift per channel, which can be multiplied into the weights of the
convolution that it follows. A unit that a training leaves as it is need not do this anew in every step, forward and
backward. The merged weights are rounded once more than the unit's own, so outputs agree to float32's rounding, not to
the bit; what trains from images keeps the unit as it is, and is what fed trainings are tested against.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import fx, nn

    from finetune.networks import TargetNetwork
    from finetune.trainable import Parts


def folded_units(network: TargetNetwork, moving: Parts) -> dict[str, nn.Module]:
    """Frozen units in which there is something to merge, as modules of their own, by name.

    Parameters
    ----------
    network : TargetNetwork
        On its device, with the weights that it will be trained from; not changed.
    moving : Parts
        What the training moves. A unit that shares a module or a parameter with it is left out.
    """
    from torch import fx

    parameters = {id(p) for name, p in network.module.named_parameters() if name in moving.parameters}
    modules = {id(m) for name, m in network.module.named_modules() if name in moving.modules}
    found = {}
    for name in network.chain.names if network.chain.reason is None else ():
        unit = network.chain.unit(name)
        is_frozen = not modules & {id(m) for m in unit.modules()} and not parameters & {
            id(p) for p in unit.parameters()
        }
        if is_frozen and isinstance(unit, fx.GraphModule) and (merged := folded(unit)) is not None:
            found[name] = merged
    return found


def folded(unit: fx.GraphModule) -> nn.Module | None:
    """A copy of a unit in evaluation mode, its batch norms merged and nothing to train; None where there is none to merge.

    Parameters
    ----------
    unit : fx.GraphModule
        Not changed.
    """
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    unit = copy.deepcopy(unit).eval()
    n_before = len(unit.graph.nodes)
    for node in list(unit.graph.nodes):
        before = _convolution_before(unit, node)
        if before is not None:
            conv, norm = unit.get_submodule(str(before.target)), unit.get_submodule(str(node.target))
            unit.set_submodule(str(before.target), fuse_conv_bn_eval(conv, norm))  # type: ignore[type-var, arg-type]
            node.replace_all_uses_with(before)
            unit.graph.erase_node(node)
    if len(unit.graph.nodes) == n_before:
        return None
    unit.delete_all_unused_submodules()
    unit.recompile()
    return unit.requires_grad_(False)


def _convolution_before(unit: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The convolution whose output a batch norm alone takes, where ``node`` is one and both run once; else None."""
    from torch import fx, nn

    before = node.args[0] if node.args else None
    if node.op != "call_module" or not isinstance(before, fx.Node) or before.op != "call_module":
        return None
    conv, norm = unit.get_submodule(str(before.target)), unit.get_submodule(str(node.target))
    runs = [other.target for other in unit.graph.nodes if other.op == "call_module"]
    is_pair = type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d and norm.running_mean is not None
    is_alone = len(before.users) == 1 and runs.count(before.target) == runs.count(node.target) == 1
    return before if is_pair and is_alone else None
