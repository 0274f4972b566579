"""Every dword that was read, compared with the versions that its place had: vectorised, over the whole run at once."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pagehop_tb.checker.records import Read
from pagehop_tb.checker.replay import Replay
from pagehop_tb.checker.space import PAGE
from pagehop_tb.checker.verdict import Verdict

__all__ = ["SHIFT", "Values", "spread"]

Ints = NDArray[np.int64]

#: Bits of a position in the log inside a combined key; positions are stored plus 1, version 0 is what was there before the run.
SHIFT = 33

#: Bytes of a read that are told.
SHORT = 8

#: Dwords that fit no version of their time and are looked for at others: enough to tell what happened.
MISMATCHES = 1000


def spread(starts: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Numbers ``starts[i] .. starts[i] + counts[i] - 1`` of all *i* after each other, and the *i* of each."""
    owner = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return starts[owner] + within, owner


def padded(reads: list[Read]) -> tuple[Ints, Ints, bytes, bytes]:
    """First dword, number of dwords, data padded to whole dwords, and the bytes that count, of each read."""
    starts, counts, data, masks = [], [], [], []
    for read in reads:
        before, after = read.location % 4, -(read.location + read.length) % 4
        starts.append(read.location // 4)
        counts.append((before + read.length + after) // 4 if read.length else 0)
        if read.length:
            data.append(bytes(before) + read.data + bytes(after))
            masks.append(bytes(before) + b"\xff" * read.length + bytes(after))
    return np.array(starts, np.int64), np.array(counts, np.int64), b"".join(data), b"".join(masks)


class Values:
    """Versions of each dword of the run in their order of becoming visible, and for each dword read those that it may stem from.

    ``first`` and ``last`` are the earliest and the latest version that a read dword can be (positions in the sorted versions, -1 when none):
    written before the read was done, and not superseded before it was issued. ``writer`` names the write of a version (-1: nobody).
    """

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.reads = [read for read in replay.reads if len(read.data) == read.length and not read.atomic]
        versions = replay.versions
        dwords, entry = spread(np.array(versions.dword, np.int64), np.array(versions.count, np.int64))
        starts, counts, data, masks = padded(self.reads)
        read_dwords, self.read_of = spread(starts, counts)
        self.value, self.mask = np.frombuffer(data, "<u4"), np.frombuffer(masks, "<u4")
        self.places = np.unique(np.concatenate([dwords, read_dwords]))
        self._sort_versions(dwords, entry)
        self._match(read_dwords)

    def _sort_versions(self, dwords: Ints, entry: Ints) -> None:
        versions, places = self.replay.versions, len(self.places)
        rank = np.searchsorted(self.places, dwords)
        event = np.array(versions.event, np.int64)[entry] + 1 if len(entry) else np.zeros(0, np.int64)
        key = np.concatenate([np.arange(places) << SHIFT, (rank << SHIFT) | event])
        order = np.argsort(key, kind="stable")
        self.key = key[order]
        self.rank, self.event = self.key >> SHIFT, self.key & ((1 << SHIFT) - 1)
        # Position among all performed writes, 0 before the first: of those that a commit took over together, too.
        self.moment = np.concatenate([np.zeros(places, np.int64), entry + 1])[order]
        contents = np.concatenate([self._initial(), np.frombuffer(b"".join(versions.data), "<u4")])
        self.content = contents[order]
        writer = np.array(versions.writer, np.int64)[entry] if len(entry) else np.zeros(0, np.int64)
        self.writer = np.concatenate([np.full(places, -1, np.int64), writer])[order]
        # Dwords that were ever written in part: their bytes have histories of their own.
        self.enables = np.concatenate([np.full(places, 15, np.uint8), self._enables(len(entry))])[order]
        self.in_parts = np.zeros(places, bool)
        self.in_parts[self.rank[self.enables != 15]] = True

    def _enables(self, dwords: int) -> NDArray[np.uint8]:
        """For each dword written the bytes that the write touched."""
        result = np.full(dwords, 15, np.uint8)
        counts = np.array(self.replay.versions.count, np.int64)
        starts = np.cumsum(counts) - counts
        for entry, touched in self.replay.versions.partial.items():
            for i in range(int(counts[entry])):
                result[starts[entry] + i] = touched >> 4 * i & 15
        return result

    def _initial(self) -> NDArray[np.uint32]:
        """What each place held before the run."""
        result = np.zeros(len(self.places), np.uint32)
        pages = self.places // (PAGE // 4)
        for page in np.unique(pages):
            image = self.replay.initial.get(int(page))
            if image is not None:
                low, high = np.searchsorted(pages, [page, page + 1])
                result[low:high] = np.frombuffer(bytes(image), "<u4")[self.places[low:high] % (PAGE // 4)]
        return result

    def _match(self, read_dwords: Ints) -> None:
        issued = np.array([read.issued for read in self.reads], np.int64) + 1
        done = np.array([read.done for read in self.reads], np.int64) + 1
        self.read_rank = np.searchsorted(self.places, read_dwords)
        base = self.read_rank << SHIFT
        self.low = np.searchsorted(self.key, base | issued[self.read_of], "right") - 1
        self.high = np.searchsorted(self.key, base | done[self.read_of], "right") - 1
        self.first = np.full(len(read_dwords), -1, np.int64)
        self.last = self.first.copy()
        active, candidate = np.arange(len(read_dwords)), self.low
        while len(active):
            hits = ((self.content[candidate] ^ self.value[active]) & self.mask[active]) == 0
            hit, version = active[hits], candidate[hits]
            self.last[hit] = version
            self.first[hit] = np.where(self.first[hit] < 0, version, self.first[hit])
            keep = candidate < self.high[active]
            active, candidate = active[keep], candidate[keep] + 1

    def check(self, verdict: Verdict) -> None:
        """Every dword read has a version that it may stem from, and one aligned access has versions of one moment."""
        verdict.checked["read_bytes"] += int(sum(read.length for read in self.reads))
        verdict.checked["edges"] += 2 * len(self.value) + len(self.key)
        self._check_matched(verdict)
        self._check_torn(verdict)

    def _check_matched(self, verdict: Verdict) -> None:
        told: set[int] = set()
        for i in np.flatnonzero(self.first < 0):
            number = int(self.read_of[i])
            if number in told:
                continue
            told.add(number)
            same = self._equal_versions(int(i))
            self.replay.blamed.add(self.reads[number].done)
            where = self.replay.config.name(int(self.places[self.read_rank[i]]) * 4)
            story = f"{self.told(number)} brought {int(self.value[i]):#010x} from {where}"
            if not len(same):
                verdict.add("invented", f"{story}, which nobody wrote there")
            elif same[0] < self.low[i]:
                since = self._cycle(int(self.low[i]))
                verdict.add("stale", f"{story}; {int(self.content[self.low[i]]):#010x} stands there since cycle {since}")
            else:
                verdict.add("reordered", f"{story}, which was written only in cycle {self._cycle(int(same[0]))}")

    def told(self, number: int, with_data: bool = False) -> str:
        """Read ``number`` for a reader."""
        read = self.reads[number]
        start = f"the read of {read.agent} from cycle {self.replay.cycle_of(read.issued)} to {self.replay.cycle_of(read.done)}"
        if not with_data:
            return start
        data = read.data.hex() if read.length <= SHORT else f"{read.data[:SHORT].hex()}… ({read.length} bytes)"
        return f"{start} of {self.replay.config.name(read.location)}, which brought {data or 'nothing'}"

    def _cycle(self, version: int) -> int:
        event = int(self.event[version])
        return self.replay.cycle_of(event - 1) if event else 0

    def _check_torn(self, verdict: Verdict) -> None:
        """All dwords of a read inside one 64-byte line were there at one moment; ambiguous values prove nothing and are left out."""
        if not self.replay.config.line_atomic:
            return
        inside = np.array([read.length > 4 and read.location // 64 == (read.location + read.length - 1) // 64 for read in self.reads], bool)
        sure = (self.first >= 0) & (self.first == self.last)
        chosen = np.flatnonzero(sure & inside[self.read_of]) if len(self.reads) else np.zeros(0, np.int64)
        if not len(chosen):
            return
        version, number = self.first[chosen], self.read_of[chosen]
        after = np.minimum(version + 1, len(self.key) - 1)
        end = np.where((after > version) & (self.rank[after] == self.rank[version]), self.moment[after], 1 << SHIFT)
        groups = np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1]]))
        torn = groups[np.maximum.reduceat(self.moment[version], groups) >= np.minimum.reduceat(end, groups)]
        for i in torn:
            self.replay.blamed.add(self.reads[int(number[i])].done)
            where = self.replay.config.name(self.reads[int(number[i])].location)
            verdict.add("torn", f"{self.told(int(number[i]))} at {where} mixes two writes")

    def matched_anywhere(self) -> tuple[Ints, Ints]:
        """``first`` and ``last``, where a dword that fits no version of its time gets those of its place that it equals."""
        first, last = self.first.copy(), self.last.copy()
        for i in np.flatnonzero(first < 0)[:MISMATCHES].tolist():
            same = self._equal_versions(i)
            if len(same):
                first[i], last[i] = same[0], same[-1]
        return first, last

    def _equal_versions(self, i: int) -> Ints:
        """All versions of its place that dword ``i`` of those read equals."""
        low, high = np.searchsorted(self.key, [self.read_rank[i] << SHIFT, (self.read_rank[i] + 1) << SHIFT])
        return low + np.flatnonzero(((self.content[low:high] ^ self.value[i]) & self.mask[i]) == 0)

    def sources(self) -> dict[int, list[int]]:
        """For each read (by number) the writes that its data certainly stem from."""
        found = []
        for written, read in self._cells():
            sure, versions = read[self.first[read] >= 0], np.flatnonzero(written)
            if len(sure):
                source = versions[np.searchsorted(versions, self.first[sure], "right") - 1]
                found.append((self.read_of[sure] << SHIFT) | (self.writer[source] + 1))
        pairs = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
        result: dict[int, list[int]] = {}
        for pair in pairs.tolist():
            writer = (pair & ((1 << SHIFT) - 1)) - 1
            if writer >= 0:
                result.setdefault(pair >> SHIFT, []).append(writer)
        return result

    def _cells(self) -> Iterator[tuple[NDArray[np.bool_], Ints]]:
        """Versions that wrote a kind of cell, and dwords read that contain it: whole dwords, then the first bytes of those written in parts, ..."""
        yield ~self.in_parts[self.rank], np.flatnonzero(~self.in_parts[self.read_rank])
        for byte in range(4):
            read = self.in_parts[self.read_rank] & ((self.mask >> 8 * byte & 0xFF) != 0)
            yield self.in_parts[self.rank] & (self.enables >> byte & 1).astype(bool), np.flatnonzero(read)

    def _latest(self, versions: Ints, read: Ints, known: Ints) -> Ints:
        """For each dword of ``read`` the latest of ``versions`` of its place that was sent up to the position ``known``; -1 for none."""
        sent = np.array([write.event for write in self.replay.writes], np.int64)[self.writer[versions]] + 1
        keyed = (self.rank[versions] << SHIFT) | sent
        order = np.argsort(keyed, kind="stable")
        latest = np.maximum.accumulate(versions[order])
        found = np.searchsorted(keyed[order], (self.read_rank[read] << SHIFT) | (known + 1), "right") - 1
        result = np.where(found >= 0, latest[found], -1)
        return np.where(self.rank[result] == self.read_rank[read], result, -1)

    def check_known(self, known: NDArray[np.int64], verdict: Verdict) -> None:
        """``known[i, s]``: read *i* must see every posted write of stream *s* sent at or before this position in the log.

        Atomics are not among them: they are non-posted, and whatever is sent after one may pass it.
        """
        writes = self.replay.writes
        if not len(writes) or not len(self.value):
            return
        streams = np.array([self.replay.stream_of(write) if write.atomic is None else -1 for write in writes], np.int64)
        required = np.full(len(self.value), -1, np.int64)
        for written, read in self._cells():
            for stream in range(known.shape[1]):
                versions = np.flatnonzero(written & (self.writer >= 0) & (streams[self.writer] == stream))
                if len(versions):
                    required[read] = np.maximum(required[read], self._latest(versions, read, known[self.read_of[read], stream]))
        verdict.checked["edges"] += int(np.count_nonzero(required >= 0))
        bad = np.flatnonzero((self.last >= 0) & (self.last < required))
        for number in dict.fromkeys(self.read_of[bad].tolist()):
            missed = int(self.writer[required[bad[np.searchsorted(self.read_of[bad], number)]]])
            self.replay.blamed.add(self.reads[number].done)
            where = self.replay.config.name(self.reads[number].location)
            verdict.add("stale", f"{self.told(number)} at {where} did not see {self.replay.told(missed)}, which it had to see")
