"""Find out on videos when their views may stop: with which lead a class is settled (`atfr.evaluate.stopping`).

N videos, V views in the order in which they are computed, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from atfr.checks import in_range
from atfr.errors import InputError, VideoError
from atfr.evaluate.forward import prepared
from atfr.evaluate.predict import Views, check_batches, outcomes
from atfr.evaluate.stopping import lead, view_order
from atfr.evaluate.task import Task, check_classes
from atfr.models import VideoModel
from atfr.video.spec import ViewSpec

THRESHOLDS = 1000
"""That are tried, at most."""


def views_needed(leads: Float64[Tensor, "N V"], settled: float) -> Int64[Tensor, " N"]:
    """Return after how many views each video is settled, V where it never is."""
    done = leads >= settled
    done[:, -1] = True
    return done.int().argmax(1) + 1


@dataclass(frozen=True)
class Settling:
    """What stopping would have done to some videos whose views were all computed; shares of 1.

    Attributes:
        settled: the lead with which a class is settled; None where the views may not stop.
        videos: how many they were.
        labelled: whether their classes were known; otherwise the answer of all views counts as right.
        views: the mean number of views of a video, and `all_views` of them.
        right: the share told right by those views, and `all_right` by all.
        fewer: as many views for every video, the first of them: no fewer than the mean.
        fewer_right: the share told right by these.
        lost_at_most: on other videos like these, so many told right by all views are not by the stopped ones: upper
            limit at 95 % (Clopper and Pearson 1934). Those that only the stopped ones tell right are not set against
            it, as they are in `loss`.
    """

    settled: float | None
    videos: int
    labelled: bool
    views: float
    all_views: int
    right: float
    all_right: float
    fewer: int
    fewer_right: float
    lost_at_most: float


def settle(scores: Float64[Tensor, "N V K"], labels: Int64[Tensor, " N"] | None, loss: float) -> Settling:
    """Choose the lead with which a class is settled, and tell what stopping then would have done.

    Args:
        scores: softmax scores, views in the order in which they are computed.
        labels: the classes; None: what all views say is right.
        loss: the share of the videos that may be told wrong beyond those that all views tell wrong.

    Raises:
        InputError: no video, or a share out of range.
    """
    if not len(scores):
        raise InputError("at least one video is needed to find out when views may stop")
    from scipy.stats import binomtest

    answers = scores.cumsum(1).argmax(2)
    right = answers == (answers[:, -1] if labels is None else labels)[:, None]
    leads, (count, all_views) = lead(scores), right.shape
    settled = least_lead(leads, right, loss)
    views = views_needed(leads, settled if settled is not None else torch.inf)
    stopped, fewer = after(right, views), -int(-views.sum() // count)
    lost = int((right[:, -1] & ~stopped).sum())
    return Settling(
        settled,
        count,
        labels is not None,
        float(views.double().mean()),
        all_views,
        float(stopped.double().mean()),
        float(right[:, -1].double().mean()),
        fewer,
        float(right[:, fewer - 1].double().mean()),
        float(binomtest(lost, count, alternative="less").proportion_ci(0.95, "exact").high),
    )


def least_lead(leads: Float64[Tensor, "N V"], right: Bool[Tensor, "N V"], loss: float) -> float | None:
    """Return the least lead that loses no more accuracy than is wanted; nor do the larger ones that are tried.

    It lies half-way to the next lead that a video here has, so that none of them hangs on the last digit.

    Args:
        leads: after 1, 2, ... V views.
        right: whether these views tell the video right.
    """
    in_range("loss", loss, 0.0, 1.0)
    steps = torch.cat([leads.new_zeros(1), leads[leads.isfinite() & (leads > 0)].unique()])
    between = (steps[1:] + steps[:-1]) / 2
    tried = torch.linspace(len(between) - 1, 0, min(THRESHOLDS, len(between))).long()
    chosen, enough = None, int(right[:, -1].sum()) - loss * len(right) - 1e-9
    for least in between[tried].tolist():
        if int(after(right, views_needed(leads, least)).sum()) < enough:
            break
        chosen = least
    return chosen


@torch.inference_mode()
def settle_views(
    model: VideoModel,
    paths: Sequence[Path],
    labels: Sequence[int] | None,
    task: Task,
    view_spec: ViewSpec,
    loss: float,
    *,
    batch_size: int = 8,
    num_workers: int = 0,
    on_error: Callable[[Path, VideoError], None] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Settling:
    """Compute all views of some videos, and choose when the views of others like these may stop: see `settle`.

    The videos are such as the network has not learned from, and not those that it is tested on afterwards.

    Args:
        model: the network; it is left as it is.
        paths: the videos.
        labels: the class of each; None: what all its views say.
        task: the labels, and the clips the network reads.
        view_spec: the clips and crops of a video that are the most.
        loss: the share of the videos that may be told wrong beyond those that all views tell wrong.
        batch_size: views in one forward pass, at most.
        num_workers: processes that decode; 0 decodes in a thread.
        on_error: called for a file that does not decode, which is then passed over; by default it raises.
        progress: called with (videos done, videos in all).

    Raises:
        InputError: no video decodes, a single view, or an argument out of range.
        VideoError: a file does not decode, and there is no `on_error`.
        CheckpointError: the network has another number of classes than the task.
    """
    in_range("loss", loss, 0.0, 1.0)
    check_batches(batch_size, num_workers)
    check_classes(model, task)
    if view_spec.total == 1:
        raise InputError("a single view cannot stop earlier; give the most views that a video may take, as 10x3")
    order = view_order(view_spec.num_clips, view_spec.num_crops)
    forward = prepared(model, task.clip_shape)
    scores, places = [], []
    views = Views(paths, task.spec, replace(view_spec, settled=None))
    for number, (video, found) in enumerate(outcomes(forward, views, batch_size, num_workers)):
        if found is not None:
            scores.append(found.scores[list(order)])
            places.append(number)
        elif on_error is None:
            raise VideoError(video.error)
        else:
            on_error(video.path, VideoError(video.error))
        progress(number + 1, len(paths))
    if not scores:
        raise InputError("none of the videos decodes; at least one is needed to find out when views may stop")
    of_videos = None if labels is None else torch.tensor([labels[place] for place in places])
    return settle(torch.stack(scores), of_videos, loss)


def after(right: Bool[Tensor, "N V"], views: Int64[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Return whether the first so many views tell each video right."""
    return right.gather(1, views[:, None] - 1)[:, 0]
