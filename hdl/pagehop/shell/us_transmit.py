"""What the core sends, to the UltraScale+ block: requests on RQ, completions on CC, none before a posted request that it may not pass."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.shell.us_descriptors import (
    AxiStream,
    CcUser,
    CompleterCompletion,
    RequesterRequest,
    RqUser,
    carried,
    completer_completion,
    requester_request,
)
from pagehop.shell.us_outgoing import Departing, Outgoing
from pagehop.tlp import headers
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.credits import CreditReturn, lane_credits
from pagehop.tlp.headers import RequestHeader, TlpClass
from pagehop.tlp.ordering import OrderingQueue, PostedState, may_go
from pagehop.tlp.stream import CreditLimits, TlpBeat

__all__ = ["Lane", "Returns", "Transmit"]


class Lane:
    """Lanes of the queue, numbered as :class:`TlpClass`."""
    POSTED, NON_POSTED, COMPLETION = (kind.value for kind in (TlpClass.POSTED, TlpClass.NON_POSTED, TlpClass.COMPLETION))


#: Beats of each lane.
_DEPTHS = (64, 32, 32)

#: Posted requests that were handed to RQ and whose numbers have not come back, at most.
_OUTSIDE = 30

#: Cycles after the transfer of its descriptor in which a request is not yet taken off the credits that the block shows: two, and two to spare
#: (PG213, "Avoiding Head-of-Line Blocking for Posted Requests").
_CREDIT_DELAY = 4


class Returns(wiring.Component):
    """Count the posted requests whose sequence numbers have come back: what may follow them on CC may go.

    A number that does not come back, as after a link that went down, must hold nothing for ever: when posted requests are outside and none has come
    back for ``timeout`` to twice as many cycles, all of them count as returned and ``lost`` has a pulse.

    Members
    -------
    sequence, valid : ``pcie_rq_seq_num0`` and 1 and their ``vld``. Non-posted requests have bit 5 set.
    handed : pulses, a posted request has been handed to RQ.
    accepted : posted requests accepted by the queue, modulo.
    state : posted requests that have come back, and those that have not, as they were a cycle ago.
    full : :data:`_OUTSIDE` are outside.
    """
    def __init__(self, bits, timeout):
        self.bits, self.timeout = bits, timeout
        super().__init__({
            "sequence": In(6).array(2), "valid": In(1).array(2), "handed": In(1), "accepted": In(bits),
            "state": Out(PostedState(bits)), "full": Out(1), "lost": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        outside, came, left = Signal(range(_OUTSIDE + 2)), Signal(2), Signal(self.bits)
        timer, old = Signal(range(self.timeout)), Signal()
        back = Signal(range(_OUTSIDE + 2))
        counted = came[0] + came[1]
        m.d.comb += back.eq(Mux(self.lost, outside, Mux(outside < counted, outside, counted)))
        m.d.sync += [
            came.eq(Cat(valid & ~sequence[5] for valid, sequence in zip(self.valid, self.sequence, strict=True))),
            outside.eq(outside + self.handed - back), left.eq(left + back), self.full.eq(outside >= _OUTSIDE - 1),
            self.state.left.eq(left), self.state.waiting.eq(self.accepted - left), self.state.none.eq(self.accepted == left),
            timer.eq(Mux(timer == self.timeout - 1, 0, timer + 1)), self.lost.eq(0),
        ]
        # A round of the timer in which posted requests were outside all the time, and none came back.
        with m.If((outside == 0) | came.any()):
            m.d.sync += old.eq(0)
        with m.Elif(timer == self.timeout - 1):
            m.d.sync += [old.eq(1), self.lost.eq(old)]
        return m


class Transmit(wiring.Component):
    """Sort what the core sends into three lanes and hand each TLP over when nothing that it may not pass is before it.

    Posted requests go on RQ in order. A non-posted request goes on RQ after the posted ones that came before it, and only while the block shows
    credits for it (``pcie_tfc_*_av``) that no other has taken since, so that it never stands in the way of a posted one. Between RQ and CC the block
    keeps no order (rule O4): a completion goes when the sequence numbers of the posted requests before it have come back on ``pcie_rq_seq_num``,
    from where no completion passes them; with RO set too. TLPs are handed over whole, and so begun when their last beat has come.

    From ``tlps`` to a stream 5 cycles, counted from the last beat of a TLP; one beat a cycle on each, and one TLP in two cycles.

    What cannot be said on the streams is dropped, with a pulse on ``dropped``: messages, configuration requests and deferrable writes, TLPs with a
    prefix, and requests and completions with a tag above 255. Processing hints are taken off.

    Parameters
    ----------
    max_payload : largest payload in bytes that the core sends.
    timeout : cycles, see :class:`Returns`.

    Members
    -------
    tlps, limits : from the core. rq, cc : streams of the block.
    sequence, sequence_valid : numbers that come back. headers_free, data_free : ``pcie_tfc_nph_av``, ``pcie_tfc_npd_av``.
    dropped, lost : pulses.
    """
    def __init__(self, max_payload=512, *, timeout=1 << 16):
        if timeout < 64:
            raise ValueError(f"The time in which sequence numbers come back must be at least 64 cycles, not {timeout!r}")
        self.timeout = timeout
        self.credits = [lane_credits(depth, 64, size) for depth, size in zip(_DEPTHS, (max_payload, 32, max_payload), strict=True)]
        super().__init__({
            "tlps": In(stream.Signature(TlpBeat(64))), "limits": Out(CreditLimits),
            "rq": Out(AxiStream(RqUser())), "cc": Out(AxiStream(CcUser())),
            "sequence": In(6).array(2), "sequence_valid": In(1).array(2), "headers_free": In(4), "data_free": In(4),
            "dropped": Out(1), "lost": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = OrderingQueue(64, data.StructLayout({}), _DEPTHS, outside=_OUTSIDE + 2)
        m.submodules.returns = returns = Returns(queue.stamp_bits, self.timeout)
        m.submodules.rq = rq = Outgoing(RqUser(), 4)
        m.submodules.cc = cc = Outgoing(CcUser(), 3)
        wiring.connect(m, rq.axis, wiring.flipped(self.rq))
        wiring.connect(m, cc.axis, wiring.flipped(self.cc))
        thrown, lane = self._accept(m, queue)
        self._return_credits(m, queue, thrown, lane)
        m.d.comb += [
            returns.accepted.eq(queue.accepted), self.lost.eq(returns.lost),
            *(returns.sequence[place].eq(self.sequence[place]) for place in range(2)),
            *(returns.valid[place].eq(self.sequence_valid[place]) for place in range(2)),
        ]
        whole = [self._whole(m, queue, place) for place in range(len(_DEPTHS))]
        self._requests(m, queue, whole, returns, rq)
        self._completions(m, queue, whole, returns, cc)
        return m

    def _accept(self, m, queue):
        """Lane of each TLP, and whether it can be carried, a cycle before it enters: within its credits, so that there is always place."""
        beat, valid = Signal(TlpBeat(64)), Signal()
        lane, carries, thrown = Signal(2), Signal(), Signal()
        m.d.comb += self.tlps.ready.eq(1)
        m.d.sync += [valid.eq(self.tlps.valid), beat.eq(self.tlps.payload), beat.header.eq(headers.without_hints(self.tlps.payload.header))]
        with m.If(self.tlps.valid & self.tlps.payload.first):
            m.d.sync += [lane.eq(headers.tlp_class(self.tlps.payload.header)), carries.eq(carried(self.tlps.payload))]
        m.d.comb += [
            queue.i.valid.eq(valid & carries), queue.i.payload.beat.eq(beat), queue.i.payload.lane.eq(lane), thrown.eq(valid & ~carries),
        ]
        m.d.sync += self.dropped.eq(thrown & beat.last)
        return {"left": thrown, "first": beat.first, "dwords": beat.dwords}, lane

    def _return_credits(self, m, queue, thrown, lane):
        for kind, (count, units) in zip(("posted", "non_posted", "completion"), self.credits, strict=True):
            number = TlpClass[kind.upper()].value
            m.submodules[f"credits_{kind}"] = returned = CreditReturn(2, count, units)
            head = queue.o[number]
            m.d.comb += [
                self.limits[kind].eq(returned.limit),
                returned.left[0].eq(head.valid & head.ready), returned.first[0].eq(head.payload.beat.first),
                returned.dwords[0].eq(head.payload.beat.dwords),
                returned.left[1].eq(thrown["left"] & (lane == number)), returned.first[1].eq(thrown["first"]),
                returned.dwords[1].eq(thrown["dwords"]),
            ]

    @staticmethod
    def _whole(m, queue, lane):
        """1 while more TLPs are in the lane with their last beats than have begun to leave: the next may begin."""
        count = Signal(range(_DEPTHS[lane] + 1), name=f"whole_{lane}")
        head, entering = queue.o[lane], queue.i
        m.d.sync += count.eq(count + (entering.valid & (entering.payload.lane == lane) & entering.payload.beat.last)
                             - (head.valid & head.ready & head.payload.beat.first))
        return count

    def _requests(self, m, queue, whole, returns, rq):
        """Posted and non-posted requests, in turns while both may go. Decided a cycle ahead for a head that stays."""
        lanes = (Lane.POSTED, Lane.NON_POSTED)
        m.submodules.turns = turns = RoundRobin(len(lanes))
        made, given, valid = Signal(Departing()), Signal(Departing()), Signal()
        heads, go, inside = [queue.o[lane] for lane in lanes], Signal(2), Signal(2)
        free = ~valid | rq.i.ready
        stays = [head.valid & ~(free & turns.grant[place]) & (whole[lane] != 0) for place, (head, lane) in enumerate(zip(heads, lanes, strict=True))]
        begins = turns.served & ~inside
        enough = self._credits(m, begins[1], rq)
        m.d.sync += [
            go[0].eq(stays[0] & ~returns.full),
            go[1].eq(stays[1] & may_go(heads[1].payload.stamp, queue.posted) & enough),
        ]
        m.d.comb += [
            *(turns.requests[place].eq(head.valid & (inside[place] | go[place])) for place, head in enumerate(heads)),
            *(head.ready.eq(free & turns.grant[place]) for place, head in enumerate(heads)),
            turns.served.eq(turns.grant & free.replicate(2)), turns.last.eq(select_one(turns.grant, [head.payload.beat.last for head in heads])),
        ]
        for place, head in enumerate(heads):
            with m.If(head.valid & head.ready):
                m.d.sync += inside[place].eq(~head.payload.beat.last)
        beat = Signal(TlpBeat(64))
        number = Signal(5)
        m.d.comb += [
            beat.eq(select_one(turns.grant, [head.payload.beat for head in heads])),
            rq.i.valid.eq(valid), rq.i.payload.eq(given),
        ]
        self._make(m, made, beat, RequesterRequest(), requester_request(beat))
        fields = data.View(RequestHeader(), beat.header)
        m.d.comb += [made.first_be.eq(fields.first_be), made.last_be.eq(fields.last_be), made.sequence.eq(Cat(number, turns.grant[1]))]
        with m.If(free):
            m.d.sync += [valid.eq(turns.grant.any()), given.eq(made)]
        # A non-posted request may follow a posted one at once. The order in which they are handed over is that of the stream.
        m.d.comb += [queue.posted_left.eq(heads[0].valid & heads[0].ready & heads[0].payload.beat.last), returns.handed.eq(begins[0])]
        m.d.sync += number.eq(number + begins.any())

    def _credits(self, m, begins, rq):
        """1 when the block has credits for a non-posted request more than those on their way to it and those that it may not have counted yet."""
        headers_free, data_free, underway = Signal(4), Signal(4), Signal(5)
        shown, gone = Signal(_CREDIT_DELAY), Signal()
        passes = rq.axis.tvalid & rq.axis.tready & rq.axis.tuser.sop[0] & rq.axis.tuser.sequence[0][5]
        m.d.comb += gone.eq(shown[-1])
        m.d.sync += [
            headers_free.eq(self.headers_free), data_free.eq(self.data_free), shown.eq(Cat(passes, shown)), underway.eq(underway + begins - gone),
        ]
        # Of data each has two units at most: the two operands of 16 bytes.
        return ~begins & (headers_free > underway) & (data_free > (underway << 1) + 1)

    def _completions(self, m, queue, whole, returns, cc):
        head, go, inside = queue.o[Lane.COMPLETION], Signal(), Signal()
        made, given, valid = Signal(Departing(), name="made_cc"), Signal(Departing(), name="given_cc"), Signal()
        free = ~valid | cc.i.ready
        leaves = Signal()
        m.d.comb += [leaves.eq(head.valid & (inside | go)), head.ready.eq(leaves & free), cc.i.valid.eq(valid), cc.i.payload.eq(given)]
        m.d.sync += go.eq(head.valid & ~head.ready & (whole[Lane.COMPLETION] != 0) & may_go(head.payload.stamp, returns.state))
        with m.If(head.valid & head.ready):
            m.d.sync += inside.eq(~head.payload.beat.last)
        self._make(m, made, head.payload.beat, CompleterCompletion(), completer_completion(head.payload.beat))
        with m.If(free):
            m.d.sync += [valid.eq(leaves), given.eq(made)]

    @staticmethod
    def _make(m, made, beat, layout, fields):
        """What departs, from a beat and the fields of its descriptor."""
        descriptor = data.View(layout, made.descriptor[:layout.size])
        m.d.comb += [
            made.data.eq(beat.data), made.dwords.eq(beat.dwords), made.first.eq(beat.first), made.last.eq(beat.last),
            made.poisoned.eq(beat.poisoned | (beat.first & data.View(RequestHeader(), beat.header).poisoned)),
            *(descriptor[name].eq(value) for name, value in fields.items()),
        ]
