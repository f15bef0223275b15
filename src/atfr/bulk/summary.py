"""The figures of a run, while it runs and afterwards."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from atfr.bulk.engine import Measured, Outcome


@dataclass
class Summary:
    """What a run has done so far."""

    configuration: str  # the key of the tables
    listed: int  # videos in the manifest
    were_there: int = 0  # of them, predicted before this run
    had_failed: int = 0  # of them, given up before this run
    predicted: int = 0  # in this run
    failed: Counter[str] = field(default_factory=Counter)  # in this run, by kind
    gflops: float = 0.0  # multiply-adds / 1e9 of this run's views
    static_gflops: float = 0.0  # what they would be in the network without the sampler
    # by site, the views and the maps that they kept together
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    measured: Measured = field(default_factory=Measured)  # what the engine saw
    price: float | None = None  # of all that it runs on, an hour
    start_s: float = field(default_factory=time.monotonic)
    _since: tuple[float, int] | None = None

    def add(self, outcomes: Iterable[Outcome], measured: Measured) -> None:
        """Count what became of some videos."""
        self.measured = measured
        for one in outcomes:
            if one.row is None:
                self.failed[one.kind] += 1
                continue
            self.predicted += 1
            self.gflops += one.row.get("gflops", 0.0)
            self.static_gflops += one.row.get("static_gflops", 0.0)
            for site, bins in one.row.get("active_bins", {}).items():
                views, maps = self.kept.get(site, (0, 0))
                self.kept[site] = views + len(bins), maps + sum(bins)
        if self.predicted and not self._since:
            self._since = (time.monotonic(), self.predicted)

    @property
    def done(self) -> int:
        """Videos of the manifest that have a row or an error."""
        return self.were_there + self.had_failed + self.predicted + self.failed.total()

    @property
    def videos_per_s(self) -> float:
        """Videos predicted a second, since the first were there: starting the workers is not in it."""
        first_s, first = self._since or (time.monotonic(), 0)
        passed_s = time.monotonic() - first_s
        return (self.predicted - first) / passed_s if passed_s > 0 else 0.0

    @property
    def mean_active_bins(self) -> dict[str, float]:
        """By site, the mean A of this run's views."""
        return {site: maps / views for site, (views, maps) in self.kept.items() if views}

    def to_dict(self) -> dict[str, Any]:
        """Turn the figures into plain JSON values."""
        hours = (time.monotonic() - self.start_s) / 3600
        each, ceiling = self.videos_per_s, self.measured.ceiling
        cost = {} if self.price is None else {"cost": hours * self.price}
        if self.price is not None and self.predicted:
            cost["cost_per_thousand_videos"] = 1000 * hours * self.price / self.predicted
        return {
            "configuration": self.configuration,
            "videos": self.listed,
            "were_there": self.were_there,
            "had_failed": self.had_failed,
            "predicted": self.predicted,
            "failed": dict(self.failed),
            "hours": hours,
            "videos_per_s": each or None,  # all may have come at once
            "ceiling_videos_per_s": ceiling,
            "share_of_ceiling": each / ceiling if each and ceiling else None,
            "mean_active_bins": self.mean_active_bins,
            "gflops": self.gflops,
            "static_gflops": self.static_gflops,
            "decode_s": self.measured.decode_s,
            "network_s": self.measured.network_s,
            "workers_lost": dict(self.measured.workers_lost),
            **cost,
        }

    def line(self) -> str:
        """Return how far it is, on one line."""
        each, ceiling = self.videos_per_s, self.measured.ceiling
        parts = [f"{self.done} of {self.listed} videos"]
        if each:
            share = f" = {100 * each / ceiling:.0f} % of the network-only ceiling {ceiling:.3g}/s" if ceiling else ""
            parts.append(f"{each:.3g}/s{share}")
            parts.append(f"{timedelta(seconds=round((self.listed - self.done) / each))} left")
        parts += [f"mean A {mean:.3g} ({site})" for site, mean in self.mean_active_bins.items()]
        if self.static_gflops:
            parts.append(f"{self.gflops:.4g} GFLOPs, {self.static_gflops:.4g} without the sampler")
        parts += [f"{count} {kind}" for kind, count in self.failed.items()]
        return "; ".join(parts)
