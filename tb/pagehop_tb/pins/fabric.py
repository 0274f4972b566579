"""The clock of a bench: one coroutine wakes at the edge and calls the agents that have something to do.

A coroutine per agent would cost a wake-up per agent and cycle, which is most of the time of a simulation. Here one wake-up serves all, and when no
agent is active and no timer is near, not even that: the clock itself runs outside Python.
"""

import gc
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Protocol

import cocotb
from cocotb.clock import Clock
from cocotb.handle import LogicObject
from cocotb.task import Task
from cocotb.triggers import Event, First, RisingEdge, Timer, Trigger
from cocotb.utils import get_sim_time

from .access import EachEdge

__all__ = ["Agent", "Fabric"]

#: Cycles of silence ahead that make sleeping cheaper than polling.
_NAP = 24


class Agent(Protocol):
    """What the fabric calls at each edge at which it is :attr:`active`, or at which the output that it watches is not 0."""

    #: The agent has something to do at the next edge, whatever the hardware does.
    active: bool

    def edge(self) -> bool:
        """Sample and drive. Values read are those before the edge; values written show after it. Returns whether it must not sleep."""

    def wakes(self) -> list[Trigger]:
        """Triggers that end a sleep: a change of the watched output."""


class Fabric:
    """The fabric clock, and cycle timers on it.

    *Parameters*: ``clock`` and ``reset`` handles of the DUT, ``period_ns`` of the clock, ``seed`` of :attr:`random`.

    ``cycle`` counts rising edges since :meth:`start`.
    """

    def __init__(self, clock: LogicObject, reset: LogicObject, period_ns: int = 4, seed: int = 0) -> None:
        self.clock = clock
        self.reset = reset
        self.period_ns = period_ns
        self.random = Random(seed)
        self._agents: list[tuple[Agent, Callable[[], str] | None]] = []
        self._now = 0
        self._asleep = False
        self._slept_at = 0.0
        self._timers: list[tuple[int, int, Callable[[], Any]]] = []
        self._timer_count = 0
        self._awake = False
        self._wake = Event()
        self._task: Task[None] | None = None

    async def start(self, reset_cycles: int = 8) -> None:
        """Start the clock, hold the reset for ``reset_cycles``, then run the agents for as long as the test lasts."""
        # What stands now lives as long as the test, and TLPs hold no cycles: looking through them for garbage cost a twentieth of a run.
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)
        self.reset.value = 1
        Clock(self.clock, self.period_ns, unit="ns", impl="gpi").start(start_high=False)
        edge = RisingEdge(self.clock)
        for _ in range(reset_cycles):
            await edge
        self.reset.value = 0
        await edge
        self._task = cocotb.start_soon(self._run())

    def add(self, agent: Agent, watched: Callable[[], str] | None = None) -> None:
        """Serve ``agent`` from now on. ``watched`` reads the output of the hardware that makes it active, as text; anything but ``0`` does."""
        self._agents.append((agent, watched))

    @property
    def cycle(self) -> int:
        """Rising edges since the start, also while the fabric sleeps."""
        return self._now + self._passed() if self._asleep else self._now

    def _passed(self) -> int:
        return round((get_sim_time("ns") - self._slept_at) * 8) // (8 * self.period_ns)

    def at(self, cycle: int, function: Callable[[], Any]) -> None:
        """Call ``function`` at the edge of ``cycle``, or at the next edge when that has passed. Equal cycles keep the order of the calls."""
        self._timer_count += 1
        heappush(self._timers, (cycle, self._timer_count, function))
        if self._asleep:
            self._wake.set()

    def after(self, delay: int, function: Callable[[], Any]) -> None:
        """Call ``function`` ``delay`` cycles from now."""
        self.at(self.cycle + delay, function)

    async def wait(self, cycles: int) -> None:
        """Wait for ``cycles`` edges."""
        done = Event()
        self.at(self.cycle + cycles, done.set)
        await done.wait()

    def wake(self) -> None:
        """Call all agents at the next edge: an agent that was quiet has something to do."""
        if self._asleep:
            self._wake.set()
        self._awake = True

    async def _run(self) -> None:
        edges = EachEdge(self.clock, self._edge)
        while True:
            await edges
            if edges.failure is not None:
                raise edges.failure
            # Tasks that the last edge woke have run by now, and may have woken an agent.
            if not self._awake:
                await self._sleep()

    def _edge(self) -> bool:
        """Do what is due at this edge. Returns whether the next edge is needed."""
        self._now = cycle = self._now + 1
        self._awake = False
        timers = self._timers
        while timers and timers[0][0] <= cycle:
            heappop(timers)[2]()
        for agent, watched in self._agents:
            if (agent.active or (watched is not None and watched() != "0")) and agent.edge():
                self._awake = True
        return self._awake or bool(timers and timers[0][0] < cycle + _NAP)

    async def _sleep(self) -> None:
        """Wait until an agent's trigger fires, something is queued, or half a period before the edge of the next timer."""
        self._slept_at = get_sim_time("ns")
        self._wake.clear()
        self._asleep = True
        triggers: list[Trigger] = [self._wake.wait()]
        for agent, _ in self._agents:
            triggers += agent.wakes()
        if self._timers:
            # A task that the last edge woke may have set a timer for a cycle that is here already: it is due at the next edge.
            ahead = max(self._timers[0][0] - self._now, 1)
            triggers.append(Timer((ahead - 1) * self.period_ns + self.period_ns // 2, unit="ns"))
        await First(*triggers)
        self._now += self._passed()
        self._asleep = False
