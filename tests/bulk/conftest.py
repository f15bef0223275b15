"""The network that the command is tried with."""

from pathlib import Path

import pytest
import torch

import atfr
from atfr.evaluate.task import Task, save_checkpoint
from tests.evaluate.build import SPEC


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=2)
    atfr.adapt_(model, after="input", sampler="change", num_bins=2)
    save_checkpoint(model, Task(("a", "b"), SPEC), folder)
    return folder
