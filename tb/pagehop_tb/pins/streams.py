"""Agents of one TLP stream: a source that drives valid and payload, a sink that drives ready."""

from collections import deque
from collections.abc import Callable
from typing import Any

from cocotb.triggers import Event, Trigger
from cocotb_bus.drivers import BusDriver
from cocotb_bus.monitors import BusMonitor

from pagehop_tb.protocol import Tlp

from .access import Undefined, number_reader, text_reader, writer
from .beats import BeatError, BeatFormat
from .fabric import Fabric

__all__ = ["TlpSink", "TlpSource"]


class TlpSource(BusDriver):
    """Drives the TLPs that :attr:`pull` gives, one beat a cycle and without a gap between TLPs, unless ``pause`` says so.

    ``pull`` is asked when the wire is free and returns the next TLP or ``None``; by default it takes what :meth:`append` and :meth:`send` queued.
    ``on_sent`` is called when the first beat of a TLP is put on the wire.
    """

    _signals = ["payload", "valid", "ready"]

    def __init__(self, entity: Any, name: str, fabric: Fabric, beats: BeatFormat, pause: Callable[[], bool] | None = None) -> None:
        BusDriver.__init__(self, entity, name, fabric.clock, bus_separator="__", case_insensitive=False)
        self.fabric = fabric
        self.beats = beats
        self.pause = pause
        self.pull: Callable[[], Tlp | None] = self._pull_own
        self.on_sent: Callable[[Tlp], None] | None = None
        #: Set by ``pull`` when it has TLPs that it may not give yet: it is asked again at every edge.
        self.waiting = False
        self.active = False
        self._own: deque[tuple[Tlp, Event]] = deque()
        self._words: list[int] = []
        self._next = 0
        self._driving = False
        self._read_ready = text_reader(self.bus.ready)
        self._write_valid, self._write_payload = writer(self.bus.valid), writer(self.bus.payload)
        self._write_valid(0)
        self._write_payload(0)
        fabric.add(self)

    async def _driver_send(self, transaction: Tlp, sync: bool = True) -> None:
        del sync  # the fabric keeps the pace
        done = Event()
        self._own.append((transaction, done))
        self.wake()
        await done.wait()

    def _pull_own(self) -> Tlp | None:
        if not self._own:
            return None
        tlp, done = self._own.popleft()
        done.set()
        return tlp

    def wake(self) -> None:
        """Ask ``pull`` at the next edge: it has a TLP."""
        self.active = True
        self.fabric.wake()

    @property
    def idle(self) -> bool:
        """Nothing is on the wire."""
        return not self._driving and self._next >= len(self._words)

    def edge(self) -> bool:
        """Move on when the beat on the wire was taken, and drive the next."""
        if self._driving:
            ready = self._read_ready()
            if ready != "1":
                if ready != "0":
                    raise Undefined(f"{self.name}: ready is {ready}")
                return True
            self._next += 1
        if self._next >= len(self._words) and not self._load():
            self._stop()
            self.active = self.waiting
            return self.waiting
        if self.pause is not None and self.pause():
            self._stop()
            return True
        self._write_payload(self._words[self._next])
        if not self._driving:
            self._write_valid(1)
            self._driving = True
        return True

    def _stop(self) -> None:
        if self._driving:
            self._write_valid(0)
            self._driving = False

    def _load(self) -> bool:
        tlp = self.pull()
        if tlp is None:
            return False
        self._words = self.beats.pack(tlp)
        self._next = 0
        if self.on_sent is not None:
            self.on_sent(tlp)
        return True

    def wakes(self) -> list[Trigger]:
        """Nothing of the DUT wakes a source: who queues a TLP does."""
        return []


class TlpSink(BusMonitor):
    """Takes TLPs, checks the rules of the stream, and hands each to the callbacks.

    ``pause`` is asked at every edge on which the fabric is awake; while it says so, ready is low. Checked: no X where it matters, valid and
    payload held until taken, framing, dwords.
    """

    _signals = ["payload", "valid", "ready"]

    def __init__(self, entity: Any, name: str, fabric: Fabric, beats: BeatFormat, pause: Callable[[], bool] | None = None) -> None:
        self.fabric = fabric
        self.beats = beats
        self.pause = pause
        self._words: list[int] = []
        self._held: int | None = None
        self._is_ready = True
        self._last_bit = 1 << 8 * beats.data_bytes + 167
        self.active = pause is not None
        BusMonitor.__init__(self, entity, name, fabric.clock, bus_separator="__", case_insensitive=False)
        self._read_valid, self._read_payload = text_reader(self.bus.valid), number_reader(self.bus.payload)
        self._write_ready = writer(self.bus.ready)
        self._write_ready(1)
        fabric.add(self, self._read_valid)

    async def _monitor_recv(self) -> None:
        """Nothing to wait for: the fabric calls :meth:`edge`."""

    def _recv(self, transaction: Tlp) -> None:
        """Hand a TLP over: to the callbacks, or where there is none to the queue and to who waits for it, as cocotb-bus does."""
        if not self._callbacks:
            super()._recv(transaction)
            return
        self.stats.received_transactions += 1
        for callback in self._callbacks:
            callback(transaction)

    @property
    def idle(self) -> bool:
        """No TLP is half received."""
        return not self._words

    def edge(self) -> bool:
        """Take the beat that was on the wire, and choose ready for the next edge."""
        valid = self._read_valid()
        if valid != "1":
            if valid != "0":
                raise Undefined(f"{self.name}: valid is {valid}")
            if self._held is not None:
                raise BeatError(f"{self.name}: valid fell before the beat was taken")
            self._choose_ready()
            return bool(self._words)
        word = self._read_payload()
        if self._held is not None and word != self._held:
            raise BeatError(f"{self.name}: payload changed before the beat was taken")
        if self._is_ready:
            self._held = None
            self._words.append(word)
            if word & self._last_bit:
                words, self._words = self._words, []
                self._recv(self._unpack(words))
        else:
            self._held = word
        if self.pause is not None:
            self._choose_ready()
        # A beat that was not taken, or a TLP half received, must be watched whatever valid does.
        self.active = self.pause is not None or self._held is not None or bool(self._words)
        return True

    def _unpack(self, words: list[int]) -> Tlp:
        try:
            return self.beats.unpack(words)
        except (BeatError, ValueError) as error:
            raise BeatError(f"{self.name}: {error}") from error

    def _choose_ready(self) -> None:
        wanted = self.pause is None or not self.pause()
        if wanted is not self._is_ready:
            self._is_ready = wanted
            self._write_ready(int(wanted))

    def wakes(self) -> list[Trigger]:
        """The rise of valid."""
        return [self.bus.valid.value_change]
