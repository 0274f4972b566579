"""What the UltraScale+ block has received: requests of CQ and completions of RC, merged for the core under its credits."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.us_descriptors import AxiStream, CqUser, RcUser, RequestDecode, RequesterCompletion, completion_header
from pagehop.shell.us_incoming import Incoming
from pagehop.tlp import headers
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.credits import CreditGate
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.ordering import PostedState, may_go
from pagehop.tlp.stream import CreditLimits, TlpBeat

__all__ = ["Received", "Requests", "Completions", "Receive"]

#: Beats that wait behind a stream, and at how many of them it stops: those that are on their way there then still have place.
_DEPTH, _STOPS = 16, 16 - Incoming.BEATS - 5

#: Requests that are asked for and have not come, at most. The block counts 32 of them.
_ASKED = 31


class Received(data.StructLayout):
    """A beat for the core. ``units``: data credits of its TLP. ``message``: it is not for the core. ``stamp``: requests that had begun to arrive
    before a completion.
    """
    def __init__(self):
        super().__init__({"beat": TlpBeat(64), "units": 9, "non_posted": 1, "message": 1, "stamp": 7})


def _beat(m, target, aligned, header):
    """Make a beat of what came and of its header."""
    m.d.comb += [
        target.data.eq(aligned.data), target.dwords.eq(aligned.dwords), target.first.eq(aligned.first), target.last.eq(aligned.last),
        target.poisoned.eq(aligned.poisoned), target.header.eq(Mux(aligned.first, Value.cast(header), 0)),
    ]


class Requests(wiring.Component):
    """Requests off CQ with their headers (:class:`RequestDecode`). Messages are dropped when all before them have left, as if they left too.

    Members
    -------
    cq : the stream.
    o : beats.
    began : of :class:`Incoming`. ``ended``: pulses, a TLP has left; ``dropped``: pulses, a message was dropped.
    """
    def __init__(self, *, straddle=False):
        self.straddle = straddle
        super().__init__({
            "cq": In(AxiStream(CqUser())), "o": Out(stream.Signature(Received())), "began": Out(7), "ended": Out(1), "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.incoming = incoming = Incoming(CqUser(), 4, straddle=self.straddle)
        m.submodules.decode = decode = RequestDecode()
        m.submodules.fifo = fifo = LaneFifo(Received(), _DEPTH, direct=True)
        wiring.connect(m, wiring.flipped(self.cq), incoming.axis)
        given, later, latest = incoming.o, *(Signal(incoming.o.shape(), name=f"beat_{stage}") for stage in range(2))
        valid = Signal(2)
        m.d.comb += [
            decode.descriptor.eq(given.descriptor), decode.first_be.eq(given.first_be), decode.last_be.eq(given.last_be),
            self.began.eq(incoming.began),
        ]
        m.d.sync += [
            incoming.room.eq(fifo.level <= _STOPS), later.eq(given), latest.eq(later), valid.eq((valid << 1) | incoming.o_valid),
        ]
        # What the first beat says of a TLP is kept for the others.
        message, non_posted = Signal(), Signal()
        with m.If(valid[1] & latest.first):
            m.d.sync += [message.eq(decode.message), non_posted.eq(decode.non_posted)]
        item, head = fifo.i.payload, fifo.o
        _beat(m, item.beat, latest, decode.header)
        m.d.comb += [
            fifo.i.valid.eq(valid[1]), item.units.eq(decode.units),
            item.non_posted.eq(Mux(latest.first, decode.non_posted, non_posted)), item.message.eq(Mux(latest.first, decode.message, message)),
            self.o.valid.eq(head.valid & ~head.payload.message), self.o.payload.eq(head.payload), head.ready.eq(self.o.ready | head.payload.message),
            self.ended.eq(head.valid & head.ready & head.payload.beat.last),
        ]
        m.d.sync += self.dropped.eq(self.ended & head.payload.message)
        return m


class Completions(wiring.Component):
    """Completions off RC with their headers.

    Members
    -------
    rc : the stream.
    o : beats.
    stamp : in, stored with each.
    """
    def __init__(self, *, straddle=False):
        self.straddle = straddle
        super().__init__({"rc": In(AxiStream(RcUser())), "o": Out(stream.Signature(Received())), "stamp": In(7)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.incoming = incoming = Incoming(RcUser(), 3, straddle=self.straddle)
        m.submodules.fifo = fifo = LaneFifo(Received(), _DEPTH, direct=True)
        wiring.connect(m, wiring.flipped(self.rc), incoming.axis)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        made, item = completion_header(data.View(RequesterCompletion(), incoming.o.descriptor[:96])), Signal(Received())
        header, assignments = made
        m.d.comb += assignments
        made = Signal(Received())
        _beat(m, made.beat, incoming.o, header)
        m.d.comb += made.units.eq(headers.credits_of_dwords(header.length) & header.fmt[1].replicate(9))
        m.d.sync += [
            incoming.room.eq(fifo.level <= _STOPS), item.eq(made), fifo.i.valid.eq(incoming.o_valid),
        ]
        m.d.comb += [fifo.i.payload.eq(item), fifo.i.payload.stamp.eq(self.stamp)]
        return m


class Receive(wiring.Component):
    """Hand to the core what the block has received, TLP by TLP, one beat a cycle, under its credits.

    The block delivers a completion only after the posted requests that came before it (PG213, "Receive Transaction Ordering"): here too it waits for
    the requests that had begun on CQ before. That wait ends, since no request waits for a completion: posted ones get their credits from a core that
    may not make them wait for completions (2.6.1), and non-posted ones have theirs already. They are asked for (``np_req``), at most one in two
    cycles, only as the core has credits for them and for the largest operands, so that none stands on CQ before a posted request (H24).

    Parameters
    ----------
    max_payload : largest payload in bytes that comes.
    cq_straddle, rc_straddle : options of the block.

    Members
    -------
    cq, rc : streams of the block. ``np_req``: ``pcie_cq_np_req``.
    tlps, limits : to the core.
    dropped : pulses, a message was dropped.
    """
    def __init__(self, max_payload=512, *, cq_straddle=False, rc_straddle=False):
        self.max_payload, self.cq_straddle, self.rc_straddle = max_payload, cq_straddle, rc_straddle
        super().__init__({
            "cq": In(AxiStream(CqUser())), "rc": In(AxiStream(RcUser())), "np_req": Out(2),
            "tlps": Out(stream.Signature(TlpBeat(64))), "limits": In(CreditLimits), "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.requests = requests = Requests(straddle=self.cq_straddle)
        m.submodules.completions = completions = Completions(straddle=self.rc_straddle)
        m.submodules.credits = gate = CreditGate(self.max_payload)
        wiring.connect(m, wiring.flipped(self.cq), requests.cq)
        wiring.connect(m, wiring.flipped(self.rc), completions.rc)
        m.d.comb += [gate.limits.eq(self.limits), completions.stamp.eq(requests.began), self.dropped.eq(requests.dropped)]
        older = self._order(m, requests, completions)
        begins = self._merge(m, gate, requests.o, completions.o, older)
        self._ask(m, begins & requests.o.payload.non_posted, requests.o.payload.units)
        return m

    def _order(self, m, requests, completions):
        """Whether requests are here, and which, as it was a cycle ago: what has begun since came after any completion that has got to its head."""
        gone, ended, state = Signal(7), Signal(), Signal(PostedState(7))
        waiting = (requests.began - gone)[:7]
        m.d.sync += [
            ended.eq(requests.ended), gone.eq(gone + ended),
            state.left.eq(gone), state.waiting.eq(waiting), state.none.eq(waiting == 0),
        ]
        return state

    def _merge(self, m, gate, requests, completions, older):
        """Decided a cycle ahead, for the head that stays: a TLP of one beat takes two cycles unless there are credits for two of any size."""
        heads = [requests, completions]
        m.submodules.turns = turns = RoundRobin(2)
        inside, go = Signal(2), Signal(2)
        posted = ~requests.payload.non_posted
        free = ~self.tlps.valid | self.tlps.ready
        posted_class, completion_class = TlpClass.POSTED, TlpClass.COMPLETION
        stays = [head.valid & ~(free & turns.grant[place]) for place, head in enumerate(heads)]
        m.d.sync += [
            # A non-posted request has its credits: it was asked for. Plenty for posted ones is enough for it too, whichever the next head is.
            go[0].eq(gate.plenty[posted_class.value] | (stays[0] & (~posted | gate.fits(posted_class, requests.payload.units)))),
            go[1].eq((gate.plenty[completion_class.value] & older.none) | (stays[1] & may_go(completions.payload.stamp, older) & (
                gate.plenty[completion_class.value] | gate.fits(completion_class, completions.payload.units)))),
        ]
        m.d.comb += [
            *(turns.requests[place].eq(head.valid & (inside[place] | go[place])) for place, head in enumerate(heads)),
            *(head.ready.eq(free & turns.grant[place]) for place, head in enumerate(heads)),
            turns.served.eq(turns.grant & free.replicate(2)), turns.last.eq(select_one(turns.grant, [head.payload.beat.last for head in heads])),
        ]
        with m.If(free):
            m.d.sync += [self.tlps.valid.eq(turns.grant.any()), self.tlps.payload.eq(select_one(turns.grant, [head.payload.beat for head in heads]))]
        for place, head in enumerate(heads):
            with m.If(head.valid & head.ready):
                m.d.sync += inside[place].eq(~head.payload.beat.last)
        begins = turns.served & ~inside
        for kind, spent, head in ((posted_class, begins[0] & posted, requests), (completion_class, begins[1], completions)):
            m.d.comb += [gate.spend[kind.value].eq(spent), gate.spend_data[kind.value].eq(head.payload.units)]
        return begins[0]

    def _ask(self, m, begins, units):
        """Ask for a non-posted request while the core has credits for it besides those that were promised before, each with two units of data."""
        limit = Signal.like(self.limits.non_posted)
        promised, promised_units, asked = Signal(8), Signal(12), Signal(range(_ASKED + 1))
        ask, came, spare = Signal(), Signal(), Signal(2)   # `spare`: data units promised to what came, and not used
        m.d.comb += self.np_req.eq(ask)
        m.d.sync += [
            limit.eq(self.limits.non_posted), came.eq(begins), spare.eq(2 - units[:2]),
            # What is promised in this cycle is counted in the next.
            ask.eq(~ask & (asked < _ASKED - 1) & (
                limit.infinite | ((limit.header != promised) & ((limit.data - promised_units)[1:12] != 0)))),
            asked.eq(asked + ask - came), promised.eq(promised + ask),
            promised_units.eq(promised_units + Mux(ask, 2, 0) - Mux(came, spare, 0)),
        ]
