"""A register file with ports named as in its SystemRDL file."""

from dataclasses import replace
from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from pagehop.registers.bus import BusRequest, MemoryBus, MemoryWrite, RegisterBus, RegisterWrite
from pagehop.registers.compile import WORD_BYTES, compile_registers

__all__ = ["RegisterFile", "SETTLE_CYCLES"]

#: Cycles by which a read samples later than a write sent in the same cycle would be visible.
SETTLE_CYCLES = 3


class RegisterFile(wiring.Component):
    """The registers of one block, built from its ``registers.rdl``, for up to ``clients`` hosts.

    Every client may have an access accepted each cycle while it is alone; several take turns. Nothing stops the pipeline, so ``request.ready`` comes
    within ``clients`` cycles whatever memories and reads do (H24, D6).

    A write is visible in the register's port 3 cycles after it was accepted; writes of all clients are visible in the order of their acceptance. A
    register read samples ``SETTLE_CYCLES`` + 3 cycles after its acceptance, so it sees every earlier write and what that write changes in a
    hardware-driven field within ``SETTLE_CYCLES`` cycles of the ``_written`` pulse; it is answered ``SETTLE_CYCLES`` + 5 cycles after its acceptance.
    A 64-bit register is sampled whole only by one 8-byte read.

    Reads of a memory go to its port one at a time; the next waits, and nothing else does. Reads of an address that nothing has are answered
    with ``error``; writes to it are dropped with a pulse on ``bus_dropped``, and so are writes to a memory that software may not write. Writes to
    fields that software cannot write are ignored.

    Two registers of 32 bits may share a word of the bus: an access of 8 bytes is of both. Fields that software and hardware both write, and memories
    that software may write, are kept by the block: the file hands it what software wrote, 3 cycles after it was accepted, and what the block then
    shows within ``SETTLE_CYCLES`` cycles is what the next read sees. What a write means, of such a field, is the block's matter (``onwrite`` in the
    SystemRDL file tells the reader). Of one register either all fields that software writes are kept so, or none.

    What software wrote is read back from a memory, which no reset clears: a register reads as its reset value until its first write.

    Parameters
    ----------
    rdl_path
        SystemRDL file, as :func:`pagehop.registers.compile.compile_registers` reads it.
    clients
        Number of buses.
    whole_words
        Names of memories whose reads have side effects on the whole word: a read of less than 8 bytes is answered with ``error`` and does not
        reach the memory, so no bit is lost.
    looked_up
        Names of registers of the hardware that have no port of their own: when one is read, ``looked_enable`` is 1 with its number in this list on
        ``looked_index``, and ``looked_word`` is sampled two cycles later.
    holes_are_zero
        Reads of an address that nothing has are answered with 0, not with ``error``.
    absent
        Names of registers that are not built: nothing has their addresses.

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
    <register>_write : ``Out(RegisterWrite(bytes))``
        What software wrote, of a register in whose fields software and hardware write.
    <memory>_write : ``Out(MemoryWrite(index_bits))``
        What software wrote, of a memory that it may write.
    <memory> : ``Out(MemoryBus(index_bits))``
    looked_enable, looked_index, looked_word : if ``looked_up`` names any.
    """
    def __init__(self, rdl_path, clients=1, whole_words=(), looked_up=(), *, holes_are_zero=False, absent=()):
        if clients not in range(1, 9):
            raise ValueError(f"Register file must have 1 to 8 clients, not {clients!r}")
        self.map = compile_registers(rdl_path)
        names = [register.name for register in self.map.registers]
        for name in absent:
            if name not in names:
                raise ValueError(f"Register that is absent must be one of {', '.join(names)}, not {name!r}")
        self.map = replace(self.map, registers=tuple(register for register in self.map.registers if register.name not in absent))
        self.clients = clients
        self.address_bits = max(4, ceil_log2(self.map.size))
        self.whole_words, self.looked_up, self.holes_are_zero = tuple(whole_words), tuple(looked_up), holes_are_zero
        self._check()
        super().__init__({
            "bus": In(RegisterBus(self.address_bits)).array(clients),
            "bus_dropped": Out(1),
            **{name: member for register in self.map.registers for name, member in self._members(register).items()},
            **{bank.name: Out(MemoryBus(ceil_log2(bank.words))) for bank in self.map.memories},
            **{f"{bank.name}_write": Out(MemoryWrite(ceil_log2(bank.words))) for bank in self.map.memories if bank.writable},
            **({"looked_enable": Out(1), "looked_index": Out(range(len(self.looked_up))), "looked_word": In(64)} if self.looked_up else {}),
        })

    def _check(self):
        memories = [bank.name for bank in self.map.memories]
        for name in self.whole_words:
            if name not in memories:
                raise ValueError(f"Memory read in whole words must be one of {', '.join(memories) or 'none'}, not {name!r}")
        for bank in self.map.memories:
            if not bank.readable:
                raise ValueError(f"Memory {bank.name!r} must be readable by software (sw = r or sw = rw)")
        for register in self.map.registers:
            if self._writable(register) and any(field.hardware_writes for field in register.fields):
                raise ValueError(f"Register {register.name!r} must be kept by the register file or by the hardware, not a part of it by each")
        driven = [register.name for register in self.map.registers
                  if all(field.hardware_writes for field in register.fields) and not self._shared(register)]
        for name in self.looked_up:
            if name not in driven:
                raise ValueError(f"Register that is looked up must be one of {', '.join(driven) or 'none'}, not {name!r}")

    @staticmethod
    def _writable(register):
        return [field for field in register.fields if field.software_writes and not field.hardware_writes]

    @staticmethod
    def _shared(register):
        return any(field.shared for field in register.fields)

    @staticmethod
    def _size_bits(bank):
        """Address bits within a memory."""
        return ceil_log2(bank.words * WORD_BYTES)

    def _members(self, register):
        """Ports of one register."""
        seen = data.StructLayout({field.name: field.width for field in self._writable(register) if field.hardware_reads})
        driven = data.StructLayout({field.name: field.width for field in register.fields if field.hardware_writes})
        if driven.size:
            writes = {f"{register.name}_write": Out(RegisterWrite(register.size))} if self._shared(register) else {}
            return {} if register.name in self.looked_up else {register.name: In(driven), **writes}
        members = {register.name: Out(seen)} if seen.size else {}
        if self._writable(register):
            members[f"{register.name}_written"] = Out(1)
        return members

    def elaborate(self, platform):
        m = Module()
        accepted, client, valid = self._arbitrate(m)
        bits = ceil_log2(self.map.registers[-1].offset // WORD_BYTES + 1)
        place = accepted.address[ceil_log2(WORD_BYTES):][:bits]   # of a register
        known = self._is(place, self.map.registers) & ~accepted.address[ceil_log2(WORD_BYTES) + bits:].any()
        memories = [accepted.address >> self._size_bits(bank) == bank.offset >> self._size_bits(bank) for bank in self.map.memories]

        # Cycle 1 of an access: decode. Cycle 2: write, or start the read.
        request, read, write = Signal(BusRequest(self.address_bits)), Signal(), Signal()
        reader, to_memory = Signal.like(client), Signal(len(memories))
        index, exists = Signal(bits), Signal()
        reads = valid & ~accepted.write
        allowed = [in_memory & (accepted.strobe.all() | (bank.name not in self.whole_words))
                   for in_memory, bank in zip(memories, self.map.memories, strict=True)]
        m.d.sync += [
            request.eq(accepted), reader.eq(client), read.eq(reads & ~Cat(*allowed).any()), write.eq(valid & accepted.write),
            index.eq(place), exists.eq(self._any_of(known, memories)), to_memory.eq(Mux(reads, Cat(*allowed), 0)),
            self.bus_dropped.eq(write & ~exists),
        ]
        kept = self._keep(m, place, known, request, write)
        self._tell(m, place, known, memories, request, write)
        sources = [*self._read_registers(m, kept, index, exists, read, reader), *self._read_memories(m, to_memory, request, reader)]
        for number, bus in enumerate(self.bus):
            self._respond(m, bus.response, [(valid & (owner == number), word, error) for valid, owner, word, error in sources])
        return m

    def _any_of(self, known, memories):
        """1 when something has the address of an access: a read of a memory does not ask."""
        return reduce(or_, (inside for inside, bank in zip(memories, self.map.memories, strict=True) if bank.writable), known)

    def _tell(self, m, place, known, memories, request, write):
        """Hand on what software writes to registers and memories that the block keeps."""
        told = [(f"{register.name}_write", register.shift // 8, known & self._is(place, [register]))
                for register in self.map.registers if self._shared(register)]
        told += [(f"{bank.name}_write", 0, inside) for inside, bank in zip(memories, self.map.memories, strict=True) if bank.writable]
        if not told:
            return
        written = Signal.like(request)
        m.d.sync += written.eq(request)
        for name, first, selected in told:
            port, select = getattr(self, name), Signal(name=f"selects_{name}")
            m.d.sync += [select.eq(selected), port.strobe.eq(Mux(write & select, request.strobe[first:first + len(port.strobe)], 0))]
            m.d.comb += port.data.eq(written.data[8 * first:8 * first + len(port.data)])
            if "index" in port.shape().members:
                m.d.comb += port.index.eq(written.address[ceil_log2(WORD_BYTES):])

    @staticmethod
    def _is(place, registers):
        """1 when ``place`` is that of one of the registers."""
        return Cat(place == register.offset // WORD_BYTES for register in registers).any()

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

    def _keep(self, m, place, known, request, write):
        """Flip-flops and ports of what software writes, and the memory that it is read back from. Returns its read port and which are written."""
        registers = [register for register in self.map.registers if self._writable(register)]
        select, written = Signal(len(registers)), Signal(len(registers))
        m.d.sync += [select.eq(Cat(known & self._is(place, [register]) for register in registers)), written.eq(written | Mux(write, select, 0))]
        for number, register in enumerate(registers):
            self._store(m, register, write & select[number], request)
        depth = 1 << len(place)
        m.submodules.kept = kept = memory.Memory(shape=64, depth=depth, init=[])
        port = kept.write_port(granularity=8)
        # The first write to a register fills the bytes that it does not write.
        first = ~(select & written).any()
        resets = reduce(or_, (Mux(select[number], register.reset << register.shift, 0) for number, register in enumerate(registers)), Const(0, 64))
        m.d.comb += [
            port.addr.eq(request.address[ceil_log2(WORD_BYTES):]), port.en.eq(Mux(write & select.any(), request.strobe | first.replicate(8), 0)),
            port.data.eq(Cat(Mux(request.strobe[bit // 8], request.data[bit] & exists, resets[bit])
                             for bit, exists in enumerate(self._field_bits(m, place, registers)))),
        ]
        return kept.read_port(), written

    def _field_bits(self, m, place, registers):
        """One signal for each bit of a word: the register in cycle 2 has it. Bits that the same registers have share one."""
        flags = {}
        for bit in range(64):
            owners = tuple(register for register in registers
                           if any(0 <= bit - register.shift - field.low < field.width and not field.single_pulse for field in register.fields))
            if owners not in flags:
                flags[owners] = Signal(name=f"has_bit_{bit}")
                m.d.sync += flags[owners].eq(self._is(place, owners) if owners else 0)
            yield flags[owners]

    def _store(self, m, register, write, request):
        """Flip-flops and ports of one register."""
        for field in self._writable(register):
            value = self._field(m, register, field, write, request)
            if field.hardware_reads:
                m.d.comb += getattr(self, register.name)[field.name].eq(value)
        if register.size < WORD_BYTES:
            write = write & request.strobe[register.shift // 8:][:register.size].any()
        m.d.sync += getattr(self, f"{register.name}_written").eq(write)

    def _word(self, register):
        """What a read sees of a register that is not read back from the memory."""
        word = [Const(0, 64)[0]] * 64
        for field in register.fields:
            value = getattr(self, register.name)[field.name] if field.hardware_writes else Const(field.reset, field.width)
            if not field.single_pulse:
                word[register.shift + field.low:register.shift + field.low + field.width] = list(value)
        return Cat(*word)

    @staticmethod
    def _field(m, register, field, write, request):
        """Storage of a field that software writes, byte by byte."""
        value = Signal(field.width, init=field.reset, name=f"{register.name}_{field.name}")
        if field.single_pulse:
            m.d.sync += value.eq(0)
        first = register.shift + field.low
        for byte in range(first // 8, (first + field.width + 7) // 8):
            low, high = max(first, 8 * byte), min(first + field.width, 8 * byte + 8)
            with m.If(write & request.strobe[byte]):
                m.d.sync += value[low - first:high - first].eq(request.data[low:high])
        return value

    def _read_registers(self, m, kept, index, exists, read, reader):
        """Sample the register at ``index``; return (valid, client, data, error) of what the memory shows, which is late, and of the rest."""
        port, written = kept
        stages = [(index, exists, read, reader)]
        for _ in range(SETTLE_CYCLES + 1):
            stages.append(tuple(Signal.like(value) for value in stages[-1]))
            m.d.sync += [now.eq(before) for now, before in zip(*reversed(stages[-2:]), strict=True)]
        (before_last, _, read_before_last, _), (before, existed, *_), (index, exists, read, reader) = stages[-3:]
        # Decoded a cycle ahead.
        selects = {register.name: Signal(name=f"reads_{register.name}") for register in self.map.registers}
        for register in self.map.registers:
            select = self._is(before, [register])
            m.d.sync += selects[register.name].eq(select & existed if self.holes_are_zero else select)
        others, from_memory = Signal(64), Signal()
        writable = [selects[register.name] for register in self.map.registers if self._writable(register)]
        chosen, number = [Const(0, 64)], 0
        for register in self.map.registers:
            select = selects[register.name]
            if self._writable(register):
                select, number = select & ~written[number], number + 1
            if register.name not in self.looked_up:
                chosen.append(Mux(select, self._word(register), 0))
        valid, client, error = Signal(), Signal.like(reader), Signal()
        m.d.comb += port.addr.eq(index)
        m.d.sync += [
            others.eq(reduce(or_, chosen)), from_memory.eq(read & (Cat(writable) & written).any()),
            valid.eq(read), client.eq(reader), error.eq(0 if self.holes_are_zero else ~exists),
        ]
        word = others
        if self.looked_up:
            looked = [register for register in self.map.registers if register.name in self.looked_up]
            places = [(self._is(before_last, [register]), self.looked_up.index(register.name)) for register in looked]
            from_outside = Signal()
            m.d.sync += [
                self.looked_enable.eq(read_before_last & self._is(before_last, looked)),
                self.looked_index.eq(reduce(or_, (Mux(select, number, 0) for select, number in places))),
                from_outside.eq(Cat(selects[name] for name in self.looked_up).any()),
            ]
            word = word | Mux(from_outside, self.looked_word, 0)
        return (from_memory, client, port.data, Const(0)), (valid, client, word, error)

    def _read_memories(self, m, read, request, reader):
        """Pass reads on to the memories, each one at a time; return (valid, client, data, error) of each memory."""
        # A client has one read unanswered, so one place for its address is enough for all memories.
        held = [Signal(BusRequest(self.address_bits), name=f"held_{number}") for number in range(self.clients)]
        for number in range(self.clients):
            with m.If(read.any() & (reader == number)):
                m.d.sync += held[number].eq(request)
        ports = [getattr(self, bank.name) for bank in self.map.memories]
        return [self._read_memory(m, port, read[number], reader, held) for number, port in enumerate(ports)]

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
        with m.If(Cat(valid for valid, *_ in sources).any()):
            m.d.sync += [
                response.valid.eq(1),
                response.payload.data.eq(reduce(or_, (Mux(valid & ~error, word, 0) for valid, word, error in sources))),
                response.payload.error.eq(Cat(valid & error for valid, _, error in sources).any()),
            ]
