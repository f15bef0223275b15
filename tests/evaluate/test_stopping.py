"""Views that stop: held against videos run one view at a time, and against a search by hand."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from atfr.adapt.cost import ClipCost
from atfr.errors import InputError
from atfr.evaluate.forward import Pass
from atfr.evaluate.settling import settle, views_needed
from atfr.evaluate.stopping import lead, run_until_settled, view_order
from atfr.video.spec import ClipSpec
from atfr.video.transforms import VideoViews

SPEC = ClipSpec(frames=2, stride=1, size=4, resize=4, jitter=(4, 4), mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize(("clips", "crops"), [(1, 1), (2, 1), (5, 3), (8, 3), (10, 1), (10, 3), (7, 1)])
def test_the_order_spreads(clips: int, crops: int) -> None:
    order = view_order(clips, crops)
    assert sorted(order) == list(range(clips * crops))
    assert order[0] == clips // 2 * crops + (crops == 3)  # the middle clip's centre
    turns = [order[start : start + clips] for start in range(0, len(order), clips)]
    assert all(sorted(view // crops for view in turn) == list(range(clips)) for turn in turns)
    for turn in turns:
        used = [view % crops for view in turn]
        assert max(map(used.count, range(crops))) - min(map(used.count, range(crops))) <= 1
    first = [view // crops for view in turns[0]]
    for number in range(1, clips):  # no clip is farther from those before than the next one
        far = {one: min(abs(one - other) for other in first[:number]) for one in first[number:]}
        assert far[first[number]] == max(far.values())


def lead_by_hand(views: list[list[float]]) -> float:
    classes = range(len(views[0]))
    means = [sum(view[k] for view in views) for k in classes]
    sums = [sum(math.log(max(view[k], 1e-12)) for view in views) for k in classes]
    answer = means.index(max(means))
    return sums[answer] - max(sums[k] for k in classes if k != answer)


def some_scores(videos: int, views: int, classes: int, seed: int) -> Tensor:
    rng = np.random.default_rng(seed)
    told = rng.integers(classes, size=(videos, 1, 1)) == np.arange(classes)
    clear = rng.uniform(-1, 3, size=(videos, 1, 1))
    logits = torch.from_numpy(rng.normal(size=(videos, views, classes)) + clear * told)
    return logits.softmax(2)


def test_the_lead_is_that_of_the_answer() -> None:
    scores = some_scores(20, 6, 4, seed=0)
    scores[3, 2] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    found = lead(scores)
    for video, number in itertools.product(range(20), range(1, 7)):
        assert float(found[video, number - 1]) == pytest.approx(lead_by_hand(scores[video, :number].tolist()))
    assert (found < 0).any()  # the mean and the sum of logarithms do not always agree
    assert bool(lead(torch.ones(1, 2, 1)).isinf().all())
    assert not bool((lead(torch.full((1, 3, 2), torch.nan)) >= 0.1).any())  # numbers that are none settle nothing


class Table:
    """A network whose scores of a view stand in a table: a clip's pixels say which video and view it is."""

    device = torch.device("cpu")

    def __init__(self, scores: Tensor) -> None:
        self.scores, self.calls = scores, list[list[tuple[int, int]]]()
        self.cost = ClipCost(1, {}, ())

    def __call__(self, clips: Tensor) -> Pass:
        numbers = [divmod(round(float(clip[0, 0, 0, 0]) * 255), 16) for clip in clips]
        self.calls.append(numbers)
        scores = torch.stack([self.scores[video, view] for video, view in numbers])
        return Pass(scores, {}, [1] * len(clips), [1.0] * len(clips))


def pictures(video: int, views: int) -> VideoViews:
    images = torch.arange(views, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4) + 16 * video
    clips = torch.arange(views)[:, None].expand(-1, 2)
    return VideoViews(images, clips, [[(0, 0)]] * views, SPEC)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 40])
@pytest.mark.parametrize("settled", [0.5, 3.0, 1e9])
def test_videos_are_those_run_one_view_at_a_time_and_batches_stay_full(batch_size: int, settled: float) -> None:
    views, broken = 7, {2, 11}
    scores = some_scores(15, views, 5, seed=1)
    order = view_order(views, 1)
    expected = {}
    for video in set(range(15)) - broken:
        seen: list[list[float]] = []
        for view in order:
            seen.append(scores[video, view].tolist())
            if lead_by_hand(seen) >= settled:
                break
        expected[video] = seen
    network, taken = Table(scores), list[int]()

    def coming() -> Iterator[VideoViews | None]:
        for video in range(15):
            taken.append(video)
            yield None if video in broken else pictures(video, views)

    left = {video: len(seen) for video, seen in expected.items()}
    for video, found in enumerate(run_until_settled(network, coming(), order, batch_size, settled)):
        if video in broken:
            assert found is None
        else:
            assert found is not None
            assert found.scores.tolist() == expected[video]
    assert len(taken) == 15
    for call in network.calls:
        assert len(call) == min(batch_size, sum(count > 0 for count in left.values()))
        for video, _ in call:
            left[video] -= 1
    assert not any(left.values())


def test_a_video_that_does_not_decode_is_told_at_once() -> None:
    taken = list[int]()

    def coming() -> Iterator[None]:
        for video in range(5):
            taken.append(video)
            yield None

    for number, found in enumerate(run_until_settled(Table(torch.zeros(0)), coming(), [0], 8, 1.0), 1):
        assert found is None
        assert len(taken) == number


def test_pictures_of_few_videos_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atfr.evaluate.stopping.OPEN_BYTES", 3 * pictures(0, 5).images.nbytes)
    network = Table(some_scores(12, 5, 3, seed=2))
    found = list(run_until_settled(network, (pictures(n, 5) for n in range(12)), view_order(5, 1), 8, 2.0))
    assert len(found) == 12
    assert max(map(len, network.calls)) == 3


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("loss", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (2, 3))])
def test_the_lead_that_is_chosen_is_the_least_that_loses_no_more(labelled: bool, loss: float, seed: int) -> None:
    scores = some_scores(40, 6, 3, seed)
    labels = torch.from_numpy(np.random.default_rng(seed).integers(3, size=40)) if labelled else None
    all_views = [max(range(3), key=one.sum(0).tolist().__getitem__) for one in scores]
    truth = all_views if labels is None else labels.tolist()

    def outcome(least: float) -> tuple[float, float]:
        """Return the share told right and the mean views with a lead, by hand."""
        right = views = 0
        for one, told in zip(scores.tolist(), truth, strict=True):
            count = next((k for k in range(1, 6) if lead_by_hand(one[:k]) >= least), 6)
            sums = [sum(view[k] for view in one[:count]) for k in range(3)]
            right, views = right + (sums.index(max(sums)) == told), views + count
        return right / 40, views / 40

    found = settle(scores, labels, loss)
    assert found.all_right == sum(a == b for a, b in zip(all_views, truth, strict=True)) / 40
    leads = sorted({lead_by_hand(one[:k]) for one in scores.tolist() for k in range(1, 7)})
    steps = [0.0, *(value for value in leads if value > 0)]
    good = []
    for lower, upper in reversed(list(itertools.pairwise(steps))):
        if found.all_right - outcome((lower + upper) / 2)[0] > loss + 1e-12:
            break
        good.append((lower + upper) / 2)
    assert found.settled == pytest.approx(min(good))
    assert (found.right, found.views) == outcome(min(good))
    assert found.views <= found.fewer < found.views + 1
    assert int(views_needed(lead(scores), math.inf).min()) == 6


def test_what_may_be_lost_is_told_with_its_limit() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]]).double().expand(24, 2, 2)
    found = settle(scores, torch.zeros(24, dtype=torch.int64), 0.0)
    assert (found.views, found.right) == (1.0, 1.0)
    assert found.lost_at_most == pytest.approx(1 - 0.05 ** (1 / 24))  # by the formula for no event of 24
    turned = torch.tensor([[0.9, 0.1], [0.0, 1.0]]).double().expand(10, 2, 2)  # every early answer is wrong
    never = settle(turned, torch.ones(10, dtype=torch.int64), 0.0)
    assert never.settled is None or never.views == 2
    assert never.right == never.all_right == 1
    with pytest.raises(InputError, match="at least one video"):
        settle(torch.zeros(0, 2, 2).double(), None, 0.1)
    with pytest.raises(InputError, match="loss"):
        settle(scores, None, 1.5)
