"""What every test stands on: one thread a process, Ctrl-C, random state given back, shapes checked at run time."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist's processes share the cores; so do those tests start

import hypothesis  # noqa: F401  registers what it finds by its referrers, before they are out of the collector's sight
import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # asked when a kernel is defined: it runs on the CPU, slowly

from atfr.kernels.allocator import give_back_free_memory
from tests.models.narrow import flat, short

# Autograd starts its threads at the first backward pass, one for each kind of device that is known by then, and with
# threads no fork can train. torch.compile makes more kinds known than there are.
torch.ones(1, requires_grad=True).sum().backward()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """All tests and what they import stay: the collector looks through them once, and never again, 0.6 s each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no process that a test starts hears Ctrl-C


@pytest.fixture(autouse=True)
def _same_randomness() -> Iterator[None]:
    """Every test starts from seed 0 and leaves no random state behind; nor another scheduling, as an encoder has."""
    state, policy = torch.get_rng_state(), os.sched_getscheduler(0)
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)
    assert os.sched_getscheduler(0) == policy


@pytest.fixture(autouse=True, scope="module")
def _memory_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """The networks that a file keeps for its tests go with it, back to the system: processes grew to 7 GB without."""
    yield
    for made in vars(request.node.obj).values():
        if hasattr(made, "cache_clear"):
            made.cache_clear()
    gc.collect()
    gc.freeze()  # what the file has imported stays too
    give_back_free_memory()


@pytest.fixture(scope="module")
def few_layers() -> Iterator[None]:
    """Networks of few blocks stand for those of their names, in this process alone."""
    with short():
        yield


@pytest.fixture(scope="module")
def flat_stages() -> Iterator[None]:
    """A 3DResNet has one convolution a stage, in this process alone."""
    with flat():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real videos beside the checkout; tests that need it skip where it is absent."""
    folder = Path(__file__).parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real videos: the folder shared/data is not beside the checkout")
    return folder
