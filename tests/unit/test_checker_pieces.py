"""Large writes that a port with a limit of payload cuts, as the checker judges them (H24c)."""

import pytest
from test_checker import BASE, DEVICE, History

from pagehop_tb.checker.check import check
from pagehop_tb.checker.log import EventLog
from pagehop_tb.checker.pieces import in_pieces

BOUNDARY = 128
DATA = bytes(range(256)) + bytes(range(64, 128))


def test_a_write_is_cut_at_the_boundaries_with_its_byte_enables():
    log = EventLog()
    enables = (1 << 200) - 1 & ~(1 << 99) & ~0b111
    log.device_write(7, "nvme", BASE + 64, DATA[:200], enables, False, False, 3)
    parts = in_pieces(log, BOUNDARY).events
    assert [(part[3] - BASE, part[4]) for part in parts] == [(64, DATA[:64]), (128, DATA[64:192]), (256, DATA[192:200])]
    assert sum(part[5] << start for part, start in zip(parts, (0, 64, 192), strict=True)) == enables
    assert all((*part[:3], *part[6:]) == (*log.events[0][:3], *log.events[0][6:]) for part in parts)


def test_what_stays_whole():
    log = EventLog()
    log.device_write(1, "nvme", BASE + 64, DATA[:64], None, False, False, 1)
    log.device_read(2, "nvme", BASE, 256, 2)
    log.commit(3, 0, 1)
    assert in_pieces(log, BOUNDARY).events == log.events


def judged(*performed, pieces=BOUNDARY):
    """Names of what is wrong when a write of 320 bytes becomes visible in these parts, as (offset, length)."""
    history = History(pieces=pieces)
    history.write(0, DATA)
    for offset, length in performed:
        history.perform(offset, DATA[offset:offset + length], rid=DEVICE)
    return {name for name, found in check(history.log, history.config, None).violations.items() if found}


@pytest.mark.hazard("H24c", "I3", "I5", "I10")
def test_each_piece_comes_once_and_in_order():
    assert judged((0, 128), (128, 128), (256, 64)) == set()
    assert judged((0, 320)) == set(), "a port need not cut"
    assert judged((0, 256), (256, 64)) == set()
    assert "lost" in judged((0, 128), (256, 64))
    assert judged((0, 128), (128, 128), (128, 128), (256, 64))
    assert "reordered" in judged((128, 128), (0, 128), (256, 64))
    assert judged((0, 64), (64, 256)), "no piece ends amid 128 bytes"
    assert judged((0, 128), (128, 128), (256, 64), pieces=0), "where no port has a limit nothing may be cut"
