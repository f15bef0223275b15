"""What a graph of atfr.compile holds for, and that it is recorded anew for anything else."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr import private
from atfr.adapt.trace import site_names
from atfr.errors import UnsupportedNetworkError
from atfr.optimize import compiled as compiled_networks
from atfr.ragged.bucket import bucket_of
from tests.optimize.compiling import Small, assert_same, assert_same_step, clips, tiny


def test_modes_weights_and_types_may_change(as_recorded) -> None:
    model = tiny().train()
    compiled = atfr.compile(model, backend="eager")
    other, batch = copy.deepcopy(model), clips(3, 12, 8)
    assert_same_step(other, compiled, batch)
    assert_same_step(other.eval(), compiled.eval(), batch)
    other.late[0].requires_grad_(False), model.late[0].requires_grad_(False)
    assert_same_step(other, compiled, batch)
    with torch.no_grad():
        other.head.weight.mul_(2), model.head.weight.mul_(2)
    fresh = {name: torch.rand_like(value) for name, value in model.late[1].named_buffers() if value.dim()}
    for network in (other, model):
        for name, value in fresh.items():
            setattr(network.late[1], name, value.clone())  # other tensors, not other numbers in them
    with torch.inference_mode():
        assert_same(compiled(batch), other(batch))
        found = compiled.float()(batch.float())
        torch.testing.assert_close(found, other.float()(batch.float()), rtol=1e-4, atol=1e-5)


class Scaled(Small):
    """Its numbers do not all lie in layers."""

    scale = torch.tensor(2.0, dtype=torch.float64)

    def __init__(self) -> None:
        super().__init__()
        self.late.append(nn.ConstantPad3d((0, 0, 0, 0, 1, 2), 0.5))
        self.scales = ([1], [2])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale * self.scales[1][0]


CHANGES = {
    "a batch norm's momentum": lambda m: setattr(m.late[1], "momentum", 0.9),
    "its epsilon": lambda m: setattr(m.late[1], "eps", 0.5),
    "another activation": lambda m: setattr(m.stem, "2", nn.Tanh()),
    "a stride": lambda m: setattr(m.late[0], "stride", (1, 1, 1)),
    "a padding value": lambda m: setattr(m.late[3], "value", 3.0),
    "a tensor that is no buffer": lambda m: setattr(m, "scale", torch.tensor(5.0, dtype=torch.float64)),
    "lists in a tuple": lambda m: setattr(m, "scales", ([1], [4])),
    "a hook": lambda m: m.late[3].register_forward_hook(lambda module, args, output: output * 0.5),
}


def test_modules_may_change(as_recorded) -> None:
    model, batch = tiny(Scaled, sampler="uniform", active_bins=4).train(), clips(2, 4, 8)  # all maps: one recording
    compiled = atfr.compile(copy.deepcopy(model), backend="eager")
    last = compiled(batch)
    model(batch)  # statistics
    for name, change in CHANGES.items():
        for network in (model, compiled._orig_mod):
            change(network)
        assert_same_step(model, compiled, batch)
        logits, graphs = compiled(batch), len(compiled.graphs)
        model(batch)
        assert name == "a batch norm's momentum" or not torch.allclose(logits, last), name
        compiled(batch), model(batch)
        assert len(compiled.graphs) == graphs, f"{name} has not changed, and it was recorded again"
        last = logits


def test_threads_record_one_after_the_other(as_recorded) -> None:
    model = tiny(after="input", sampler="change").eval()
    compiled = atfr.compile(model, backend="eager")
    batches = [clips(3, frames, 8) for frames in (4, 6, 8, 4)]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        results = list(pool.map(torch.no_grad()(compiled), batches))
        for found, batch in zip(results, batches, strict=True):
            assert_same(found, model(batch))


def test_what_is_asked_of_it_is_told_of_the_network(as_recorded) -> None:
    model, batch = tiny(after="input", sampler="change").eval(), clips(3, 8, 8)
    for compiled in (atfr.compile(model, backend="eager"), torch.compile(model, backend="eager")):
        assert atfr.check(compiled, batch).apart
        assert atfr.calibrate_(compiled, batch, share=0.5) == atfr.calibrate_(copy.deepcopy(model), batch, share=0.5)
        assert atfr.clip_cost(compiled, batch.shape[1:]) == atfr.clip_cost(model, batch.shape[1:])
    compiled = atfr.compile(model, backend="eager")
    with torch.no_grad(), atfr.record(compiled) as trace:
        compiled(batch)
    assert list(trace.sites) == ["input"]
    assert atfr.clip_cost(compiled, batch.shape[1:]).of(trace)


def test_it_is_recorded_once_with_the_hooks_of_its_sampler(as_recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch, totals = tiny(after="input", sampler="change").eval(), clips(3, 8, 8), []
    record = compiled_networks.recorded
    monkeypatch.setattr(compiled_networks, "recorded", lambda *args: totals.append(args[2].totals()) or record(*args))
    (layer,) = site_names(model).values()
    layer.register_forward_hook(lambda module, args, output: output * 2)
    with torch.no_grad():
        with atfr.record(model) as trace:
            expected = model(batch)
        assert_same(atfr.compile(model, backend="eager")(batch), expected)
    assert totals == [(bucket_of(sum(trace.kept_maps), 3, 8),)]


def test_graphs_of_few_states_are_kept(as_recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atfr.optimize.compiled.STATES", 2)
    model = tiny(after="input", sampler="change").eval()
    compiled = atfr.compile(model)
    with torch.no_grad():
        for frames in (4, 5, 6, 4, 6):
            assert_same(compiled(clips(3, frames, 8)), model(clips(3, frames, 8)))
    assert len(compiled.graphs) == 2


def test_without_one_fake_mode_it_is_recorded_too(as_recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "FAKE_MODE", None)
    model, batch = tiny().train(), clips(3, 8, 8)
    assert_same_step(model, atfr.compile(copy.deepcopy(model)), batch)


def test_the_sampler_may_change(as_recorded) -> None:
    model, batch = tiny().eval(), clips(3, 12, 8)
    compiled = atfr.compile(model, backend="eager")
    with torch.no_grad():
        first = compiled(batch)
        atfr.set_num_bins_(model, 2)
        expected = copy.deepcopy(model)(batch)
        assert_same(compiled(batch), expected)
        assert not torch.allclose(first, expected)
        atfr.restore_(model)
        with pytest.raises(UnsupportedNetworkError, match="has no sampler"):
            compiled(batch)
