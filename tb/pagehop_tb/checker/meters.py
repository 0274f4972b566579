"""What a run cost: latencies, holds and moves, in cycles, from the log."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import HOST_SPACE, PAGE

__all__ = ["measure"]

Access = tuple[int, int, int]       # cycle of issue, cycles until the end, page of the window (-1: outside)
#: In place of a page: one that is not that of the access.
ANOTHER = 1 << 62


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
    """For each access its page, when that was moving as it was issued; :data:`ANOTHER` when others were, -1 when none was."""
    if not accesses:
        return []
    issued, pages = np.array([issued for issued, _, _ in accesses]), np.array([page for _, _, page in accesses])
    found = np.where(_covered(issued, [(first, last) for first, last, _ in spans]), ANOTHER, -1)
    for moved in {page for _, _, page in spans}:
        ours = pages == moved
        found[ours] = np.where(_covered(issued[ours], [(first, last) for first, last, page in spans if page == moved]), moved, found[ours])
    numbers: list[int] = found.tolist()
    return numbers


def _covered(cycles: npt.NDArray[np.int64], spans: list[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which of the cycles lie in a span."""
    begun = np.searchsorted(np.sort(np.array([first for first, _ in spans], dtype=np.int64)), cycles, "right")
    ended = np.searchsorted(np.sort(np.array([last for _, last in spans], dtype=np.int64)), cycles, "left")
    return np.asarray(begun > ended)


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
