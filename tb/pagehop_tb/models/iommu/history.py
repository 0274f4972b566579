"""What an IOMMU with caches may answer while tables change: "the IOMMU may use the old value of the entry or the new value of the entry and the
choice is unpredictable until software uses the commands [...] to invalidate" (RISC-V IOMMU specification, section 3.8).

The model is run on a memory in which each word has all the values that it may still have for the IOMMU, in all combinations: an entry that was
invalidated, and whose invalidation a fence has waited for, has only those since.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import product
from math import inf

from pagehop_tb.models.iommu.build import TableMemory
from pagehop_tb.models.iommu.commands import Cached, invalidates
from pagehop_tb.models.iommu.model import Iommu, Subset
from pagehop_tb.models.iommu.requests import Outcome, Request
from pagehop_tb.models.iommu.tables import NAPOT_SIZE, Command, DirectoryMode

__all__ = ["History", "Undecided"]

#: Combinations that are tried for one answer; some seconds.
MOST_GUESSES = 20_000
#: Times that a walk may find an entry changed when it sets A or D in it: what it took for the entry was kept, of the table or of the way to it.
_MOST_CHANGES = 4
#: Bytes of an entry, and of all entries of a range of 64 KiB.
_WORD, _NAPOT_ENTRIES = 8, 16 * 8


class _Endless(Exception):
    """An entry changes again and again under a walk that wants to set A or D in it: no IOMMU sees that in so short a time."""


class Undecided(Exception):
    """So many entries have changed that what may be answered cannot all be tried."""


class History:
    """Tables over time. Times are numbers, and never go back in calls of one method; ``mode`` and ``ppn`` of the directory do not change.

    Each word counts on its own: a device context that is changed while it is valid may be seen half changed, as it may by an IOMMU. What may be
    answered is found by trying every combination, so the time that takes grows with the number of values that one walk may see of its entries to the
    power of their number: a bench that changes tables invalidates them every few changes.
    """

    def __init__(self, memory: TableMemory, subset: Subset, mode: DirectoryMode, ppn: int) -> None:
        self.memory, self.subset, self.mode, self.ppn = memory, subset, mode, ppn
        self._words: dict[int, list[tuple[float, int]]] = {}         # of each word that was written: when its values came
        self._commands: list[tuple[float, Command]] = []
        self._fences: list[tuple[float, float]] = []                 # when commands were queued and when done

    def write(self, time: float, address: int, data: bytes) -> None:
        """Memory changes: by software, or by the IOMMU that sets A and D. Whole words; also writes them to the memory."""
        if (address | len(data)) % _WORD:
            raise ValueError(f"Tables change by words of 8 bytes, not by {len(data)} bytes at {address:#x}")
        for start in range(0, len(data), _WORD):
            place = address + start
            before = int.from_bytes(self.memory.store.read(place, _WORD), "little")
            after = int.from_bytes(data[start:start + _WORD], "little")
            if after != before:
                self._words.setdefault(place, [(-inf, before)]).append((time, after))
        self.memory.write(address, data)

    def command(self, time: float, command: Command) -> None:
        """An invalidation is put in the command queue, for the IOMMU to see at this time or later."""
        self._commands.append((time, command))

    def fence(self, queued: float, done: float) -> None:
        """An IOFENCE.C that was put in the queue at one time has completed at another: so have all commands before it."""
        self._fences.append((queued, done))

    def outcomes(self, request: Request, start: float, end: float) -> set[Outcome]:
        """All that a request may be answered that came at ``start`` and was answered at ``end``."""
        return set(self._possible(request, start, end))

    def find(self, request: Request, is_it: Callable[[Outcome], bool], start: float, end: float) -> Outcome | None:
        """The first of them that ``is_it``, None when there is none: where many entries have changed, quicker than all.

        Raises :class:`Undecided` when it was not among the first :data:`MOST_GUESSES`, and there are more.
        """
        for number, outcome in enumerate(self._possible(request, start, end)):
            if is_it(outcome):
                return outcome
            if number == MOST_GUESSES:
                raise Undecided(f"More than {MOST_GUESSES} combinations of old and new entries would have to be tried for {request}")
        return None

    def allows(self, request: Request, outcome: Outcome, start: float, end: float) -> bool:
        """Whether it may be answered so."""
        return self.find(request, outcome.__eq__, start, end) is not None

    def _possible(self, request: Request, start: float, end: float) -> Iterator[Outcome]:
        """Outcomes one after the other, some more than once."""
        script = _Script()
        while script.rewind():
            with suppress(_Endless):
                yield _Guess(self, script, start, end).translate(request)

    def values(self, address: int, size: int, cached: Callable[[bytes], Cached | None], start: float, end: float) -> list[bytes]:
        """All that the IOMMU may take the data at an address for. What may not be kept is as it was in memory between ``start`` and ``end``."""
        words = [self._words.get(place) or [(-inf, int.from_bytes(self.memory.store.read(place, _WORD), "little"))]
                 for place in range(address, address + size, _WORD)]
        found: dict[bytes, None] = {}
        for choice in product(*(range(len(versions)) for versions in words)):
            data = b"".join(versions[index][1].to_bytes(_WORD, "little") for versions, index in zip(words, choice, strict=True))
            kept = cached(data)
            since = start if kept is None else self._forgotten(kept, start)
            # A version is there from when it came until the next one came.
            if all(versions[index][0] <= end and (index + 1 == len(versions) or versions[index + 1][0] >= since)
                   for versions, index in zip(words, choice, strict=True)):
                found[data] = None
        return list(found)

    def _forgotten(self, cached: Cached, start: float) -> float:
        """The time since which, for a request at ``start``, the IOMMU must have looked at memory again."""
        return max((time for time, command in self._commands
                    if any(time <= queued and done <= start for queued, done in self._fences) and invalidates(command, cached)), default=-inf)


class _Script:
    """A sequence of choices, each among values: all sequences, one after the other. What may be chosen follows from the choices before."""

    def __init__(self) -> None:
        self._choices: list[list[bytes]] = []      # what is left of each, the one that is taken last
        self._next, self._begun = 0, False

    def rewind(self) -> bool:
        """Begin with the next sequence; False when there is none."""
        if self._begun:
            while self._choices and len(self._choices[-1]) == 1:
                self._choices.pop()
            if not self._choices:
                return False
            self._choices[-1].pop()
        self._next, self._begun = 0, True
        return True

    def choose(self, values: Callable[[], list[bytes]]) -> bytes:
        """What this sequence takes of them; they are asked for once."""
        if self._next == len(self._choices):
            self._choices.append(values()[::-1])
        self._next += 1
        return self._choices[self._next - 1][-1]


class _Guess(Iommu):
    """An IOMMU that takes memory for what a script says, among what it may be."""

    def __init__(self, history: History, script: _Script, start: float, end: float) -> None:
        super().__init__(history.memory, history.subset, history.mode, history.ppn)
        self._history, self._script, self._start, self._end = history, script, start, end
        self._fresh: set[int] = set()     # places where memory is looked at, not what is kept of it
        self._changes = 0

    def _read(self, address: int, size: int, cached: Callable[[bytes], Cached | None]) -> bytes:
        super()._read(address, size, cached)
        return self._script.choose(partial(self._values, address, size, cached))

    def _values(self, address: int, size: int, cached: Callable[[bytes], Cached | None]) -> list[bytes]:
        if address in self._fresh:
            return self._history.values(address, size, lambda data: None, self._start, self._end)
        values = self._history.values(address, size, cached, self._start, self._end)
        return list(dict.fromkeys(values + self._others(address, size, cached)))

    def _others(self, address: int, size: int, cached: Callable[[bytes], Cached | None]) -> list[bytes]:
        """What the other entries of a range of 64 KiB are taken for, which may answer for this one: of a range one translation is kept, and where
        they differ, as when A or D were set in one, any may be used (Svnapot)."""
        if size != _WORD:
            return []
        start = address & -_NAPOT_ENTRIES
        found = (data for place in range(start, start + _NAPOT_ENTRIES, _WORD) if place != address
                 for data in self._history.values(place, _WORD, cached, self._start, self._end))
        return [data for data in found if (kept := cached(data)) is not None and kept.leaf and kept.size == NAPOT_SIZE]

    def _compare_and_set(self, address: int, expected: int, value: int) -> bool:
        # "The address-translation cache cannot be used in step 9": what is compared with is in memory. Nothing is written here: whoever records
        # history saw the IOMMU do it.
        super()._read(address, _WORD, lambda data: None)
        if expected.to_bytes(_WORD, "little") in self._history.values(address, _WORD, lambda data: None, self._start, self._end):
            return True
        self._fresh.add(address)
        self._changes += 1
        if self._changes > _MOST_CHANGES:
            raise _Endless
        return False
