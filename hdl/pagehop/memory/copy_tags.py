"""Tags of copy reads."""

from amaranth.hdl import Cat, Const, Value
from amaranth.utils import ceil_log2

__all__ = ["NARROW_BITS", "WIDE_BITS", "CopyTag"]

#: Bits of a tag that a copy read may use: bit 7 says that a request is none.
_PLACES = (0, 1, 2, 3, 4, 5, 6, 8, 9)

#: Bits of copy tags: as many as fit into 8 bits of a tag, and into 10.
NARROW_BITS, WIDE_BITS = 7, len(_PLACES)


class CopyTag:
    """Tags of the copy reads of one slot: bit 7 is 0, the others hold the chunk, the generation and the slot, in this order from bit 0 on.

    Up to 128 tags have 8 bits; with more chunks or slots bits 8 and 9 are used too, which every host that completes them must support (10-bit tags).

    Parameters
    ----------
    chunks : of a page, a power of two.
    slot, slots : this one of how many.
    """
    def __init__(self, chunks, slot=0, slots=1):
        self.chunk_bits, self.slot_bits, self.slot = ceil_log2(chunks), ceil_log2(slots), slot
        if slot not in range(slots) or self.bits(chunks, slots) > WIDE_BITS:
            raise ValueError(f"Copy tags must have at most {WIDE_BITS} bits and a slot of the {slots}, not {chunks} chunks for slot {slot}")

    @staticmethod
    def bits(chunks, slots):
        """Bits that tell the reads of all slots and both generations apart."""
        return ceil_log2(chunks) + 1 + ceil_log2(slots)

    def encode(self, chunk, generation):
        """The tag, 10 bits."""
        number = Cat(Value.cast(chunk)[:self.chunk_bits], generation, Const(self.slot, self.slot_bits))
        return Cat(number[_PLACES.index(place)] if place in _PLACES[:len(number)] else Const(0, 1) for place in range(10))

    def decode(self, tag):
        """The chunk, the generation, and whether ``tag`` is that of a copy read of this slot."""
        number = Cat(tag[place] for place in _PLACES)
        chunk, generation, rest = number[:self.chunk_bits], number[self.chunk_bits], number[self.chunk_bits + 1:]
        return chunk, generation, ~tag[7] & (rest == self.slot)
