"""Fair choice between requests, and between streams of TLPs."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RoundRobin", "TlpArbiter"]


def lowest(bits):
    """One-hot of the lowest set bit."""
    return Cat(bit & ~bits[:index].any() for index, bit in enumerate(bits))


class RoundRobin(wiring.Component):
    """Grant one of ``count`` requests in the cycle in which they are made; who was served last comes last.

    Members
    -------
    requests : one bit a requester.
    grant : one-hot, 0 when nobody requests.
    advance : the grant of this cycle was used.
    """
    def __init__(self, count):
        self.count = count
        super().__init__({"requests": In(count), "grant": Out(count), "advance": In(1)})

    def elaborate(self, platform):
        m = Module()
        above = Signal(self.count)   # requesters after the one served last
        late = Signal(self.count)
        m.d.comb += [
            late.eq(self.requests & above),
            self.grant.eq(Mux(late.any(), lowest(late), lowest(self.requests))),
        ]
        with m.If(self.advance & self.requests.any()):
            m.d.sync += above.eq(Cat(self.grant[:index].any() for index in range(self.count)))
        return m


class TlpArbiter(wiring.Component):
    """Merge streams of beats TLP by TLP, in turns (D17).

    Latency 0, one beat a cycle. From the first beat of a TLP to its last no other source is served.

    Parameters
    ----------
    shape : layout of an item, which has a field ``beat`` (a :class:`TlpBeat`).
    count : sources.
    """
    def __init__(self, shape, count):
        self.count = count
        super().__init__({
            "i": In(stream.Signature(shape)).array(count), "o": Out(stream.Signature(shape)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = RoundRobin(self.count)
        inside, owner, chosen = Signal(), Signal(self.count), Signal(self.count)
        m.d.comb += [
            turns.requests.eq(Cat(source.valid for source in self.i)),
            chosen.eq(Mux(inside, owner, turns.grant)),
            self.o.valid.eq((chosen & turns.requests).any()),
            turns.advance.eq(self.o.valid & self.o.ready & ~inside),
        ]
        for index, source in enumerate(self.i):
            m.d.comb += source.ready.eq(chosen[index] & self.o.ready)
            with m.If(chosen[index]):
                m.d.comb += self.o.payload.eq(source.payload)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += inside.eq(~self.o.payload.beat.last)
            with m.If(~inside):
                m.d.sync += owner.eq(chosen)
        return m
