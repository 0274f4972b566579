"""The issue register of an ingress, and marks that tell when it has emptied."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.egress import EgressLane
from pagehop.tlp.stream import TlpBeat

__all__ = ["Issued", "IssueRegister", "Mark"]


class Issued(data.StructLayout):
    """A beat in the issue register of an ingress: where it goes, and what is to be noted when it is accepted there.

    ``absorbed``: a bit a slot, its copy engine is told of it, for it changes a page that is being copied.

    Lanes offer these to a :class:`TlpArbiter`, whose ``ready`` comes with ``valid`` only.
    """
    def __init__(self, data_bytes, slots=1):
        super().__init__({
            "beat": TlpBeat(data_bytes), "lane": 2, "destination": 2, "to_memory": 1,
            "non_posted": 1, "atomic": 1, "absorbed": slots, "lines": 7,
        })


class IssueRegister(wiring.Component):
    """Hold the TLP that an ingress has chosen until the arbiter of its egress takes it.

    A register with one spare place, so that ``i.ready`` comes from a flip-flop. Latency 1, one beat a cycle, first in first out over all lanes and
    destinations: what
    is chosen later is offered later (O2).

    Members
    -------
    entered, accepted : TLPs begun on ``i``, and TLPs wholly taken from ``o``, modulo 16. Equal when the register is empty.
    empty : nothing is held; rises a cycle late.
    request_held : a beat of a request is held. Only meaningful to who sends one at a time.
    """
    def __init__(self, shape):
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)),
            "entered": Out(4), "accepted": Out(4), "empty": Out(1, init=1), "request_held": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        spare, spare_valid = Signal(self.shape), Signal()
        m.d.comb += [self.i.ready.eq(~spare_valid)]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += self.o.valid.eq(self.i.valid | spare_valid)
            with m.If(spare_valid):
                m.d.sync += [self.o.payload.eq(spare), spare_valid.eq(0)]
            with m.Else():
                m.d.sync += self.o.payload.eq(self.i.payload)
        with m.Elif(self.i.valid & self.i.ready):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        m.d.sync += self.empty.eq(self.entered == self.accepted)
        with m.If(self.i.valid & self.i.ready & self.i.payload.beat.first):
            m.d.sync += [self.entered.eq(self.entered + 1), self.empty.eq(0)]
        with m.If(self.o.valid & self.o.ready & self.o.payload.beat.last):
            m.d.sync += self.accepted.eq(self.accepted + 1)
        m.d.comb += self.request_held.eq((self.o.valid & self._is_request(self.o.payload)) | (spare_valid & self._is_request(spare)))
        return m

    @staticmethod
    def _is_request(payload):
        return (payload.lane == EgressLane.NON_POSTED) | (payload.lane == EgressLane.ENGINE)


class Mark(wiring.Component):
    """Tell when a count has reached what another count was at some moment.

    Pulse ``set``: from the next cycle on ``passed`` is 0 until ``count`` has caught up with the value that ``target`` had then (modulo; it must be
    within half the range).
    """
    def __init__(self, bits):
        self.bits = bits
        super().__init__({"set": In(1), "target": In(bits), "count": In(bits), "passed": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        target = Signal(self.bits)
        distance = Signal(self.bits)
        m.d.comb += distance.eq(self.count - target)
        with m.If(self.set):
            m.d.sync += [target.eq(self.target), self.passed.eq(0)]
        with m.Elif(~distance[self.bits - 1]):
            m.d.sync += self.passed.eq(1)
        return m
