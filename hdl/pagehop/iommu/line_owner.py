"""The one cacheline that the IOMMU can own, so that nobody sees or changes it while an entry in it is compared and written."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.iommu.tilelink import DATA_BITS, LINE_ADDRESS_BITS, LINE_BEATS, SIZE_LINE, CoherentPort, Grow, OpA, OpB, OpC, OpD, Shrink

__all__ = ["LIMIT_BITS", "LineEnd", "LineOwner", "LinePort"]

#: Of the number of cycles for which a probe can be kept waiting.
LIMIT_BITS = 16


class LineEnd(enum.Enum, shape=2):
    """How it ended: the user gave the line back, a probe took it before, or the home refused it or had lost its data."""
    RELEASED = 0
    LOST     = 1
    FAILED   = 2


class LinePort(wiring.Signature):
    """User's side of a :class:`LineOwner`. Each line that was asked for ends in one cycle of ``ended``, once.

    Members
    -------
    acquire : the line to own, its address in lines.
    owned : the line is here, for one cycle at least, and may be edited.
    index, entry : which word of the line, and what it is, in the same cycle: while ``owned``, and in the cycle before.
    edit : in a cycle of ``owned``, the word gets ``value``, which leaves with the line.
    hold : a probe for the line is kept waiting, for up to the owner's ``limit`` of cycles.
    release : while ``owned``: give the line back, with what is edited in the same cycle, which is the last of ``owned``.
    touched : somebody else wants the line: a probe for it waits.
    ended, end : the line has gone, and what was edited is what everybody sees. RELEASED: with ``release``, so all that was to be edited is in it.
    """
    def __init__(self):
        super().__init__({
            "acquire": Out(stream.Signature(LINE_ADDRESS_BITS)), "owned": In(1),
            "index": Out(exact_log2(LINE_BEATS)), "entry": In(DATA_BITS), "edit": Out(1), "value": Out(DATA_BITS),
            "hold": Out(1), "release": Out(1), "touched": In(1), "ended": In(1), "end": In(LineEnd),
        })


class _Probe(data.Struct):
    """What is kept of a probe."""
    address:      LINE_ADDRESS_BITS
    without_data: 1


class LineOwner(wiring.Component):
    """A cache of one line, which is a tip (TileLink's T) or nothing.

    With a home that grants after L cycles and acknowledges after L', a line is ``owned`` 9 + L cycles after ``acquire`` was taken (the 8 beats of the
    grant, and its acknowledgement), and has ``ended`` 8 + L' cycles after ``release`` when it was edited, 1 + L' when not.

    A probe is answered by giving up all, whatever it lets us keep, and is itself the answer to ``release`` when it was there first. Probes for other
    lines, for this one before its grant, and for what has gone already are answered with N_TO_N from the second cycle after they come on; one for
    the line from the third, or when ``hold`` falls, or when ``limit`` cycles have gone by, which bounds every hold (H30). Before that stand one other
    answer and one message of the line at most: 13 cycles and ``limit`` bound it, those apart in which the home does not take what is sent. One that
    meets the line's own release waits for the acknowledgement of that, as TileLink asks. None of it waits for channel A.

    A grant that is refused, brings no data, or is corrupt in any beat ends with FAILED, and the line goes back unchanged.

    Parameters
    ----------
    source : of all that is sent. Probes come to this source, and are for whole lines.

    Members
    -------
    port : coherent port; ``d`` is always ready. ``data`` of a message on ``c`` that has none may change while it waits.
    user : who wants to own lines.
    limit : cycles for which ``hold`` counts, from when a probe is seen to be for the line; 0: none.
    """
    def __init__(self, source=0, source_bits=1, sink_bits=1):
        if source not in range(1 << source_bits):
            raise ValueError(f"Source of the line owner must have {source_bits} bits, not {source!r}")
        self.source = source
        super().__init__({"port": Out(CoherentPort(source_bits, sink_bits)), "user": In(LinePort()), "limit": In(LIMIT_BITS)})

    def elaborate(self, platform):
        m = Module()
        self._line, self._place = Signal(LINE_ADDRESS_BITS), Signal(range(LINE_BEATS))   # the beat that comes or goes
        # What the home thinks that we have, since when it began to come; whether memory has something else; whether the user gets nothing of it.
        self._has, self._begun, self._dirty, self._failed = Signal(), Signal(), Signal(), Signal()
        self._waiting, self._without_data = Signal(), Signal()   # a probe for the line, and that it wants no data
        self._voluntary, self._released = Signal(), Signal()     # the line goes, or went: unasked; because the user said so
        self._giving, self._gone, self._other = Signal(), Signal(), Signal()
        port, user, request = self.port, self.user, self.port.a.payload
        m.d.comb += [
            port.d.ready.eq(1), user.touched.eq(self._waiting), request.opcode.eq(OpA.ACQUIRE_BLOCK), request.param.eq(Grow.N_TO_T),
            request.size.eq(SIZE_LINE), request.source.eq(self.source), request.mask.eq(~0),
            request.address.eq(Cat(Const(0, SIZE_LINE), user.acquire.payload)),
            user.end.eq(Mux(self._failed, LineEnd.FAILED, Mux(self._released, LineEnd.RELEASED, LineEnd.LOST))),
        ]
        with m.FSM():
            with m.State("idle"):
                self._acquire(m)
            with m.State("grant"), m.If(port.d.valid):
                self._grant(m)
            with m.State("acknowledge"):
                m.d.comb += port.e.valid.eq(1)
                with m.If(port.e.ready):
                    m.next = "owned"
                    with m.If(~self._has):
                        self._end(m)
            with m.State("owned"):
                self._own(m)
            with m.State("give"):
                self._give(m)
            with m.State("released"), m.If(port.d.valid):
                self._end(m)
        self._probes(m)
        self._words(m)
        return m

    def _acquire(self, m):
        acquire = self.user.acquire
        m.d.comb += [self.port.a.valid.eq(acquire.valid), acquire.ready.eq(self.port.a.ready)]
        m.d.sync += [self._line.eq(acquire.payload), self._failed.eq(0), self._released.eq(0)]
        with m.If(acquire.valid & self.port.a.ready):
            m.next = "grant"

    def _grant(self, m):
        answer = self.port.d.payload
        alone = answer.opcode == OpD.GRANT
        m.d.sync += [
            self._begun.eq(1), self._has.eq(~answer.denied), self._failed.eq(self._failed | answer.denied | answer.corrupt | alone),
            self.port.e.payload.sink.eq(answer.sink), self._place.eq(self._place + ~alone),
        ]
        with m.If(alone | self._place.all()):
            m.next = "acknowledge"

    def _own(self, m):
        user, left = self.user, Signal(LIMIT_BITS)
        m.d.comb += user.owned.eq(~self._failed)
        with m.If(~self._waiting):
            m.d.sync += left.eq(self.limit)
        with m.Elif(left.any()):
            m.d.sync += left.eq(left - 1)
        with m.If(user.owned & user.edit):
            m.d.sync += self._dirty.eq(1)
        with m.If(self._failed | user.release | (self._waiting & ~(user.hold & left.any()))):
            m.d.sync += [self._voluntary.eq(~self._waiting), self._released.eq(user.release)]
            m.next = "give"

    def _give(self, m):
        """Send what tells the home that we have nothing any more: a release, an answer to a probe, or both in turn when they crossed."""
        message = self.port.c.payload
        carries = self._dirty & ~(self._without_data & ~self._voluntary)
        m.d.comb += [
            self._giving.eq(1), message.opcode.as_value().eq(Cat(carries, self._voluntary, 1)),
            message.param.eq(Mux(self._has, Shrink.T_TO_N, Shrink.N_TO_N)),
        ]
        with m.If(self.port.c.ready & ~self._other):
            m.d.sync += self._place.eq(self._place + carries)
            with m.If(~carries | self._place.all()):
                m.d.sync += [self._has.eq(0), self._dirty.eq(0)]
                m.next = "released"
                with m.If(~self._voluntary):
                    m.d.sync += [self._waiting.eq(0), self._begun.eq(0)]
                    m.d.comb += self.user.ended.eq(self._has)
                    m.next = "idle"

    def _end(self, m):
        """The line has gone; a probe that came meanwhile is answered now, from nothing."""
        m.d.comb += [self.user.ended.eq(1), self._gone.eq(1)]
        m.d.sync += [self._begun.eq(0), self._voluntary.eq(0)]
        m.next = "idle"
        with m.If(self._waiting):
            m.next = "give"

    def _probes(self, m):
        """Keep a probe for the line aside, and answer the others, for which there is one place, between the messages of the line."""
        b, c = self.port.b, self.port.c
        probe, valid, ours = Signal(_Probe), Signal(), Signal()
        m.d.comb += [b.ready.eq(~valid), ours.eq(self._begun & (probe.address == self._line))]
        with m.If(b.ready):
            m.d.sync += [
                valid.eq(b.valid), probe.address.eq(b.payload.address[SIZE_LINE:]), probe.without_data.eq(b.payload.opcode == OpB.PROBE_PERM),
            ]
        with m.Elif(self._other):
            with m.If(c.ready):
                m.d.sync += [self._other.eq(0), valid.eq(0)]
        with m.Elif(~ours):
            m.d.sync += self._other.eq(~self._giving)
        # In the cycle in which the line goes it is too late to be asked for it, and too early for the other answer.
        with m.Elif(~self._waiting & ~self._gone):
            m.d.sync += [self._waiting.eq(1), self._without_data.eq(probe.without_data), valid.eq(0)]
        message = c.payload
        m.d.comb += [
            c.valid.eq(self._other | self._giving), message.size.eq(SIZE_LINE), message.source.eq(self.source),
            message.address.eq(Cat(Const(0, SIZE_LINE), Mux(self._other, probe.address, self._line))),
        ]
        with m.If(self._other):
            m.d.comb += [message.opcode.eq(OpC.PROBE_ACK), message.param.eq(Shrink.N_TO_N)]

    def _words(self, m):
        """The line itself: written as it comes and by edits, read as it goes and by the user."""
        user = self.user
        m.submodules.words = words = memory.Memory(shape=DATA_BITS, depth=LINE_BEATS, init=[])
        write, read = words.write_port(), words.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(Mux(user.owned, user.edit, self.port.d.valid)),
            write.addr.eq(Mux(user.owned, user.index, self._place)), write.data.eq(Mux(user.owned, user.value, self.port.d.payload.data)),
            read.addr.eq(Mux(self._giving, self._place, user.index)), user.entry.eq(read.data), self.port.c.payload.data.eq(read.data),
        ]
