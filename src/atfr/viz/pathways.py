"""The pathways of a network: where each ends, and which one a module lies in."""

from collections.abc import Mapping

from torch import nn


def last_layers(model: nn.Module) -> dict[str, str]:
    """Return the path of the last stage of each pathway of our networks, by the pathway's name; {} for others."""
    stages = getattr(model, "stage_paths", {})
    if isinstance(path := stages.get("res5"), str):
        return {"": path}
    named = {stage.removeprefix("res5."): path for stage, path in stages.items() if stage.startswith("res5.")}
    return {name: path for name, path in named.items() if isinstance(path, str)}


def pathway_of(path: str, last: Mapping[str, str]) -> str:
    """Return the pathway that a module lies in.

    The last layers of several pathways differ from some component of their paths on: `blocks.4.multipathway_blocks.0`
    and `.1` mark every module inside some `multipathway_blocks.0` as one of the first pathway.
    """
    if len(last) < 2:
        return next(iter(last), "")
    parts = {name: layer.split(".") for name, layer in last.items()}
    shared = 0
    while len({tuple(layer[: shared + 1]) for layer in parts.values()}) == 1:
        shared += 1
    for name, layer in parts.items():
        if f".{'.'.join(layer[max(shared - 1, 0) :])}." in f".{path}.":
            return name
    return ""
