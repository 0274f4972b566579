"""Agent of a TileLink port, coherent or uncached: a :class:`~pagehop_tb.models.home.Home` at the pins."""

from collections.abc import Awaitable, Callable
from typing import Any

import cocotb
from cocotb.triggers import Trigger

from pagehop_tb.models.home import A, B, C, D, FromMaster, Home

from .access import Undefined, number_reader, text_reader, writer
from .fabric import Fabric
from .words import WordLayout

__all__ = ["HomeAgent"]

#: Widths of the fields of a beat, in their order; those of ``source`` and ``sink`` differ from port to port.
_WIDTHS = {"opcode": 3, "param": 3, "size": 4, "address": 56, "mask": 8, "data": 64, "corrupt": 1, "denied": 1}


class HomeAgent:
    """Drives a port of the hardware with what ``home`` does, a step a cycle; ``name`` is that of the port.

    While nothing is open at the home, no channel of the hardware is valid, and ``active`` was not set, steps are left out; the home's ``cycle`` is
    that of the fabric at each step. ``after`` is called after each. Who asks the home for something calls :meth:`wake`.

    ``remote``: base and size of lines that are not in the home's memory, and a function that reads some bytes of them; what it returns is the answer,
    and when that is empty, the request is denied. Any number of reads may be under way.
    """

    def __init__(self, entity: Any, name: str, fabric: Fabric, home: Home, coherent: bool = True, after: Callable[[], None] | None = None,
                 remote: tuple[int, int, Callable[[int, int], Awaitable[bytes]]] | None = None) -> None:
        self.fabric, self.home, self.coherent, self.after, self.active = fabric, home, coherent, after, False

        def pin(channel: str, part: str) -> Any:
            return getattr(entity, f"{name}__{channel}__{part}")

        self._sends, self._gets = ("ace", "bd") if coherent else ("a", "d")
        self._valids = {channel: pin(channel, "valid") for channel in self._sends}
        self._valid = {channel: text_reader(pin(channel, "valid")) for channel in self._sends}
        self._payload = {channel: number_reader(pin(channel, "payload")) for channel in self._sends}
        self._set_ready = {channel: writer(pin(channel, "ready")) for channel in self._sends}
        self._set_valid = {channel: writer(pin(channel, "valid")) for channel in self._gets}
        self._set_payload = {channel: writer(pin(channel, "payload")) for channel in self._gets}
        self._ready = {channel: text_reader(pin(channel, "ready")) for channel in self._gets}
        source = len(pin("a", "payload")) - sum(_WIDTHS[field] for field in A._fields if field != "source")
        sink = len(pin("d", "payload")) - source - sum(_WIDTHS[field] for field in D._fields if field not in ("source", "sink"))
        self._layouts = {channel: WordLayout([(field, source if field == "source" else sink if field == "sink" else _WIDTHS[field])
                                              for field in kind._fields]) for channel, kind in (("a", A), ("b", B), ("c", C), ("d", D))}
        self._shown = dict.fromkeys(self._sends, 0)
        for channel in self._sends:
            self._set_ready[channel](0)
        for channel in self._gets:
            self._set_valid[channel](0)
            self._set_payload[channel](0)
        if remote is not None:
            base, size, self._read = remote
            home.remote = base, size, lambda address, count, done: cocotb.start_soon(self._fetch(address, count, done))
        self._b: B | None = None
        self._d: D | None = None
        fabric.add(self, self._watched)

    def _watched(self) -> str:
        """Not 0 when the hardware shows something. Of E it does only while an operation is open."""
        a = self._valid["a"]()
        return self._valid["c"]() if a == "0" and self.coherent else a

    def wake(self) -> None:
        """The home has something to do."""
        self.active = True
        self.fabric.wake()

    async def _fetch(self, address: int, size: int, done: Callable[[bytes], None]) -> None:
        done(await self._read(address, size))
        self.wake()

    def edge(self) -> bool:
        """One step."""
        home, shows = self.home, self.home.shows
        saw = FromMaster(
            self._beat("a", A), self._is("b") if shows.b is not None else 0, self._beat("c", C) if self.coherent else None,
            self._is("d") if shows.d is not None else 0, self._sink() if self.coherent else None)
        home.cycle = max(home.cycle, self.fabric.cycle)
        shows = home.step(saw)
        self._show(shows)
        if self.after is not None:
            self.after()
        # What the hardware shows is looked at until it is taken: its valid does not rise again.
        self.active = saw.a is not None or saw.c is not None or not home.idle or shows.b is not None or shows.d is not None
        return self.active

    def _is(self, channel: str) -> int:
        text = self._ready[channel]()
        if text not in ("0", "1"):
            raise Undefined(f"{channel}.ready is {text}")
        return int(text)

    def _beat(self, channel: str, kind: Any) -> Any:
        text = self._valid[channel]()
        if text == "0":
            return None
        if text != "1":
            raise Undefined(f"{channel}.valid is {text}")
        return kind(*self._layouts[channel].values(self._payload[channel]()))

    def _sink(self) -> int | None:
        return self._payload["e"]() if self._valid["e"]() == "1" else None

    def _show(self, shows: Any) -> None:
        for channel, ready in (("a", shows.a_ready), ("c", shows.c_ready), ("e", shows.e_ready)) if self.coherent else (("a", shows.a_ready),):
            if self._shown[channel] != ready:
                self._shown[channel] = ready
                self._set_ready[channel](ready)
        if shows.d is not self._d:
            self._drive("d", shows.d, self._d)
            self._d = shows.d
        if self.coherent and shows.b is not self._b:
            self._drive("b", shows.b, self._b)
            self._b = shows.b

    def _drive(self, channel: str, beat: Any, before: Any) -> None:
        if beat is not None:
            word = 0
            for value, (_, low, _) in zip(beat, self._layouts[channel].places, strict=True):
                word |= value << low
            self._set_payload[channel](word)
        if (beat is None) != (before is None):
            self._set_valid[channel](int(beat is not None))

    def wakes(self) -> list[Trigger]:
        """The rise of a valid."""
        return [self._valids[channel].value_change for channel in self._sends]
