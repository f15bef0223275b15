"""export: write a network as a bundle, tried before it is put in its place."""

import glob
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch

import atfr
from atfr.adapt import adaptation
from atfr.adapt.cost import clip_cost
from atfr.adapt.trace import record
from atfr.checks import one_of
from atfr.errors import BundleError, CheckpointError
from atfr.evaluate.forward import evaluating
from atfr.evaluate.task import Task, check_classes
from atfr.files import locked, sha256_of
from atfr.models import VideoModel
from atfr.runtime.bundle import ENGINES, Bundle, runner
from atfr.runtime.description import BUNDLE, Description, Runtime, multiply_adds
from atfr.runtime.engines import PACKAGES
from atfr.runtime.graphs import graphs

TOLERANCE = 1e-4
"""By how much logits may differ from PyTorch's, relative to the largest."""


def export_bundle(
    model: VideoModel, task: Task, folder: str | os.PathLike[str], runtime: Runtime = "openvino"
) -> Bundle:
    """Write a network as a bundle, and return the bundle as `load_bundle` does.

    The bundle is tried first: on a still clip and on one that changes, its logits are PyTorch's within 1e-4 of the
    largest. It is written whole or not at all; a bundle that was there is replaced, anything else is left alone.

    Args:
        model: a network on the CPU, in float32, static or adaptive.
        task: its labels, and the clips it reads: the graphs take clips of this one shape.
        folder: made, with its parents.
        runtime: "openvino" or "onnx", which need an extra each (`pip install 'atfr[openvino]'`), or "torch".

    Raises:
        BundleError: the network is not one of ours, the folder holds something else or cannot be written, or the
            runtime is not installed or computes something else than PyTorch.
        UnsupportedNetworkError: the network cannot be split at its SGS.
        CheckpointError: the network has another number of classes than the task.
    """
    one_of("runtime", runtime, get_args(Runtime))
    if not isinstance(model, VideoModel):
        raise BundleError(
            f"a bundle holds a network of atfr.create_model or atfr.from_pretrained, got {type(model).__name__}; "
            "others can be exported by torch.export, with one clip"
        )
    check_classes(model, task)
    if {(p.device.type, p.dtype) for p in model.parameters()} != {("cpu", torch.float32)}:
        raise BundleError("a network is exported on the CPU in float32: model.to('cpu', torch.float32)")
    folder = Path(folder)
    try:
        with replacing(folder) as scratch:
            cost = clip_cost(model, task.clip_shape)
            write_files(model, task, scratch, runtime)
            description = Description(
                runtime=runtime,
                network={**model.config, "sgs": adaptation(model)},
                task=task,
                sites=cost.sites,
                multiply_adds=multiply_adds(cost),
                logits_within=0.0,
                versions=versions(runtime),
                files={path.name: sha256_of(path) for path in sorted(scratch.iterdir())},
            )
            run = runner(description, scratch, torch.get_num_threads())
            bundle = Bundle(replace(description, logits_within=difference(model, Bundle(description, run))), run)
            bundle.description.write(scratch)
    except (OSError, CheckpointError) as error:
        raise BundleError(f"cannot write a bundle to '{folder}': {error}") from error
    return bundle


def write_files(model: VideoModel, task: Task, folder: Path, runtime: Runtime) -> None:
    """Write what the runtime reads.

    Raises:
        BundleError: an operation of the network is not one of the runtime's.
    """
    if runtime == "torch":
        model.save_pretrained(folder)
        return
    for stem, program in graphs(model, task.clip_shape).items():
        try:
            ENGINES[runtime].write(program, folder / stem)
        except (BundleError, OSError):
            raise
        except Exception as error:  # the runtimes' converters have no common base
            reason = " ".join(str(error).split())
            if "iostream" in reason:  # OpenVINO, of a file
                raise OSError(f"{reason}; is the disk full?") from error
            raise BundleError(
                f"{runtime} cannot take {model.config['model']} ({reason[-300:]}); with "
                "runtime='torch' it can be exported"
            ) from error


def difference(model: VideoModel, bundle: Bundle) -> float:
    """Return by how much a bundle's logits differ from PyTorch's, relative to the largest.

    Raises:
        BundleError: by more than the tolerance, or active bins differ.
    """
    clips = torch.rand(2, *bundle.task.clip_shape, generator=torch.Generator().manual_seed(0)) - 0.5
    clips[0] = clips[0, :, :1]
    with evaluating(model), torch.inference_mode(), record(model) as trace:
        logits = model(clips)
    answer = bundle(clips)
    off = float((answer.logits - logits).abs().max() / logits.abs().max())
    if not off <= TOLERANCE or answer.trace.kept_maps != trace.kept_maps:
        raise BundleError(
            f"the exported network does not do what {model.config['model']} does in PyTorch: logits of two clips are "
            f"off by {off:.2g} of the largest, active bins are {answer.trace.kept_maps} instead of {trace.kept_maps}; "
            f"try another runtime ({', '.join(get_args(Runtime))})"
        )
    return off


def versions(runtime: Runtime) -> dict[str, str]:
    """Return the versions of what wrote a bundle."""
    own = {"atfr": atfr.__version__, "torch": torch.__version__}
    return own | {package: importlib.metadata.version(package) for package in PACKAGES[runtime]}


def clear_leftovers(folder: Path) -> None:
    """Remove what exports into a folder that were killed left beside it, and put back the bundle that one had moved.

    Raises:
        BundleError: another export is at work.
    """
    for left in folder.parent.glob(f".{glob.escape(folder.name)}-????????"):
        try:
            with locked(left):
                if {path.name for path in left.iterdir()} <= {"new", "old"}:
                    if (left / "old").exists() and not folder.exists():
                        (left / "old").rename(folder)
                    shutil.rmtree(left)
        except BlockingIOError:
            raise BundleError(f"another export writes to '{folder}': wait for it, or give another folder") from None


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Give a new folder, which takes the place of a bundle, or of nothing, when the block ends well.

    Raises:
        BundleError: there is something there that is no bundle, or another export writes to it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(folder)
    free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if folder.is_symlink() or not (free or (folder / BUNDLE).is_file()):
        raise BundleError(f"'{folder}' exists and is no bundle: give a new folder, or the one of an older bundle")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch, locked(Path(scratch)):
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        yield new
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            old.rename(folder)
            raise
