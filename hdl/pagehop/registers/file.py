"""A register file with ports named as in its SystemRDL file."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pagehop.registers.bus import BusRequest, MemoryBus, RegisterBus
from pagehop.registers.compile import WORD_BYTES, compile_registers

__all__ = ["RegisterFile", "SETTLE_CYCLES"]

#: Cycles by which a read samples later than a write sent in the same cycle would be visible.
SETTLE_CYCLES = 3

#: Registers that one level of the read multiplexer joins.
_GROUP = 8


class RegisterFile(wiring.Component):
    """The registers of one block, built from its ``registers.rdl``, for up to ``clients`` hosts.

    Every client may have an access accepted each cycle while it is alone; several take turns. Nothing stops the pipeline, so ``request.ready`` comes
    within ``clients`` cycles whatever memories and reads do (H24, D6).

    A write is visible in the register's port 3 cycles after it was accepted; writes of all clients are visible in the order of their acceptance. A
    register read samples ``SETTLE_CYCLES`` + 3 cycles after its acceptance, so it sees every earlier write and what that write changes in a
    hardware-driven field within ``SETTLE_CYCLES`` cycles of the ``_written`` pulse; it is answered ``SETTLE_CYCLES`` + 5 cycles after its acceptance.
    A 64-bit register is sampled whole only by one 8-byte read.

    Reads of a memory go to its port one at a time; the next waits, and nothing else does. Reads of an address that nothing has are answered
    with ``error``; writes to it are dropped with a pulse on ``bus_dropped``, and so are writes to a memory. Writes to fields that software cannot
    write are ignored.

    Parameters
    ----------
    rdl_path
        SystemRDL file, as :func:`pagehop.registers.compile.compile_registers` reads it.
    clients
        Number of buses.
    whole_words
        Names of memories whose reads have side effects on the whole word: a read of less than 8 bytes is answered with ``error`` and does not
        reach the memory, so no bit is lost.

    Members
    -------
    bus : ``In(RegisterBus(address_bits)).array(clients)``
    bus_dropped : ``Out(1)``
        A write that addressed nothing was dropped.
    <register> : ``Out(StructLayout)``
        Fields that software writes and hardware reads, without gaps. A ``singlepulse`` field is 1 for one cycle.
    <register>_written : ``Out(1)``
        1 in the cycle in which a written value becomes visible in ``<register>``, whatever bytes were written.
    <register> : ``In(StructLayout)``
        Fields that hardware writes, without gaps.
    <memory> : ``Out(MemoryBus(index_bits))``
    """
    def __init__(self, rdl_path, clients=1, whole_words=()):
        if clients not in range(1, 9):
            raise ValueError(f"Register file must have 1 to 8 clients, not {clients!r}")
        self.map = compile_registers(rdl_path)
        self.clients = clients
        self.address_bits = max(4, ceil_log2(self.map.size))
        self.whole_words = tuple(whole_words)
        self._check()
        super().__init__({
            "bus": In(RegisterBus(self.address_bits)).array(clients),
            "bus_dropped": Out(1),
            **{name: member for register in self.map.registers for name, member in self._members(register).items()},
            **{memory.name: Out(MemoryBus(ceil_log2(memory.words))) for memory in self.map.memories},
        })

    def _check(self):
        memories = [memory.name for memory in self.map.memories]
        for name in self.whole_words:
            if name not in memories:
                raise ValueError(f"Memory read in whole words must be one of {', '.join(memories) or 'none'}, not {name!r}")
        for memory in self.map.memories:
            if memory.writable or not memory.readable:
                raise ValueError(f"Memory {memory.name!r} must be read-only for software (sw = r)")
        for register in self.map.registers:
            if any(field.software_writes for field in register.fields) and any(field.hardware_writes for field in register.fields):
                raise ValueError(f"Register {register.name!r} must be written by software or by hardware, not a part of it by each")

    @staticmethod
    def _writable(register):
        return [field for field in register.fields if field.software_writes]

    @staticmethod
    def _size_bits(memory):
        """Address bits within a memory."""
        return ceil_log2(memory.words * WORD_BYTES)

    def _members(self, register):
        """Ports of one register."""
        seen = data.StructLayout({field.name: field.width for field in self._writable(register) if field.hardware_reads})
        driven = data.StructLayout({field.name: field.width for field in register.fields if field.hardware_writes})
        if driven.size:
            return {register.name: In(driven)}
        members = {register.name: Out(seen)} if seen.size else {}
        if self._writable(register):
            members[f"{register.name}_written"] = Out(1)
        return members

    def elaborate(self, platform):
        m = Module()
        accepted, client, valid = self._arbitrate(m)
        registers = [accepted.address == register.offset for register in self.map.registers]
        memories = [accepted.address >> self._size_bits(memory) == memory.offset >> self._size_bits(memory) for memory in self.map.memories]

        # Cycle 1 of an access: decode. Cycle 2: write, or start the read.
        request, read, write = Signal(BusRequest(self.address_bits)), Signal(), Signal()
        reader = Signal.like(client)
        select, select_memory = Signal(len(registers)), Signal(len(memories))
        m.d.sync += [
            request.eq(accepted), reader.eq(client), read.eq(valid & ~accepted.write), write.eq(valid & accepted.write),
            select.eq(Cat(*registers)), select_memory.eq(Cat(*memories)),
            self.bus_dropped.eq(write & ~select.any()),
        ]
        words = [self._register(m, register, write & select[number], request) for number, register in enumerate(self.map.registers)]

        partial = Const(0)
        for number, memory in enumerate(self.map.memories):
            if memory.name in self.whole_words:
                partial |= select_memory[number] & ~request.strobe.all()
        to_memory = read & select_memory.any() & ~partial
        sources = [self._read_registers(m, words, select, read & ~to_memory, reader)]
        sources += self._read_memories(m, select_memory, to_memory, request, reader)
        for number, bus in enumerate(self.bus):
            self._respond(m, bus.response, [(valid & (owner == number), word, error) for valid, owner, word, error in sources])
        return m

    def _arbitrate(self, m):
        """Take one request a cycle, the clients in turn; return it, registered, with its client."""
        accepted, valid = Signal(BusRequest(self.address_bits)), Signal()
        client = Signal(range(max(self.clients, 2)))
        chosen = Signal.like(client)
        requesting = Cat(*(bus.request.valid for bus in self.bus))
        with m.Switch(client):
            for last in range(self.clients):
                with m.Case(last):
                    # The last assignment wins: the client after the last one has priority.
                    for step in range(self.clients, 0, -1):
                        number = (last + step) % self.clients
                        with m.If(requesting[number]):
                            m.d.comb += chosen.eq(number)
        payload = Array(bus.request.payload.as_value() for bus in self.bus)[chosen]
        m.d.sync += [valid.eq(requesting.any()), accepted.as_value().eq(payload)]
        with m.If(requesting.any()):
            m.d.sync += client.eq(chosen)
        for number, bus in enumerate(self.bus):
            m.d.comb += bus.request.ready.eq(requesting[number] & (chosen == number))
        return accepted, client, valid

    def _register(self, m, register, write, request):
        """Flip-flops and ports of one register; return the word that a read of it sees."""
        word = [Const(0, 64)[0]] * 64
        port = getattr(self, register.name, None)
        for field in register.fields:
            if field.hardware_writes:
                value = port[field.name]
            elif field.software_writes:
                value = self._field(m, register, field, write, request)
                if field.hardware_reads:
                    m.d.comb += port[field.name].eq(value)
            else:
                value = Const(field.reset, field.width)
            if not field.single_pulse:
                word[field.low:field.low + field.width] = list(value)
        if self._writable(register):
            m.d.sync += getattr(self, f"{register.name}_written").eq(write)
        return Cat(*word)

    @staticmethod
    def _field(m, register, field, write, request):
        """Storage of a field that software writes, byte by byte."""
        value = Signal(field.width, init=field.reset, name=f"{register.name}_{field.name}")
        if field.single_pulse:
            m.d.sync += value.eq(0)
        for byte in range(field.low // 8, (field.low + field.width + 7) // 8):
            low, high = max(field.low, 8 * byte), min(field.low + field.width, 8 * byte + 8)
            with m.If(write & request.strobe[byte]):
                m.d.sync += value[low - field.low:high - field.low].eq(request.data[low:high])
        return value

    @staticmethod
    def _read_registers(m, words, select, read, reader):
        """Sample the selected register in two levels; return (valid, client, data, error)."""
        for _ in range(SETTLE_CYCLES + 1):
            select_q, read_q, reader_q = Signal.like(select), Signal(), Signal.like(reader)
            m.d.sync += [select_q.eq(select), read_q.eq(read), reader_q.eq(reader)]
            select, read, reader = select_q, read_q, reader_q
        groups = []
        for start in range(0, len(words), _GROUP):
            group = Signal(64, name=f"group_{start}")
            chosen = [Mux(select[number], words[number], 0) for number in range(start, min(start + _GROUP, len(words)))]
            m.d.sync += group.eq(reduce(or_, chosen))
            groups.append(group)
        valid, client, error = Signal(), Signal.like(reader), Signal()
        m.d.sync += [valid.eq(read), client.eq(reader), error.eq(~select.any())]
        return valid, client, reduce(or_, groups, Const(0, 64)), error

    def _read_memories(self, m, select, read, request, reader):
        """Pass reads on to the memories, each one at a time; return (valid, client, data, error) of each memory."""
        # A client has one read unanswered, so one place for its address is enough for all memories.
        held = [Signal(BusRequest(self.address_bits), name=f"held_{number}") for number in range(self.clients)]
        for number in range(self.clients):
            with m.If(read & (reader == number)):
                m.d.sync += held[number].eq(request)
        ports = [getattr(self, memory.name) for memory in self.map.memories]
        return [self._read_memory(m, port, read & select[number], reader, held) for number, port in enumerate(ports)]

    def _read_memory(self, m, port, read, reader, held):
        """Port of one memory: ``waiting`` has a bit for each client whose read is not answered.

        A client served last needs longer to ask again than the others wait for, so fixed priority starves nobody.
        """
        waiting, client = Signal(self.clients), Signal.like(reader)
        asking, busy = Signal(), Signal()
        with m.If(~busy):
            for number in range(self.clients):
                with m.If(waiting[number]):
                    m.d.sync += [client.eq(number), asking.eq(1), busy.eq(1)]
        with m.If(port.request.valid & port.request.ready):
            m.d.sync += asking.eq(0)
        with m.If(port.response.valid):
            m.d.sync += busy.eq(0)
        for number in range(self.clients):
            with m.If(port.response.valid & (client == number)):
                m.d.sync += waiting[number].eq(0)
            with m.If(read & (reader == number)):
                m.d.sync += waiting[number].eq(1)
        source = Array(view.as_value() for view in held)[client]
        request = data.View(BusRequest(self.address_bits), source)
        m.d.comb += [
            port.request.valid.eq(asking),
            port.request.payload.index.eq(request.address >> ceil_log2(WORD_BYTES)),
            port.request.payload.strobe.eq(request.strobe),
            port.response.ready.eq(1),
        ]
        return port.response.valid & busy, client, port.response.payload.data, port.response.payload.error

    @staticmethod
    def _respond(m, response, sources):
        """Response register of one client. It has one read unanswered, so at most one source brings something."""
        with m.If(response.valid & response.ready):
            m.d.sync += response.valid.eq(0)
        for valid, word, error in sources:
            with m.If(valid):
                m.d.sync += [response.valid.eq(1), response.payload.data.eq(Mux(error, 0, word)), response.payload.error.eq(error)]
