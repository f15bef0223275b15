"""The clip as options of a command: what is left out stays as the network, or its training, has it."""

from dataclasses import dataclass, fields, replace
from typing import Any

from atfr.video.spec import ClipSpec, Stride, Triple


@dataclass(frozen=True)
class TestClip:
    """The clip of a test, where it is not that of the training.

    Args:
        frames: Frames of a clip.
        stride: Video frames from one of them to the next, or "video": spread over all of the video.
        size: Height and width of a crop, in px.
        resize: The shorter side of the video before it is cropped, in px; by default it changes with the size.
    """

    __test__ = False  # no pytest class

    frames: int | None = None
    stride: Stride | None = None
    size: int | None = None
    resize: int | None = None

    def over(self, spec: ClipSpec) -> ClipSpec:
        """Return a clip with these options in place of its own; what belongs to a size is scaled with it.

        Raises:
            InputError: the options are out of range or do not fit together.
        """
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given = {name: value for name, value in given.items() if value is not None}
        if (size := given.get("size", spec.size)) != spec.size and size > 0:
            given = {
                "resize": max(size, spec.resize * size // spec.size),
                "jitter": tuple(max(size, side * size // spec.size) for side in spec.jitter),
            } | given
        return replace(spec, **given)


@dataclass(frozen=True)
class TrainClip(TestClip):
    """The clip of a training, where it is not that which the network is made for.

    Args:
        resize: The shorter side of a video in tests, in px; by default it changes with the size, as jitter does.
        jitter: The least and the largest shorter side in training, in px.
        flip: Mirror half of the clips; off where left and right are different classes.
        mean: Of the pixels, from 0 to 1, by channel R, G, B.
        std: Their standard deviation.
    """

    jitter: tuple[int, int] | None = None
    flip: bool | None = None
    mean: Triple | None = None
    std: Triple | None = None
