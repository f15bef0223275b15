"""Views that stop: the views of a video are computed one after the other, until its class is settled.

N videos, V views in the order in which they are computed, K classes.

A class is settled by the sum over the views so far of its log-probability's lead over the next best class, as in the
sequential test of Wald (1945); what is answered stays the class of the best mean score, as of all views.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float64
from torch import Tensor

from atfr.evaluate.forward import Pass, Runner
from atfr.evaluate.result import LEAST
from atfr.video.transforms import VideoViews

OPEN_BYTES = 2**30
"""Of the pictures of videos whose views are being computed, beyond which no further video is taken in."""


@cache
def view_order(num_clips: int, num_crops: int) -> tuple[int, ...]:
    """Return the views in the order in which they are computed, as they spread over a video fastest.

    The middle clip is first, then always the clip farthest from all before. Crops take turns, the centre first, so that
    neither clips nor crops come up again before all others have.
    """
    left = set(range(num_clips))
    clips = [num_clips // 2]
    far = dict.fromkeys(range(num_clips), num_clips)
    while left := left - {clips[-1]}:
        far = {clip: min(far[clip], abs(clip - clips[-1])) for clip in left}
        clips.append(max(left, key=lambda one: (far[one], -one)))
    crops = [1, 0, 2] if num_crops == 3 else [0]
    return tuple(
        clip * num_crops + crops[(turn + number) % num_crops]
        for turn in range(num_crops)
        for number, clip in enumerate(clips)
    )


def lead(scores: Float64[Tensor, "N V K"]) -> Float64[Tensor, "N V"]:
    """Return how far the answer of the first 1, 2, ... V views leads, in sums of log-probabilities (nats).

    Negative where another class has the larger sum; infinite with one class.
    """
    answer = scores.cumsum(1).argmax(2, keepdim=True)
    sums = scores.clamp_min(LEAST).log().cumsum(1)
    return sums.gather(2, answer)[..., 0] - sums.scatter(2, answer, -torch.inf).amax(2)


@dataclass
class _Video:
    """A video whose views are being computed: those left, none once it is settled, and what came of the others."""

    views: VideoViews | None
    left: list[int]
    found: Pass | None = None

    def take(self, found: Pass, settled: float) -> None:
        """Take what came of the next view; where that settles it, pictures are let go."""
        self.left.pop(0)
        self.found = found if self.found is None else Pass.joined([self.found, found])
        if not self.left or float(lead(self.found.scores[None])[0, -1]) >= settled:
            self.views, self.left = None, []


def run_until_settled(
    forward: Runner, videos: Iterable[VideoViews | None], order: Sequence[int], batch_size: int, settled: float
) -> Iterator[Pass | None]:
    """Run the views of each video, in an order, until its class is settled; and yield what came of them, in turn.

    A batch has the next view of each of several videos; in the place of one that is settled comes the next video.

    Args:
        videos: the views of each; None where there are none, which is yielded as it came.
        settled: the lead (`lead`) with which a class is.
    """
    coming, waiting = iter(videos), deque[_Video]()
    while True:
        running = [video for video in waiting if video.left]
        held = sum(video.views.images.nbytes for video in running if video.views)
        while len(running) < batch_size and (not running or held < OPEN_BYTES):
            try:
                views = next(coming)
            except StopIteration:
                break
            if views is None:
                waiting.append(_Video(None, []))
                if not running:
                    break  # nothing holds it up
                continue
            waiting.append(_Video(views.to(forward.device), list(order)))
            running.append(waiting[-1])
            held += views.images.nbytes
        if running:
            found = forward(torch.stack([video.views[video.left[0]] for video in running if video.views]))
            for number, video in enumerate(running):
                video.take(found.of(slice(number, number + 1)), settled)
        elif not waiting:
            return
        while waiting and not waiting[0].left:
            yield waiting.popleft().found
