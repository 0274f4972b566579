"""Translations that software asks for, to see what a device would get."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.layouts import DEVICE_BITS, PAGE_BITS, PPN_BITS, Access, PageSize, Status, TranslationRequest, TranslationResponse, sized
from pagehop.registers.bus import RegisterWrite, overwritten

__all__ = ["DebugControl", "DebugRegisters", "DebugResponse", "DebugTranslation"]


class DebugControl(data.Struct):
    """``tr_req_ctl``. There are no reads for execution, so Exe is always 0."""
    go_busy:    1
    priv:       1
    exe:        1
    nw:         1
    unused_4:   8
    pid:        20
    pv:         1
    unused_33:  7
    did:        DEVICE_BITS


class DebugResponse(data.Struct):
    """``tr_response``. Without Svpbmt, PBMT is always 0."""
    fault:  1
    unused: 6
    pbmt:   2
    s:      1
    ppn:    PPN_BITS


class DebugRegisters(wiring.Signature):
    """What the block of the registers tells of ``tr_req_iova`` (``page``) and ``tr_req_ctl`` (``control_write``), and is told."""
    def __init__(self):
        super().__init__({
            "page": Out(64 - PAGE_BITS), "control_write": Out(RegisterWrite(8)), "control": In(DebugControl), "response": In(DebugResponse),
        })


class DebugTranslation(wiring.Component):
    """Ask the translator what software wants to know, beside the devices (section 6.1): a read, or without NW a write.

    When Go is written, the next request that the translator takes is that; a device waits for a cycle. Its answer comes as any other, in no order
    with those of devices, and is in ``tr_response`` when Busy falls; a fault has its record in the fault queue. What is written to ``tr_req_ctl``
    while Busy is ignored. What nothing translates is said to be 2 MiB.

    No cycle is taken in either direction. ``id_bits`` of devices; the translator has one more, by which answers are told apart.

    Members
    -------
    request, response : of devices. translate, translated : to and from the translator
    registers : see :class:`DebugRegisters`
    """
    def __init__(self, id_bits=3):
        self.id_bits = id_bits
        super().__init__({
            "request": In(stream.Signature(TranslationRequest(id_bits))), "response": Out(stream.Signature(TranslationResponse(id_bits))),
            "translate": Out(stream.Signature(TranslationRequest(id_bits + 1))),
            "translated": In(stream.Signature(TranslationResponse(id_bits + 1))), "registers": In(DebugRegisters()),
        })

    def elaborate(self, platform):
        m = Module()
        control, write, asks = Signal(DebugControl), self.registers.control_write, Signal()
        wanted = data.View(DebugControl, overwritten(control.as_value(), write))
        ours, theirs, translated = Signal(TranslationRequest(self.id_bits + 1)), self.request.payload, self.translated.payload
        comes = self.translated.valid & translated.id[-1]
        m.d.comb += [
            self.registers.control.eq(control),
            ours.id.eq(1 << self.id_bits), ours.device_id.eq(control.did), ours.iova.eq(Cat(Const(0, PAGE_BITS), self.registers.page)),
            ours.access.eq(Mux(control.nw, Access.READ, Access.WRITE)), ours.process_valid.eq(control.pv), ours.process.eq(control.pid),
            ours.privileged.eq(control.priv), self.translate.valid.eq(asks | self.request.valid), self.request.ready.eq(self.translate.ready & ~asks),
            *(self.translate.payload[name].eq(Mux(asks, ours[name], theirs[name])) for name in theirs.shape().members),
            self.translated.ready.eq(1), self.response.valid.eq(self.translated.valid & ~translated.id[-1]),
            *(self.response.payload[name].eq(translated[name]) for name in self.response.payload.shape().members),
        ]
        with m.If(asks):
            m.d.sync += asks.eq(~self.translate.ready)
        with m.If(~control.go_busy):
            m.d.sync += [
                asks.eq(wanted.go_busy), *(control[name].eq(wanted[name]) for name in ("go_busy", "priv", "nw", "pid", "pv", "did")),
            ]
        with m.Elif(comes):
            m.d.sync += [control.go_busy.eq(0), *self._answer(translated)]
        return m

    def _answer(self, answer):
        response = self.registers.response
        return [
            response.fault.eq(answer.status != Status.TRANSLATED), response.s.eq(answer.translation.size != PageSize.SIZE_4K),
            response.ppn.eq(sized(answer.translation)),
        ]
