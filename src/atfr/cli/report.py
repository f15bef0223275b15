"""`atfr report`: what tests found, on one page, of one run or of several side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

from atfr.cli import common
from atfr.errors import InputError
from atfr.files import write_json, write_whole
from atfr.words import counted

if TYPE_CHECKING:
    from atfr.evaluate.result import TestResult
    from atfr.viz import Report


def report(runs: list[Path], *, out: Path = Path("report.html"), json: bool = False) -> None:
    """Show what a test found, or several side by side, on one HTML page.

    The page needs nothing else: it opens from disk, without a network. Beside it the same data is written as JSON (the
    figures) and CSV (one row a video), under the same name.

    Args:
        runs: Folders of trainings whose test was run (`atfr test --checkpoint RUN`), folders that `atfr test --out`
            wrote, or a result.json. The first is what the others are compared with. Or one folder of `atfr bulk`.
        out: The page; what is there is replaced.
        json: Print the figures' data as JSON too.
    """
    if out.is_dir() or not out.parent.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out is the page to write in a folder that is there, as report.html; got '{out}'")
    if not out.exists() and (taken := [path for path in map(out.with_suffix, (".json", ".csv")) if path.exists()]):
        raise InputError(
            f"beside '{out}' its figures would be written over {' and '.join(path.name for path in taken)}, which no "
            "report has written; give another name"
        )
    if len(runs) == 1 and (runs[0] / "predictions").is_dir():
        report_bulk(runs[0], out, json)
        return
    with common.busy("reading the results"):
        from atfr import viz

        found = viz.report(runs)
    with common.busy("drawing"):
        page, values = viz.report_page(found), found.to_dict()
        others = [out.with_suffix(".json"), out.with_suffix(".csv")]
        write_json(others[0], values)
        write_whole(others[1], found.to_csv())
        write_whole(out, page)
    if json:
        common.print_json(values)
    else:
        print_report(found, [out, *others])


def report_bulk(folder: Path, out: Path, json: bool) -> None:
    """Show what a bulk prediction has found, of one configuration."""
    with common.busy("reading the predictions"):
        from atfr.bulk.report import bulk_page, bulk_report
        from atfr.bulk.tables import Bulk

        found = bulk_report(Bulk(str(folder.parent), folder.name))
        write_json(out.with_suffix(".json"), found.to_dict())
        write_whole(out, bulk_page(found))
    if json:
        common.print_json(found.to_dict())
    else:
        errors = counted(found.errors.total(), "error")
        print(f"{counted(found.videos, 'video')}, {counted(len(found.labels), 'label')}, {errors}")
        print(f"Written: {out}, and beside it {out.with_suffix('.json').name}")


def views(result: "TestResult") -> str:
    """Return the views of a video, clips x crops, and how many of them were computed where they stop."""
    most = f"{result.views['clips']}x{result.views['crops']}"
    return f"{result.views_per_video:.3g} of {most}" if result.stopped else most


def print_report(report: "Report", written: list[Path]) -> None:
    """Print the figures of each run, and where the page is."""
    from atfr.evaluate.analysis import map_use, motion_relation
    from atfr.evaluate.runs import ALPHA, costs
    from atfr.viz.report_sections import number

    of, gflops = costs(report.runs)
    rows = [
        [
            name,
            len(one.videos),
            views(one),
            f"{100 * one.top1:.1f} ± {100 * one.top1_standard_error:.1f}",
            f"{gflops[name]:.4g}",
            ", ".join(f"{100 * map_use(one, site).kept:.0f}" for site in one.sites) or "100",
            ", ".join(number(motion_relation(one, site).clips) for site in one.sites) or "–",
        ]
        for name, one in report.runs.items()
    ]
    note = (
        f"views: clips x crops of a video; top-1 ± standard error; GFLOPs (multiply-adds / 1e9) of a {of}; maps kept, "
        "of those that come into a site, and their rank correlation with the motion in a clip, site by site."
    )
    columns = ["run", "videos", "views", "top-1 (%)", "GFLOPs", "maps kept (%)", "with motion"]
    common.print_table("Report", columns, rows, note)
    if differences := report.differences:
        rows = [
            [name, one.points, one.interval, str(one.gained), str(one.lost), f"{one.p:.2g}"]
            for name, one in differences.items()
        ]
        columns = ["run", "points", "95 %", "only it right", "only the first", "p"]
        note = f"p of McNemar's exact test: above {ALPHA}, a difference may be chance."
        print()
        common.print_table(f"Top-1 above {report.first}, on the same videos", columns, rows, note)
    for name, why in report.not_comparable.items():
        common.warn(f"{name} is not comparable with {report.first}: {'; '.join(why)}")
    page, *others = written
    print(f"Written: {page}, and beside it {' and '.join(path.name for path in others)}")
