"""The pages hold together where they are read as files: links of the README and between pages; the site is complete.

`make docs` checks the links and anchors of the built site.
"""

import re
from pathlib import Path

import pytest

import atfr

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors that a renderer like GitHub's makes of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor and not anchor.startswith("atfr."):  # those are made from the docstrings
            assert anchor in anchors(target), f"{page.name}: {link}, not among {sorted(anchors(target))}"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f": {page.relative_to(ROOT / 'docs')}\n" in navigation, f"add {page.name} to nav in mkdocs.yml"


def test_every_public_name_is_in_the_reference() -> None:
    reference = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    for name in atfr.__all__:
        assert re.search(rf"^::: atfr\.(\w+\.)*{name}$", reference, flags=re.MULTILINE), f"atfr.{name} has no entry"


def test_examples_stand_where_the_reference_sets_them_as_code() -> None:
    for file in (ROOT / "src").rglob("*.py"):
        misread = re.search(r"^ *Example:$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not misread, f"{file}: write Examples:, mkdocstrings takes Example: for a quotation"
