"""Dirty harvests: nothing written may be missing in the reports (I12, H46)."""

from pagehop_tb.checker.log import Kind
from pagehop_tb.checker.records import DEVICE_STREAM
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import HOST_SPACE, PAGE
from pagehop_tb.checker.verdict import Verdict

__all__ = ["check_harvests"]


def check_harvests(replay: Replay, verdict: Verdict) -> None:
    """Each visible write is in a read-and-clear report that returned after it became visible, at the latest in the first one issued after that.

    A report that returned before the write was visible does not count: its reader copied the page too early. A plain read must contain every
    write that became visible before it was issued and was not reported by a read-and-clear before. Bits of pages that nobody wrote are counted.
    """
    reports = []
    for event, entry in enumerate(replay.log.events):
        if entry[0] == Kind.HARVEST:
            _, _, issued, first_page, bits, width, clear = entry
            reports.append((replay.position_before(issued), event, first_page, bits, width, clear))
    if not reports:
        return
    written: dict[int, list[int]] = {}
    for index, write in enumerate(replay.writes):
        if write.stream == DEVICE_STREAM and write.performed >= 0 and write.location < HOST_SPACE[0]:
            written.setdefault(write.location // PAGE, []).append(index)
    missed = 0
    for page, writes in written.items():
        missed += _check_page(replay, page, writes, [report for report in reports if report[2] <= page < report[2] + report[4]], verdict)
    reported = {first + bit for _, _, first, bits, width, _ in reports for bit in range(width) if bits >> bit & 1}
    verdict.dirty.update(pages_written=len(written), pages_reported=len(reported), missed=missed, false_positive=len(reported - set(written)))


def _check_page(replay: Replay, page: int, writes: list[int], reports: list[tuple[int, int, int, int, int, bool]], verdict: Verdict) -> int:
    """Misses of one page, to which ``writes`` (their numbers) were made."""
    missed = 0
    for index in writes:
        time = replay.writes[index].performed
        for issued, returned, first, bits, _, clear in reports:
            if returned < time:
                continue
            if bits >> (page - first) & 1:
                if clear:
                    break
            elif issued >= time:
                missed += 1
                report = f"the {'read-and-clear' if clear else 'plain'} dirty report of cycle {replay.cycle_of(returned)}"
                verdict.add("lost", f"{replay.told(index)}, visible in cycle {replay.cycle_of(time)}, is missing in {report}")
                break
    return missed
