"""Agents of a stream whose payload is one word, whatever is in it: a source that drives valid and payload, a sink that is always ready."""

from collections.abc import Callable, Sequence
from typing import Any

from cocotb.triggers import Trigger

from .access import bit_reader, number_reader, text_reader, writer
from .fabric import Fabric

__all__ = ["WordLayout", "WordSink", "WordSource"]


class WordLayout:
    """Fields of a word, the first in the least significant bits: the width of each by its name."""

    def __init__(self, fields: Sequence[tuple[str, int]]) -> None:
        self.places: list[tuple[str, int, int]] = []
        low = 0
        for name, width in fields:
            self.places.append((name, low, (1 << width) - 1))
            low += width
        self.width = low

    def pack(self, **values: int) -> int:
        """The word with these values, 0 where nothing is said. One that does not fit, or is no field, is an error."""
        word = 0
        for name, low, mask in self.places:
            value = values.pop(name, 0)
            if not 0 <= value <= mask:
                raise ValueError(f"{name} must be from 0 to {mask:#x}, not {value!r}")
            word |= value << low
        if values:
            raise ValueError(f"There is no field {', '.join(values)}")
        return word

    def values(self, word: int) -> list[int]:
        """Values of all fields, in their order."""
        return [word >> low & mask for _, low, mask in self.places]

    def unpack(self, word: int) -> dict[str, int]:
        """Values of all fields, by name."""
        return {name: word >> low & mask for name, low, mask in self.places}


class WordSource:
    """Drives what ``pull`` returns, one word a cycle; ``pull`` is asked at every edge at which the wire is free while it has not returned None, and
    again after :meth:`wake`."""

    def __init__(self, entity: Any, name: str, fabric: Fabric, pull: Callable[[], int | None]) -> None:
        handles = [getattr(entity, f"{name}__{part}") for part in ("valid", "payload")]
        self.fabric, self.pull, self.active = fabric, pull, False
        self._write_valid, self._write_payload = map(writer, handles)
        self._ready = bit_reader(getattr(entity, f"{name}__ready"))
        self._driving = False
        self._write_valid(0)
        self._write_payload(0)
        fabric.add(self)

    def wake(self) -> None:
        """Ask ``pull`` at the next edge."""
        self.active = True
        self.fabric.wake()

    def edge(self) -> bool:
        """Move on when the word on the wire was taken."""
        if self._driving and not self._ready():
            return True
        word = self.pull()
        if word is not None:
            self._write_payload(word)
        if self._driving != (word is not None):
            self._driving = word is not None
            self._write_valid(int(self._driving))
        self.active = self._driving
        return self.active

    def wakes(self) -> list[Trigger]:
        """Who has a word wakes it."""
        return []


class WordSink:
    """Hands every word to ``take``."""

    def __init__(self, entity: Any, name: str, fabric: Fabric, take: Callable[[int], None]) -> None:
        self.take, self.active = take, False
        self._valid = getattr(entity, f"{name}__valid")
        self._payload = number_reader(getattr(entity, f"{name}__payload"))
        writer(getattr(entity, f"{name}__ready"))(1)
        fabric.add(self, text_reader(self._valid))
        self._is_valid = bit_reader(self._valid)

    def edge(self) -> bool:
        """Take the word."""
        if self._is_valid():
            self.take(self._payload())
        return True

    def wakes(self) -> list[Trigger]:
        """The rise of valid."""
        return [self._valid.value_change]
