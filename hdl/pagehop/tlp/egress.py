"""The way out of a port: places fixed in order, TLPs sent as the partner's credits allow."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.arbiter import RoundRobin, TlpArbiter, select_one
from pagehop.tlp.credits import CreditGate
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.ordering import POSTED, OrderingQueue, head_may_go
from pagehop.tlp.stream import CreditLimits, TlpBeat

__all__ = ["EgressBeat", "EgressLane", "Egress"]


class EgressLane:
    """Lanes of an egress. Requests that a block makes itself have a lane of their own, so that no other requester's reads stand before them (D8)."""
    POSTED     = POSTED
    COMPLETION = 1
    NON_POSTED = 2
    ENGINE     = 3   # reads only, whose header is all there is


#: Class whose credits each lane uses.
LANE_CLASS = (TlpClass.POSTED, TlpClass.COMPLETION, TlpClass.NON_POSTED, TlpClass.NON_POSTED)


class EgressBeat(data.StructLayout):
    """A beat on its way to an egress, and the lane it belongs to there.

    ``to_memory``: a write to memory that may be read as well, which not every posted write is (an MSI is none).
    """
    def __init__(self, data_bytes=64):
        super().__init__({"beat": TlpBeat(data_bytes), "lane": 2, "to_memory": 1})


class Egress(wiring.Component):
    """Merge ``sources`` TLP by TLP, fix the place of each, send them under the partner's credits.

    A TLP is accepted with its last beat on ``i``; from then on nothing accepted later that may not pass it leaves before it (O2, O3). Two cycles
    from ``i`` to ``tx`` when idle, one beat a cycle. Nothing waits here but for credits and for posted TLPs that stand before it (D2).
    A source begins a TLP only while ``room`` of its lane is 1; then ``i`` never stalls for longer than the other sources' turns (D1).

    Parameters
    ----------
    data_bytes : beat width in bytes.
    sources : streams that are merged.
    depths : beats each lane holds: posted, completion, non-posted, engine.
    max_payload : largest payload in bytes; room for one such TLP and a little more is kept for each source.
    clear_ido : clear the ID-based ordering bit of everything that leaves (H62).

    Members
    -------
    room : one bit a lane; follows the level within 3 cycles.
    posted : a posted TLP is accepted in this cycle. ``posted_address``: address of the last that went to memory.
    """
    def __init__(self, data_bytes, sources, depths, *, max_payload=256, clear_ido=False):
        self.data_bytes = data_bytes
        self.sources = sources
        self.depths = tuple(depths)
        self.clear_ido = clear_ido
        self.max_payload = max_payload
        beats = max(1, max_payload // data_bytes)
        # A source may have begun one large TLP and three of one beat (its issue register, and one that it decided on a cycle ahead) when the level
        # was last seen, and that was a few cycles ago.
        self.margins = tuple(4 + sources * (4 + (beats if LANE_CLASS[lane] != TlpClass.NON_POSTED else 2)) for lane in range(len(depths)))
        for lane, (depth, margin) in enumerate(zip(self.depths, self.margins, strict=True)):
            if depth <= margin:
                raise ValueError(f"Egress lane {lane} must hold more than {margin} beats for {sources} sources and "
                                 f"{max_payload} byte payloads, not {depth}")
        super().__init__({
            "i": In(stream.Signature(EgressBeat(data_bytes))).array(sources),
            "room": Out(len(depths)),
            "tx": Out(stream.Signature(TlpBeat(data_bytes))),
            "limits": In(CreditLimits),
            "posted": Out(1),
            "posted_address": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        sorted_beat = data.StructLayout({**{name: field.shape for name, field in EgressBeat(self.data_bytes)}, "credits": 9})
        m.submodules.arbiter = arbiter = TlpArbiter(sorted_beat, self.sources)
        m.submodules.queue = queue = OrderingQueue(self.data_bytes, data.StructLayout({"credits": 9}), self.depths,
                                                   bare=range(EgressLane.ENGINE, len(self.depths)))
        for source, sink in zip(self.i, arbiter.i, strict=True):
            # Only who can be taken takes part, so the choice need not wait for the lane of the chosen. Nor for the size of what it chose.
            header = source.payload.beat.header
            fields = data.View(headers.RequestHeader(), header)
            m.d.comb += [
                sink.valid.eq(source.valid & queue.free.bit_select(source.payload.lane, 1)), source.ready.eq(sink.ready & sink.valid),
                *(sink.payload[name].eq(source.payload[name]) for name, _ in EgressBeat(self.data_bytes)),
                sink.payload.credits.eq(Mux(headers.has_data(header), headers.credits_of_dwords(Cat(fields.length, fields.length == 0)), 0)),
            ]
        self._accept(m, arbiter.o, queue)
        for lane in range(len(self.depths)):
            m.d.sync += self.room[lane].eq(queue.levels[lane] <= self.depths[lane] - self.margins[lane])
        self._send(m, queue)
        return m

    def _accept(self, m, source, queue):
        header = source.payload.beat.header
        m.d.comb += [
            queue.i.valid.eq(source.valid),
            source.ready.eq(1),
            queue.i.payload.beat.eq(source.payload.beat),
            queue.i.payload.lane.eq(source.payload.lane),
            queue.i.payload.info.credits.eq(source.payload.credits),
        ]
        if self.clear_ido:
            cleared = data.View(headers.RequestHeader(), queue.i.payload.beat.header)
            m.d.comb += cleared.id_ordering.eq(0)
        taken = source.valid & source.ready & (source.payload.lane == POSTED)
        m.d.comb += self.posted.eq(taken & source.payload.beat.last)
        with m.If(taken & source.payload.beat.first & source.payload.to_memory):
            m.d.sync += self.posted_address.eq(headers.address_of(header))

    def _send(self, m, queue):
        lanes = range(len(self.depths))
        m.submodules.credits = gate = CreditGate(self.max_payload)
        m.submodules.turns = turns = RoundRobin(len(self.depths))
        # Which lanes may begin a TLP or go on with theirs, and which is in the middle of one, whose credits are spent.
        asks, inside = Signal(len(self.depths), init=-1), Signal(len(self.depths))
        loads, chosen = Signal(), turns.grant
        heads = [queue.o[lane] for lane in lanes]
        m.d.comb += gate.limits.eq(self.limits)
        for lane, head in zip(lanes, heads, strict=True):
            # Which class a lane draws from is fixed; two lanes of one class share its counters.
            enough = gate.lets(m, LANE_CLASS[lane], head, head.payload.info.credits)
            passed = 1 if lane == POSTED else head_may_go(m, head, head.payload.stamp, queue.posted)
            m.d.comb += [
                turns.requests[lane].eq(asks[lane] & head.valid & (inside[lane] | (enough & passed))),
                head.ready.eq(loads & chosen[lane]),
            ]
        m.d.comb += [loads.eq(~self.tx.valid | self.tx.ready), turns.advance.eq(loads)]
        m.d.sync += queue.posted_left.eq(0)
        with m.If(loads):
            m.d.sync += [self.tx.valid.eq(chosen.any()), self.tx.payload.eq(select_one(chosen, [head.payload.beat for head in heads]))]
        for lane, head in zip(lanes, heads, strict=True):
            with m.If(loads & chosen[lane]):
                m.d.sync += [inside[lane].eq(~head.payload.beat.last), asks.eq(Mux(head.payload.beat.last, -1, 1 << lane))]
                if lane == POSTED:
                    m.d.sync += queue.posted_left.eq(head.payload.beat.last)
        for kind in TlpClass:
            drawing = [lane for lane in lanes if LANE_CLASS[lane] == kind]
            m.d.comb += [
                gate.spend[kind.value].eq(loads & Cat(chosen[lane] & ~inside[lane] for lane in drawing).any()),
                gate.spend_data[kind.value].eq(heads[drawing[0]].payload.info.credits),
            ]
            for lane in drawing[1:]:
                with m.If(chosen[lane]):
                    m.d.comb += gate.spend_data[kind.value].eq(heads[lane].payload.info.credits)
