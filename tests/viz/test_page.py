"""The page stands alone: parsed as a browser would, it asks for nothing, and says in words what it shows."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser

from matplotlib.figure import Figure

from atfr.viz.page import Section, Table, page, table_html

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page consists of; elements must nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def check_stands_alone(text: str) -> Page:
    """Nothing is loaded, nothing runs, ids are unique and references meet one, every figure has words."""
    found = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert not {"script", "link", "iframe", "object", "embed", "base"} & {tag for tag, _ in found.elements}
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in found.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "action"):
                assert value.startswith(("data:image/png;base64,", "#"))
                assert not value.startswith("#") or value[1:] in ids
            for target in re.findall(r"url\(([^)]*)\)", value):
                assert target.removeprefix("#") in ids
        assert attributes.get("aria-labelledby", ids[0] if ids else "") in [*ids, ""]
    assert not re.search(r"@import|@font-face|url\(", re.findall(r"<style>(.*?)</style>", text, re.DOTALL)[0])
    assert all(figure["role"] == "img" and len(figure["aria-label"]) > 10 for figure in found.all("svg"))
    assert found.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.all("meta")
    return found


def figure() -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 5], color="black")
    axes.imshow([[0, 1]], extent=(0, 1, 0, 1))
    axes.set_title("日本")  # a glyph that matplotlib's font has not
    return figure


def test_what_is_told_is_there_and_is_no_markup() -> None:
    table = Table(["<a>", "b"], [["1 & 2", 3]])
    sections = [
        Section("One <b>", ["x < y"], figure(), 'a line from 0 to 5, "up"', table),
        Section("Two", figure=figure(), alt="the same once more"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page("name of bytes \udcff.mp4 <script>", "lead & more", [("GFLOPs", "1 < 2")], sections)
    text.encode("utf-8")
    found = check_stands_alone(text)
    shown = "".join(found.text)
    assert "name of bytes \\udcff.mp4 <script>" in shown
    assert all(told in shown for told in ("lead & more", "1 < 2", "One <b>", "x < y", "<a>", "1 & 2", "日本"))
    assert [figure["aria-label"] for figure in found.all("svg")] == ['a line from 0 to 5, "up"', "the same once more"]
    assert len(found.all("details")) == 1


def test_figures_take_the_colours_of_the_page() -> None:
    text = page("a", "b", [], [Section("One", figure=figure(), alt="a line from 0 to 5")])
    (svg,) = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert "prefers-color-scheme: dark" in text


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(
            share * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for share, c in zip((0.2126, 0.7152, 0.0722), channels, strict=True)
        )

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, str]]:
    """The colours of the light and of the dark page, by name."""
    found = re.findall(r":root \{([^}]*)\}", page("a", "b", [], []))
    assert len(found) == 2
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", theme)) for theme in found]


def test_text_is_read_by_light_and_by_dark() -> None:
    for colours in themes():
        for ink in ("ink", "soft"):
            for paper in ("paper", "card"):
                assert contrast(colours[ink], colours[paper]) >= 4.5  # WCAG 2.2, 1.4.3


def test_a_dash_in_a_table_is_told() -> None:
    rows = [["a", "1.0"], ["b", "–"]]
    assert [table_html(Table(["", "x"], rows[:count]), "t").count("–") for count in (1, 2)] == [0, 2]
