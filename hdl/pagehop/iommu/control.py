"""What software sees of the IOMMU: its registers, queues and interrupts."""

from pathlib import Path

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.ats_invalidations import AtsInvalidations, AtsRound
from pagehop.iommu.ats_messages import InvalidateCompletion, InvalidateRequest, PageRequest, PageResponse
from pagehop.iommu.command_queue import CommandQueue, Executor
from pagehop.iommu.commands import COMMAND_BITS
from pagehop.iommu.debug_translation import DebugRegisters
from pagehop.iommu.directory_walk import Directory
from pagehop.iommu.event_counters import MAX_COUNTERS, EventCounters, MoveEvents, TranslationEvents
from pagehop.iommu.interrupts import Interrupts
from pagehop.iommu.iotlb import Invalidation
from pagehop.iommu.layouts import DEVICE_BITS, PPN_BITS, DirectoryMode, FaultRecord, PageRecord
from pagehop.iommu.line_owner import LIMIT_BITS
from pagehop.iommu.modify import ModifyEvents
from pagehop.iommu.page_requests import PageRequests
from pagehop.iommu.record_queue import RecordQueue
from pagehop.iommu.tilelink import ADDRESS_BITS, MemoryPort
from pagehop.registers.bus import RegisterBus, overwritten
from pagehop.registers.file import RegisterFile
from pagehop.tlp.arbiter import connect_in_turns

__all__ = ["REGISTERS", "IommuControl"]

REGISTERS = Path(__file__).with_name("registers.rdl")

#: Version 1.0, as ``capabilities`` has it.
VERSION = 0x10

#: Devices that the table of ATS has, and registers that are there only with it, and with moves.
ATS_DEVICES = 4
ATS_REGISTERS = ("pqb", "pqh", "pqt", "pqcsr", *(f"ats_device_{number}" for number in range(ATS_DEVICES)), "ats_timeout", "ats_status")
COUNTER_REGISTERS = ("iocountovf", "iocountinh", "iohpmcycles")
DEBUG_REGISTERS = ("tr_req_iova", "tr_req_ctl", "tr_response")
MODIFY_REGISTERS = ("modify_records", "modify_limits", "modify_counts")


class IommuControl(wiring.Component):
    """Registers of the IOMMU, its queues, its interrupts, and its side of ATS apart from translations (chapters 4 and 5).

    A write is in force 4 cycles after it was accepted. What is written to ``fctl`` while the directory is not off or a queue is on, is ignored, and
    so is a mode of the directory that there is not. When ``ddtp`` is written all contexts are forgotten, and ``busy`` is 1 until nothing is stale.

    Parameters
    ----------
    modify, fence_bits : see :class:`CommandQueue`. ats : whether there is ATS. tags : see :class:`AtsInvalidations`.
    vectors, messages : see :class:`Interrupts`; without messages ``fctl.WSI`` is always 1.
    updates : whether hardware sets A and D. counters : performance counters beside that of cycles, up to 31; 0: none at all.
    debug : whether there is the debug interface.

    Members
    -------
    bus : of 4 KiB. directory : out, for the :class:`Translator`; invalidate_pages, pages, invalidate_contexts, device_named, device_id; stale
    fault : stream of records, from the translator
    drain, drained, drain_failed, modify : see :class:`CommandQueue`. drain_address, drain_limit : what software says of drains.
    With modify records, hold_limit, copy_limit and events, see :class:`ModifyEngine`.
    wires : see :class:`Interrupts`
    command_memory, fault_memory, and with messages message_memory : ports
    invalidations, completions, round, round_failed : with ATS, see :class:`AtsInvalidations`
    debug : with it, see :class:`DebugTranslation`. counted, meter : with counters, see :class:`EventCounters`; the second with moves, too
    page_requests, responses : with ATS, streams from and to devices; context_memory, page_memory : ports, for contexts and records of page requests
    """
    def __init__(self, *, ats=False, modify=False, updates=True, vectors=2, messages=True, fence_bits=24, tags=8, counters=0, debug=False):
        self.ats_built, self.modify_built, self.updates, self.messages, self.debug_built = ats, modify, updates, messages, debug
        self.commands = CommandQueue(ats=ats, modify=modify, fence_bits=fence_bits)
        self.faults = RecordQueue(FaultRecord, "f")
        self.interrupts = Interrupts(vectors, messages=messages, causes=0b0011 | (0b0100 if counters else 0) | (0b1000 if ats else 0))
        self.counters = EventCounters(counters, modify=modify) if counters else None
        self.file = RegisterFile(REGISTERS, holes_are_zero=True, absent=[
            *(name for built, names in ((ats, ATS_REGISTERS), (modify, MODIFY_REGISTERS), (counters, COUNTER_REGISTERS), (debug, DEBUG_REGISTERS))
              if not built for name in names),
            *(f"{name}_{number}" for name in ("iohpmctr", "iohpmevt") for number in range(counters, MAX_COUNTERS))])
        if ats:
            self.page_queue, self.requests = RecordQueue(PageRecord, "p"), PageRequests(updates=updates)
            self.invalidator = AtsInvalidations(tags, ATS_DEVICES)
        super().__init__({
            "bus": In(RegisterBus(self.file.address_bits)), "directory": Out(Directory), "fault": In(stream.Signature(FaultRecord)),
            "invalidate_pages": Out(1), "pages": Out(Invalidation),
            "invalidate_contexts": Out(1), "device_named": Out(1), "device_id": Out(DEVICE_BITS), "stale": In(1),
            "drain": Out(1), "drained": In(1), "drain_failed": In(1), "drain_address": Out(64), "drain_limit": Out(32),
            "wires": Out(vectors), "command_memory": Out(MemoryPort()), "fault_memory": Out(MemoryPort()),
            **({"message_memory": Out(MemoryPort())} if messages else {}),
            **({"debug": Out(DebugRegisters())} if debug else {}),
            **({"counted": In(TranslationEvents), **({"meter": In(MoveEvents)} if modify else {})} if counters else {}),
            **(self._ats_members() if ats else {}), **({
                "modify": Out(Executor(COMMAND_BITS)), "records": Out(PPN_BITS), "hold_limit": Out(LIMIT_BITS), "copy_limit": Out(32),
                "events": In(ModifyEvents),
            } if modify else {}),
        })

    @staticmethod
    def _ats_members():
        return {
            "invalidations": Out(stream.Signature(InvalidateRequest)), "completions": In(stream.Signature(InvalidateCompletion)),
            "round": In(stream.Signature(AtsRound)), "round_failed": Out(1), "page_requests": In(stream.Signature(PageRequest)),
            "responses": Out(stream.Signature(PageResponse)), "context_memory": Out(MemoryPort()), "page_memory": Out(MemoryPort()),
        }

    def elaborate(self, platform):
        m = Module()
        m.submodules.file, m.submodules.commands, m.submodules.faults, m.submodules.interrupts = (
            self.file, self.commands, self.faults, self.interrupts)
        wiring.connect(m, wiring.flipped(self.bus), self.file.bus[0])
        wiring.connect(m, wiring.flipped(self.command_memory), self.commands.memory)
        wiring.connect(m, wiring.flipped(self.fault_memory), self.faults.memory)
        if self.modify_built:
            wiring.connect(m, wiring.flipped(self.modify), self.commands.modify)
        self._stale = Signal()
        m.d.comb += self._stale.eq(self.stale | self.requests.stale) if self.ats_built else self._stale.eq(self.stale)
        changed = self._directory(m)
        self._settings(m)
        if self.modify_built:
            self._moves(m)
        if self.counters is not None:
            self._counters(m)
        if self.debug_built:
            self._debug(m)
        self._queues(m, changed)
        self._interrupts(m)
        self._faults(m)
        if self.ats_built:
            self._page_requests(m)
            self._invalidations(m)
        return m

    def _directory(self, m):
        """``ddtp``. Returns "it was written": what was found by the old one is to be forgotten."""
        file, directory, changed, busy = self.file, self.directory, Signal(), Signal()
        write = file.ddtp_write
        word = overwritten(Cat(directory.mode, Const(0, 6), directory.ppn), write)
        mode, page = word[:4], word[10:]
        m.d.sync += [
            changed.eq(write.strobe.any()), busy.eq(write.strobe.any() | changed | (busy & self._stale)), directory.ppn.eq(page),
        ]
        with m.If(mode <= DirectoryMode.TWO_LEVEL.value):
            m.d.sync += directory.mode.eq(mode)
        m.d.comb += [file.ddtp.mode.eq(directory.mode), file.ddtp.ppn.eq(directory.ppn), file.ddtp.busy.eq(busy)]
        return changed

    def _settings(self, m):
        """``capabilities`` and ``fctl``."""
        file, capabilities, self._wired = self.file, self.file.capabilities, Signal(init=not self.messages)
        values = {"version": VERSION, "sv39": 1, "sv48": 1, "sv39x4": 1, "sv48x4": 1, "amo_hwad": self.updates, "ats": self.ats_built,
                  "igs": 2 if self.messages else 1, "hpm": self.counters is not None, "dbg": self.debug_built,
                  "pas": ADDRESS_BITS, "modify": self.modify_built}
        m.d.comb += [self.drain_address.eq(file.drain_address.address), self.drain_limit.eq(file.drain_limit.cycles)]
        m.d.comb += [*(capabilities[name].eq(int(value)) for name, value in values.items()), file.fctl.wsi.eq(self._wired)]
        if self.messages:
            idle = (self.directory.mode == DirectoryMode.OFF) & ~self.commands.csr.cqon & ~self.faults.csr.fqon
            idle = idle & ~self.page_queue.csr.pqon if self.ats_built else idle
            with m.If(file.fctl_write.strobe[0] & idle):
                m.d.sync += self._wired.eq(file.fctl_write.data[1])

    def _moves(self, m):
        """What moves of pages need, and what they tell."""
        file, counts, events = self.file, self.file.modify_counts, self.events
        m.d.comb += [
            self.records.eq(file.modify_records.ppn), self.hold_limit.eq(file.modify_limits.hold), self.copy_limit.eq(file.modify_limits.copy),
        ]
        for name in data.Layout.cast(events.shape()).members:
            count = Signal(16, name=name)
            m.d.sync += count.eq(count + events[name])
            m.d.comb += counts[name].eq(count)

    def _counters(self, m):
        """Performance counters and their registers."""
        m.submodules.counters, file, counters = self.counters, self.file, self.counters
        m.d.comb += [
            counters.events.eq(self.counted), file.iohpmcycles.as_value().eq(counters.cycles), counters.cycles_write.eq(file.iohpmcycles_write),
            file.iocountinh.as_value().eq(counters.inhibit), counters.inhibit_write.eq(file.iocountinh_write),
            file.iocountovf.as_value().eq(counters.overflows),
        ]
        if self.modify_built:
            m.d.comb += counters.moves.eq(self.meter)
        for number in range(counters.count):
            for name, values, writes in (("ctr", counters.counters, counters.counter_writes), ("evt", counters.selectors, counters.selector_writes)):
                m.d.comb += [
                    getattr(file, f"iohpm{name}_{number}").as_value().eq(values[number]),
                    writes[number].eq(getattr(file, f"iohpm{name}_{number}_write")),
                ]

    def _debug(self, m):
        file, debug = self.file, self.debug
        m.d.comb += [
            debug.page.eq(file.tr_req_iova.vpn), debug.control_write.eq(file.tr_req_ctl_write),
            *(shown[name].eq(kept[name]) for shown, kept in ((file.tr_req_ctl, debug.control), (file.tr_response, debug.response))
              for name in shown.shape().members),
        ]

    def _queues(self, m, changed):
        file, commands, faults = self.file, self.commands, self.faults
        for queue, letter in ((commands, "c"), (faults, "f"), *([(self.page_queue, "p")] if self.ats_built else [])):
            csr, base = getattr(file, f"{letter}qcsr"), getattr(file, f"{letter}qb")
            m.d.comb += [
                queue.base.log2sz.eq(base.log2sz), queue.base.ppn.eq(base.ppn), queue.csr_write.eq(getattr(file, f"{letter}qcsr_write")),
                getattr(file, f"{letter}qh").index.eq(queue.head), getattr(file, f"{letter}qt").index.eq(queue.tail),
                *(csr[name].eq(queue.csr[name]) for name in csr.shape().members),
            ]
        m.d.comb += [
            commands.tail_write.eq(file.cqt_write), faults.head_write.eq(file.fqh_write),
            commands.mode.eq(self.directory.mode), commands.wired.eq(self._wired), commands.stale.eq(self._stale),
            self.invalidate_pages.eq(commands.invalidate_pages), self.pages.eq(commands.pages),
            self.invalidate_contexts.eq(commands.invalidate_contexts | changed), self.device_named.eq(commands.device_named & ~changed),
            self.device_id.eq(commands.device_id), self.drain.eq(commands.drain), commands.drained.eq(self.drained),
            commands.drain_failed.eq(self.drain_failed),
        ]

    def _interrupts(self, m):
        file, interrupts, faults, pages = self.file, self.interrupts, self.faults, self.page_queue if self.ats_built else None
        m.d.comb += [
            interrupts.level.eq(Cat(self.commands.interrupt, faults.interrupt, 0, pages.interrupt if pages else 0)),
            interrupts.event.eq(Cat(0, faults.recorded, self.counters.overflow if self.counters else 0, pages.recorded if pages else 0)),
            interrupts.wired.eq(self._wired), self.wires.eq(interrupts.wires),
            file.ipsr.cip.eq(interrupts.ipsr[0]), file.ipsr.fip.eq(interrupts.ipsr[1]),
            file.ipsr.pmip.eq(interrupts.ipsr[2]), file.icvec.pmiv.eq(interrupts.icvec[8:12]), file.ipsr.pip.eq(interrupts.ipsr[3]),
            file.icvec.civ.eq(interrupts.icvec[0:4]), file.icvec.fiv.eq(interrupts.icvec[4:8]), file.icvec.piv.eq(interrupts.icvec[12:16]),
            interrupts.ipsr_write.eq(file.ipsr_write), interrupts.icvec_write.eq(file.icvec_write), interrupts.table_write.eq(file.msi_cfg_tbl_write),
        ]
        wiring.connect(m, file.msi_cfg_tbl, interrupts.table)
        if self.messages:
            wiring.connect(m, wiring.flipped(self.message_memory), interrupts.memory)

    def _faults(self, m):
        """Records of all who have some."""
        sources = [self.fault, *([self.requests.fault] if self.ats_built else []), *([self.interrupts.fault] if self.messages else [])]
        connect_in_turns(m, "fault_turns", sources, self.faults.record)

    def _page_requests(self, m):
        """Page requests, their queue, and the responses to them: by themselves and by commands, in turns."""
        m.submodules.page_queue, m.submodules.requests, requests = self.page_queue, self.requests, self.requests
        wiring.connect(m, wiring.flipped(self.page_requests), requests.request)
        wiring.connect(m, wiring.flipped(self.context_memory), requests.memory)
        wiring.connect(m, wiring.flipped(self.page_memory), self.page_queue.memory)
        wiring.connect(m, requests.record, self.page_queue.record)
        connect_in_turns(m, "response_turns", (requests.response, self.invalidator.responses), self.responses)
        m.d.comb += [
            requests.fate.eq(self.page_queue.fate), requests.directory.eq(self.directory), requests.invalidate.eq(self.invalidate_contexts),
            self.page_queue.head_write.eq(self.file.pqh_write),
        ]

    def _invalidations(self, m):
        """ATS commands and rounds of moves, and the table of devices."""
        m.submodules.invalidator = invalidator = self.invalidator
        file, status, write, valid = self.file, self.file.ats_status, self.file.ats_status_write, Signal(ATS_DEVICES)
        wiring.connect(m, self.commands.ats, invalidator.commands)
        for name in ("invalidations", "completions", "round"):
            wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(invalidator, name))
        low, high = write.strobe[0], Cat(strobe.replicate(8) for strobe in write.strobe[4:])
        with m.If(low):
            m.d.sync += valid.eq(write.data[:ATS_DEVICES])
        for number, device in enumerate(invalidator.devices):
            entry = getattr(file, f"ats_device_{number}")
            m.d.comb += [device.valid.eq(valid[number]), device.requester_id.eq(entry.requester_id), device.gscid.eq(entry.gscid)]
        m.d.comb += [
            self.round_failed.eq(invalidator.round_failed), invalidator.timeout.eq(file.ats_timeout.cycles), status.valid.eq(valid),
            status.quarantined.eq(invalidator.quarantined), status.unexpected.eq(invalidator.unexpected), status.late.eq(invalidator.late),
            invalidator.release_devices.eq(Mux(low, write.data[4:], 0)), invalidator.release_tags.eq(write.data[32:] & high),
        ]
