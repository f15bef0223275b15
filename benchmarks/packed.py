"""How fast the stages behind SGS run on packed clips, against the ideal and against padding to the longest clip.

    python benchmarks/packed.py [--train] [--quick] [--out result.json]

A ragged batch of 8 clips goes through the stages after res2 of X3D-S (13 x 160 x 160) and 3DResNet-18 (32 x 112 x 112).
ideal = dense time x sum(A) / (N T). `sgs_share` is the time of the SGS layer over that of the whole adaptive network,
on the same batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

import atfr
from atfr.measure import in_turns, script_options, write_result

Case = tuple[tuple[int, ...], tuple[int, ...]]
"""A clip's shape, and the lengths of the clips of a batch."""

# X3D-S: the lengths of 8 clips out of 13 maps; 3DResNet-18: out of 32.
CASES: dict[str, Case] = {
    "x3d_s": ((3, 13, 160, 160), (9, 9, 3, 7, 10, 9, 7, 10)),
    "resnet3d_18": ((3, 32, 112, 112), (22, 20, 7, 16, 25, 21, 17, 24)),
}
QUICK: dict[str, Case] = dict.fromkeys(CASES, ((3, 5, 32, 32), (2, 4)))


def res2_of(model: nn.Module) -> nn.Module:
    """Return the stage behind which SGS stands."""
    paths: Any = model.stage_paths
    return model.get_submodule(paths["res2"])


def stages_after_res2(model: nn.Module) -> nn.Module:
    """Return what lies behind res2."""
    paths: Any = model.stage_paths
    later = [model.get_submodule(paths[stage]) for stage in ("res3", "res4", "res5")]
    return nn.Sequential(*later, model.get_submodule("blocks.5" if hasattr(model, "blocks") else "head"))


def maps_after_res2(model: nn.Module, clips: Tensor) -> Tensor:
    """Return real maps of the stages up to res2."""
    caught: list[Tensor] = []
    handle = res2_of(model).register_forward_hook(lambda *args: caught.append(args[2]))
    with torch.no_grad():
        model(clips)
    handle.remove()
    return caught[0]


def measure(name: str, shape: tuple[int, ...], lengths: tuple[int, ...], train: bool) -> dict[str, Any]:
    """Return times and ratios for one network."""
    torch.manual_seed(0)
    model = atfr.create_model(name).train(train)
    clips = torch.randn(len(lengths), *shape)
    dense = maps_after_res2(model, clips)
    ragged = [clip[:, :length] for clip, length in zip(dense, lengths, strict=True)]
    packed = atfr.PackedClips.pack(ragged)
    padded = torch.stack([nn.functional.pad(c, (0, 0, 0, 0, 0, max(lengths) - c.shape[1])) for c in ragged])
    later = stages_after_res2(model)
    atfr.adapt_(model, after="res2")
    layer = res2_of(model).sgs

    def run(maps: Tensor) -> None:
        if train:
            later(maps.detach().requires_grad_()).square().mean().backward()
        else:
            later(maps)

    variants = {"dense": lambda: run(dense), "padded": lambda: run(padded), "packed": lambda: run(packed)}
    if not train:
        variants |= {"sgs": lambda: layer(dense), "network": lambda: model(clips)}
    with torch.set_grad_enabled(train):
        timing = in_turns(variants)
    share = sum(lengths) / (len(lengths) * shape[1])
    ratios = {
        "packed_over_ideal": timing.ratio(lambda s: s["packed"] / (s["dense"] * share)),
        "speedup_over_padded": timing.speedup("packed", over="padded"),
    }
    ratios |= {} if train else {"sgs_share": timing.ratio(lambda s: s["sgs"] / s["network"])}
    mode = "forward and backward" if train else "inference"
    print(f"{name}, {mode}: " + ", ".join(f"{what} {ratio}" for what, ratio in ratios.items()))
    return {**{what: ratio.to_dict() for what, ratio in ratios.items()}, **timing.to_dict()}


def main() -> None:
    """Measure, print and, if asked, write JSON."""
    parser = script_options(__doc__)
    parser.add_argument("--train", action="store_true", help="measure forward and backward passes too")
    options = parser.parse_args()
    cases = QUICK if options.quick else CASES
    modes = {"inference": False} | ({"training": True} if options.train else {})
    results = {
        mode: {name: measure(name, *case, train) for name, case in cases.items()} for mode, train in modes.items()
    }
    write_result(options.out, results, inputs={"clip_shapes_and_lengths": cases})


if __name__ == "__main__":
    main()
