"""Write docs/reproduction.md from the reports of `atfr reproduce` in docs/studies/reproduction.

atfr reproduce all --scale tiny --out runs/reproduce
python benchmarks/reproduction.py runs/reproduce     # takes its reports over, then writes the page
python benchmarks/reproduction.py                    # only the page, from the reports that are there
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from atfr.files import write_whole
from atfr.paper import show
from atfr.paper.tables import TABLES, Table, short

ROOT = Path(__file__).parents[1]
REPORTS, PAGE = ROOT / "docs" / "studies" / "reproduction", ROOT / "docs" / "reproduction.md"
SCALES = ("tiny", "small", "paper")
HEAD = """# Reproduction

`atfr reproduce TABLE` makes the lines of a table or figure of the paper and sets ours beside the paper's; this page is
written from its reports (`docs/studies/reproduction`) by `python benchmarks/reproduction.py`. "A / B" is the paper's
figure and ours. GFLOPs are multiply-adds / 1e9 of a clip: ours are those of the clips that were run, so only shares
compare across scales. A is the mean number of maps that clips keep behind SGS, in SlowFast of the fast and of the slow
pathway. Below a network with SGS stands one on fewer frames, evenly spaced, that costs no more and was trained alike:
the control that the paper does not have. Differences are points of top-1, paired by video, with the 95 %
interval; "below", "level", "above" say where it lies beside the paper's difference.

- `--scale tiny`: generated videos of six motions, 40 of each to train and 50 to test; the smallest network of each
  family; all of a family go on from one base, at one learning rate. Rows that differ in depth, size or data set alone
  are one network there, and one measurement.
- `--scale small --data FOLDER`: the same on one's own videos, with the paper's networks.
- `--scale paper --data FOLDER`: the paper's data sets and networks, from random weights, by the files of `configs/`;
  of static networks whose weights for Kinetics-400 are published, these are tested too. `--dry_run` prints every
  command, and what they take.

**No table was run at the paper's scale**: that takes the data sets, and GPUs for thousands of hours. The tiny scale
says what SGS does on brief motions after a few epochs behind a base that was trained without it, and little about the
paper's accuracies. SGS is the paper's in every option: sums, in the order of magnitude. Which of these cost accuracy is
asked elsewhere ([results](results.md), [the plan](studies/paper_claim/PLAN.md)).

Hours in Table A.2 are wall time; at the tiny scale other work used the machine at times, so they do not compare.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "runs", type=Path, nargs="?", help="what `atfr reproduce --out` was given; its reports are copied"
    )
    options = parser.parse_args()
    if options.runs:
        for scale in SCALES:
            for table in TABLES:
                for end in (".json", ".csv", ".png"):
                    if (found := options.runs / scale / f"{table.file}{end}").is_file():
                        (REPORTS / scale).mkdir(parents=True, exist_ok=True)
                        shutil.copy(found, REPORTS / scale)
    write_whole(PAGE, page(REPORTS))


def page(reports: Path) -> str:
    """Return the page."""
    found = {scale: {table.name: read(reports / scale / f"{table.file}.json") for table in TABLES} for scale in SCALES}
    rows = [
        [link(table), table.title, *("ran" if found[scale][table.name] else "not run" for scale in SCALES)]
        for table in TABLES
    ]
    parts = [HEAD, markdown(["table", "what", *SCALES], rows)]
    for table in TABLES:
        parts.append(f"## {heading(table)}\n")
        for scale in SCALES:
            report = found[scale][table.name]
            if report:
                parts += [section(table, report, scale, reports)]
        left = [scale for scale in SCALES if not found[scale][table.name]]
        data = {"tiny": "", "small": " --data FOLDER", "paper": " --data FOLDER"}
        commands = ", ".join(f"`atfr reproduce {short(table.name)} --scale {scale}{data[scale]}`" for scale in left)
        parts.append(f"Not run: {commands}.\n" if left else "")
    return "\n".join(part for part in parts if part)


def section(table: Table, report: Mapping[str, Any], scale: str, reports: Path) -> str:
    """Return what a report says."""
    columns, rows = show.lines(report)
    parts = [f"**{scale}**: {show.ran_on(report)}\n", markdown(columns, rows)]
    columns, rows = show.differences(report)
    parts.append(markdown([columns[0], "the paper's difference", "ours", *columns[3:]], rows) if rows else "")
    parts.append(f"The paper's. {report['paper']}\n" if report["paper"] else "")
    for words, end in zip(("Fewest maps", "Most maps"), report.get("classes", ()), strict=False):
        parts.append(f"{words}: {', '.join(f'{label} {kept:.1f}' for label, kept in end.items())}.\n" if end else "")
    if (picture := reports / scale / f"{table.file}.png").is_file():
        parts.append(f"![{table.title}](studies/reproduction/{scale}/{picture.name})\n")
    found = missed(report)
    parts.append("Where the claim does not hold:\n\n" + "".join(f"- {one}\n" for one in found) if found else "")
    notes = "".join(f"- {note}\n" for note in show.notes(report))
    parts.append(f"Notes:\n\n{notes}" if notes else "")
    return "\n".join(part for part in parts if part)


def missed(report: Mapping[str, Any]) -> list[str]:
    """Return in words where the paper's claim does not hold, and where it is not shown to be worth it.

    Rows that are one measurement are named together.
    """
    same: dict[str, list[Mapping[str, Any]]] = {}
    for row in report["rows"]:
        if "trained" in row:
            same.setdefault(json.dumps([row["ours"], row["over"], row["over_fewer_frames"]]), []).append(row)
    found = []
    for rows in same.values():
        row, name = rows[0], "; ".join(show.name(one, report) for one in rows)
        below = [one for one in rows if one["over"] and show.told(one) == "below"]
        reversed_ = [one for one in rows if one["over"] and (one["paper_over"] or 0) < 0 < one["over"]["low"]]
        for missing, how in ((below, ""), (reversed_, "the other way round: ")):
            if missing:
                papers = ", ".join(dict.fromkeys(f"{one['paper_over']:+.1f}" for one in missing))
                found.append(f"{name}: {how}{show.points(row['over'])} points, the paper's {papers}")
        if row.get("over_fewer_frames") and row["over_fewer_frames"]["low"] <= 0:
            worse = "worse" if row["over_fewer_frames"]["high"] < 0 else "not shown better"
            over = show.points(row["over_fewer_frames"])
            found.append(f"{name}: {worse} than fewer frames at the same cost: {over}")
    return found


def heading(table: Table) -> str:
    """Return the heading of a table's section."""
    return f"{table.name if table.name.startswith('Fig') else f'Table {table.name}'}: {table.title}"


def link(table: Table) -> str:
    """Return a link to a table's section."""
    anchor = "".join(one for one in heading(table).lower().replace(" ", "-") if one.isalnum() or one in "-_")
    name, _, _ = heading(table).partition(":")
    return f"[{name}](#{anchor})"


def read(path: Path) -> Any:
    """Return a report; None where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cell.strip() or ' ' for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
