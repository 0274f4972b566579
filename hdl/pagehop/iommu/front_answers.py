"""TLPs of the IOMMU's own to the device: answers to its requests, and ATS messages."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.ats_messages import InvalidateRequest, MessageCode, PageResponse
from pagehop.iommu.front_layouts import Prefix
from pagehop.iommu.layouts import PageSize, Translation, sized
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.egress import EgressBeat, EgressLane
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.headers import PASID_PREFIX, CompletionHeader, Fmt, MessageHeader, RequestHeader, TlpType, whole_tag
from pagehop.tlp.refusals import Refusals

__all__ = ["EntryAnswer", "FrontAnswers"]

#: Translations that wait to be sent, and how many may be chosen before ``entry_room`` tells it.
_PLACES, _UNDERWAY = 16, 4


class EntryAnswer(data.StructLayout):
    """An ATS request and its translation."""
    def __init__(self):
        super().__init__({"request": RequestHeader(), "translation": Translation})


def _bytes_of(value):
    """The eight bytes of a number, the highest first, as the low bits of a payload."""
    return Cat(value[start:start + 8] for start in range(56, -8, -8))


class FrontAnswers(wiring.Component):
    """Make refusals, translation completions, invalidate requests and page responses, all of one beat, a TLP every two cycles.

    Each kind in its order, the kinds by turns; an invalidate request goes behind the translations that were given before it. Requester and completer
    ID is ``own_id``. A translation completion has one entry, and says by its Byte Count that no other follows.

    Members
    -------
    refused, aborts, refused_room : of the :class:`Refusals`. entry, entry_room : ATS requests with their translations, kept to the same way
    invalidations, responses : in
    room : in, a bit a lane, of the device's egress. o : to it. sent : a pulse, a translation completion is with the egress
    """
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        super().__init__({
            "refused": In(stream.Signature(RequestHeader())), "aborts": In(1), "refused_room": Out(1),
            "entry": In(stream.Signature(EntryAnswer())), "entry_room": Out(1),
            "invalidations": In(stream.Signature(InvalidateRequest)), "responses": In(stream.Signature(PageResponse)),
            "own_id": In(16), "room": In(3), "o": Out(stream.Signature(EgressBeat(data_bytes))), "sent": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.refusals = refusals = Refusals()
        m.submodules.entries = entries = LaneFifo(EntryAnswer(), _PLACES, direct=True)
        m.submodules.turns = turns = RoundRobin(4)
        wiring.connect(m, wiring.flipped(self.refused), refusals.i)
        wiring.connect(m, wiring.flipped(self.entry), entries.i)
        sources = (refusals.o, entries.o, self.invalidations, self.responses)
        made = [Signal(EgressBeat(self.data_bytes), name=f"made_{number}") for number in range(len(sources))]
        completion, posted = self.room[EgressLane.COMPLETION], self.room[EgressLane.POSTED]
        chosen, sends = Signal(len(sources)), Signal()
        m.d.comb += [
            refusals.completer_id.eq(self.own_id), refusals.aborts.eq(self.aborts), self.refused_room.eq(refusals.room),
            turns.requests.eq(Cat(
                refusals.o.valid & completion, entries.o.valid & completion, self.invalidations.valid & posted & ~entries.o.valid,
                self.responses.valid & posted)),
            chosen.eq(Mux(self.o.valid, 0, turns.grant)), turns.served.eq(chosen), turns.last.eq(1),
            *(source.ready.eq(chosen[number]) for number, source in enumerate(sources)),
            made[0].beat.header.eq(refusals.o.payload), sends.eq(self.o.valid & self.o.ready),
        ]
        self._translation(m, entries.o.payload, made[1].beat)
        self._messages(m, made[2].beat, made[3].beat)
        for number, one in enumerate(made):
            m.d.comb += [
                one.beat.first.eq(1), one.beat.last.eq(1), one.lane.eq(EgressLane.COMPLETION if number < 2 else EgressLane.POSTED),
            ]
        translates = Signal()
        m.d.comb += self.sent.eq(sends & translates)
        m.d.sync += [self.entry_room.eq(entries.level <= _PLACES - _UNDERWAY), self.o.valid.eq(Mux(self.o.valid, ~self.o.ready, chosen.any()))]
        with m.If(~self.o.valid):
            m.d.sync += [self.o.payload.eq(select_one(turns.grant, made)), translates.eq(turns.grant[1])]
        return m

    def _translation(self, m, answer, beat):
        request, translation, entry = answer.request, answer.translation, Signal(64)
        header = data.View(CompletionHeader(), beat.header)
        m.d.comb += [
            entry.eq(Cat(translation.readable, translation.writable, *[0] * 9, translation.size != PageSize.SIZE_4K, sized(translation))),
            beat.data.eq(_bytes_of(entry)), beat.dwords.eq(2),
            header.fmt.eq(Fmt.DW3_DATA), header.type.eq(TlpType.COMPLETION), header.length.eq(2), header.byte_count.eq(8),
            header.traffic_class.eq(request.traffic_class), header.relaxed_ordering.eq(request.relaxed_ordering),
            header.no_snoop.eq(request.no_snoop), header.requester_id.eq(request.requester_id), whole_tag(header).eq(whole_tag(request)),
            header.completer_id.eq(self.own_id),
        ]

    def _messages(self, m, invalidate, respond):
        asks, says = self.invalidations.payload, self.responses.payload
        for beat, message, code in (
                (invalidate, asks, MessageCode.INVALIDATE_REQUEST), (respond, says, MessageCode.PAGE_RESPONSE)):
            header, prefix = data.View(MessageHeader(), beat.header), Prefix(beat.prefix)
            m.d.comb += [
                header.fmt.eq(Fmt.DW4), header.type.eq(TlpType.MESSAGE_BY_ID), header.code.eq(code.value), header.requester_id.eq(self.own_id),
                header.dw2[16:].eq(message.requester_id), beat.prefix_valid.eq(message.process_valid),
            ]
            with m.If(message.process_valid):
                m.d.comb += [prefix.kind.eq(PASID_PREFIX), prefix.process.eq(message.process)]
        header = data.View(MessageHeader(), invalidate.header)
        m.d.comb += [
            header.fmt.eq(Fmt.DW4_DATA), header.length.eq(2), header.tag.eq(asks.itag), invalidate.data.eq(_bytes_of(asks.payload)),
            invalidate.dwords.eq(2), data.View(MessageHeader(), respond.header).dw2[:16].eq(Cat(says.group, *[0] * 3, says.code)),
        ]
