"""optimize_for_inference against the network itself, on random networks: values, gradients, NaN, side effects."""

import copy
import random
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import AtfrError
from tests.optimize.random_networks import RECORDED, SHAPE, random_network

BAD = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "large": 1e15}


@dataclass
class Run:
    """What came of one forward pass: logits, gradient of the clips, the clips afterwards, what hooks have seen."""

    results: list[Tensor]
    error: str = ""


def run(network: nn.Module, clips: Tensor, gradients: bool) -> Run:
    RECORDED.clear()
    given = clips.clone().requires_grad_(gradients)
    try:
        with nullcontext() if gradients else torch.inference_mode():
            entering = given + 0 if gradients else given  # a leaf may not be written over
            logits = network(entering)
            results = [logits, entering, *RECORDED]
            if gradients:
                weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
                results.insert(1, torch.autograd.grad((logits * weights).sum(), given)[0])
    except RuntimeError as error:
        return Run([], str(error))
    return Run([plain(result).detach().clone() for result in results])


def plain(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def check(seed: int) -> str:
    """Compare the networks of one seed; return what was done, in a word."""
    draw = random.Random(f"{seed}")
    torch.manual_seed(seed)
    network = random_network(seed)
    clips = torch.randn(draw.choice([1, 2]), *SHAPE[1:])
    half, gradients, bad = draw.random() < 0.25, draw.random() < 0.3, draw.random() < 0.35
    kind = "plain"
    if draw.random() < 0.4:
        kind = adapt(network, draw, half)
    if bad:
        spoil(network, clips, draw)
    fast = atfr.optimize_for_inference(network)
    if half:
        wide, network, fast = network, copy.deepcopy(network).to(torch.bfloat16), fast.to(torch.bfloat16)
        clips = clips.to(torch.bfloat16)
    else:
        wide = copy.deepcopy(network).double()
    network.requires_grad_(False)
    wide.requires_grad_(False)
    expected, got = run(network, clips, gradients), run(fast, clips, gradients)
    reference = run(wide, clips.to(torch.float32 if half else torch.float64), gradients)
    if expected.error:
        return "eager raises"
    assert not got.error, got.error
    assert len(got.results) == len(expected.results)
    for place, (ours, theirs) in enumerate(zip(got.results, expected.results, strict=True)):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        if bad and gradients and place == 1:
            continue  # which gradients are NaN depends on how a sum of zeros and infinities is ordered
        for of in (torch.isnan, torch.isposinf, torch.isneginf):
            assert torch.equal(of(ours), of(theirs)), f"other {of.__name__}: {place}"
        same = reference.error or [r.shape for r in reference.results] != [r.shape for r in expected.results]
        assert_close(ours, theirs, theirs if same else reference.results[place], half)
    return f"{kind}{' bf16' if half else ''}{' grad' if gradients else ''}{' bad' if bad else ''}"


def assert_close(ours: Tensor, theirs: Tensor, exact: Tensor, half: bool) -> None:
    """Our error is that of PyTorch's own, within a factor and the rounding of about ten operations of that type."""
    finite = ours.isfinite() & exact.isfinite()
    if not finite.any():
        return
    ours, theirs, exact = (each[finite].double() for each in (ours, theirs, exact))
    unit = torch.finfo(torch.bfloat16 if half else torch.float32).eps
    bound = 4 * (theirs - exact).abs().max() + 8 * unit * exact.abs().max()
    assert (ours - exact).abs().max() <= bound, f"{(ours - exact).abs().max()} > {bound}"


def adapt(network: nn.Module, draw: random.Random, half: bool) -> str:
    """Put a sampler somewhere, if the network works behind it."""
    paths = [path for path, module in network.named_modules() if path and not isinstance(module, nn.ModuleList)]
    sampler = draw.choice(["uniform", "average"] if half else ["uniform", "average", "sgs", "change"])
    options: dict[str, Any] = {"active_bins": draw.choice([1, 2, 3])} if sampler in ("uniform", "average") else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a sampler where no trial clip passes
            atfr.adapt_(network, draw.choice(["input", *paths]), sampler=sampler, example=torch.randn(SHAPE), **options)
    except (AtfrError, RuntimeError, TypeError, IndexError):
        return "plain"
    return sampler


def spoil(network: nn.Module, clips: Tensor, draw: random.Random) -> None:
    """Write something bad into the clips, or into a weight or a statistic."""
    value = BAD[draw.choice(list(BAD))]
    tensors = [t for t in network.state_dict().values() if t.is_floating_point()]
    target = clips if draw.random() < 0.5 or not tensors else draw.choice(tensors)
    flat = target.data.view(-1)
    flat[draw.randrange(len(flat))] = value


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed: int) -> None:
    check(seed)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 6000, 100))
def test_many_random_networks(first: int) -> None:
    for seed in range(first, first + 100):
        check(seed)
