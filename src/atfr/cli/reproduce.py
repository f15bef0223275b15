"""`atfr reproduce`: a table or figure of the paper, ours beside the paper's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from atfr.cli import common
from atfr.cli.compare import told_how_to_go_on
from atfr.errors import InputError

if TYPE_CHECKING:
    from atfr.data.records import VideoList
    from atfr.paper.commands import Commands
    from atfr.paper.compare import Comparison
    from atfr.paper.reproduce import Maker
    from atfr.paper.tables import Table

MARKS = "abcdefghijklmnopqrstuvwxyz"


def reproduce(
    table: str,
    *,
    scale: Literal["tiny", "small", "paper"] = "tiny",
    data: Path | None = None,
    test_fold: int | None = None,
    out: Path = Path("runs/reproduce"),
    seeds: list[int] | None = None,
    rows: list[str] | None = None,
    epochs: int | None = None,
    device: str = "auto",
    dry_run: bool = False,
    configs: Path = Path("configs"),
    json: bool = False,
) -> None:
    """Make the lines of a table or figure of the paper that are not there yet, and print ours beside the paper's.

    Beside each network with SGS stands one on fewer frames, evenly spaced, that costs no more: the control that the
    paper does not have. What was made for one table serves the others; stopped, it goes on with the same command.

    Args:
        table: 1 to 10, A.2 to A.6, fig3, fig4, figA.5; all; list says what they are; gflops sets every GFLOPs figure of
            the paper beside ours, without training.
        scale: tiny: generated videos and the smallest network of each family, all tables in about an hour on a core;
            small: the paper's networks on the folder --data; paper: the paper's protocol, by the files in --configs.
        data: Of small: a folder of classes or a CSV file. Of paper: a folder that holds a folder for each data set, as
            DATA/kinetics400.
        out: The folder for networks, tests and what comes of them; each scale has one of its own there.
        seeds: Of weights, clips and order, as [0,1,2]; by default 0.
        rows: Parts of the names of rows, as [res2,first]: only these are made.
        epochs: Of tiny and small: passes of the bases over the training videos; by default as many as suit them.
        dry_run: Of paper: print every command, GPU-hours and disk to expect, and build each network on the meta device.
        configs: The folder `configs` of atfr's sources.
    """
    if table in ("list", "gflops"):
        given: dict[str, Any] = {"scale": scale, "data": data, "test_fold": test_fold, "seeds": seeds, "rows": rows}
        given |= {"epochs": epochs, "device": device, "dry_run": dry_run}
        common.refuse(reproduce, given, f"{table} makes no networks")
        (print_list if table == "list" else print_gflops)(as_json=json)
        return
    seeds = [0] if seeds is None else seeds
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds are different numbers from 0 on, as [0,1,2], got {seeds}")
    with common.busy("starting"):
        from atfr.paper.tables import TABLES, find

        tables = list(TABLES) if table == "all" else [find(table)]
    if dry_run and scale != "paper":
        raise InputError("--dry_run is for --scale paper; the others say how long they take before they begin")
    if scale == "paper":
        from atfr.paper.commands import Commands

        given = {"epochs": epochs, "test_fold": test_fold, "device": device}
        common.refuse(reproduce, given, "--scale paper takes them from its files")
        commands = Commands(data or Path("DATA"), out / scale, configs)
        if dry_run:
            print_plan(tables, rows, commands, seeds, json)
            return
        if data is None or not data.is_dir():
            raise InputError(f"--scale paper takes --data, a folder that holds a folder for each data set, got {data}")
        maker: Maker = commands
    else:
        from atfr.paper.here import SCALES, Here

        splits = splits_of(scale, data, test_fold, out)
        maker = Here(SCALES[scale], splits, out / scale, epochs, device, common.note, common.progress)
    with common.one_line_warnings(), told_how_to_go_on():
        reports = make(tables, scale, maker, seeds, rows, json)
    if json:
        common.print_json(reports if table == "all" else reports[0])


def splits_of(scale: str, data: Path | None, test_fold: int | None, out: Path) -> "dict[str, VideoList]":
    """Return the videos of a scale, rendered if they are generated."""
    if (scale == "tiny") != (data is None):
        raise InputError(
            "--scale tiny generates its videos: leave out --data" if data else f"--scale {scale} takes --data"
        )
    if data is not None:
        return common.read_data(data, None, test_fold)
    from atfr.paper.here import tiny_videos

    with common.progress("rendering videos") as progress:
        return tiny_videos(out / scale / "videos", progress)


def make(
    tables: "Sequence[Table]", scale: str, maker: "Maker", seeds: Sequence[int], rows: list[str] | None, json: bool
) -> list[dict[str, Any]]:
    """Make tables; print and return their reports."""
    from atfr.paper.reproduce import cases_of, report, reproduce, write

    left = maker.left([case for table in tables for case in cases_of(table, rows, maker)], seeds)
    common.note(left or "all networks are there")
    reports = []
    for table in tables:
        found = reproduce(table, maker, seeds, rows)
        reports.append(report(table, found, scale, seeds, maker.conditions()))
        paths = write(reports[-1], table, found, maker)
        if not json:
            print_report(reports[-1])
            print(f"\nWritten: {', '.join(map(str, paths))}\n")
    return reports


def print_plan(
    tables: "Sequence[Table]", rows: list[str] | None, maker: "Commands", seeds: Sequence[int], json: bool
) -> None:
    """Print the commands of the paper's scale that are left, and what they take."""
    from atfr.paper.commands import PACE, SIZES, planned, steps

    with common.busy("building the networks"):
        found = list(steps(planned(tables, rows, maker), maker, seeds))
    train_h, test_h, gb = (sum(getattr(step, name) for step in found) for name in ("train_h", "test_h", "gb"))
    videos = sum(SIZES[data].gb for data in frozenset().union(*(step.data for step in found)))
    values = {"train_gpu_hours": train_h, "test_gpu_hours": test_h, "networks_gb": gb, "videos_gb": videos}
    if json:
        common.print_json(values | {"commands": [command for step in found for command in step.commands]})
        return
    print("\n".join(command for step in found for command in step.commands))
    common.note(
        f"about {train_h:,.0f} GPU-hours to train and {test_h:,.0f} to test, at {PACE / 1e12:.1f}e12 multiply-adds a "
        "second, which the paper's 131 h of X3D-S come to (Table A.2; it does not name its GPUs); not measured here"
    )
    common.note(
        f"about {gb:,.0f} GB for networks, and {videos:,.0f} GB for videos; each network was built without weights"
    )


def print_report(values: Mapping[str, Any]) -> None:
    """Print a table of the paper with ours, and the paired differences."""
    from atfr.paper import show

    columns, rows = show.lines(values)
    note = f"The paper's / ours: {show.ran_on(values)} A: maps kept. {' '.join(show.notes(values))}"
    common.print_table(show.title(values), columns, rows, note)
    columns, rows = show.differences(values)
    if rows:
        print()
        note = "points of top-1; ours paired by video, with the 95 % interval, and where it lies beside the paper's."
        common.print_table("Differences", columns, rows, note)
    if values["paper"]:
        print(f"The paper's. {values['paper']}")
    for words, end in zip(("Fewest maps", "Most maps"), values.get("classes", ()), strict=False):
        if end:
            print(f"{words}: {', '.join(f'{label} {kept:.1f}' for label, kept in end.items())}")


def print_list(as_json: bool) -> None:
    """Print which tables there are."""
    from atfr.paper.tables import TABLES

    rows = [[table.name, table.title, len(table.lines), ", ".join(table.metrics)] for table in TABLES]
    columns = ["name", "what", "rows", "figures"]
    if as_json:
        common.print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    common.print_table("Tables and figures of the paper", columns, rows, left=(0, 1, 3))


def print_gflops(as_json: bool) -> None:
    """Print the paper's GFLOPs beside ours."""
    with common.progress("counting multiply-adds") as progress:
        from atfr.paper.compare import compare

        comparisons = compare(progress=progress)
    if as_json:
        common.print_json([comparison.to_dict() for comparison in comparisons])
        return
    notes = list(dict.fromkeys(c.line.note for c in comparisons if c.line.note))
    rows: list[list[object]] = []
    for number, comparison in enumerate(comparisons):
        line = comparison.line
        if number == 0 or comparisons[number - 1].line.table != line.table:
            rows.append([f"Table {line.table}", "", "", "", "", ""])
        mark = MARKS[notes.index(line.note)] if line.note else ""
        rows.append([line.model, line.setting, f"{line.paper['gflops']:.1f}", *found(comparison), mark])
    lines = [
        "GFLOPs are multiply-adds / 1e9, the paper's of adaptive networks (+ATFR) means over clips. Beside these: what "
        "ours may cost, and the mean number A of maps at which it costs the paper's figure (for SlowFast the share of "
        "maps, the same in both pathways). Clip sizes and placements: --json.",
        *(f"{mark}  {note}" for mark, note in zip(MARKS, notes, strict=False)),
    ]
    columns = ["network", "setting", "paper", "ours", "difference", ""]
    common.print_table("GFLOPs of the paper and of atfr", columns, rows, "\n".join(lines), left=(0, 1))


def found(comparison: "Comparison") -> Sequence[str]:
    """Return our GFLOPs and the difference; of an adaptive network its range and the maps kept."""
    count, share = comparison.count, comparison.share
    if comparison.difference is not None:
        return f"{count.static / 1e9:.4g}", f"{round(100 * comparison.difference, 1) + 0:+.1f} %"
    least, most = (count.shares[end].multiply_adds / 1e9 for end in (0, -1))
    costs = f"{least:.{1 if least >= 10 else 2}f}-{most:.3g}"
    if share is None or not comparison.possible:
        return costs, "impossible"
    if len(count.maps) > 1:
        return costs, f"{100 * share:.0f} % of maps"
    (maps,) = count.maps.values()
    return costs, f"A {share * maps:.1f} of {maps}"
