"""Ten kills at random: whoever is hit, the driver, a decoder or a runner, in the end all is there once."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from atfr.cli.main import main
from tests.bulk.test_command import TIMEOUT_S, left_after_a_while, parts, processes, start, wait_for
from tests.evaluate.build import write_level

KILLS, EACH = 10, 8


def workers(out: Path) -> list[int]:
    """The decoders and runners of a run."""
    found = []
    for pid in processes(str(out)):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        found += [pid] * title.startswith((b"ray::Decoder", b"ray::Runner"))
    return found


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", [0])
def test_ten_kills_at_random_moments(
    checkpoint: Path, tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, videos, out = random.Random(seed), tmp_path / "videos", tmp_path / "out"
    hit = []
    for number in range(KILLS):
        for video in range(EACH):
            write_level(videos / f"{number}-{video}.mp4", video % 2, seed=EACH * number + video)
        before = len(parts(out))
        with start(videos, checkpoint, out, str(out)) as process:
            wait_for(lambda before=before: len(parts(out)) > before or workers(out), process)
            time.sleep(rng.uniform(0, 8))
            driver = rng.random() < 0.5
            victims = [process.pid] if driver else workers(out)
            if victims and process.poll() is None:
                hit.append("driver" if driver else "worker")
                os.kill(rng.choice(victims), signal.SIGKILL)
            process.communicate(timeout=TIMEOUT_S)
            wait_for(lambda: not processes(str(out)), process)
    with start(videos, checkpoint, out, str(out)) as process:
        printed, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    assert len(hit) > KILLS // 2
    assert json.loads(printed)["had_failed"] == 0
    assert not left_after_a_while(str(out))
    capsys.readouterr()
    assert main(["bulk", "verify", str(out), str(videos), "--json"]) == 0
    (proof,) = json.loads(capsys.readouterr().out)
    assert (proof["predicted"], proof["failed"]) == (KILLS * EACH, {})
