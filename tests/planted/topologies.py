"""Bugs of the topologies with one host (figure 9) and with two interposers in a row (figure 7B)."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from tests.planted.bug import HARDWARE, Bug, with_ingress, with_parts
from tests.planted.hosts import SlowBuffer
from tests.planted.ingress import interrupt_overtakes_data

from pagehop.interposer.adjuster import AddressAdjuster, AdjusterLane
from pagehop.interposer.posted_lane import PostedLane
from pagehop.tlp.arbiter import TlpArbiter
from pagehop.tlp.egress import EgressBeat
from pagehop.tlp.headers import TlpClass, tlp_class
from pagehop.tlp.stream import TlpBeat
from pagehop_sim.planted import edited

__all__ = ["TOPOLOGIES"]

ONE_HOST, IN_ROW = HARDWARE | {"hosts": 1}, HARDWARE | {"in_row": True}


class LatePosted(wiring.Component):
    """A path with a queue for posted TLPs, which all others pass. No more than wires unless ``active``."""
    def __init__(self, data_bytes: int, active: Value) -> None:
        self.data_bytes, self.active = data_bytes, active
        super().__init__({"i": In(stream.Signature(TlpBeat(data_bytes))), "o": Out(stream.Signature(TlpBeat(data_bytes)))})

    def elaborate(self, platform: object) -> Module:
        """Two ways that meet again."""
        m = Module()
        m.submodules.buffer = buffer = SlowBuffer(self.data_bytes, self.active)
        m.submodules.merge = merge = TlpArbiter(EgressBeat(self.data_bytes), 2)
        posted, kept = Signal(), Signal()
        beat, others = self.i.payload, merge.i[1]
        m.d.comb += [
            posted.eq(Mux(beat.first, (tlp_class(beat.header) == TlpClass.POSTED) & self.active, kept)),
            buffer.i.payload.beat.eq(beat), buffer.i.valid.eq(self.i.valid & posted), others.payload.beat.eq(beat),
            others.valid.eq(self.i.valid & ~posted), self.i.ready.eq(Mux(posted, buffer.i.ready, others.ready)),
            merge.i[0].payload.eq(buffer.o.payload), merge.i[0].valid.eq(buffer.o.valid), buffer.o.ready.eq(merge.i[0].ready),
            self.o.payload.eq(merge.o.payload.beat), self.o.valid.eq(merge.o.valid), merge.o.ready.eq(self.o.ready),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += kept.eq(posted)
        return m


def owner_adds_nothing() -> Any:
    """Writes to a page in the far memory go to its place in the near one."""
    return with_ingress(PostedLane=edited(PostedLane, (
        "info.in_window & (destination == HOST_B)", "info.in_window & (destination == HOST_B) & ~planted_here")))


def path_with_a_queue() -> Any:
    """The second interposer keeps posted TLPs in a queue, which requests and completions pass."""
    return with_parts(AddressAdjuster=edited(AddressAdjuster, (
        "connect_streams(m, source.rx, lane.i)\n",
        "late = LatePosted(self.data_bytes, planted_here)\n            m.submodules += late\n"
        "            connect_streams(m, source.rx, late.i)\n            connect_streams(m, late.o, lane.i)\n"), LatePosted=LatePosted))


def second_adds_to_writes_only() -> Any:
    """The second interposer leaves reads where they are."""
    memory = "(headers.is_memory(beat.header) | headers.is_atomic(beat.header))"
    lane = edited(AdjusterLane, (memory, f"{memory} & (headers.has_data(beat.header) | ~planted_here)"))
    return with_parts(AddressAdjuster=edited(AddressAdjuster, AdjusterLane=lane))


def fence_without_a_path() -> Any:
    """The fence policy is in force where all is one path."""
    return with_parts(("m.d.comb += device.settings.fence.eq(0)", "m.d.comb += device.settings.fence.eq(control.settings.fence & planted_here)"))


TOPOLOGIES = (
    Bug("owner_adds_nothing", ("I1",), owner_adds_nothing, "hot_page", {"moves": 2}, "misdirected", hardware=ONE_HOST),
    Bug("interrupt_overtakes_data_of_one_host", ("H17", "H04"), interrupt_overtakes_data, "hot_page", {"moves": 6}, "reordered", hardware=ONE_HOST),
    Bug("fence_without_a_path", ("H04",), fence_without_a_path, "hot_page", {"moves": 2, "fence": True}, "stuck", hardware=ONE_HOST),
    Bug("path_with_a_queue", ("O3", "O6", "H04"), path_with_a_queue, "producer_consumer", {"rounds": 30}, "lost", hardware=IN_ROW),
    Bug("second_adds_to_writes_only", ("H24c",), second_adds_to_writes_only, "hot_page", {"moves": 2}, "invented", hardware=IN_ROW),
)
