"""A pool of Ray actors of one kind: made anew when they die, as many as the cluster has room for."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from atfr.errors import AtfrError

INIT_DEATHS = 3
"""Workers that die one after the other before any is ready: something is wrong with all."""


@dataclass(eq=False)
class Job:
    """What a worker was given, and since when it may have been at work on it."""

    tasks: list[Any]
    given: Any = None
    since_s: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Member:
    """One worker: its actor, its process and node once it is ready, and its jobs by their reference, oldest first."""

    actor: Any
    ready: Any
    watch: Any
    node: str | None = None
    pid: int = 0
    jobs: dict[Any, Job] = field(default_factory=dict)

    @property
    def oldest(self) -> Job:
        """The job that it is at work on."""
        return next(iter(self.jobs.values()))


class Pool:
    """Workers of one kind."""

    def __init__(self, make: Callable[[], Any], depth: int) -> None:
        self.make, self.depth = make, depth
        self.members: list[Member] = []
        self._init_deaths = 0

    def resize(self, target: int) -> None:
        """Start workers up to a number; of those above it, let go of some that have nothing to do."""
        while len(self.members) < target:
            actor = self.make()
            self.members.append(Member(actor, actor.where.remote(), actor.watch.remote()))
        idle = sorted((one for one in self.members if not one.jobs), key=lambda one: one.node is not None)
        for member in idle[: max(0, len(self.members) - target)]:
            self.remove(member)

    def remove(self, member: Member) -> None:
        """End a worker, also one that hangs; its jobs are the caller's."""
        import ray

        self.members.remove(member)
        ray.kill(member.actor)

    def lost(self, member: Member, error: Exception) -> None:
        """Take note that a worker has died.

        Raises:
            AtfrError: so did all before it, and none was ever ready.
        """
        self.members.remove(member)
        if member.node is None:
            self._init_deaths += 1
            if self._init_deaths >= INIT_DEATHS:
                raise AtfrError(f"{INIT_DEATHS} workers in a row could not start: {' '.join(str(error).split())}")

    def started(self, member: Member, where: tuple[str, int]) -> None:
        """Take note that a worker is ready."""
        member.node, member.pid = where
        self._init_deaths = 0

    def free(self, least: int = 1) -> list[Member]:
        """Return ready workers that have room for at least so many jobs, those with the fewest jobs first."""
        able = [one for one in self.members if one.node is not None and self.depth - len(one.jobs) >= least]
        return sorted(able, key=lambda one: len(one.jobs))

    def references(self) -> dict[Any, Member]:
        """Return whose is what may come: that a worker is ready, dead, or done with a job."""
        found: dict[Any, Member] = {}
        for one in self.members:
            found |= dict.fromkeys([one.watch, *([one.ready] if one.node is None else one.jobs)], one)
        return found
