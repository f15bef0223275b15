"""A batch of one clip goes through a region as plain maps: where nothing in it treats packed clips differently.

Packed clips look up every operation in a list; on one clip that is a tenth of X3D-S's time behind SGS.
"""

from typing import Literal

import torch
from torch import Tensor, fx, nn

from atfr.optimize.activations import ACTIVATIONS
from atfr.optimize.conv import FusedConv3d
from atfr.optimize.products import ADDITIONS, PRODUCTS, SIGMOIDS, scaled
from atfr.ragged import ClipLayout, PackedClips

Kind = Literal["maps", "rows"]
"""What a node gives: maps of a clip's own length, or one row a clip."""

POINTWISE = (
    ADDITIONS
    | PRODUCTS
    | SIGMOIDS
    | {scaled}
    | {spelling for form in ACTIVATIONS.values() for spelling in (form.in_place, *form.spellings)}
)


def unpack_one_(root: nn.Module, graph: fx.Graph) -> None:
    """Let a graph take a single packed clip as plain maps and pack its result again, if all that it does allows it."""
    kinds: dict[fx.Node, Kind] = {}
    for node in graph.nodes:
        if node.op == "output":
            break
        kind = kind_of(node, root, kinds)
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


def kind_of(node: fx.Node, root: nn.Module, kinds: dict[fx.Node, Kind]) -> Kind | None:
    """Return what a node gives where it does the same with plain maps; else None."""
    if node.op == "placeholder":
        return "maps"
    if node.op not in ("call_module", "call_function", "call_method"):
        return None
    sources: set[Kind] = {kinds[source] for source in node.all_input_nodes}
    module = root.get_submodule(str(node.target)) if node.op == "call_module" else None
    called = type(module) if module else node.target
    if isinstance(module, FusedConv3d):
        return sources.pop() if len(sources) == 1 else None
    if called in POINTWISE:
        return "maps" if "maps" in sources else "rows"
    if called in ("mean", torch.mean):
        axes = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else None)
        return "rows" if isinstance(axes, list | tuple) and sorted(map(str, axes)) == ["2", "3", "4"] else None
    if isinstance(module, nn.MaxPool3d):
        kernel, stride, padding = module.kernel_size, module.stride, module.padding
        within = all(isinstance(value, tuple) for value in (kernel, stride, padding))
        spatial = within and (kernel[0], stride[0], padding[0]) == (1, 1, 0)  # type: ignore[index]
        return "maps" if spatial and not module.return_indices else None
    if isinstance(module, nn.AdaptiveAvgPool3d):
        return "rows" if module.output_size in (1, (1, 1, 1)) else None
    on_rows = sources == {"rows"}
    return (
        "rows"
        if on_rows and (isinstance(module, nn.Flatten | nn.Linear) or called in ("flatten", torch.flatten))
        else None
    )


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
