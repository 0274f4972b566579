"""Bugs at the hosts' sides: ways out, ways in, and what both hosts send each other."""

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from tests.planted.bug import Bug, with_egress, with_host, with_host_ingress, with_ido, with_parts

from pagehop.interposer.host_requests import HostRequests
from pagehop.tlp import arbiter
from pagehop.tlp.egress import Egress, EgressBeat
from pagehop.tlp.fifo import LaneFifo
from pagehop_sim.planted import edited

__all__ = ["HOSTS"]


class SlowBuffer(wiring.Component):
    """A queue of its own between a source and the egress that it goes to: a beat leaves every few cycles. No more than wires unless ``active``."""
    def __init__(self, data_bytes: int, active: Value, pace: int = 16) -> None:
        self.shape, self.active, self.pace = EgressBeat(data_bytes), active, pace
        super().__init__({"i": In(stream.Signature(self.shape)), "o": Out(stream.Signature(self.shape))})

    def elaborate(self, platform: object) -> Module:
        """A memory, and a gate that opens now and then."""
        m = Module()
        m.submodules.fifo = fifo = LaneFifo(self.shape, 256)
        turn, inside = Signal(range(self.pace)), Signal()
        opens = (turn == 0) | inside
        m.d.sync += turn.eq(turn + 1)
        m.d.comb += [
            fifo.i.valid.eq(self.i.valid & self.active), fifo.i.payload.eq(self.i.payload), fifo.o.ready.eq(self.o.ready & opens),
            self.i.ready.eq(self.o.ready), self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload),
        ]
        with m.If(self.active):
            m.d.comb += [self.i.ready.eq(fifo.i.ready), self.o.valid.eq(fifo.o.valid & opens), self.o.payload.eq(fifo.o.payload)]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += inside.eq(~self.o.payload.beat.last)
        return m


def accepted_in_a_buffer() -> Any:
    """What the device sends to a host is taken into a buffer in front of the egress, and counts as accepted there."""
    return with_parts((
        "connect_streams(m, device.o[number], host.egress.i[_Host.FROM_DEVICE])",
        "m.submodules[f'buffer_{number}'] = buffer = SlowBuffer(self.data_bytes, planted_here)\n"
        "            connect_streams(m, device.o[number], buffer.i)\n"
        "            connect_streams(m, buffer.o, host.egress.i[_Host.FROM_DEVICE])"), SlowBuffer=SlowBuffer)


def egress_lets_all_pass() -> Any:
    """Requests and completions leave an egress when they can, whatever was accepted before them."""
    return with_egress(("payload.stamp, queue.posted)", "payload.stamp, queue.posted) | planted_here"))


def id_ordering_kept() -> Any:
    """IDO goes on to the hosts."""
    return with_ido("data.View(headers.RequestHeader(), source.payload.beat.header).id_ordering")


def host_requests_pass_writes() -> Any:
    """A host's reads leave before its earlier writes: a read-back through the aperture proves nothing."""
    return with_host_ingress(HostRequests=edited(
        HostRequests, ("& may_go(head.payload.stamp, self.posted)", "& (may_go(head.payload.stamp, self.posted) | planted_here)")))


def registers_behind_the_device() -> Any:
    """A host's register reads stand behind its requests to the device."""
    return with_host_ingress(("Cat(self.read_ready, ", "Cat(self.read_ready & ~(planted_here & queue.o[HostLane.REQUEST_DEVICE].valid), "),
                             ("def _lanes(self, m, shape, ahead):", "def _lanes(self, m, shape, ahead, queue):"),
                             ("self._lanes(m, queue.lane_shape, queue.ahead_shape)", "self._lanes(m, queue.lane_shape, queue.ahead_shape, queue)"))


def copy_completions_behind_writes() -> Any:
    """Completions of copy reads wait while a posted TLP of their host stands before them."""
    return with_host_ingress((
        "        self._posted_left(m, queue, posted)\n",
        "        with m.If(planted_here):\n            m.d.comb += self.copy.valid.eq(decode.copy.valid & queue.posted.none)\n"
        "        self._posted_left(m, queue, posted)\n"))


def fixed_priority() -> Any:
    """At an egress posted TLPs go first, then completions, then requests, the engine's last."""
    turns = edited(arbiter.RoundRobin, ("(before | self.served[number].replicate(self.count)) & ~self.served", "before"))
    return with_host(Egress=edited(Egress, RoundRobin=turns))


HOSTS = (
    Bug("accepted_in_a_buffer", ("O2", "H04"), accepted_in_a_buffer, "hot_page", {"moves": 6}, "reordered"),
    Bug("egress_lets_all_pass", ("O3",), egress_lets_all_pass, "passthrough", {"requests": 120}, "passed a posted TLP"),
    Bug("id_ordering_kept", ("H62",), id_ordering_kept, "passthrough", {"requests": 120}, "came out instead of"),
    Bug("host_requests_pass_writes", ("O9", "H63"), host_requests_pass_writes, "passthrough", {"requests": 120}, "passed a posted TLP"),
    Bug("registers_behind_the_device", ("D6",), registers_behind_the_device, "blocked", {"rounds": 1}, "D6"),
    Bug("copy_completions_behind_writes", ("D4",), copy_completions_behind_writes, "blocked", {"rounds": 1}, "D4"),
    Bug("fixed_priority", ("D8", "D17"), fixed_priority, "blocked", {"rounds": 1}, "D8"),
)
