"""What a run cost: latencies, holds and moves, in cycles, from the log."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import HOST_SPACE, PAGE

__all__ = ["measure"]

Access = tuple[int, int, int]       # cycle of issue, cycles until the end, page of the window (-1: outside)


def percentiles(values: Sequence[int]) -> dict[str, int | None]:
    """Median, 99th percentile and maximum; unknown is ``None``."""
    if not values:
        return {"p50": None, "p99": None, "max": None}
    p50, p99 = np.percentile(np.array(values), [50, 99], method="nearest")
    return {"p50": int(p50), "p99": int(p99), "max": max(values)}


def measure(replay: Replay) -> dict[str, Any]:
    """``pages``, ``move_cycles``, ``hold_cycles`` and ``latency_cycles`` of ``result.json``.

    An access is *moving* when it was issued while a move was under way, ``non_moving`` are those of them that went to another page. A write lasts
    until it is visible, a read until its last completion.
    """
    begun: dict[int, int] = {}
    spans: list[tuple[int, int, int]] = []      # first cycle, last cycle, page
    ended: list[tuple[bool, int, int]] = []
    for entry in replay.log.events:
        if entry[0] == Kind.MOVE_BEGIN:
            begun[entry[2]] = entry[1]
        elif entry[0] == Kind.MOVE_END:
            _, cycle, page, _, moved, _, hold, total = entry
            spans.append((begun.get(page, cycle), cycle, page))
            ended.append((moved, hold, total))
    moved = [end for end in ended if end[0]]
    reads, writes = _accesses(replay)
    return {
        "pages": {"requested": len(ended), "moved": len(moved), "aborted": len(ended) - len(moved), "retries": 0},
        "move_cycles": percentiles([total for _, _, total in moved]),
        "hold_cycles": percentiles([hold for _, hold, _ in moved]),
        "latency_cycles": {
            "read": _latencies(reads, spans), "write": _latencies(writes, spans),
            "non_moving_read": _elsewhere(reads, spans), "non_moving_write": _elsewhere(writes, spans),
        },
    }


def _accesses(replay: Replay) -> tuple[list[Access], list[Access]]:
    def page(location: int) -> int:
        return location // PAGE if location < HOST_SPACE[0] else -1

    cycle = replay.cycle_of
    reads = [(cycle(read.issued), cycle(read.done) - cycle(read.issued), page(read.location))
             for read in replay.reads if not read.agent.startswith("CPU ")]
    writes = [(cycle(write.event), cycle(write.performed) - cycle(write.event), page(write.location))
              for write in replay.writes if write.stream == DEVICE_STREAM and write.performed >= 0 and write.atomic is None]
    return reads, writes


def _moving(accesses: list[Access], spans: list[tuple[int, int, int]]) -> list[int]:
    """For each access the page that was moving when it was issued, -1 when none was."""
    if not spans:
        return [-1] * len(accesses)
    spans = sorted(spans)
    found = np.searchsorted(np.array([first for first, _, _ in spans]), np.array([issued for issued, _, _ in accesses]), "right") - 1
    return [spans[i][2] if i >= 0 and issued <= spans[i][1] else -1 for i, (issued, _, _) in zip(found.tolist(), accesses, strict=True)]


def _latencies(accesses: list[Access], spans: list[tuple[int, int, int]]) -> dict[str, int | None]:
    moving = _moving(accesses, spans)
    idle = percentiles([cycles for (_, cycles, _), page in zip(accesses, moving, strict=True) if page < 0])
    busy = percentiles([cycles for (_, cycles, _), page in zip(accesses, moving, strict=True) if page >= 0])
    return {"idle_p50": idle["p50"], "idle_p99": idle["p99"], "moving_p50": busy["p50"], "moving_p99": busy["p99"],
            "max": max((cycles for _, cycles, _ in accesses), default=None)}


def _elsewhere(accesses: list[Access], spans: list[tuple[int, int, int]]) -> dict[str, int | None]:
    moving = _moving(accesses, spans)
    chosen = [access for access, page in zip(accesses, moving, strict=True) if page < 0 or page != access[2]]
    return _latencies(chosen, spans)
