"""The ordering queue: what may pass what, in one component for every block that forwards TLPs."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.stream import TlpBeat
from pagehop.tlp.through import ThroughFifo

__all__ = ["POSTED", "QueueBeat", "LaneBeat", "Ahead", "PostedState", "OrderingQueue", "mark_bits", "may_go"]

#: Most beats of a lane whose memory is made of look-up tables and read directly.
DIRECT = 64

#: Lane of the posted TLPs in every ordering queue.
POSTED = 0


def mark_bits(most):
    """Bits of a count of TLPs on which marks are set, when ``most`` of them are underway at a time: half the range must exceed them."""
    return most.bit_length() + 1


def may_go(stamp, posted):
    """1 when all posted TLPs counted in ``stamp`` have left, ``posted`` being the queue's.

    Only the numbers from ``left`` on to those accepted last can be waited for. A stamp of long ago, when ``left`` has gone round since, may look
    like one of these: then
    its TLP waits for posted TLPs that are there and will leave, never for one that may not come.
    """
    bits = len(posted.left)
    return (stamp - posted.left - 1)[:bits] >= posted.waiting


class PostedState(data.StructLayout):
    """Posted TLPs of a queue: how many have left, modulo, how many wait in it or in its owner's pipeline, and whether none does."""
    def __init__(self, stamp_bits):
        super().__init__({"left": stamp_bits, "waiting": stamp_bits, "none": 1})


class QueueBeat(data.StructLayout):
    """A beat on its way into an ordering queue of ``lanes`` lanes, with what its owner wants to remember of it (``info``)."""
    def __init__(self, data_bytes, info, lanes):
        super().__init__({"beat": TlpBeat(data_bytes), "info": info, "lane": range(lanes)})


class LaneBeat(data.StructLayout):
    """A beat at the head of a lane. ``stamp``: posted TLPs accepted before it (0 in the posted lane)."""
    def __init__(self, data_bytes, info, stamp_bits):
        super().__init__({"beat": TlpBeat(data_bytes), "info": info, "stamp": stamp_bits})


class Ahead(data.StructLayout):
    """What is known of a TLP, shown ahead of its beats."""
    def __init__(self, info, stamp_bits):
        super().__init__({"info": info, "stamp": stamp_bits})


class OrderingQueue(wiring.Component):
    """Sort one stream of TLPs into lanes that do not block each other, and say which head may go.

    Lane 0 holds the posted TLPs, in order. Every other lane holds non-posted requests or completions, in order within the lane and each stamped with
    the number of posted TLPs accepted before it. The owner pulses ``posted_left`` as posted TLPs leave and takes a head of another lane only
    when ``may_go(stamp, posted)``. So nothing passes a posted TLP, and everything else passes everything else (table 2-40, H24, O1, O3).

    One beat a cycle in, one a cycle out of each lane; 1 cycle through an empty lane. ``i`` stalls only when the lane of its beat is full.
    ``none_older``: in the next cycle no head has a posted TLP before it.

    A lane that is decided upon in several stages has its TLPs shown *ahead*: one item a TLP on ``ahead``, as early as in the cycle in which its first
    beat is accepted, in the order of the beats. So the stages carry what decides and not the beats, which stay where they are. Whoever takes the
    items takes that of a TLP before, or with, its last beat.

    Parameters
    ----------
    data_bytes : beat width in bytes.
    info : layout of what is known of a TLP.
    depths : beats each lane holds in memory, posted lane first.
    relaxed_ordering : completions and requests with data that have RO set may pass posted TLPs (D2b, C2b).
    id_ordering : what has IDO set may pass posted TLPs when all that are queued come from another ID (B2b, C2b, D2b).
    bare : lanes, not the posted one, that only get TLPs of one beat without prefix, whose payload is nothing or 16 bytes. Such a lane stores no more.
    completions : lanes that only get completions, whose headers have three double words. Such a lane does not store the fourth.
    keeps : for each lane, the fields of ``info`` that stay with its beats, and whether ``stamp`` does; the others read 0. All by default.
    ahead : for each lane whose TLPs are shown ahead, the fields of ``info`` that are; the stamp always is.
    outside : posted TLPs that have left the lane and of which the owner waits for one or counts it, at most.
    """
    def __init__(self, data_bytes, info, depths, *, relaxed_ordering=False, id_ordering=False, bare=(), completions=(), keeps=None, ahead=None,
                 outside=16):
        if len(depths) < 2:
            raise ValueError(f"An ordering queue needs a posted lane and at least one other, not {len(depths)} lanes")
        for lane in bare:
            if lane not in range(1, len(depths)):
                raise ValueError(f"A lane of bare headers must be one of 1 to {len(depths) - 1}, not {lane!r}")
        if POSTED in completions:
            raise ValueError(f"The posted lane gets no completions, so lanes of completions must be others, not {completions!r}")
        info = data.Layout.cast(info)
        self.depths = tuple(depths)
        self.bare = tuple(bare)
        self.completions = tuple(completions)
        self.relaxed_ordering = relaxed_ordering
        self.id_ordering = id_ordering
        self.keeps = keeps or [(*(name for name, _ in info), "stamp")] * len(depths)
        self.shown = ahead or {}
        self._info = info
        self.stamp_bits = mark_bits(depths[POSTED] + outside)   # those of the lane, its register, and outside
        self.lane_shape = LaneBeat(data_bytes, info, self.stamp_bits)
        self.ahead_shape = Ahead(info, self.stamp_bits)
        super().__init__({
            "i": In(stream.Signature(QueueBeat(data_bytes, info, len(depths)))),
            "o": Out(stream.Signature(self.lane_shape)).array(len(depths)),
            "ahead": Out(stream.Signature(self.ahead_shape)).array(len(depths)),
            "posted_left": In(1),
            "accepted": Out(self.stamp_bits),
            "posted": Out(PostedState(self.stamp_bits), init={"none": 1}),
            "none_older": Out(1),
            "levels": Out(range(max(depths) + 1)).array(len(depths)),
            "free": Out(len(depths)),
        })

    def elaborate(self, platform):
        m = Module()
        stamp = self._stamp(m)
        enters = Signal()
        m.d.comb += [
            enters.eq(self.i.valid & self.free[POSTED] & self.i.payload.beat.first & (self.i.payload.lane == POSTED)),
            self.none_older.eq(self.posted.waiting == self.posted_left),
        ]
        m.d.sync += [
            self.accepted.eq(self.accepted + enters),
            self.posted.left.eq(self.posted.left + self.posted_left),
            # Not from the sum: whether one enters is known last.
            self.posted.none.eq(~enters & self.none_older),
        ]
        # Whether one enters is known last, and only enables the counter.
        with m.If(enters != self.posted_left):
            m.d.sync += self.posted.waiting.eq(self.posted.waiting + Mux(self.posted_left, -1, 1))
        m.d.comb += self.i.ready.eq(self.free.bit_select(self.i.payload.lane, 1))
        for lane, depth in enumerate(self.depths):
            self._lane(m, lane, depth, 0 if lane == POSTED else stamp)
        for lane, names in self.shown.items():
            self._show(m, lane, names, stamp)
        return m

    def _lane(self, m, lane, depth, stamp):
        names = self.keeps[lane] if lane != POSTED else [name for name in self.keeps[lane] if name != "stamp"]
        beat = {"header": 128, "data": 128} if lane in self.bare else {"beat": self.lane_shape["beat"].shape}
        m.submodules[f"lane{lane}"] = fifo = LaneFifo(data.StructLayout({**beat, **self._fields(names)}), depth, direct=depth <= DIRECT)
        stored, head = fifo.i.payload, self.o[lane].payload
        m.d.comb += [
            fifo.i.valid.eq(self.i.valid & (self.i.payload.lane == lane)),
            self.free[lane].eq(fifo.i.ready),
            self.o[lane].valid.eq(fifo.o.valid),
            fifo.o.ready.eq(self.o[lane].ready),
            self.levels[lane].eq(fifo.level),
        ]
        for name in names:
            if name == "stamp":
                m.d.comb += [stored.stamp.eq(stamp), head.stamp.eq(fifo.o.payload.stamp)]
            else:
                m.d.comb += [stored[name].eq(self.i.payload.info[name]), head.info[name].eq(fifo.o.payload[name])]
        if lane in self.bare:
            m.d.comb += [
                stored.header.eq(self.i.payload.beat.header), head.beat.header.eq(fifo.o.payload.header), head.beat.first.eq(1), head.beat.last.eq(1),
                stored.data.eq(self.i.payload.beat.data), head.beat.data.eq(fifo.o.payload.data),
                head.beat.dwords.eq(Mux(headers.has_data(fifo.o.payload.header), 4, 0)),
            ]
        else:
            m.d.comb += [stored.beat.eq(self.i.payload.beat), head.beat.eq(fifo.o.payload.beat)]
        if lane in self.completions:
            # Bits of a memory that are never anything but 0 take no place in it.
            m.d.comb += data.View(headers.CompletionHeader(), stored.beat.header).dw3.eq(0)

    def _fields(self, names):
        """Shapes of these fields of ``info`` and of the stamp."""
        return {name: self.stamp_bits if name == "stamp" else self._info[name].shape for name in names}

    def _show(self, m, lane, names, stamp):
        """As many items as beats: the lane is full first."""
        names = (*names, "stamp") if lane != POSTED else names
        depth = self.depths[lane]
        m.submodules[f"ahead{lane}"] = fifo = ThroughFifo(data.StructLayout(self._fields(names)), depth, direct=depth <= DIRECT)
        shown = self.ahead[lane]
        m.d.comb += [
            fifo.i.valid.eq(self.i.valid & self.i.payload.beat.first & (self.i.payload.lane == lane) & self.free[lane]),
            shown.valid.eq(fifo.o.valid), fifo.o.ready.eq(shown.ready),
        ]
        for name in names:
            if name == "stamp":
                m.d.comb += [fifo.i.payload.stamp.eq(stamp), shown.payload.stamp.eq(fifo.o.payload.stamp)]
            else:
                m.d.comb += [fifo.i.payload[name].eq(self.i.payload.info[name]), shown.payload.info[name].eq(fifo.o.payload[name])]

    def _stamp(self, m):
        """Stamp of the beat on ``i``: all posted TLPs so far, or those gone already when the attributes let it pass the others."""
        if not (self.relaxed_ordering or self.id_ordering):
            return self.accepted
        header = self.i.payload.beat.header
        request = data.View(headers.RequestHeader(), header)
        completion = data.View(headers.CompletionHeader(), header)
        free = Signal()
        if self.relaxed_ordering:
            # RO lets a read pass nothing; only its completion inherits the permission.
            with m.If(request.relaxed_ordering & (headers.is_completion(header) | headers.has_data(header))):
                m.d.comb += free.eq(1)
        if self.id_ordering:
            posted_id, one_id = Signal(16), Signal(init=1)
            own_id = Signal(16)
            m.d.comb += own_id.eq(Mux(headers.is_completion(header), completion.completer_id, request.requester_id))
            with m.If(request.id_ordering & one_id & (own_id != posted_id)):
                m.d.comb += free.eq(1)
            with m.If(self.i.valid & self.i.ready & self.i.payload.beat.first & (self.i.payload.lane == POSTED)):
                m.d.sync += posted_id.eq(request.requester_id)
                with m.If(self.posted.waiting == 0):
                    m.d.sync += one_id.eq(1)
                with m.Elif(request.requester_id != posted_id):
                    m.d.sync += one_id.eq(0)
        return Mux(free, self.posted.left, self.accepted)
