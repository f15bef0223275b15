"""Gradio, as it stands behind the gate: told to check files itself as well, and known to do so."""

import gradio as gr
from fastapi import FastAPI
from gradio import processing_utils
from gradio.context import LocalContext
from gradio.exceptions import InvalidPathError
from starlette.routing import Match, Mount

from atfr.errors import InputError
from atfr.web.calls import NAMES
from atfr.web.gate import API
from atfr.web.page import head, theme

KNOWN = "6.31"
"""The version of Gradio by whose source this was written."""
LOOKS_EVERY_S = 0.05
"""How often Gradio looks for a call, as on Windows; elsewhere a thousand times a second, a 20th of a core."""
ANSWERED = ["GET /", "GET /assets/a", "GET /static/a", "GET /theme.css", f"GET {API}/file=a", f"GET {API}/heartbeat/a"]
ANSWERED += [f"GET {API}/queue/data", f"POST {API}/queue/join"]


def application(blocks: gr.Blocks, largest_bytes: int, host: str) -> FastAPI:
    """Return Gradio's application for the page, which tells browsers the size of the largest file.

    Raises:
        InputError: this version of Gradio does not do what the page relies on.
    """
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None), blocks, path="", max_file_size=largest_bytes, show_error=False, footer_links=[],
        ssr_mode=False, mcp_server=False, theme=theme(), head=head(), server_name=host,
    )  # fmt: skip
    blocks._queue.sleep_when_free = LOOKS_EVERY_S
    blocks.has_launched = True  # or Gradio takes any path for a file that was uploaded
    if missing := lacks(app, blocks):
        raise InputError(
            f"the page relies on Gradio {KNOWN}, and Gradio {gr.__version__} {missing}: pip install 'gradio=={KNOWN}.*'"
        )
    return app


def lacks(app: FastAPI, blocks: gr.Blocks) -> str:
    """Return what this version of Gradio does not do, or nothing."""
    if tuple(function.name for function in blocks.fns.values()) != NAMES:
        return "numbers the functions of a page otherwise"
    if missing := [asked for asked in ANSWERED if not has_route(app, *asked.split())]:
        return f"answers no {', no '.join(missing)}"
    if not {"pending_event_ids_session", "pending_messages_per_session"} <= vars(blocks._queue).keys():
        return "keeps the answers of a page otherwise"
    return "" if checks_files(blocks) else "does not check that a file was uploaded"


def has_route(app: FastAPI, method: str, path: str) -> bool:
    """Whether one of the routes of the page, all of which are mounted, is of this method and path."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
    (page,) = (route for route in app.routes if isinstance(route, Mount))
    return any(route.matches(scope)[0] is Match.FULL for route in page.routes)


def checks_files(blocks: gr.Blocks) -> bool:
    """Whether Gradio refuses a file from outside its folder as the value of a page's part."""
    part = next(part for part in blocks.blocks.values() if isinstance(part, gr.File))
    before = LocalContext.blocks.set(blocks)
    try:
        outside = {"path": __file__, "meta": {"_type": "gradio.FileData"}}
        processing_utils.move_files_to_cache(outside, part, check_in_upload_folder=True)
    except InvalidPathError:
        return True
    except (AttributeError, TypeError):
        return False
    finally:
        LocalContext.blocks.reset(before)
    return False
