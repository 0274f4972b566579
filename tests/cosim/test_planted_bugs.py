# amaranth: UnusedElaboratable=no
"""Bugs planted in the hardware: each leaves out one rule, and a bench must find it. A bench that a bug survives proves nothing about that rule."""

import pytest

from pagehop.interposer import top
from pagehop.interposer.completion_lane import CompletionLane
from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.host_ingress import HostIngress
from pagehop.interposer.reply_lane import ReplyLane
from pagehop.interposer.slot import PageSlot
from pagehop.tlp.egress import Egress
from pagehop_sim.planted import planted

HARDWARE = {"data_bytes": 64, "window_pages": 64}


def with_slot(old, new):
    """An Interposer whose page slot is changed in one place."""
    return planted(top.Interposer, "", "", PageSlot=planted(PageSlot, old, new))


def with_host_ingress(**parts):
    """An Interposer whose host ingresses use other parts."""
    return planted(top.Interposer, "", "", _Host=planted(top._Host, "", "", HostIngress=planted(HostIngress, "", "", **parts)))


def copy_not_flushed():
    return with_slot('with m.If(wait.done):\n                m.next = "Commit"', 'with m.If(1):\n                m.next = "Commit"')


def commit_before_the_copy():
    return with_slot("(delay == 0) & self.copy_written & ~self.copy_error.any()", "delay == 0")


def atomics_not_awaited():
    return with_slot("(delay == 0) & self.atomics_settled", "delay == 0")


def gate_not_closed():
    return with_slot("self.guard.active.eq(1), self.guard.closed.eq(1), self.guard.committed.eq(0)",
                     "self.guard.active.eq(1), self.guard.closed.eq(0), self.guard.committed.eq(0)")


def done_before_the_drain_is_visible():
    return with_slot('with m.If(wait.done):\n                m.next = "Retire"', 'with m.If(1):\n                m.next = "Retire"')


def done_before_old_reads_are_answered():
    return with_slot("with m.If(self.settled):", "with m.If(1):")


def aborted_writes_to_the_destination():
    return with_slot("self.guard.closed.eq(0), self.guard.active.eq(0), status.error.eq(reason)",
                     "self.guard.closed.eq(0), self.guard.committed.eq(1), status.error.eq(reason)")


def completion_not_behind_the_other_flush():
    lane = planted(CompletionLane, "proven.eq(reached(self.flushed, target, self.flush_newest))", "proven.eq(1)")
    return with_host_ingress(CompletionLane=lane)


def reply_passes_held_writes():
    lane = planted(ReplyLane, "found.passed.eq(may_go(head.stamp, self.posted))", "found.passed.eq(1)")
    return planted(top.Interposer, "", "", DeviceIngress=planted(DeviceIngress, "", "", ReplyLane=lane))


def id_ordering_kept():
    return planted(top.Interposer, "", "", _Host=planted(top._Host, "clear_ido=True", "clear_ido=False"))


#: Bug, the hazard, the bench that must find it, its parameters, and a part of what is found.
BUGS = [
    (copy_not_flushed, "H03", "hot_page", {"moves": 6}, "lost"),
    (commit_before_the_copy, "I2", "hot_page", {"moves": 2}, "lost"),
    (atomics_not_awaited, "H58", "hot_page", {"moves": 10}, ""),
    (gate_not_closed, "H16", "hot_page", {"moves": 4}, "lost"),
    (done_before_the_drain_is_visible, "H60", "hot_page", {"moves": 8}, "stale"),
    (done_before_old_reads_are_answered, "H12", "hot_page", {"moves": 4}, "misdirected"),
    (aborted_writes_to_the_destination, "H09", "aborts", {"moves": 12}, "misdirected"),
    (completion_not_behind_the_other_flush, "H64", "hot_page", {"moves": 6}, "reordered"),
    (reply_passes_held_writes, "H18", "passthrough", {"requests": 300}, "passed a posted TLP"),
    (id_ordering_kept, "H62", "passthrough", {"requests": 120}, "came out instead of"),
]


@pytest.mark.parametrize(("bug", "hazard", "name", "parameters", "expected"), BUGS, ids=[bug[0].__name__ for bug in BUGS])
def test_planted_bug_is_found(bench, bug, hazard, name, parameters, expected):
    design = bug()

    def broken(**hardware):
        return design(**hardware)

    broken.__qualname__ = bug.__name__
    outcome = bench(name, "icarus", parameters, HARDWARE, design=broken, check=False)
    assert outcome.failures, f"{hazard}: {name} does not find that {bug.__name__}"
    violations = {name: count for name, count in ((outcome.result or {}).get("violations") or {}).items() if count}
    assert expected in f"{violations} {outcome.failures}", f"{hazard}: {bug.__name__} was found as something else: {violations} {outcome.failures}"


def test_a_planted_bug_must_fit():
    with pytest.raises(ValueError, match="must contain"):
        planted(Egress, "no such line", "")
