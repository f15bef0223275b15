"""A bundle: a network in the files of an inference runtime, with all that is needed to go from a video to an answer.

N batch, C channels, T frames in, H, W, K classes.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor

from atfr.adapt.cost import ClipCost
from atfr.adapt.trace import SamplingTrace
from atfr.checks import Precision, at_least_one, one_of
from atfr.errors import BundleError, InputError, VideoError
from atfr.evaluate.forward import Pass, passed, prepared
from atfr.evaluate.predict import Prediction, Views, check_batches, predictions
from atfr.evaluate.task import Task
from atfr.models import from_pretrained
from atfr.runtime.description import Description, Runtime
from atfr.runtime.engines import Engine, ONNXRuntime, OpenVINO
from atfr.runtime.graphs import EARLY, LATE, NETWORK
from atfr.runtime.running import AdaptedGraphs, Answers, Eager, StaticGraph
from atfr.video.spec import ViewSpec

ENGINES: Mapping[Runtime, type[Engine]] = MappingProxyType({"openvino": OpenVINO, "onnx": ONNXRuntime})
"""The runtimes that run graphs; "torch" runs the network itself."""


@dataclass(frozen=True)
class Answer:
    """What a bundle says of N clips.

    Attributes:
        logits: a row a clip.
        trace: what SGS did with each clip, as `atfr.record` tells it; without sites for a static network.
    """

    logits: Float[Tensor, "N K"]
    trace: SamplingTrace


class Bundle:
    """A network in an inference runtime, ready to run; any number of threads may use it at the same time.

    `load_bundle` makes it.

    Attributes:
        description: what its bundle.json says.
    """

    def __init__(self, description: Description, run: Callable[[Tensor], Answers]) -> None:
        self.description = description
        self._run = run

    @property
    def task(self) -> Task:
        """The labels, and the clips that the network reads."""
        return self.description.task

    @cached_property
    def cost(self) -> ClipCost:
        """The multiply-adds of a clip, by its active bins."""
        return self.description.cost()

    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Answer:
        """Run clips of the shape that the network was exported for, from any device.

        Raises:
            InputError: clips of another shape or type, or none.
        """
        expected = self.task.clip_shape
        if clips.dim() != 5 or tuple(clips.shape[1:]) != expected or not len(clips) or clips.dtype != torch.float32:
            shape = " x ".join(map(str, expected))
            raise InputError(
                f"this bundle takes float32 clips N x {shape}, got {clips.dtype} of shape {list(clips.shape)}; a "
                "network is exported for the one shape of clip that its checkpoint names"
            )
        return Answer(*self._run(clips))

    def predict(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        num_clips: int = 1,
        num_crops: int = 1,
        settled: float | None = None,
        batch_size: int = 8,
        num_workers: int = 0,
        on_error: Callable[[Path, VideoError], None] | None = None,
    ) -> Iterator[Prediction]:
        """Predict the class of each video, as `atfr.evaluate.predict.predict` does with a network."""
        views = Views([Path(path) for path in paths], self.task.spec, ViewSpec(num_clips, num_crops, settled))
        check_batches(batch_size, num_workers)
        return predictions(BundleRunner(self), views, self.task.labels, batch_size, num_workers, on_error)


class BundleRunner:
    """Runs a bundle for predictions and tests."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.cost = bundle.cost
        self.device = torch.device("cpu")

    def __call__(self, clips: Float[Tensor, "N C T H W"]) -> Pass:
        """Run clips, and say what came out and what it took."""
        start_s = time.perf_counter()
        answer = self.bundle(clips)
        return passed(answer.logits, answer.trace, self.cost, time.perf_counter() - start_s)


def load_bundle(
    folder: str | os.PathLike[str],
    *,
    threads: int | None = None,
    precision: Precision = "float32",
    specialize: bool = False,
) -> Bundle:
    """Read a bundle that `export_bundle` wrote. Its files are data: no code of theirs is run.

    Args:
        folder: the bundle.
        threads: of the runtime, for one clip; by default as many as PyTorch would use. PyTorch's are not changed.
        precision: "bfloat16" computes in it, OpenVINO where the CPU can; it moves logits, and may move active bins. Not
            in ONNX Runtime.
        specialize: compile the stages behind SGS for each number of maps that comes (OpenVINO): that takes half a
            second and memory for the weights each time, and makes these stages a sixth faster. For what runs long.

    Raises:
        BundleError: there is no bundle, it is damaged, or its runtime is not installed or cannot read it.

    Examples:
        >>> bundle = load_bundle("x3d_s.bundle")  # doctest: +SKIP
        >>> answer = bundle(clips)  # doctest: +SKIP
        >>> bundle.cost.of(answer.trace)  # doctest: +SKIP
        [769893296]
        >>> next(bundle.predict(["video.mp4"])).top(5)  # doctest: +SKIP
    """
    folder = Path(folder)
    threads = torch.get_num_threads() if threads is None else at_least_one("threads", threads)
    description = Description.read(folder)
    return Bundle(description, runner(description, folder, threads, precision, specialize))


def runner(
    description: Description, folder: Path, threads: int, precision: Precision = "float32", specialize: bool = False
) -> Callable[[Tensor], Answers]:
    """Make ready what runs the files of a bundle."""
    one_of("precision", precision, get_args(Precision))
    if specialize and description.runtime != "openvino":
        raise BundleError(f"specialize=True is for bundles of openvino, this one is of {description.runtime}")
    if precision != "float32" and description.runtime == "onnx":
        raise BundleError("a bundle of onnx computes in float32: export one of openvino or torch for bfloat16")
    if description.runtime == "torch":
        return Eager(prepared(from_pretrained(folder), description.task.clip_shape, precision).model)
    engine = ENGINES[description.runtime]
    try:
        if not description.sites:
            return StaticGraph(engine(folder / NETWORK, threads, precision))
        early = engine(folder / EARLY, threads, precision)
        of_late = partial(OpenVINO, specialize=True) if specialize else engine
        return AdaptedGraphs(early, of_late(folder / LATE, threads, precision), description.sites)
    except (RuntimeError, OSError) as error:
        raise BundleError(
            f"{description.runtime} cannot read the bundle '{folder}', which {description.versions} wrote: "
            f"{' '.join(str(error).split())[-300:]}"
        ) from error
