"""What several tests of the command line stand on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from atfr.evaluate.task import Task, save_checkpoint
from tests.evaluate.build import NAMES, SPEC, network, write_folder


@pytest.fixture
def drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call it where pages are written and what is on them is not looked at: figures take a second a page."""
    return lambda: monkeypatch.setattr("atfr.viz.page.svg", lambda *_: "<svg></svg>")


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, four videos each to learn from and two to test; no test changes them."""
    return write_folder(tmp_path_factory.mktemp("data [1] ü"), classes=2, train=4, test=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of few layers where the file has few."""
    folder = tmp_path_factory.mktemp("checkpoint [x]")
    save_checkpoint(network(classes=2), Task(NAMES[:2], SPEC), folder)
    return folder
