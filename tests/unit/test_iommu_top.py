# amaranth: UnusedElaboratable=no
"""The whole IOMMU between a device and its host: pages move to other memory, by its command alone, while the device reads and writes them."""

from collections import deque
from dataclasses import replace

import pytest
from front_machine import Link
from iommu_software import FIRST, IOVA, Software
from modify_machine import DEVICE, MOVED, RECORDS, Command

from pagehop.iommu.top import Iommu
from pagehop_tb.driver import iommu_registers as registers
from pagehop_tb.models.iommu import PAGE
from pagehop_tb.pins.beats import BeatFormat
from pagehop_tb.protocol import TRANSLATED, TRANSLATION_REQUEST, Kind, Tlp, answer, memory_read, memory_write
from pagehop_tb.simulate import seeded

OWN, HOST, GSCID = 0x0042, 0x0008, 0
#: Number of the first page of the memory behind the aperture.
APERTURE = 0x80_0000_0000 >> 12


class Guest(Software):
    """A device with an ATC that writes and reads words of its pages, at random, and a host that does in turn what comes, late.

    A write has a number of its own. A read finds what the device wrote last before it, or something later. What is lost or stale is seen so, and at
    the end.
    """
    def __init__(self, name, dut=None, *, pages=16, ats=False):
        rng, dut = seeded(f"top/{name}"), dut or Iommu(16)
        super().__init__(rng, dut, dut.core, pages=pages, **({"ats": 1} if ats else {}))
        beats = BeatFormat(16)
        self.pages, self.ats = pages, ats
        self.device, self.host = Link(dut.device, rng, beats, self.at_device), Link(dut.host, rng, beats, self.at_host)
        self.lies = {page: FIRST + page for page in range(pages)}
        self.cycle, self.serial, self.reads, self.last, self.arrived = 0, 0, {}, {}, deque()
        self.cache, self.asks, self.told, self.rate, self.mute = {}, {}, [], 0.1, False
        self.counts = dict.fromkeys(("writes", "reads", "translated", "told"), 0)
        self.host_delay = 40

    # The device.
    def act(self):
        rng = self.rng
        page, word = rng.randrange(self.pages), rng.randrange(4)
        address, kind = IOVA + page * PAGE + 8 * word, 0
        if page in self.cache and rng.random() < 0.7:
            address, kind = (self.cache[page] << 12) + 8 * word, TRANSLATED
            self.counts["translated"] += 1
        elif self.ats and rng.random() < 0.3 and len(self.asks) < 8:
            tag = next(tag for tag in range(64, 128) if tag not in self.asks)
            self.asks[tag] = page
            self.device.send(replace(memory_read(DEVICE, IOVA + page * PAGE, 8, tag), address_type=TRANSLATION_REQUEST))
            return
        if rng.random() < 0.3 and len(self.reads) < 16:
            tag = next(tag for tag in range(64) if tag not in self.reads)
            self.reads[tag] = page, word, self.last.get((page, word), 0)
            self.device.send(replace(memory_read(DEVICE, address, 8, tag), address_type=kind))
            self.counts["reads"] += 1
        else:
            self.serial += 1
            self.last[page, word] = self.serial
            self.device.send(replace(memory_write(DEVICE, address, self.serial.to_bytes(8, "little")), address_type=kind))
            self.counts["writes"] += 1

    def at_device(self, tlp):
        if tlp.is_message:
            payload = int.from_bytes(tlp.data, "big")
            assert tlp.code == 1 and tlp.address >> 48 == DEVICE
            if not self.mute:
                self.told.append((self.cycle + self.rng.randrange(200), tlp.tag, payload))
            return
        if tlp.tag in self.asks and tlp.completer_id == OWN:
            page, entry = self.asks.pop(tlp.tag), int.from_bytes(tlp.data, "big")
            assert not tlp.status
            if entry & 3 == 3 and not any(self.names(payload, page) for _, _, payload in self.told) and not self.mute:
                self.cache[page] = entry >> 12
            return
        assert tlp.is_completion and not tlp.status, f"{tlp}"
        page, word, at_least = self.reads.pop(tlp.tag)
        found = int.from_bytes(tlp.data, "little")
        assert at_least <= found <= self.last.get((page, word), 0), f"page {page}, word {word}: {found} is read, but {at_least} was written before"

    @staticmethod
    def names(payload, page):
        """Whether an invalidation names a page (10.2.3.2): the ones from bit 12 on, with S, say how many."""
        size = 1
        if payload >> 11 & 1:
            size, bit = 2, 12
            while payload >> bit & 1 and bit < 63:
                size, bit = 2 * size, bit + 1
        return (payload >> 12) // size == ((IOVA >> 12) + page) // size or size > 1 << 50

    def forget(self):
        """Invalidations whose time has come: what they name is not used any more, and then they are acknowledged, behind all writes."""
        for one in [one for one in self.told if one[0] <= self.cycle]:
            self.told.remove(one)
            _, itag, payload = one
            for page in [page for page in self.cache if self.names(payload, page)]:
                del self.cache[page]
            self.device.send(Tlp(Kind.MSG, DEVICE, 0, OWN << 48 | 1 << 32 | 1 << itag, code=2, routing=2))
            self.counts["told"] += 1

    # The host.
    def at_host(self, tlp):
        self.arrived.append((max(self.cycle + self.rng.randrange(self.host_delay), self.arrived[-1][0] if self.arrived else 0), tlp))

    def serve(self):
        while self.arrived and self.arrived[0][0] <= self.cycle:
            _, tlp = self.arrived.popleft()
            if tlp.kind is Kind.MWR:
                self.home.memory.write(tlp.address, tlp.data)
            else:
                data = self.home.memory.read(tlp.address, 4 * tlp.length)
                size = 1 if not tlp.first_be else 4 * tlp.length
                self.host.send(answer(tlp, HOST, 0, data, size, tlp.address & 0x7F))

    async def links(self, ctx):
        """A cycle after the other."""
        ctx.set(self.dut.own_id, OWN)
        while not self.stop:
            if self.rng.random() < self.rate and len(self.device.order) < 12:
                self.act()
            self.forget()
            self.serve()
            for link in (self.device, self.host):
                link.before(ctx)
            for link in (self.device, self.host):
                link.after(ctx)
            await ctx.tick()
            self.cycle += 1

    # Software.
    async def move(self, ctx, pages, to, **options):
        """Move pages of one line."""
        halves = [half for page in pages for half in Command(
            IOVA + page * PAGE, self.lies[page], to + page, page, more=page != pages[-1], tells=self.ats, gscid=GSCID, **options).halves]
        await self.commands(ctx, *halves, limit=40_000)
        for page in pages:
            assert self.home.word(RECORDS + 8 * page) & 15 == MOVED, f"page {page}: {self.home.word(RECORDS + 8 * page):#x}"
            self.lies[page] = to + page

    async def settle(self, ctx):
        self.rate = 0
        for _ in range(20_000):
            if self.device.idle() and not (self.reads or self.asks or self.arrived or self.told):
                break
            await ctx.tick()
        await ctx.tick().repeat(300)
        for (page, word), value in self.last.items():
            found = self.home.word((self.lies[page] << 12) + 8 * word)
            assert found == value, f"page {page}, word {word}: {found}, not {value}, is where the page is"

    def run(self, test):
        super().run(test, self.links)


@pytest.mark.hazard("H01", "H02", "H03", "H30", "H31", "H32")
def test_a_device_with_an_atc_goes_on_while_its_pages_move():
    """All to the memory behind the aperture. A device without an ATC is in cosimulation, with the checker: `test_iommu_migration`."""
    async def test(guest, ctx):
        await guest.access(ctx, registers.DrainAddress.offset, FIRST << 12)
        await guest.access(ctx, registers.AtsDevice0.offset, DEVICE | GSCID << 16, size=4)
        await guest.access(ctx, registers.AtsStatus.offset, 1)
        await ctx.tick().repeat(300)
        for line in range(0, guest.pages, 8):
            pages = list(range(line, line + 8))
            while pages:
                batch, pages = pages[:guest.rng.randrange(1, 5)], pages[guest.rng.randrange(1, 5):]
                batch = [page for page in batch if guest.lies[page] != APERTURE + page]
                if batch:
                    await guest.move(ctx, batch, APERTURE, tries=guest.rng.choice((0, 2)))
            left = [page for page in range(line, line + 8) if guest.lies[page] != APERTURE + page]
            if left:
                await guest.move(ctx, left, APERTURE, tries=guest.rng.choice((0, 2)))
        await guest.settle(ctx)

    guest = Guest("moves/True", ats=True)
    guest.run(test)
    assert guest.counts["writes"] > 100 and guest.counts["reads"] > 40, guest.counts
    assert guest.counts["translated"] > 50 and guest.counts["told"] > 3, guest.counts
