"""Tags of copy reads: every chunk, generation and slot has its own, and none is that of another request."""

import pytest
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.memory.copy_tags import CopyTag
from pagehop_tb.simulate import run


class Tags(wiring.Component):
    """Tags of all slots for one chunk and generation, and what each slot makes of one tag."""
    def __init__(self, chunks, slots):
        self.tags = [CopyTag(chunks, slot, slots) for slot in range(slots)]
        super().__init__({
            "chunk": In(range(chunks)), "generation": In(1), "tag": Out(10).array(slots),
            "found": In(10), "ours": Out(slots), "place": Out(range(2 * chunks)).array(slots),
        })

    def elaborate(self, platform):
        m = Module()
        for slot, tag in enumerate(self.tags):
            chunk, generation, ours = tag.decode(self.found)
            place = Signal.like(self.place[slot])
            m.d.comb += [self.tag[slot].eq(tag.encode(self.chunk, self.generation)), self.ours[slot].eq(ours), self.place[slot].eq(place)]
            m.d.comb += place.eq(chunk | generation << len(chunk))
        return m


@pytest.mark.parametrize(("chunks", "slots"), [(32, 1), (64, 1), (8, 8), (32, 4), (16, 4), (64, 4), (32, 8)])
def test_tags_are_told_apart(chunks, slots):
    dut = Tags(chunks, slots)

    async def bench(ctx):
        seen = {}
        for chunk in range(chunks):
            for generation in range(2):
                ctx.set(dut.chunk, chunk)
                ctx.set(dut.generation, generation)
                for slot in range(slots):
                    tag = ctx.get(dut.tag[slot])
                    assert not tag & 0x80 and tag not in seen, "a tag of two reads, or of another kind of request"
                    seen[tag] = (slot, chunk | generation * chunks)
        assert (max(seen) < 128) == (len(seen) <= 128), "tags have 10 bits only where they must"
        for tag in range(1024):
            ctx.set(dut.found, tag)
            slot, place = seen.get(tag, (None, None))
            assert ctx.get(dut.ours) == (0 if slot is None else 1 << slot)
            assert slot is None or ctx.get(dut.place[slot]) == place

    run(dut, bench)


@pytest.mark.parametrize(("chunks", "slot", "slots"), [(64, 0, 8), (32, 4, 4)])
def test_what_does_not_fit_is_refused(chunks, slot, slots):
    with pytest.raises(ValueError, match=f"not {chunks} chunks for slot {slot}$"):
        CopyTag(chunks, slot, slots)
