import math

import pytest
import torch

from atfr.train.module import learning_rate_factor, parameter_groups
from tests.evaluate.build import network


def test_schedule_rises_linearly_then_falls_as_half_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 20) for step in range(101)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:] == pytest.approx([0.5 * (1 + math.cos(math.pi * (step - 20) / 80)) for step in range(20, 101)])
    assert factors[60] == pytest.approx(0.5)
    assert factors[100] == 0
    assert learning_rate_factor(150, 100, 20) == 0
    assert learning_rate_factor(0, 10, 0) == 1


def test_weight_decay_spares_batch_norm_and_biases_and_nothing_else() -> None:
    model = network()
    with_decay, without = parameter_groups(model.parameters(), 0.1)
    assert (with_decay["weight_decay"], without["weight_decay"]) == (0.1, 0.0)
    decays = {id(parameter): True for parameter in with_decay["params"]} | {id(p): False for p in without["params"]}
    assert len(with_decay["params"]) + len(without["params"]) == len(list(model.parameters()))
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            spared = isinstance(module, torch.nn.BatchNorm3d) or own == "bias"
            assert decays[id(parameter)] == (not spared), f"{name}.{own}"


def test_frozen_parameters_are_not_trained() -> None:
    model = network()
    model.stem.requires_grad_(False)
    groups = parameter_groups(model.parameters(), 0.1)
    trained = {id(parameter) for group in groups for parameter in group["params"]}
    assert not trained & {id(parameter) for parameter in model.stem.parameters()}
