"""One HTML page that needs nothing else: no network, no script, light and dark, for desks and phones.

Figures are inline SVG. What they draw in black takes the colour of the page's text, and their background is the page's.
"""

import html
import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

import matplotlib
from matplotlib.figure import Figure

REM_PER_INCH = 8.2
"""How wide a figure is on a page that has the room: text of 7 points is then read at a desk, and on a phone."""

IMAGE_DPI = 170
"""Pictures in figures are scaled to this resolution at the figure's own width."""


@dataclass(frozen=True)
class Table:
    """Cells in rows below a row of headings; a row may begin with a heading of its own."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    row_headings: bool = False


@dataclass(frozen=True)
class Section:
    """A heading, what is to be said, and a figure with the same in words for those who do not see it."""

    title: str
    text: Sequence[str] = ()  # plain text, a paragraph an entry
    figure: Figure | None = None  # what is to be seen
    alt: str = ""  # what is to be seen in it, in words
    table: Table | None = None  # the same as numbers, folded away below the figure
    shown: Table | None = None  # a table that is not folded away, above the figure


def page(title: str, lead: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return a page as HTML.

    Args:
        lead: what matters most, in a sentence or two.
        facts: names and values to see at a glance.
    """
    return PAGE.substitute(
        title=escaped(title),
        lead=escaped(lead),
        facts=facts_html(facts),
        parts=PARTS_CSS,
        sections="\n".join(section_html(section, number) for number, section in enumerate(sections)),
    )


def facts_html(facts: Sequence[tuple[str, str]]) -> str:
    """Return names and values as HTML, a card each."""
    cards = "".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>" for name, value in facts)
    return f"<dl>{cards}</dl>" if facts else ""


def escaped(text: object) -> str:
    """Return text as HTML; what cannot be encoded (names of files may be any bytes) is spelt out."""
    return html.escape(str(text).encode(errors="backslashreplace").decode())


def section_html(section: Section, number: int) -> str:
    """Return a section as HTML."""
    parts = [f'<section aria-labelledby="s{number}">', f'<h2 id="s{number}">{escaped(section.title)}</h2>']
    parts += [f"<p>{escaped(text)}</p>" for text in section.text]
    if section.shown is not None:
        parts.append(table_html(section.shown, section.title))
    if section.figure is not None:
        parts.append(f"<figure>{svg(section.figure, section.alt, f's{number}-')}</figure>")
    if section.table is not None:
        parts.append(f"<details><summary>The numbers</summary>{table_html(section.table, section.title)}</details>")
    return "\n".join([*parts, "</section>"])


NONE = "–"
NONE_TOLD = f"{NONE}: there is no such figure, as where all values are alike, or nothing was measured."
"""What stands in a table where there is no figure, and below it."""


def table_html(table: Table, name: str) -> str:
    """Return a table as HTML, which scrolls by itself, also by keyboard, where it is too wide."""
    head = "".join(f'<th scope="col">{escaped(column)}</th>' for column in table.columns)
    rows = ""
    for row in table.rows:
        cells = [f"<td>{escaped(cell)}</td>" for cell in row]
        if table.row_headings:
            cells[0] = f'<th scope="row">{escaped(row[0])}</th>'
        rows += f"<tr>{''.join(cells)}</tr>"
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    if any(cell == NONE for row in table.rows for cell in row):
        body += f"<p>{NONE_TOLD}</p>"
    return f'<div class="wide" role="region" aria-label="{escaped(name)}, numbers" tabindex="0">{body}</div>'


def svg(figure: Figure, alt: str, prefix: str) -> str:
    """Return a figure as an SVG element that says in words what it shows; ids begin with the prefix."""
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the browser writes the text, in fonts of its own
        figure.savefig(out, format="svg", metadata=nothing, dpi=IMAGE_DPI)
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<style.*?</style>", "", text, count=1, flags=re.DOTALL)  # it would hold for all of the page
    text = re.sub(r"#000000\b", "currentColor", text)
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="|url\()#', rf"\g<1>#{prefix}", text)
    widest = f"max-width: {REM_PER_INCH * figure.get_figwidth():.0f}rem"
    return text.replace("<svg", f'<svg role="img" aria-label="{escaped(alt)}" style="{widest}"', 1)


PARTS_CSS = """\
h2 { font-size: 1.1rem; margin: 0 0 .4rem; }
p { margin: 0 0 .6rem; max-width: 42rem; }
.lead { font-size: 1.1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem; margin: 1rem 0; }
dl div, section { background: var(--card); border-radius: .5rem; padding: .8rem; }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
section { break-inside: avoid; margin-bottom: 1rem; }
section p { color: var(--soft); font-size: .95rem; }
figure { margin: 0; }
svg { display: block; width: 100%; height: auto; margin: 0 auto; fill: currentColor; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
details { margin-top: .6rem; }
summary { cursor: pointer; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
tbody th { font-weight: 400; color: var(--soft); min-width: 4rem; }
td { min-width: 5rem; }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
"""
"""The look of facts and sections, here and on other pages; colours are --ink, --soft, --card and --line."""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1a1c20; --soft: #565c66; --paper: #ffffff; --card: #f2f4f7; --line: #d5d9e0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #a8aeb9; --paper: #14161a; --card: #1f2329; --line: #3a404a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; overflow-wrap: anywhere; }
$parts
.sections { columns: 2 28rem; column-gap: 1rem; }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<p class="lead">$lead</p>
$facts
<div class="sections">
$sections
</div>
</main>
</body>
</html>
""")
