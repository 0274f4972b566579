"""Tags for requests that leave under an ID of ours (rule D16)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["LOOKUPS", "ProxyEntry", "ProxyTable"]

#: Ports that bring completions: the device's and the other host's.
LOOKUPS = 2


class ProxyEntry(data.Struct):
    """Whose request it was, where it went, and how many lines its completions touch."""
    requester_id: 16
    tag:          10
    lines:        7
    to_device:    1


class ProxyTable(wiring.Component):
    """Requests of one host under our tags: entry *i* is the request with tag number *i*.

    - **Allocate**: ``index`` is free while ``index_valid``, both registers; ``allocate`` takes it. The next appears in the next cycle if the
      entry after it is free. Numbers are tried in turn, one a cycle, so a number is used again as late as can be, and a free one is
      found within ``entries`` cycles.
    - **Look-up** *n*: ``lookup_index`` is sampled with ``lookup_enable``. From the next cycle to the next ``lookup_enable``, ``entry`` is what
      the entry held, and ``valid`` says whether that request is unanswered (a ``free`` or a timeout shows in the second cycle). An
      allocation is seen by look-ups sampled in later cycles.
    - **Free** *n*: gives ``free_index`` back; does nothing if it is not taken. A port frees only what it looked up.
    - **Timeout**: an entry neither answered nor looked up for ``limit`` to 2 x ``limit`` + 2 x ``entries`` cycles is freed; ``timed_out``
      pulses with ``timed_out_entry``, for whoever holds room for it.

    All ports work in the same cycle, every cycle.

    Parameters
    ----------
    entries : int
        A power of two from 2 to 64.

    Members
    -------
    index, index_valid : out
    allocate, allocate_entry : in
    lookup_index, lookup_enable : arrays of 2, in
    entry, valid : arrays of 2, out
    free, free_index : arrays of 2, in
    limit : in
    timed_out, timed_out_entry : out
    """
    def __init__(self, entries=64):
        if entries not in (2, 4, 8, 16, 32, 64):
            raise ValueError(f"Entries of the proxy table must be a power of two from 2 to 64, not {entries!r}")
        self.entries = entries
        index = exact_log2(entries)
        super().__init__({
            "index": Out(index), "index_valid": Out(1),
            "allocate": In(1), "allocate_entry": In(ProxyEntry),
            "lookup_index": In(index).array(LOOKUPS), "lookup_enable": In(1).array(LOOKUPS),
            "entry": Out(ProxyEntry).array(LOOKUPS), "valid": Out(1).array(LOOKUPS),
            "free": In(1).array(LOOKUPS), "free_index": In(index).array(LOOKUPS),
            "limit": In(32), "timed_out": Out(1), "timed_out_entry": Out(ProxyEntry),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = memory.Memory(shape=ProxyEntry, depth=self.entries, init=[])
        taken, expired = Signal(self.entries), Signal(self.entries)
        allocated = Signal(self.entries)
        freed = Cat(self._one_hot(free, index) for free, index in zip(self.free, self.free_index, strict=True))
        freed = freed[:self.entries] | freed[self.entries:]
        write = table.write_port()
        m.d.comb += [
            allocated.eq(self._one_hot(self.allocate & self.index_valid, self.index)),
            write.addr.eq(self.index),
            write.data.eq(self.allocate_entry),
            write.en.eq(self.allocate & self.index_valid),
        ]
        m.d.sync += taken.eq((taken & ~freed & ~expired) | allocated)
        self._next_index(m, taken)
        for port in range(LOOKUPS):
            self._lookup(m, table.read_port(), taken, port)
        self._sweep(m, table.read_port(), taken, allocated | freed, expired)
        return m

    def _one_hot(self, enable, index):
        """A bit for each entry, that of ``index`` set when ``enable`` is."""
        return Mux(enable, Const(1, self.entries) << index, 0)[:self.entries]

    def _next_index(self, m, taken):
        """Try the numbers in turn."""
        candidate = Signal.like(self.index)
        with m.If(~self.index_valid | self.allocate):
            m.d.sync += [
                self.index.eq(candidate),
                self.index_valid.eq(~taken.bit_select(candidate, 1)),
                candidate.eq(candidate + 1),
            ]

    def _lookup(self, m, read, taken, port):
        held, index = Signal.like(self.index), Signal.like(self.index)
        m.d.comb += [
            index.eq(Mux(self.lookup_enable[port], self.lookup_index[port], held)),
            read.addr.eq(index),
            read.en.eq(self.lookup_enable[port]),
            self.entry[port].eq(read.data),
        ]
        m.d.sync += [
            held.eq(index),
            # Once it has fallen it stays down: the number may be taken again while a late completion still stands here.
            self.valid[port].eq(taken.bit_select(index, 1) & (self.lookup_enable[port] | self.valid[port])),
        ]

    def _sweep(self, m, read, taken, changed, expired):
        """Visit all entries every ``limit`` cycles. The second visit to an entry in which nothing happened since the first frees it."""
        timer, sweep, sweeping = Signal(32), Signal(range(self.entries + 1)), Signal()
        seen, stirred = Signal(self.entries), Signal(self.entries)
        visited, old = Signal.like(self.index), Signal()
        looked = Cat(self._one_hot(enable, index) for enable, index in zip(self.lookup_enable, self.lookup_index, strict=True))
        m.d.comb += [
            stirred.eq(looked[:self.entries] | looked[self.entries:] | changed),
            sweeping.eq(~sweep[-1]),
            # Two stages: whether the entry is old, then, unless something happens in either cycle, its end.
            expired.eq(self._one_hot(old & ~self._names(visited), visited)),
            read.addr.eq(visited),
            self.timed_out_entry.eq(read.data),
        ]
        m.d.sync += [
            visited.eq(sweep[:-1]),
            old.eq(sweeping & seen.bit_select(sweep[:-1], 1) & taken.bit_select(sweep[:-1], 1) & ~self._names(sweep[:-1])),
            seen.eq((seen | self._one_hot(sweeping, sweep[:-1])) & ~stirred),
            self.timed_out.eq(old & ~self._names(visited)),
            timer.eq(timer + 1),
        ]
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
        with m.Elif(timer >= self.limit):
            m.d.sync += [sweep.eq(0), timer.eq(0)]

    def _names(self, index):
        """1 when a look-up or a free in this cycle is about ``index``. An allocation never is about an entry that is taken."""
        return (
            Cat(enable & (other == index) for enable, other in zip(self.lookup_enable, self.lookup_index, strict=True)).any()
            | Cat(enable & (other == index) for enable, other in zip(self.free, self.free_index, strict=True)).any()
        )
