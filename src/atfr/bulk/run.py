"""run: what a manifest has left, into the tables of a configuration, as often as it takes until all is there."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from atfr.bulk.engine import Engine, Outcome, Settings
from atfr.bulk.manifest import DONE, FAILED, Ledger, read_manifest
from atfr.bulk.summary import Summary
from atfr.bulk.tables import FINAL, SUMMARY, Bulk
from atfr.bulk.workers import Network, Read


@dataclass(frozen=True)
class Commits:
    """When rows go to disk; what a run that is killed has not committed, the next does again."""

    rows: int = 10_000  # of a part, at most
    every_s: float = 60.0  # however few they are


def left_of(bulk: Bulk, manifest: str, again: bool = False) -> Ledger:
    """Return what is left of a manifest, by what the tables have.

    Args:
        again: try again too what was given up for good.
    """
    ledger = Ledger(read_manifest(manifest))
    for failed in bulk.failed():
        final = [one for one, kind in zip(failed["id"], failed["kind"], strict=True) if kind in FINAL and not again]
        ledger.mark(final, FAILED)
    for ids in bulk.predicted():
        ledger.mark(ids, DONE)
    return ledger


def summary_of(bulk: Bulk, ledger: Ledger) -> Summary:
    """Return the figures before anything is done."""
    return Summary(bulk.key, len(ledger), ledger.count(DONE), ledger.count(FAILED))


def run(
    bulk: Bulk,
    manifest: str,
    ledger: Ledger,
    read: Read,
    make_network: Callable[[], Network],
    settings: Settings,
    commits: Commits,
    progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Predict what is left of a manifest, on the Ray cluster that this process is connected to.

    Args:
        manifest: see `read_manifest`.
        ledger: what is left of it, as `left_of` says.
        progress: called with the figures so far, every second or so.

    Raises:
        PartTakenError: another run writes to the same tables.
        OSError: a part cannot be written; what was committed before stays.
        DataError: the manifest cannot be read, or many videos in a row fail for no fault of theirs.
    """
    summary = summary_of(bulk, ledger)
    progress(summary)
    engine = Engine(ledger.left(read_manifest(manifest)), read, make_network, settings)
    writer = Writer(bulk, commits)
    try:
        for outcomes in engine.run():
            writer.add(outcomes)
            summary.add(outcomes, engine.measured)
            progress(summary)
            if writer.due():
                writer.commit(summary)
    finally:  # also where it is interrupted, or many videos fail
        if not writer.broken:
            writer.commit(summary)
    return summary


class Writer:
    """Keeps outcomes until they are committed."""

    def __init__(self, bulk: Bulk, commits: Commits) -> None:
        self.bulk, self.commits = bulk, commits
        self.broken = False  # a commit has failed
        self._rows: list[dict[str, Any]] = []
        self._errors: list[dict[str, Any]] = []
        self._since_s = time.monotonic()

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Take outcomes in."""
        for one in outcomes:
            row = {"id": one.video.id, "uri": one.video.uri, "content": one.content, "configuration": self.bulk.key}
            if one.row is not None:
                self._rows.append(row | one.row)
            else:
                self._errors.append(row | {"kind": one.kind, "message": one.message, "tries": one.tries})

    def due(self) -> bool:
        """Whether it is time for a commit."""
        most = max(len(self._rows), len(self._errors))
        late = time.monotonic() - self._since_s >= self.commits.every_s
        return most >= self.commits.rows or (most > 0 and late)

    def commit(self, summary: Summary) -> None:
        """Write what there is."""
        self.broken = True
        for table, rows in ((self.bulk.errors, self._errors), (self.bulk.predictions, self._rows)):
            if rows:
                table.append(rows)
                rows.clear()
        self.bulk.write(SUMMARY, summary.to_dict())
        self._since_s, self.broken = time.monotonic(), False
