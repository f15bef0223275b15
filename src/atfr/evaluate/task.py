"""Task: what a network was trained for. Beside the network it makes a checkpoint folder that can predict.

Such a folder holds config.json and model.safetensors (`VideoModel.save_pretrained`) and task.json, written here. One
task comes with atfr, that of published networks, which know Kinetics-400.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atfr.errors import CheckpointError, InputError
from atfr.files import read_json, write_json
from atfr.video.spec import ClipSpec, ViewSpec

if TYPE_CHECKING:
    from atfr.models import VideoModel

TASK = "task.json"
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """The classes a network tells apart (`labels[i]` names class i), the clips it reads, and when their views stop.

    `views` is what `atfr calibrate --views` has found; None before.
    """

    labels: tuple[str, ...]
    spec: ClipSpec
    views: ViewSpec | None = None

    def __post_init__(self) -> None:
        if not self.labels or not all(isinstance(label, str) for label in self.labels):
            raise InputError(f"labels must be the names of the classes, got {self.labels!r}")
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"labels must differ from each other, got {self.labels!r}")

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """The shape of a clip, C T H W."""
        return (3, self.spec.frames, self.spec.size, self.spec.size)

    def to_dict(self) -> dict[str, Any]:
        """Turn the task into plain JSON values."""
        views = {} if self.views is None else {"views": asdict(self.views)}
        return {"labels": list(self.labels), "clip": self.spec.to_dict(), **views}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """Make a task from `to_dict`'s values.

        Raises:
            InputError: A key is missing, or a value is not of its kind or range.
        """
        if (
            not isinstance(values, Mapping)
            or set(values) - {"views"} != {"labels", "clip"}
            or not isinstance(values["labels"], list)
        ):
            raise InputError(f'a task is {{"labels": [...], "clip": {{...}}}}, got {str(values)[:200]}')
        views = values.get("views")
        try:
            found = None if views is None else ViewSpec(**views)
        except TypeError as error:
            raise InputError(f"the views of a task are num_clips, num_crops and settled, got {views!r}") from error
        if found is not None and found.settled is None:
            raise InputError(f"the views of a task say when they stop (settled), got {views!r}")
        return cls(tuple(values["labels"]), ClipSpec.from_dict(values["clip"]), found)


def save_checkpoint(model: "VideoModel", task: Task, folder: str | os.PathLike[str]) -> None:
    """Write a network and its task into a checkpoint folder; each file is written whole or not at all.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    model.save_pretrained(Path(folder))
    save_task(task, folder)


def save_task(task: Task, folder: str | os.PathLike[str]) -> None:
    """Write a task into a checkpoint folder, whole or not at all.

    Raises:
        CheckpointError: The folder cannot be written.
    """
    folder = Path(folder)
    try:
        write_json(folder / TASK, task.to_dict())
    except OSError as error:
        raise CheckpointError(f"cannot write '{folder / TASK}': {error}") from error


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple["VideoModel", Task]:
    """Read a network (in evaluation mode, on the CPU) and its task.

    The network computes in float32, in whatever type it was saved: clips are float32. `atfr.from_pretrained` keeps it.
    Where a folder has no task.json, as one of `save_pretrained` or `atfr convert`, the task is `numbered`.

    Args:
        folder: A checkpoint folder; or, where there is no such folder, the name of a published network that tells 400
            actions apart, whose weights `atfr weights` gets, as ``i3d_inception``.

    Raises:
        CheckpointError: Files are missing, damaged or unsafe to load, or do not fit together.
    """
    from atfr.models import create_model, from_pretrained
    from atfr.weights.published import PUBLISHED

    if (name := os.fspath(folder)) in PUBLISHED and not Path(folder).exists():
        model = create_model(name, pretrained=True).eval()
        return model, kinetics400(model)
    model = from_pretrained(Path(folder)).float()
    task = load_task(folder) if (Path(folder) / TASK).exists() else numbered(model, Path(folder))
    check_classes(model, task)
    return model, task


def numbered(model: "VideoModel", folder: Path) -> Task:
    """The task of a network that came without one: classes by number, and the clips it is made for."""
    from atfr.weights.published import PUBLISHED

    name = model.config["model"]
    spec = kinetics400(model).spec if name in PUBLISHED else natural_clip(model, has_weights=True)
    count = model.config["arguments"]["num_classes"]
    LOG.info(
        f"'{folder}' has no {TASK}: classes are told by number (class 0 to class {count - 1}), and clips are what "
        f"{name} is made for, {spec.frames} x {spec.size} x {spec.size}, {spec.stride} frames of the video apart"
    )
    return Task(tuple(f"class {number}" for number in range(count)), spec)


def natural_clip(network: "VideoModel", has_weights: bool) -> ClipSpec:
    """Return the clip a network is made for, resized as usual: a crop of 224 px from a shorter side of 256 to 320."""
    _, frames, size, _ = network.clip_shape
    least, largest = size * 256 // 224, size * 320 // 224
    spec = ClipSpec(frames=frames, size=size, resize=least, jitter=(least, largest))
    return replace(spec, mean=network.mean, std=network.std) if has_weights else spec


def kinetics400(model: "VideoModel") -> Task:
    """The task of a network with published weights: the 400 classes in alphabetical order, clips as published.

    The weights saw 25 or 30 frames a second; a clip takes the frames of a video as they come.
    """
    from torchvision.models.video import R3D_18_Weights

    from atfr.weights.published import PUBLISHED

    known = PUBLISHED[model.config["model"]]
    clip = ClipSpec(
        frames=model.clip_shape[1],
        stride=known.stride,
        size=known.size,
        resize=known.resize,
        jitter=(known.resize, known.resize * 5 // 4),
        mean=model.mean,
        std=model.std,
    )
    return Task(tuple(R3D_18_Weights.KINETICS400_V1.meta["categories"]), clip)


def load_task(folder: str | os.PathLike[str]) -> Task:
    """Read the task of a checkpoint folder.

    Raises:
        CheckpointError: It is missing or damaged.
    """
    folder = Path(folder)
    path = folder / TASK
    if not path.is_file():
        raise CheckpointError(
            f"'{folder}' holds a network but no {TASK} (its labels and clips); give a folder that `atfr train` wrote"
        )
    try:
        return Task.from_dict(read_json(path))
    except (OSError, ValueError) as error:  # InputError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"'{path}' cannot be read: {error}") from error


def check_classes(model: "VideoModel", task: Task) -> None:
    """Refuse a network that has another number of classes than the task.

    Raises:
        CheckpointError: The numbers differ.
    """
    classes = model.config["arguments"]["num_classes"]
    if classes != len(task.labels):
        raise CheckpointError(
            f"the network {model.config['model']} has {classes} classes and its task names {len(task.labels)} "
            f"({', '.join(task.labels[:4])}{', ...' if len(task.labels) > 4 else ''}); they are not of one training"
        )
