"""Moves in which devices go on writing: what went into the copy belongs to the commit, and nothing else is forgiven."""

import pytest
from test_checker import BASE, DEVICE, ENGINE, OFFSET, PAGE, History, dword


def moving(absorbs: bool = True) -> History:
    """A history in which page 0 is asked to move to Host B."""
    history = History()
    history.preset(0, bytes(range(256)))
    history.log.move_begin(history.tick(), 0, 1, absorbs)
    return history


def copy_with(history: History, offset: int, data: bytes, skip: int | None = None) -> None:
    """The copy of page 0, in which ``data`` stands over what Host A has so far."""
    history.copy(0, 1, skip)
    line = offset // 64 * 64
    whole = bytearray(history.read_memory(1, BASE + OFFSET + line, 64))
    whole[offset - line:offset - line + len(data)] = data
    history.perform(line, bytes(whole), host=1, rid=ENGINE[1])


def end(history: History) -> None:
    history.log.move_end(history.tick(), 0, 1, True, 0, 10, 20)


@pytest.mark.hazard("I2", "I3")
def test_a_write_that_went_into_the_copy_may_reach_the_old_place_after_the_commit():
    history = moving()
    history.write(8, dword(1))
    history.write(8, dword(2))
    copy_with(history, 8, dword(2))
    history.log.commit(history.tick(), 0, 1)
    history.perform(8, dword(1))
    history.perform(8, dword(2))
    history.read(8, dword(2))
    end(history)
    history.read(4, bytes(range(4, 8)) + dword(2))
    assert history.violations() == {}


@pytest.mark.hazard("I2")
def test_a_write_that_did_not_go_into_the_copy_is_lost():
    history = moving()
    history.write(8, dword(1))
    history.copy(0, 1)
    history.log.commit(history.tick(), 0, 1)
    history.perform(8, dword(1))
    end(history)
    assert "lost" in history.violations()


@pytest.mark.hazard("I1")
def test_in_hold_mode_a_write_at_the_old_place_is_misdirected():
    history = moving(absorbs=False)
    history.write(8, dword(1))
    copy_with(history, 8, dword(1))
    history.log.commit(history.tick(), 0, 1)
    history.perform(8, dword(1))
    assert history.violations()["misdirected"] == 1


@pytest.mark.hazard("H12", "I13")
def test_a_write_at_the_old_place_after_the_end_of_the_move_is_misdirected():
    history = moving()
    history.write(8, dword(1))
    copy_with(history, 8, dword(1))
    history.log.commit(history.tick(), 0, 1)
    end(history)
    history.perform(8, dword(1))
    found = history.violations()
    assert found["misdirected"] == 1 and found["stale"] == 1


@pytest.mark.hazard("I1", "I3")
def test_a_write_after_the_commit_belongs_to_the_new_owner():
    history = moving()
    history.copy(0, 1)
    history.log.commit(history.tick(), 0, 1)
    history.write(8, dword(1))
    history.perform(8, dword(1))
    end(history)
    assert history.violations()["misdirected"] == 1


@pytest.mark.hazard("H03", "I2")
def test_the_last_of_the_copy_may_land_after_the_commit_before_anything_else():
    history = moving()
    history.copy(0, 1, skip=128)
    history.log.commit(history.tick(), 0, 1)
    history.perform(128, bytes(range(128, 192)), host=1, rid=ENGINE[1])
    history.write_now(0, dword(1), host=1)
    end(history)
    history.read(128, bytes(range(128, 132)))
    assert history.violations() == {}


@pytest.mark.hazard("H03", "I2")
def test_the_copy_must_not_land_after_the_first_write_to_the_new_owner():
    history = moving()
    history.copy(0, 1, skip=128)
    history.log.commit(history.tick(), 0, 1)
    history.write_now(0, dword(1), host=1)
    history.perform(128, bytes(range(128, 192)), host=1, rid=ENGINE[1])
    end(history)
    assert history.violations() == {"lost": 1, "duplicated": 1}


@pytest.mark.hazard("H60", "I2")
def test_the_copy_must_have_landed_at_the_end_of_the_move():
    history = moving()
    history.copy(0, 1, skip=128)
    history.log.commit(history.tick(), 0, 1)
    end(history)
    history.perform(128, bytes(range(128, 192)), host=1, rid=ENGINE[1])
    assert history.violations() == {"lost": 1, "duplicated": 1}


def test_a_read_on_its_way_to_the_old_place_may_see_one_of_the_writes_that_a_commit_took_over():
    """Both writes have their places at the commit; the read sees the line as it was between them, which is one state of it."""
    history = moving()
    key = history.issue(0, 16)
    history.write(0, dword(1))
    history.write(4, dword(2))
    copy_with(history, 0, dword(1) + dword(2))
    history.log.commit(history.tick(), 0, 1)
    history.perform(0, dword(1))
    history.answer(key, dword(1) + bytes(range(4, 16)))
    history.perform(4, dword(2))
    end(history)
    assert history.violations() == {}


def test_a_read_that_mixes_them_is_torn():
    history = moving()
    key = history.issue(0, 16)
    history.write(0, dword(1) + dword(3))
    history.write(4, dword(2))
    copy_with(history, 0, dword(1) + dword(2))
    history.log.commit(history.tick(), 0, 1)
    history.perform(0, dword(1) + dword(3))
    history.perform(4, dword(2))
    history.answer(key, bytes(range(4)) + dword(2) + bytes(range(8, 16)))
    end(history)
    assert "torn" in history.violations()


@pytest.mark.hazard("I10", "H62")
@pytest.mark.parametrize(("page", "absorbs", "wrong"), [(0, True, 0), (1, True, 1), (0, False, 1)])
def test_only_a_page_that_moves_while_devices_write_takes_ro_away(page, absorbs, wrong):
    history = moving(absorbs)
    address, data = BASE + page * PAGE + 64, dword(1)
    for port, ro in ((0, True), (1, False)):
        history.log.link(history.tick(), port, True, "MWR", address, data, DEVICE, ro=ro)
    assert history.violations().get("invented", 0) == wrong


@pytest.mark.hazard("I10")
def test_ro_is_never_given():
    history = moving()
    for port, ro in ((0, False), (1, True)):
        history.log.link(history.tick(), port, True, "MWR", BASE + 64, dword(1), DEVICE, ro=ro)
    assert history.violations() == {"invented": 1}
