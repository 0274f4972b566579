"""Bench of the on-the-side device behind the adapter to the UltraScale+ block: a host finds it, and reads and writes its memory through windows."""

from random import Random

import cocotb
from bench_shell_us import CHECKED, SEED, Link, gathered, write_result
from cocotbext.pcie.core.tlp import CplStatus, TlpType
from cocotbext.pcie.core.tlp import Tlp as HostTlp
from cocotbext.pcie.core.utils import PcieId

from pagehop_tb.driver.ots import OPEN, PLACE, STATE, OtsDriver, OtsSetup
from pagehop_tb.driver.ots_registers import WindowOp

PAGE = 4096


class Registers:
    """The register BAR, as a driver uses it."""

    def __init__(self, bar):
        self.bar = bar

    async def read(self, offset, size=8):
        CHECKED["events"] += 1
        return int.from_bytes(await self.bar.read(offset, size), "little")

    async def write(self, offset, value, size=8):
        await self.bar.write(offset, value.to_bytes(size, "little"))


async def traffic(bar, place, region, number):
    """Random writes and reads of a page through its window, against a copy."""
    random, copy = Random(f"{SEED}-{number}"), bytearray(region[:PAGE])
    for _ in range(120):
        size = random.choice((1, 2, 4, 7, 8, 60, 64, 68, 128, 256, 500))
        start = random.randrange(PAGE - size)
        data = random.randbytes(size)
        copy[start:start + size] = data
        await bar.write(place + start, data)
        if random.random() < 0.5:
            start = random.randrange(PAGE - size)
            assert await bar.read(place + start, size) == copy[start:start + size]
            CHECKED["events"] += 1
    await bar.read(place, 4)
    assert bytes(region[:PAGE]) == copy, "the page is not what was written through the window"


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def windows(dut):
    """Enumeration, registers, and two windows that lead to pages of the host."""
    link = Link(dut, {0: 1 << 16, 2: 1 << 21, 4: 1 << 12})
    await link.start()
    bars = link.device.bar_window
    fabric = link.fabric
    driver = OtsDriver(Registers(bars[0]), None, None, fabric.wait, lambda: fabric.cycle, None, None, None)
    await driver.setup(OtsSetup(link.device.bar_addr[2], 2))
    pages, places = [link.root.mem_pool.alloc_region(PAGE) for _ in range(2)], []
    for window, page in enumerate(pages):
        page[:PAGE] = link.random.randbytes(PAGE)
        for order in ((WindowOp.TAKE, page.get_absolute_address(0)), (WindowOp.OPEN, None)):
            assert not await driver.order(window, *order)
        assert await driver.word(window, STATE) & OPEN
        places.append(await driver.word(window, PLACE))
    await gathered(*(traffic(bars[2], place, page, number) for number, (place, page) in enumerate(zip(places, pages, strict=True))))
    await driver.flush(0)
    # An address that is no window's.
    request = HostTlp()
    request.fmt_type, request.requester_id = TlpType.MEM_READ_64, PcieId(0, 0, 0)
    request.set_addr_be(link.device.bar_addr[2] + (1 << 20), 8)
    assert [answer.status for answer in await link.root.perform_nonposted_operation(request)] == [CplStatus.UR]
    write_result()
