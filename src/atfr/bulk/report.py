"""report: what the tables of a bulk prediction say, read part by part, however many rows there are."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from atfr.bulk.tables import CONFIGURATION, SUMMARY, Bulk
from atfr.errors import DataError
from atfr.viz.figures import COLOURS, brief, short, style
from atfr.viz.page import Section, Table, page
from atfr.words import counted

MOST_LABELS, MOST_ERRORS = 40, 100
"""Rows that the page shows; report.json has all labels."""


@dataclass
class BulkReport:
    """What is in the tables of one configuration; its size does not depend on the number of rows."""

    configuration: dict[str, Any]  # what the key stands for, as far as it is known
    summary: dict[str, Any]  # figures of the last run, likewise
    videos: int = 0  # rows of predictions
    views: int = 0  # of all of them
    labels: Counter[str] = field(default_factory=Counter)  # how often each is the most probable
    sure: Counter[int] = field(default_factory=Counter)  # videos by the probability of their label, in tenths
    active_bins: dict[str, Counter[int]] = field(default_factory=dict)  # by site, views by the maps that they kept
    gflops: float = 0.0  # multiply-adds / 1e9 of all views
    static_gflops: float = 0.0  # what they would be without the sampler
    warnings: int = 0  # videos of which only a part could be used
    errors: Counter[str] = field(default_factory=Counter)  # rows of errors, by kind
    some_errors: list[tuple[str, str, str]] = field(default_factory=list)  # id, kind and message of the first ones

    def to_dict(self) -> dict[str, Any]:
        """Turn the report into plain JSON values."""
        values = {name: value for name, value in vars(self).items() if name not in ("sure", "some_errors")}
        return values | {
            "labels": dict(self.labels.most_common()),
            "videos_by_probability": {f"{step / 10:.1f}": self.sure[step] for step in range(10)},
            "active_bins": {site: dict(sorted(found.items())) for site, found in self.active_bins.items()},
        }


def bulk_report(bulk: Bulk) -> BulkReport:
    """Read the tables of a configuration.

    Raises:
        DataError: there is no prediction, or a part is damaged.
    """
    found = BulkReport(_known(bulk, CONFIGURATION), _known(bulk, SUMMARY))
    columns = ["label", "probability", "views", "active_bins", "gflops", "static_gflops", "warning"]
    for batch in bulk.predictions.batches(columns):
        rows = batch.to_pydict()
        found.videos += len(batch)
        found.labels.update(rows["label"])
        found.sure.update(min(int(10 * (one or 0.0)), 9) for one in rows["probability"])
        for name in ("views", "gflops", "static_gflops"):
            setattr(found, name, getattr(found, name) + sum(one or 0 for one in rows[name]))
        found.warnings += sum(one is not None for one in rows["warning"])
        for sites in rows["active_bins"]:
            for site, kept in sites or ():
                found.active_bins.setdefault(site, Counter()).update(kept)
    for batch in bulk.errors.batches(["id", "kind", "message"]):
        rows = batch.to_pydict()
        found.errors.update(rows["kind"])
        several = zip(rows["id"], rows["kind"], rows["message"], strict=True)
        found.some_errors += [one for one, _ in zip(several, range(MOST_ERRORS - len(found.some_errors)), strict=False)]
    if not found.videos and not found.errors:
        raise DataError(f"'{bulk.folder}' has no prediction yet")
    return found


def _known(bulk: Bulk, name: str) -> dict[str, Any]:
    try:
        return bulk.read(name)
    except DataError:  # the run was killed before it was written
        return {}


def bulk_page(report: BulkReport) -> str:
    """Return the report as one HTML page that needs nothing else."""
    share = 100 * report.gflops / report.static_gflops if report.static_gflops else 100.0
    lead = (
        f"{counted(report.videos, 'video was', 'videos were')} predicted for {share:.0f} % of the GFLOPs of all maps."
    )
    facts = [
        ("videos", str(report.videos)),
        ("views", str(report.views)),
        ("errors", str(report.errors.total())),
        ("GFLOPs", brief(report.gflops)),
        ("GFLOPs without the sampler", brief(report.static_gflops)),
    ]
    facts += [
        (name, f"{report.summary[key]:.4g}")
        for name, key in (
            ("videos a second, last run", "videos_per_s"),
            ("share of the ceiling, last run", "share_of_ceiling"),
            ("cost of a thousand videos, last run", "cost_per_thousand_videos"),
        )
        if report.summary.get(key)
    ]
    return page("Bulk prediction", lead, facts, _sections(report))


def _sections(report: BulkReport) -> list[Section]:
    common = report.labels.most_common(MOST_LABELS)
    rows = [(short(label), count, f"{100 * count / report.videos:.2f} %") for label, count in common]
    more = len(report.labels) - len(common)
    text = [f"{counted(more, 'more label is', 'more labels are')} in the JSON beside this page."] if more > 0 else []
    sections = [Section("What the videos show", text, shown=Table(["label", "videos", "share"], rows))]
    for site, kept in report.active_bins.items():
        total = kept.total()
        mean = sum(maps * count for maps, count in kept.items()) / total
        steps = dict(sorted(kept.items()))
        sections.append(
            Section(
                f"How many maps clips keep, {site}",
                [f"{brief(mean)} on average, of {counted(total, 'clip')}."],
                _bars({maps: 100 * count / total for maps, count in steps.items()}, "maps that a clip keeps, A"),
                f"From {min(steps)} to {max(steps)} maps; {brief(mean)} on average.",
                Table(["maps", "clips"], list(steps.items())),
            )
        )
    sure = {10 * step: 100 * report.sure[step] / max(report.videos, 1) for step in range(10)}
    sections.append(
        Section(
            "How sure it is",
            ["Videos by the probability of their label, in tenths; it is no accuracy."],
            _bars(sure, "probability of the label (%), from", 8.0),
            "Videos by the probability of their label.",
            Table(["from (%)", "videos (%)"], [(low, f"{percent:.2f}") for low, percent in sure.items()]),
        )
    )
    if report.errors:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.errors.most_common())
        errors = Table(["id", "kind", "message"], report.some_errors)
        sections.append(Section("Errors", [f"{kinds}. The first ones:"], shown=errors))
    told = [(name, str(value)) for name, value in {**report.configuration, **report.summary}.items()]
    sections.append(Section("How it was made", shown=Table(["", ""], told)))
    return sections


def _bars(heights: dict[int, float], what: str, width: float = 0.8) -> Figure:
    figure = Figure(figsize=(5.2, 1.6), layout="constrained")
    axes = figure.subplots()
    style(axes)
    axes.bar(list(heights), list(heights.values()), width, color=COLOURS["adaptive"])
    axes.set_xlabel(what, fontsize=8)
    axes.set_ylabel("%", fontsize=8)
    return figure
