"""Every file under configs/ is what it says: `atfr train` takes it, its network can be made, its figures hold."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import atfr
from atfr.cli.parser import make_parser
from atfr.cli.train import train
from atfr.data.sets import DATA_SETS
from atfr.evaluate.task import natural_clip

CONFIGS = sorted((Path(__file__).parents[1] / "configs").rglob("*.yaml"))
WITHOUT_STATIC_FIGURES = {
    f"configs/{name}.yaml"
    for name in ("kinetics400/resnet3d_50", "mini_kinetics200/resnet3d_18", "ucf101/resnet3d_50", "hmdb51/resnet3d_50")
}


@pytest.fixture(scope="module")
def parser() -> Any:
    return make_parser("atfr train", train)  # with all options of the Trainer, so made once


@cache
def num_sites(placed: str) -> int:
    """How many samplers a network gets, of JSON; several files place them alike, for other numbers of classes."""
    name, arguments, after, temporal_block = json.loads(placed)
    with torch.device("meta"):
        model = atfr.create_model(name, **arguments)
    return len(atfr.adapt_(model, after, temporal_block=temporal_block).sites)


@cache
def static_cost(name: str, arguments: str, frames: int, size: int) -> int:
    """Multiply-adds of one clip; for as many classes as the network has by default, which nearly is the same."""
    with torch.device("meta"):
        model = atfr.create_model(name, **json.loads(arguments))
    return atfr.clip_cost(model, (3, frames, size, size)).static


def test_every_data_set_has_one() -> None:
    assert {config.parent.name for config in CONFIGS} == set(DATA_SETS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: "/".join(path.parts[-2:]))
def test_it_parses_and_builds_and_costs_what_the_paper_says(config: Path, parser: Any) -> None:
    head = config.read_text(encoding="utf-8")
    name = "/".join(config.parts[-3:])
    assert f"atfr train --config {name} --data DATA" in head
    assert "Not run at full scale here." in head
    values = vars(parser.instantiate(parser.parse_args(["--config", str(config), "--data", "DATA", "--out", "RUN"])))
    assert (values["dataset"], values["model"]) == (config.parent.name, config.stem)
    arguments = values["model_arguments"] or {}
    with torch.device("meta"):
        model = atfr.create_model(values["model"], DATA_SETS[values["dataset"]].NUM_CLASSES, **arguments)
    spec = values["clip"].over(natural_clip(model, has_weights=False))
    assert spec.flip == (values["dataset"] != "ssv2")  # there, left and right are different classes
    said = re.search(r"without SGS (?:top-1 )?(?:[\d.]+ %, )+([\d.]+) GFLOPs", " ".join(head.replace("#", "").split()))
    assert (said is None) == (name in WITHOUT_STATIC_FIGURES)
    if said:
        tested = re.search(r"atfr test [^#\n]*--clip\.size (\d+)", head)
        size = int(tested[1]) if tested else spec.size
        cost = static_cost(values["model"], json.dumps(arguments), spec.frames, size)
        assert cost / 1e9 == pytest.approx(float(said[1]), rel=0.04)
    placed = json.dumps([values["model"], arguments, values["after"], values["temporal_block"]])
    assert num_sites(placed) == (2 if "slowfast" in values["model"] else 1)
