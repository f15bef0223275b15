"""Files with faults are used, used in part, or refused by one clear line: no crash, no hang, no memory without end."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from tests.faults.mutants import FAULTS, Mutant, Workshop, sources
from tests.faults.pool import GOOD, LIMIT_S, REAL, Outcome, Trial, try_all

FEW, MANY = 63, 1260
MEMORY_MB = 1024


def outcomes(folder: Path, count: int, seed: int, processes: int, real: Path | None = None) -> list[Outcome]:
    workshop = Workshop(folder, sources(folder, real))
    found = try_all(workshop.mutants(count, seed), folder, processes)
    assert len(found) == count
    bad = [outcome for outcome in found if outcome.outcome not in GOOD]
    assert not bad, bad
    assert max(outcome.seconds for outcome in found) < LIMIT_S
    assert max(outcome.peak_mb for outcome in found) < MEMORY_MB
    return found


def test_some_mutants(tmp_path: Path) -> None:
    found = outcomes(tmp_path, FEW, seed=0, processes=1)
    assert {outcome.fault for outcome in found} == set(FAULTS)
    for good in GOOD:  # the mutants are neither all sound nor all hopeless
        assert sum(outcome.outcome == good for outcome in found) >= 8


@pytest.mark.soak
@pytest.mark.parametrize("seed", [0, 1])
def test_many_mutants(tmp_path: Path, seed: int) -> None:
    outcomes(tmp_path, MANY, seed, processes=os.cpu_count() or 1, real=REAL if REAL.is_dir() else None)


def test_the_same_seed_makes_the_same_mutants(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, sources(tmp_path)[:1] * 30)
    kinds = [fault for fault in FAULTS if fault in ("truncated", "flipped bits", "flipped header", "zeroed block")]
    assert len(kinds) == 4
    first, again, other = (list(workshop.mutants(5, seed)) for seed in (0, 0, 1))
    assert first == again
    assert all(a.content != b.content for a, b in zip(first, other, strict=True))


def test_a_huge_declared_size_is_refused_and_takes_no_memory(tmp_path: Path) -> None:
    workshop = Workshop(tmp_path, sources(tmp_path))
    kinds = (workshop._huge_h264, workshop._huge_jpeg, workshop._huge_gif, workshop._huge_container)
    huge = []
    for side, kind in itertools.product((12_000, 30_000), kinds):
        suffix, content = kind(np.random.default_rng(0), side)
        huge.append(Mutant(f"{side}{kind.__name__}{suffix}", f"{side} x {side} px", content))
    found = try_all(huge, tmp_path, 1)
    assert len(found) == 8
    for outcome in found:
        assert outcome.outcome == "refused", outcome
        assert outcome.fault in outcome.reason or "million pixels" in outcome.reason
        assert outcome.peak_mb < 200


def test_the_harness_sees_crashes_and_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that cannot fail would prove nothing: one trial kills itself, one never answers."""
    module = "import os, signal, sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n    {}\n"
    for action, expected in (("os.kill(os.getpid(), signal.SIGSEGV)", "crash"), ("signal.pause()", "hang")):
        (tmp_path / "tests" / "faults").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / "faults" / "trial.py").write_text(module.format(action))
        monkeypatch.setattr("tests.faults.pool.ROOT", tmp_path)
        monkeypatch.setattr("tests.faults.pool.LIMIT_S", 1.0)
        trial = Trial()
        found = trial.run(tmp_path / "any.mp4")
        assert found["outcome"] == expected
        assert found["reason"] == ("exit code -11" if expected == "crash" else "exit code -9")
