"""What a client may call: three functions, each with few values of a fixed type. All else in a call is left out."""

from typing import Annotated, Any, Literal

from fastapi import HTTPException
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

NAMES = ("sent", "chosen", "moved")
"""The functions of the page, in the order of its `fn_index`."""


class Strict(BaseModel):
    """A part of a call, in which no value is taken for one of another type."""

    model_config = ConfigDict(strict=True)


class Call(Strict):
    """What all calls have: the page that calls, and the part of it that was touched."""

    session_hash: str = Field(max_length=64)
    trigger_id: int | None = None


class File(Strict):
    """A file as Gradio's page names it; `path` is what the upload was answered with."""

    path: str = Field(max_length=64)


class Picked(Strict):
    """Which of the samples."""

    index: int


class Sent(Call):
    """A file was dropped."""

    fn_index: Literal[0]
    data: tuple[File]


class Chosen(Call):
    """A sample was chosen."""

    fn_index: Literal[1]
    data: tuple[()]
    event_data: Picked


class Moved(Call):
    """The slider was moved; the state of the session is never sent."""

    fn_index: Literal[2]
    data: tuple[None, int]


CALLS: TypeAdapter[Sent | Chosen | Moved] = TypeAdapter(
    Annotated[Sent | Chosen | Moved, Field(discriminator="fn_index")]
)


def read(body: bytes) -> Sent | Chosen | Moved:
    """Return the call in the body of a request.

    Raises:
        HTTPException: it is none of the page's calls.
    """
    try:
        return CALLS.validate_json(body)
    except ValidationError as error:
        raise HTTPException(422, "This page makes no such call; reload it.") from error


def written(call: Sent | Chosen | Moved, session_hash: str) -> dict[str, Any]:
    """Return the call as Gradio takes it, for a session: no path and nothing else but these values is in it."""
    parts: dict[str, Any]
    match call:
        case Sent():
            parts = {"data": [None], "event_data": {"token": call.data[0].path}}
        case Chosen():
            parts = {"data": [], "event_data": {"index": call.event_data.index, "value": None}}
        case Moved():
            parts = {"data": [None, call.data[1]]}
    return parts | {"fn_index": int(call.fn_index), "trigger_id": call.trigger_id, "session_hash": session_hash}
