"""The verdict on a run."""

from collections import Counter
from collections.abc import Callable

from pagehop_tb.checker.causality import known_writes
from pagehop_tb.checker.channels import Channels
from pagehop_tb.checker.invariants.harvests import check_harvests
from pagehop_tb.checker.invariants.reads_push import check_reads_push
from pagehop_tb.checker.invariants.send_order import check_order_at_hosts, check_order_at_places
from pagehop_tb.checker.invariants.unchanged import check_unchanged
from pagehop_tb.checker.joint import check_graph
from pagehop_tb.checker.log import EventLog, Kind
from pagehop_tb.checker.meters import measure
from pagehop_tb.checker.one_host import by_place
from pagehop_tb.checker.pieces import in_pieces
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import HOST_SPACE, PAGE, CheckConfig, host_name
from pagehop_tb.checker.values import Values
from pagehop_tb.checker.verdict import Verdict

__all__ = ["MemoryReader", "check"]

#: Reads memory of a host at the end of the run: host, address, length.
MemoryReader = Callable[[int, int, int], bytes]


def check(log: EventLog, config: CheckConfig, memory: MemoryReader | None) -> Verdict:
    """Judge a finished run (everything answered, everything visible) and compare the memories with what the log says they contain.

    Runs the invariants I1 to I13, compares each dword read with the versions that its place had between issue and end of the read, asks of each read
    what its agent had to know, looks for circles in the graph of all accesses (correctness 3), and compares the final memory byte by byte. A circle
    of accesses that another check has called wrong before is told and not counted again.
    """
    if config.hosts == 1:
        log = by_place(log, config)
    verdict = Verdict()
    replay = Replay(in_pieces(log, config.pieces) if config.pieces else log, config, verdict)
    replay.run()
    values = Values(replay)
    values.check(verdict)
    channels = Channels(replay)
    values.check_known(known_writes(replay, values, channels), verdict)
    check_order_at_hosts(replay, verdict)
    check_order_at_places(values, verdict)
    check_reads_push(replay, verdict)
    check_unchanged(replay, verdict)
    check_harvests(replay, verdict)
    check_graph(replay, values, channels, verdict)
    if memory is not None:
        _check_final(replay, memory, verdict)
    verdict.checked["events"] = len(log.events)
    verdict.accesses = _accesses(log, config)
    verdict.measured = measure(replay)
    verdict.commits = replay.commits
    return verdict


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
