"""What the driver of the IOMMU asks for and makes of what it finds, without hardware."""

import asyncio
import re

import pytest

from pagehop_tb.checker.log import EventLog
from pagehop_tb.driver import iommu_registers as regs
from pagehop_tb.driver.iommu import Domain, IommuDriver, IommuError, IommuSetup, Waits
from pagehop_tb.models.iommu import PAGE, Fence, Move, MovePages, MoveStatus, RiscvEntry
from pagehop_tb.models.memory import HostMemory

COMMANDS, FENCES, RECORDS, ENTRIES, B = 0x10000, 0x20000, 0x30000, 0x40000, 0x1000


class Machine:
    """Registers and memory; commands are executed as soon as the tail is written, and each move ends as ``statuses`` say by its page."""

    def __init__(self, waits=Waits.FENCE, statuses=None, stops=0, order=3):
        self.memory, self.values, self.cycle, self.head, self.pushes, self.seen = HostMemory(), {}, 0, 0, 0, []
        self.statuses, self.stops, self.order = statuses or {}, stops, order
        self.log = EventLog()
        self.driver = IommuDriver(self, self.memory, self.wait, lambda: self.cycle, self.log, self.push, Domain(
            0x108, 7, lambda page, host: page + B * host, lambda page: ENTRIES + 8 * page))
        for page in range(16):
            self.memory.write(ENTRIES + 8 * page, RiscvEntry(ppn=page).pack())
        self.given = IommuSetup(3, 0x99, COMMANDS, FENCES, RECORDS, 0, order=order, waits=waits, limit=5000)

    async def read(self, offset, size=8):
        if offset == regs.Cqcsr.offset:
            return self.values.get(offset, 0) & 3 | regs.Cqcsr.CQON.of(1) | self.stops
        return self.head if offset == regs.Cqh.offset else self.values.get(offset, 0)

    async def write(self, offset, value, size=8):
        self.values[offset] = value
        while offset == regs.Cqt.offset and self.head != value and not self.stops:
            self.execute(self.memory.read(COMMANDS + 16 * self.head, 16))
            self.head = (self.head + 1) % (1 << self.order)

    def execute(self, command):
        opcode = command[0] & 0x7F
        self.seen.append(opcode)
        if opcode == Move().opcode:
            self.page = Move.unpack(command).address // PAGE
        elif opcode == MovePages().opcode:
            pages, status = MovePages.unpack(command), self.statuses.get(self.page, MoveStatus.MOVED)
            if status == MoveStatus.MOVED:
                self.memory.write(ENTRIES + 8 * self.page, RiscvEntry(ppn=pages.new).pack())
            self.memory.write(RECORDS + 8 * pages.record, (status | 1 << 8 | 321 << 32).to_bytes(8, "little"))
        else:
            fence = Fence.unpack(command)
            self.memory.write(4 * fence.dword, fence.data.to_bytes(4, "little"))
            if fence.wsi:
                self.driver.notified()

    async def wait(self, cycles):
        self.cycle += cycles

    async def push(self):
        self.pushes += 1

    def run(self, *steps):
        async def whole():
            await self.driver.setup(self.given)
            return [await step(self.driver) for step in steps]
        return asyncio.run(whole())


@pytest.mark.parametrize("waits", Waits)
def test_pages_of_a_line_move_in_one_go_and_back(waits):
    machine = Machine(waits)
    there, at, back, home = machine.run(lambda d: d.move_line([1, 3], 1), lambda d: d.owner(3), lambda d: d.move(3, 0), lambda d: d.owner(3))
    assert [(one.moved, one.reason, one.error, one.hold_cycles) for one in there] == [(True, "moved", 0, 321)] * 2
    assert (at, back.moved, home, machine.pushes) == (1, True, 0, 2)
    fences = [] if waits is Waits.RECORD else [Fence().opcode]
    assert machine.seen == [64, 65, 64, 65, *fences, 64, 65, *fences]


def test_what_does_not_move_says_why():
    machine = Machine(statuses={2: MoveStatus.EXPIRED})
    (first, second), = machine.run(lambda d: d.move_line([1, 2], 1))
    assert first.moved and not second.moved and (second.reason, second.error) == ("expired", MoveStatus.EXPIRED)
    assert machine.run(lambda d: d.owner(2)) == [0]


@pytest.mark.parametrize(("stops", "says"), [
    (regs.Cqcsr.CMD_ILL.of(1), "The command queue stopped at command 0: cmd_ill"),
    (regs.Cqcsr.CQMF.of(1) | regs.Cqcsr.CMD_TO.of(1), "The command queue stopped at command 0: cqmf, cmd_to"),
])
@pytest.mark.parametrize("waits", Waits)
def test_a_queue_that_stops_is_told_by_name(waits, stops, says):
    with pytest.raises(IommuError, match=f"^{re.escape(says)}$"):
        Machine(waits, stops=stops).run(lambda d: d.move(1, 1))


@pytest.mark.parametrize(("waits", "says"), [(Waits.RECORD, "The records were not written within 5000 cycles"),
                                             (Waits.FENCE, "The fence did not store within 5000 cycles")])
def test_nothing_is_waited_for_without_end(waits, says):
    machine = Machine(waits)
    machine.execute = lambda command: None
    with pytest.raises(IommuError, match=f"^{re.escape(says)}$"):
        machine.run(lambda d: d.move(1, 1))


@pytest.mark.parametrize(("step", "says"), [
    (lambda d: d.move_line([7, 8], 1), "Pages that move in one go must be different ones of one cacheline of entries, not [7, 8]"),
    (lambda d: d.move_line([1, 1], 1), "Pages that move in one go must be different ones of one cacheline of entries, not [1, 1]"),
    (lambda d: d.move_line([], 1), "Pages that move in one go must be different ones of one cacheline of entries, not []"),
    (lambda d: d.move_line([0, 1, 2, 3], 1), "The queue takes at most 7 commands at a time, not 9"),
    (lambda d: d.abort(), "A move of the IOMMU cannot be aborted; it ends by its limits"),
    (lambda d: d.harvest(0, 8), "Dirty pages of an IOMMU stand in D of the entries: IommuDirty reports them"),
    (lambda d: d.owner(16), "The entry of page 16 leads to page 0x0, which neither host has for it"),
])
def test_what_cannot_be_done_is_refused(step, says):
    with pytest.raises(IommuError, match=f"^{re.escape(says)}$"):
        Machine().run(step)
