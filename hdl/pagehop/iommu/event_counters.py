"""Performance counters: what happens to translations and moves, counted for whom software asks about."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.iotlb import AddressSpace
from pagehop.iommu.layouts import DEVICE_BITS
from pagehop.registers.bus import RegisterWrite, overwritten

__all__ = ["EventCounters", "MoveEvents", "Transaction", "TranslationEvents"]

COUNTER_BITS, MAX_COUNTERS = 64, 31


class Transaction(data.Struct):
    """Whose request it is."""
    device_id: DEVICE_BITS
    process_valid: 1
    process: 20


class TranslationEvents(data.Struct):
    """Pulses, each of another event: of the ``request`` that came, and of the one that is looked into (``miss``), in its ``space`` when its context
    is known."""
    untranslated: 1
    translated:   1
    ats_request:  1
    request:      Transaction
    tlb_miss:     1
    directory_walk: 1
    first_walk:   1
    second_walk:  1
    miss:         Transaction
    space:        AddressSpace


class MoveEvents(data.Struct):
    """Of moves, in the order of the events 16384 and up. Pulses: a page was moved; a move ended otherwise; an attempt was disturbed; the first that
    holds after those. A cycle each: the line of the entries is held, so that who wants it waits; somebody waits for it; it is drained."""
    moved:     1
    failed:    1
    disturbed: 1
    fell_back: 1
    holds:     1
    keeps_waiting: 1
    drains:    1


class _Selector(data.Struct):
    """``iohpmevt1`` and up. Of the event the bits that any event has: 0 to 15, or with ``custom`` 16384 and up."""
    event:    4
    unused:   10
    custom:   1
    dmask:    1
    process:  20
    device:   DEVICE_BITS
    by_process: 1
    by_device:  1
    by_space:   1
    overflow:   1


#: Events of the specification (section 5.23) by number; those after the third are of what is looked into.
_OF_REQUESTS = {1: "untranslated", 2: "translated", 3: "ats_request"}
_OF_MISSES = {4: "tlb_miss", 5: "directory_walk", 7: "first_walk", 8: "second_walk"}
#: Those that can be filtered by address spaces.
_OF_SPACES = (4, 7, 8)


class EventCounters(wiring.Component):
    """``iohpmcycles``, ``iohpmctr1`` and up, ``iohpmevt1`` and up, ``iocountovf`` and ``iocountinh`` (sections 5.19 to 5.23).

    An event is in its counter 3 cycles after its pulse; each counter counts one kind, at most one a cycle. A counter that wraps sets its OF, and
    when that was 0 there is a pulse on ``overflow``. Nothing depends on what is counted.

    An event that there is not reads back as 0. An event of a request (1, 2, 3) or of the directory cannot be filtered by address spaces (IDT), and
    one of moves cannot be filtered at all: with such a filter nothing is counted.

    Parameters
    ----------
    counters : beside that of cycles, 1 to 31. modify : whether there are events of moves.

    Members
    -------
    events, moves : in, what happens
    cycles, inhibit, overflows : out, registers; bit 0 of the last two is of the cycles. counters, selectors : out, an array each
    cycles_write, inhibit_write, counter_writes, selector_writes : in, what software writes
    overflow : out, a pulse
    """
    def __init__(self, counters=7, *, modify=False):
        if counters not in range(1, MAX_COUNTERS + 1):
            raise ValueError(f"Performance counters must be 1 to {MAX_COUNTERS}, not {counters!r}")
        self.count, self.modify = counters, modify
        super().__init__({
            "events": In(TranslationEvents), **({"moves": In(MoveEvents)} if modify else {}),
            "cycles": Out(COUNTER_BITS), "cycles_write": In(RegisterWrite(8)),
            "inhibit": Out(counters + 1), "inhibit_write": In(RegisterWrite(4)), "overflows": Out(counters + 1),
            "counters": Out(COUNTER_BITS).array(counters), "counter_writes": In(RegisterWrite(8)).array(counters),
            "selectors": Out(COUNTER_BITS).array(counters), "selector_writes": In(RegisterWrite(8)).array(counters),
            "overflow": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # A cycle later, so that nothing that happens waits for who looks at it.
        events, moves = Signal(TranslationEvents), Signal(MoveEvents)
        m.d.sync += [events.eq(self.events), self.inhibit.eq(overwritten(self.inhibit, self.inhibit_write))]
        if self.modify:
            m.d.sync += moves.eq(self.moves)
        wraps = [self._cycles(m)]
        for number in range(self.count):
            wraps.append(self._counter(m, number, events, moves))
        m.d.sync += self.overflow.eq(Cat(wraps).any())
        return m

    def _cycles(self, m):
        """The counter of cycles, whose highest bit is its OF. Returns "it wraps, and OF was 0"."""
        total, overflow = Signal(COUNTER_BITS), self.cycles[-1]
        m.d.comb += [total.eq(self.cycles[:-1] + ~self.inhibit[0]), self.overflows[0].eq(overflow)]
        m.d.sync += self.cycles.eq(overwritten(Cat(total[:-1], overflow | total[-1]), self.cycles_write))
        return total[-1] & ~overflow

    def _counter(self, m, number, events, moves):
        """A counter and its selector. Returns as :meth:`_cycles`."""
        value, selector, write = self.counters[number], Signal(_Selector, name=f"selector_{number}"), self.selector_writes[number]
        happens, total = self._matches(m, selector, events, moves), Signal(COUNTER_BITS + 1)
        m.d.comb += [
            total.eq(value + (happens & ~self.inhibit[number + 1])), self.selectors[number].eq(selector),
            self.overflows[number + 1].eq(selector.overflow),
        ]
        wanted = data.View(_Selector, overwritten(selector.as_value(), write))
        m.d.sync += [
            value.eq(overwritten(total[:-1], self.counter_writes[number])), selector.eq(wanted), selector.unused.eq(0),
            selector.overflow.eq(wanted.overflow | total[-1]),
        ]
        with m.If(~self._is_known(wanted)):
            m.d.sync += [selector.event.eq(0), selector.custom.eq(0)]
        return total[-1] & ~selector.overflow

    def _is_known(self, wanted):
        moves = len(data.Layout.cast(MoveEvents).members) if self.modify else 0
        standard = Cat(wanted.event == number for number in (*_OF_REQUESTS, *_OF_MISSES)).any()
        return ~wanted.unused.any() & Mux(wanted.custom, wanted.event < moves, standard)

    def _matches(self, m, selector, events, moves):
        """Two cycles after an event: it is the one that is counted, for whom it is counted."""
        event, space = selector.event, events.space
        of_request, of_space = event[:2].any() & ~event[2:].any(), Cat(event == number for number in _OF_SPACES).any()
        pulses = {number: events[name] for number, name in (*_OF_REQUESTS.items(), *_OF_MISSES.items())}
        customs = dict(enumerate(moves[name] for name in data.Layout.cast(MoveEvents).members))
        standard, custom = (Cat((event == number) & pulse for number, pulse in kinds.items()).any() for kinds in (pulses, customs))
        filters = selector.by_process | selector.by_device | selector.by_space
        transaction = data.View(Transaction, Mux(of_request, events.request.as_value(), events.miss.as_value()))
        device = Mux(selector.by_space, space.gscid, transaction.device_id)
        process = Mux(selector.by_space, space.pscid, transaction.process)
        # What DMASK leaves out: up to the lowest 0, and that.
        ignored = Signal(DEVICE_BITS)
        happens, fits_device, fits_process = Signal(), Signal(), Signal()
        m.d.sync += [
            ignored.eq(Mux(selector.dmask, selector.device ^ (selector.device + 1), 0)),
            happens.eq(Mux(selector.custom, custom & ~filters, standard & (of_space | ~selector.by_space))),
            fits_device.eq(~selector.by_device | (
                (space.second | ~selector.by_space) & ~((device ^ selector.device) & ~ignored).any())),
            fits_process.eq(~selector.by_process | (
                Mux(selector.by_space, space.first, transaction.process_valid) & (process == selector.process))),
        ]
        return happens & fits_device & fits_process
