"""Tags for requests that leave under an ID of ours (rule D16)."""

from amaranth.hdl import Cat, Module, Mux, Signal
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
    - **Free** *n*: gives ``free_index`` back; does nothing if it is not taken. A port frees only what it looked up, and looks up nothing then.
    - **Timeout**: an entry neither answered nor looked up for ``limit`` to 2 x ``limit`` + 8 x ``entries`` cycles is freed; ``timed_out``
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
        allocates = self.allocate & self.index_valid
        freed = [self._one_hot(free, index) for free, index in zip(self.free, self.free_index, strict=True)]
        write = table.write_port()
        m.d.comb += [write.addr.eq(self.index), write.data.eq(self.allocate_entry), write.en.eq(allocates)]
        m.d.sync += taken.eq((taken & ~freed[0] & ~freed[1] & ~expired) | self._one_hot(allocates, self.index))
        self._next_index(m, taken)
        for port in range(LOOKUPS):
            self._lookup(m, table.read_port(), taken, port)
        self._sweep(m, table.read_port(), taken, expired)
        return m

    def _one_hot(self, enable, index):
        """A bit for each entry, that of ``index`` set when ``enable`` is: the products of two small decoders, shared."""
        low, high = index[:len(index) // 2], index[len(index) // 2:]
        columns, rows = [low == number for number in range(1 << len(low))], [enable & (high == number) for number in range(1 << len(high))]
        return Cat(row & column for row in rows for column in columns)

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

    def _sweep(self, m, read, taken, expired):
        """Visit all entries every ``limit`` cycles, four cycles each. The second visit without anything between frees an entry."""
        timer, over, step, visited = Signal(32), Signal(), Signal(range(4 * self.entries + 1), init=4 * self.entries), Signal.like(self.index)
        seen, touched = Signal(self.entries), Signal()
        is_taken, was_seen, acts, marked = Signal(), Signal(), Signal(), Signal(self.entries)
        touches, stirred = self._touches(m, visited)
        m.d.comb += [
            visited.eq(step[2:]),
            # What was read in the second step is true in the third when nothing has happened to the entry since the first.
            acts.eq(~step[-1] & (step[:2] == 2) & is_taken & ~touched & ~touches),
            expired.eq(self._one_hot(acts & was_seen, visited)), marked.eq(self._one_hot(acts, visited)),
            read.addr.eq(visited), self.timed_out_entry.eq(read.data),
        ]
        m.d.sync += [
            is_taken.eq(taken.bit_select(visited, 1)), was_seen.eq(seen.bit_select(visited, 1)),
            touched.eq(touches | (touched & step[:2].any())),
            seen.eq((seen ^ marked) & ~stirred),
            self.timed_out.eq(acts & was_seen),
            timer.eq(timer + 1), over.eq(timer >= self.limit),
        ]
        with m.If(~step[-1]):
            m.d.sync += step.eq(step + 1)
        with m.Elif(over):
            m.d.sync += [step.eq(0), timer.eq(0), over.eq(0)]

    def _touches(self, m, visited):
        """Whether a port looks at or frees the entry ``visited`` in this cycle, and a bit for each entry that one did in the cycle before.

        An allocation never is about an entry that is taken, and what was freed is not seen.
        """
        now, before = [], []
        for port in range(LOOKUPS):
            index, index_q, active, active_q = Signal.like(visited), Signal.like(visited), Signal(), Signal()
            m.d.comb += [
                index.eq(Mux(self.free[port], self.free_index[port], self.lookup_index[port])), active.eq(self.free[port] | self.lookup_enable[port]),
            ]
            m.d.sync += [index_q.eq(index), active_q.eq(active)]
            now.append(active & (index == visited))
            before.append(self._one_hot(active_q, index_q))
        return Cat(now).any(), before[0] | before[1]
