"""Try mutants in processes of their own, with limits of time and memory, and count what comes of them.

    python -m tests.faults.pool --mutants 1200 --seed 0

prints the table of docs/reliability.md.
"""

import argparse
import contextlib
import json
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.faults.mutants import Mutant, Workshop, sources

LIMIT_S = 10.0
LIMIT_MB = 3072
GOOD = ("used", "used in part", "refused")
ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "videos"


@dataclass(frozen=True)
class Outcome:
    """What came of a mutant: one of GOOD, or what must not happen."""

    mutant: str
    fault: str
    outcome: str
    reason: str
    seconds: float
    peak_mb: float


class Trial:
    """A process that decodes files, replaced when it dies or hangs."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.faults.trial", str(LIMIT_MB)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def run(self, path: Path) -> dict[str, object]:
        self.process = self.process or self.start()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            answered = bool(selector.select(LIMIT_S))
        line = self.process.stdout.readline() if answered else ""
        if line:
            return json.loads(line)
        outcome = "crash" if answered else "hang"
        self.stop()
        return {"outcome": outcome, "reason": f"exit code {self.code}", "seconds": LIMIT_S, "peak_mb": 0.0}

    def stop(self) -> None:
        if self.process is not None:
            if self.process.poll() is None:
                self.process.kill()
            self.code = self.process.wait()
            assert self.process.stdin is not None
            assert self.process.stdout is not None
            self.process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process = None


def try_all(mutants: Iterable[Mutant], folder: Path, processes: int) -> list[Outcome]:
    """Write and decode each mutant, in so many processes."""
    waiting: queue.Queue[Mutant | None] = queue.Queue(2 * processes)
    outcomes: list[Outcome] = []

    def work() -> None:
        trial = Trial()
        try:
            while (mutant := waiting.get()) is not None:
                path = folder / mutant.name
                path.write_bytes(mutant.content)
                found = trial.run(path)
                outcomes.append(Outcome(mutant.name, mutant.fault, **found))  # type: ignore[arg-type]
                if found["outcome"] in GOOD:
                    path.unlink()
        finally:
            trial.stop()

    threads = [threading.Thread(target=work) for _ in range(processes)]
    for thread in threads:
        thread.start()
    try:
        for mutant in mutants:
            waiting.put(mutant)
    finally:
        for _ in threads:
            waiting.put(None)
        for thread in threads:
            thread.join()
    return sorted(outcomes, key=lambda outcome: outcome.mutant)


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes by fault, as Markdown."""
    by_fault: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        by_fault[outcome.fault].append(outcome)
    rows = [
        "| fault | mutants | used | used in part | refused | anything else | longest (s) | most memory (MB) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fault, found in [*by_fault.items(), ("all", outcomes)]:
        counts = Counter(outcome.outcome for outcome in found)
        other = len(found) - sum(counts[good] for good in GOOD)
        longest, most = max(o.seconds for o in found), max(o.peak_mb for o in found)
        cells = [fault, len(found), *(counts[good] for good in GOOD), other, f"{longest:.2f}", f"{most:.0f}"]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workshop = Workshop(folder, sources(folder, REAL if REAL.is_dir() else None))
        outcomes = try_all(workshop.mutants(args.mutants, args.seed), folder, args.processes)
    print(table(outcomes))
    for outcome in outcomes:
        if outcome.outcome not in GOOD:
            print(outcome, file=sys.stderr)


if __name__ == "__main__":
    main()
