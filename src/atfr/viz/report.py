"""report: the results of one test or of several, as data that a page shows and that is kept as JSON and CSV."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from atfr.evaluate import analysis
from atfr.evaluate.result import TestResult
from atfr.evaluate.runs import Difference, paired_difference, read_runs, why_not_comparable
from atfr.files import csv_text, finite


@dataclass(frozen=True)
class Report:
    """What tests found, by the name of the run; the first is what the others are compared with."""

    runs: dict[str, TestResult]

    @property
    def first(self) -> str:
        """The name of the run that the others are compared with."""
        return next(iter(self.runs))

    @property
    def not_comparable(self) -> dict[str, list[str]]:
        """Why runs cannot be compared with the first, in words; those that can are not there."""
        reasons = {name: why_not_comparable(self.runs[self.first], result) for name, result in self.runs.items()}
        return {name: why for name, why in reasons.items() if why}

    @property
    def differences(self) -> dict[str, Difference]:
        """How much more often each run is right than the first, video by video, where they can be compared."""
        others = [name for name in self.runs if name != self.first and name not in self.not_comparable]
        return {name: paired_difference(self.runs[name], self.runs[self.first]) for name in others}

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the page, in a frame of its own."""
        from atfr.viz.report_page import report_page

        return f'<iframe srcdoc="{escape(report_page(self))}" style="width: 100%; height: 40rem; border: 0"></iframe>'

    def to_dict(self) -> dict[str, Any]:
        """Turn the report into plain JSON values: what the figures show, of each run; NaN is null."""
        differences = {name: asdict(one) for name, one in self.differences.items()}
        return {
            "compared_with": self.first,
            "not_comparable": self.not_comparable,
            "top1_difference": differences,
            "runs": {name: run_dict(result) for name, result in self.runs.items()},
        }

    def to_csv(self) -> str:
        """Write one row a video of each run; what there is of each view is joined by spaces."""
        rows = [{"run": name} | video.to_row() for name, result in self.runs.items() for video in result.videos]
        columns = list(dict.fromkeys(column for row in rows for column in row))  # sites differ from run to run
        return csv_text(columns, [[row.get(column, "") for column in columns] for row in rows])


def report(runs: Sequence[Path]) -> Report:
    """Read the results of tests.

    Args:
        runs: folders of trainings whose test was run, or that `atfr test --out` wrote, or their result.json.

    Raises:
        DataError: there is no such result, or it is damaged.
        InputError: a run is given twice.
    """
    return Report(read_runs(runs))


def run_dict(result: TestResult) -> dict[str, Any]:
    """Return what a report shows of one run as plain JSON values."""
    figures = result.to_dict()
    del figures["videos"]
    told = [
        {"label": label, "prediction": prediction, "videos": count}
        for label, prediction, count, _ in analysis.confusion(result).cells()
    ]
    sites = {site: site_dict(result, site) for site in result.sites}
    calibration = asdict(analysis.calibration(result))
    return figures | {"sites": sites, "calibration": finite(calibration), "confusion": told}


def site_dict(result: TestResult, site: str) -> dict[str, Any]:
    """Return what a report shows of one site as plain JSON values."""
    low, high = analysis.resolution_ends(result, site, len(result.classes))
    groups = analysis.accuracy_by_bins(result, site)
    return {
        "maps": asdict(analysis.map_use(result, site)),
        "rank_correlation_with_motion": finite(asdict(analysis.motion_relation(result, site))),
        "classes_by_active_bins": [one.label for one in [*low, *high]],
        "accuracy_by_active_bins": [
            asdict(one) | {"accuracy": one.accuracy, "interval": one.interval} for one in groups
        ],
    }
