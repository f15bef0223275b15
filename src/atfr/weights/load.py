"""load_weights: read the checkpoints that people have, of other libraries too, into a network that exists already.

A file is opened without running code from it (torch's ``weights_only``, or safetensors), its names are translated
(`atfr.weights.names`), and everything is compared before the first weight is copied.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from atfr.adapt.trace import CHILD
from atfr.errors import CheckpointError, InputError
from atfr.weights import checkpoint
from atfr.weights.names import translate

KEYS = ("model_state", "state_dict", "model_state_dict", "model", "module")
"""Under which files hold a state dict: the first is PyTorchVideo's and PySlowFast's, the second Lightning's, the last
DeepSpeed's."""

REMEDY = "if you trust the file, open it with torch.load(FILE, weights_only=False) and torch.save its state dict alone"


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; names are those of the network, of `unexpected` those of the file.

    Attributes:
        source: What the file was: PySlowFast, PyTorchVideo, Lightning, torch, safetensors or atfr.
        loaded: How many tensors of the network were set from the file.
        reinitialised: The classifier's, where the file has another number of classes: new random weights.
        new: Those of SGS layers, which the file does not know; they stay as they were.
        missing: Not in the file; they stay as they were.
        unexpected: In the file, but not in the network.
        misshapen: Of another shape, or whole numbers in place of floats, in the file; they stay as they were.
        folded: Batch norms of the file that the network does not have and that went into their neighbours.
    """

    source: str
    loaded: int
    reinitialised: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """The tensors of a file, under the names they have there, what the file was, and frames of a clip if it says so."""

    source: str
    tensors: dict[str, Tensor]
    frames: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What would be loaded, and the report on it."""

    tensors: dict[str, Tensor]
    report: LoadReport
    num_classes: int | None
    """Classes of the file's classifier, where there is one that fits but for their number."""


def load_weights(model: nn.Module, path: str | Path, strict: bool = True, prefix: str | None = None) -> LoadReport:
    """Copy the weights of a file into a network, in place; nothing is copied unless all is well.

    The file may be of PyTorchVideo's or torchvision's zoo, of PySlowFast, Lightning, DeepSpeed, DistributedDataParallel
    or safetensors, a plain state dict, or a checkpoint folder of atfr; names of PySlowFast and prefixes of wrappers are
    translated. No code in it is run. The network may be adapted already, whether the file knows of SGS or not. Where
    the file has another number of classes, the classifier gets new weights. Types and devices stay the network's.

    Args:
        model: A network of atfr, or any other whose names are those of the file.
        path: The file or folder; it is not fetched from anywhere.
        strict: Refuse a file that lacks a tensor, has one too many, or one of another shape. Otherwise these are listed
            in the report, and what fits is loaded.
        prefix: Take only what is below this name, where a file has several networks, or other things beside one: what
            the names begin with, as "ema_model", or the entry of the file that holds them, as "model_ema".

    Raises:
        CheckpointError: The file cannot be read without running code from it, or does not fit the network.

    Examples:
        >>> import atfr, tempfile
        >>> model = atfr.create_model("x3d_xs", num_classes=10)
        >>> with tempfile.NamedTemporaryFile(suffix=".pyth") as file:
        ...     torch.save({"model_state": model.state_dict()}, file.name)
        ...     report = load_weights(model, file.name)
        >>> report.source, report.missing
        ('PyTorchVideo', ())
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"load_weights takes a network and a path, got {type(model).__name__}; see atfr.create_model")
    if any(tensor.is_meta for tensor in model.state_dict().values() if isinstance(tensor, Tensor)):
        raise InputError(f"{type(model).__name__} is on the meta device and holds no weights; make it on another")
    weights = read(Path(path), prefix)
    found = compare(weights, model)
    check(found.report, model, path, strict)
    checkpoint.check_finite(found.tensors, Path(path))
    model.load_state_dict(found.tensors, strict=False)
    with torch.no_grad():
        for name in found.report.reinitialised:
            parameter = model.get_parameter(name)
            nn.init.normal_(parameter, std=0.01) if parameter.ndim > 1 else nn.init.zeros_(parameter)
    return found.report


def read(path: Path, prefix: str | None = None) -> Weights:
    """The tensors of a file or folder, or those below a prefix, on the CPU; they may share the file's pages.

    Raises:
        CheckpointError: There is no such file, it is damaged, holds no tensors (below the prefix), or more than can be
            read safely.
    """
    weights = read_all(path, prefix)
    if prefix is None:
        return weights
    below = f"{prefix.removesuffix('.')}."
    tensors = {name.removeprefix(below): tensor for name, tensor in weights.tensors.items() if name.startswith(below)}
    if not tensors:
        firsts = ", ".join([*dict.fromkeys(name.partition(".")[0] for name in weights.tensors)][:8])
        raise CheckpointError(f"'{path}' has no tensor below the prefix {below!r}; its names begin with {firsts}")
    return replace(weights, tensors=tensors)


def read_all(path: Path, entry: str | None = None) -> Weights:
    """The tensors of a file or a checkpoint folder; of a file with such an entry, those in it."""
    if path.is_dir():
        return Weights("atfr", checkpoint.read_weights(checkpoint.locate(path)[1]))
    if not path.is_file():
        raise CheckpointError(f"expected a file of weights or a checkpoint folder, there is no '{path}'")
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise CheckpointError(f"'{path}' cannot be read: {error.strerror}") from error
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:  # the length of the header, then its JSON
        return Weights("safetensors", checkpoint.read_weights(path))
    if head.startswith(b"\x80") and b"blobs" in head:
        raise CheckpointError(
            f"'{path}' is a pickle of Caffe2, as PySlowFast's .pkl files are, and is not opened; let PySlowFast load it"
            " (TEST.CHECKPOINT_TYPE caffe2), and torch.save its model's state_dict()"
        )
    if not head.startswith((b"PK", b"\x80")):
        raise CheckpointError(
            f"'{path}' is no file of weights: expected one of torch.save or safetensors, it begins with {head[:24]!r};"
            " was it downloaded whole?"
        )
    return state_dict_in(read_torch(path), path, entry)


def read_torch(path: Path) -> Any:
    """The content of a file of torch.save, of any age, as far as it is tensors, numbers, strings and containers.

    Raises:
        CheckpointError: It holds other objects, which only running code could make, or it is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on old formats
            # Mapped, a training checkpoint's optimiser state is never read.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' holds more than tensors ({foreign_objects(path, error)}), which only code from the file could"
            f" make, and is not opened; {REMEDY}"
        ) from error
    except Exception as error:  # damage comes as RuntimeError, EOFError, KeyError, ...
        reason = checkpoint.first_line(error)
        if "TorchScript" in reason:
            raise CheckpointError(f"'{path}' is a TorchScript program, which is not opened; {REMEDY}") from error
        raise CheckpointError(f"'{path}' is damaged or no file of torch.save: {reason.split('. ')[0][:200]}") from error


def foreign_objects(path: Path, error: Exception) -> str:
    """The classes and functions that a file of torch.save asks for, as far as that can be told without running them."""
    try:
        names = get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an old format
        names = re.findall(r"GLOBAL (\S+)", str(error))
    return ", ".join(names[:4]) or "objects of Python"


def state_dict_in(content: Any, path: Path, entry: str | None) -> Weights:
    """Find the state dict in what a file holds; that of the entry, where there is one, with its name before each.

    Raises:
        CheckpointError: There is none.
    """
    source, found = "torch", content
    if isinstance(content, Mapping):
        key = next((key for key in (entry, *KEYS) if isinstance(content.get(key), Mapping)), None)
        found = content if key is None else content[key]
        if key is not None and key == entry:
            found = {f"{key}.{name}": value for name, value in found.items()}
        if key == "model_state":
            source = "PyTorchVideo"
        elif "pytorch-lightning_version" in content:
            source = "Lightning"
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"'{path}' holds no state dict but {type(found).__name__}; {REMEDY}")
    others = [str(name) for name, value in found.items() if not (isinstance(name, str) and holds_numbers(value))]
    if others:
        raise CheckpointError(
            f"'{path}' holds no state dict: {len(others)} of {len(found)} entries are no plain tensors"
            f" ({', '.join(others[:6])}); expected one as it is, or under {', '.join(KEYS)}, or under the"
            " entry that prefix='NAME' (--prefix NAME) names"
        )
    return Weights(source, dict(found), frames_in(content))


def frames_in(content: Mapping[str, Any]) -> int | None:
    """The frames of a clip by the configuration that PySlowFast writes into its files, as YAML."""
    config = content.get("cfg")
    line = re.search(r"^\s*NUM_FRAMES: (\d+)$", config, re.MULTILINE) if isinstance(config, str) else None
    return int(line[1]) if line else None


def holds_numbers(value: Any) -> bool:
    """Whether a value is a tensor that can be copied from: neither sparse nor without content."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def compare(weights: Weights, model: nn.Module) -> Comparison:
    """Say which tensors of a file go where in a network, without touching it.

    Raises:
        CheckpointError: The file's names cannot be translated.
    """
    expected = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    translation = translate(weights.tensors, expected)
    tensors = translation.tensors
    new = new_tensors(model, expected, tensors)
    misfits = [name for name in expected if name in tensors and form(name, tensors[name]) != form(name, expected[name])]
    num_classes, reinitialised = None, []
    head = [f"{last_linear(model)}.{name}" for name in ("weight", "bias")]
    weight, own = tensors.get(head[0]), expected.get(head[0])
    if weight is not None and own is not None and weight.shape[1:] == own.shape[1:]:
        num_classes = len(weight)
        reinitialised = [name for name in head if name in expected and len(weight) != len(own)]
    skipped = {*misfits, *reinitialised}
    fitting = {name: tensors[name] for name in expected if name in tensors and name not in skipped}
    known = {*tensors, *new, *reinitialised}
    report = LoadReport(
        source="PySlowFast" if translation.pyslowfast else weights.source,
        loaded=len(fitting),
        reinitialised=tuple(reinitialised),
        new=tuple(new),
        missing=tuple(name for name in expected if name not in known),
        unexpected=tuple(name for name in tensors if name not in expected),
        misshapen=tuple(name for name in misfits if name not in reinitialised),
        folded=translation.folded,
    )
    return Comparison(fitting, report, num_classes)


def new_tensors(model: nn.Module, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the SGS layers of which the file has nothing."""
    prefixes = [f"{path}." for path, _ in model.named_modules() if path.split(".")[-1] == CHILD]
    unknown = [prefix for prefix in prefixes if not any(name.startswith(prefix) for name in tensors)]
    return [name for name in expected if name.startswith(tuple(unknown))]


def last_linear(model: nn.Module) -> str | None:
    """The path of the classifier: the last linear layer, or 1 x 1 x 1 convolution with bias, but for those of SGS."""
    for path, module in reversed([*model.named_modules()]):
        pointwise = isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1) and module.bias is not None
        if (isinstance(module, nn.Linear) or pointwise) and CHILD not in path.split("."):
            return path
    return None


def troubles(report: LoadReport) -> list[str]:
    """What keeps a file from fitting a network, as parts of a message."""
    # Files from before torch 0.4.1 do not count steps, and nothing depends on them.
    missing = [name for name in report.missing if not name.endswith("num_batches_tracked")]
    kinds = {"missing": missing, "unexpected": report.unexpected, "of another shape": report.misshapen}
    return checkpoint.listed(kinds)


def check(report: LoadReport, model: nn.Module, path: str | Path, strict: bool) -> None:
    """Refuse a file that does not fit.

    Raises:
        CheckpointError: Something is missing, superfluous or of another shape, or nothing fits at all.
    """
    found = troubles(report)
    if not found or (not strict and report.loaded):
        return
    if any(f".{CHILD}." in name for name in report.unexpected):
        remedy = "the file is of an adapted network: call atfr.adapt_ on the network first"
    elif not report.loaded:
        remedy = (
            "nothing in it fits: it is of another network, or has several, of which prefix='NAME' (--prefix NAME) "
            "chooses one by what its names begin with"
        )
    else:
        remedy = (
            "make the network the file was trained as, or load what fits: atfr.load_weights(..., strict=False) or "
            "`atfr convert --strict false`"
        )
    config = getattr(model, "config", None)
    name = config["model"] if isinstance(config, dict) and "model" in config else type(model).__name__
    raise CheckpointError(f"'{path}' ({report.source}) does not fit {name}: {'; '.join(found)}; {remedy}")


def form(name: str, tensor: Tensor) -> tuple[bool, torch.Size]:
    """What two tensors must have in common: the shape, and whether they are floats (a halved counter may be)."""
    return tensor.is_floating_point() and not name.endswith("num_batches_tracked"), tensor.shape
