"""One direction of the TLP side of the IOMMU: sorted, translated or not, and in order again."""

from amaranth.hdl import Cat, Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.front_lane import FrontLane
from pagehop.iommu.front_layouts import LANES, FrontBeat, Route, Wanted
from pagehop.iommu.front_translations import Translations
from pagehop.iommu.layouts import TranslationRequest, TranslationResponse
from pagehop.tlp.arbiter import RoundRobin, TlpArbiter, select_one
from pagehop.tlp.credits import CreditReturn, lane_credits
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import IssueRegister
from pagehop.tlp.ordering import OrderingQueue, QueueBeat
from pagehop.tlp.stream import CreditLimits, TlpBeat, connect_streams

__all__ = ["FrontIngress"]

_CREDITS = {EgressLane.POSTED: "posted", EgressLane.COMPLETION: "completion", EgressLane.NON_POSTED: "non_posted"}

#: Lanes of requests, which are translated.
_TRANSLATED = (EgressLane.POSTED, EgressLane.NON_POSTED)


class FrontIngress(wiring.Component):
    """Bring TLPs from ``i`` to ``o`` in order, each lane for itself, and translate the requests among them if there are slots for that.

    Where nothing is translated, two cycles from ``i`` to ``o`` for posted TLPs and three for others. Where requests are, they take their translation
    and five more, and completions three.

    Parameters
    ----------
    data_bytes : beat width. depths : beats of each lane. max_payload : largest payload in bytes
    slot_bits : see :class:`Translations`; 0 when nothing is translated

    Members
    -------
    i : sorted beats. limits : credits of the sender. o : in the order in which they were chosen
    room : in, a bit a lane: the egress takes a TLP. refused_room, entry_room : in, so do the refusals and the translation completions
    entered, accepted : of the :class:`IssueRegister`
    taken : this beat of a completion was taken before it came here, and its credits are free again
    request, response : of the translator; the lowest bit of the id is 1 for non-posted requests
    discard, ats_hold : in, see :class:`Translations`. ats_inside : out, in the cycle after
    entry : out, an ATS request has been chosen to be answered
    """
    def __init__(self, data_bytes, depths, *, max_payload=256, slot_bits=0):
        self.data_bytes, self.depths, self.max_payload, self.slot_bits = data_bytes, tuple(depths), max_payload, slot_bits
        super().__init__({
            "i": In(stream.Signature(QueueBeat(data_bytes, Wanted, LANES))), "limits": Out(CreditLimits),
            "o": Out(stream.Signature(FrontBeat(data_bytes))), "room": In(LANES), "refused_room": In(1), "entry_room": In(1),
            "entered": Out(4), "accepted": Out(4), "taken": In(1), "taken_beat": In(TlpBeat(data_bytes)),
            **({} if not slot_bits else {
                "request": Out(stream.Signature(TranslationRequest(slot_bits + 1))),
                "response": In(stream.Signature(TranslationResponse(slot_bits + 1))),
                "discard": In(1), "ats_hold": In(1), "ats_inside": Out(1), "entry": Out(1),
            }),
        })

    def elaborate(self, platform):
        m = Module()
        shown = dict.fromkeys(_TRANSLATED, tuple(name for name, _ in Wanted.as_shape())) if self.slot_bits else {}
        m.submodules.queue = queue = OrderingQueue(
            self.data_bytes, Wanted, self.depths, completions=(EgressLane.COMPLETION,), keeps=[("stamp",)] * LANES, ahead=shown)
        m.submodules.gate = gate = TlpArbiter(FrontBeat(self.data_bytes), LANES)
        m.submodules.issue = issue = IssueRegister(FrontBeat(self.data_bytes))
        lanes = [FrontLane(self.data_bytes, queue.lane_shape, lane) for lane in range(LANES)]
        for number, lane in enumerate(lanes):
            m.submodules[f"lane_{number}"] = lane
            connect_streams(m, queue.o[number], lane.i)
            connect_streams(m, lane.offer, gate.i[number])
            m.d.comb += [
                lane.posted.eq(queue.posted), lane.room.eq(Cat(self.room[number], self.refused_room, self.entry_room)),
                lane.decision.valid.eq(1),
            ]
        connect_streams(m, self.i, queue.i)
        connect_streams(m, gate.o, issue.i)
        connect_streams(m, issue.o, self.o)
        m.d.comb += [self.entered.eq(issue.entered), self.accepted.eq(issue.accepted)]
        m.d.sync += queue.posted_left.eq(lanes[EgressLane.POSTED].ends)
        if self.slot_bits:
            self._translate(m, queue, lanes)
        self._credits(m, queue)
        return m

    def _translate(self, m, queue, lanes):
        m.submodules.turns = turns = RoundRobin(2)
        parts = [Translations(queue.ahead_shape, self.slot_bits) for _ in _TRANSLATED]
        free = ~self.request.valid | self.request.ready
        for number, (lane, part) in enumerate(zip(_TRANSLATED, parts, strict=True)):
            m.submodules[f"translations_{number}"] = part
            connect_streams(m, queue.ahead[lane], part.ahead)
            connect_streams(m, part.o, lanes[lane].decision)
            m.d.comb += [
                part.discard.eq(self.discard), part.ats_hold.eq(self.ats_hold), turns.requests[number].eq(part.request.valid),
                part.request.ready.eq(free & turns.grant[number]), part.responds.eq(self.response.valid & (self.response.payload.id[0] == number)),
                part.response.id.eq(self.response.payload.id[1:]),
                *(part.response[name].eq(self.response.payload[name]) for name in ("status", "translation")),
            ]
        m.d.comb += [
            turns.served.eq(Mux(free, turns.grant, 0)), turns.last.eq(1), self.response.ready.eq(1),
            self.entry.eq(lanes[EgressLane.NON_POSTED].decision.ready & (lanes[EgressLane.NON_POSTED].decision.payload.route == Route.ENTRY)),
        ]
        m.d.sync += self.ats_inside.eq(Cat(part.ats_inside for part in parts).any())
        with m.If(free):
            m.d.sync += self.request.valid.eq(turns.grant.any())
            for name, _ in TranslationRequest(self.slot_bits):
                value = select_one(turns.grant, [part.request.payload[name] for part in parts])
                m.d.sync += self.request.payload[name].eq(Cat(turns.grant[1], value) if name == "id" else value)

    def _credits(self, m, queue):
        for lane, name in _CREDITS.items():
            # A request has two operands of 16 bytes at most.
            count, units = lane_credits(self.depths[lane], self.data_bytes, 32 if lane == EgressLane.NON_POSTED else self.max_payload)
            takes = lane == EgressLane.COMPLETION
            m.submodules[f"{name}_credits"] = returned = CreditReturn(1 + takes, count, units)
            if takes:
                m.d.comb += [
                    returned.left[1].eq(self.taken), returned.first[1].eq(self.taken_beat.first), returned.dwords[1].eq(self.taken_beat.dwords),
                ]
            head = queue.o[lane]
            m.d.comb += [
                returned.left[0].eq(head.valid & head.ready), returned.first[0].eq(head.payload.beat.first),
                returned.dwords[0].eq(head.payload.beat.dwords), self.limits[name].eq(returned.limit),
            ]
