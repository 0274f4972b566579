"""What was found before, by its key: contexts by their devices, tables by their regions."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.arbiter import number_of

__all__ = ["KeyedCache"]


class KeyedCache(wiring.Component):
    """The last ``entries`` values.

    A look-up takes a cycle: ``known`` says whether the ``key`` of the cycle before had a ``value`` then, that a fill in that cycle has not replaced.
    ``fill`` takes the entries in turns; its key must not be known. ``invalidate`` acts in one cycle, on all, or with ``named`` on the entry of
    ``invalid_key``; what is looked up in that cycle is known still, and a fill in it is not kept.

    Parameters
    ----------
    name : of the cache, in errors. keys, values : their shapes; ``values`` None when only ``known`` is asked for.
    entries : power of two, at least 2 and at most ``most``.
    two : there is another key, ``other_key``, which is looked up instead of ``key`` in cycles with ``other``: that may come late.
    """
    def __init__(self, name, keys, values, entries, most, *, two=False):
        if entries not in [1 << bits for bits in range(1, most.bit_length())]:
            raise ValueError(f"{name} must have a power of two of entries from 2 to {most}, not {entries!r}")
        self.keys, self.values, self.entries, self.two = keys, values, entries, two
        super().__init__({
            "key": In(keys), "known": Out(1), "fill": In(1), "filled_key": In(keys), "invalidate": In(1), "named": In(1), "invalid_key": In(keys),
            **({} if values is None else {"value": Out(values), "filled": In(values)}), **({"other": In(1), "other_key": In(keys)} if two else {}),
        })

    def elaborate(self, platform):
        m = Module()
        valid, turn, fills = Signal(self.entries), Signal(range(self.entries)), Signal()
        keys = [Signal(self.keys, name=f"key_{number}") for number in range(self.entries)]
        m.d.comb += fills.eq(self.fill & ~self.invalidate)
        stays = valid & ~Mux(fills, 1 << turn, 0)
        same = [key == self.key for key in keys]
        if self.two:
            same = [(one & ~self.other) | ((key == self.other_key) & self.other) for one, key in zip(same, keys, strict=True)]
        matches = stays & Cat(same)
        m.d.sync += self.known.eq(matches.any())
        if self.values is not None:
            m.submodules.kept = kept = memory.Memory(shape=self.values, depth=self.entries, init=[])
            write, read = kept.write_port(), kept.read_port(domain="comb")
            # It is in a register: much begins with it.
            m.d.sync += self.value.eq(read.data)
            m.d.comb += [read.addr.eq(number_of(matches)), write.addr.eq(turn), write.data.eq(self.filled), write.en.eq(fills)]
        with m.If(fills):
            m.d.sync += [valid.bit_select(turn, 1).eq(1), turn.eq(turn + 1)]
            with m.Switch(turn):
                for number, key in enumerate(keys):
                    with m.Case(number):
                        m.d.sync += key.eq(self.filled_key)
        with m.If(self.invalidate):
            named = Cat(key == self.invalid_key for key in keys)
            m.d.sync += valid.eq(valid & ~Mux(self.named, named, ~0))
        return m
