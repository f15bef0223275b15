"""What both commands are tried on: generated videos, two to learn from and one to test in each class."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from atfr.comparison import estimate, making
from atfr.data.samples import render_samples


@pytest.fixture(scope="package")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("videos") / "six motions"
    return render_samples(root, clips_per_class_train=2, clips_per_class_test=1, size=48, frames=20)


@pytest.fixture(scope="package", autouse=True)
def few_clips_timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("cache")))  # whatever weights this machine has
        for module in (making, estimate):
            patch.setattr(module, "TIMED_BATCH", 4)
            patch.setattr(module, "TIMED_BATCHES", 2)
        yield
