"""Multiply-adds and parameters against published figures, and the shapes of Table A.1, counted on the meta device."""

import functools

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from atfr import clip_cost
from atfr.models import create_model
from atfr.models.base import VideoModel


def on_meta(name: str, frames: int, size: int, **arguments: object) -> tuple[VideoModel, torch.Tensor]:
    with torch.device("meta"):
        return create_model(name, **arguments).eval(), torch.empty(1, 3, frames, size, size)


@functools.cache
def giga_multiply_adds(name: str, frames: int, size: int) -> tuple[float, float]:
    """Up to res2 and after it."""
    model, clips = on_meta(name, frames, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(clips)
    counts = {module: sum(ops.values()) / 2e9 for module, ops in counter.get_flop_counts().items()}
    prefix = type(model).__name__
    early = sum(counts[f"{prefix}.{model.stage_paths[stage]}"] for stage in ("stem", "res2"))
    return early, counts["Global"] - early


@pytest.mark.parametrize(
    ("name", "frames", "size", "expected"),
    [
        ("resnet3d_50", 32, 256, 40.85),
        ("resnet3d_50", 32, 224, 31.27),
        ("resnet3d_18", 32, 256, 23.59),
        ("resnet3d_18", 32, 224, 18.06),
        ("x3d_s", 13, 160, 1.96),
        ("x3d_m", 16, 224, 4.73),
        ("x3d_l", 16, 312, 18.4),
    ],
)
def test_multiply_adds_are_the_published_ones(name: str, frames: int, size: int, expected: float) -> None:
    assert sum(giga_multiply_adds(name, frames, size)) == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize(
    ("name", "size", "active", "expected"),
    [
        ("resnet3d_18", 224, 4, 4.58),
        ("resnet3d_18", 224, 8, 6.50),
        ("resnet3d_18", 224, 16, 10.36),
        ("resnet3d_18", 224, 20, 12.28),
        ("resnet3d_18", 256, 16, 13.53),
        ("resnet3d_50", 224, 8, 9.93),
        ("resnet3d_50", 224, 16, 17.04),
        ("resnet3d_50", 256, 16, 22.26),
    ],
)
def test_shorter_clips_after_res2_cost_what_the_paper_notes_count(
    name: str, size: int, active: int, expected: float
) -> None:
    early, late = giga_multiply_adds(name, 32, size)[0], giga_multiply_adds(name, active, size)[1]
    assert early + late == pytest.approx(expected, rel=0.003)


@pytest.mark.parametrize(
    ("name", "arguments", "frames", "size", "expected"),
    [
        ("i3d_50", {}, 32, 256, 148.4),  # Fayyaz et al. 2021
        ("r2plus1d_50", {}, 32, 256, 150.29),  # PyTorchVideo's network, counted
        ("r2plus1d_50", {"temporal_strides": (1, 2, 2, 2)}, 32, 256, 99.36),  # likewise; the paper has 101.8
        ("r2plus1d_18", {}, 16, 112, 40.52),  # torchvision's table of weights
    ],
)
def test_clip_costs_are_the_published_ones(name: str, arguments: dict, frames: int, size: int, expected: float) -> None:
    model, _ = on_meta(name, 1, 32, **arguments)
    assert clip_cost(model, (3, frames, size, size)).static / 1e9 == pytest.approx(expected, rel=0.0005)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("x3d_s", 3.79),
        ("x3d_m", 3.79),
        ("x3d_l", 6.15),
        ("x3d_xl", 11.09),
        ("r2plus1d_18", 31.505),
        ("r2plus1d_50", 28.11),
        ("i3d_50", 28.04),
    ],
)
def test_parameters_are_the_published_ones(name: str, millions: float) -> None:
    model, _ = on_meta(name, 1, 32)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def stage_shapes(name: str, frames: int, size: int, **arguments: object) -> dict[str, tuple[int, ...]]:
    model, clips = on_meta(name, frames, size, **arguments)
    shapes: dict[str, tuple[int, ...]] = {}
    for stage, path in model.stage_paths.items():
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, stage=stage: shapes.__setitem__(stage, tuple(output.shape))
        )
    with torch.no_grad():
        shapes["logits"] = tuple(model(clips).shape)
    return shapes


@pytest.mark.parametrize("name", ["resnet3d_18", "resnet3d_50"])
def test_resnet3d_stages_are_those_of_table_a1(name: str) -> None:
    assert stage_shapes(name, 32, 224) == {
        "stem": (1, 8, 32, 56, 56),
        "res2": (1, 32, 32, 56, 56),
        "res3": (1, 256, 32, 28, 28),
        "res4": (1, 512, 32, 14, 14),
        "res5": (1, 1024, 32, 7, 7),
        "logits": (1, 400),
    }


def test_x3d_stages_keep_time_and_halve_space() -> None:
    assert stage_shapes("x3d_s", 13, 160) == {
        "stem": (1, 24, 13, 80, 80),
        "res2": (1, 24, 13, 40, 40),
        "res3": (1, 48, 13, 20, 20),
        "res4": (1, 96, 13, 10, 10),
        "res5": (1, 192, 13, 5, 5),
        "logits": (1, 400),
    }


def test_i3d_halves_time_behind_res2() -> None:
    assert stage_shapes("i3d_50", 32, 224) == {
        "stem": (1, 64, 32, 56, 56),
        "res2": (1, 256, 32, 56, 56),
        "res3": (1, 512, 16, 28, 28),
        "res4": (1, 1024, 16, 14, 14),
        "res5": (1, 2048, 16, 7, 7),
        "logits": (1, 400),
    }


@pytest.mark.parametrize(
    ("name", "widths"), [("r2plus1d_18", (64, 128, 256, 512)), ("r2plus1d_50", (256, 512, 1024, 2048))]
)
@pytest.mark.parametrize("strides", [(1, 1, 1, 1), (2, 1, 3, 2)])
def test_r2plus1d_stages_have_the_temporal_strides_asked_for(name: str, widths: tuple, strides: tuple) -> None:
    frames, side, expected = 32, 112, {"stem": (1, 64, 32, 112, 112)}
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        frames = -(-frames // stride)
        side = side if name == "r2plus1d_18" and i == 0 else side // 2
        expected[f"res{i + 2}"] = (1, width, frames, side, side)
    assert stage_shapes(name, 32, 224, temporal_strides=strides) == {**expected, "logits": (1, 400)}


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("resnet3d_18", [2, 2, 2, 2]),
        ("resnet3d_50", [3, 4, 6, 3]),
        ("x3d_s", [3, 5, 11, 7]),
        ("x3d_l", [5, 10, 25, 15]),
        ("r2plus1d_18", [2, 2, 2, 2]),
        ("r2plus1d_50", [3, 4, 6, 3]),
        ("i3d_50", [3, 4, 6, 3]),
    ],
)
def test_stages_have_the_blocks_of_the_papers(name: str, blocks: list[int]) -> None:
    model, _ = on_meta(name, 1, 32)
    stages = [model.get_submodule(model.stage_paths[stage]) for stage in ("res2", "res3", "res4", "res5")]
    assert [len(getattr(stage, "res_blocks", stage)) for stage in stages] == blocks
