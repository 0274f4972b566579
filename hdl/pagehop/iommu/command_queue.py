"""The command queue."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.commands import COMMAND_BITS, DeviceMessage, Fence, InvalidateContexts, InvalidatePages, Kind, kind_of
from pagehop.iommu.iotlb import Invalidation
from pagehop.iommu.layouts import DEVICE_BITS, VPN_BITS, DirectoryMode
from pagehop.iommu.queues import INDEX_BITS, QueueBase, index_mask, keep_status
from pagehop.iommu.tilelink import ADDRESS_BITS, DATA_BITS, SIZE_LINE, MemoryPort, OpA
from pagehop.registers.bus import RegisterWrite, overwritten

__all__ = ["CommandQueue", "CommandStatus", "Executor"]

#: Commands in a line, and base-2 logarithms of the bytes of one, and of what a fence stores.
LINE_COMMANDS, SIZE_COMMAND, SIZE_STORE = 4, 4, 2


class CommandStatus(data.Struct):
    """``cqcsr``, without the gaps."""
    cqen:   1
    cie:    1
    cqmf:   1
    cmd_to: 1
    cmd_ill: 1
    fence_w_ip: 1
    cqon:   1
    busy:   1


class Executor(wiring.Signature):
    """Way to a block that executes commands of one sort: ``command``, taken within a bounded time; ``pending`` is 1 from the cycle after, until all
    that were taken are done or given up; ``expired`` is a pulse for each that was given up. It has a timer: a fence waits as long as ``pending``."""
    def __init__(self, shape):
        super().__init__({"command": Out(stream.Signature(shape)), "pending": In(1), "expired": In(1)})


class CommandQueue(wiring.Component):
    """Fetch commands from the queue in memory and execute them, in order, one at a time (section 4.1).

    A read of 64 bytes brings the line of four commands in which ``head`` is. Of these, those count that software had published when the read was
    sent; each is executed as soon as it is there, once. Each takes 5 cycles. With a memory that answers after L cycles, in a beat a cycle, an
    invalidation and a fence that stores take 17 + 2 L cycles, from the write to ``tail`` until ``head`` has passed both, when nothing is stale.

    An invalidation forgets at least what the command names: by address only IOTINVAL.VMA, of all spaces of addresses; a cache whose entries the
    device's address names cannot tell what one guest's page was used for, so IOTINVAL.GVMA forgets all.

    A fence waits until no executor has anything pending, then until nothing ``stale`` is left, then, with PR or PW, until the data path has answered
    ``drain`` by ``drained``. For the last two it waits at most ``2 ** fence_bits`` cycles in all; after that, or when an executor has given something
    up since the last fence, or the data path this drain, ``cmd_to``. Then it stores, then ``head`` moves.

    ``cqmf``, ``cmd_to`` and ``cmd_ill`` stop the queue with ``head`` at the command: when software has cleared them it is read again. When ``cqen``
    falls, what is executed is finished; what was fetched besides is dropped.

    Parameters
    ----------
    ats, modify : whether there are executors of ATS commands, and of the project's own (opcodes 64, 65); if not, they are illegal.
    fence_bits : see above.

    Members
    -------
    base : in, not changed while the queue is on. tail_write, csr_write : in, what software writes. head, tail, csr : out
    mode, wired : in, ``ddtp.iommu_mode`` and ``fctl.WSI``
    invalidate_pages, pages; invalidate_contexts, device_named, device_id; stale : see :class:`Translator`
    drain : out, a pulse: accesses that have been translated are to become visible. drained : in, from the cycle after on: they are;
        or, with drain_failed, it was given up and that is not proven
    interrupt : out, a level
    ats, modify : an :class:`Executor` each
    memory : reads of 64 bytes, writes of 4, one at a time
    """
    def __init__(self, *, ats=False, modify=False, fence_bits=24):
        if fence_bits not in range(4, 49):
            raise ValueError(f"A fence must wait 2 to the power of 4 to 48 cycles, not of {fence_bits!r}")
        self.has_ats, self.has_modify, self.fence_bits = ats, modify, fence_bits
        super().__init__({
            "base": In(QueueBase), "tail_write": In(RegisterWrite(4)), "csr_write": In(RegisterWrite(4)),
            "head": Out(INDEX_BITS), "tail": Out(INDEX_BITS), "csr": Out(CommandStatus), "mode": In(DirectoryMode), "wired": In(1),
            "invalidate_pages": Out(1), "pages": Out(Invalidation),
            "invalidate_contexts": Out(1), "device_named": Out(1), "device_id": Out(DEVICE_BITS), "stale": In(1),
            "drain": Out(1), "drained": In(1), "drain_failed": In(1), "interrupt": Out(1), "memory": Out(MemoryPort()),
            **({"ats": Out(Executor(DeviceMessage))} if ats else {}), **({"modify": Out(Executor(COMMAND_BITS))} if modify else {}),
        })

    def elaborate(self, platform):
        m = Module()
        self._command, self._kind, self._failed = Signal(COMMAND_BITS), Signal(Kind), Signal()
        self._slot, self._high, self._timer, self._expired = self.head[:2], Signal(), Signal(self.fence_bits + 1), Signal()
        self._executors = {Kind.ATS: self.ats} if self.has_ats else {}
        self._executors |= {Kind.MODIFY: self.modify} if self.has_modify else {}
        stopped = self.csr.cqmf | self.csr.cmd_to | self.csr.cmd_ill
        self._mask, ask = Signal(INDEX_BITS), self.memory.a
        self._registers(m, stopped)
        word = self._line(m)
        self._pass_on(m)
        with m.FSM():
            with m.State("off"), m.If(self.csr.cqen):
                m.d.sync += [
                    self.head.eq(0), self.csr.cqon.eq(1), self._expired.eq(0),
                    self.csr.cqmf.eq(0), self.csr.cmd_to.eq(0), self.csr.cmd_ill.eq(0), self.csr.fence_w_ip.eq(0),
                ]
                m.next = "idle"
            with m.State("idle"):
                self._idle(m, stopped)
            with m.State("ask"):
                m.d.comb += ask.valid.eq(1)
                with m.If(ask.ready):
                    m.d.sync += self._fetching.eq(1)
                    m.next = "idle"
            with m.State("low"):
                m.d.sync += self._command.eq(Cat(self._command[DATA_BITS:], word))
                m.next = "high"
            with m.State("high"):
                m.d.comb += self._high.eq(1)
                m.d.sync += [
                    self._command.eq(Cat(self._command[DATA_BITS:], word)), self._failed.eq(self._bad.bit_select(self._slot, 1)),
                    self._there.bit_select(self._slot, 1).eq(0),
                ]
                m.next = "judge"
            with m.State("judge"):
                m.d.sync += [self._timer.eq(0), self._kind.eq(kind_of(
                    self._command, mode=self.mode, wired=self.wired, ats=self.has_ats, modify=self.has_modify))]
                m.next = "execute"
            with m.State("execute"):
                self._execute(m)
            self._fence(m)
        return m

    def _registers(self, m, stopped):
        """What software writes; what the queue sets in the same cycle counts more."""
        csr = self.csr
        m.d.sync += [
            self._mask.eq(index_mask(self.base)), self.tail.eq(overwritten(self.tail, self.tail_write) & self._mask),
        ]
        # Not later than `csr`: software may clear `ipsr` in the cycle after it has cleared why it was set.
        m.d.comb += self.interrupt.eq(csr.cie & (stopped | csr.fence_w_ip))
        keep_status(m, csr, self.csr_write, "c", ("cqmf", "cmd_to", "cmd_ill", "fence_w_ip"))

    def _line(self, m):
        """The line that was read, and which of its commands are there and not executed yet. Returns the word that the state looks at."""
        m.submodules.line = line = memory.Memory(shape=DATA_BITS, depth=2 * LINE_COMMANDS, init=[])
        write, read, answer = line.write_port(), line.read_port(domain="comb"), self.memory.d
        beat = Signal(range(2 * LINE_COMMANDS))
        self._fetching, self._wanted, self._there, self._bad = Signal(), *(Signal(LINE_COMMANDS, name=name) for name in ("wanted", "there", "bad"))
        place, bad = beat[1:], answer.payload.denied | answer.payload.corrupt
        m.d.comb += [
            answer.ready.eq(1), write.addr.eq(beat), write.data.eq(answer.payload.data), write.en.eq(self._fetching & answer.valid),
            read.addr.eq(Cat(self._high, self._slot)),
        ]
        with m.If(write.en):
            m.d.sync += [beat.eq(beat + 1), self._bad.bit_select(place, 1).eq(bad | (beat[0] & self._bad.bit_select(place, 1)))]
            with m.If(beat[0]):
                m.d.sync += self._there.bit_select(place, 1).eq(self._wanted.bit_select(place, 1))
            with m.If(beat.all()):
                m.d.sync += self._fetching.eq(0)
        return read.data

    def _idle(self, m, stopped):
        ahead, same_line = self.tail != self.head, (self.tail >> 2) == (self.head >> 2)
        # Behind the head, up to the tail or the end of the line.
        upto = same_line & (self.tail[:2] > self._slot)
        with m.If(~self.csr.cqen):
            with m.If(~self._fetching):
                m.d.sync += [self.csr.cqon.eq(0), self._there.eq(0)]
                m.next = "off"
        with m.Elif(~stopped & ahead):
            with m.If(self._there.bit_select(self._slot, 1)):
                m.next = "low"
            with m.Elif(~self._fetching):
                # After an error what came with the command may have been changed too.
                every = Const(-1, LINE_COMMANDS)
                m.d.sync += [self._there.eq(0), self._wanted.eq((every << self._slot) & ~Mux(upto, every << self.tail[:2], 0))]
                m.next = "ask"

    def _pass_on(self, m):
        """What a command says, for those who look when they are told to; and what is sent to memory."""
        pages, contexts, fence = (data.View(layout, self._command) for layout in (InvalidatePages, InvalidateContexts, Fence))
        ask, index = self.memory.a.payload, Cat(Const(0, SIZE_LINE - SIZE_COMMAND), self.head[2:])
        line = Cat(Const(0, SIZE_COMMAND), index) | Cat(Const(0, 12), self.base.ppn)
        self._stores = stores = Signal()
        m.d.comb += [
            self.pages.paged.eq(pages.av & ~pages.function[0]), self.pages.page.eq(pages.page[:VPN_BITS]),
            self.device_named.eq(contexts.dv), self.device_id.eq(contexts.device_id),
            ask.opcode.eq(Mux(stores, OpA.PUT_FULL, OpA.GET)), ask.size.eq(Mux(stores, SIZE_STORE, SIZE_LINE)),
            ask.address.eq(Mux(stores, Cat(Const(0, SIZE_STORE), fence.address[:ADDRESS_BITS - SIZE_STORE]), line)),
            ask.mask.eq(Mux(stores, Mux(fence.address[0], 0xF0, 0x0F), 0xFF)), ask.data.eq(fence.data.replicate(2)),
            *(executor.command.payload.eq(self._command) for executor in self._executors.values()),
        ]
        given_up = Cat(executor.expired for executor in self._executors.values())
        with m.If(given_up.any()):
            m.d.sync += self._expired.eq(1)

    def _retire(self, m):
        m.d.sync += self.head.eq((self.head + 1) & self._mask)
        m.next = "idle"

    def _stop(self, m, error):
        """Stop at this command. It is read again when software has cleared the error."""
        m.d.sync += self.csr[error].eq(1)
        m.next = "idle"

    def _execute(self, m):
        with m.If(self._failed):
            self._stop(m, "cqmf")
        with m.Else(), m.Switch(self._kind):
            with m.Case(Kind.PAGES):
                m.d.comb += self.invalidate_pages.eq(1)
                self._retire(m)
            with m.Case(Kind.CONTEXTS):
                m.d.comb += self.invalidate_contexts.eq(1)
                self._retire(m)
            with m.Case(Kind.FENCE):
                m.next = "settle"
            for kind, executor in self._executors.items():
                with m.Case(kind):
                    m.d.comb += executor.command.valid.eq(1)
                    with m.If(executor.command.ready):
                        self._retire(m)
            with m.Default():
                self._stop(m, "cmd_ill")

    def _fence(self, m):
        fence, expires = data.View(Fence, self._command), self._timer[-1]
        pending = Cat(executor.pending for executor in self._executors.values()).any()
        with m.State("settle"), m.If(~pending):
            m.d.sync += self._timer.eq(self._timer + 1)
            with m.If(~self.stale):
                m.d.comb += self.drain.eq(fence.pr | fence.pw)
                m.next = "complete"
                with m.If(fence.pr | fence.pw):
                    m.next = "drain"
            with m.Elif(expires):
                self._stop(m, "cmd_to")
        with m.State("drain"):
            m.d.sync += self._timer.eq(self._timer + 1)
            with m.If(self.drained):
                m.next = "complete"
                with m.If(self.drain_failed):
                    m.d.sync += self._expired.eq(1)
            with m.Elif(expires):
                self._stop(m, "cmd_to")
        with m.State("complete"):
            with m.If(self._expired):
                m.d.sync += self._expired.eq(0)
                self._stop(m, "cmd_to")
            with m.Elif(~fence.av):
                self._passed(m, fence)
            with m.Elif(fence.address[ADDRESS_BITS - SIZE_STORE:].any()):
                self._stop(m, "cqmf")
            with m.Elif(~self._fetching):
                m.next = "store"
        with m.State("store"):
            m.d.comb += [self._stores.eq(1), self.memory.a.valid.eq(1)]
            with m.If(self.memory.a.ready):
                m.next = "stored"
        with m.State("stored"), m.If(self.memory.d.valid):
            with m.If(self.memory.d.payload.denied):
                self._stop(m, "cqmf")
            with m.Else():
                self._passed(m, fence)

    def _passed(self, m, fence):
        with m.If(fence.wsi):
            m.d.sync += self.csr.fence_w_ip.eq(1)
        self._retire(m)
