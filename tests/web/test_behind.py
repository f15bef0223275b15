"""What the page relies on in Gradio is looked for when it starts.

Gradio takes seconds to import: only the process that tries it does so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from atfr.errors import InputError
from atfr.web import samples
from atfr.web.limits import Limits
from atfr.web.network import SharedNetwork
from atfr.web.serve import private
from atfr.web.uploads import Inbox
from tests.alone import alone
from tests.evaluate.build import network, write_level
from tests.web.served import TASK

if TYPE_CHECKING:
    import gradio as gr


@contextmanager
def built() -> Iterator[gr.Blocks]:
    from atfr.web import page

    with private() as folder:
        inbox = Inbox(folder / "sent", TASK.spec, Limits())
        sample = samples.sample("a", write_level(folder / "a.mp4", 3, frames=30))
        yield page.build(SharedNetwork(network(adapted=False), TASK), inbox, [sample], generated=False)


def test_gradio_does_what_the_page_relies_on_and_another_is_told_by_its_version() -> None:
    alone(gradio_is_tried)


def gradio_is_tried() -> None:
    """It checks files itself too, once it is told to."""
    from atfr.web import behind, page

    with built() as blocks:
        another_gradio(blocks)
    with built() as blocks:
        assert not behind.checks_files(blocks)
        assert blocks._queue.sleep_when_free < 0.05  # what idles is a setting of Gradio's
        app = behind.application(blocks, 100, "127.0.0.1")
        assert behind.checks_files(blocks)
        assert blocks._queue.sleep_when_free == 0.05
        assert behind.has_route(app, "GET", "/gradio_api/deep_link")  # which the gate does not let through
        assert not behind.has_route(app, "GET", "/gradio_api/nothing/of/this")
        assert [Path(path).suffix for path in page.pictures(blocks)] == [".webp"]


def another_gradio(blocks: gr.Blocks) -> None:
    from gradio import processing_utils

    from atfr.web import behind, calls

    changes = {
        "does not check that a file was uploaded": (processing_utils, "_check_allowed", lambda *_: None),
        "numbers the functions of a page otherwise": (behind, "NAMES", calls.NAMES[::-1]),
        "answers no GET /gradio_api/elsewhere": (behind, "ANSWERED", ["GET /", "GET /gradio_api/elsewhere"]),
    }
    for told, change in changes.items():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(*change)
            refused(blocks, told)
    del blocks._queue.pending_event_ids_session
    refused(blocks, "keeps the answers of a page otherwise")


def refused(blocks: gr.Blocks, told: str) -> None:
    import gradio as gr

    from atfr.web import behind

    with pytest.raises(InputError, match=rf"relies on Gradio 6\.31, and Gradio {gr.__version__} {told}: pip install"):
        behind.application(blocks, 100, "127.0.0.1")
