"""reproduce: the lines of a table of the paper, ours beside the paper's, and fewer frames at the same cost.

out/table_6.json, .csv, .png    every figure with its conditions; the lines alone; the picture where the paper has one
"""

import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn.functional import cross_entropy

from atfr.checks import device_of
from atfr.comparison.making import some_clips
from atfr.comparison.verdict import wide_enough
from atfr.data.records import VideoList, VideoRecord
from atfr.errors import AtfrError
from atfr.evaluate.analysis import resolution_ends
from atfr.evaluate.result import TestResult
from atfr.evaluate.runs import Difference, bootstrapped, by_key, paired_difference
from atfr.evaluate.task import load_checkpoint
from atfr.files import csv_text, finite, whole, write_json, write_whole
from atfr.measure.memory import largest_batch
from atfr.paper.cases import Case, case_of, evenly_spaced, reference_of
from atfr.paper.commands import Commands
from atfr.paper.compare import given
from atfr.paper.figures import LINES, Line
from atfr.paper.here import Here
from atfr.paper.tables import Table
from atfr.viz.explain import explain
from atfr.viz.maps import feature_maps

CLIPS = 32
"""Videos that the clips of a batch come from."""

ENDS = 5
"""Classes at either end, as in Table 5."""

Tests = tuple[TestResult, ...]
"""One for each seed, and for each split where there are several."""


Maker = Here | Commands
"""Where networks are made and tested: in this process, or by commands."""


@dataclass(frozen=True)
class Found:
    """What became of a line."""

    line: Line
    case: Case | None = None  # of the first split, at this scale; None where the line is cited
    tests: Tests = ()  # of the line, of what it is held against, and of as many evenly spaced frames as cost no more
    reference: Tests = ()
    control: Tests = ()
    frames: tuple[int, ...] = ()  # of the latter, by test
    # by how many points the paper's line is above the one that it is held against; None where it does not say
    paper: float | None = None
    published: Tests = ()  # of the same network with published weights, one test for all seeds
    measured: Mapping[str, float | None] = field(default_factory=dict)  # on this machine, in the units of Table A.2

    def to_dict(self) -> dict[str, Any]:
        """Turn the line into plain JSON values."""
        line = self.line
        row: dict[str, Any] = {"model": line.model, "setting": line.setting, "note": line.note, "data": line.data}
        row["paper"] = dict(line.paper)
        if self.case is None:
            return row
        over, over_control = (
            asdict(d) if (d := difference(self.tests, o)) else None for o in (self.reference, self.control)
        )
        ours = {**figures(self.tests), **self.measured}
        control = {"frames": statistics.fmean(self.frames), **figures(self.control)} if self.control else None
        row |= {"trained": given(self.case.trained), "tested": given(self.case.tested), "stride": self.case.stride}
        return row | {
            "ours": ours,
            "fewer_frames": control,
            "published": figures(self.published) if self.published else None,
            "over": over,
            "paper_over": self.paper,
            "over_fewer_frames": over_control,
        }


def figures(tests: Tests) -> dict[str, Any]:
    """Return the means over tests, in the paper's units, and which videos each told right."""
    top5 = [100 * test.top5 for test in tests if test.top5 is not None]
    kept = {
        site: statistics.fmean(count for test in tests for video in test.videos for count in video.active_bins[site])
        for site in tests[0].sites
    }
    return {
        "top1": 100 * statistics.fmean(test.top1 for test in tests),
        "top1_standard_error": 100 * statistics.fmean(test.top1_standard_error for test in tests),
        "top5": statistics.fmean(top5) if top5 else None,
        "gflops": statistics.fmean(test.gflops_per_clip.mean for test in tests),
        "static_gflops": tests[0].static_gflops_per_clip,
        "active_bins": kept,
        "right": ["".join(str(int(video.correct)) for video in test.videos) for test in tests],
    }


def difference(ours: Tests, theirs: Tests) -> Difference | None:
    """Compare networks video by video; of several seeds the mean, with a bootstrap over videos; None without another.

    The interval is never narrower than the score interval of all seeds' videos together.
    """
    if not theirs:
        return None
    each = [paired_difference(one, other) for one, other in zip(ours, theirs, strict=True)]
    gained, lost, videos = (sum(getattr(one, name) for one in each) for name in ("gained", "lost", "videos"))
    gaps: dict[Any, list[int]] = {}
    for one, other in zip(ours, theirs, strict=True):
        mine, its = by_key(one, other)
        for key in mine:
            gaps.setdefault(key, []).append(mine[key].correct - its[key].correct)
    means = np.array([statistics.fmean(gap) for gap in gaps.values()])
    p = each[0].p if len(each) == 1 else float("nan")
    return wide_enough(Difference((gained - lost) / videos, *bootstrapped(means), gained, lost, p, videos))


def reproduce(table: Table, maker: Maker, seeds: Sequence[int], rows: Sequence[str] | None = None) -> tuple[Found, ...]:
    """Make what is not there of a table, and return its lines.

    Args:
        rows: parts of the names of the lines to make; by default all.
    """
    found = [result_of(table, line, maker, seeds) for line in table.chosen(rows)]
    if "inference_fps" in table.metrics:
        found = with_times(found, maker, seeds[0])
    return tuple(found)


def with_times(found: Sequence[Found], maker: Maker, seed: int) -> list[Found]:
    """Return the lines with the figures of Table A.2."""
    cases = [one.case for one in found if one.case]
    timed = []
    for one, case, (train_s, ms) in zip(found, cases, maker.times(cases, seed), strict=True):
        measured = {
            "train_hours": None if train_s is None else train_s / 3600,
            "inference_fps": 1000 * case.tested.frames / ms,
            "max_batch": training_batch(maker.folder(case, seed), one.tests[0], device_of("device", maker.device)),
        }
        timed.append(replace(one, measured=measured))
    return timed


def training_batch(checkpoint: Path, test: TestResult, device: torch.device) -> int | None:
    """Return how many clips of the tested videos a training step takes on a GPU, under bfloat16; None elsewhere."""
    return largest_batch(training_step(checkpoint, test, device)) if device.type == "cuda" else None


def training_step(checkpoint: Path, test: TestResult, device: torch.device) -> Callable[[int], None]:
    """Return what trains a network for a step on so many clips of the tested videos; its weights stay as they are."""
    model, task = load_checkpoint(checkpoint)
    model.to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    records = tuple(VideoRecord(Path(video.path), task.labels.index(video.label)) for video in test.videos)
    clips = torch.cat(list(some_clips(VideoList(records, task.labels), task.spec, CLIPS)))

    def step(count: int) -> None:
        chosen = list(itertools.islice(itertools.cycle(range(len(clips))), count))
        batch = clips.to(device)[chosen]
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            scores = model(batch)
        cross_entropy(scores.float(), torch.zeros(count, dtype=torch.long, device=device)).backward()
        optimizer.step()

    return step


def cases_of(table: Table, rows: Sequence[str] | None, maker: Maker) -> list[Case]:
    """Return what is trained for a table, but for fewer frames."""
    both = [case for line in table.chosen(rows) for case in (case_of(line), reference_of(table, line)) if case]
    return list(dict.fromkeys(one.as_trained for case in both for one in maker.of(case)))


def result_of(table: Table, line: Line, maker: Maker, seeds: Sequence[int]) -> Found:
    """Test a line, what it is held against, and fewer frames."""
    case, reference = case_of(line), reference_of(table, line)
    if case is None or reference is None:
        return Found(line)
    tests, others, controls, frames = [], [], [], []
    for seed in seeds:
        for one, other in zip(maker.of(case), maker.of(reference), strict=True):
            tests.append(maker.test(one, seed))
            if other != one:
                others.append(maker.test(other, seed))
            if one.tested.adaptive:
                costs = (test.gflops_per_clip.mean for test in (maker.test(one.as_trained, seed), tests[-1]))
                control = evenly_spaced(one, *costs)
                controls.append(maker.test(control, seed))
                frames.append(dict(control.tested.options)["active_bins"])
    published = published_test(case, maker) if "top1" in line.paper else ()
    theirs = (one for one in LINES if one.table == line.table and one != line and case_of(one) == reference)
    beside = next(theirs, None)
    paper = line.paper["top1"] - beside.paper["top1"] if beside and "top1" in line.paper else None
    return Found(line, maker.of(case)[0], tuple(tests), tuple(others), tuple(controls), tuple(frames), paper, published)


def published_test(case: Case, maker: Maker) -> Tests:
    """Return the test of the same network with published weights, where there are any and they can be had."""
    published = maker.published(case)
    try:
        return (maker.test(published, 0),) if published else ()
    except AtfrError:  # the command has said why
        return ()


def report(
    table: Table, found: Sequence[Found], scale: str, seeds: Sequence[int], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Return everything about a table as plain JSON values."""
    values: dict[str, Any] = {"table": table.name, "title": table.title, "scale": scale, "seeds": list(seeds)}
    values |= {
        "metrics": table.metrics,
        "conditions": dict(conditions),
        "rows": [one.to_dict() for one in found],
        "paper": table.paper,
    }
    if table.classes:
        (test, *_) = found[0].tests
        ends = resolution_ends(test, test.sites[0], ENDS)
        values["classes"] = [{one.label: one.active_bins[test.sites[0]].mean for one in end} for end in ends]
    return finite(values)


def write(values: Mapping[str, Any], table: Table, found: Sequence[Found], maker: Maker) -> list[Path]:
    """Write a report: JSON, CSV, and the figure if the paper has one; return the files."""
    paths = [maker.out / f"{table.file}{end}" for end in (".json", ".csv")]
    write_json(paths[0], values, indent=1)
    who = ("paper", "ours", "fewer_frames", *(["published"] if any(one.published for one in found) else []))
    columns = ["model", "setting", *(f"{one} {metric}" for metric in table.metrics for one in who)]
    rows = [
        [row["model"], row["setting"]]
        + [(row.get(one) or {}).get(metric, "") for metric in table.metrics for one in who]
        for row in values["rows"]
    ]
    write_whole(paths[1], csv_text(columns, rows))
    if figure := drawn(table, found, maker, values["seeds"][0]):
        paths.append(maker.out / f"{table.file}.png")
        with whole(paths[-1]) as scratch:
            figure.savefig(scratch, format="png", dpi=130, facecolor="white")
    return paths


def drawn(table: Table, found: Sequence[Found], maker: Maker, seed: int) -> Figure | None:
    """Draw the figure of a table, if it has one: of the first seed's tests, or of the first test video."""
    if table.draw:
        return table.draw({one.line.name: one.tests[0] for one in found if one.tests})
    if not table.maps or found[0].case is None:
        return None
    model, task = load_checkpoint(maker.folder(found[0].case, seed))
    seen = explain(model, found[0].tests[0].videos[0].path, task, timing_s=0)
    return feature_maps(seen.watched, seen.frames)
