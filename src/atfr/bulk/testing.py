"""testing: what `evaluate.test` needs of a network on labelled videos, done by the engine's workers."""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from atfr.bulk.engine import Engine, Settings
from atfr.bulk.manifest import Video
from atfr.bulk.network import ViewReader, alone, loaded_of
from atfr.bulk.workers import Network, Payload
from atfr.checks import Precision
from atfr.errors import InputError
from atfr.evaluate.forward import Pass, prepared
from atfr.evaluate.predict import Loaded, Views, run_loaded
from atfr.models import VideoModel
from atfr.video.spec import ViewSpec


def outcomes_on_ray(
    model: VideoModel,
    views: Views,
    batch_size: int,
    precision: Precision,
    settings: Settings,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[Loaded, Pass | None]]:
    """Yield what `atfr.evaluate.predict.outcomes` does, in order, from the Ray cluster that this process has joined.

    A video that kills its worker or hangs is one that does not decode. Of each video numbers are held, no pictures.

    Raises:
        InputError: the crops of the views are random, which are drawn by the place of a video in its list.
    """
    if views.crop_seeds is not None:
        raise InputError("--engine ray takes uniform crops; leave out --crops random")
    videos = (Video(str(number), str(path)) for number, path in enumerate(views.paths))
    spec, device = views.spec, "cuda" if settings.gpu else "cpu"
    shape = (3, spec.frames, spec.size, spec.size)
    make = functools.partial(_tester, model, shape, batch_size, precision, views.view_spec, device)
    engine = Engine(videos, ViewReader(spec, views.view_spec, views.motion), make, settings)
    found: dict[int, tuple[Loaded, Pass | None]] = {}
    for some in engine.run():
        for one in some:
            path = Path(one.video.uri)
            if one.row is None:
                found[int(one.video.id)] = Loaded(path, None, error=one.message), None
            else:
                found[int(one.video.id)] = replace(one.row["loaded"], path=path), one.row["passed"]
        progress(len(found), len(views.paths))
    for number in range(len(views.paths)):
        yield found[number]


def _tester(
    model: VideoModel,
    clip_shape: Sequence[int],
    batch_size: int,
    precision: Precision,
    views: ViewSpec,
    device: str,
) -> Network:
    alone()
    forward = prepared(model.to(device), clip_shape, precision)

    def run(payloads: Sequence[Payload]) -> list[dict[str, Any]]:
        found = run_loaded(forward, map(loaded_of, payloads), views, batch_size)
        return [{"loaded": replace(one, views=None), "passed": passed} for one, passed in found]

    return run
