"""The report: a page that stands alone and says in words what it shows, and the same as JSON and CSV."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from atfr import viz
from atfr.evaluate import analysis
from atfr.evaluate.result import TestResult
from atfr.viz.report_page import conditions, measures
from tests.evaluate.made_up import made_up
from tests.viz.test_page import check_stands_alone

SLOWFAST = {"res2.fast": 32, "res2.slow": 8}
TITLES = [
    "How many maps clips keep",
    "Classes of low and high temporal resolution",
    "Do maps follow motion?",
    "Maps dropped or down-weighted",
    "Maps kept and being right",
]
OF_ANY = ["What is taken for what", "Confused most", "Is it as sure as it is right?", "How this was made"]


def headings(text: str) -> list[str]:
    found = check_stands_alone(text)
    return [section["aria-labelledby"] for section in found.all("section")] and [
        heading for heading in [*TITLES, *OF_ANY, "Side by side", "Accuracy against cost"] if f">{heading}</h2>" in text
    ]


def report_of(**runs: TestResult) -> viz.Report:
    return viz.Report(runs)


@pytest.mark.parametrize(
    "sites", [{"res2": 16}, pytest.param({"res2": 16, "res4": 16}, marks=pytest.mark.soak), SLOWFAST]
)
def test_page_of_one_run(sites: dict[str, int]) -> None:
    result = made_up(sites=sites)
    text = viz.report_page(report_of(run=result))
    found = check_stands_alone(text)
    assert headings(text) == [*TITLES, *OF_ANY]
    assert f"run is right in {100 * result.top1:.1f} % of 60 test videos" in text
    figures = found.all("svg")
    assert len(figures) == len(TITLES) + 3
    for figure in figures[: len(TITLES)]:
        assert all(site in figure["aria-label"] for site in sites)
    assert len(found.all("details")) == len(TITLES) + 3  # every table is folded
    regions = [division for division in found.all("div") if division.get("role") == "region"]
    assert all(region["aria-label"] and region["tabindex"] == "0" for region in regions)
    assert len(regions) == len(found.all("table"))
    assert all(heading["scope"] in ("col", "row") for heading in found.all("th"))


def test_a_notebook_shows_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of(run=made_up())
    shown = re.fullmatch(r'<iframe srcdoc="([^"]*)" style="[^"]*"></iframe>', report._repr_html_())
    check_stands_alone(html.unescape(shown[1]))
    page = """<p title="a 'b' &amp;">1 &lt; 2</p>"""
    monkeypatch.setattr(sys.modules["atfr.viz.report_page"], "report_page", lambda _: page)
    shown = re.fullmatch(r'<iframe srcdoc="([^"]*)" style="[^"]*"></iframe>', report._repr_html_())
    assert html.unescape(shown[1]) == page


def test_page_of_a_static_run_has_nothing_of_sites() -> None:
    text = viz.report_page(report_of(run=made_up(sites={})))
    assert headings(text) == OF_ANY
    assert "without the sampler" not in text


def test_page_of_a_run_without_mistakes() -> None:
    result = made_up(accuracy=1.1)
    text = viz.report_page(report_of(run=result))
    assert "Confused most" not in headings(text)
    assert "every video is classified correctly" in text


def test_runs_side_by_side() -> None:
    runs = {"static": made_up(sites={}, seed=1), "adaptive": made_up(seed=2)}
    report = report_of(**runs)
    text = viz.report_page(report)
    assert headings(text) == [*TITLES, *OF_ANY, "Side by side", "Accuracy against cost"]
    found = check_stands_alone(text)
    shown = found.all("table")[0]
    assert shown == {}
    one = report.differences["adaptive"]
    assert f"Only adaptive is right in {one.gained} videos, only static in {one.lost}: p = {one.p:.2g}" in text
    assert f"{100 * one.mean:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})" in text
    assert "ot comparable" not in text


def test_runs_that_are_not_comparable_are_named_and_not_paired() -> None:
    first, other = made_up(), replace(made_up(), views=made_up().views | {"stride": 9})
    report = report_of(first=first, other=other, third=made_up(seed=4))
    assert list(report.differences) == ["third"]
    text = viz.report_page(report_of(first=first, other=other))
    assert "Not comparable with first: other; see why below." in text
    assert "other is not comparable with first: other clips (stride 2 and 9)." in text


def test_400_classes_and_many_clips_make_a_page_of_modest_size() -> None:
    result = made_up(classes=400, videos=800, views=10, sites=SLOWFAST)
    text = viz.report_page(report_of(run=result))
    check_stands_alone(text)
    assert len(text) < 1_000_000


def test_json_says_what_the_figures_show() -> None:
    report = report_of(a=made_up(sites={}), b=made_up(sites=SLOWFAST, seed=2))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    values = json.loads(json.dumps(report.to_dict()), parse_constant=refuse)
    assert values["compared_with"] == "a"
    assert values["top1_difference"]["b"]["gained"] == report.differences["b"].gained
    result, told = report.runs["b"], values["runs"]["b"]
    assert told["top1"] == result.top1
    assert told["calibration"]["error"] == analysis.calibration(result).error
    assert sum(cell["videos"] for cell in told["confusion"]) == 60
    for site in SLOWFAST:
        assert {int(k): n for k, n in told["active_bins"][site].items()} == result.active_bins[site]
        assert told["sites"][site]["rank_correlation_with_motion"]["clips"] == pytest.approx(
            analysis.motion_relation(result, site).clips
        )
        assert sum(group["videos"] for group in told["sites"][site]["accuracy_by_active_bins"]) == 60


def test_what_cannot_be_told_is_null_in_json_and_a_dash_on_the_page() -> None:
    """One class, one video: nothing to correlate; probabilities that are not finite: no calibration."""
    one = made_up(classes=2, videos=1, views=1)
    one = replace(one, videos=tuple(replace(video, probability=math.nan) for video in one.videos))
    report = report_of(run=one)
    values = report.to_dict()["runs"]["run"]
    assert values["calibration"]["error"] is None
    assert values["sites"]["res2"]["rank_correlation_with_motion"] == dict.fromkeys(["clips", "videos", "within_class"])
    check_stands_alone(viz.report_page(report))
    assert dict(measures(report))["rank correlation with motion at res2"] == ["–"]


def test_csv_has_every_video_of_every_run_with_the_columns_of_all() -> None:
    report = report_of(a=made_up(sites={}, videos=4), b=made_up(sites=SLOWFAST, videos=5))
    rows = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert [row["run"] for row in rows] == ["a"] * 4 + ["b"] * 5
    assert rows[0]["active_bins res2.slow"] == ""
    video = report.runs["b"].videos[0]
    assert rows[4]["active_bins res2.slow"] == " ".join(map(str, video.active_bins["res2.slow"]))
    assert rows[4]["label"] == video.label


def test_names_of_any_bytes_are_no_markup(tmp_path: Path) -> None:
    made_up(videos=6).save(tmp_path / "a <b> & \udcff" / "test")
    made_up(videos=6).save(tmp_path / "other" / "test")
    text = viz.report_page(viz.report([tmp_path / "a <b> & \udcff", tmp_path / "other"]))
    text.encode("utf-8")
    assert "a <b> & \\udcff" in "".join(check_stands_alone(text).text)


def test_whatever_the_sampler_is_its_column_is_called_so() -> None:
    sgs = {"after": "input", "sampler": "change"}
    network = {"model": "resnet3d_18", "arguments": {"num_classes": 6}, "sgs": sgs}
    table = conditions(viz.Report({"run": made_up(videos=6, network=network)})).table
    assert table is not None
    assert dict(zip(table.columns, table.rows[0], strict=True))["sampler"] == "after input, sampler change"
