"""How fast the event log grows and is checked, and how much memory it takes: on a made-up run, so that no simulation is measured.

``python -m pagehop_tb.checker.speed [events]`` prints the values for a run of so many events, 1 000 000 by default.
"""

import resource
import sys
import time
from itertools import count
from random import Random
from typing import Any

from pagehop_tb.checker.check import check
from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig, Range

__all__ = ["made_up_run", "measure_checker"]

BASE, OFFSET, PAGE, LINE = 0x1000_0000, 1 << 32, 4096, 64
PAGES = 256
DEVICE, ENGINE = 0x0300, (0x0108, 0x0208)
MSI, DOORBELL = 0xFEE0_0000, 0xE000_0000

#: Seconds that the check of 10^6 events may take.
CHECK_SECONDS = 60


class _Run:
    """A legal run of a machine without delays: writes of 64 to 256 bytes, reads, atomics, interrupts, doorbells, CPUs and moves."""

    def __init__(self, events: int, seed: int) -> None:
        self.random, self.log = Random(seed), EventLog()
        self.config = CheckConfig(window=Range(BASE, PAGES * PAGE), host_b_offset=OFFSET, engine_ids=frozenset(ENGINE),
                                  interrupts=(Range(MSI, PAGE),))
        self.memory, self.owners = [bytearray(PAGE) for _ in range(PAGES)], [0] * PAGES
        self.cycle, self.keys, self.values = count(1), count(1), count(1)
        steps = [self._write] * 12 + [self._read] * 8 + [self._atomic] * 2 + [self._interrupt, self._doorbell, self._load, self._load, self._store]
        while len(self.log.events) < events:
            if self.random.random() < 0.0002:
                self._move()
            self.random.choice(steps)()

    def _place(self) -> tuple[int, int]:
        """A page, and an offset in it; a few pages are hot."""
        page = self.random.randrange(4) if self.random.random() < 0.3 else self.random.randrange(PAGES)
        return page, self.random.randrange(60) * LINE

    def _address(self, page: int, offset: int) -> int:
        return BASE + page * PAGE + offset + (OFFSET if self.owners[page] else 0)

    def _data(self, length: int) -> bytes:
        return b"".join(next(self.values).to_bytes(4, "little") for _ in range(length // 4))

    def _agent(self) -> str:
        return self.random.choice(("nvme", "nic"))

    def _write(self) -> None:
        (page, offset), data = self._place(), self._data(self.random.choice((64, 64, 128, 256)))
        ro = self.random.random() < 0.1
        self.log.device_write(next(self.cycle), self._agent(), BASE + page * PAGE + offset, data, None, ro, False, next(self.keys))
        self.memory[page][offset:offset + len(data)] = data
        self.log.performed_write(next(self.cycle), self.owners[page], self._address(page, offset), data, None, DEVICE, "link")

    def _read(self) -> None:
        (page, offset), length, key = self._place(), self.random.choice((8, 64, 128, 256)), next(self.keys)
        self.log.device_read(next(self.cycle), self._agent(), BASE + page * PAGE + offset, length, key)
        self.log.performed_read(next(self.cycle), self.owners[page], self._address(page, offset), length, DEVICE, 1)
        self.log.device_read_done(next(self.cycle), key, bytes(self.memory[page][offset:offset + length]), 0)

    def _atomic(self) -> None:
        (page, offset), key = self._place(), next(self.keys)
        old = bytes(self.memory[page][offset:offset + 8])
        new = ((int.from_bytes(old, "little") + 1) % (1 << 64)).to_bytes(8, "little")
        one = (1).to_bytes(8, "little")
        self.log.device_atomic(next(self.cycle), "nic", BASE + page * PAGE + offset, "fetch_add", one, key)
        self.memory[page][offset:offset + 8] = new
        self.log.performed_atomic(next(self.cycle), self.owners[page], self._address(page, offset), "fetch_add", old, new, DEVICE, 1)
        self.log.device_atomic_done(next(self.cycle), key, old, 0)

    def _interrupt(self) -> None:
        data = self._data(4)
        self.log.device_write(next(self.cycle), self._agent(), MSI, data, None, False, False, next(self.keys))
        self.log.msi(next(self.cycle), 0, MSI, data)

    def _doorbell(self) -> None:
        data = self._data(4)
        self.log.mmio_write(next(self.cycle), 0, DOORBELL, data)
        self.log.device_mmio_write(next(self.cycle), "nvme", DOORBELL, data, None)

    def _load(self) -> None:
        page, offset = self._place()
        cycle = next(self.cycle)
        self.log.cpu_load(cycle, self.owners[page], self._address(page, offset), bytes(self.memory[page][offset:offset + 8]), cycle)

    def _store(self) -> None:
        (page, offset), data, host = self._place(), self._data(8), 0
        host = self.owners[page]
        self.log.cpu_store(next(self.cycle), host, self._address(page, offset), data)
        self.memory[page][offset:offset + 8] = data
        self.log.performed_write(next(self.cycle), host, self._address(page, offset), data, None, 0, "cpu")

    def _move(self) -> None:
        page = self.random.randrange(PAGES)
        to = 1 - self.owners[page]
        self.log.move_begin(next(self.cycle), page, to)
        for offset in range(0, PAGE, LINE):
            address = BASE + page * PAGE + offset + (OFFSET if to else 0)
            self.log.performed_write(next(self.cycle), to, address, bytes(self.memory[page][offset:offset + LINE]), None, ENGINE[to], "link")
        self.owners[page] = to
        self.log.commit(next(self.cycle), page, to)
        self.log.move_end(next(self.cycle), page, to, True, 0, 0, 0)


def made_up_run(events: int, seed: int = 1) -> tuple[EventLog, CheckConfig]:
    """A legal log of ``events`` events or a few more."""
    run = _Run(events, seed)
    return run.log, run.config


def measure_checker(events: int = 1_000_000, seed: int = 1) -> dict[str, Any]:
    """Values for ``make bench``: seconds to check ``events`` events, appends a second, bytes an event in the log. Takes about a minute.

    Raises :class:`AssertionError` when the checker calls the run, which is legal, wrong.
    """
    log, config = made_up_run(events, seed)
    started = time.perf_counter()
    verdict = check(log, config, None)
    seconds = time.perf_counter() - started
    assert verdict.ok, verdict.text()
    limit = CHECK_SECONDS * events / 1_000_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "checker_seconds": {"value": seconds, "limit": limit, "unit": "s", "better": "lower"},
        "checker_events_per_second": {"value": len(log.events) / seconds, "limit": None, "unit": "events/s", "better": "higher"},
        "checker_peak_bytes_per_event": {"value": peak / len(log.events), "limit": None, "unit": "bytes", "better": "lower"},
        "log_bytes_per_event": {"value": log_bytes(log) / len(log.events), "limit": 400, "unit": "bytes", "better": "lower"},
        "log_appends_per_second": {"value": appends_per_second(), "limit": None, "unit": "events/s", "better": "higher"},
    }


def log_bytes(log: EventLog) -> int:
    """Bytes that the log holds: its list, its tuples, and every object in them once."""
    total, seen = sys.getsizeof(log.events), set[int]()
    for entry in log.events:
        total += sys.getsizeof(entry)
        for item in entry:
            if id(item) not in seen:
                seen.add(id(item))
                total += sys.getsizeof(item)
    return total


def appends_per_second(number: int = 300_000) -> float:
    """How many device writes the log takes in a second."""
    log, data = EventLog(), bytes(64)
    started = time.perf_counter()
    for i in range(number):
        log.device_write(i, "nvme", BASE + i, data, None, False, False, i)
    return number / (time.perf_counter() - started)


if __name__ == "__main__":
    for name, entry in measure_checker(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000).items():
        print(f"{name}: {entry['value']:.6g} {entry['unit']}")
