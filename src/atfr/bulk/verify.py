"""verify: that each video of a manifest is in the tables exactly once, or which are not."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from atfr.bulk.manifest import Ledger, read_manifest
from atfr.bulk.tables import Bulk

SHOWN = 1000
"""Ids of each kind that are listed, at most."""


@dataclass
class Verified:
    """What the tables of one configuration have of a manifest."""

    configuration: str  # the key
    videos: int  # of the manifest
    predicted: int = 0  # of them, with exactly one row
    failed: dict[str, int] = field(default_factory=dict)  # of them, with none and an error, by kind
    missing: list[str] = field(default_factory=list)  # ids with neither, some
    num_missing: int = 0  # how many
    twice: list[str] = field(default_factory=list)  # ids with several rows, some
    num_twice: int = 0  # how many
    foreign: int = 0  # rows with the key of another configuration
    unlisted: int = 0  # rows of videos that are not in the manifest

    @property
    def whole(self) -> bool:
        """Whether each video is there exactly once, as a prediction or as an error."""
        return not (self.num_missing or self.num_twice or self.foreign)

    def to_dict(self) -> dict[str, Any]:
        """Turn the figures into plain JSON values."""
        return asdict(self) | {"whole": self.whole}


def verify(bulk: Bulk, manifest: str) -> Verified:
    """Hold the tables of a configuration against a manifest; memory grows by 18 bytes a video.

    Raises:
        DataError: the manifest or a part cannot be read.
    """
    ledger = Ledger(read_manifest(manifest))
    rows = np.zeros(len(ledger), np.uint8)
    found = Verified(bulk.key, len(ledger))
    for batch in bulk.predictions.batches(["id", "configuration"]):
        found.foreign += sum(one != bulk.key for one in batch.column(1).to_pylist())
        places = ledger.places(ids := batch.column(0).to_pylist())
        found.unlisted += int(np.count_nonzero(places < 0))
        for id_, place in zip(ids, places.tolist(), strict=True):
            if place >= 0:
                rows[place] = min(rows[place] + 1, 2)
                if rows[place] == 2 and len(found.twice) < SHOWN and id_ not in found.twice:
                    found.twice.append(id_)
    kinds: list[str] = []
    kind_of = np.zeros(len(ledger), np.uint8)  # 0: no error; else one above the place in `kinds`
    for batch in bulk.failed():
        for kind, place in zip(batch["kind"], ledger.places(batch["id"]).tolist(), strict=True):
            if kind not in kinds:
                kinds.append(kind)
            if place >= 0 and rows[place] == 0:
                kind_of[place] = 1 + kinds.index(kind)
    found.predicted, found.num_twice = (int(np.count_nonzero(rows == count)) for count in (1, 2))
    found.failed = {kind: int(np.count_nonzero(kind_of == 1 + number)) for number, kind in enumerate(kinds)}
    found.failed = {kind: count for kind, count in found.failed.items() if count}
    missing = (rows == 0) & (kind_of == 0)
    found.num_missing = int(np.count_nonzero(missing))
    found.missing = list(_named(ledger, missing, manifest)) if found.num_missing else []
    return found


def _named(ledger: Ledger, chosen: np.ndarray, manifest: str) -> Iterator[str]:
    named = 0
    for block in read_manifest(manifest):
        for video, place in zip(block, ledger.places(video.id for video in block).tolist(), strict=True):
            if chosen[place] and named < SHOWN:
                named += 1
                chosen[place] = False
                yield video.id
