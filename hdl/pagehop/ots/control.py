"""The registers of the on-the-side device."""

from pathlib import Path

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.layouts import Refusal, WindowCommand, WindowOp, window_bits
from pagehop.registers.adapter import TlpRegisterAdapter
from pagehop.registers.bus import MemoryBus
from pagehop.registers.file import RegisterFile
from pagehop.tlp.counters import Counters
from pagehop.tlp.pages import PAGE_BITS
from pagehop.tlp.stream import TlpBeat

__all__ = ["COUNTERS", "REGISTERS", "Control"]

#: Register map of the on-the-side device.
REGISTERS = Path(__file__).with_name("registers.rdl")

#: Counters, named as their registers.
COUNTERS = ("refused", "dropped", "unsupported", "unexpected", "timeouts", "flush_timeouts", "expired", "held", "walked")


class Control(wiring.Component):
    """Registers and counters, and the orders that software writes to them.

    One order at a time: what is written before the last one was carried out or refused is refused as BUSY and forgotten.

    Members
    -------
    posted, requests : TLPs of the host for the registers; requests are taken while an answer can be kept. answer : completions
    own_id, base : requester ID and address of the register BAR
    order : stream out, each once. carried, refused_order, refusal : of the table. copy : instead of an order COPY, if there is a mover; it ends with
        carried, or with copy_done, and the reason
    flush, flush_window, flush_passed : out, pulses. flush_busy, flush_failed, flushes : in
    hold_limit, completion_limit : out, cycles. now : out, counts cycles
    copy_busy, copy_failed, copy_error : in
    in_entries, host_id, leaf_hold, leaf_line : out, leaf_waiting, leaf_expired : in, of the leaf tables
    windows, bytes, peek_accessed … : buses of the memories
    <counter> : events in this cycle
    """
    def __init__(self, data_bytes, windows, leaves, *, copies=False):
        self.data_bytes, self.windows_count, self.leaves, self.copies = data_bytes, windows, leaves, copies
        self.file = RegisterFile(REGISTERS, looked_up=COUNTERS)
        window, beat = window_bits(windows), stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "posted": In(beat), "requests": In(beat), "answer": Out(beat), "own_id": In(16), "base": In(64),
            "order": Out(stream.Signature(WindowCommand(windows))), "carried": In(1), "refused_order": In(1), "refusal": In(Refusal),
            "copy": Out(1), "copy_done": In(1), "copy_failure": In(Refusal),
            "flush": Out(1), "flush_window": Out(window), "flush_passed": Out(1), "flush_busy": In(1), "flush_failed": In(1), "flushes": In(8),
            "hold_limit": Out(32), "completion_limit": Out(32), "now": Out(48),
            "in_entries": Out(1), "host_id": Out(16), "leaf_hold": Out(1), "leaf_line": Out(13), "leaf_waiting": In(1), "leaf_expired": In(1),
            "copy_busy": In(1), "copy_failed": In(1), "copy_error": In(4),
            **{bank.name: Out(MemoryBus(len(getattr(self.file, bank.name).request.payload.index))) for bank in self.file.map.memories},
            **{name: In(3) for name in COUNTERS},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = self.file
        m.submodules.adapter = adapter = TlpRegisterAdapter(self.data_bytes, registers.address_bits)
        m.submodules.counters = counters = Counters(COUNTERS)
        wiring.connect(m, adapter.bus, registers.bus[0])
        for bank in registers.map.memories:
            wiring.connect(m, getattr(registers, bank.name), wiring.flipped(getattr(self, bank.name)))
        m.d.comb += [
            adapter.posted.valid.eq(self.posted.valid), adapter.posted.payload.eq(self.posted.payload), self.posted.ready.eq(adapter.posted.ready),
            adapter.non_posted.valid.eq(self.requests.valid), adapter.non_posted.payload.eq(self.requests.payload),
            self.requests.ready.eq(adapter.non_posted.ready),
            adapter.completer_id.eq(self.own_id), adapter.base.eq(self.base),
            self.answer.valid.eq(adapter.completion.valid), self.answer.payload.eq(adapter.completion.payload),
            adapter.completion.ready.eq(self.answer.ready),
            *(getattr(counters, name).eq(getattr(self, name)) for name in COUNTERS if name != "unsupported"),
            counters.unsupported.eq(self.unsupported + adapter.unsupported + registers.bus_dropped),
            counters.index.eq(registers.looked_index), counters.enable.eq(registers.looked_enable), registers.looked_word.eq(counters.count),
        ]
        self._orders(m, registers)
        self._show(m, registers)
        return m

    def _orders(self, m, registers):
        written, word, order, status = registers.window_order_written, registers.window_order, self.order.payload, registers.window_status
        busy, copying, refusal, orders = Signal(), Signal(), Signal(Refusal), Signal(8)
        # The table refuses the mover when it could not end, and the mover goes on then.
        ends = self.carried | self.copy_done | (self.refused_order & ~copying)
        m.d.sync += self.copy.eq(0)
        with m.If(self.order.ready):
            m.d.sync += self.order.valid.eq(0)
        with m.If(written & ~busy):
            target = registers.window_target.address[PAGE_BITS:]
            copies = (word.op == WindowOp.COPY.value) & (word.window < self.windows_count) & self.copies
            m.d.sync += [
                self.copy.eq(copies), self.order.valid.eq(~copies), busy.eq(1), copying.eq(copies), order.window.eq(word.window),
                order.known.eq(word.window < self.windows_count),
                order.op.eq(Mux(word.op <= WindowOp.COPY.value, word.op, WindowOp.NONE.value)),
                order.plain.eq(word.plain), *order.target.is_at(target),
            ]
        with m.If(ends):
            why = Mux(self.copy_done, self.copy_failure, Mux(self.refused_order, self.refusal, Refusal.NONE))
            m.d.sync += [busy.eq(0), refusal.eq(why), orders.eq(orders + 1)]
        with m.Elif(written & busy):
            m.d.sync += refusal.eq(Refusal.BUSY)
        m.d.comb += [status.busy.eq(busy), status.refusal.eq(refusal), status.orders.eq(orders)]

    def _show(self, m, registers):
        limits, flush, copy = registers.limits, registers.flush_status, registers.copy_status
        expired = Signal(8)
        m.d.sync += [self.now.eq(self.now + 1), expired.eq(expired + self.leaf_expired)]
        m.d.comb += [
            self.in_entries.eq(registers.leaf_control.in_entries), self.host_id.eq(registers.leaf_control.host_id),
            self.leaf_hold.eq(registers.leaf_hold.hold), self.leaf_line.eq(registers.leaf_hold.line),
            registers.leaf_status.waiting.eq(self.leaf_waiting), registers.leaf_status.expired.eq(expired),
        ]
        m.d.comb += [
            registers.capabilities.leaves.eq(self.leaves), registers.capabilities.windows.eq(self.windows_count),
            registers.capabilities.copies.eq(self.copies), registers.capabilities.data_bytes.eq(self.data_bytes),
            self.hold_limit.eq(limits.hold), self.completion_limit.eq(limits.completion), registers.now.cycles.eq(self.now),
            self.flush.eq(registers.flush_written), self.flush_window.eq(registers.flush.window),
            self.flush_passed.eq(registers.flush.passed),
            flush.busy.eq(self.flush_busy), flush.failed.eq(self.flush_failed), flush.flushes.eq(self.flushes),
            copy.busy.eq(self.copy_busy), copy.failed.eq(self.copy_failed), copy.error.eq(self.copy_error),
        ]
