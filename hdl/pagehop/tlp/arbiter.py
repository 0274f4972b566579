"""Fair choice between requests, and between streams of TLPs."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["RoundRobin", "TlpArbiter", "select_one"]


def select_one(chosen, values):
    """The value whose bit in the one-hot ``chosen`` is set, 0 when none is. Two levels of logic, where nested choices take one a value."""
    return reduce(or_, (Mux(bit, Value.cast(value), 0) for bit, value in zip(chosen, values, strict=True)))


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
        # A row for each requester: who goes before it. Every grant depends on the requests and on registers only, so none waits for another.
        before = [Signal(self.count, init=(1 << number) - 1, name=f"before_{number}") for number in range(self.count)]
        m.d.comb += self.grant.eq(Cat(request & ~(self.requests & row).any() for request, row in zip(self.requests, before, strict=True)))
        with m.If(self.advance):
            for number, row in enumerate(before):
                others = ((1 << self.count) - 1) & ~(1 << number)
                m.d.sync += row.eq((row | self.grant[number].replicate(self.count)) & ~self.grant & others)
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
        # Who may ask: all between TLPs, inside of one only its source. So no multiplexer stands behind the grant.
        asks = Signal(self.count, init=-1)
        m.d.comb += [
            turns.requests.eq(Cat(source.valid for source in self.i) & asks),
            self.o.valid.eq(turns.requests.any()),
            self.o.payload.eq(select_one(turns.grant, [source.payload for source in self.i])),
            turns.advance.eq(self.o.valid & self.o.ready),
        ]
        for index, source in enumerate(self.i):
            m.d.comb += source.ready.eq(turns.grant[index] & self.o.ready)
        with m.If(turns.advance):
            m.d.sync += asks.eq(turns.grant | self.o.payload.beat.last.replicate(self.count))
        return m
