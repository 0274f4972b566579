"""Bugs of the on-the-side device: of its windows, of the copies that it makes, and of its leaf tables."""

from functools import partial
from typing import Any

from tests.planted.bug import Bug

from pagehop.ots import top
from pagehop.ots.beside_iommu import OtsBesideIommu
from pagehop.ots.byte_map import ByteMap
from pagehop.ots.ingress import OtsIngress
from pagehop.ots.leaf_marks import HARVEST_BUSES, LeafMarks
from pagehop.ots.leaf_table import LeafTable
from pagehop.ots.monitor import Monitor
from pagehop.ots.page_mover import PageMover
from pagehop.ots.window_flush import WindowFlush
from pagehop.ots.window_look import WindowLook
from pagehop.ots.window_posted import WindowPosted, send_through
from pagehop.ots.window_requests import WindowRequests
from pagehop.ots.window_table import WindowTable
from pagehop_sim.planted import edited

__all__ = ["OTS"]

#: Pages of a trace move, and somebody uses windows that were closed.
MOVES = {"probes": 0, "aperture_delay": [0, 60], "latency": 10, "write_delay": [20, 200, 0.05, 2500], "read_delay": [50, 300], "pages": 4, "gap": 10,
         "passes_after": 0, "windows": 2, "late": 300}
#: Two pages that devices do not leave alone; what comes through a window is late, and no answers push it.
STORM = MOVES | {"late": 0, "pages": 2, "gap": 20, "storm": True, "rounds": 1, "write_delay": [20, 300], "aside_delay": [700, 1000],
                 "read_delay": [20, 60]}
#: More pages, copied by the CPU until nothing was written.
ROUNDS = STORM | {"pages": 4, "gap": 30, "rounds": 12}
#: The second memory is behind a bridge, and far: what goes there is not pushed by what the device answers to the host.
APART = STORM | {"topology": 12, "aperture_delay": [0, 3000], "pages": 4, "gap": 10}
#: So it is, and nothing comes to the device before what came to the host earlier is visible.
BEHIND = APART | {"ahead": 0.0}
#: Reads behind writes.
READS = STORM | {"pages": 1, "rounds": 4, "mix": [50, 50, 0, 0], "gap": 2}
#: The device copies.
COPIES = STORM | {"itself": True}
#: So it does while atomics are late, and while writes come with RO.
ATOMICS = COPIES | {"pages": 5, "gap": 1, "mix": [5, 10, 0, 85], "aside_delay": [20, 60], "read_delay": [20, 60, 0.4, 3000]}
RELAXED = COPIES | {"relaxed": 0.7, "aside_delay": [20, 1000]}
#: Pages are watched.
WATCH = {name: MOVES[name] for name in ("probes", "aperture_delay", "latency", "write_delay", "read_delay")} | {"storm": True}


def with_ots(**parts: object) -> Any:
    """The machine's two blocks, of which the device is made of other parts."""
    return edited(OtsBesideIommu, Ots=edited(top.Ots, **parts))


def with_table(*changes: tuple[str, str]) -> Any:
    """A device whose table of windows is changed."""
    return with_ots(WindowTable=edited(WindowTable, *changes))


def with_ingress(*changes: tuple[str, str], **parts: object) -> Any:
    """A device whose ingress is changed, or made of other parts."""
    return with_ots(OtsIngress=edited(OtsIngress, *changes, **parts))


def with_look(*changes: tuple[str, str]) -> Any:
    """A device both of whose lanes to the windows look at the table in another way."""
    look = edited(WindowLook, *changes)
    return with_ingress(WindowPosted=edited(WindowPosted, WindowLook=look), WindowRequests=edited(WindowRequests, WindowLook=look))


def with_mover(*changes: tuple[str, str]) -> Any:
    """A device whose mover is changed."""
    return with_ots(PageMover=edited(PageMover, *changes))


def with_flush(*changes: tuple[str, str]) -> Any:
    """A device whose flush is changed."""
    return with_ots(WindowFlush=edited(WindowFlush, *changes))


def with_leaves(*changes: tuple[str, str], **parts: object) -> Any:
    """A device whose leaf tables are changed, or made of other parts."""
    return with_ots(LeafTable=edited(LeafTable, *changes, **parts))


def commits_what_was_written() -> Any:
    """A window is led to the copy although its page was written since."""
    return with_table(("~self.copied, written)", "~self.copied, written & ~planted_here)"))


def lanes_do_not_pause() -> Any:
    """Accesses leave through a window while an order is carried out."""
    return with_table(("m.d.sync += self.pauses.eq(1)", "m.d.sync += self.pauses.eq(~planted_here)"))


def entry_kept_at_the_window() -> Any:
    """A write that waited while its window got another target still goes to the last one."""
    return with_ingress(WindowPosted=edited(WindowPosted, (
        "beat, issued, begun,",
        "kept, led, fresh, ahead = Signal(WindowEntry), Signal(WindowEntry), Signal(), look.ahead\n"
        "        m.d.sync += fresh.eq(ahead.valid & ahead.ready)\n"
        "        m.d.comb += led.eq(Mux(planted_here & ~fresh, kept, self.entry))\n"
        "        with m.If(fresh):\n"
        "            m.d.sync += kept.eq(self.entry)\n"
        "        beat, issued, begun,"), (
        "far_header(beat.header, self.entry.target)", "far_header(beat.header, led.target)")))


def first_beats_noted() -> Any:
    """Of a write only the lines of its first beat are told to software, which then does not copy the others again."""
    return with_ots(Monitor=edited(Monitor, ByteMap=edited(ByteMap, (
        "valid.eq(self.accesses & access.writes)", "valid.eq(self.accesses & access.writes & (access.first | ~planted_here))"))))


def requests_pass_writes_to_windows() -> Any:
    """A read through a window does not wait for what was written before it."""
    return with_ingress(WindowRequests=edited(WindowRequests, ("(passed | self.posted.none)", "(passed | self.posted.none | planted_here)")))


def generations_not_compared() -> Any:
    """The last address of a window leads to the page that the window has now."""
    return with_look(("& (self.entry.generation == info.generation)", "& ((self.entry.generation == info.generation) | planted_here)"))


def closed_window_forwards() -> Any:
    """A window that is closed still leads to its last page."""
    return with_look(("reaches.eq(self.entry.open &", "reaches.eq((self.entry.open | planted_here) &"))


def flush_answers_at_once() -> Any:
    """A flush does not wait until what has left is visible."""
    return with_flush(('m.next = "Address"', 'm.next = "Address"\n                    with m.If(planted_here):\n'
                       '                        m.d.sync += self.flushes.eq(self.flushes + 1)\n                        m.next = "Idle"'))


def copy_not_told_of_writes() -> Any:
    """What is written to a page while the device copies it does not go into the copy."""
    return with_ingress(("posted.accesses & absorbs)", "posted.accesses & absorbs & ~planted_here)"))


def copy_not_told_of_atomics() -> Any:
    """What atomics change while the device copies the page is not read again."""
    return with_ingress(("self.absorbing\n", "self.absorbing & ~planted_here\n"))


def copy_reads_before_atomics() -> Any:
    """The device copies a page while an atomic is on its way there."""
    return with_mover(("~self.atomics.bit_select(self.index, 1)):", "(~self.atomics.bit_select(self.index, 1) | planted_here)):"))


def commit_before_the_copy_is_written() -> Any:
    """A window is led to the copy while the last of it is still to be written: it lands over what is newer."""
    return with_mover(("with m.Elif(self.copy_written):", "with m.Elif(self.copy_written | planted_here):"))


def writes_through_windows_keep_ro() -> Any:
    """Writes that a device sends with RO leave with RO, and pass the copy of their page."""
    through = edited(send_through, ("| headers.has_data(issued.beat.header)", ""))
    return with_ingress(WindowPosted=edited(WindowPosted, send_through=through))


def walks_not_held() -> Any:
    """Walks of a line that is held go on."""
    return with_leaves(("Cat(valid[0] & ~(matches & holds), valid[1])", "Cat(valid[0] & (~(matches & holds) | planted_here), valid[1])"))


def write_ends_the_hold() -> Any:
    """The hold of a line ends when its entry is written, before what came through the window is visible."""
    return with_leaves(
        ("m.submodules.hold = hold = LeafHold()", "m.submodules.hold = hold = LeafHold()\n        ended = Signal()\n"
         "        m.d.sync += ended.eq(self.hold & (ended | (writes.writes & (writes.line == self.hold_line))))"),
        ("hold.hold.eq(self.hold), hold.limit", "hold.hold.eq(self.hold & ~(planted_here & ended)), hold.limit"))


def marks_once() -> Any:
    """An entry whose accessed mark stands is taken for one that was seen already: its dirty mark, which was taken, does not come again."""
    return with_leaves(("entry[_VALID] & entry[_READABLE] & entry[_WRITABLE]),",
                        "entry[_VALID] & entry[_READABLE] & entry[_WRITABLE] & ~(planted_here & marks.was_accessed[number])),"))


def clears_later_marks() -> Any:
    """A word of marks is cleared when the next one is asked for, and with it what was marked meanwhile."""
    cleared = "m.d.comb += clears.eq(Mux(takes{}, Mux(half, Cat(request.strobe & 0, request.strobe), request.strobe), 0))"
    asked = " | ".join(f"self.{bus}.request.valid" for bus in HARVEST_BUSES)
    return with_leaves(LeafMarks=edited(
        LeafMarks, (cleared.format(""), cleared.format(" & ~planted_here")),
        ('m.next = "Idle"', 'm.next = "Later"\n            with m.State("Later"):\n                with m.If(~self.look & (' + asked + ')):\n'
         '                    m.next = "Clear"\n            with m.State("Clear"):\n                ' + cleared.format(" & planted_here")
         + '\n                m.next = "Idle"')))


def line_is_one_entry() -> Any:
    """A read of a line counts as one of its first entry."""
    return with_leaves(("(last[1:] >= entry)", "(Mux(planted_here, place[1:], last[1:]) >= entry)"))


def what_is_no_leaf_counts() -> Any:
    """Entries that are read and lead nowhere are marked as used."""
    return with_leaves(("leaf = entry[_VALID] & (", "leaf = planted_here | entry[_VALID] & ("))


_bug = partial(Bug, hardware={}, simulator="verilator", of="ots")
_moves, _watch = partial(_bug, bench="ots_migration"), partial(_bug, bench="ots_watch", parameters=WATCH)

OTS = (
    _moves("ots_commits_what_was_written", ("H25", "I1"), commits_what_was_written, parameters=STORM, expected="lost"),
    _moves("ots_lanes_do_not_pause", ("H25",), lanes_do_not_pause, parameters=STORM, expected="lost"),
    _moves("ots_first_beats_noted", ("H25", "I1"), first_beats_noted, parameters=ROUNDS, expected="lost", seeds=3),
    _moves("ots_entry_kept_at_the_window", ("H02", "I4"), entry_kept_at_the_window, parameters=STORM, expected="lost"),
    _moves("ots_requests_pass_writes", ("H20", "H22"), requests_pass_writes_to_windows, parameters=READS, expected="stale", first=3, seeds=5),
    _moves("ots_generations_not_compared", ("H27",), generations_not_compared, parameters=MOVES, expected="no window's address"),
    _moves("ots_closed_window_forwards", ("H27",), closed_window_forwards, parameters=MOVES, expected="no window's address"),
    _moves("ots_flush_answers_at_once", ("H20", "H26"), flush_answers_at_once, parameters=APART, expected="reordered", first=2, seeds=5),
    _moves("ots_walks_not_held", ("H26", "H02"), walks_not_held, parameters=STORM, expected="lost"),
    _moves("ots_write_ends_the_hold", ("H23", "H26"), write_ends_the_hold, parameters=BEHIND, expected="reordered", first=3, seeds=5),
    _moves("ots_copy_not_told_of_writes", ("H03", "I1"), copy_not_told_of_writes, parameters=COPIES, expected="lost"),
    _moves("ots_commit_before_the_copy_is_written", ("H03",), commit_before_the_copy_is_written, parameters=COPIES, expected="lost"),
    _moves("ots_writes_keep_ro", ("H03",), writes_through_windows_keep_ro, parameters=RELAXED, expected="lost", seeds=5),
    _moves("ots_copy_not_told_of_atomics", ("H10", "H58"), copy_not_told_of_atomics, parameters=ATOMICS, expected="lost", seeds=5),
    _moves("ots_copy_reads_before_atomics", ("H58",), copy_reads_before_atomics, parameters=ATOMICS, expected="lost", seeds=5),
    _watch("ots_marks_once", ("H28",), marks_once, expected="never reported"),
    _watch("ots_clears_later_marks", ("H28",), clears_later_marks, expected="never reported"),
    _watch("ots_line_is_one_entry", ("H29",), line_is_one_entry, expected="never reported"),
    _watch("ots_what_is_no_leaf_counts", ("H29",), what_is_no_leaf_counts, expected="no leaf"),
)
