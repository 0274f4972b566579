"""The device's requests that a host has not answered yet."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS

__all__ = ["EPOCHS", "HOSTS", "OutstandingEntry", "OutstandingTable", "row_of"]

HOSTS = 2

#: Epochs that can be told apart: the current one and three older.
EPOCHS = 4


class OutstandingEntry(data.Struct):
    """What is remembered of a request: who asked, which host answers, and what its completions need. ``phase`` is the table's own."""
    requester_id: 16
    tag:          10
    host:         1
    epoch:        exact_log2(EPOCHS)
    atomic:       1
    lines:        7
    flush_target: FLUSH_SEQUENCE_BITS
    phase:        1


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
    Freeing what is not taken (twice, or after it was given up) does nothing as long as the row has not been used more than once since, nor does host
    *h* freeing an entry whose ``host`` is not *h*.

    - **Look-up**: ``lookup_row`` is sampled with ``lookup_enable``. From the next cycle to the next ``lookup_enable``, ``occupied`` says
      whether that row is taken *now*: an ``allocate`` shows in the next cycle, the end of a request in the third. It is 1 in the cycle after any
      ``allocate``, whose row is read in place of the one looked up.
    - **Allocate** only a row that was looked up and shown free. It is found by a completion's look-up two or more cycles later.
    - **Completion** *h*: ``completion_row`` is sampled with ``completion_enable``. From the next cycle to the next ``completion_enable``,
      ``completion_entry`` is what the row held and ``completion_valid`` says whether that is a request that host *h* has not answered yet (its end
      shows in the third cycle). The row may belong to another request: compare ``requester_id`` and ``tag``. Free only with an entry
      beside which ``completion_valid`` has been 1.
    - **Give up** frees the row that ``occupied`` stands for, as the host that has not answered would, in the first cycle in which that host frees
      nothing. If it was still taken then, ``given_up`` pulses two cycles later, three after ``give_up`` at the earliest. While one waits for its
      cycle, another is ignored. Not in the cycle of an ``allocate`` or the two after it.
    - **Ended** *h* pulses two cycles after the ``free`` or the give-up that ended a request of host *h*, once for each request, with its
      ``ended_lines``, for whoever holds room for it: completions that come twice, or after all, release nothing (D7, H14).

    **Epochs** (H12, H58): an entry belongs to the epoch in which it was allocated; ``advance`` begins the next with the next cycle. It has
    effect only with ``advance_ready``: there are four numbers, and that of the next must be unused. ``unanswered`` has a bit for each number, 1
    while a request of that epoch is, ``atomics`` one for its atomics: an allocation shows in the third cycle after it, an end in the seventh at
    the latest. So from the third cycle after an ``advance`` on the bits of older epochs never fall early.

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
    allocate, allocate_row, allocate_entry : in; the table fills in ``epoch`` and ``phase``
    completion_row, completion_enable : arrays of 2 (a host each), in
    completion_entry, completion_valid : arrays of 2, out
    free, free_row, free_entry : arrays of 2, in
    give_up : in
    given_up : out
    ended, ended_lines : arrays of 2, out
    advance : in
    advance_ready : out
    epoch : out, the current one
    unanswered, atomics : out
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
            "give_up": In(1), "given_up": Out(1), "ended": Out(1).array(HOSTS), "ended_lines": Out(7).array(HOSTS),
            "advance": In(1), "advance_ready": Out(1, init=1), "epoch": Out(range(EPOCHS)),
            "unanswered": Out(EPOCHS), "atomics": Out(EPOCHS), "count": Out(16).array(HOSTS),
        })

    def elaborate(self, platform):
        m = Module()
        # A row is taken while the phase in its entry differs from the bit that the host it went to has here. Whoever allocates writes the entry with
        # the other phase, whoever frees writes that phase as the host's bit. So each memory has one writer, and to free twice changes nothing.
        m.submodules.entries = entries = memory.Memory(shape=OutstandingEntry, depth=self.rows, init=[])
        m.submodules.freed_a = freed_a = memory.Memory(shape=1, depth=self.rows, init=[])
        m.submodules.freed_b = freed_b = memory.Memory(shape=1, depth=self.rows, init=[])
        self._sweeping, self._swept = Signal(init=1, name="sweeping"), Signal(range(self.rows), name="swept")
        with m.If(self._sweeping):
            m.d.sync += [self._swept.eq(self._swept + 1), self._sweeping.eq(self._swept != self.rows - 1)]
        freed = (freed_a, freed_b)
        given_up, given_up_row = self._allocate(m, entries, freed)
        ends = [self._free(m, bank, host, given_up, given_up_row) for host, bank in enumerate(freed)]
        m.d.comb += self.given_up.eq(Cat(ended & ours for ended, _, ours in ends).any())
        for host, (ended, entry, _) in enumerate(ends):
            m.d.comb += [self.ended[host].eq(ended), self.ended_lines[host].eq(entry.lines)]
        for host, bank in enumerate(freed):
            self._completion(m, entries.read_port(), bank.read_port(), host)
        self._count(m, [(ended, entry) for ended, entry, _ in ends])
        return m

    def _write(self, port, row, value, enable):
        """Write a memory at ``row``; while rows are swept, zeros to each in turn, which frees it."""
        sweeping = self._sweeping
        return [port.addr.eq(Mux(sweeping, self._swept, row)), port.data.eq(value), port.en.eq(enable | sweeping)]

    def _allocate(self, m, entries, freed):
        """Look-ups and allocations. Returns the request that is to be given up, and its row."""
        held_row, looked_row = Signal.like(self.lookup_row), Signal.like(self.lookup_row)
        allocated, row, entry, again = Signal(), Signal.like(self.lookup_row), Signal(OutstandingEntry), Signal()
        written = Signal(OutstandingEntry)
        looked, bits = entries.read_port(), [bank.read_port() for bank in freed]
        m.d.comb += [
            looked_row.eq(Mux(self.lookup_enable, self.lookup_row, held_row)), looked.addr.eq(looked_row),
            *(bit.addr.eq(Mux(self.allocate, self.allocate_row, looked_row)) for bit in bits),
        ]
        # The entry is written a cycle late, when its phase is known.
        m.d.sync += [
            held_row.eq(looked_row), allocated.eq(self.allocate), row.eq(self.allocate_row),
            entry.eq(self.allocate_entry), entry.epoch.eq(self.epoch), again.eq(allocated & (row == looked_row)),
        ]
        taken = looked.data.phase ^ Mux(looked.data.host, bits[1].data, bits[0].data)
        m.d.comb += [
            self.occupied.eq(taken | allocated | again | self._sweeping),
            written.eq(entry), written.phase.eq(~Mux(entry.host, bits[1].data, bits[0].data) & ~self._sweeping),
            *self._write(entries.write_port(), row, written, allocated),
        ]
        given_up = Signal(data.StructLayout({"entry": OutstandingEntry, "valid": 1}))
        given_up_row = Signal.like(self.lookup_row)
        with m.If(self.give_up & ~given_up.valid):
            m.d.sync += [given_up.valid.eq(1), given_up.entry.eq(looked.data), given_up_row.eq(held_row)]
        return given_up, given_up_row

    def _free(self, m, bank, host, given_up, given_up_row):
        """Look whether this host has the row, then write its bit. Returns the end, of what, and whether it was given up; in the third cycle."""
        read = bank.read_port()
        asked, ours, row, entry = Signal(), Signal(), Signal.like(given_up_row), Signal(OutstandingEntry, name=f"freed_{host}")
        again, before, now, ended = Signal(), Signal(), Signal.like(row), Signal()
        frees = self.free[host]
        gives_up = given_up.valid & ~ours & (given_up.entry.host == host) & ~frees
        m.d.comb += [now.eq(Mux(frees, self.free_row[host], given_up_row)), read.addr.eq(now)]
        m.d.sync += [
            asked.eq((frees & (self.free_entry[host].host == host)) | gives_up), ours.eq(gives_up), row.eq(now),
            entry.eq(Mux(frees, self.free_entry[host], given_up.entry)),
            # What is being written is not in the memory yet.
            again.eq(asked & (row == now)), before.eq(entry.phase),
        ]
        m.d.comb += [
            ended.eq(asked & self._stands(entry.phase, Mux(again, before, read.data)) & ~self._sweeping),
            *self._write(bank.write_port(), row, entry.phase & ~self._sweeping, asked),
        ]
        with m.If(ours):
            m.d.sync += given_up.valid.eq(0)
        # A register between the memory and the counters.
        late = Signal(data.StructLayout({"ended": 1, "ours": 1, "entry": OutstandingEntry}), name=f"end_{host}")
        m.d.sync += [late.ended.eq(ended), late.ours.eq(ours), late.entry.eq(entry)]
        return late.ended, late.entry, late.ours

    @staticmethod
    def _stands(phase, bit):
        """1 when a request of ``phase`` is unanswered, by its host's bit."""
        return phase ^ bit

    def _completion(self, m, read, bit, host):
        """The entry as it was at the look-up; whether it stands, as it is now."""
        held_row, row, stood = Signal.like(self.completion_row[host]), Signal.like(self.completion_row[host]), Signal()
        enable, entry, valid = self.completion_enable[host], self.completion_entry[host], self.completion_valid[host]
        m.d.comb += [
            row.eq(Mux(enable, self.completion_row[host], held_row)), read.addr.eq(row), read.en.eq(enable), bit.addr.eq(row),
            entry.eq(read.data), valid.eq(stood & (entry.host == host) & self._stands(entry.phase, bit.data)),
        ]
        # Once it has fallen it stays down: the row may be taken again while a late completion still stands here.
        m.d.sync += [held_row.eq(row), stood.eq((enable | valid) & ~self._sweeping)]

    @staticmethod
    def _counter(m, rows, name, more, fewer):
        """Count of at most ``rows``. Steps are registered before they are added."""
        total, step = Signal(range(rows + 1), name=name), Signal(signed(3), name=f"{name}_step")
        m.d.sync += [step.eq(more - sum(fewer)), total.eq(total + step)]
        return total

    def _count(self, m, ends):
        """Unanswered requests of each host and epoch, and atomics of each epoch."""
        entry = self.allocate_entry
        for host, (ended, _) in enumerate(ends):
            m.d.comb += self.count[host].eq(self._counter(m, self.rows, f"count_{host}", self.allocate & (entry.host == host), [ended]))
        for epoch in range(EPOCHS):
            more, fewer = self.allocate & (self.epoch == epoch), [(ended & (freed.epoch == epoch), freed.atomic) for ended, freed in ends]
            total = self._counter(m, self.rows, f"total_{epoch}", more, [end for end, _ in fewer])
            atomics = self._counter(m, self.rows, f"atomics_{epoch}", more & entry.atomic, [end & atomic for end, atomic in fewer])
            m.d.sync += [self.unanswered[epoch].eq(total != 0), self.atomics[epoch].eq(atomics != 0)]
        advance = self.advance & self.advance_ready
        m.d.sync += [
            self.epoch.eq(self.epoch + advance),
            self.advance_ready.eq(~self.unanswered.bit_select((self.epoch + 1)[:len(self.epoch)], 1) & ~advance),
        ]
