"""Pipeline stages between an ordering queue and its gate."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import HOST_A, HOST_B, Guarded
from pagehop.tlp import headers

__all__ = ["Looked", "LookupStage", "guarded", "strict_header", "unmapped_place"]


def strict_header(header, strict):
    """``header`` without RO when ``strict``."""
    value = Value.cast(header)
    place = headers.RequestHeader()["relaxed_ordering"].offset
    return Cat(value[:place], value[place] & ~strict, value[place + 1:])


def unmapped_place(info, settings):
    """Host for what the owner map says nothing of: below the range B, above it A, and what is not the guest's memory follows the active host."""
    return Mux(info.in_window, Mux(info.below, HOST_B, HOST_A), settings.active_host)


def guarded(m, guards, matches, atomic=0, name="guarded"):
    """What holds for a TLP, an ``atomic`` or not, whose page is that of the guards in ``matches``, a bit a slot, when these are active."""
    found = Signal(Guarded(len(guards)), name=name)
    active = [match & guard.active for match, guard in zip(matches, guards, strict=True)]

    def bits(says):
        return Cat(one & says(guard) for one, guard in zip(active, guards, strict=True))

    m.d.comb += [
        found.closed.eq(bits(lambda guard: guard.closed | (guard.atomics_closed & atomic)).any()),
        found.absorbs.eq(bits(lambda guard: guard.absorbs)), found.strict.eq(bits(lambda guard: guard.strict).any()),
        found.committed.eq(bits(lambda guard: guard.committed).any()), found.to_host.eq(bits(lambda guard: guard.to_host).any()),
    ]
    return found


class Looked(data.StructLayout):
    """An item of a lane and the result of its look-up."""
    def __init__(self, shape, result):
        super().__init__({"head": shape, "result": result})


class LookupStage(wiring.Component):
    """Carry items past a memory: two registers, one before and one behind the read data, and a spare one, so that ``i.ready`` is a register.

    Two cycles of latency, one item a cycle. The owner addresses the memory from ``head`` and enables it with ``enable``; the memory shows its
    data in the next cycle
    and keeps it until the next enable. ``result`` is taken from that data and from ``middle``, the item it belongs to.

    Members
    -------
    head : the item that comes next. ``enable``: read the memory for it in this cycle.
    middle, middle_valid : the item whose data the memory shows.
    result : what to keep beside it.
    advance : ``middle`` moves to ``o`` in this cycle.
    """
    def __init__(self, shape, result):
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(Looked(shape, result))),
            "head": Out(shape), "enable": Out(1), "middle": Out(shape), "middle_valid": Out(1), "result": In(result), "advance": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        middle_moves, coming = Signal(), Signal()
        spare, spare_valid = Signal(self.shape), Signal()
        m.d.comb += [
            self.advance.eq(~self.o.valid | self.o.ready),
            middle_moves.eq(~self.middle_valid | self.advance),
            coming.eq(spare_valid | self.i.valid),
            self.i.ready.eq(~spare_valid),
            self.head.eq(Mux(spare_valid, spare, self.i.payload)),
            self.enable.eq(coming & middle_moves),
        ]
        m.d.sync += spare_valid.eq(coming & ~middle_moves)
        with m.If(~spare_valid):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(middle_moves):
            m.d.sync += [self.middle_valid.eq(coming), self.middle.eq(self.head)]
        with m.If(self.advance):
            m.d.sync += [
                self.o.valid.eq(self.middle_valid),
                self.o.payload.head.eq(self.middle),
                self.o.payload.result.eq(self.result),
            ]
        return m
