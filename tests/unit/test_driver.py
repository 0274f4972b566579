"""What the driver makes of sizes, limits and bits, without hardware."""

import asyncio
import re

import pytest

from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.dirty_log import DirtyLog, LoggedRange
from pagehop_tb.driver.interposer import DriverError, absorbs, command, payload_limits, processing_hints, units

PAGE, BASE = 4096, 0x1_0000_0000


def test_a_large_page_is_a_run_of_units():
    assert units(8, 12) == range(8, 9) and units(8, 15) == range(8, 16)
    assert units(8, 11) == range(8, 9), "a size that there is not is asked for at one page"
    assert units(-1, 21) == range(-1, 0)


def test_only_a_page_of_one_unit_absorbs():
    assert [absorbs(mode) for mode in regs.MoveMode] == [False, True, True]
    assert not any(absorbs(mode, 13) for mode in regs.MoveMode)


def test_a_request_has_its_size():
    assert regs.MoveCommand.PAGE_SIZE.get(command(1, regs.MoveMode.MERGE)) == 12
    assert regs.MoveCommand.PAGE_SIZE.get(command(1, regs.MoveMode.MERGE, 21)) == 21


def test_limits_are_coded_as_the_specification_does():
    fields = regs.PayloadLimits
    word = payload_limits(device=128, host_b=1024)
    assert (fields.DEVICE.get(word), fields.HOST_A.get(word), fields.HOST_B.get(word)) == (0, 5, 3)
    assert payload_limits() == fields.reset
    says = "A limit of payload must be one of 128, 256, 512, 1024, 2048, 4096 bytes, not (4096, 64, 4096)"
    with pytest.raises(DriverError, match=f"^{re.escape(says)}$"):
        payload_limits(host_a=64)


def test_hints_are_stripped_for_the_host_that_is_named():
    assert processing_hints(host_b=True) == regs.ProcessingHints.STRIP_HOST_B.of(1)
    assert processing_hints() == regs.ProcessingHints.reset


@pytest.mark.parametrize(("pages", "shift", "count"), [(3, 11, 6), (3, 12, 3), (3, 13, 2), (512, 21, 1), (513, 21, 2), (0, 12, 0)])
def test_units_of_a_logged_range(pages, shift, count):
    assert LoggedRange(BASE, pages, shift, 0).units == count


class Taken(DirtyLog):
    """A log from which nothing new can be taken."""
    def __init__(self, ranges, taken):
        super().__init__(None, None, 0, ranges)
        self.taken = list(taken)

    async def take(self):
        """What was taken before is all."""


def reported(log, base, pages, page_bytes, before=0):
    bitmap = bytearray(before.to_bytes(16, "little"))
    asyncio.run(log.report(base, pages * PAGE, page_bytes, bitmap))
    return int.from_bytes(bitmap, "little")


@pytest.mark.hazard("H48")
@pytest.mark.parametrize(("shift", "taken", "page_bytes", "expected"), [
    (11, 0b10_0001, PAGE, 0b101),           # half a page each
    (12, 0b1001, 4 * PAGE, 0b1), (12, 0b1_0000, 4 * PAGE, 0b10),
    (13, 0b10, PAGE, 0b1100), (13, 0b100, PAGE, 0b1_0000),      # the last unit ends behind the range
])
def test_bits_are_folded_and_repeated(shift, taken, page_bytes, expected):
    log = Taken([LoggedRange(BASE, 5, shift, 0)], [taken])
    assert reported(log, BASE, 5, page_bytes) == expected
    assert log.taken == [0], "what is reported is not reported again"


@pytest.mark.hazard("H46")
def test_what_is_not_asked_for_is_kept_and_nothing_is_cleared():
    log = Taken([LoggedRange(BASE, 8, 12, 0), LoggedRange(BASE + 64 * PAGE, 8, 13, 0)], [0b1000_0010, 0b1])
    assert reported(log, BASE, 4, PAGE, before=0b1000) == 0b1010
    assert log.taken == [0b1000_0000, 0b1]
    # Half a unit: it is reported here, and again for its other half.
    assert reported(log, BASE + 65 * PAGE, 3, PAGE) == 0b1
    assert log.taken == [0b1000_0000, 0b1]


def test_pages_of_units():
    assert DirtyLog._pages(LoggedRange(BASE, 4, 11, 0), 0b1000_0010) == 0b1001
    assert DirtyLog._pages(LoggedRange(BASE, 5, 13, 0), 0b101) == 0b1_0011


def test_a_log_has_so_many_ranges():
    with pytest.raises(DriverError, match=r"^The log has 4 ranges, not 5$"):
        Taken([LoggedRange(BASE, 1, 12, 0)] * 5, [])
