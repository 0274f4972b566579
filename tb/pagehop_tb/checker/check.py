"""The verdict on a run."""

from collections import Counter
from collections.abc import Callable

import numpy as np

from pagehop_tb.checker.causality import known_writes
from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.harvests import check_harvests
from pagehop_tb.checker.joint import check_graph
from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.meters import measure
from pagehop_tb.checker.replay import DEVICE_STREAM, Replay
from pagehop_tb.checker.space import HOST_SPACE, PAGE, CheckConfig, host_name
from pagehop_tb.checker.values import Values
from pagehop_tb.checker.verdict import Verdict

__all__ = ["MemoryReader", "check"]

#: Reads memory of a host at the end of the run: host, address, length.
MemoryReader = Callable[[int, int, int], bytes]


def check(log: EventLog, config: CheckConfig, memory: MemoryReader | None) -> Verdict:
    """Judge a finished run (everything answered, everything visible) and compare the memories with what the log says they contain.

    Checks that every accepted write was performed exactly once, at the owner (I1, I3); atomics exactly once; that a copy equals its page at the
    commit (I2); that each dword read has a value that was there between the issue and the end of the read, and that no write is missed that the
    reader had to see (own port, reads-from chains, interrupts, register reads, doorbells); the order of the writes of the port, at each host
    (I5) and for each dword; that a read's answer came after the earlier writes of its port were visible (I6); that everything ended (I7) and no
    error became data (I9); dirty harvests (I12); and the final memory byte by byte.
    """
    verdict = Verdict()
    replay = Replay(log, config, verdict)
    replay.run()
    values = Values(replay)
    values.check(verdict)
    channels = Channels(replay)
    values.check_known(known_writes(replay, values, channels), verdict)
    _check_host_order(replay, verdict)
    _check_flushes(replay, verdict)
    check_harvests(replay, verdict)
    check_graph(replay, values, channels, verdict)
    if memory is not None:
        _check_final(replay, memory, verdict)
    verdict.checked["events"] = len(log.events)
    verdict.accesses = _accesses(log, config)
    verdict.measured = measure(replay)
    verdict.commits = replay.commits
    return verdict


def _check_host_order(replay: Replay, verdict: Verdict) -> None:
    """Posted writes of the device became visible in the order in which they were sent, unless the later one may pass (I5).

    That holds at each host; over both hosts only where the fence policy promises it.
    """
    numbers = _visible(replay)
    writes = [replay.writes[number] for number in numbers]
    performed = np.array([write.performed for write in writes], np.int64)
    strong = np.array([write.strong for write in writes], bool)
    host = np.array([write.host for write in writes], np.int64)
    place = [f" to {host_name(h)}" for h in (0, 1)]
    if replay.config.global_order:
        host[:], place[0] = 0, ""
    for h in (0, 1):
        mine = np.flatnonzero(host == h)
        if len(mine) < 2:
            continue
        latest = np.maximum.accumulate(performed[mine])
        verdict.checked["edges"] += len(mine) - 1
        for i in mine[1:][strong[mine[1:]] & (performed[mine[1:]] < latest[:-1])]:
            replay.blamed.add(writes[int(i)].event)
            verdict.add("reordered", f"{replay.told(numbers[int(i)])} became visible before an earlier one{place[h]}")


def _visible(replay: Replay) -> list[int]:
    """Posted writes of the device port that became visible, in the order in which they were sent."""
    return [i for i, write in enumerate(replay.writes) if write.stream == DEVICE_STREAM and write.performed >= 0 and write.atomic is None]


def _check_flushes(replay: Replay, verdict: Verdict) -> None:
    """When a read or atomic was answered, all writes that the port had sent before it were visible, at whichever host (I6, H64)."""
    numbers = _visible(replay)
    if not numbers:
        return
    sent = np.array([replay.writes[number].event for number in numbers], np.int64)
    performed = np.array([replay.writes[number].performed for number in numbers], np.int64)
    latest = np.maximum.accumulate(performed)
    reads = [read for read in replay.reads if not read.agent.startswith("CPU ")]
    before = np.searchsorted(sent, np.array([read.issued for read in reads], np.int64)) - 1
    done = np.array([read.done for read in reads], np.int64)
    verdict.checked["edges"] += int(np.count_nonzero(before >= 0))
    for i in np.flatnonzero((before >= 0) & (latest[before] > done)):
        read, late = reads[int(i)], numbers[int(np.argmax(performed[:before[i] + 1]))]
        where = replay.config.name(read.location)
        replay.blamed.update((read.done, replay.writes[late].event))
        verdict.add("reordered", f"the read of {read.agent} at {where} was answered in cycle {replay.cycle_of(read.done)}, "
                                 f"but {replay.told(late)} before it became visible only in cycle {replay.cycle_of(replay.writes[late].performed)}")


def _check_final(replay: Replay, memory: MemoryReader, verdict: Verdict) -> None:
    """The memory of each page's owner contains what the log says."""
    config = replay.config
    for page, image in replay.image.items():
        location = page * PAGE
        if location < HOST_SPACE[0]:
            host = replay.owners.get(page, 0)
            address = (config.window.base + location + (config.host_b_offset if host else 0)) % (1 << 64)
        else:
            host, address = (location >> 60) - 1, location & (1 << 60) - 1
        found = memory(host, address, PAGE)
        verdict.checked["final_bytes"] += PAGE
        if found != image:
            different = [i for i in range(PAGE) if found[i] != image[i]]
            story = f"at the end {len(different)} bytes of {config.name(location)} at {host_name(host)} are wrong, first offset {different[0]:#05x}"
            verdict.add("lost", story, len(different))


def _accesses(log: EventLog, config: CheckConfig) -> dict[str, int]:
    """What the devices did, as ``result.json`` counts it; interrupts are messages, and also writes."""
    kinds: Counter[int] = Counter(entry[0] for entry in log.events)
    return {
        "reads": kinds[Kind.DEVICE_READ], "writes": kinds[Kind.DEVICE_WRITE], "atomics": kinds[Kind.DEVICE_ATOMIC],
        "messages": sum(entry[0] == Kind.MSI and entry[3] not in config.notify for entry in log.events),
        "bytes_read": sum(entry[4] for entry in log.events if entry[0] == Kind.DEVICE_READ),
        "bytes_written": sum(len(entry[4]) for entry in log.events if entry[0] == Kind.DEVICE_WRITE),
    }
