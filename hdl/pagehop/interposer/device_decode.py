"""What a TLP of the device is, decided once, as it arrives."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.answer_turn import AnswerTurn, answer_beat
from pagehop.interposer.layouts import GROUPS, DeviceInfo, Opaque, Settings
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.headers import AddressType, TlpClass
from pagehop.tlp.ordering import QueueBeat
from pagehop.tlp.outstanding import row_of
from pagehop.tlp.pages import PAGE_BITS, PAGE_NUMBER_BITS
from pagehop.tlp.room import completion_lines
from pagehop.tlp.stream import TlpBeat

__all__ = ["DeviceDecode"]


class DeviceDecode(wiring.Component):
    """Sort the device's TLPs into lanes and compare their addresses with the window and the mapped part of it. One cycle, one beat a cycle.

    Addresses are compared on the way into the register, what follows from the comparisons and from the rest of the header behind it. Lane and info
    of a TLP stay with its later beats.

    MSI and MMIO ranges have priority over the guest window (H48): what lies in them, or outside the window, belongs to no page and follows the
    active host. So does what is opaque: the address of a translated request, or of a translation request, is none of the window's, and an
    encrypted TLP goes where its stream ends (H24f). A request of another traffic class than 0 goes where its page is, but only who has one virtual
    channel keeps it in order with those of class 0, ours among them (O7).

    Members
    -------
    i, o, settings.
    answer : completions without data, given in the place of a device that takes no requests (D12).
    opaque : pulses, a TLP of that kind was passed on in the cycle before.
    """
    def __init__(self, data_bytes, window_pages, rows):
        self.data_bytes, self.window_pages, self.rows = data_bytes, window_pages, rows
        super().__init__({
            "i": In(stream.Signature(TlpBeat(data_bytes))), "answer": In(stream.Signature(headers.CompletionHeader())),
            "o": Out(stream.Signature(QueueBeat(data_bytes, DeviceInfo(window_pages, rows), 3))),
            "settings": In(Settings), "opaque": Out(Opaque),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turn = turn = AnswerTurn()
        header, settings = self.i.payload.header, self.settings
        address_type = data.View(headers.RequestHeader(), header).address_type
        ide = headers.has_prefix(self.i.payload, headers.IDE_PREFIX)
        page, advance = Signal(PAGE_NUMBER_BITS), Signal()
        inside, special, far, beat = Signal(), Signal(), Signal(PAGE_NUMBER_BITS), Signal(TlpBeat(self.data_bytes))
        plain, translated, encrypted, groups, mapped = Signal(), Signal(), Signal(), Signal(GROUPS), Signal()
        m.d.comb += [
            page.eq(headers.address_of(header)[PAGE_BITS:]), advance.eq(~self.o.valid | self.o.ready),
            turn.answers.eq(self.answer.valid), turn.valid.eq(self.i.valid), turn.last.eq(self.i.payload.last), turn.advance.eq(advance),
            self.i.ready.eq(advance & ~turn.turn), self.answer.ready.eq(advance & turn.turn),
            self.o.payload.beat.eq(beat), *self.o.payload.info.far.is_at(far),
        ]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(self.i.valid | turn.turn), beat.eq(self.i.payload)]
        with m.If(advance & self.i.valid & self.i.payload.first):
            kind, requester = headers.tlp_class(header), headers.sender_of(header)
            m.d.sync += [
                self.o.payload.lane.eq(Mux(kind == TlpClass.POSTED, EgressLane.POSTED,
                                           Mux(kind == TlpClass.COMPLETION, EgressLane.COMPLETION, EgressLane.NON_POSTED))),
                self.o.payload.info.page.eq(page - settings.window.base), inside.eq(settings.window.holds_page(page)),
                mapped.eq(settings.mapped.holds_page(page)), self.o.payload.info.below.eq(page < settings.mapped.base),
                far.eq(page + settings.host_b_offset[PAGE_BITS:]),
                special.eq(settings.msi.holds_page(page) | settings.mmio.holds_page(page)),
                plain.eq((address_type == AddressType.UNTRANSLATED) & ~ide), translated.eq(address_type == AddressType.TRANSLATED), encrypted.eq(ide),
                groups.eq(Cat(group.has(requester) for group in settings.groups)),
            ]
        with m.If(advance & turn.turn):
            m.d.sync += [
                *answer_beat(beat, self.answer.payload), self.o.payload.lane.eq(EgressLane.COMPLETION), translated.eq(0), encrypted.eq(0),
                groups.eq(0),
            ]
        passes = self.o.valid & self.o.ready & beat.first
        m.d.sync += [
            self.opaque.translated.eq(passes & self.o.payload.info.translated),
            self.opaque.encrypted.eq(passes & encrypted),
            self.opaque.classed.eq(passes & self.o.payload.info.in_window & data.View(headers.RequestHeader(), beat.header).traffic_class.any()),
        ]
        self._inform(m, beat.header, inside & ~special & plain, mapped, translated)
        self._place(m, beat.header, groups)
        return m

    def _place(self, m, header, groups):
        """Of which source it is; the first group that has its requester counts."""
        source, fields = self.o.payload.info.source, data.View(headers.RequestHeader(), header)
        m.d.comb += [
            source.requester_id.eq(headers.sender_of(header)),
            source.traffic_class.eq(fields.traffic_class), source.id_ordering.eq(fields.id_ordering),
        ]
        for number in reversed(range(GROUPS)):
            with m.If(groups[number]):
                m.d.comb += source.group.eq(number + 1)

    def _inform(self, m, header, in_window, mapped, translated):
        info, fields = self.o.payload.info, data.View(headers.RequestHeader(), header)
        m.d.comb += [
            info.in_window.eq((headers.is_memory(header) | headers.is_atomic(header)) & in_window),
            info.mapped.eq(info.in_window & mapped),
            info.translated.eq(translated & (headers.is_memory(header) | headers.is_atomic(header))),
            info.needs_proof.eq(~fields.relaxed_ordering | (self.o.payload.lane != EgressLane.POSTED)),
            info.row.eq(row_of(fields.requester_id, headers.whole_tag(fields), self.rows)),
            info.atomic.eq(headers.is_atomic(header)), info.lines.eq(completion_lines(header)),
            info.tag.eq(headers.whole_tag(data.View(headers.CompletionHeader(), header))), info.last_completion.eq(headers.ends_request(header)),
        ]
