"""ClipSpec keeps its promises to JSON and to the user who mistypes."""

import json
from dataclasses import replace

import pytest

from atfr.errors import InputError
from atfr.video.spec import ClipSpec, ViewSpec


def test_json_round_trip() -> None:
    spec = ClipSpec(frames=8, stride=3, size=48, resize=56, jitter=(50, 70), flip=False, mean=(0.1, 0.2, 0.3))
    assert ClipSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert ClipSpec.from_dict({}) == ClipSpec()
    assert hash(spec) != hash(ClipSpec())


def test_derived_figures() -> None:
    assert ClipSpec(frames=4, stride=2).span == 7
    assert ClipSpec(frames=4, stride="video").span == 4
    assert ClipSpec(size=100, resize=120, jitter=(110, 130)).decode_side == 130
    assert ClipSpec(size=100, resize=140, jitter=(110, 130)).decode_side == 140


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames must be a whole number"),
        ({"stride": 1.5}, "stride must be a whole number"),
        ({"stride": "all"}, 'stride must be a whole number from 1 to 16384 or "video"'),
        ({"size": True}, "size must be a whole number"),
        ({"resize": 100}, "resize must be at least size"),
        ({"jitter": (100, 160)}, "jitter must satisfy"),
        ({"jitter": (160, 128)}, "jitter must satisfy"),
        ({"jitter": (128,)}, "jitter must be two sizes"),
        ({"jitter": 128}, "jitter must be a list"),
        ({"flip": "no"}, "flip must be true or false"),
        ({"mean": (0.4, 0.4)}, "mean must be three numbers"),
        ({"std": (0.2, 0.2, "x")}, "std must be three numbers"),
        ({"std": (0.2, 0.2, 0.0)}, "std must be positive"),
    ],
)
def test_wrong_values_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(ClipSpec(), **change)
    with pytest.raises(InputError, match=message):
        ClipSpec.from_dict(change)


def test_unknown_keys_are_refused_with_a_near_one() -> None:
    with pytest.raises(InputError, match=r"'strides'.*did you mean 'stride'"):
        ClipSpec.from_dict({"strides": 2})
    with pytest.raises(InputError, match="mapping"):
        ClipSpec.from_dict([("stride", 2)])


@pytest.mark.parametrize(("clips", "crops"), [(0, 1), (2**14 + 1, 1), (1, 2)])
def test_views_out_of_range_are_refused(clips: int, crops: int) -> None:
    with pytest.raises(InputError, match=f"num_clips must be from 1 to 16384, .* got num_clips={clips}"):
        ViewSpec(clips, crops)
