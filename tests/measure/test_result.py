"""A result file says of what, by which command and where it was measured; limits and memory are what they should be."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from atfr.errors import InputError
from atfr.measure import conditions, machine, machine_limits, peak_memory, write_result
from atfr.measure.memory import largest_batch
from tests.alone import alone

MB = 2**20


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PRODUCT", {"cpu": 128})
    monkeypatch.setattr(machine, "COPIED", {"cpu": 2**16})


def test_a_result_file_holds_what_the_result_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/scale.py", "--out", "a file.json"])
    path = tmp_path / "new" / "scale.json"
    report = write_result(path, {"speedup": 2.0}, inputs={"clip_shape": [3, 13, 160, 160]})
    assert json.loads(path.read_text()) == report
    assert list(path.parent.iterdir()) == [path]
    assert report["command"] == "python benchmarks/scale.py --out 'a file.json'"
    assert report["results"] == {"speedup": 2.0}
    assert report["inputs"] == {"clip_shape": [3, 13, 160, 160]}
    assert report["conditions"]["threads"] == torch.get_num_threads()
    assert report["conditions"]["versions"]["torch"] == torch.__version__
    assert {"cpu", "cores", "cpu_capability", "device"} <= set(report["conditions"]["hardware"])
    assert set(report["limits"]) == {"float32_gflops", "bfloat16_gflops", "copy_gbs"}


def test_the_commit_is_that_of_the_checkout_and_dirty_where_its_code_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "src" / "atfr"
    (package / "bench").mkdir(parents=True)
    (package / "bench" / "machine.py").touch()
    monkeypatch.setattr(machine, "__file__", str(package / "bench" / "machine.py"))
    assert machine.commit() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True)
    head = subprocess.run(["git", "-C", tmp_path, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert machine.commit() == {"id": head.stdout.strip(), "dirty": False}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "result.json").touch()
    assert machine.commit() == {"id": head.stdout.strip(), "dirty": False}
    (package / "new.py").touch()
    assert machine.commit() == {"id": head.stdout.strip(), "dirty": True}


def test_an_installed_package_inside_a_foreign_checkout_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / ".venv" / "lib" / "atfr"
    (package / "bench").mkdir(parents=True)
    subprocess.run(["git", "-C", tmp_path, "init", "-q"], check=True)
    monkeypatch.setattr(machine, "__file__", str(package / "bench" / "machine.py"))
    assert machine.commit() is None


def test_limits_are_rates_of_what_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    from atfr.measure import Timing

    times = {"float32": (0.5, 1.0, 0.5), "bfloat16": (0.25,) * 3, "copy": (2.0,) * 3}
    monkeypatch.setattr(machine, "in_turns", lambda variants, **_: Timing({name: times[name] for name in variants}))
    monkeypatch.setattr(machine, "has_bfloat16", lambda _device: True)
    found = machine_limits()
    assert (found.float32_gflops.median, found.float32_gflops.least) == (128**3 / 0.5e9, 128**3 / 1e9)
    assert found.bfloat16_gflops.median == 128**3 / 0.25e9
    assert found.copy_gbs.median == 2**16 / 1e9  # read once and written once, in two seconds
    assert "GFLOP/s in float32 and 0 in bfloat16, and" in machine.in_the_same_run(found.to_dict())
    monkeypatch.setattr(machine, "has_bfloat16", lambda _device: False)  # where a product takes nine seconds
    found = machine_limits()
    assert found.bfloat16_gflops is None
    assert "GFLOP/s in float32 and none in bfloat16, which it lacks, and" in machine.in_the_same_run(found.to_dict())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no /proc/self/clear_refs: not Linux")
@pytest.mark.parametrize("room", [0, 15, 16, 208, 1000, 4096, 9999])
def test_the_largest_batch_is_the_largest_multiple_that_fits(room: int) -> None:
    tried: list[int] = []

    def step(clips: int) -> None:
        tried.append(clips)
        if clips > room:
            raise torch.OutOfMemoryError

    assert largest_batch(step) == min(room // 16 * 16, 4096)
    assert len(tried) == len(set(tried)) <= 9
    assert max(tried) <= 4096


def test_peak_memory_is_what_a_call_held_at_most() -> None:
    alone(measure_peak_memory)


def measure_peak_memory() -> None:
    def run() -> None:
        for _ in range(3):
            torch.ones(40 * MB // 4)
        torch.ones(100 * MB // 4)
        torch.ones(40 * MB // 4)

    held = torch.ones(64 * MB // 4)
    run()
    assert 95 * MB < peak_memory(run) < 115 * MB
    assert 0 <= peak_memory(held.sum) < 10 * MB


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from atfr.measure import memory

    monkeypatch.setattr(memory, "FORGET", tmp_path / "missing" / "clear_refs")
    with pytest.raises(InputError, match="read from /proc of Linux"):
        peak_memory(lambda: None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: its peak memory and limits are not tested")
def test_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert peak_memory(lambda: torch.ones(100 * MB // 4, device="cuda"), device="cuda") >= 100 * MB
    assert machine_limits("cuda").float32_gflops.median > 100
    assert "gpu" in conditions("cuda")["hardware"]
