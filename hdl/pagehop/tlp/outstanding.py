"""The device's requests that a host has not answered yet."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS

__all__ = ["EPOCHS", "HOSTS", "OutstandingEntry", "OutstandingTable", "row_of"]

HOSTS = 2

#: Epochs that can be told apart: the current one and three older.
EPOCHS = 4


class OutstandingEntry(data.Struct):
    """What is remembered of a request: who asked, which host answers, and what its completions need."""
    requester_id: 16
    tag:          10
    host:         1
    epoch:        2
    atomic:       1
    lines:        7
    flush_target: FLUSH_SEQUENCE_BITS


def row_of(requester_id, tag, rows=1024):
    """Row of a request in a table of ``rows``.

    With 1024 rows the tags of one function never share a row. Bus and function count from the other end, so requesters that use low tags, as
    they all do, spread.
    """
    requester_id = Value.cast(requester_id)
    function, bus = requester_id[:8], requester_id[8:16]
    mixed = Value.cast(tag)[:10] ^ Cat(0, 0, function[::-1] ^ bus[::-1].rotate_right(4))
    width = exact_log2(rows)
    folded = mixed[:width]
    for start in range(width, 10, width):
        folded = folded ^ mixed[start:min(start + width, 10)]
    return folded[:width]


class OutstandingTable(wiring.Component):
    """Requests in flight, one a row; the row follows from who asks and with which tag (:func:`row_of`).

    All ports work in the same cycle, every cycle. A row is taken by ``allocate`` and given back by ``free`` of its host, or by ``give_up``.
    Freeing what is not taken (twice, or after it was given up) does nothing, nor does host *h* freeing an entry whose ``host`` is not *h*.

    - **Look-up**: ``lookup_row`` is sampled with ``lookup_enable``. From the next cycle to the next ``lookup_enable``, ``occupied`` says
      whether that row is taken *now*: an ``allocate`` shows in the next cycle, a ``free`` or ``give_up`` in the second.
    - **Allocate** only a row that is free. It is found by a completion's look-up two or more cycles later.
    - **Completion** *h*: ``completion_row`` is sampled with ``completion_enable``. From the next cycle to the next ``completion_enable``,
      ``completion_entry`` is what the row held and ``completion_valid`` says whether that request is still unanswered (a ``free`` or
      ``give_up`` shows in the second cycle). The row may belong to another request: compare ``requester_id``, ``tag`` and ``host``.
      Free with the same entry.
    - **Give up** frees the row that ``occupied`` stands for. If it was taken, ``given_up`` pulses in the next cycle with ``given_up_entry``,
      for whoever holds room for it. Not in the same cycle as ``allocate``.

    **Epochs** (H12, H58): an entry belongs to the epoch in which it was allocated; ``advance`` begins the next with the next cycle. It has
    effect only with ``advance_ready``: there are four numbers, and that of the next must be unused. ``settled`` says that nothing of an
    older epoch is unanswered, ``atomics_settled`` that no atomic is; both are 0 in the cycle after ``advance``, and may rise up to 4 cycles
    late, never early.

    **Reset**: what was in flight is lost with the links, and a memory has no reset, so all rows are freed one by one in the ``rows`` cycles after it.
    Until then ``occupied`` is 1 and ``completion_valid`` 0: requests wait, and late completions are unexpected.

    Parameters
    ----------
    rows : int
        A power of two from 2 to 1024.

    Members
    -------
    lookup_row, lookup_enable : in
    occupied : out
    allocate, allocate_row, allocate_entry : in; the table fills in ``epoch``
    completion_row, completion_enable : arrays of 2 (a host each), in
    completion_entry, completion_valid : arrays of 2, out
    free, free_row, free_entry : arrays of 2, in
    give_up : in
    given_up, given_up_entry : out
    advance : in
    advance_ready, settled, atomics_settled : out
    epoch : out, the current one
    count : array of 2, out; unanswered requests a host
    """
    def __init__(self, rows=1024):
        if rows < 2 or rows > 1024 or rows & rows - 1:
            raise ValueError(f"Rows of the outstanding table must be a power of two from 2 to 1024, not {rows!r}")
        self.rows = rows
        row = exact_log2(rows)
        super().__init__({
            "lookup_row": In(row), "lookup_enable": In(1), "occupied": Out(1),
            "allocate": In(1), "allocate_row": In(row), "allocate_entry": In(OutstandingEntry),
            "completion_row": In(row).array(HOSTS), "completion_enable": In(1).array(HOSTS),
            "completion_entry": Out(OutstandingEntry).array(HOSTS), "completion_valid": Out(1).array(HOSTS),
            "free": In(1).array(HOSTS), "free_row": In(row).array(HOSTS), "free_entry": In(OutstandingEntry).array(HOSTS),
            "give_up": In(1), "given_up": Out(1), "given_up_entry": Out(OutstandingEntry),
            "advance": In(1), "advance_ready": Out(1, init=1), "settled": Out(1, init=1), "atomics_settled": Out(1, init=1),
            "epoch": Out(2), "count": Out(16).array(HOSTS),
        })

    def elaborate(self, platform):
        m = Module()
        # A row is taken when the three bits that it has here differ in number from even. Each memory has one writer, which sets
        # its own bit so that the sum comes out as it should, and reads all three in the cycle before.
        m.submodules.allocated = allocated = memory.Memory(shape=1, depth=self.rows, init=[])
        m.submodules.freed_a = freed_a = memory.Memory(shape=1, depth=self.rows, init=[])
        m.submodules.freed_b = freed_b = memory.Memory(shape=1, depth=self.rows, init=[])
        m.submodules.entries = entries = memory.Memory(shape=OutstandingEntry, depth=self.rows, init=[])
        self._sweeping, self._swept = Signal(init=1, name="sweeping"), Signal(range(self.rows), name="swept")
        with m.If(self._sweeping):
            m.d.sync += [self._swept.eq(self._swept + 1), self._sweeping.eq(self._swept != self.rows - 1)]
        bits = [(bank, bank.write_port()) for bank in (allocated, freed_a, freed_b)]
        frees = [self._free(m, bits, host) for host in range(HOSTS)]
        gives_up, given_up_row = self._allocate(m, bits, entries, frees)
        ends = [(gives_up, given_up_row), *((flip, row) for flip, row, _ in frees)]
        for host in range(HOSTS):
            self._completion(m, bits, entries.read_port(), host, ends)
        self._count(m, frees, gives_up)
        return m

    @staticmethod
    def _read_bits(m, bits, row):
        """The three bits of ``row``, in the next cycle, with what is written in this one.

        Not by transparent ports: these become an address register before asynchronous memories, and all of the memory's delay falls in the next
        cycle.
        """
        taken = []
        for bank, write in bits:
            read, bit = bank.read_port(), Signal()
            same_row, written, value = Signal(), Signal(), Signal()
            m.d.sync += [same_row.eq(write.addr == row), written.eq(write.en), value.eq(write.data)]
            m.d.comb += [read.addr.eq(row), bit.eq(Mux(same_row & written, value, read.data))]
            taken.append(bit)
        return taken

    def _write(self, write, row, value, enable):
        """Write a bit of ``row``; while rows are swept, free them in turn."""
        sweeping = self._sweeping
        return [write.addr.eq(Mux(sweeping, self._swept, row)), write.data.eq(value & ~sweeping), write.en.eq(enable | sweeping)]

    def _free(self, m, bits, host):
        """Look whether the row is taken, then flip the bit of this host. Returns the flip and the entry, in the second cycle."""
        taken = self._read_bits(m, bits, self.free_row[host])
        asked, row, entry = Signal(name=f"free_asked_{host}"), Signal.like(self.free_row[host]), Signal(OutstandingEntry, name=f"freed_{host}")
        flip = Signal(name=f"free_flip_{host}")
        write = bits[1 + host][1]
        m.d.sync += [
            asked.eq(self.free[host] & (self.free_entry[host].host == host)),
            row.eq(self.free_row[host]),
            entry.eq(self.free_entry[host]),
        ]
        m.d.comb += [
            flip.eq(asked & (taken[0] ^ taken[1] ^ taken[2]) & ~self._sweeping),
            *self._write(write, row, ~taken[1 + host], flip),
        ]
        return flip, row, entry

    def _allocate(self, m, bits, entries, frees):
        """Look-up, allocation and giving up share the first memory's writer."""
        held_row, looked_row, row = Signal.like(self.lookup_row), Signal.like(self.lookup_row), Signal.like(self.lookup_row)
        asked, gives_up_asked, gives_up, just_allocated, freed = Signal(), Signal(), Signal(), Signal(), Signal(HOSTS)
        change_row = Mux(self.give_up, held_row, self.allocate_row)
        looked, taken = self._read_bits(m, bits, looked_row), self._read_bits(m, bits, change_row)
        m.d.comb += looked_row.eq(Mux(self.lookup_enable, self.lookup_row, held_row))
        m.d.sync += [
            held_row.eq(looked_row),
            row.eq(change_row),
            asked.eq(self.allocate),
            gives_up_asked.eq(self.give_up),
            just_allocated.eq(self.allocate & (self.allocate_row == looked_row)),
        ]
        # A free of the same row in the same cycle comes first: two flips would take the row again.
        m.d.sync += [same_row.eq(freed_row == change_row) for same_row, freed_row in zip(freed, self.free_row, strict=True)]
        freed = (freed & Cat(flip for flip, *_ in frees)).any()
        write, write_entry, read_entry = bits[0][1], entries.write_port(), entries.read_port()
        entry = Signal(OutstandingEntry)
        m.d.comb += [
            self.occupied.eq(looked[0] ^ looked[1] ^ looked[2] | just_allocated | self._sweeping),
            gives_up.eq(gives_up_asked & (taken[0] ^ taken[1] ^ taken[2]) & ~freed & ~self._sweeping),
            *self._write(write, row, Mux(asked, ~(taken[1] ^ taken[2]), taken[1] ^ taken[2]), asked | gives_up),
            entry.eq(self.allocate_entry),
            entry.epoch.eq(self.epoch),
            write_entry.addr.eq(self.allocate_row),
            write_entry.data.eq(entry),
            write_entry.en.eq(self.allocate),
            read_entry.addr.eq(held_row),
            self.given_up.eq(gives_up),
            self.given_up_entry.eq(read_entry.data),
        ]
        return gives_up, row

    def _completion(self, m, bits, read, host, ends):
        """The entry as it was at the look-up; whether it stands, as it is now."""
        held_row, row, stands = Signal.like(self.completion_row[host]), Signal.like(self.completion_row[host]), Signal()
        taken = self._read_bits(m, bits, row)
        m.d.comb += [
            row.eq(Mux(self.completion_enable[host], self.completion_row[host], held_row)),
            read.addr.eq(row),
            read.en.eq(self.completion_enable[host]),
            self.completion_entry[host].eq(read.data),
            self.completion_valid[host].eq(stands & (taken[0] ^ taken[1] ^ taken[2]) & ~self._sweeping),
        ]
        m.d.sync += held_row.eq(row)
        # Once freed or given up, the row may be taken again while a late completion still stands here.
        with m.If(self.completion_enable[host]):
            m.d.sync += stands.eq(1)
        with m.Elif(Cat(ended & (ended_row == held_row) for ended, ended_row in ends).any()):
            m.d.sync += stands.eq(0)

    def _count(self, m, frees, gives_up):
        """Unanswered requests of each host and epoch, and atomics of each epoch."""
        entry, given_up = self.allocate_entry, self.given_up_entry
        ends = [(flip, freed.host, freed.epoch, freed.atomic) for flip, _, freed in frees]
        ends.append((gives_up, given_up.host, given_up.epoch, given_up.atomic))
        # Registered between the memories and the counters.
        for n, end in enumerate(ends):
            late = [Signal.like(value, name=f"end_{n}_{name}") for value, name in zip(end, ("", "host", "epoch", "atomic"), strict=True)]
            m.d.sync += [now.eq(value) for now, value in zip(late, end, strict=True)]
            ends[n] = late
        for host in range(HOSTS):
            fewer = sum(end & (end_host == host) for end, end_host, _, _ in ends)
            m.d.sync += self.count[host].eq(self.count[host] + (self.allocate & (entry.host == host)) - fewer)
        none, no_atomic = [], []
        for epoch in range(EPOCHS):
            total, atomics = Signal(range(self.rows + 1), name=f"total_{epoch}"), Signal(range(self.rows + 1), name=f"atomics_{epoch}")
            fewer = sum(end & (end_epoch == epoch) for end, _, end_epoch, _ in ends)
            fewer_atomics = sum(end & (end_epoch == epoch) & atomic for end, _, end_epoch, atomic in ends)
            more = self.allocate & (self.epoch == epoch)
            m.d.sync += [
                total.eq(total + more - fewer),
                atomics.eq(atomics + (more & entry.atomic) - fewer_atomics),
            ]
            none.append((total == 0) | (self.epoch == epoch))
            no_atomic.append((atomics == 0) | (self.epoch == epoch))
        advance = self.advance & self.advance_ready
        m.d.sync += [
            self.epoch.eq(self.epoch + advance),
            self.advance_ready.eq(Cat(none).bit_select((self.epoch + 1)[:2], 1) & ~advance),
            self.settled.eq(Cat(none).all() & ~advance),
            self.atomics_settled.eq(Cat(no_atomic).all() & ~advance),
        ]
