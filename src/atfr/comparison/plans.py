"""Which networks a comparison has: one base, with one sampler or none, at several numbers of frames kept.

static                               all frames
fewer_frames_A, change_A             A frames at the input: evenly spaced; where the clip changes
uniform_maps_A, change_maps_A, sgs_A the same share of the maps behind a stage: evenly spaced, by change, by SGS
fewer_views_V, until_settled         all frames, but fewer views of each video: V; until its class is settled
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from atfr.adapt import adapt_
from atfr.adapt.cost import clip_cost
from atfr.adapt.trace import INPUT, site_names
from atfr.errors import InputError
from atfr.measure.saving import maps_that_come
from atfr.models import VideoModel
from atfr.train.recipe import Recipe
from atfr.video.spec import ViewSpec
from atfr.words import counted

STATIC, FEWER_FRAMES, CHANGE = "static", "fewer_frames", "change"
UNIFORM_MAPS, CHANGE_MAPS, SGS = "uniform_maps", "change_maps", "sgs"
FEWER_VIEWS, UNTIL_SETTLED = "fewer_views", "until_settled"
KINDS = (STATIC, FEWER_VIEWS, UNTIL_SETTLED, FEWER_FRAMES, CHANGE, UNIFORM_MAPS, CHANGE_MAPS, SGS)
ADAPTIVE = (CHANGE, CHANGE_MAPS, SGS, UNTIL_SETTLED)
SHARES = (1 / 8, 1 / 4, 1 / 2)
"""Of the frames of a clip, which are kept by default."""

SETTLED_AFTER = 0.3
"""Of its views a video's class is settled, as far as anybody knows before it is tried: for the time left alone."""

ONE_VIEW = ViewSpec()

LEAST = 3
"""Without static, fewer frames and change there is nothing to compare."""


@dataclass(frozen=True)
class Plan:
    """A network to make of the base."""

    name: str
    kind: str  # what chooses, and where; all of a kind are trained at one learning rate
    sampler: Mapping[str, Any] | None = None  # the arguments of `adapt_`; None: there is no sampler
    kept: int = 0  # frames or maps that a clip keeps at most, or on average; of fewer views, how many
    of: int = 0  # frames or maps that there are
    share: float = 1.0  # of the base's multiply-adds, where a clip keeps as many, or a video has as many views
    gflops: float = 0.0  # the same in multiply-adds / 1e9
    views: ViewSpec | None = None  # of a video, where they are not those of all others

    @property
    def group(self) -> tuple[str, int]:
        """What networks have in common that are held against each other: place and number."""
        if self.views is not None:
            return ("views", 0)
        return ("" if self.sampler is None else self.sampler["after"], self.kept)

    @property
    def words(self) -> str:
        """What it takes, for a reader."""
        if self.views is not None:
            views = f"{counted(self.kept, 'view')} of each video" if self.kept else "views until settled"
            return f"all {self.of} frames, {views}"
        if self.sampler is None:
            return f"all {self.of} frames"
        how = {CHANGE: "by change", CHANGE_MAPS: "by change", SGS: "by SGS"}.get(self.kind, "evenly spaced")
        where = "frames" if self.sampler["after"] == INPUT else f"maps behind {self.sampler['after']}"
        return f"{self.kept} of {self.of} {where}, {how}"


@dataclass(frozen=True)
class Place:
    """Where samplers stand, tried out in a copy of a base with evenly spaced maps there."""

    after: str
    network: VideoModel
    clip_shape: tuple[int, ...]
    maps: tuple[int, ...]  # how many maps of a clip come there; of several pathways, each

    def cost(self, kept: tuple[int, ...]) -> tuple[float, float]:
        """Return the multiply-adds / 1e9 of a clip that keeps so many maps, and of one that keeps all."""
        for layer, count in zip(site_names(self.network).values(), kept, strict=True):
            layer.active_bins = count  # type: ignore[assignment]
        cost = clip_cost(self.network, self.clip_shape)
        return cost.adaptive[kept if len(kept) > 1 else kept[0]] / 1e9, cost.static / 1e9


def place_of(base: VideoModel, after: str, clip_shape: Sequence[int]) -> Place:
    """Put a sampler at a place of a copy of the base."""
    network = copy.deepcopy(base)
    adapt_(network, after, sampler="uniform", active_bins=1)
    return Place(after, network, tuple(clip_shape), tuple(maps_that_come(network, clip_shape).values()))


def plans_for(
    base: VideoModel,
    clip_shape: Sequence[int],
    frames_kept: Sequence[int] | None,
    after: str,
    recipe: Recipe,
    views: ViewSpec = ONE_VIEW,
) -> list[Plan]:
    """Return all networks, those first without which the comparison says least.

    Args:
        frames_kept: numbers of frames, of those that a clip has; by default an eighth, a quarter and a half.
        after: the stage that maps are taken behind; "none": only frames are.

    Raises:
        InputError: a number of frames is out of range, or there is no such stage.
    """
    frames = clip_shape[1]
    asked = [max(1, round(share * frames)) for share in SHARES] if frames_kept is None else frames_kept
    wanted = sorted(set(asked))
    if not wanted or not 1 <= wanted[0] <= wanted[-1] < frames:
        raise InputError(
            f"frames_kept must be numbers of frames from 1 to {frames - 1}, fewer than a clip's {frames}, got {asked}"
        )
    middle = wanted[len(wanted) // 2] if len(wanted) != 2 else wanted[0]
    in_order = [middle, *(kept for kept in wanted if kept != middle)]
    at_input = place_of(base, INPUT, clip_shape)
    plans = [Plan(STATIC, STATIC, of=frames)]
    for kept in in_order:
        plans += at(at_input, (kept,), {FEWER_FRAMES: {"sampler": "uniform"}, CHANGE: {"sampler": "change"}})
    if views.settled is not None:
        until = Plan(UNTIL_SETTLED, UNTIL_SETTLED, of=frames, share=SETTLED_AFTER, views=views)
        plans[LEAST:LEAST] = [until, fewer_views(1, views, frames)]
    if after == "none":
        return plans
    behind = place_of(base, after, clip_shape)
    of_sgs = {"kernel": recipe.kernel, "order": recipe.order, "edge_maps": "found"}
    kinds = {UNIFORM_MAPS: {"sampler": "uniform"}, CHANGE_MAPS: {"sampler": "change"}, SGS: of_sgs}
    for kept in in_order:
        plans += at(behind, tuple(max(1, round(kept * maps / frames)) for maps in behind.maps), kinds)
    return list({plan.name: plan for plan in plans}.values())


def fewer_views(number: float, views: ViewSpec, frames: int) -> Plan:
    """Return the plan of so many views of each video, rounded up, the centre crops of clips spread over it."""
    count = math.ceil(number)
    name = f"{FEWER_VIEWS}_{count}"
    return Plan(name, FEWER_VIEWS, kept=count, of=frames, share=count / views.total, views=ViewSpec(count))


def at(place: Place, kept: tuple[int, ...], kinds: Mapping[str, Mapping[str, Any]]) -> list[Plan]:
    """Return the plans of some kinds that keep so many maps at a place."""
    most, plans, (gflops, static) = max(kept), [], place.cost(kept)
    for kind, options in kinds.items():
        number = {"active_bins": list(kept)} if options.get("sampler") == "uniform" else {"num_bins": most}
        sampler = {"after": place.after, **options, **number}
        plans.append(Plan(f"{kind}_{most}", kind, sampler, most, max(place.maps), gflops / static, gflops))
    return plans
