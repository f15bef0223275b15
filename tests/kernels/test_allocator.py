"""Freed memory stays with the process while networks run, and goes back afterwards."""

import ctypes
import platform
import resource

import pytest
import torch

from atfr.kernels.allocator import freed_memory_kept, keep_freed_memory
from atfr.measure.memory import resident
from tests.alone import alone

MEBIBYTES = 256


def held(mebibytes: int = MEBIBYTES) -> int:
    """MiB that the process holds once a large tensor is filled and freed."""
    before = resident("VmRSS")
    torch.ones(mebibytes, 2**18)
    return (resident("VmRSS") - before) >> 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_kept_in_the_context_alone() -> None:
    alone(keep_and_give_back)


def keep_and_give_back() -> None:
    assert held() < MEBIBYTES // 2
    with freed_memory_kept():
        assert held() > MEBIBYTES // 2
        assert held(MEBIBYTES // 2) < MEBIBYTES // 4  # it is used again, but for what small things took since
        kept = resident("VmRSS")
    assert (kept - resident("VmRSS")) >> 20 > MEBIBYTES // 2
    assert held() < MEBIBYTES // 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_of_contexts_within_each_other_the_last_ends_it() -> None:
    alone(keep_twice)


def keep_twice() -> None:
    with freed_memory_kept():
        with freed_memory_kept():
            pass
        assert held() > MEBIBYTES // 2
    assert held() < MEBIBYTES // 2
    keep_freed_memory()
    with freed_memory_kept():
        pass
    assert held() > MEBIBYTES // 2  # for good


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_afterwards_tensors_of_some_megabytes_are_not_mapped_anew_each_time() -> None:
    alone(use_and_look_at_pages)


def use_and_look_at_pages() -> None:
    with freed_memory_kept():
        pass
    for _ in range(20):  # until a place has settled that takes them
        torch.ones(20, 2**18)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(20, 2**18)  # 20 MB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 20 * 2**20 // resource.getpagesize()


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    with freed_memory_kept():
        pass
