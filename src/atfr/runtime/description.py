"""bundle.json: what is in a bundle, and that it is whole."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from atfr.adapt.cost import ClipCost, clip_cost
from atfr.adapt.surgery import put_samplers_
from atfr.errors import BundleError, InputError
from atfr.evaluate.task import Task
from atfr.files import read_json, sha256_of
from atfr.models import VideoModel, create_model

Runtime = Literal["openvino", "onnx", "torch"]
BUNDLE = "bundle.json"
FORMAT = 1


@dataclass(frozen=True)
class Description:
    """The content of bundle.json.

    Attributes:
        runtime: what runs the files.
        network: how to make the network: its model, arguments and SGS, as in a checkpoint's config.json.
        task: labels, and the clip: frames, stride, size, normalisation.
        sites: the sites of SGS, in the order of the graphs' arguments; empty for a static network.
        multiply_adds: of a clip without SGS ("static"), and by its active bins, where there is one site.
        logits_within: by how much the logits of the clips tried differed from PyTorch's, relative to the largest.
        versions: of atfr and of what wrote the files.
        files: the SHA-256 of each file.
    """

    runtime: Runtime
    network: dict[str, Any]
    task: Task
    sites: Sequence[str]
    multiply_adds: dict[str, int]
    logits_within: float
    versions: dict[str, str]
    files: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Turn the description into plain JSON values."""
        return {"format": FORMAT, **asdict(self), "task": self.task.to_dict()}

    def write(self, folder: Path) -> None:
        """Write bundle.json."""
        (folder / BUNDLE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Description":
        """Read bundle.json and hold the files against it.

        Raises:
            BundleError: there is no bundle, it is damaged, or another version of atfr wrote it.
        """
        path = folder / BUNDLE
        if not path.is_file():
            there = "no such folder" if not folder.is_dir() else f"it has no {BUNDLE}"
            raise BundleError(f"expected a bundle that `atfr export` wrote, got '{folder}' ({there})")
        try:
            values = read_json(path)
            version = values.pop("format")
            if version == FORMAT:
                description = cls(**values | {"task": Task.from_dict(values["task"])})
                description._check()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:  # InputError is a ValueError
            raise BundleError(
                f"'{path}' is damaged ({type(error).__name__}: {error}); export the network again"
            ) from error
        if version != FORMAT:
            raise BundleError(
                f"'{path}' is of format {version!r}, this atfr reads format {FORMAT}: export the network again"
            )
        for name, expected in description.files.items():
            if not (folder / name).is_file() or sha256_of(folder / name) != expected:
                state = "damaged" if (folder / name).is_file() else "missing"
                raise BundleError(f"'{folder / name}' is {state}: it is not the file that {BUNDLE} names; export again")
        return description

    def _check(self) -> None:
        """Raise an InputError or a TypeError where a value is of another form."""
        if self.runtime not in get_args(Runtime):
            raise InputError(f"runtime must be one of {', '.join(get_args(Runtime))}, got {self.runtime!r}")
        if not self.files or not all(re.fullmatch(r"[\w-]+(\.\w+)+", name) for name in self.files):
            raise InputError(f"files must name files of the folder, got {list(self.files)}")
        if not isinstance(self.sites, list | tuple) or not all(isinstance(site, str) for site in self.sites):
            raise InputError(f"sites must be a list of names, got {self.sites!r}")
        if not {"model", "arguments", "sgs"} <= self.network.keys():
            raise InputError("network must have model, arguments and sgs")
        if len(self.sites) <= 1:
            self.cost()

    def cost(self) -> ClipCost:
        """Return the multiply-adds of a clip; those by the active bins of several sites are counted on the way."""
        if len(self.sites) > 1:
            return clip_cost(make(self.network), self.task.clip_shape)
        counts = {kept: int(count) for kept, count in self.multiply_adds.items()}
        static = counts.pop("static")
        return ClipCost(static, {int(kept): count for kept, count in counts.items()}, tuple(self.sites))


def make(network: Mapping[str, Any]) -> VideoModel:
    """Make a network by its description, without numbers."""
    with torch.device("meta"):
        model = create_model(network["model"], **network["arguments"])
        if network["sgs"] is not None:
            put_samplers_(model, **network["sgs"])
    return model.eval()


def multiply_adds(cost: ClipCost) -> dict[str, int]:
    """Return a cost table as plain JSON values; with several sites without the numbers by active bins."""
    by_active_bins: Mapping[Any, int] = cost.adaptive if len(cost.sites) == 1 else {}
    return {"static": cost.static, **{str(kept): count for kept, count in by_active_bins.items()}}
