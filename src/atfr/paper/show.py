"""A report of `reproduce` as the cells of tables, for a terminal and for a page."""

from collections.abc import Mapping
from typing import Any

from atfr.words import counted

NAMES = {"top1": "top-1", "top5": "top-5", "gflops": "GFLOPs", "train_hours": "hours", "inference_fps": "frames/s"}
NAMES["max_batch"] = "batch"


def lines(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the cells of a table: "the paper's / ours"; fewer frames and published weights
    are rows of their own."""
    metrics = report["metrics"]
    rows = []
    for row in report["rows"]:
        ours, control = row.get("ours") or {}, row.get("fewer_frames")
        kept = "/".join(f"{count:.1f}" for count in ours.get("active_bins", {}).values())
        rows.append([name(row, report), *(pair(row["paper"], ours, metric) for metric in metrics), kept])
        if control:
            frames = f"{control['frames']:.3g}"
            rows.append([f"  {frames} frames", *(pair({}, control, metric) for metric in metrics), frames])
        if published := row.get("published"):
            rows.append(["  published weights", *(pair({}, published, metric) for metric in metrics), ""])
    return ["network", *(NAMES.get(metric, metric) for metric in metrics), "A"], rows


def pair(paper: Mapping[str, Any], ours: Mapping[str, Any], metric: str) -> str:
    """Return a figure of the paper and ours."""
    return f"{number(paper.get(metric))} / {number(ours.get(metric))}"


def differences(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the cells of the paired differences: the paper's, ours, and against fewer frames."""
    rows = [
        [
            name(row, report),
            number(row["paper_over"], "+"),
            points(row["over"]),
            told(row),
            points(row["over_fewer_frames"]),
        ]
        for row in report["rows"]
        if row.get("over") or row.get("over_fewer_frames")
    ]
    return ["network", "paper", "ours", "", "over fewer frames"], rows


def title(report: Mapping[str, Any]) -> str:
    """Return what a table is called, and of which network it is where it is of one alone."""
    models = {row["model"] for row in report["rows"]}
    called = report["table"] if report["table"].startswith("Fig") else f"Table {report['table']}"
    return f"{called}: {report['title']}{f' ({models.pop()})' if len(models) == 1 else ''}"


def name(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return what a row is called, without the network where all rows are of the same."""
    parts = [row["setting"]] if len({one["model"] for one in report["rows"]}) == 1 else [row["model"], row["setting"]]
    return ", ".join(part for part in parts if part) or row["model"]


def number(value: float | None, sign: str = "") -> str:
    """Return a figure with one decimal, or two digits."""
    return "–" if value is None else f"{value:{sign}.1f}" if sign or abs(value) >= 10 else f"{value:.2g}"


def points(difference: Mapping[str, Any] | None) -> str:
    """Return a difference in points, with its 95 % interval."""
    if difference is None:
        return "–"
    mean, low, high = (100 * difference[key] for key in ("mean", "low", "high"))
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"


def told(row: Mapping[str, Any]) -> str:
    """Return where our difference lies beside the paper's: below, above, or level where the interval holds it."""
    if row["over"] is None or row["paper_over"] is None:
        return ""
    low, high = (100 * row["over"][key] for key in ("low", "high"))
    return "below" if high < row["paper_over"] else "above" if low > row["paper_over"] else "level"


def notes(report: Mapping[str, Any]) -> list[str]:
    """Return what is said of networks, each note once."""
    models: dict[str, dict[str, None]] = {}
    for row in report["rows"]:
        if row["note"]:
            models.setdefault(row["note"].rstrip("."), {})[row["model"]] = None
    return [f"{', '.join(names)}: {note}." for note, names in models.items()]


def ran_on(report: Mapping[str, Any]) -> str:
    """Return what a report ran on, in a sentence."""
    found, seeds = report["conditions"], ", ".join(map(str, report["seeds"]))
    hardware = found["hardware"]
    where = hardware.get("gpu") or f"{hardware['cpu']}, {counted(found['threads'], 'thread')}"
    networks = ", ".join(dict.fromkeys(row["trained"]["name"] for row in report["rows"] if "trained" in row))
    where = f"{where}; torch {found['versions']['torch']}; {found['date'][:10]}"
    return f"{networks} on {found['about']}; seeds {seeds}; {where}."
