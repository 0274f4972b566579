"""Memory of one host: 4 KB pages that exist from the first write on, zero before."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["HostMemory"]

PAGE = 4096
_ZEROS = bytes(PAGE)


class HostMemory:
    """Sparse memory of 2^64 bytes. Pages are numpy arrays of bytes; accesses may have any size and alignment."""

    def __init__(self) -> None:
        self._arrays: dict[int, NDArray[np.uint8]] = {}
        self._views: dict[int, memoryview] = {}

    def read(self, address: int, size: int) -> bytes:
        """``size`` bytes at ``address``."""
        start = address & PAGE - 1
        if start + size <= PAGE:
            view = self._views.get(address >> 12)
            return bytes(view[start:start + size]) if view is not None else _ZEROS[:size]
        first = PAGE - start
        return self.read(address, first) + self.read(address + first, size - first)

    def write(self, address: int, data: bytes, byte_enables: int | None = None) -> None:
        """Write ``data`` at ``address``; with ``byte_enables`` only the bytes whose bit is 1."""
        size = len(data)
        start = address & PAGE - 1
        if start + size > PAGE:
            first = PAGE - start
            self.write(address, data[:first], None if byte_enables is None else byte_enables & (1 << first) - 1)
            self.write(address + first, data[first:], None if byte_enables is None else byte_enables >> first)
            return
        view = self._views.get(address >> 12)
        if view is None:
            view = self._create(address >> 12)
        if byte_enables is None:
            view[start:start + size] = data
            return
        for index in range(size):
            if byte_enables >> index & 1:
                view[start + index] = data[index]

    def page(self, number: int) -> NDArray[np.uint8]:
        """Page ``number`` itself, not a copy; created when it did not exist."""
        if number not in self._arrays:
            self._create(number)
        return self._arrays[number]

    def clear(self) -> None:
        """All bytes are zero, as after power-up."""
        for array in self._arrays.values():
            array[:] = 0

    @property
    def pages(self) -> list[int]:
        """Numbers of the pages that exist, ascending."""
        return sorted(self._arrays)

    def _create(self, number: int) -> memoryview:
        array = np.zeros(PAGE, np.uint8)
        self._arrays[number] = array
        view = array.data
        self._views[number] = view
        return view
