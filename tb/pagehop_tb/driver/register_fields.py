"""How a driver names what it finds in a register: the vocabulary of the generated ``*_registers.py`` files."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """Bits ``low`` to ``low + width - 1`` of a 64-bit register."""
    low: int
    width: int

    @property
    def mask(self) -> int:
        """Bits of the register that belong to the field."""
        return ((1 << self.width) - 1) << self.low

    def get(self, word: int) -> int:
        """Value of the field in a register's ``word``."""
        return (word & self.mask) >> self.low

    def of(self, value: int) -> int:
        """Word that has ``value`` in the field and 0 elsewhere; words of several fields are joined by ``|``."""
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"Value of a field of {self.width} bits must be from 0 to {(1 << self.width) - 1}, not {value!r}")
        return value << self.low


@dataclass(frozen=True)
class Memory:
    """``words`` 64-bit words from byte ``offset`` on."""
    offset: int
    words: int

    def at(self, index: int) -> int:
        """Byte offset of word ``index``."""
        if not 0 <= index < self.words:
            raise ValueError(f"Index into a memory of {self.words} words must be from 0 to {self.words - 1}, not {index!r}")
        return self.offset + 8 * index
