"""Fair choice between requests, and between streams of TLPs."""

from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

__all__ = ["RoundRobin", "TlpArbiter", "connect_in_turns", "lowest", "number_of", "select_one"]


def lowest(bits):
    """``bits`` with the lowest that is set, and no other."""
    return (bits & (~bits + 1))[:len(bits)]


def number_of(bits):
    """Number of the one bit that is set, 0 when none is."""
    return Cat(Cat(bits[n] for n in range(len(bits)) if n >> place & 1).any() for place in range(ceil_log2(len(bits))))


def select_one(chosen, values):
    """The value whose bit in the one-hot ``chosen`` is set, 0 when none is. Two levels of logic, where nested choices take one a value."""
    return reduce(or_, (Mux(bit, Value.cast(value), 0) for bit, value in zip(chosen, values, strict=True)))


class RoundRobin(wiring.Component):
    """Grant one of ``count`` requests in the cycle in which they are made; who was served last comes last.

    Who is served without ``last`` is the only one to be granted until it is served with it: the beats of a TLP stay together. With ``stays`` that is
    so from the first grant on, for streams whose receiver must not see another payload before it has taken this one.

    Members
    -------
    requests : one bit a requester.
    grant : one-hot, 0 when nobody is granted.
    served : one-hot, who was served in this cycle, 0 for nobody. ``last``: that was the end of its turn.
    """
    def __init__(self, count, *, stays=False):
        self.count, self.stays = count, stays
        super().__init__({"requests": In(count), "grant": Out(count), "served": In(count), "last": In(1)})

    def elaborate(self, platform):
        m = Module()
        everybody = (1 << self.count) - 1
        # A row for each requester: who goes before it, and who of these may be granted at all. Every grant depends on the requests and on registers
        # only, so none waits for another, and what decides about turns stands behind no request.
        asks, asks_next = Signal(self.count, init=-1), Signal(self.count)
        kept = Mux(self.grant.any(), self.grant, asks) if self.stays else asks
        m.d.comb += asks_next.eq(Mux(self.served.any(), self.served | self.last.replicate(self.count), kept))
        m.d.sync += asks.eq(asks_next)
        for number in range(self.count):
            before, before_next, rivals = (
                Signal(self.count, init=init, name=f"{name}_{number}")
                for name, init in (("before", (1 << number) - 1), ("before_next", 0), ("rivals", (1 << number) - 1)))
            m.d.comb += [
                self.grant[number].eq(self.requests[number] & asks[number] & ~(self.requests & rivals).any()),
                before_next.eq((before | self.served[number].replicate(self.count)) & ~self.served & everybody & ~(1 << number)),
            ]
            m.d.sync += [before.eq(before_next), rivals.eq(before_next & asks_next)]
        return m


def connect_in_turns(m, name, sources, sink):
    """Merge streams whose items stand alone, in turns; takes no cycle. What is offered stays until it is taken. ``name`` : of the submodule."""
    m.submodules[name] = turns = RoundRobin(len(sources), stays=True)
    m.d.comb += [
        turns.requests.eq(Cat(source.valid for source in sources)), turns.served.eq(turns.grant & sink.ready.replicate(len(sources))),
        turns.last.eq(1), sink.valid.eq(turns.grant.any()), sink.payload.eq(select_one(turns.grant, [source.payload for source in sources])),
        *(source.ready.eq(served) for source, served in zip(sources, turns.served, strict=True)),
    ]


class TlpArbiter(wiring.Component):
    """Merge streams of beats TLP by TLP, in turns (D17).

    Latency 0, one beat a cycle. From the first beat of a TLP to its last no other source is served. ``ready`` of a source comes with its ``valid``
    only.

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
        m.d.comb += [
            turns.requests.eq(Cat(source.valid for source in self.i)),
            self.o.valid.eq(turns.grant.any()),
            self.o.payload.eq(select_one(turns.grant, [source.payload for source in self.i])),
            turns.served.eq(turns.grant & self.o.ready.replicate(self.count)), turns.last.eq(self.o.payload.beat.last),
        ]
        for index, source in enumerate(self.i):
            m.d.comb += source.ready.eq(turns.served[index])
        return m
