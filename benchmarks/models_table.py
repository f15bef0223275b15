"""The table of all networks in docs/models.md: parameters, cost per clip, files of weights that load.

    python benchmarks/models_table.py     # writes docs/models.md: about a minute

GFLOPs are multiply-adds / 1e9 of one clip of the size that the network is made for, counted by atfr.clip_cost.
"""

from pathlib import Path

import torch

import atfr

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
HEAD = """# Networks

Written by `python benchmarks/models_table.py`: change that, not this page.

`atfr.create_model(NAME)` makes a network; `atfr cost NAME` shows what a clip costs by its number of active bins.

- *Parameters*: with 400 classes, without SGS.
- *Clip*: frames x height x width that the network is made for; it takes others. SlowFast's is that of the fast pathway,
  of which the network takes the slow frames itself.
- *GFLOPs*: multiply-adds / 1e9 for one such clip, without SGS.
- *At half*: the same with SGS after res2 where a clip keeps half of its maps there, rounded up; in SlowFast in both
  pathways.
- *Weights*: files of other libraries that `atfr.load_weights` and `atfr convert` read: [checkpoints.md](checkpoints.md)
  says how, and which other forms. "A training's" are the `checkpoint_epoch_*.pyth` of PySlowFast.

| name | parameters (M) | clip | GFLOPs | at half | weights |
|---|---:|---|---:|---:|---|
"""
TRAINING = "PySlowFast: a training's"
WEIGHTS = {
    "resnet3d_18": "only atfr's own",
    "resnet3d_50": "only atfr's own",
    **{
        name: f"PyTorchVideo `{name.upper()}.pyth`, PySlowFast `{name}.pyth`"
        for name in ("x3d_xs", "x3d_s", "x3d_m", "x3d_l")
    },
    "x3d_xl": TRAINING,
    "r2plus1d_18": "torchvision `r2plus1d_18-91a641e6.pth`",
    "r2plus1d_50": "PyTorchVideo `R2PLUS1D_16x4_R50.pyth`",
    "i3d_50": f"PyTorchVideo `I3D_8x8_R50.pyth`, {TRAINING}",
    "i3d_inception": "Kinetics-400's by `atfr weights`, see [kinetics.md](kinetics.md); pytorch-i3d `rgb_imagenet.pt`",
    "slowfast_4x16_r50": f"PyTorchVideo `SLOWFAST_4x16_R50.pyth`, {TRAINING}",
    "slowfast_8x8_r18": "none in these zoos; parameters have PyTorchVideo's names",
    "slowfast_8x8_r50": f"PyTorchVideo `SLOWFAST_8x8_R50.pyth`, {TRAINING}",
    "slowfast_8x8_r101_nl": TRAINING,
    "slowfast_16x8_r101_nl": TRAINING,
    "i3d_efficientnet_lite0": "ImageNet's, see [pretrained.md](pretrained.md)",
}


def row(name: str) -> str:
    """The network's line of the table."""
    with torch.device("meta"):
        model = atfr.create_model(name)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    _, frames, height, width = model.clip_shape
    atfr.adapt_(model, after="res2")
    cost = atfr.clip_cost(model, model.clip_shape)
    frames_left = {"i3d_inception": frames // 2}.get(name, frames)  # behind res2; its stem strides over time
    maps = {
        site: frames // getattr(model, "alpha", 1) if site.endswith(".slow") else frames_left for site in cost.sites
    }
    half = tuple(-(-maps[site] // 2) for site in cost.sites)
    adaptive = cost.adaptive[half if len(half) > 1 else half[0]]
    cells = [f"`{name}`", f"{millions:.2f}", f"{frames} x {height} x {width}"]
    cells += [f"{cost.static / 1e9:.4g}", f"{adaptive / 1e9:.4g}", WEIGHTS[name]]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    PAGE.write_text(HEAD + "".join(f"{row(name)}\n" for name in atfr.list_models()), encoding="utf-8")


if __name__ == "__main__":
    main()
