"""The engine: hand videos to decoders and what they decode to runners, until each has a row or an error that names it.

Why this is no pipeline of Ray Data is in docs/design.md: there a video that kills its worker is retried for ever or
takes its block along, none has a time limit, and checkpoints know ids alone. What is used of Ray are actors and its
object store.

Whatever was in a worker that died, failed or hung is suspected: it is decoded again, in a worker where it is alone, and
given up after so many tries. So a video that kills is found, and its neighbours are not blamed.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from atfr.bulk.cluster import resources
from atfr.bulk.manifest import Video
from atfr.bulk.pool import Job, Member, Pool
from atfr.bulk.workers import Decoded, Decoder, Network, Ran, Read, Runner
from atfr.errors import DataError
from atfr.words import counted

DEPTH = 2
"""Jobs of a worker: one at work, one whose data comes meanwhile."""
LOOK_S, TICK_S = 5.0, 1.0
"""How often the cluster is looked at, if no worker dies; how often whoever runs the engine hears of it."""
STOP_AFTER = 64
"""Failures in a row that no video is to blame for: the store is down, or the program wrong."""
MEASURED = 8
"""Videos of each worker, before decoders and runners are balanced by what they took."""


@dataclass(frozen=True)
class Settings:
    """How the engine works; none of it changes a prediction."""

    # processes that decode, where the cluster has room; None: all there is, balanced with the runners
    decoders: int | None = None
    runners: int | None = None  # processes with a network; None likewise
    gpu: bool = False  # whether each runner has a GPU
    tries: int = 3  # workers that may die, fail or hang with a video before it is given up
    time_limit_s: float = 600.0  # for a video in a worker
    together: int = 8  # videos that a runner is handed at a time
    most_bytes: int = 2**30  # of decoded videos that wait for a runner


@dataclass(eq=False)
class Task:
    """A video on its way."""

    video: Video
    tries: int = 0
    decoded: Decoded | None = None
    payload: Any = None
    node: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a video: a row, or the kind of what went wrong and a message.

    Kinds: "video" (does not decode), "fetch" (its bytes do not come), "killed", "slow", "failed" (what happened to its
    workers).
    """

    video: Video
    content: str | None
    row: dict[str, Any] | None = None
    kind: str = ""
    message: str = ""
    tries: int = 1


@dataclass
class Measured:
    """What the engine has seen so far: seconds of work, what runners can do at best, the workers' process numbers."""

    decode_s: float = 0.0
    network_s: float = 0.0
    videos: int = 0
    ceilings_s: dict[int, float] = field(default_factory=dict)
    workers_lost: Counter[str] = field(default_factory=Counter)
    processes: tuple[int, ...] = ()

    @property
    def ceiling(self) -> float:
        """Videos a second that the runners could do if they had nothing to wait for."""
        return sum(1 / each_s for each_s in self.ceilings_s.values() if each_s > 0)


class Engine:
    """Runs videos through decoders and runners on the Ray cluster that this process is connected to."""

    def __init__(
        self, videos: Iterator[Video], read: Read, make_network: Callable[[], Network], settings: Settings
    ) -> None:
        import ray

        self.ray, self.videos, self.settings = ray, videos, settings
        self.measured = Measured()
        self._alone: deque[Task] = deque()
        self._again: deque[Task] = deque()
        self._waiting: list[Task] = []
        self._out: list[Outcome] = []
        self._exhausted = False
        self._in_a_row = 0
        self._looked_s = -LOOK_S
        shared = {"max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD", "num_cpus": 1}
        decoder = ray.remote(Decoder).options(**shared, max_concurrency=DEPTH + 1)
        runner = ray.remote(Runner).options(**shared, max_concurrency=DEPTH + 1, num_gpus=int(settings.gpu))
        reading, making = ray.put(read), ray.put(make_network)
        self.decoders = Pool(lambda: decoder.remote(reading), DEPTH)
        self.runners = Pool(lambda: runner.remote(making), DEPTH)
        self.pools = (self.decoders, self.runners)

    def run(self) -> Iterator[list[Outcome]]:
        """Yield what became of the videos, as it is known; an empty list now and then, where nothing is new.

        Raises:
            DataError: many videos in a row failed for no fault of theirs.
            AtfrError: workers cannot start.
        """
        try:
            while True:
                if time.monotonic() - self._looked_s >= LOOK_S:
                    self._resize()
                self._hand_to_decoders()
                self._hand_to_runners()
                if self._done():
                    return
                self._receive()
                self._end_slow()
                out, self._out = self._out, []
                yield out
        finally:
            for pool in self.pools:
                pool.resize(0)
                for member in list(pool.members):
                    pool.remove(member)

    def _done(self) -> bool:
        busy = any(member.jobs for pool in self.pools for member in pool.members)
        return self._exhausted and not (busy or self._alone or self._again or self._waiting or self._out)

    def _resize(self) -> None:
        """Have as many workers as the cluster has room for, in the ratio of their work.

        No more than that, whatever was asked for: those of one kind would take all cores, and wait for the other.
        """
        self._looked_s = time.monotonic()
        asked, seen = self.settings, self.measured
        _, cores, gpus = resources()
        cpus = max(2, int(cores))
        if asked.gpu:
            runners = max(1, min(asked.runners or int(gpus), int(gpus), cpus - 1))
            decoders = min(asked.decoders or cpus, cpus - runners)
        else:
            share = 0.5
            if seen.videos >= MEASURED * len(self.decoders.members) > 0:
                share = seen.decode_s / max(seen.decode_s + seen.network_s, 1e-9)
            decoders = asked.decoders or (cpus if asked.runners else round(share * cpus))
            decoders = max(1, min(decoders, cpus - min(asked.runners or 1, cpus - 1)))
            runners = min(asked.runners or cpus, cpus - decoders)
        self.decoders.resize(decoders)
        self.runners.resize(runners)

    def _hand_to_decoders(self) -> None:
        """Give each decoder its next video; who is suspected gets one for itself."""
        for member in self.decoders.free(DEPTH):
            if not self._alone:
                break
            self._decode(member, self._alone.popleft())
        depth = 1 if self._alone else DEPTH  # or none would ever be free for those
        for jobs in range(depth):
            for member in self.decoders.free():
                if len(member.jobs) == jobs and not any(job.tasks[0].tries for job in member.jobs.values()):
                    if not self._room() or (task := self._next()) is None:
                        return
                    self._decode(member, task)

    def _room(self) -> bool:
        """Whether what waits for runners leaves room for more."""
        held = sum(task.decoded.num_bytes for task in self._waiting if task.decoded)
        most = self.settings.together * (DEPTH + 1) * max(1, len(self.runners.members))
        return held < self.settings.most_bytes and len(self._waiting) < most

    def _next(self) -> Task | None:
        if self._again:
            return self._again.popleft()
        video = None if self._exhausted else next(self.videos, None)
        self._exhausted = self._exhausted or video is None
        return Task(video) if video is not None else None

    def _decode(self, member: Member, task: Task) -> None:
        decoded, payload = member.actor.decode.options(num_returns=2).remote(task.video)
        member.jobs[decoded] = Job([task], payload)

    def _hand_to_runners(self) -> None:
        """Give runners what is decoded: who has nothing to do takes what there is, others wait for a full batch."""
        for member in self.runners.free():
            suspects = [task for task in self._waiting if task.tries]
            near = sorted((task for task in self._waiting if not task.tries), key=lambda one: one.node != member.node)
            if suspects and not member.jobs:
                batch = suspects[:1]
            elif any(job.tasks[0].tries for job in member.jobs.values()):
                continue  # it must be alone
            elif near and (not member.jobs or len(near) >= self.settings.together):
                batch = near[: self.settings.together]
            else:
                continue
            self._waiting = [task for task in self._waiting if task not in batch]
            member.jobs[member.actor.run.remote(*(task.payload for task in batch))] = Job(batch)

    def _receive(self) -> None:
        owners = {pool: pool.references() for pool in self.pools}
        references = [one for found in owners.values() for one in found]
        came, _ = self.ray.wait(references, num_returns=1, timeout=TICK_S, fetch_local=False)
        if came:
            came, _ = self.ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        self.measured.processes = tuple(one.pid for pool in self.pools for one in pool.members if one.pid)
        for reference in came:
            for pool, found in owners.items():
                member = found.get(reference)
                if member in pool.members:  # another of its references may have told that it is dead
                    self._take(pool, member, reference)

    def _take(self, pool: Pool, member: Member, reference: Any) -> None:
        errors = self.ray.exceptions
        try:
            value = self.ray.get(reference)
        except errors.RayTaskError as error:  # what the worker's own code raised
            if reference == member.ready:
                pool.lost(member, error)
                return
            if isinstance(error.cause, errors.ObjectLostError):
                self._again.extend(self._taken(member, reference).tasks)
            else:
                for task in self._taken(member, reference).tasks:
                    self._failed(task, "failed", " ".join(str(error.cause or error).split()))
        except errors.ObjectLostError:  # the node that had decoded it is gone
            self._again.extend(self._taken(member, reference).tasks)
        except errors.RayError as error:
            self._died(pool, member, error)
        else:
            if reference == member.ready:
                pool.started(member, value)
            elif pool is self.decoders:
                self._decoded(member, self._taken(member, reference), value)
            else:
                self._ran(member, self._taken(member, reference), value)

    @staticmethod
    def _taken(member: Member, reference: Any) -> Job:
        """Take a job off a worker; the next begins now."""
        job = member.jobs.pop(reference)
        if member.jobs:
            member.oldest.since_s = time.monotonic()
        return job

    def _decoded(self, member: Member, job: Job, decoded: Decoded) -> None:
        (task,) = job.tasks
        task.decoded, task.payload, task.node = decoded, job.given, member.node or ""
        self.measured.decode_s += decoded.seconds
        if decoded.kind:
            self._give_up(task, decoded.kind, decoded.message)
        else:
            self._waiting.append(task)

    def _ran(self, member: Member, job: Job, ran: Ran) -> None:
        self.measured.network_s += ran.seconds
        self.measured.videos += len(job.tasks)
        self.measured.ceilings_s = {
            one.pid: self.measured.ceilings_s.get(one.pid, 0.0) for one in self.runners.members if one.node
        } | {member.pid: ran.ceiling_s}
        self._in_a_row = 0
        for task, row in zip(job.tasks, ran.rows, strict=True):
            assert task.decoded is not None
            self._out.append(Outcome(task.video, task.decoded.content, row, tries=task.tries + 1))

    def _died(self, pool: Pool, member: Member, error: Exception) -> None:
        """A worker is gone: what it had is suspected, unless its whole node went."""
        pool.lost(member, error)
        self._looked_s = -LOOK_S  # another takes its place now
        alive = {node["NodeID"] for node in self.ray.nodes() if node["Alive"]}
        blameless = getattr(error, "preempted", False) or member.node not in alive
        self.measured.workers_lost["node" if blameless else "process"] += 1
        for job in member.jobs.values():
            for task in job.tasks:
                if blameless:
                    self._again.append(task)
                else:
                    self._failed(task, "killed", "the process that worked on it died")

    def _end_slow(self) -> None:
        """End workers that are at work on something for too long."""
        now_s, limit_s = time.monotonic(), self.settings.time_limit_s
        for pool in self.pools:
            for member in list(pool.members):
                if member.jobs and now_s - member.oldest.since_s > limit_s * len(member.oldest.tasks):
                    pool.remove(member)
                    self._looked_s = -LOOK_S
                    self.measured.workers_lost["slow"] += 1
                    for job in member.jobs.values():
                        for task in job.tasks:
                            self._failed(task, "slow", f"it took longer than {limit_s:g} s (--time_limit)")

    def _failed(self, task: Task, kind: str, message: str) -> None:
        """Try a video again, alone, or give it up."""
        task.tries, task.payload = task.tries + 1, None
        if task.tries >= self.settings.tries:
            task.tries -= 1  # _give_up counts the last
            self._give_up(task, kind, f"{message}; tried {counted(self.settings.tries, 'time')}")
        else:
            self._alone.append(task)

    def _give_up(self, task: Task, kind: str, message: str) -> None:
        content = task.decoded.content if task.decoded else None
        self._out.append(Outcome(task.video, content, None, kind, message, task.tries + 1))
        self._in_a_row = self._in_a_row + 1 if kind in ("fetch", "failed") else 0
        if self._in_a_row >= STOP_AFTER:
            raise DataError(f"{STOP_AFTER} videos in a row could not be worked on, the last: {message}")
