"""A batch of one clip goes through a region as plain maps: where nothing in it treats packed clips differently.

Packed clips look up every operation in a list; on one clip that is a tenth of X3D-S's time behind SGS.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from atfr.optimize.conv import FusedConv3d
from atfr.optimize.operations import MEANS, POINTWISE
from atfr.ragged import ClipLayout, PackedClips

Kind = Literal["maps", "rows"]
"""What a node gives: maps of a clip's own length, or one row a clip."""


def unpack_one_(graph: fx.Graph, module_of: Callable[[fx.Node], Any]) -> None:
    """Let a graph take a single packed clip as plain maps and pack its result again, if all that it does allows it.

    Args:
        module_of: The module that a node calls, if it is plain.
    """
    kinds: dict[fx.Node, Kind] = {}
    for node in graph.nodes:
        if node.op == "output":
            break
        kind = kind_of(node, module_of(node), kinds)
        if kind is None:
            return
        kinds[node] = kind
    inputs, end = graph.find_nodes(op="placeholder"), graph.output_node()
    result = end.args[0]
    if len(inputs) != 1 or not isinstance(result, fx.Node):
        return
    with graph.inserting_after(inputs[0]):
        maps = graph.call_function(plain_maps, (inputs[0],))
    inputs[0].replace_all_uses_with(maps, delete_user_cb=lambda user: user is not maps)
    if kinds[result] == "maps":
        with graph.inserting_before(maps):
            layout = graph.call_function(only_layout, (inputs[0],))
        with graph.inserting_before(end):
            end.args = (graph.call_function(packed_again, (end.args[0], layout)),)


def kind_of(node: fx.Node, module: Any, kinds: dict[fx.Node, Kind]) -> Kind | None:
    """Return what a node gives where it does the same with plain maps; else None."""
    if node.op == "placeholder":
        return "maps"
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    sources: set[Kind] = {kinds[source] for source in node.all_input_nodes}
    called = type(module) if node.op == "call_module" else node.target
    if isinstance(module, FusedConv3d):
        return sources.pop() if len(sources) == 1 else None
    if called in POINTWISE:
        return "maps" if "maps" in sources else "rows"
    if called in MEANS:
        axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        return "rows" if isinstance(axes, list | tuple) and sorted(map(str, axes)) == ["2", "3", "4"] else None
    if isinstance(module, nn.MaxPool3d):
        window = (module.kernel_size, module.stride, module.padding)
        spatial = [value[0] for value in window if isinstance(value, tuple)] == [1, 1, 0]
        return "maps" if spatial and not module.return_indices and sources == {"maps"} else None
    if isinstance(module, nn.AdaptiveAvgPool3d):
        return "rows" if module.output_size in (1, (1, 1, 1)) else None
    of_rows = isinstance(module, nn.Flatten | nn.Linear) or called in ("flatten", torch.flatten)
    return "rows" if of_rows and sources == {"rows"} else None


def plain_maps(maps: Tensor) -> Tensor:
    """Return a single packed clip's maps as an ordinary tensor; anything else as it is."""
    return maps.plain() if isinstance(maps, PackedClips) and len(maps.clip_layout) == 1 else maps


def only_layout(maps: Tensor) -> ClipLayout | None:
    """Return the layout of a single packed clip."""
    return maps.clip_layout if isinstance(maps, PackedClips) and len(maps.clip_layout) == 1 else None


def packed_again(maps: Tensor, layout: ClipLayout | None) -> Tensor:
    """Pack the maps of a single clip, if it came packed."""
    if layout is None:
        return maps
    return PackedClips(maps, layout if layout.total == maps.shape[2] else ClipLayout([maps.shape[2]]))
