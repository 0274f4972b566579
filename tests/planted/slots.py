"""Bugs of what the slots share, and of the queue that feeds them, in hardware with two of them."""

from typing import Any

from tests.planted.bug import HARDWARE, Bug, with_ingress, with_mover, with_parts

from pagehop.interposer.descriptor_reader import DescriptorReader
from pagehop.interposer.move_check import MoveCheck
from pagehop.interposer.move_queue import MoveQueue
from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.stages import guarded
from pagehop.memory.copy_engine import CopyEngine
from pagehop_sim.planted import edited

__all__ = ["SLOTS"]

TWO = HARDWARE | {"slots": 2, "log_tables": "riscv"}


def page_moves_twice() -> Any:
    """A page that moves in one slot may move in another too."""
    return with_parts(MoveCheck=edited(MoveCheck, ("with m.If(moves.any()):", "with m.If(moves.any() & ~planted_here):")))


def answer_of_another_slot() -> Any:
    """A copy engine takes the answers to the reads of another for its own."""
    return with_mover(CopyEngine=edited(CopyEngine, (
        "chunk, of_generation, of_slot = self.tag.decode(headers.whole_tag(header))",
        "chunk, of_generation, of_slot = self.tag.decode(headers.whole_tag(header))\n"
        "        of_slot = Mux(planted_here, ~header.tag[7], of_slot)")))


def page_of_the_second_slot_not_held() -> Any:
    """Writes look at the guard of the first slot only."""
    def first_only(m: Any, guards: Any, matches: Any, name: str = "guarded") -> Any:
        return guarded(m, guards, [matches[0], *(match & 0 for match in matches[1:])], name=name)

    return with_ingress(PostedLane=edited(PostedLane, guarded=first_only))


def absorbed_by_the_first_slot() -> Any:
    """What devices write to any page that is being copied goes into the differential of the first slot."""
    return with_ingress((
        "absorb.valid.eq(absorbed[slot] & ~issued.non_posted)",
        "absorb.valid.eq(Mux(planted_here, absorbed.any() if slot == 0 else 0, absorbed[slot]) & ~issued.non_posted)"))


def commits_collide() -> Any:
    """Every slot's commit goes to the page of the first that moves one."""
    return with_parts(("connect_streams(m, slot.owner_op, owners.op[number])",
                       "connect_streams(m, slot.owner_op, owners.op[number])\n"
                       "            m.d.comb += owners.op[number].payload.index.eq(Mux(planted_here & slots[0].moving, slots[0].guard.page,"
                       " slot.owner_op.payload.index))"))


def record_at_the_start() -> Any:
    """The record of a move is written when a slot has taken it."""
    return with_parts(MoveQueue=edited(MoveQueue, ("(over | (self.running & self.ended))", "(over | (self.running & (self.ended | planted_here)))")))


def descriptor_taken_twice() -> Any:
    """A descriptor is offered once more after a slot has taken it."""
    reader = edited(DescriptorReader, (
        "shown.eq(there.bit_select(head, 1) & ~taken.any())", "shown.eq(there.bit_select(head, 1) & (~taken.any() | planted_here))"))
    return with_parts(MoveQueue=edited(MoveQueue, DescriptorReader=reader))


SLOTS = (
    Bug("page_moves_twice", ("H49",), page_moves_twice, "slots", {"rounds": 1}, "the status of the second slot", TWO),
    Bug("answer_of_another_slot", ("H14", "D16"), answer_of_another_slot, "slots", {"rounds": 1}, "lost", TWO),
    Bug("page_of_the_second_slot_not_held", ("H10", "I1"), page_of_the_second_slot_not_held, "slots", {"rounds": 1}, "lost", TWO, seeds=3),
    Bug("absorbed_by_the_first_slot", ("H22", "I1"), absorbed_by_the_first_slot, "slots", {"rounds": 1, "mode": "merge"}, "lost", TWO),
    Bug("record_at_the_start", ("H60",), record_at_the_start, "queue", {"rounds": 1}, "which is none of descriptor", TWO),
    Bug("descriptor_taken_twice", ("H49",), descriptor_taken_twice, "queue", {"rounds": 1}, "", TWO),
    Bug("commits_collide", ("H11", "I4"), commits_collide, "slots", {"rounds": 1}, "misdirected", TWO),
)
