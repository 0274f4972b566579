"""The checker judges hand-written histories: legal ones pass, and each kind of failure is called by its name."""

from itertools import count

import pytest

from pagehop_tb.checker.check import check
from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.space import CheckConfig, Range
from pagehop_tb.checker.verdict import Verdict

BASE = 0x1000_0000
OFFSET = 1 << 32
ENGINE = {0: 0x0108, 1: 0x0208}
DEVICE = 0x0300
MSI = 0xFEE0_0000
PAGE = 4096


def dword(number: int) -> bytes:
    return (0xABC0_0000 + number).to_bytes(4, "little")


class History:
    """A run told by hand: device writes become visible where and when the test says."""

    def __init__(self, **config) -> None:
        self.log = EventLog()
        self.config = CheckConfig(window=Range(BASE, 16 * PAGE), host_b_offset=OFFSET, engine_ids=frozenset(ENGINE.values()),
                                  interrupts=(Range(MSI, PAGE),), hold_limit=1000, **config)
        self.cycles, self.keys = count(1), count(1)
        self.memory: dict[int, dict[int, int]] = {0: {}, 1: {}}
        self.finished = False

    def tick(self) -> int:
        return next(self.cycles)

    def preset(self, offset: int, data: bytes, host: int = 0) -> None:
        self._store(host, self.address(host, offset), data)
        self.log.preset(host, self.address(host, offset), data)

    @staticmethod
    def address(host: int, offset: int) -> int:
        return BASE + offset + (OFFSET if host else 0)

    def _store(self, host: int, address: int, data: bytes, enables: int | None = None) -> None:
        for i, byte in enumerate(data):
            if enables is None or enables >> i & 1:
                self.memory[host][address + i] = byte

    def write(self, offset: int, data: bytes, enables: int | None = None, ro: bool = False, ido: bool = False, agent: str = "nvme") -> None:
        self.log.device_write(self.tick(), agent, BASE + offset, data, enables, ro, ido, next(self.keys))

    def perform(self, offset: int, data: bytes, host: int = 0, enables: int | None = None, rid: int = DEVICE) -> None:
        self._store(host, self.address(host, offset), data, enables)
        self.log.performed_write(self.tick(), host, self.address(host, offset), data, enables, rid, "link")

    def write_now(self, offset: int, data: bytes, host: int = 0) -> None:
        self.write(offset, data)
        self.perform(offset, data, host)

    def issue(self, offset: int, length: int, agent: str = "nvme") -> int:
        key = next(self.keys)
        self.log.device_read(self.tick(), agent, BASE + offset, length, key)
        return key

    def answer(self, key: int, data: bytes, status: int = 0) -> None:
        self.log.device_read_done(self.tick(), key, data, status)

    def read(self, offset: int, data: bytes, agent: str = "nvme") -> None:
        self.answer(self.issue(offset, len(data), agent), data)

    def load(self, host: int, offset: int, data: bytes) -> None:
        cycle = self.tick()
        self.log.cpu_load(cycle, host, self.address(host, offset), data, cycle)

    def store(self, host: int, offset: int, data: bytes) -> None:
        self.log.cpu_store(self.tick(), host, self.address(host, offset), data)
        self._store(host, self.address(host, offset), data)
        self.log.performed_write(self.tick(), host, self.address(host, offset), data, None, 0, "cpu")

    def copy(self, page: int, host: int, skip: int | None = None) -> None:
        for line in range(0, PAGE, 64):
            data = bytes(self.memory[1 - host].get(self.address(1 - host, page * PAGE + line + i), 0) for i in range(64))
            if line != skip:
                self.perform(page * PAGE + line, data, host, rid=ENGINE[host])

    def move(self, page: int, host: int = 1) -> None:
        self.copy(page, host)
        self.log.commit(self.tick(), page, host)

    def read_memory(self, host: int, address: int, length: int) -> bytes:
        return bytes(self.memory[host].get(address + i, 0) for i in range(length))

    def verdict(self) -> Verdict:
        return check(self.log, self.config, self.read_memory)

    def violations(self) -> dict[str, int]:
        return {name: number for name, number in self.verdict().violations.items() if number}


@pytest.fixture
def history() -> History:
    return History()


# Legal histories


def test_an_empty_run_is_legal(history):
    assert history.violations() == {}


def test_writes_and_reads_around_a_move_are_legal(history):
    history.preset(0x2000, bytes(range(256)))
    history.read(0x2010, bytes(range(16, 80)))
    history.write_now(0x2000, dword(1) + dword(2))
    history.read(0x2000, dword(1) + dword(2) + bytes(range(8, 16)))
    history.move(2)
    history.read(0x2004, dword(2))
    history.write_now(0x2004, dword(3), host=1)
    history.read(0x2001, (dword(1) + dword(3))[1:6])
    verdict = history.verdict()
    assert verdict.ok, verdict.text()
    assert verdict.checked["read_bytes"] == 64 + 16 + 4 + 5
    assert verdict.checked["final_bytes"] == PAGE


def test_a_read_may_return_the_old_or_the_new_value_of_a_write_that_races_with_it(history):
    for number, seen in ((1, 1), (2, 1)):
        key = history.issue(0, 4)
        history.write_now(0, dword(number))
        history.answer(key, dword(seen))
    assert history.violations() == {}


def test_relaxed_writes_may_become_visible_early(history):
    history.write(0, dword(1))
    history.write(64, dword(2), ro=True)
    history.perform(64, dword(2))
    history.perform(0, dword(1))
    assert history.violations() == {}


def test_a_relaxed_write_may_pass_a_strong_one_to_the_same_place(history):
    history.write(0, dword(1))
    history.write(0, dword(2), ro=True)
    history.perform(0, dword(2))
    history.perform(0, dword(1))
    assert history.violations() == {}


def test_a_read_may_pass_an_atomic_of_its_own_port(history):
    key = next(history.keys)
    history.log.device_atomic(history.tick(), "nvme", BASE, "swap", dword(1), key)
    history.read(0, bytes(4))
    history._store(0, BASE, dword(1))
    history.log.performed_atomic(history.tick(), 0, BASE, "swap", bytes(4), dword(1), DEVICE, 1)
    history.log.device_atomic_done(history.tick(), key, bytes(4), 0)
    assert history.violations() == {}


def test_a_write_may_pass_an_atomic_to_the_same_place(history):
    key = next(history.keys)
    history.log.device_atomic(history.tick(), "nvme", BASE, "swap", dword(1), key)
    history.write_now(0, dword(2))
    history._store(0, BASE, dword(1))
    history.log.performed_atomic(history.tick(), 0, BASE, "swap", dword(2), dword(1), DEVICE, 1)
    history.log.device_atomic_done(history.tick(), key, dword(2), 0)
    assert history.violations() == {}


@pytest.mark.hazard("H21")
def test_byte_enables_and_writes_of_nothing(history):
    history.preset(0, b"\x11" * 8)
    for data, enables in ((b"\xaa" * 8, 0b1000_0010), (b"\xbb" * 4, 0)):
        history.write(0, data, enables)
        history.perform(0, data, enables=enables)
    history.read(0, b"\x11\xaa" + b"\x11" * 5 + b"\xaa")
    assert history.violations() == {}


def test_a_read_accepted_before_the_commit_may_return_what_the_source_had(history):
    history.write_now(0, dword(1))
    key = history.issue(0, 4)
    history.move(0)
    history.write_now(0, dword(2), host=1)
    history.log.performed_read(history.tick(), 0, BASE, 4, DEVICE, 1)
    history.answer(key, dword(1))
    assert history.violations() == {}


def test_atomics_once_each(history):
    for old in (0, 5):
        key = next(history.keys)
        history.log.device_atomic(history.tick(), "nvme", BASE, "fetch_add", (5).to_bytes(4, "little"), key)
        new = (old + 5).to_bytes(4, "little")
        history._store(0, BASE, new)
        history.log.performed_atomic(history.tick(), 0, BASE, "fetch_add", old.to_bytes(4, "little"), new, DEVICE, 1)
        history.log.device_atomic_done(history.tick(), key, old.to_bytes(4, "little"), 0)
    history.read(0, (10).to_bytes(4, "little"))
    assert history.violations() == {}


def test_stores_of_cpus_local_and_through_the_aperture():
    history = History(apertures={0: Range(0x80_0000_0000, 16 * PAGE, BASE + OFFSET - 0x80_0000_0000)}, owned_by_b=frozenset({1}))
    history.store(0, 0, dword(1))
    history.log.cpu_store(history.tick(), 0, 0x80_0000_0000 + PAGE + 2, b"ab")
    history.perform(PAGE, b"\0\0ab", host=1, enables=0b1100, rid=ENGINE[1])
    history.read(PAGE, b"\0\0ab")
    assert history.violations() == {}


# Each failure by its name


@pytest.mark.hazard("I3")
def test_a_write_never_performed_is_lost(history):
    history.write(0, dword(1))
    assert history.violations() == {"lost": 1}


@pytest.mark.hazard("I2")
def test_a_copy_that_misses_a_line_is_lost(history):
    history.write_now(0x40, dword(1))
    history.copy(0, 1, skip=0x40)
    history.log.commit(history.tick(), 0, 1)
    violations = history.violations()
    assert violations == {"lost": 1 + 3}    # at the commit, and three bytes of the final memory (the fourth is 0)


@pytest.mark.hazard("H01", "I2")
def test_a_write_in_flight_to_the_source_at_the_commit(history):
    history.write(0, dword(1))
    history.move(0)
    history.perform(0, dword(1), host=0)
    assert history.violations() == {"misdirected": 1}


@pytest.mark.hazard("I3")
def test_a_write_performed_twice_is_duplicated(history):
    history.write_now(0, dword(1))
    history.write_now(0, dword(2))
    history.perform(0, dword(1))
    assert history.violations()["duplicated"] == 1


@pytest.mark.hazard("H03")
def test_a_late_copy_over_a_newer_write_is_duplicated_and_stale(history):
    history.move(0)
    history.write_now(0, dword(1), host=1)
    history.perform(0, bytes(64), host=1, rid=ENGINE[1])
    history.read(0, bytes(4))
    violations = history.violations()
    assert violations["duplicated"] == 1 and violations["stale"] == 1 and violations["lost"] == 3


@pytest.mark.hazard("H10", "I3")
def test_an_atomic_performed_twice_is_duplicated(history):
    key = next(history.keys)
    one = (1).to_bytes(4, "little")
    history.log.device_atomic(history.tick(), "nvme", BASE, "fetch_add", one, key)
    for old in (0, 1):
        history._store(0, BASE, (old + 1).to_bytes(4, "little"))
        history.log.performed_atomic(history.tick(), 0, BASE, "fetch_add", old.to_bytes(4, "little"), (old + 1).to_bytes(4, "little"), DEVICE, 1)
    history.log.device_atomic_done(history.tick(), key, bytes(4), 0)
    assert history.violations() == {"duplicated": 1}


@pytest.mark.hazard("H48", "I3")
def test_the_log_may_swap_words_of_its_bitmaps_and_nothing_of_the_guest(history):
    bitmap, rid = MSI - PAGE, ENGINE[0]
    history.log.performed_atomic(history.tick(), 0, bitmap, "cas", bytes(8), b"\1" + bytes(7), rid, 0xB0)
    assert not any(check(history.log, history.config, None).violations.values())
    history.log.performed_atomic(history.tick(), 0, BASE, "cas", bytes(8), b"\1" + bytes(7), rid, 0xB0)
    assert check(history.log, history.config, None).violations["duplicated"] == 1


@pytest.mark.hazard("H10", "H58", "I3")
def test_an_atomic_answered_and_not_performed_is_lost(history):
    key = next(history.keys)
    history.log.device_atomic(history.tick(), "nvme", BASE, "swap", dword(1), key)
    history.log.device_atomic_done(history.tick(), key, bytes(4), 0)
    assert history.violations() == {"lost": 1}


def test_an_atomic_with_an_answer_that_memory_never_gave_is_invented(history):
    key = next(history.keys)
    history.log.device_atomic(history.tick(), "nvme", BASE, "swap", dword(1), key)
    history._store(0, BASE, dword(1))
    history.log.performed_atomic(history.tick(), 0, BASE, "swap", bytes(4), dword(1), DEVICE, 1)
    history.log.device_atomic_done(history.tick(), key, dword(9), 0)
    assert history.violations() == {"invented": 1}


def test_a_read_of_a_superseded_value_is_stale(history):
    history.write_now(0, dword(1))
    history.write_now(0, dword(2))
    history.read(0, dword(1))
    assert history.violations() == {"stale": 1}


@pytest.mark.hazard("H22", "I5")
def test_a_read_that_passed_a_write_of_its_own_port_is_stale(history):
    history.write(0, dword(1))
    key = history.issue(0, 4, agent="nic")
    history.answer(key, bytes(4))
    history.perform(0, dword(1))
    violations = history.violations()
    assert violations == {"stale": 1, "reordered": 1}    # it did not flush either


@pytest.mark.hazard("H64", "I6")
def test_a_read_answered_before_an_earlier_write_elsewhere_is_visible(history):
    history.config.owned_by_b = frozenset({1})
    history.write(PAGE, dword(1))
    history.read(0, bytes(4))
    history.perform(PAGE, dword(1), host=1)
    assert history.violations() == {"reordered": 1}


def test_a_value_written_only_after_the_read_is_reordered(history):
    history.read(0, dword(1))
    history.write_now(0, dword(1))
    assert history.violations() == {"reordered": 1}


@pytest.mark.hazard("H16", "I5")
def test_strong_writes_out_of_order_at_one_host_are_reordered(history):
    history.write(0, dword(1))
    history.write(64, dword(2))
    history.perform(64, dword(2))
    history.perform(0, dword(1))
    assert history.violations() == {"reordered": 1}


@pytest.mark.hazard("H04")
def test_order_over_both_hosts_where_the_fence_policy_promises_it(history):
    history.config.owned_by_b, history.config.global_order = frozenset({1}), True
    history.write(0, dword(1))
    history.write(PAGE, dword(2))
    history.perform(PAGE, dword(2), host=1)
    history.perform(0, dword(1))
    assert history.violations() == {"reordered": 1}
    history.config.global_order = False
    assert history.violations() == {}


@pytest.mark.hazard("H23", "I5")
def test_a_drain_that_is_overtaken_is_reordered(history):
    history.write(0, dword(1))
    history.write(0, dword(2))
    history.move(0)
    history.perform(0, dword(2), host=1)
    history.perform(0, dword(1), host=1)
    assert history.violations() == {"reordered": 2}    # at the host, and at the dword


def test_an_aligned_read_that_mixes_two_writes_is_torn(history):
    history.write_now(0, dword(1) + dword(2))
    key = history.issue(0, 8)
    history.write_now(0, dword(3) + dword(4))
    history.write_now(0, dword(5) + dword(6))
    history.answer(key, dword(5) + dword(2))
    assert history.violations() == {"torn": 1}


@pytest.mark.hazard("I1")
def test_a_write_at_the_other_host_is_misdirected(history):
    history.write(0, dword(1))
    history.perform(0, dword(1), host=1)
    assert history.violations() == {"misdirected": 1}


@pytest.mark.hazard("I4")
def test_a_read_served_by_the_old_owner_is_misdirected(history):
    history.move(0)
    history.issue(0, 4)
    history.log.performed_read(history.tick(), 0, BASE, 4, DEVICE, 1)
    violations = history.violations()
    assert violations == {"misdirected": 1, "stuck": 1}


def test_a_value_that_nobody_wrote_is_invented(history):
    history.write_now(0, dword(1))
    history.read(0, b"\xff" * 4)
    assert history.violations() == {"invented": 1}


def test_a_write_that_nobody_made_is_invented(history):
    history.perform(0, dword(1))
    assert history.violations() == {"invented": 1}


@pytest.mark.hazard("I7")
def test_a_read_never_answered_is_stuck(history):
    history.issue(0, 4)
    assert history.violations() == {"stuck": 1}


def test_a_read_that_timed_out_is_stuck_unless_its_silence_was_injected(history):
    history.answer(history.issue(0, 4), b"", status=9)
    key = history.issue(0x100, 4)
    history.log.injected(history.tick(), 0, BASE + 0x100, 4, 9, DEVICE)
    history.answer(key, b"", status=9)
    assert history.violations() == {"stuck": 1}


@pytest.mark.hazard("H19", "I7")
def test_a_hold_beyond_its_limit_is_stuck(history):
    history.log.holding(100, 1)
    history.log.holding(2000, 0)
    history.log.holding(3000, 1)
    history.log.holding(3900, 0)
    assert history.violations() == {"stuck": 1}


@pytest.mark.hazard("H14", "I9")
def test_an_error_that_became_data_is_masked(history):
    key = history.issue(0, 4)
    history.log.injected(history.tick(), 0, BASE, 4, 1, DEVICE)
    history.answer(key, bytes(4))
    assert history.violations() == {"masked": 1}


@pytest.mark.hazard("H14", "I9")
def test_a_commit_after_a_failed_copy_read_is_masked(history):
    history.log.move_begin(history.tick(), 0, 1)
    history.log.injected(history.tick(), 0, BASE + 64, 64, 4, ENGINE[0])
    history.move(0)
    assert history.violations() == {"masked": 1}


@pytest.mark.hazard("H60")
def test_done_before_the_held_writes_are_visible_is_stale(history):
    history.write(0, dword(1))
    history.move(0)
    history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)
    history.perform(0, dword(1), host=1)
    assert history.violations() == {"stale": 1}


@pytest.mark.hazard("H12", "I13")
def test_done_before_the_last_read_of_the_old_place_is_misdirected(history):
    key = history.issue(0, 4)
    history.move(0)
    history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)
    history.log.performed_read(history.tick(), 0, BASE, 4, DEVICE, 1)
    history.answer(key, bytes(4))
    assert history.violations() == {"misdirected": 1}


def test_done_without_a_commit_is_masked(history):
    history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)
    assert history.violations() == {"masked": 1}


def test_an_error_nobody_gave_is_misdirected(history):
    history.answer(history.issue(0, 4), b"", status=1)
    assert history.violations() == {"misdirected": 1}


# What one agent knows from another


@pytest.mark.hazard("H04", "I5")
def test_a_cpu_that_saw_the_flag_must_see_the_data(history):
    history.config.owned_by_b = frozenset({1})
    history.write(0, dword(1))              # data at A, slow
    history.write(PAGE, dword(2))           # flag at B
    history.perform(PAGE, dword(2), host=1)
    history.load(1, PAGE, dword(2))
    history.config.apertures = {1: Range(0x80_0000_0000, PAGE, BASE - 0x80_0000_0000)}
    cycle = history.tick()
    history.log.cpu_load(cycle, 1, 0x80_0000_0000, bytes(4), cycle)
    history.perform(0, dword(1))
    assert history.violations() == {"stale": 1}


@pytest.mark.hazard("H17", "I11")
def test_a_cpu_that_was_interrupted_must_see_the_data(history):
    history.write(0, dword(1))
    history.log.device_write(history.tick(), "nvme", MSI, dword(7), None, False, False, 77)
    history.log.msi(history.tick(), 0, MSI, dword(7))
    history.load(0, 0, bytes(4))
    history.perform(0, dword(1))
    assert history.violations() == {"stale": 1, "reordered": 1}


@pytest.mark.hazard("H18")
def test_a_cpu_that_read_a_register_of_the_device_must_see_the_data(history):
    history.write(0, dword(1))
    history.log.device_mmio_read(history.tick(), "nvme", 0xE000_0000, dword(8))
    cycle = history.tick()
    history.log.mmio_read_done(cycle, 0, 0xE000_0000, dword(8), 0, cycle)
    history.load(0, 0, bytes(4))
    history.perform(0, dword(1))
    assert history.violations() == {"stale": 1}


def test_a_device_that_saw_the_flag_of_a_cpu_must_see_its_data():
    history = History(apertures={0: Range(0x80_0000_0000, 16 * PAGE, BASE + OFFSET - 0x80_0000_0000)}, owned_by_b=frozenset({1}))
    history.log.cpu_store(history.tick(), 0, 0x80_0000_0000 + PAGE, dword(1))       # data at B, still on its way
    history.store(0, 0, dword(2))                                                   # flag at A, not read back (O9)
    history.read(0, dword(2))
    history.read(PAGE, bytes(4))
    history.perform(PAGE, dword(1), host=1, rid=ENGINE[1])
    assert history.violations() == {"stale": 1}


def test_a_device_that_was_rung_must_see_the_descriptor():
    history = History(apertures={0: Range(0x80_0000_0000, 16 * PAGE, BASE + OFFSET - 0x80_0000_0000)}, owned_by_b=frozenset({1}))
    history.log.cpu_store(history.tick(), 0, 0x80_0000_0000 + PAGE, dword(1))
    history.log.mmio_write(history.tick(), 0, 0xE000_0000, dword(3))
    history.log.device_mmio_write(history.tick(), "nvme", 0xE000_0000, dword(3), None)
    history.read(PAGE, bytes(4))
    history.perform(PAGE, dword(1), host=1, rid=ENGINE[1])
    assert history.violations() == {"stale": 1}


# Interrupts, harvests


@pytest.mark.hazard("I11")
def test_interrupts_are_delivered_once(history):
    history.log.device_write(history.tick(), "nvme", MSI, dword(7), None, False, False, 77)
    for _ in range(2):
        history.log.msi(history.tick(), 0, MSI, dword(7))
    history.log.msi(history.tick(), 0, MSI + 4, dword(7))
    assert history.violations() == {"duplicated": 1, "invented": 1}


@pytest.mark.hazard("I12")
@pytest.mark.parametrize(("bits", "lost"), [(0b10, 0), (0b00, 1), (0b11, 0)])
def test_a_written_page_is_in_the_next_dirty_report(history, bits, lost):
    history.write_now(PAGE, dword(1))
    issued = history.tick()
    history.log.harvest(history.tick(), issued, 0, bits, 64, True)
    verdict = history.verdict()
    assert verdict.violations["lost"] == lost
    assert verdict.dirty == {"pages_written": 1, "pages_reported": bits.bit_count(), "missed": lost, "false_positive": bits & 1}


@pytest.mark.hazard("H46", "I12")
def test_a_report_that_returns_before_its_write_is_visible_does_not_count(history):
    history.write(0, dword(1))
    history.log.harvest(history.tick(), history.tick(), 0, 1, 64, True)
    history.perform(0, dword(1))
    issued = history.tick()
    history.log.harvest(history.tick(), issued, 0, 0, 64, True)
    assert history.violations() == {"lost": 1}


# The report


def test_stories_are_told_for_the_first_few_only(history):
    for number in range(20):
        history.write(4 * number, dword(number))
    verdict = history.verdict()
    assert verdict.violations["lost"] == 20
    assert len(verdict.stories) == 5
    assert verdict.stories[1] == "lost: the write of nvme to page 0 offset 0x004 in cycle 2 was never performed"
    assert verdict.accesses == {"reads": 0, "writes": 20, "atomics": 0, "messages": 0, "bytes_read": 0, "bytes_written": 80}


def test_latencies_and_holds_are_measured(history):
    log = history.log
    history.read(0, bytes(4))
    log.move_begin(history.tick(), 0, 1)
    history.read(PAGE, bytes(8))
    key = history.issue(0, 4)
    history.move(0)
    history.answer(key, bytes(4))
    log.move_end(history.tick(), 0, 1, True, 0, 40, 75)
    measured = history.verdict().measured
    assert measured["pages"] == {"requested": 1, "moved": 1, "aborted": 0, "retries": 0}
    assert measured["hold_cycles"] == {"p50": 40, "p99": 40, "max": 40} and measured["move_cycles"]["max"] == 75
    assert measured["latency_cycles"]["read"] == {"idle_p50": 1, "idle_p99": 1, "moving_p50": 1, "moving_p99": 66, "max": 66}
    assert measured["latency_cycles"]["non_moving_read"]["max"] == 1
