"""What several tests of the command line stand on."""

from collections.abc import Callable

import pytest


@pytest.fixture
def drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it where pages are written and what is on them is not looked at: figures take a second a page."""
    return lambda: monkeypatch.setattr("atfr.viz.page.svg", lambda *_: "<svg></svg>")
