"""Bugs on the way from the device to the hosts, and of what is known of it: dirty pages, requests in flight."""

from typing import Any

from tests.planted.bug import Bug, with_host_ingress, with_ingress, with_parts

from pagehop.interposer import bitmaps
from pagehop.interposer.aside_order import AsideOrder
from pagehop.interposer.completion_lane import CompletionLane
from pagehop.interposer.device_decode import DeviceDecode
from pagehop.interposer.earlier import Earlier
from pagehop.interposer.harvest import Harvest
from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.request_lane import RequestLane
from pagehop.interposer.visible_wait import VisibleWait
from pagehop.memory.bitmap import Bitmap
from pagehop.tlp.pages import far_header
from pagehop.tlp.reply_lane import ReplyLane
from pagehop_sim.planted import edited

__all__ = ["INGRESS"]


def with_posted_lane(*changes: tuple[str, str], **parts: object) -> Any:
    """An Interposer whose lane of the device's posted writes is changed."""
    return with_ingress(PostedLane=edited(PostedLane, *changes, **parts))


def with_request_lane(*changes: tuple[str, str]) -> Any:
    """An Interposer whose lane of the device's requests is changed."""
    return with_ingress(RequestLane=edited(RequestLane, *changes))


def request_passes_writes() -> Any:
    """Reads and atomics of the device leave before earlier writes have their places."""
    return with_request_lane(("self.gone", "(self.gone | planted_here)"))


def reply_passes_writes() -> Any:
    """Answers of the device, also to configuration writes, leave before its earlier writes."""
    return with_ingress(ReplyLane=edited(ReplyLane, ("used & self.gone", "used & (self.gone | planted_here)")))


def passing_when(extra: str) -> Any:
    """An Interposer whose posted TLPs also pass those that are aside when ``extra`` says so."""
    usual = "            m.d.comb += passes.eq(passes_all(info.source, self.standing))\n"
    return with_posted_lane((usual, f"{usual}            with m.If(planted_here & ({extra})):\n                m.d.comb += passes.eq(1)\n"))


def held_write_set_aside() -> Any:
    """What the device writes after a held write to other pages goes on."""
    return passing_when("1")


def drained_write_overtaken() -> Any:
    """What arrives when the page is free again goes before the writes that are aside."""
    return passing_when("sum(guard.closed for guard in self.guard) == 0")


def interrupt_overtakes_data() -> Any:
    """An interrupt does not wait for the write before it."""
    return passing_when("~info.in_window")


def own_write_overtaken() -> Any:
    """IDO lets a write pass a held one of its own requester too."""
    return passing_when("info.source.id_ordering")


def request_passes_held_writes() -> Any:
    """Reads and atomics of the device pass writes that are aside."""
    return with_ingress(Earlier=edited(Earlier, ("may_go(stamp, self.through)", "may_go(stamp, self.through) | (left & planted_here)")))


def source_forgotten_too_early() -> Any:
    """A source is forgotten when one of its writes is still aside."""
    return with_ingress(AsideOrder=edited(AsideOrder, ("comes | (count != goes)", "comes | ((count != goes) & ~((count == 1) & planted_here))")))


def independent_is_nobody() -> Any:
    """The registers of independent requesters have no effect."""
    return with_ingress(DeviceDecode=edited(DeviceDecode, ("source.group.eq(number + 1)", "source.group.eq(Mux(planted_here, 0, number + 1))")))


def owner_of_before_the_commit() -> Any:
    """A write whose owner was looked up before the commit goes to the old one."""
    return with_posted_lane(("Mux(page.committed, page.to_host, owner)", "Mux(page.committed & ~planted_here, page.to_host, owner)"))


def far_header_of_near_form() -> Any:
    """A write to an address beyond 4 GB keeps the header of three double words that it had below."""
    return with_posted_lane(far_header=edited(far_header, (", far.wide)", ", headers.is_4dw(header))")))


def atomic_while_held() -> Any:
    """Reads and atomics of the page that moves go to the source while it is copied."""
    return with_request_lane(("~page.closed", "(~page.closed | planted_here)"))


def atomic_made_twice() -> Any:
    """An atomic stays at the head of its lane when it has been issued, and is issued again."""
    return with_request_lane(
        ("self.i.ready.eq(taken |", "self.i.ready.eq((taken & ~(planted_here & info.atomic & ~again)) |"),
        ("with m.If(taken):", "with m.If(taken & ~(planted_here & info.atomic & ~again)):"),
        ("        found = Signal(", "        again = Signal()\n        found = Signal("),
        ("        with m.FSM():\n",
         "        with m.If(taken):\n            m.d.sync += again.eq(info.atomic & ~again)\n        with m.FSM():\n"))


def read_of_the_destination() -> Any:
    """Reads of the page that moves are answered by the destination from the beginning."""
    return with_request_lane(
        ("~page.closed", "(~page.closed | planted_here)"),
        ("Mux(page.committed, page.to_host", "Mux(page.committed | (page.closed & planted_here), page.to_host"))


def writes_wait_for_requests() -> Any:
    """Posted writes and answers of the device wait while a request stands in its lane."""
    return with_ingress(
        ("connect_streams(m, lane.offer, gate.i[number])",
         "connect_streams(m, lane.offer, gate.i[number])\n"
         "            m.d.comb += gate.i[number].valid.eq(lane.offer.valid & ((number == 2) | ~queue.o[2].valid | ~planted_here))"))


def full_lane_drops() -> Any:
    """Credits for posted writes are endless, and what finds no place is dropped."""
    return with_ingress(
        ("connect_streams(m, decode.o, queue.i)",
         "connect_streams(m, decode.o, queue.i)\n        with m.If(planted_here):\n            m.d.comb += decode.o.ready.eq(1)"),
        ("        self._credits(m, queue)\n",
         "        self._credits(m, queue)\n        m.d.comb += self.rx_limits.posted.infinite.eq(planted_here)\n"))


def byte_enables_filled() -> Any:
    """Memory requests that touch a part of their first double word are made to touch all of it."""
    touched = "Mux(planted_here & headers.is_memory(header) & self.o.payload.beat.first, 0xF, fields.first_be)"
    filled = f"data.View(headers.RequestHeader(), self.o.payload.beat.header).first_be.eq({touched})"
    return with_ingress(DeviceDecode=edited(DeviceDecode, ("info.needs_proof.eq(", f"{filled}, info.needs_proof.eq(")))


def answers_have_no_room() -> Any:
    """Requests go to a host whether or not there is room for their answers."""
    return with_request_lane(("[room >= info.lines for room", "[(room >= info.lines) | planted_here for room"))


def room_never_given_up() -> Any:
    """Room for answers that never come is kept for them."""
    return with_request_lane(("with m.Elif(over & found.full):", "with m.Elif(over & found.full & ~planted_here):"))


def second_answer_makes_room() -> Any:
    """Every last completion gives room back, also one for a request that another has ended."""
    lines = "Mux(host.ingress.free, host.ingress.free_entry.lines, table.ended_lines[number])"
    every = "host.ingress.free | (table.given_up & table.ended[number])"
    return with_parts(("release[0].eq(table.ended[number])", f"release[0].eq(Mux(planted_here, {every}, table.ended[number]))"),
                      ("release_amount[0].eq(table.ended_lines[number])",
                       f"release_amount[0].eq(Mux(planted_here, {lines}, table.ended_lines[number]))"))


def answer_before_the_other_flush() -> Any:
    """A read's answer returns before the device's earlier writes at the other host are visible."""
    return with_host_ingress(CompletionLane=edited(
        CompletionLane, ("reached(self.flushed, entry.flush_target, self.flush_newest)",
                         "reached(self.flushed, entry.flush_target, self.flush_newest) | planted_here")))


def answer_passes_writes_of_the_host() -> Any:
    """Answers to the device leave before what the host's CPUs posted earlier."""
    return with_host_ingress(CompletionLane=edited(
        CompletionLane, ("may_go(head.stamp, self.posted)", "(may_go(head.stamp, self.posted) | planted_here)")))


def fence_not_awaited() -> Any:
    """The fence policy is switched on and nothing waits for it."""
    return with_ingress(("proven[host].eq(~self.settings.fence |", "proven[host].eq(planted_here | ~self.settings.fence |"))


def with_dirty(harvest: Any = Harvest, bitmap: Any = Bitmap) -> Any:
    """An Interposer whose dirty map has another harvest or another bitmap."""
    return with_parts(DirtyMap=edited(bitmaps.DirtyMap, Harvest=harvest, Bitmap=bitmap))


def harvest_not_flushed() -> Any:
    """A dirty word is handed out before the writes it stands for are visible."""
    return with_dirty(edited(Harvest, VisibleWait=edited(VisibleWait, (
        "waits[0].done & waits[1].done & atomics.done", "((waits[0].done & waits[1].done & atomics.done) | planted_here)"))))


def harvest_does_not_wait_for_atomics() -> Any:
    """A dirty word is handed out before the atomics it stands for have been answered."""
    return with_dirty(edited(Harvest, VisibleWait=edited(VisibleWait, ("& atomics.done", "& (atomics.done | planted_here)"))))


def marks_lost_in_the_same_word() -> Any:
    """Of two changes of one word of the bitmap in following cycles the first is lost."""
    return with_dirty(bitmap=edited(Bitmap, ("Mux(fetch_again, changed, read.data)", "Mux(fetch_again & ~planted_here, changed, read.data)")))


def mark_lost_beside_a_take() -> Any:
    """Writes are chosen also in the cycle whose marks the bitmap does not take."""
    begins = 'self.pause.eq(1)\n                m.next = "Operate"'
    return with_dirty(edited(Harvest, (begins, begins.replace("eq(1)", "eq(~planted_here)"))))


def atomics_mark_nothing() -> Any:
    """An atomic leaves its page clean."""
    return with_request_lane(("info.atomic & self.settings.track_dirty", "info.atomic & ~planted_here & self.settings.track_dirty"))


def page_index_without_base() -> Any:
    """Pages are counted from address 0, not from the window's base."""
    return with_ingress(DeviceDecode=edited(DeviceDecode, (
        "page - settings.window.base", "Mux(planted_here, page + 1, page - settings.window.base)")))


def translated_has_a_page() -> Any:
    """The address of a translated request is taken for one of the window."""
    return with_ingress(DeviceDecode=edited(DeviceDecode, ("inside & ~special & plain", "inside & ~special & (plain | planted_here)")))


def encrypted_is_not_seen() -> Any:
    """An IDE prefix is a prefix like any other."""
    return with_ingress(DeviceDecode=edited(DeviceDecode, (
        "self.opaque.encrypted.eq(passes & encrypted)", "self.opaque.encrypted.eq(passes & encrypted & ~planted_here)")))


def class_is_not_seen() -> Any:
    """A request is a request, whatever its traffic class."""
    return with_ingress(DeviceDecode=edited(DeviceDecode, (
        "self.opaque.classed.eq(passes & ", "self.opaque.classed.eq(passes & ~planted_here & ")))


INGRESS = (
    Bug("request_passes_writes", ("O1", "H16", "H22", "H61"), request_passes_writes, "aborts", {"moves": 16}, "reordered"),
    Bug("reply_passes_writes", ("H18", "H24e", "I5"), reply_passes_writes, "passthrough", {"requests": 600}, "passed a posted TLP"),
    Bug("held_write_set_aside", ("H16", "I5"), held_write_set_aside, "aborts", {"moves": 30}, "reordered", simulator="verilator"),
    Bug("interrupt_overtakes_data", ("H17", "I11"), interrupt_overtakes_data, "hot_page", {"moves": 6}, "reordered"),
    Bug("drained_write_overtaken", ("H23",), drained_write_overtaken, "hot_page", {"moves": 6}, "reordered"),
    Bug("own_write_overtaken", ("H24d", "H16"), own_write_overtaken, "aborts", {"moves": 16}, "reordered"),
    Bug("request_passes_held_writes", ("H24d", "H16"), request_passes_held_writes, "aborts", {"moves": 16}, "reordered"),
    Bug("source_forgotten_too_early", ("H24d", "H16"), source_forgotten_too_early, "aborts", {"moves": 16}, "reordered", seeds=3),
    Bug("independent_is_nobody", ("H24d",), independent_is_nobody, "latency", {"cycles": 20_000}, "its limit is", simulator="verilator"),
    Bug("owner_of_before_the_commit", ("I1",), owner_of_before_the_commit, "hot_page", {"moves": 4}, "misdirected"),
    Bug("far_header_of_near_form", ("H24c", "I10"), far_header_of_near_form, "hot_page", {"moves": 2}, ""),
    Bug("atomic_while_held", ("H10",), atomic_while_held, "hot_page", {"moves": 6}, ""),
    Bug("atomic_made_twice", ("H10", "I3"), atomic_made_twice, "hot_page", {"moves": 2}, "duplicated"),
    Bug("read_of_the_destination", ("I4",), read_of_the_destination, "hot_page", {"moves": 4}, "misdirected"),
    Bug("writes_wait_for_requests", ("H24", "D1", "I7"), writes_wait_for_requests, "hot_page", {"moves": 2}, "stuck"),
    Bug("full_lane_drops", ("H24a",), full_lane_drops, "hot_page",
        {"moves": 2, "reads": 0, "gap": 1, "line": 256, "traffic_gap": 2}, "lost"),   # more than what can be aside
    Bug("byte_enables_filled", ("H21", "I10"), byte_enables_filled, "passthrough", {"requests": 120}, "came out instead of"),
    Bug("answers_have_no_room", ("D7",), answers_have_no_room, "blocked", {"rounds": 1}, "D7"),
    Bug("room_never_given_up", ("H24b", "D7"), room_never_given_up, "forgotten", {"sizes": [1024], "ways": [4]}, "requests have come out"),
    Bug("second_answer_makes_room", ("H14", "D7"), second_answer_makes_room, "forgotten", {"sizes": [64], "ways": [4]}, "at first there was room"),
    Bug("answer_before_the_other_flush", ("H64", "I6"), answer_before_the_other_flush, "hot_page", {"moves": 6}, "reordered"),
    Bug("answer_passes_writes_of_the_host", ("O1", "I5"), answer_passes_writes_of_the_host, "passthrough", {"requests": 600}, "passed a posted TLP"),
    Bug("fence_not_awaited", ("H04",), fence_not_awaited, "aborts", {"moves": 8, "fence": True}, "reordered"),
    Bug("harvest_not_flushed", ("H46", "I12"), harvest_not_flushed, "harvests", {"rounds": 4}, "lost"),
    Bug("harvest_does_not_wait_for_atomics", ("H46", "H58"), harvest_does_not_wait_for_atomics, "harvests", {"rounds": 4}, "lost"),
    Bug("marks_lost_in_the_same_word", ("H47",), marks_lost_in_the_same_word, "harvests", {"rounds": 4}, "lost"),
    Bug("mark_lost_beside_a_take", ("H47",), mark_lost_beside_a_take, "harvests", {"rounds": 4}, "lost"),
    Bug("atomics_mark_nothing", ("H48",), atomics_mark_nothing, "registers", {"rounds": 1}, "lost"),
    Bug("translated_has_a_page", ("H48",), translated_has_a_page, "opaque", {"rounds": 12}, "must be"),
    Bug("encrypted_is_not_seen", ("H24f",), encrypted_is_not_seen, "opaque", {"rounds": 12}, "the register says"),
    Bug("class_is_not_seen", ("O7",), class_is_not_seen, "opaque", {"rounds": 12}, "the register says"),
    Bug("moves_beside_another_channel", ("O7", "H03"), class_is_not_seen, "hot_page",
        {"moves": 10, "reads": 0, "traffic_class": 3, "classes_apart": True}, "reordered"),
    Bug("page_index_without_base", ("H48",), page_index_without_base, "hot_page", {"moves": 2}, ""),
)
