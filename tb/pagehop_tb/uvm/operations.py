"""The driver API as a hypervisor uses it, one operation after the other, against a reference that knows only what docs/interposer.md says.

An operation is a list, its name first:

- ``["write" | "read", page, offset, size]``, ``["add", page, offset, number]``: DMA of the device (an AtomicOp of 8 bytes);
- ``["move", page, to_host, [DMA ...]]``: a move, with DMA during it;
- ``["abort", page, to_host, delay]``: a move, and an abort so many cycles later;
- ``["twice", page, to_host, other]``: a move, and a request for another page while it runs;
- ``["refused", kind, page, to_host]``: a request that must be refused, ``kind`` as in the register map;
- ``["harvest", clear]``, ``["owners"]``, ``["fence", on]``, ``["active", host]``, ``["config", host]``, ``["reset"]``.
"""

from typing import Any

import cocotb
from cocotb.task import Task
from pyuvm import uvm_sequence

from pagehop_tb.benches.guest import PAGE
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import PAGE_BITS
from pagehop_tb.models.observer import Status
from pagehop_tb.protocol import Kind, Tlp, byte_range
from pagehop_tb.uvm.environment import Environment
from pagehop_tb.uvm.items import DmaItem
from pagehop_tb.uvm.reboot import reset_card
from pagehop_tb.uvm.sequences import call, cpu, send
from pagehop_tb.uvm.shapes import tlp_of

__all__ = ["Operations", "Reference"]


class Reference:
    """What is documented: who owns a page, what it contains, which pages are dirty, how many requests have ended since the reset."""

    def __init__(self, pages: int) -> None:
        self.owner = [0] * pages
        self.memory = [bytearray(PAGE) for _ in range(pages)]
        self.dirty = 0
        self.ended = self.done = 0
        self.active = 0

    def write(self, page: int, offset: int, data: bytes) -> None:
        """A write is in the page at once, as far as its writer can tell."""
        self.memory[page][offset:offset + len(data)] = data
        self.dirty |= 1 << page

    def read(self, page: int, offset: int, size: int) -> bytes:
        """What a read returns."""
        return bytes(self.memory[page][offset:offset + size])

    def move(self, page: int, to_host: int, may_abort: bool, result: MoveResult) -> None:
        """A request has ended with ``result``: raise unless it may, else take it over."""
        self.ended += 1
        if self.owner[page] == to_host:
            allowed = {"already_there"}
        else:
            allowed = {"none", "aborted"} if may_abort else {"none"}
        assert result.reason in allowed, f"a move of page {page} from Host {'AB'[self.owner[page]]} to {'AB'[to_host]} ended with {result.reason}"
        assert result.moved == (result.reason == "none"), f"{result} says two things"
        if result.moved:
            self.owner[page], self.done = to_host, self.done + 1

    def reset(self) -> None:
        """The bitmaps live on (H52), counters do not."""
        self.ended = self.done = self.active = 0


class Operations(uvm_sequence):
    """Virtual sequence: carries out ``operations`` and compares each with the reference."""

    def __init__(self, env: Environment, operations: list[list[Any]], pages: int) -> None:
        super().__init__("operations")
        self.env, self.operations, self.reference = env, operations, Reference(pages)

    async def body(self) -> None:
        """One after the other; after each the status must agree with the reference."""
        for number, (name, *arguments) in enumerate(self.operations):
            cocotb.log.info(f"operation {number}: {name} {arguments}")
            await getattr(self, f"_{name}")(*arguments)
            await self._agree()

    async def _agree(self) -> None:
        driver, reference = self.env.guest.driver, self.reference
        status = await driver.status()
        assert not regs.MoveStatus.BUSY.get(status), f"no move runs, but the status is {status:#x}"
        assert regs.MoveStatus.ENDED.get(status) == reference.ended, f"{reference.ended} requests have ended, the status is {status:#x}"
        done = await driver.counter(regs.MovesDone.offset)
        assert done == reference.done, f"{reference.done} moves are done, the counter says {done}"

    # DMA

    async def _dma(self, tlp: Tlp) -> DmaItem:
        item = DmaItem("nvme", tlp)
        await send(self, item, self.env.device.sequencer)
        await item.ended()
        return item

    @property
    def _requester(self) -> int:
        return self.env.guest.system.functions["nvme"].config.requester_id

    async def _write(self, page: int, offset: int, size: int) -> None:
        data = self.env.guest.system.values.take(offset, size)
        place = byte_range(self.env.guest.base + page * PAGE + offset, size)
        padded = bytes(offset & 3) + data
        await self._dma(tlp_of(Kind.MWR, self._requester, place, padded + bytes(4 * place[1] - len(padded))))
        self.reference.write(page, offset, data)

    async def _read(self, page: int, offset: int, size: int) -> None:
        item = await self._dma(tlp_of(Kind.MRD, self._requester, byte_range(self.env.guest.base + page * PAGE + offset, size)))
        expected = self.reference.read(page, offset, size)
        assert item.data == expected, f"page {page} offset {offset:#x} must be {expected.hex()}, and reads as {item.data.hex()}"

    async def _add(self, page: int, offset: int, number: int) -> None:
        address = self.env.guest.base + page * PAGE + offset
        item = await self._dma(Tlp(Kind.FETCH_ADD, self._requester, 0, address, 2, 0, 0, number.to_bytes(8, "little")))
        expected = self.reference.read(page, offset, 8)
        assert item.data == expected, f"page {page} offset {offset:#x} must be {expected.hex()}, and the atomic found {item.data.hex()}"
        total = int.from_bytes(expected, "little") + number
        self.reference.write(page, offset, (total % (1 << 64)).to_bytes(8, "little"))

    # Moves

    def _start_move(self, page: int, to_host: int) -> "Task[Any]":
        return cocotb.start_soon(call(self.env, "move", page, to_host))

    async def _move(self, page: int, to_host: int, dma: list[list[Any]]) -> None:
        running = self._start_move(page, to_host)
        for name, *arguments in dma:
            await getattr(self, f"_{name}")(*arguments)
        self.reference.move(page, to_host, False, (await running).moved)

    async def _abort(self, page: int, to_host: int, delay: int) -> None:
        running = self._start_move(page, to_host)
        await self.env.guest.system.fabric.wait(delay)
        await call(self.env, "abort")
        self.reference.move(page, to_host, True, (await running).moved)

    async def _twice(self, page: int, to_host: int, other: int) -> None:
        if self.reference.owner[page] == to_host or other == page:
            return      # there must be something to be busy with
        env, driver = self.env, self.env.guest.driver
        running = self._start_move(page, to_host)
        assert await env.watch.reach("gate", "copy"), "a move that can be made did not begin"
        to_other = 1 - self.reference.owner[other]
        await call(env, "start", driver.place(other, 0), driver.place(other, to_other), to_other)
        status = (await call(env, "status")).result
        assert regs.MoveStatus.REFUSED.get(status) == regs.MoveError.BUSY, f"the status {status:#x} tells of no refusal"
        self.reference.move(page, to_host, False, (await running).moved)

    async def _refused(self, kind: str, page: int, to_host: int) -> None:
        driver, outside = self.env.guest.driver, self.env.guest.pages
        source, destination = driver.place(page, 0), driver.place(page, to_host)
        arguments, size = {
            "not_in_window": ((driver.place(outside, 0), driver.place(outside, to_host)), PAGE_BITS),
            "page_size": ((source, destination), PAGE_BITS - 1),
            "misaligned": ((source + 64, destination + 64), PAGE_BITS),
            "destination": ((source, destination + PAGE), PAGE_BITS),
        }[kind]
        result = (await call(self.env, "request", *arguments, to_host, size, page=page)).moved
        self.reference.ended += 1
        assert not result.moved and result.reason == kind, f"a request that is {kind} ended with {result}"

    # The rest

    async def _harvest(self, clear: bool) -> None:
        # Behind a flush all earlier writes are visible, and so have passed where bits are set.
        await self._dma(tlp_of(Kind.MRD, self._requester, byte_range(self.env.guest.base, 0)))
        bits = (await call(self.env, "harvest", 0, 64, clear=clear)).result
        expected = self.reference.dirty
        assert bits == expected, f"the pages {expected:#x} were written, and {bits:#x} are reported"
        if clear:
            self.reference.dirty = 0

    async def _owners(self) -> None:
        owners = (await call(self.env, "owners", len(self.reference.owner))).result
        expected = sum(host << page for page, host in enumerate(self.reference.owner))
        assert owners == expected, f"the owner map must be {expected:#x}, and is {owners:#x}"

    async def _fence(self, on: bool) -> None:
        await self.env.guest.system.quiesce()
        await self.env.set_fence(on)

    async def _active(self, host: int) -> None:
        await self.env.set_control(regs.Control.ACTIVE_HOST.mask, regs.Control.ACTIVE_HOST.of(host))
        self.reference.active = host

    async def _config(self, host: int) -> None:
        item = await cpu(self.env, host, "config_read", self._requester << 16)
        expected = Status.SUCCESS if host == self.reference.active else Status.UNSUPPORTED_REQUEST
        assert item.status == expected, f"Host {'AB'[host]} must be answered with {expected.name}, not {Status(item.status).name}"

    async def _reset(self) -> None:
        """A host resets the card and sets it up again; then it reads who owns what."""
        await reset_card(self.env.guest.system)
        await self.env.guest.driver.setup(self.env.guest.setup)
        self.env.fence = self.env.guest.setup.fence
        self.reference.reset()
        await self._owners()
