"""Data that no other write of the run contains."""

import numpy as np

__all__ = ["UniqueValues"]

#: An odd factor: the numbers 1, 2, 3 … times it, modulo 2^32, are all different, never 0, and differ in every byte, so that no byte is a constant.
SPREAD = np.uint32(0x9E37_79B1)


class UniqueValues:
    """Hands out dwords that were never handed out before, so that the writer of every dword read is known. 0 is never one of them."""

    def __init__(self, first: int = 1) -> None:
        self._next = first

    def take(self, address: int, size: int) -> bytes:
        """Bytes for a write of ``size`` bytes at ``address``: aligned dwords of the address space have whole values, the ends have parts of one."""
        offset = address & 3
        count = offset + size + 3 >> 2
        first, self._next = self._next, self._next + count
        if self._next > 1 << 32:
            raise OverflowError("A run can write at most 2^32 - 1 unique dwords")
        numbers = np.arange(first, first + count, dtype=np.uint32) * SPREAD
        return numbers.astype("<u4").tobytes()[offset:offset + size]
