"""quickstart: four networks of a comparison on generated videos, at one learning rate and one number of frames.

out/base, static, fewer_frames, adaptive, sgs/   checkpoint folders, for `atfr predict` and `atfr test`; all but the
                                                 base have a folder test/ with what their tests found, for `atfr report`
out/quickstart.json                              every figure, with its conditions
out/quickstart.png                               the same as a picture
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from atfr.checks import device_of
from atfr.comparison.figure import draw
from atfr.comparison.making import Ground, Row, Watch, new_base
from atfr.comparison.placement import Placement, placements
from atfr.comparison.plans import Plan
from atfr.data.dataset import ClipDataset
from atfr.data.records import VideoList
from atfr.evaluate.runs import Difference, paired_difference
from atfr.files import whole, write_json
from atfr.models import VideoModel
from atfr.train.recipe import Recipe
from atfr.words import counted

TUNE_LEARNING_RATE = 2 / 3
"""Of what comes from the base, as a share of the base's."""


@dataclass(frozen=True)
class Quickstart:
    """What a quickstart found."""

    rows: dict[str, Row]  # of each network, by its name
    over: dict[str, Difference]  # how much more often the adaptive network is right than each other, on the same videos
    placement: dict[str, Placement]  # where frames are kept, by network, in generated videos, whose truth is known
    conditions: dict[str, Any]  # what the figures depend on: videos, clips, training, machine and versions

    def to_dict(self) -> dict[str, Any]:
        """Turn the comparison into plain JSON values."""
        return {
            "conditions": self.conditions,
            "networks": {name: row.to_dict() for name, row in self.rows.items()},
            "adaptive_over": {name: asdict(difference) for name, difference in self.over.items()},
            "placement": {name: asdict(placement) for name, placement in self.placement.items()},
        }


def samplers(recipe: Recipe) -> dict[str, dict[str, Any] | None]:
    """Return the networks that are compared, each with the arguments of `adapt_` that make it of the static one."""
    kept = recipe.frames_kept
    return {
        "static": None,
        "fewer_frames": {"after": "input", "sampler": "uniform", "active_bins": kept},
        "adaptive": {"after": "input", "sampler": "change", "num_bins": kept},
        "sgs": {"kernel": recipe.kernel, "num_bins": recipe.num_bins, "order": recipe.order, "edge_maps": "found"},
    }


def quickstart(
    splits: Mapping[str, VideoList],
    recipe: Recipe,
    out: Path,
    *,
    epochs: int | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
    watch: Watch = lambda _: nullcontext(lambda *_: None),
) -> Quickstart:
    """Train, test and time networks on the same videos: with all frames, with fewer, with those that matter, with SGS.

    All start from the same base, and are fine-tuned for as long, on the same clips in the same order.

    Args:
        splits: the lists "train" and "test", and "trimmed" where there are such videos, from which the base learns.
        epochs: of the base; by default the recipe's, for so many videos.
    """
    base = new_base(recipe, len(splits["train"].labels), seed)
    spec = replace(recipe.clip, mean=base.mean, std=base.std)
    epochs = epochs or recipe.epochs(len(splits["train"]))
    tune_epochs, device = math.ceil(recipe.tune_share * epochs), device_of("device", "auto")
    ground = Ground(base, splits, spec, recipe, tune_epochs, seed, out, device, say, watch)
    origin = "ImageNet" if recipe.pretrained else "random"
    first = splits.get("trimmed", splits["train"])
    kind = "trimmed video" if "trimmed" in splits else "video"
    ground.train_base_(first, epochs, f" from {origin} weights", kind)
    clips = ClipDataset(splits["train"], spec, train=True, seed=seed + 1)
    networks: dict[str, VideoModel] = {}
    made: dict[str, Row] = {}
    for name, sampler in samplers(recipe).items():
        say(f"fine-tuning the {name} network: {counted(ground.epochs, 'epoch')}")
        networks[name], made[name] = ground.make(Plan(name, name, sampler), TUNE_LEARNING_RATE, clips)
    rows, timed_batch = ground.with_times(made, networks)
    adaptive = rows["adaptive"].test
    over = {name: paired_difference(adaptive, row.test) for name, row in rows.items() if name != "adaptive"}
    at_input = {name: networks[name].cpu() for name in ("fewer_frames", "adaptive")}
    found = ground.conditions(timed_batch) | {"base_epochs": epochs}
    comparison = Quickstart(rows, over, placements(at_input, splits["test"], spec), found)
    write_json(out / "quickstart.json", comparison.to_dict())
    with whole(out / "quickstart.png") as scratch:
        draw(comparison.to_dict(), scratch)
    return comparison
