"""The files of a checkpoint folder: config.json and model.safetensors, written whole or not at all, checked when read.

config.json is ``{"model": name, "arguments": {...}, "sgs": {...} or null}``. Only safetensors are read: no
pickle, no code.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import Tensor

from atfr.errors import CheckpointError
from atfr.files import read_json
from atfr.words import first_line

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


def locate(source: str | Path, **hub_options: Any) -> tuple[Path, Path]:
    """The paths of config.json and model.safetensors of a checkpoint.

    A folder is read where it is, without the network. A string ``owner/name`` that is no folder is fetched from the
    Hugging Face Hub; a `Path` never is.

    Args:
        source: A checkpoint folder, or a Hub id.
        hub_options: Passed to `huggingface_hub.hf_hub_download` (``revision``, ``token``, ``cache_dir``, ...).

    Raises:
        CheckpointError: There is no such folder, a file of it is missing, or the Hub cannot deliver.
    """
    folder = Path(source)
    if not folder.exists() and isinstance(source, str) and _HUB_ID.fullmatch(source):
        try:
            config, weights = (Path(hf_hub_download(source, name, **hub_options)) for name in (CONFIG, WEIGHTS))
        except Exception as error:  # the Hub client's errors have no common base
            raise CheckpointError(
                f"expected a checkpoint folder or a model on the Hugging Face Hub, got {source!r}: there is no such"
                f" folder, and the Hub answered: {first_line(error)}"
            ) from error
        return config, weights
    if not folder.is_dir():
        trouble = "a file" if folder.exists() else "no such folder"
        raise CheckpointError(
            f"expected a checkpoint folder with {CONFIG} and {WEIGHTS}, got {str(folder)!r} ({trouble});"
            " give the folder that save_pretrained or `atfr train` wrote"
        )
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            present = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise CheckpointError(
                f"{name} is missing in checkpoint folder {str(folder)!r} (it holds: {present}); a checkpoint is"
                f" {CONFIG} and {WEIGHTS}, and other weight files are not read: write it with save_pretrained"
            )
    return folder / CONFIG, folder / WEIGHTS


def read_config(path: Path) -> dict[str, Any]:
    """The content of config.json, with its form checked.

    Raises:
        CheckpointError: The file is not readable, or not of the form above.
    """
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {first_line(error)}; save the model again") from error
    well_formed = (
        isinstance(config, dict)
        and isinstance(config.get("model"), str)
        and isinstance(config.get("arguments"), dict)
        and isinstance(config.get("sgs"), dict | None)
    )
    if not well_formed:
        raise CheckpointError(
            f'{path} must hold {{"model": name, "arguments": {{...}}, "sgs": {{...}} or null}}, got'
            f" {json.dumps(config)[:200]}; was this folder written by atfr?"
        )
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU and in memory of their own.

    Raises:
        CheckpointError: The file is damaged or is no safetensors file.
    """
    try:
        # A copy, since tensors that share the file's pages would change, or crash, with the file.
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is damaged or no safetensors file: {first_line(error)}; other formats are not loaded, as they may"
            " run code: save the model again with save_pretrained"
        ) from error


def write(folder: Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write config.json and model.safetensors into a folder."""
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    # Not save_file, whose files only their owner may read.
    (folder / WEIGHTS).write_bytes(safetensors.torch.save(contiguous, metadata={"format": "pt"}))


def check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Refuse weights that do not fit a network's state dict.

    Raises:
        CheckpointError: A tensor is missing, superfluous, or of another shape or kind of number; the message
            lists the first few.
    """
    if troubles := misfits(weights, expected):
        raise CheckpointError(
            f"the tensors in {path} do not fit {name} as {CONFIG} describes it ({troubles}); the two files"
            " are not of one checkpoint, or the network was changed by hand before it was saved"
        )


def misfits(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return in a few words which tensors are missing, superfluous, or of another shape or kind of number."""
    others = [
        f"{key} is {_form(weights[key])} instead of {_form(expected[key])}"
        for key in expected
        if key in weights and _form(weights[key]) != _form(expected[key])
    ]
    missing = [key for key in expected if key not in weights]
    superfluous = [key for key in weights if key not in expected]
    return "; ".join(listed({"missing": missing, "superfluous": superfluous, "of another form": others}))


def listed(tensors: Mapping[str, Sequence[str]]) -> list[str]:
    """By kind, where there are any: how many tensors are of it, and the first few of their names."""
    return [
        f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for kind, names in tensors.items()
        if names
    ]


def check_finite(weights: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights with which every answer would be NaN.

    Raises:
        CheckpointError: A tensor holds NaN or infinity; the message names the first.
    """
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(
            f"{path} holds NaN or infinity in {len(bad)} of its {len(weights)} tensors, the first of them {bad[0]}: it"
            " was saved by a training that diverged, or is damaged; take an earlier checkpoint"
        )


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A scratch folder whose files move into ``folder`` when the block ends well, and vanish when it fails.

    The old config.json goes before the first new file comes and the new one comes last: a folder that has one is whole.
    """
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
            yield Path(scratch)
            new_files = sorted(Path(scratch).iterdir(), key=lambda path: path.name == CONFIG)
            (folder / CONFIG).unlink(missing_ok=True)
            for path in new_files:
                os.replace(path, folder / path.name)
    except BaseException:
        if not existed:  # it is ours, with what has moved into it
            shutil.rmtree(folder, ignore_errors=True)
        raise


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return what differs between two sets of nested settings: the name, as "clip.frames", and both values.

    Examples:
        >>> differences({"model": "x3d_s", "clip": {"frames": 13}}, {"model": "x3d_s", "clip": {"frames": 16}})
        [('clip.frames', 13, 16)]
    """
    one, other = _flat(first), _flat(second)
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    return [(name, one.get(name), other.get(name)) for name in names]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _form(tensor: Tensor) -> str:
    return f"{'float' if tensor.is_floating_point() else 'int'} {list(tensor.shape)}"
