"""Bugs of the dirty log in a host's memory."""

from typing import Any

from tests.planted.bug import Bug, with_ingress, with_parts
from tests.planted.slots import TWO

from pagehop.interposer.dirty_log import DirtyLog
from pagehop.interposer.dirty_walk import DirtyWalk
from pagehop.interposer.log_decode import LogDecode
from pagehop.interposer.log_forms import LogForms
from pagehop.interposer.log_tables import LogTables
from pagehop.interposer.log_words import LogWords
from pagehop.interposer.request_lane import RequestLane
from pagehop.interposer.visible_wait import VisibleWait
from pagehop_sim.planted import edited

__all__ = ["DIRTY_LOG"]


def with_log(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer whose dirty log is changed, or made of other parts."""
    return with_parts(DirtyLog=edited(DirtyLog, *changes, **parts))


def with_words(*changes: tuple[str, str]) -> Any:
    """An Interposer whose dirty log sets bits in another way."""
    return with_log(LogWords=edited(LogWords, *changes))


def with_tables(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer whose dirty log marks page tables in another way."""
    return with_log(LogForms=edited(LogForms, LogTables=edited(LogTables, *changes, **parts)))


def log_drops_a_mark() -> Any:
    """A mark for whose word there is no place is dropped."""
    return with_words(("                        # What keeps the place is seen to first.\n",
                       "                        with m.If(planted_here):\n                            m.d.sync += held.eq(0)\n"))


def log_swaps_for_what_it_knew() -> Any:
    """When software has changed a word, the swap is tried again with what the word was thought to be."""
    return with_words(("known.eq(value | Mux(swapped, row.asked, 0))",
                       "known.eq(Mux(planted_here & ~swapped, 0, value) | Mux(swapped, row.asked, 0))"))


def log_swaps_once() -> Any:
    """When software has changed a word, the swap counts as made."""
    return with_words(("Mux(swapped, row.asked, value)", "Mux(swapped | planted_here, row.asked, value)"))


def log_writes_unread_words() -> Any:
    """Where turns are taken a word is written without what it holds already."""
    return with_words(("Mux(self.settings.ping_pong, unread | this, unread & ~this)",
                       "Mux(self.settings.ping_pong & ~planted_here, unread | this, unread & ~this)"))


def log_remembers_words() -> Any:
    """Bits that software has taken are still thought to be set."""
    return with_words(("~self.enable | self.forget", "~self.enable | (self.forget & ~planted_here)"))


def log_remembers_units() -> Any:
    """A unit that was just written needs no mark, although its bit has been taken."""
    return with_log(LogDecode=edited(LogDecode, ("self.forget | ~self.enable", "(self.forget & ~planted_here) | ~self.enable")))


def log_marks_one_unit() -> Any:
    """Of two units that a write touches the second has no bit."""
    return with_log(LogDecode=edited(LogDecode, ("fine & offset_halves.all()", "fine & offset_halves.all() & ~planted_here")))


def log_turns_unproven() -> Any:
    """A report is true before what it stands for is visible."""
    return with_log(VisibleWait=edited(VisibleWait, (
        "waits[0].done & waits[1].done & atomics.done", "((waits[0].done & waits[1].done & atomics.done) | planted_here)")))


def log_turns_before_its_bits() -> Any:
    """A report is there before the marks of before have become bits."""
    return with_log(("with m.If(words.idle | ~works):", "with m.If(words.idle | ~works | planted_here):"))


def log_never_waits() -> Any:
    """The device does not wait when marks have no room."""
    return with_log(("works & (queue.level >= PLENTY)", "works & (queue.level >= PLENTY) & ~planted_here"))


def log_knows_no_atomics() -> Any:
    """Atomics of the device leave no mark."""
    return with_ingress(RequestLane=edited(RequestLane, (
        "head.beat.first & info.in_window & info.atomic", "head.beat.first & info.in_window & info.atomic & ~planted_here")))


def log_takes_errors_for_answers() -> Any:
    """A request that was refused counts as answered with 0."""
    return with_words(("bad.eq(counts & ~good)", "bad.eq(counts & ~good & ~planted_here)"))


def log_marks_an_entry_that_changed() -> Any:
    """When software has changed an entry, it counts as marked."""
    return with_tables(DirtyWalk=edited(DirtyWalk, ("with m.Elif(~same):", "with m.Elif(~same & ~planted_here):")))


def log_remembers_pages() -> Any:
    """A page whose D software has cleared is still thought to have it."""
    return with_tables(("given.invalidate.eq(self.forget)", "given.invalidate.eq(self.forget & ~planted_here)"))


SWAP, TURNS, TABLES = ({"rounds": 1, "modes": [mode], "faults": False} for mode in ("swap", "turns", "tables"))
TABLES |= {"write_delay": [20, 100], "read_delay": [50, 150]}
DIRTY_LOG = (
    Bug("log_drops_a_mark", ("I12", "H47"), log_drops_a_mark, "dirty_log", SWAP, "lost", seeds=2),
    Bug("log_swaps_for_what_it_knew", ("H47",), log_swaps_for_what_it_knew, "dirty_log", SWAP, "TIMEOUT"),
    Bug("log_swaps_once", ("H47", "I12"), log_swaps_once, "dirty_log", SWAP, "lost"),
    Bug("log_writes_unread_words", ("H47", "I12"), log_writes_unread_words, "dirty_log", TURNS, "lost"),
    Bug("log_remembers_words", ("H46", "I12"), log_remembers_words, "dirty_log", SWAP, "lost"),
    Bug("log_remembers_units", ("H46", "I12"), log_remembers_units, "dirty_log", SWAP, "is not reported again"),
    Bug("log_marks_one_unit", ("H48",), log_marks_one_unit, "dirty_log", TURNS, "written were"),
    Bug("log_turns_unproven", ("H46", "H58", "I12"), log_turns_unproven, "dirty_log", TURNS, "lost", seeds=2),
    Bug("log_turns_before_its_bits", ("H46", "I12"), log_turns_before_its_bits, "dirty_log", TURNS, "lost", seeds=2),
    Bug("log_never_waits", ("I12",), log_never_waits, "dirty_log", SWAP, "are not reported"),
    Bug("log_knows_no_atomics", ("H48",), log_knows_no_atomics, "dirty_log", SWAP, "lost"),
    Bug("log_takes_errors_for_answers", ("H48", "I12"), log_takes_errors_for_answers, "dirty_log", SWAP | {"faults": True}, "and the errors are"),
    Bug("log_marks_an_entry_that_changed", ("H34", "H47", "I12"), log_marks_an_entry_that_changed, "dirty_log", TABLES, "lost", TWO, seeds=2),
    Bug("log_remembers_pages", ("H46", "I12"), log_remembers_pages, "dirty_log", TABLES, "reported", TWO),
)
