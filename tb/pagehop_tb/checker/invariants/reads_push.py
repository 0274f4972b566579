"""I6: a read's answer comes after the earlier writes of its port are visible, at every host."""

import numpy as np

from pagehop_tb.checker.invariants.send_order import came_aside, visible_writes
from pagehop_tb.checker.records import Read
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.verdict import Verdict

__all__ = ["check_reads_push"]


def check_reads_push(replay: Replay, verdict: Verdict) -> None:
    """*Reordered*: a read or atomic was answered while a write that the port had sent before it was not visible yet (H20, H64).

    A read or atomic that may pass writes of others (IDO) or any (an atomic with RO) is left out: the graph judges it. So is what another group of
    requesters wrote, and what went through the on-the-side device: reads do not push that, its flush does.
    """
    group_of, reads = replay.config.group_of, [
        read for read in replay.reads if read.pushes and not read.agent.startswith("CPU ")]
    numbers = [number for number in visible_writes(replay) if not came_aside(replay, replay.writes[number].performed)]
    for group in {group_of(replay.writes[number].agent) for number in numbers}:
        _check(replay, verdict, [number for number in numbers if group_of(replay.writes[number].agent) == group],
               [read for read in reads if group_of(read.agent) == group])


def _check(replay: Replay, verdict: Verdict, numbers: list[int], reads: list[Read]) -> None:
    sent = np.array([replay.writes[number].event for number in numbers], np.int64)
    performed = np.array([replay.writes[number].performed for number in numbers], np.int64)
    latest = np.maximum.accumulate(performed)
    before = np.searchsorted(sent, np.array([read.issued for read in reads], np.int64)) - 1
    done = np.array([read.done for read in reads], np.int64)
    verdict.checked["edges"] += int(np.count_nonzero(before >= 0))
    for i in np.flatnonzero((before >= 0) & (latest[before] > done)):
        read, late = reads[int(i)], numbers[int(np.argmax(performed[:before[i] + 1]))]
        where = replay.config.name(read.location)
        replay.blamed.update((read.done, replay.writes[late].event))
        verdict.add("reordered", f"the read of {read.agent} at {where} was answered in cycle {replay.cycle_of(read.done)}, "
                                 f"but {replay.told(late)} before it became visible only in cycle {replay.cycle_of(replay.writes[late].performed)}")
