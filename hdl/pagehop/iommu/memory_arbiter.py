"""One port to memory for all parts of the IOMMU."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from pagehop.iommu.tilelink import SIZE_WORD, CoherentPort, MemoryPort, beats_after_first
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.stream import connect_streams

__all__ = ["MemoryArbiter"]


class MemoryArbiter(wiring.Component):
    """Merge the uncached requests of ``clients`` and the acquires of the line's ``owner`` on channel A, in turns.

    Nothing takes a cycle, in either direction; one beat a cycle. From the first beat of a message to its last no other is sent, and what is offered
    stays until it is taken. Channels B, C and E are the owner's alone and go straight through, so none of them waits for A.

    Each client is a source, by its place in ``clients``, and the owner is the one after the last. A client has one operation open at a time, and
    takes its answer in the cycles in which it comes: ``d.ready`` of clients is not looked at. What clients say as ``source`` does not matter, and
    they are told 0.

    Parameters
    ----------
    clients : how many, at least one.

    Members
    -------
    clients, owner : what is merged. ``port`` : to the home.
    """
    def __init__(self, clients, sink_bits=1):
        if not isinstance(clients, int) or clients < 1:
            raise ValueError(f"Clients of the memory must be one or more, not {clients!r}")
        self.count = clients
        source_bits = bits_for(clients)
        super().__init__({
            "clients": In(MemoryPort()).array(clients), "owner": In(CoherentPort(source_bits, sink_bits)),
            "port": Out(CoherentPort(source_bits, sink_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        sources = [*self.clients, self.owner]
        m.submodules.turns = turns = RoundRobin(len(sources), stays=True)
        a, d, left = self.port.a, self.port.d, Signal(3)     # beats of the message that are still to come
        # Each source's own, chosen by the grant, so that neither waits for the other.
        more = [beats_after_first(source.a.payload.size) for source in sources]
        alone = [source.a.payload.opcode.as_value()[2] | (source.a.payload.size <= SIZE_WORD) for source in sources]
        m.d.comb += [
            turns.requests.eq(Cat(source.a.valid for source in sources)), turns.served.eq(turns.grant & a.ready.replicate(len(sources))),
            turns.last.eq(Mux(left.any(), left == 1, select_one(turns.grant, alone))), a.valid.eq(turns.grant.any()), d.ready.eq(1),
        ]
        with m.If(a.valid & a.ready):
            m.d.sync += left.eq(Mux(left.any(), left - 1, Mux(turns.last, 0, select_one(turns.grant, more))))
        for name in a.payload.shape().members:
            m.d.comb += a.payload[name].eq(select_one(turns.grant, [
                number if name == "source" else source.a.payload[name] for number, source in enumerate(sources)]))
        for number, source in enumerate(sources):
            m.d.comb += [source.a.ready.eq(turns.served[number]), source.d.valid.eq(d.valid & (d.payload.source == number))]
            for name in ("opcode", "param", "size", "denied", "data", "corrupt"):
                m.d.comb += source.d.payload[name].eq(d.payload[name])
        m.d.comb += [self.owner.d.payload.source.eq(self.count), self.owner.d.payload.sink.eq(d.payload.sink)]
        connect_streams(m, self.port.b, self.owner.b)
        connect_streams(m, self.owner.c, self.port.c)
        connect_streams(m, self.owner.e, self.port.e)
        return m
