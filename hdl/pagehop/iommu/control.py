"""What software sees of the IOMMU: its registers, queues and interrupts."""

from pathlib import Path

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.command_queue import CommandQueue, Executor
from pagehop.iommu.commands import COMMAND_BITS, DeviceMessage
from pagehop.iommu.directory_walk import Directory
from pagehop.iommu.interrupts import Interrupts
from pagehop.iommu.iotlb import Invalidation
from pagehop.iommu.layouts import DEVICE_BITS, DirectoryMode, FaultRecord
from pagehop.iommu.record_queue import RecordQueue
from pagehop.iommu.tilelink import ADDRESS_BITS, MemoryPort
from pagehop.registers.bus import RegisterBus, overwritten
from pagehop.registers.file import RegisterFile

__all__ = ["REGISTERS", "IommuControl"]

REGISTERS = Path(__file__).with_name("registers.rdl")

#: Version 1.0, as ``capabilities`` has it.
VERSION = 0x10


class IommuControl(wiring.Component):
    """Registers of the IOMMU, its command queue, its fault queue and its interrupts (chapters 4 and 5).

    A write is in force 4 cycles after it was accepted. What is written to ``fctl`` while the directory is not off or a queue is on, is ignored, and
    so is a mode of the directory that there is not. When ``ddtp`` is written all contexts are forgotten, and ``busy`` is 1 until nothing is stale.

    Parameters
    ----------
    ats, modify, fence_bits : see :class:`CommandQueue`. vectors, messages : see :class:`Interrupts`; without messages ``fctl.WSI`` is always 1.
    updates : whether hardware sets A and D.

    Members
    -------
    bus : of 4 KiB. directory : out, for the :class:`Translator`; invalidate_pages, pages, invalidate_contexts, device_named, device_id; stale
    fault : stream of records, from the translator
    drain, drained, ats, modify : see :class:`CommandQueue`. wires : see :class:`Interrupts`
    command_memory, fault_memory, and with messages message_memory : ports
    """
    def __init__(self, *, ats=False, modify=False, updates=True, vectors=2, messages=True, fence_bits=24):
        self.ats_built, self.modify_built, self.updates, self.messages = ats, modify, updates, messages
        self.commands = CommandQueue(ats=ats, modify=modify, fence_bits=fence_bits)
        self.faults, self.interrupts = RecordQueue(FaultRecord, "f"), Interrupts(vectors, messages=messages)
        self.file = RegisterFile(REGISTERS, holes_are_zero=True)
        super().__init__({
            "bus": In(RegisterBus(self.file.address_bits)), "directory": Out(Directory), "fault": In(stream.Signature(FaultRecord)),
            "invalidate_pages": Out(1), "pages": Out(Invalidation),
            "invalidate_contexts": Out(1), "device_named": Out(1), "device_id": Out(DEVICE_BITS), "stale": In(1),
            "drain": Out(1), "drained": In(1), "wires": Out(vectors), "command_memory": Out(MemoryPort()), "fault_memory": Out(MemoryPort()),
            **({"message_memory": Out(MemoryPort())} if messages else {}),
            **({"ats": Out(Executor(DeviceMessage))} if ats else {}), **({"modify": Out(Executor(COMMAND_BITS))} if modify else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.file, m.submodules.commands, m.submodules.faults, m.submodules.interrupts = (
            self.file, self.commands, self.faults, self.interrupts)
        wiring.connect(m, wiring.flipped(self.bus), self.file.bus[0])
        wiring.connect(m, wiring.flipped(self.command_memory), self.commands.memory)
        wiring.connect(m, wiring.flipped(self.fault_memory), self.faults.memory)
        for name, built in (("ats", self.ats_built), ("modify", self.modify_built)):
            if built:
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(self.commands, name))
        changed = self._directory(m)
        self._settings(m)
        self._queues(m, changed)
        self._interrupts(m)
        return m

    def _directory(self, m):
        """``ddtp``. Returns "it was written": what was found by the old one is to be forgotten."""
        file, directory, changed, busy = self.file, self.directory, Signal(), Signal()
        write = file.ddtp_write
        word = overwritten(Cat(directory.mode, Const(0, 6), directory.ppn), write)
        mode, page = word[:4], word[10:]
        m.d.sync += [
            changed.eq(write.strobe.any()), busy.eq(write.strobe.any() | changed | (busy & self.stale)), directory.ppn.eq(page),
        ]
        with m.If(mode <= DirectoryMode.TWO_LEVEL.value):
            m.d.sync += directory.mode.eq(mode)
        m.d.comb += [file.ddtp.mode.eq(directory.mode), file.ddtp.ppn.eq(directory.ppn), file.ddtp.busy.eq(busy)]
        return changed

    def _settings(self, m):
        """``capabilities`` and ``fctl``."""
        file, capabilities, self._wired = self.file, self.file.capabilities, Signal(init=not self.messages)
        values = {"version": VERSION, "sv39": 1, "sv48": 1, "sv39x4": 1, "sv48x4": 1, "amo_hwad": self.updates, "ats": self.ats_built,
                  "igs": 2 if self.messages else 1, "pas": ADDRESS_BITS, "modify": self.modify_built}
        m.d.comb += [*(capabilities[name].eq(int(value)) for name, value in values.items()), file.fctl.wsi.eq(self._wired)]
        if self.messages:
            idle = (self.directory.mode == DirectoryMode.OFF) & ~self.commands.csr.cqon & ~self.faults.csr.fqon
            with m.If(file.fctl_write.strobe[0] & idle):
                m.d.sync += self._wired.eq(file.fctl_write.data[1])

    def _queues(self, m, changed):
        file, commands, faults = self.file, self.commands, self.faults
        for queue, letter in ((commands, "c"), (faults, "f")):
            csr, base = getattr(file, f"{letter}qcsr"), getattr(file, f"{letter}qb")
            m.d.comb += [
                queue.base.log2sz.eq(base.log2sz), queue.base.ppn.eq(base.ppn), queue.csr_write.eq(getattr(file, f"{letter}qcsr_write")),
                getattr(file, f"{letter}qh").index.eq(queue.head), getattr(file, f"{letter}qt").index.eq(queue.tail),
                *(csr[name].eq(queue.csr[name]) for name in csr.shape().members),
            ]
        m.d.comb += [
            commands.tail_write.eq(file.cqt_write), faults.head_write.eq(file.fqh_write),
            commands.mode.eq(self.directory.mode), commands.wired.eq(self._wired), commands.stale.eq(self.stale),
            self.invalidate_pages.eq(commands.invalidate_pages), self.pages.eq(commands.pages),
            self.invalidate_contexts.eq(commands.invalidate_contexts | changed), self.device_named.eq(commands.device_named & ~changed),
            self.device_id.eq(commands.device_id), self.drain.eq(commands.drain), commands.drained.eq(self.drained),
        ]

    def _interrupts(self, m):
        file, interrupts, faults = self.file, self.interrupts, self.faults
        m.d.comb += [
            interrupts.level.eq(Cat(self.commands.interrupt, faults.interrupt)), interrupts.event.eq(Cat(0, faults.recorded)),
            interrupts.wired.eq(self._wired), self.wires.eq(interrupts.wires), Cat(file.ipsr.cip, file.ipsr.fip).eq(interrupts.ipsr),
            Cat(file.icvec.civ, file.icvec.fiv).eq(interrupts.icvec),
            interrupts.ipsr_write.eq(file.ipsr_write), interrupts.icvec_write.eq(file.icvec_write), interrupts.table_write.eq(file.msi_cfg_tbl_write),
        ]
        wiring.connect(m, file.msi_cfg_tbl, interrupts.table)
        if not self.messages:
            wiring.connect(m, wiring.flipped(self.fault), faults.record)
            return
        wiring.connect(m, wiring.flipped(self.message_memory), interrupts.memory)
        # A record is in its place until it has left: the turn changes between two of them.
        own, record = Signal(), faults.record
        with m.If(~record.valid | record.ready):
            m.d.sync += own.eq(interrupts.fault.valid & ~own)
        m.d.comb += [
            record.valid.eq(Mux(own, interrupts.fault.valid, self.fault.valid)),
            record.payload.eq(Mux(own, interrupts.fault.payload, self.fault.payload)),
            interrupts.fault.ready.eq(own & record.ready), self.fault.ready.eq(~own & record.ready),
        ]
