"""The page of a report: what matters most, runs side by side, every figure, and how it was made."""

from atfr.adapt.trace import INPUT
from atfr.evaluate import analysis
from atfr.evaluate.result import TestResult
from atfr.viz import report_sections as sections_of
from atfr.viz.explain_page import change
from atfr.viz.figures import brief
from atfr.viz.page import Section, Table, page
from atfr.viz.report import Report
from atfr.viz.report_sections import drawn, number, percent
from atfr.viz.run_figures import panels
from atfr.words import counted


def report_page(report: Report) -> str:
    """Return the report of one run or several as one HTML page that needs nothing else."""
    runs = report.runs
    sections = [compared(report), sections_of.accuracy(report)] if len(runs) > 1 else []
    if any(result.sites for result in runs.values()):
        found = panels(drawn(report))
        sections += [section(report, found) for section in sections_of.OF_SITES]
    sections.append(sections_of.confusion(report))
    if any(result.top1 < 1 for result in runs.values()):
        sections.append(sections_of.most_confused(report))
    sections += [sections_of.reliability(report), conditions(report)]
    title = f"Test of {report.first}" if len(runs) == 1 else f"Tests of {listed(list(runs))}"
    return page(title, lead(report), facts(report), sections)


def listed(names: list[str]) -> str:
    """Return names as words of a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def lead(report: Report) -> str:
    """Return what matters most in a few sentences."""
    told = []
    for name, result in report.runs.items():
        right = f"{name} is right in {percent(result.top1)} of {counted(len(result.videos), 'test video')}"
        spent = change(result.gflops_per_clip.mean, result.static_gflops_per_clip)
        cost = f" and spends {spent} GFLOPs than without the sampler" if result.sites else ""
        told.append(f"{right}{cost}.")
    if bad := report.not_comparable:
        told.append(f"Not comparable with {report.first}: {listed(list(bad))}; see why below.")
    return " ".join(told)


def facts(report: Report) -> list[tuple[str, str]]:
    """Return what is to be seen at a glance, of a single run: of several there is a table."""
    if len(report.runs) > 1:
        return []
    result = report.runs[report.first]
    rows = [(name, cells[0]) for name, cells in measures(report)]
    return [("network", str(result.network["model"])), *rows]


def measures(report: Report) -> list[tuple[str, list[str]]]:
    """Return the figures of the runs, a row a figure; of no run those that it has not."""
    runs = list(report.runs.values())
    rows = [("top-1", [f"{percent(one.top1)} ± {100 * one.top1_standard_error:.1f}" for one in runs])]
    rows.append(("GFLOPs of a clip", [cost(one) for one in runs]))
    if any(one.stopped for one in runs):
        rows.append(("GFLOPs of a video", [brief(one.gflops_per_video) for one in runs]))
        rows.append(("views of a video", [f"{one.views_per_video:.3g} of {views_of(one)}" for one in runs]))
    if any(one.top5 is not None for one in runs):
        rows.append(("top-5", ["–" if one.top5 is None else percent(one.top5) for one in runs]))
    rows.append(("mean class accuracy", [percent(one.mean_class_accuracy) for one in runs]))
    rows.append(("calibration error", [percent(analysis.calibration(one).error) for one in runs]))
    for site in dict.fromkeys(site for one in runs for site in one.sites):
        kept = [kept_of(one, site) for one in runs]
        follow = [number(analysis.motion_relation(one, site).clips) if site in one.sites else "–" for one in runs]
        rows += [(f"maps kept at {site}", kept), (f"rank correlation with motion at {site}", follow)]
    return rows


def views_of(result: TestResult) -> int:
    """Return the most views that a video may have."""
    return int(result.views["clips"]) * int(result.views["crops"])


def cost(result: TestResult) -> str:
    """Return what a clip costs, and what without the sampler."""
    mean = brief(result.gflops_per_clip.mean)
    return f"{mean} (static {brief(result.static_gflops_per_clip)})" if result.sites else mean


def kept_of(result: TestResult, site: str) -> str:
    """Return the maps kept at a site, of how many."""
    if site not in result.sites:
        return "–" if result.sites else "all"
    counts = [video.sites[site] for video in result.videos]
    clips = sum(len(one.maps) for one in counts)
    kept, maps = (sum(sum(getattr(one, name)) for one in counts) / clips for name in ("active_bins", "maps"))
    return f"{kept:.1f} of {brief(maps)}"


def compared(report: Report) -> Section:
    """All runs, a row each; what decides stands first, where a phone shows it."""
    differences, bad, text = report.differences, report.not_comparable, []
    top1, *others = measures(report)
    columns = [top1]
    if differences:
        cells = ["–" if name not in differences else differences[name].in_points for name in report.runs]
        columns.append((f"above {report.first}, points", cells))
        text.append(
            f"Differences are paired with {report.first}, video by video, with 95 % intervals (bootstrap over videos). "
            "p is that of McNemar's exact test: how often networks that are equally good differ as much."
        )
    for name, one in differences.items():
        gained = counted(one.gained, "video")
        text.append(f"Only {name} is right in {gained}, only {report.first} in {one.lost}: {one.certainty}.")
    text += [f"{name} is not comparable with {report.first}: {'; '.join(why)}." for name, why in bad.items()]
    text.append("± is the standard error. GFLOPs are multiply-adds / 1e9.")
    networks = list(report.runs.values())
    columns += [*others, ("network", [str(one.network["model"]) for one in networks])]
    columns.append(("sampler", [sampler(one) for one in networks]))
    rows = [[name, *(cells[place] for _, cells in columns)] for place, name in enumerate(report.runs)]
    return Section("Side by side", text, shown=Table(["", *(name for name, _ in columns)], rows, row_headings=True))


def sampler(result: TestResult) -> str:
    """Return which sampler the network has, and where."""
    sgs = result.network["sgs"]
    if sgs is None:
        return "nothing (static)"
    places = sgs["after"] if isinstance(sgs["after"], list) else [sgs["after"]]
    where = "at the input" if places == [INPUT] else f"behind {listed(places)}"
    return f"{sgs.get('sampler', 'sgs')} {where}"


def conditions(report: Report) -> Section:
    """How this was made."""
    rows = []
    for name, result in report.runs.items():
        views, timing = result.views, result.timing
        clip = f"{counted(views['clips'], 'clip')} x {counted(views['crops'], views['places'] + ' crop')} of "
        clip += "{frames} frames, every {stride}, {size} px".format(**views)
        clip += f", until a class leads by {views['settled']:.3g} nats" if result.stopped else ""
        threads = counted(timing["threads"], "thread")
        time = f"batch {timing['batch_size']}, {timing['device']}, {threads}, torch {timing['torch']}"
        time = f"{brief(result.ms_per_clip)} ms, {time}"
        sgs = ", ".join(f"{key} {value}" for key, value in (result.network["sgs"] or {}).items())
        rows.append([name, sgs or "–", len(result.videos), len(result.skipped), clip, time])
    text = [
        "GFLOPs are multiply-adds / 1e9, from each clip's own number of maps. Times of different runs were not "
        "measured in turns: do not compare them."
    ]
    columns = ["run", "sampler", "videos", "left out", "views", "forward pass of a clip"]
    return Section("How this was made", text, table=Table(columns, rows))
