"""Pipeline stages between an ordering queue and its gate."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers

__all__ = ["ADDRESS_WORDS", "Looked", "LookupStage", "address_words", "with_words"]

#: Bits of a header that depend on its address: two double words and whether both are used.
ADDRESS_WORDS = 65


def address_words(header, address):
    """What :func:`with_words` puts into ``header`` to give it another ``address``; a register fits between the two."""
    moved = headers.with_address(header, address)
    return Cat(moved[:64], moved[125])


def with_words(header, words):
    """``header`` with the address that :func:`address_words` prepared."""
    return Cat(words[:64], Value.cast(header)[64:125], words[64], Value.cast(header)[126:])


class Looked(data.StructLayout):
    """A lane's beat and the result of its look-up."""
    def __init__(self, shape, result):
        super().__init__({"head": shape, "result": result})


class LookupStage(wiring.Component):
    """Carry a lane past a memory: two registers, one before and one behind the read data, and a spare one, so that ``i.ready`` is a register.

    Two cycles of latency, one beat a cycle. The owner addresses the memory from ``head`` and enables it with ``enable``; the memory shows its
    data in the next cycle
    and keeps it until the next enable. ``result`` is taken from that data and from ``middle``, the beat it belongs to.

    Members
    -------
    head : the beat that comes next. ``enable``: read the memory for it in this cycle.
    middle : the beat whose data the memory shows.
    result : what to keep beside it.
    advance : ``middle`` moves to ``o`` in this cycle.
    """
    def __init__(self, shape, result):
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(Looked(shape, result))),
            "head": Out(shape), "enable": Out(1), "middle": Out(shape), "result": In(result), "advance": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        middle_valid, middle_moves, coming = Signal(), Signal(), Signal()
        spare, spare_valid = Signal(self.shape), Signal()
        m.d.comb += [
            self.advance.eq(~self.o.valid | self.o.ready),
            middle_moves.eq(~middle_valid | self.advance),
            coming.eq(spare_valid | self.i.valid),
            self.i.ready.eq(~spare_valid),
            self.head.eq(Mux(spare_valid, spare, self.i.payload)),
            self.enable.eq(coming & middle_moves),
        ]
        m.d.sync += spare_valid.eq(coming & ~middle_moves)
        with m.If(~spare_valid):
            m.d.sync += spare.eq(self.i.payload)
        with m.If(middle_moves):
            m.d.sync += [middle_valid.eq(coming), self.middle.eq(self.head)]
        with m.If(self.advance):
            m.d.sync += [
                self.o.valid.eq(middle_valid),
                self.o.payload.head.eq(self.middle),
                self.o.payload.result.eq(self.result),
            ]
        return m
