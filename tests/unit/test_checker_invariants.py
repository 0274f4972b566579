"""Each invariant and each failure name on a pair of hand-written histories: one that breaks it, and one like it that does not."""

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("test_checker_histories", Path(__file__).with_name("test_checker.py"))
assert _SPEC is not None and _SPEC.loader is not None
told = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(told)
BASE, OFFSET, PAGE, MSI, DEVICE, ENGINE, dword = told.BASE, told.OFFSET, told.PAGE, told.MSI, told.DEVICE, told.ENGINE, told.dword


# Each function tells a history: the wrong one, or the legal one.


def i1_a_write_at_its_owner(history, wrong):
    history.move(0)
    history.write(0, dword(1))
    history.perform(0, dword(1), host=0 if wrong else 1)


def i1_a_commit_to_the_other_host(history, wrong):
    history.move(0)
    history.copy(0, 0)
    history.log.commit(history.tick(), 0, 1 if wrong else 0)


def i2_the_copy_equals_the_page(history, wrong):
    history.write_now(0x40, dword(1))
    history.copy(0, 1)
    if wrong:
        history.write_now(0x40, dword(2))
    history.log.commit(history.tick(), 0, 1)
    history.memory[1] |= {OFFSET + address: byte for address, byte in history.memory[0].items()}


def i2_no_copy_write_after_the_commit(history, wrong):
    if wrong:
        history.move(0)
    history.perform(0, bytes(64), host=1, rid=ENGINE[1])


def i3_a_write_once(history, wrong):
    history.write_now(0, dword(1))
    if not wrong:
        history.write(0, dword(1))
    history.perform(0, dword(1))


def i3_a_write_at_all(history, wrong):
    history.write(0, dword(1))
    if not wrong:
        history.perform(0, dword(1))


def i3_an_atomic_answers_what_memory_gave(history, wrong):
    history.log.device_atomic(history.tick(), "nvme", BASE, "swap", dword(1), 1)
    history._store(0, BASE, dword(1))
    history.log.performed_atomic(history.tick(), 0, BASE, "swap", bytes(4), dword(1), DEVICE, 1)
    history.log.device_atomic_done(history.tick(), 1, dword(9) if wrong else bytes(4), 0)


def i4_a_read_of_the_owner(history, wrong):
    history.move(0)
    key = history.issue(0, 4)
    history.log.performed_read(history.tick(), *((0, BASE) if wrong else (1, BASE + OFFSET)), 4, DEVICE, 1)
    history.answer(key, bytes(4))


def i4_the_copy_is_not_read_before_the_commit(history, wrong):
    key = history.issue(0, 4)
    history.log.performed_read(history.tick(), *((1, BASE + OFFSET) if wrong else (0, BASE)), 4, DEVICE, 1)
    history.answer(key, bytes(4))
    history.move(0)


def i5_strong_writes_stay_in_order(history, wrong):
    history.write(0, dword(1))
    history.write(64, dword(2), ro=not wrong)
    history.perform(64, dword(2))
    history.perform(0, dword(1))


def i5_an_interrupt_stays_behind_its_data(history, wrong):
    history.write(0, dword(1))
    history.log.device_write(history.tick(), "nvme", MSI, dword(7), None, not wrong, False, 77)
    history.log.msi(history.tick(), 0, MSI, dword(7))
    history.perform(0, dword(1))


def i6_a_read_pushes_writes_at_the_other_host(history, wrong):
    history.config.owned_by_b = frozenset({1})
    history.write(PAGE, dword(1))
    if wrong:
        history.read(0, bytes(4))
    history.perform(PAGE, dword(1), host=1)
    history.read(0, bytes(4))


def i6_a_read_with_ido_need_not(history, wrong):
    history.write(64, dword(1))
    history.log.device_read(history.tick(), "nic", BASE, 4, 55, not wrong)
    history.answer(55, bytes(4))
    history.perform(64, dword(1))


def i7_a_hold_ends_in_time(history, wrong):
    history.log.holding(100, 1)
    history.log.holding(1500 if wrong else 1200, 0)


def i7_every_read_is_answered(history, wrong):
    key = history.issue(0, 4)
    if not wrong:
        history.answer(key, bytes(4))


def i7_every_read_is_answered_once(history, wrong):
    key = history.issue(0, 4)
    for _ in range(2 if wrong else 1):
        history.answer(key, bytes(4))


def i8_no_abort_after_the_commit(history, wrong):
    history.log.move_begin(history.tick(), 0, 1)
    history.move(0)
    history.log.move_end(history.tick(), 0, 1, not wrong, 0, 1, 2)


def i8_no_end_without_a_commit(history, wrong):
    history.log.move_begin(history.tick(), 0, 1)
    history.log.move_end(history.tick(), 0, 1, wrong, 5, 1, 2)


def i8_an_abort_after_an_earlier_move(history, wrong):
    history.log.move_begin(history.tick(), 0, 1)
    history.move(0)
    history.log.move_end(history.tick(), 0, 1, True, 0, 1, 2)
    history.log.move_begin(history.tick(), 0, 0)
    if wrong:
        history.move(0, host=0)
    history.log.move_end(history.tick(), 0, 0, False, 5, 1, 2)


def i9_an_error_stays_an_error(history, wrong):
    key = history.issue(0, 4)
    history.log.injected(history.tick(), 0, BASE, 4, 1, DEVICE)
    history.answer(key, *((bytes(4), 0) if wrong else (b"", 1)))


def i9_no_commit_after_a_failed_copy_read(history, wrong):
    history.log.move_begin(history.tick(), 0, 1)
    history.log.injected(history.tick(), 0, BASE + 64, 64, 4, ENGINE[0])
    if not wrong:
        history.log.move_begin(history.tick(), 0, 1)    # a second try
    history.move(0)


def i9_no_error_that_nobody_gave(history, wrong):
    key = history.issue(0, 4)
    if not wrong:
        history.log.injected(history.tick(), 0, BASE, 4, 4, DEVICE)
    history.answer(key, b"", 4)


def through(history, data, number=0, ido=False, **changed):
    """A posted TLP on the link of the device, or on that of a host."""
    attributes = {"upstream": True, "kind": "write", "address": BASE, "requester_id": DEVICE} | changed
    port = attributes.pop("port", number)
    history.log.link(history.tick(), port, data=data, ido=ido, **attributes)


def i10_a_tlp_keeps_what_it_is(history, wrong):
    through(history, dword(1), ido=True)
    through(history, dword(1), 2, address=BASE + OFFSET, no_snoop=wrong)


def i10_ido_is_cleared_towards_hosts(history, wrong):
    through(history, dword(1), ido=True)
    through(history, dword(1), 1, ido=wrong)


def i10_posted_tlps_stay_in_order(history, wrong):
    for number in (1, 2):
        through(history, dword(number), ro=number == 2 and not wrong)
    through(history, dword(2), 1, ro=not wrong)
    through(history, dword(1), 1)


def i10_what_the_interposer_sends_is_its_own(history, wrong):
    through(history, dword(1), 1, requester_id=DEVICE if wrong else ENGINE[0])


def i10_doorbells_too(history, wrong):
    for number in (1, 2):
        through(history, dword(number), 1, upstream=False, address=0xE000_0000, requester_id=0)
    for number in (2, 1) if wrong else (1, 2):
        through(history, dword(number), 0, upstream=False, address=0xE000_0000, requester_id=0)


def i10_two_hosts_have_no_order(history, wrong):
    for number in (1, 2):
        through(history, dword(number), 1 if wrong else number, upstream=False, address=0xE000_0000, requester_id=0)
    for number in (2, 1):
        through(history, dword(number), 0, upstream=False, address=0xE000_0000, requester_id=0)


def i10_both_hosts_may_send_the_same(history, wrong):
    for port, number in ((1, 1), (2, 2), (2, 1), (1, 3)):
        through(history, dword(number), port, upstream=False, address=0xE000_0000, requester_id=0)
    for number in (2, 3, 1, 1) if wrong else (2, 1, 1, 3):
        through(history, dword(number), 0, upstream=False, address=0xE000_0000, requester_id=0)


def i11_an_interrupt_once(history, wrong):
    history.log.device_write(history.tick(), "nvme", MSI, dword(7), None, False, False, 77)
    for _ in range(2 if wrong else 1):
        history.log.msi(history.tick(), 0, MSI, dword(7))


def i11_an_interrupt_at_all(history, wrong):
    history.log.device_write(history.tick(), "nvme", MSI, dword(7), None, False, False, 77)
    if not wrong:
        history.log.msi(history.tick(), 0, MSI, dword(7))


def i11_where_the_cpu_of_the_guest_is(history, wrong):
    history.log.vcpu(history.tick(), 0 if wrong else 1)
    history.log.device_write(history.tick(), "nvme", MSI, dword(7), None, False, False, 77)
    history.log.msi(history.tick(), 1, MSI, dword(7))


def i12_a_written_page_is_reported(history, wrong):
    history.write_now(PAGE, dword(1))
    issued = history.tick()
    history.log.harvest(history.tick(), issued, 0, 0 if wrong else 2, 64, True)


def i13_the_old_place_is_not_read_after_the_end(history, wrong):
    key = history.issue(0, 4)
    history.move(0)
    if wrong:
        history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)
    history.log.performed_read(history.tick(), 0, BASE, 4, DEVICE, 1)
    history.answer(key, bytes(4))
    if not wrong:
        history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)


def i13_what_was_held_is_visible_at_the_end(history, wrong):
    history.write(0, dword(1))
    history.move(0)
    for step in ("end", "perform") if wrong else ("perform", "end"):
        if step == "end":
            history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)
        else:
            history.perform(0, dword(1), host=1)


def value_superseded(history, wrong):
    history.write_now(0, dword(1))
    history.write_now(0, dword(2))
    history.read(0, dword(1 if wrong else 2))


def value_of_nobody(history, wrong):
    history.write_now(0, dword(1))
    history.read(0, dword(2 if wrong else 1))


def value_of_the_future(history, wrong):
    key = history.issue(0, 4)
    if wrong:
        history.answer(key, dword(1))
    history.write_now(0, dword(1))
    if not wrong:
        history.answer(key, dword(1))


def two_moments_in_one_line(history, wrong):
    history.write_now(0, dword(1) + dword(2))
    key = history.issue(0, 8)
    history.write_now(0, dword(3) + dword(4))
    history.answer(key, dword(3) + dword(2 if wrong else 4))


PAIRS = [
    (i1_a_write_at_its_owner, {"misdirected": 1}), (i1_a_commit_to_the_other_host, {"misdirected": 1}),
    (i2_the_copy_equals_the_page, {"lost": 1}), (i2_no_copy_write_after_the_commit, {"duplicated": 1}),
    (i3_a_write_once, {"duplicated": 1}), (i3_a_write_at_all, {"lost": 1}), (i3_an_atomic_answers_what_memory_gave, {"invented": 1}),
    (i4_a_read_of_the_owner, {"misdirected": 1}), (i4_the_copy_is_not_read_before_the_commit, {"misdirected": 1}),
    (i5_strong_writes_stay_in_order, {"reordered": 1}), (i5_an_interrupt_stays_behind_its_data, {"reordered": 1}),
    (i6_a_read_pushes_writes_at_the_other_host, {"reordered": 1}), (i6_a_read_with_ido_need_not, {"reordered": 1}),
    (i7_a_hold_ends_in_time, {"stuck": 1}), (i7_every_read_is_answered, {"stuck": 1}), (i7_every_read_is_answered_once, {"duplicated": 1}),
    (i8_no_abort_after_the_commit, {"misdirected": 1}), (i8_no_end_without_a_commit, {"masked": 1}),
    (i8_an_abort_after_an_earlier_move, {"misdirected": 1}),
    (i9_an_error_stays_an_error, {"masked": 1}), (i9_no_commit_after_a_failed_copy_read, {"masked": 1}),
    (i9_no_error_that_nobody_gave, {"misdirected": 1}),
    (i10_a_tlp_keeps_what_it_is, {"invented": 1}), (i10_ido_is_cleared_towards_hosts, {"reordered": 1}),
    (i10_posted_tlps_stay_in_order, {"reordered": 1}), (i10_what_the_interposer_sends_is_its_own, {"invented": 1}),
    (i10_doorbells_too, {"reordered": 1}), (i10_two_hosts_have_no_order, {"reordered": 1}),
    (i10_both_hosts_may_send_the_same, {"reordered": 1}),
    (i11_an_interrupt_once, {"duplicated": 1}), (i11_an_interrupt_at_all, {"lost": 1}), (i11_where_the_cpu_of_the_guest_is, {"misdirected": 1}),
    (i12_a_written_page_is_reported, {"lost": 1}),
    (i13_the_old_place_is_not_read_after_the_end, {"misdirected": 1}), (i13_what_was_held_is_visible_at_the_end, {"stale": 1}),
    (value_superseded, {"stale": 1}), (value_of_nobody, {"invented": 1}), (value_of_the_future, {"reordered": 1}),
    (two_moments_in_one_line, {"torn": 1}),
]


@pytest.mark.parametrize(("tell", "expected"), PAIRS, ids=[tell.__name__ for tell, _ in PAIRS])
def test_a_pair(tell, expected):
    for wrong in (True, False):
        history = told.History()
        tell(history, wrong)
        assert history.violations() == (expected if wrong else {}), f"{'wrong' if wrong else 'legal'}: {history.verdict().text()}"


def test_every_failure_name_has_a_pair():
    assert {name for _, expected in PAIRS for name in expected} == set(told.History().verdict().violations)
