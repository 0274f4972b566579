"""The way out of a port: places fixed in order, TLPs sent as the partner's credits allow."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.arbiter import RoundRobin, TlpArbiter, select_one
from pagehop.tlp.credits import CreditGate
from pagehop.tlp.cutter import LEAST_LIMIT, LIMIT_BITS, Cutter, Cutting, cutting_of
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.ordering import POSTED, OrderingQueue, may_go
from pagehop.tlp.stream import CreditLimits, TlpBeat, connect_streams
from pagehop.tlp.watchdog import PortState, PortWatch, Watchdog

__all__ = ["EgressBeat", "EgressLane", "Egress"]


class EgressLane:
    """Lanes of an egress. Requests that a block makes itself have a lane of their own, so that no other requester's reads stand before them (D8)."""
    POSTED     = POSTED
    COMPLETION = 1
    NON_POSTED = 2
    ENGINE     = 3   # of one beat, with two operands of 8 bytes or none


#: Class whose credits each lane uses.
LANE_CLASS = (TlpClass.POSTED, TlpClass.COMPLETION, TlpClass.NON_POSTED, TlpClass.NON_POSTED)

#: Lanes with TLPs that may have to be cut.
_LANES_CUT = (EgressLane.POSTED, EgressLane.COMPLETION)

#: Lanes of requests, which are answered when they are discarded.
_REQUEST_LANES = (EgressLane.NON_POSTED, EgressLane.ENGINE)


class EgressBeat(data.StructLayout):
    """A beat on its way to an egress, and the lane it belongs to there.

    ``to_memory``: a write to memory that may be read as well, which not every posted write is (an MSI is none).
    """
    def __init__(self, data_bytes=64):
        super().__init__({"beat": TlpBeat(data_bytes), "lane": 2, "to_memory": 1})


class _Arriving(data.StructLayout):
    """The same, and how the TLP is to be cut."""
    def __init__(self, data_bytes):
        super().__init__({**{name: field.shape for name, field in EgressBeat(data_bytes)}, "cutting": Cutting})


class Egress(wiring.Component):
    """Merge ``sources`` TLP by TLP, fix the place of each, send them under the partner's credits.

    A TLP is accepted with its last beat on ``i``; from then on nothing accepted later that may not pass it leaves before it (O2, O3). Two cycles
    from ``i`` to ``tx`` when idle, one beat a cycle. Nothing waits here but for credits and for posted TLPs that stand before it (D2).
    A source begins a TLP only while ``room`` of its lane is 1; then its place is there, and ``i`` never stalls for longer than the other sources'
    turns (D1).

    While the watchdog says that the partner is down, each TLP leaves its lane as it would with endless credits, one beat a cycle, and goes nowhere;
    no credits are spent. What is decided at its first beat holds for a whole TLP, so on ``tx`` all are whole. A partner that is down takes what it
    has begun to take, as it must everything within its credits (:class:`TlpPort`). The last beat may stay on ``tx``: nothing waits for it.

    What exceeds the port's limit of payload when it is accepted is cut when it leaves its lane (:class:`Cutter`), so that all that is decided about
    a TLP between, its place above all, holds for its pieces, and credits are those of the pieces. Other TLPs may leave between two pieces, but
    none that may not pass the whole.

    Parameters
    ----------
    data_bytes : beat width in bytes.
    sources : streams that are merged.
    depths : beats each lane holds: posted, completion, non-posted, engine.
    max_payload : largest payload in bytes; room for one such TLP and a little more is kept for each source.
    clear_ido : clear the ID-based ordering bit of everything that leaves (H62).
    writers : how many of the sources use each lane, all by default.

    Members
    -------
    room : one bit a lane; follows the level within 3 cycles.
    posted : a posted TLP is accepted in this cycle. ``posted_address``: address of the last that went to memory.
    payload_limit : coded, see :data:`LIMIT_BITS`. ``strip_hints``: requests leave without steering tags, which name caches of one host (H24c).
    watch, state : of the :class:`Watchdog`.
    refused : header of each request that is discarded, always ready; none is discarded two cycles after ``refused_room`` was 0.
    discarded : pulses, a bit a class (:class:`TlpClass`).
    """
    def __init__(self, data_bytes, sources, depths, *, max_payload=256, clear_ido=False, writers=None):
        self.data_bytes = data_bytes
        self.sources = sources
        self.depths = tuple(depths)
        self.clear_ido = clear_ido
        self.max_payload = max_payload
        self.cuts = max_payload > LEAST_LIMIT
        self.writers = (sources,) * len(depths) if writers is None else tuple(writers)
        self.margins = tuple(4 + number * self._begun(lane) for lane, number in enumerate(self.writers))
        for lane, (depth, margin) in enumerate(zip(self.depths, self.margins, strict=True)):
            if depth <= margin:
                raise ValueError(f"Egress lane {lane} must hold more than {margin} beats for {self.writers[lane]} sources and "
                                 f"{max_payload} byte payloads, not {depth}")
        super().__init__({
            "i": In(stream.Signature(EgressBeat(data_bytes))).array(sources),
            "room": Out(len(depths)),
            "tx": Out(stream.Signature(TlpBeat(data_bytes))),
            "limits": In(CreditLimits),
            "posted": Out(1),
            "posted_address": Out(64),
            "payload_limit": In(LIMIT_BITS), "strip_hints": In(1),
            "watch": In(PortWatch), "state": Out(PortState),
            "refused": Out(stream.Signature(headers.RequestHeader())), "refused_room": In(1), "discarded": Out(3),
        })

    def _begun(self, lane):
        """Beats that a source may have begun to send since the level was last seen, which was a few cycles ago."""
        if lane == EgressLane.NON_POSTED:
            # A source has one request at a time between its choice and its acceptance, of two operands of 16 bytes at most: the one that was just
            # accepted, and the next.
            return 2 * max(1, 32 // self.data_bytes)
        # One large TLP and three of one beat: its issue register, and one that it decided on a cycle ahead.
        return 4 + (2 if LANE_CLASS[lane] == TlpClass.NON_POSTED else max(1, self.max_payload // self.data_bytes))

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = TlpArbiter(_Arriving(self.data_bytes), self.sources)
        keeps = [("cut", "end", "units", "stamp") if self.cuts and lane in _LANES_CUT else ("stamp",) for lane in range(len(self.depths))]
        m.submodules.queue = queue = OrderingQueue(self.data_bytes, Cutting, self.depths,
                                                   bare=range(EgressLane.ENGINE, len(self.depths)), completions=(EgressLane.COMPLETION,),
                                                   keeps=keeps)
        for source, sink in zip(self.i, arbiter.i, strict=True):
            arriving = source.payload
            m.d.comb += [
                sink.valid.eq(source.valid), source.ready.eq(sink.ready),
                *(sink.payload[name].eq(arriving[name]) for name in ("beat", "lane", "to_memory")),
                # Found out for all sources at the same time: behind the choice it would be late.
                *(sink.payload.cutting[name].eq(value) for name, value in cutting_of(arriving.beat.header, self.payload_limit).items()),
            ]
        self._accept(m, arbiter.o, queue)
        for lane in range(len(self.depths)):
            m.d.sync += self.room[lane].eq(queue.levels[lane] <= self.depths[lane] - self.margins[lane])
        self._send(m, queue)
        return m

    def _accept(self, m, source, queue):
        """Room was seen to before the TLP was begun, so no lane is full and none is asked."""
        m.d.comb += [
            queue.i.valid.eq(source.valid),
            source.ready.eq(1),
            queue.i.payload.beat.eq(source.payload.beat),
            queue.i.payload.lane.eq(source.payload.lane),
            queue.i.payload.info.eq(source.payload.cutting),
        ]
        with m.If(self.strip_hints):
            m.d.comb += queue.i.payload.beat.header.eq(headers.without_hints(source.payload.beat.header))
            with m.If(source.payload.beat.prefix[24:] == headers.HINT_PREFIX):
                m.d.comb += [queue.i.payload.beat.prefix.eq(0), queue.i.payload.beat.prefix_valid.eq(0)]
        if self.clear_ido:
            cleared = data.View(headers.RequestHeader(), queue.i.payload.beat.header)
            m.d.comb += cleared.id_ordering.eq(0)
        taken = source.valid & (source.payload.lane == POSTED)
        m.d.comb += self.posted.eq(taken & source.payload.beat.last)
        with m.If(taken & source.payload.beat.first & source.payload.to_memory):
            m.d.sync += self.posted_address.eq(headers.address_of(source.payload.beat.header))

    def _send(self, m, queue):
        lanes = range(len(self.depths))
        m.submodules.credits = gate = CreditGate(self.max_payload)
        m.submodules.turns = turns = RoundRobin(len(self.depths))
        m.submodules.watchdog = watchdog = Watchdog(len(self.depths))
        inside = Signal(len(self.depths))   # which lane is in the middle of a TLP, whose credits are spent
        free, loads, chosen = Signal(), Signal(), turns.grant
        heads, units, amid = zip(*(self._cut(m, lane, queue.o[lane]) for lane in lanes), strict=True)
        discards, waits = watchdog.discards, Signal(len(self.depths))
        m.d.comb += [
            gate.limits.eq(self.limits),
            watchdog.watch.eq(self.watch), self.state.eq(watchdog.state), watchdog.waits.eq(waits),
            # A TLP of which a piece was discarded is discarded whole.
            watchdog.begun.eq(inside.any() | (discards & Cat(amid).any())),
        ]
        for lane, head in zip(lanes, heads, strict=True):
            # Decided a cycle ahead, for any head while there are plenty of credits and no posted TLPs, for this one while it stays.
            # Which class a lane draws from is fixed; two lanes of one class share its counters.
            kind, go = LANE_CLASS[lane], Signal(name=f"go_{lane}")
            none_older, passes = (1, 1) if lane == POSTED else (queue.none_older, may_go(queue.o[lane].payload.stamp, queue.posted))
            plenty = gate.plenty[kind.value] | discards
            stays = head.valid & ~(loads & chosen[lane])
            closed = watchdog.closed | (discards & ~self.refused_room if lane in _REQUEST_LANES else 0)
            m.d.sync += [
                go.eq(((plenty & none_older) | (stays & passes & (plenty | gate.fits(kind, units[lane])))) & ~closed),
                waits[lane].eq(stays & passes),
            ]
            m.d.comb += [
                turns.requests[lane].eq(head.valid & (inside[lane] | go)),
                head.ready.eq(loads & chosen[lane]),
            ]
        ends = select_one(chosen, [head.payload.last for head in heads])
        m.d.comb += [
            free.eq(~self.tx.valid | self.tx.ready), loads.eq(free | discards),
            turns.last.eq(ends), turns.served.eq(turns.grant & loads.replicate(len(self.depths))),
        ]
        whole = queue.o[POSTED]
        m.d.sync += queue.posted_left.eq(whole.valid & whole.ready & whole.payload.beat.last)
        with m.If(free):
            m.d.sync += [self.tx.valid.eq(chosen.any() & ~discards), self.tx.payload.eq(select_one(chosen, [head.payload for head in heads]))]
        for lane, head in zip(lanes, heads, strict=True):
            with m.If(loads & chosen[lane]):
                m.d.sync += inside[lane].eq(~head.payload.last)
        begins = [loads & chosen[lane] & ~inside[lane] for lane in lanes]
        for kind in TlpClass:
            drawing = [lane for lane in lanes if LANE_CLASS[lane] == kind]
            m.d.comb += [
                gate.spend[kind.value].eq(Cat(begins[lane] for lane in drawing).any() & ~discards),
                gate.spend_data[kind.value].eq(select_one([chosen[lane] for lane in drawing], [units[lane] for lane in drawing])),
            ]
        self._discard(m, [begin & discards for begin in begins], [head.payload.header for head in heads])

    def _cut(self, m, lane, head):
        """Beats that leave the lane whose head this is, as its TLPs are, or as pieces; data credits of what begins there; and whether pieces of a TLP
        have left but not all. A head stays until its last piece has left."""
        out = stream.Signature(TlpBeat(self.data_bytes)).create(path=(f"leaving_{lane}",))
        if self.cuts and lane in _LANES_CUT:
            m.submodules[f"cutter_{lane}"] = cutter = Cutter(self.data_bytes, completions=lane == EgressLane.COMPLETION)
            connect_streams(m, cutter.o, out)
            m.d.comb += [
                cutter.i.valid.eq(head.valid), head.ready.eq(cutter.i.ready),
                cutter.i.payload.beat.eq(head.payload.beat), cutter.i.payload.cutting.eq(head.payload.info),
            ]
            return out, cutter.units, cutter.amid
        m.d.comb += [out.valid.eq(head.valid), out.payload.eq(head.payload.beat), head.ready.eq(out.ready)]
        return out, self._units(lane, out.payload.header), Const(0, 1)

    def _discard(self, m, begins, heads):
        """Count what begins to be discarded, and hand over the headers of requests."""
        requests = [lane for lane in range(len(begins)) if lane in _REQUEST_LANES]
        for kind in TlpClass:
            m.d.sync += self.discarded[kind.value].eq(Cat(begin for begin, of in zip(begins, LANE_CLASS, strict=False) if of == kind).any())
        m.d.sync += [
            self.refused.valid.eq(Cat(begins[lane] for lane in requests).any()),
            self.refused.payload.eq(select_one([begins[lane] for lane in requests], [heads[lane] for lane in requests])),
        ]

    @staticmethod
    def _units(lane, header):
        """Data credits of the TLP with this header. Where there is data its length is never 0, which would stand for 4096 bytes."""
        fields = data.View(headers.RequestHeader(), header)
        return fields.fmt[1] if lane == EgressLane.ENGINE else Mux(fields.fmt[1], headers.credits_of_dwords(fields.length), 0)
