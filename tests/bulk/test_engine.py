"""The engine on a real cluster of Ray's: whatever happens to its workers, no video is lost and none is there twice."""

import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from atfr.bulk import engine
from atfr.bulk.cluster import LOCAL, QUIET
from atfr.bulk.engine import Engine, Settings, Task
from atfr.bulk.manifest import Video
from atfr.bulk.pool import Job, Member
from atfr.bulk.run import Commits, left_of, run
from atfr.bulk.summary import Summary
from atfr.bulk.tables import Bulk
from atfr.bulk.verify import verify
from tests.bulk import stubs
from tests.bulk.stubs import archive

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head of four cores, without the parts that nobody needs; nodes can join it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "LOOK_S", 3600.0)  # who has died is replaced before the cluster is looked at again
        for name, value in (QUIET | LOCAL).items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        at_sigterm = signal.getsignal(signal.SIGTERM)  # Ray's own would stay for the tests behind these
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "include_dashboard": False})
        ray.init(address=found.address, log_to_driver=False, logging_level="ERROR")
        yield found
        ray.shutdown()
        found.shutdown()
        signal.signal(signal.SIGTERM, at_sigterm)


def predict(out: Path, videos: Path, progress: Callable[[Summary], None] = lambda _: None, **settings: Any) -> Bulk:
    bulk = Bulk(str(out), KEY)
    ledger = left_of(bulk, str(videos))
    given = {"decoders": 1, "runners": 1, "together": 3} | settings
    run(bulk, str(videos), ledger, stubs.read, stubs.make_network, Settings(**given), Commits(rows=5), progress)
    return bulk


def rows(bulk: Bulk, table: str) -> dict[str, dict[str, Any]]:
    """The rows of a table by the names of their videos; each is there once."""
    found = [row for batch in getattr(bulk, table).batches() for row in batch.to_pylist()]
    by_name = {Path(row["id"]).stem: row for row in found}
    assert len(by_name) == len(found)
    return by_name


def test_each_video_has_one_row_or_an_error_that_names_it(cluster: Any, tmp_path: Path) -> None:
    special = {"v004": "broken", "v007": "kill", "v011": "crash", "v015": "raise"}
    videos = archive(tmp_path / "videos", 20, **special)
    bulk = predict(tmp_path / "out", videos, tries=2)
    found, errors = rows(bulk, "predictions"), rows(bulk, "errors")
    kinds = {"v004": "video", "v007": "killed", "v011": "killed", "v015": "failed"}
    assert {name: error["kind"] for name, error in errors.items()} == kinds
    assert {name: error["tries"] for name, error in errors.items()} == {name: 1 + (name != "v004") for name in kinds}
    assert f"'{videos / 'v004.mp4'}' is no video" in errors["v004"]["message"]
    assert "no such operation" in errors["v015"]["message"]
    assert set(found) | set(errors) == {f"v{number:03d}" for number in range(20)}
    for name, row in found.items():
        assert row["label"] == f"{name} "
        assert row["content"] == hashlib.sha256((videos / f"{name}.mp4").read_bytes()).hexdigest()
        assert row["configuration"] == KEY
        assert dict(row["active_bins"])["input"][0] <= 3
    before = set((tmp_path / "out").rglob("*.parquet"))
    archive(videos, 27, **special)
    predict(tmp_path / "out", videos)  # what is left: seven that are new
    assert len(rows(bulk, "predictions")) == 23
    assert len(rows(bulk, "errors")) == 4
    assert before < set((tmp_path / "out").rglob("*.parquet"))
    assert verify(bulk, str(videos)).whole


def test_who_is_lost_with_its_node_is_not_suspected(cluster: Any) -> None:
    import ray

    for node, tries in ((ray.get_runtime_context().get_node_id(), 1), ("a node that is gone", 0)):
        ours = Engine(iter([]), stubs.read, stubs.make_network, Settings())
        task = Task(Video("a", "/a.mp4"))
        member = Member(actor=None, ready=None, watch=None, node=node, jobs={"job": Job([task])})
        ours.decoders.members.append(member)
        ours._died(ours.decoders, member, RuntimeError("it died"))
        assert task.tries == tries
        assert task in (ours._alone if tries else ours._again)


def test_what_hangs_is_given_up(cluster: Any, tmp_path: Path) -> None:
    bulk = predict(tmp_path / "out", archive(tmp_path / "videos", 4, v002="hang"), tries=2, time_limit_s=1)
    assert rows(bulk, "errors")["v002"]["kind"] == "slow"
    assert verify(bulk, str(tmp_path / "videos")).whole  # on a slow machine others may be given up, none is lost


def test_killed_workers_and_a_node_that_joins_and_leaves_cost_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK_S", 0.5)
    videos = archive(tmp_path / "videos", 60, **{f"v{number:03d}": "slowly" for number in range(60)})
    node = cluster.add_node(num_cpus=2)
    happened: list[str] = []

    def harm(summary: Summary) -> None:
        if summary.predicted >= 10 and not happened:
            os.kill(summary.measured.processes[0], signal.SIGKILL)
            happened.append("killed")
        if summary.predicted >= 30 and len(happened) == 1:
            cluster.remove_node(node, allow_graceful=False)
            happened.append("left")

    bulk = predict(tmp_path / "out", videos, harm, decoders=8, runners=2)  # more than there is room for
    assert happened == ["killed", "left"]
    assert len(rows(bulk, "predictions")) == 60
    assert not rows(bulk, "errors")
