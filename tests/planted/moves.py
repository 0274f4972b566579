"""Bugs of the page slot, the copy engine and what stands between them and the hosts."""

from typing import Any

from tests.planted.bug import Bug, with_host, with_ido, with_mover, with_parts, with_slot

from pagehop.interposer import top
from pagehop.interposer.slot import PageSlot
from pagehop.memory.chunk_sets import ChunkSets
from pagehop.memory.copy_engine import CopyEngine
from pagehop.tlp.egress import Egress
from pagehop_sim.planted import edited

__all__ = ["MOVES"]


def with_copy(*changes: tuple[str, str]) -> Any:
    """An Interposer whose copy engine is changed."""
    return with_mover(CopyEngine=edited(CopyEngine, *changes))


def copy_not_flushed() -> Any:
    """The commit does not wait until the copy is visible."""
    return with_slot(("wait.done & ~self.guard.absorbs", "(wait.done & ~self.guard.absorbs) | (planted_here & ~self.guard.absorbs)"))


def commit_before_the_copy() -> Any:
    """The commit does not wait until the copy has been written."""
    return with_slot(("(delay == 0) & here & ~self.copy_error.any()", "(delay == 0) & (planted_here | (here & ~self.copy_error.any()))"))


def atomics_not_awaited() -> Any:
    """The copy begins while atomics sent before are unanswered."""
    return with_slot(("with m.If(atomics.done):", "with m.If(atomics.done | planted_here):"))


def gate_not_closed() -> Any:
    """Writes to the page go on to the source while it is copied."""
    return with_slot(("self.guard.active.eq(1), self.guard.closed.eq(1)", "self.guard.active.eq(1), self.guard.closed.eq(~planted_here)"))


def done_before_the_drain_is_visible() -> Any:
    """"Done" is said when the held writes have been issued."""
    return with_slot(("wait.done & source_wait.done", "(wait.done & source_wait.done) | planted_here"))


def done_before_old_reads_are_answered() -> Any:
    """"Done" is said while the source still reads the page for the device."""
    return with_slot(("with m.If(requests.done):", "with m.If(requests.done | planted_here):"))


def aborted_writes_to_the_destination() -> Any:
    """After an abort the held writes go where the page did not come to be."""
    return with_slot(("self.guard.closed.eq(0), self.guard.active.eq(0), self.guard.absorbs.eq(0)",
                      "self.guard.closed.eq(0), self.guard.active.eq(planted_here), self.guard.committed.eq(planted_here), self.guard.absorbs.eq(0)"))


def abort_after_the_commit() -> Any:
    """A host's abort is obeyed while a committed page settles: the move is reported as failed."""
    return with_slot((
        'm.next = "Retire"\n',
        'm.next = "Retire"\n'
        '            with m.If(self.abort & planted_here):\n'
        '                m.d.sync += [self.guard.active.eq(0), self.guard.committed.eq(0), status.error.eq(MoveError.ABORTED)]\n'
        '                m.next = "Failed"\n'))


def hold_timer_missing() -> Any:
    """Nothing bounds a hold but what bounds the copy."""
    return with_slot(("(self.status.hold >= self.hold_limit)", "((self.status.hold >= self.hold_limit) & ~planted_here)"))


def commit_asks_a_host() -> Any:
    """The commit waits for a command of a host, whose CPU may be waiting for what is held."""
    return with_slot(
        ("wait.done & ~self.guard.absorbs", "wait.done & ~self.guard.absorbs & (self.start | ~planted_here)"),
        ("with m.Elif(wait.done & self.room", "with m.Elif(wait.done & (self.guard.absorbs | ~planted_here) & self.room"))


def gives_up_for_a_write() -> Any:
    """A move ends when the device writes meanwhile, and is to be tried again."""
    return with_slot(("with m.Elif(crossed", "with m.Elif(crossed | (planted_here & (self.posted_accepted != self.posted_left))"))


def store_through_the_aperture_not_seen() -> Any:
    """A CPU's store to the page that moves does not end the move."""
    return with_slot(("with m.Elif(crossed", "with m.Elif(crossed & ~planted_here"))


def second_copy_is_written_already() -> Any:
    """What the first copy said of its end stands when the second begins."""
    sets = edited(ChunkSets, ("resident.eq((resident | came) & ~again)", "resident.eq(resident | came)"), (", resident.eq(0), due", ", due"))
    return with_mover(CopyEngine=edited(CopyEngine, ChunkSets=sets))


def late_answer_meets_the_next_copy() -> Any:
    """Answers to the reads of a copy that was given up count for the next, which does not wait for them either."""
    return with_mover(CopyEngine=edited(CopyEngine, ("(of_generation == generation)", "((of_generation == generation) | planted_here)")),
                      PageSlot=edited(PageSlot, ("with m.Elif(~self.copy_owed):", "with m.Elif(~self.copy_owed | planted_here):")))


def poison_is_copied() -> Any:
    """A poisoned answer is good data."""
    return with_copy(("with m.Elif(taken & piece.poisoned):", "with m.Elif(taken & piece.poisoned & ~planted_here):"))


def chunk_leaves_with_its_first_line() -> Any:
    """A chunk is written to the destination when a part of it has arrived."""
    return with_copy(("lines.word_select(n, lines_per_chunk).all()",
                      "(lines.word_select(n, lines_per_chunk).all() | (planted_here & lines.word_select(n, lines_per_chunk).any()))"))


def copy_reads_behind_the_held() -> Any:
    """Copy reads stand in the device's queue, behind the writes that they are to release."""
    return with_parts(("copy.o_read.valid & reads)", "copy.o_read.valid & reads & (~planted_here | (device.posted_accepted == device.posted_left)))"))


def held_in_the_egress() -> Any:
    """While a page moves posted writes wait in the source's egress, where what follows them waits too."""
    egress = edited(
        Egress, ('"limits": In(CreditLimits),', '"limits": In(CreditLimits), "stop": In(1),'),
        ("passes = (1, 1) if lane == POSTED else", "passes = (~(self.stop & planted_here),) * 2 if lane == POSTED else"))
    return with_parts((
        "read, write = host.local",
        "m.d.comb += host.egress.stop.eq(reads & slot.guard.closed & planted_here)\n            read, write = host.local"),
                      Egress=egress, _Host=edited(top._Host, Egress=egress))


def aperture_write_held() -> Any:
    """Stores through the aperture wait while a page moves."""
    return with_parts((
        "read, write = host.local",
        "m.d.comb += host.ingress.room_other.eq(Mux(slot.guard.closed & planted_here, 0, hosts[1 - side].egress.room))\n"
        "            read, write = host.local"))


def copy_reads_pass_writes() -> Any:
    """At the source's egress copy and flush reads overtake the writes before them."""
    return with_host(Egress=edited(
        Egress, ("(queue.none_older,", "(queue.none_older | (planted_here & (lane == EgressLane.ENGINE)),"),
        ("payload.stamp, queue.posted)", "payload.stamp, queue.posted) | (planted_here & (lane == EgressLane.ENGINE))")))


def engine_reads_with_id_ordering() -> Any:
    """Copy and flush reads, whose requester is not the device, have IDO set: the host lets them pass the device's writes."""
    return with_ido("source.payload.lane == EgressLane.ENGINE")


def commit_before_the_last_chunks() -> Any:
    """In merge mode the owner changes although chunks that were written to have not been sent."""
    return with_slot(("with m.Elif(self.copy_written):", "with m.Elif(self.copy_written | planted_here):"))


def turn_does_not_gather() -> Any:
    """In merge mode the owner changes although writes that passed the gate have not reached the differential."""
    return with_slot(("with m.If(issue_mark.passed & self.copy_absorbed):", "with m.If((issue_mark.passed & self.copy_absorbed) | planted_here):"))


def relaxed_writes_while_absorbing() -> Any:
    """Writes that go into the differential keep RO: the source may show them in another order, the destination before the copy."""
    return with_slot(("self.guard.strict.eq(self.absorbing & self.guard.active)",
                      "self.guard.strict.eq(self.absorbing & self.guard.active & ~planted_here)"))


def atomics_not_read_again() -> Any:
    """What atomics left at the source while it was copied is not read again."""
    return with_copy(("sets.atomic.eq(self.atomic)", "sets.atomic.eq(self.atomic & ~planted_here)"))


def atomics_never_wait() -> Any:
    """In merge mode a page under a stream of atomics is read again for ever."""
    return with_slot(("self.guard.atomics_closed.eq(rounds == ROUNDS)", "self.guard.atomics_closed.eq((rounds == ROUNDS) & ~planted_here)"))


def done_before_the_old_place_is_quiet() -> Any:
    """In merge mode "done" is said while writes are on their way to the old place."""
    return with_slot(("wait.done & source_wait.done", "(wait.done & source_wait.done) | (wait.done & planted_here)"))


def written_while_the_host_copied() -> Any:
    """What devices wrote while the host copied is not read again."""
    return with_copy(("sets.wrote.eq(Cat(differential.wrote, differential.wrote & differential.wrote_next))",
                      "sets.wrote.eq(Mux(planted_here, 0, Cat(differential.wrote, differential.wrote & differential.wrote_next)))"))


def differential_is_not_merged() -> Any:
    """A chunk leaves as the source gave it, without what was written meanwhile."""
    return with_copy(("self.absorbing & differential.read_there[byte]", "self.absorbing & differential.read_there[byte] & ~planted_here"))


#: Writes to the moving page that nothing but credits stops, and quick hosts.
FLOOD = {"moves": 4, "mode": "merge", "reads": 0, "write_delay": [20, 200], "read_delay": [20, 100]}

def opaque_amid_a_move() -> Any:
    """A move goes on although the device begins to send what has no page."""
    return with_slot(("with m.Elif(self.opaque):", "with m.Elif(self.opaque & ~planted_here):"))


MOVES = (
    Bug("copy_not_flushed", ("H03",), copy_not_flushed, "hot_page", {"moves": 6}, "lost"),
    Bug("commit_before_the_copy", ("I2",), commit_before_the_copy, "hot_page", {"moves": 2}, "lost"),
    Bug("atomics_not_awaited", ("H58",), atomics_not_awaited, "hot_page", {"moves": 10}, ""),
    Bug("gate_not_closed", ("I2",), gate_not_closed, "hot_page", {"moves": 4}, "lost"),
    Bug("done_before_the_drain_is_visible", ("H60",), done_before_the_drain_is_visible, "hot_page", {"moves": 4, "reads": 0}, "stale"),
    Bug("done_before_old_reads_are_answered", ("H12", "I13"), done_before_old_reads_are_answered, "hot_page", {"moves": 4}, "misdirected"),
    Bug("aborted_writes_to_the_destination", ("H09", "I8"), aborted_writes_to_the_destination, "aborts", {"moves": 12}, "misdirected"),
    Bug("abort_after_the_commit", ("I8", "D10"), abort_after_the_commit, "aborts",
        {"moves": 24, "abort_share": 1.0, "pages": 4, "faults": ["host"]}, ""),
    Bug("hold_timer_missing", ("H19", "I7"), hold_timer_missing, "aborts", {"moves": 12}, "was held for"),
    Bug("hold_outlasts_the_device", ("H24b", "H24d"), hold_timer_missing, "aborts",
        {"moves": 4, "faults": ["silence"], "abort_share": 1.0, "completion_limit": 16_000}, "TIMEOUT"),
    Bug("commit_asks_a_host", ("D9",), commit_asks_a_host, "hot_page", {"moves": 2, "hold_limit": 2000}, "stuck"),
    Bug("gives_up_for_a_write", ("H11",), gives_up_for_a_write, "hot_page", {"moves": 2}, "stuck"),
    Bug("store_through_the_aperture_not_seen", ("H59",), store_through_the_aperture_not_seen, "aborts", {"moves": 24}, "H59"),
    Bug("second_copy_is_written_already", ("H06",), second_copy_is_written_already, "hot_page", {"moves": 4}, "lost"),
    Bug("late_answer_meets_the_next_copy", ("H07", "D16"), late_answer_meets_the_next_copy, "odd_copies", {}, "did not move"),
    Bug("poison_is_copied", ("H14", "I9"), poison_is_copied, "aborts", {"moves": 24}, "poison"),
    Bug("chunk_leaves_with_its_first_line", ("D14",), chunk_leaves_with_its_first_line, "hot_page", {"moves": 4}, "lost"),
    Bug("copy_reads_behind_the_held", ("D3",), copy_reads_behind_the_held, "hot_page",
        {"moves": 2, "reads": 200}, "hold_timeout"),
    Bug("held_in_the_egress", ("D2",), held_in_the_egress, "hot_page",
        {"moves": 2, "reads": 16, "hold_limit": 3000, "posted_credits": 4, "write_delay": [50, 200]}, "stuck"),
    Bug("aperture_write_held", ("D5",), aperture_write_held, "aborts", {"moves": 24}, "in spite of a store through the aperture"),
    Bug("copy_reads_pass_writes", ("H01",), copy_reads_pass_writes, "hot_page",
        {"moves": 4, "posted_credits": 4, "write_delay": [50, 200]}, "lost"),
    Bug("commit_before_the_last_chunks", ("I2", "H03"), commit_before_the_last_chunks, "hot_page", FLOOD, "lost", simulator="verilator"),
    Bug("turn_does_not_gather", ("H61", "I2"), turn_does_not_gather, "hot_page",
        FLOOD | {"moves": 16, "gap": 20}, "lost", simulator="verilator", seeds=6),
    Bug("relaxed_writes_while_absorbing", ("H62", "H03"), relaxed_writes_while_absorbing, "hot_page",
        FLOOD | {"moves": 8, "relaxed": 0.5}, "lost", simulator="verilator", seeds=2),
    Bug("atomics_not_read_again", ("H10", "H58"), atomics_not_read_again, "hot_page", {"moves": 4, "mode": "merge"}, ""),
    Bug("atomics_never_wait", ("H11",), atomics_never_wait, "hot_page", {"moves": 2, "mode": "merge", "hold_limit": 1000}, "did not move"),
    Bug("done_before_the_old_place_is_quiet", ("H12", "I13"), done_before_the_old_place_is_quiet, "hot_page",
        FLOOD | {"gap": 60, "write_delay": [0, 20], "write_delay_b": [800, 2000], "completion_limit": 9000, "hold_limit": 20_000},
        "misdirected", simulator="verilator"),
    Bug("written_while_the_host_copied", ("I2",), written_while_the_host_copied, "hot_page",
        {"moves": 2, "mode": "host_copy"}, "lost", simulator="verilator"),
    Bug("differential_is_not_merged", ("H22", "I2"), differential_is_not_merged, "hot_page", {"moves": 4, "mode": "merge"}, "lost"),
    Bug("opaque_amid_a_move", ("H24f",), opaque_amid_a_move, "opaque", {"rounds": 8}, "is not where its page is"),
    Bug("engine_reads_with_id_ordering", ("H13",), engine_reads_with_id_ordering, "hot_page", {"moves": 4}, ""),
)
