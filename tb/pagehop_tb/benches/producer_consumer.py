"""Order between device and CPUs of both hosts while data and flag stand on different hosts and move: litmus tests by the rules of ordering.

Each round takes one pattern, two pages and one host. The checker knows what a reader must see once it has seen a flag (message passing in all forms,
doorbells, flushes); store buffering is judged here, because no single read of it is wrong.
"""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, MSI_BASE, PAGE, Guest, judged
from pagehop_tb.benches.guest_memory import GuestMemory
from pagehop_tb.models.devices import RandomTraffic
from pagehop_tb.models.observer import Status

WINDOW_BASE = 0x2000_0000
WINDOW_PAGES = 64
STATUS_REGISTER, DOORBELL = 0x10, 0x20
#: Bytes of data that a flag stands for.
DATA = 64
Pattern = Callable[[int, int, int], Awaitable[None]]


class Litmus:
    """The patterns. ``x`` is where the data stands, ``y`` where the flag stands (offsets into the guest), ``host`` whose CPU takes part."""

    def __init__(self, guest: Guest, config: BenchConfig) -> None:
        self.guest, self.fabric, self.values = guest, guest.system.fabric, guest.system.values
        self.memory = GuestMemory(guest)
        guest.driver.mappings = self.memory
        self.device = guest.system.functions["nvme"]
        self.device.on_doorbell = self._doorbell
        self.cpus = [host.cpu for host in guest.system.hosts]
        self.random = config.random("litmus")
        self.rung: list[tuple[int, bytes]] = []
        self.patterns: dict[str, Pattern] = {
            "write_flag": self.write_flag, "relaxed_data": self.relaxed_data, "atomic_flag": self.atomic_flag, "interrupt": self.interrupt,
            "status_register": self.status_register, "doorbell": self.doorbell, "cpu_flag": self.cpu_flag, "store_buffering": self.store_buffering,
            "device_flush": self.device_flush,
        }

    def _new(self, offset: int, size: int) -> bytes:
        return self.values.take(offset, size)

    def _at(self, offset: int) -> int:
        return WINDOW_BASE + offset

    async def _consume(self, host: int, x: int, y: int, flag: bytes, data: bytes) -> None:
        await self.memory.poll(host, y, lambda seen: seen == flag)
        self._same(await self.memory.load(host, x, DATA), data, "the CPU that saw the flag")

    def _same(self, found: bytes, expected: bytes, who: str) -> None:
        if found != expected:
            self.guest.judge("stale", f"{who} read {found[:8].hex()}… instead of {expected[:8].hex()}… in cycle {self.fabric.cycle}")

    async def write_flag(self, host: int, x: int, y: int, ro: bool = False) -> None:
        """Data, then a flag by a posted write."""
        data, flag = self._new(x, DATA), self._new(y, 4)
        await self.device.write(self._at(x), data, ro=ro)
        await self.device.write(self._at(y), flag)
        await self._consume(host, x, y, flag, data)

    async def relaxed_data(self, host: int, x: int, y: int) -> None:
        """Relaxed data, strong flag: the flag may not pass the data."""
        await self.write_flag(host, x, y, ro=True)

    async def atomic_flag(self, host: int, x: int, y: int) -> None:
        """Data, then a flag by a Swap, which may not pass the data either."""
        data, flag = self._new(x, DATA), self._new(y, 4)
        await self.device.write(self._at(x), data)
        swap = cocotb.start_soon(self.device.atomic("swap", self._at(y), flag))
        await self._consume(host, x, y, flag, data)
        await swap

    async def interrupt(self, host: int, x: int, y: int) -> None:
        """Data, then an interrupt to the active host."""
        data, vector = self._new(x, DATA), self._new(0, 4)
        await self.device.write(self._at(x), data)
        await self.device.interrupt(MSI_BASE, vector)
        cpu = self.cpus[0]
        while not any(found == vector for _, _, found in cpu.interrupts):
            await cpu.wait_interrupts(len(cpu.interrupts) + 1)
        self._same(await self.memory.load(0, x, DATA), data, "the CPU that was interrupted")

    async def status_register(self, host: int, x: int, y: int) -> None:
        """Data, then a status in a register of the device, which a CPU reads."""
        data, status = self._new(x, DATA), self._new(0, 4)
        address = BARS["nvme"][0] + STATUS_REGISTER
        await self.device.write(self._at(x), data)
        self.device.registers.write(address, status)
        while True:
            result, found = await self.cpus[host].mmio_read(address, 4)
            assert result == Status.SUCCESS, f"the register of the device could not be read by Host {'AB'[host]}: {Status(result).name}"
            if found == status:
                break
        self._same(await self.memory.load(host, x, DATA), data, "the CPU that read the register")

    async def doorbell(self, host: int, x: int, y: int) -> None:
        """A CPU writes a descriptor and rings; the device reads the descriptor."""
        descriptor, ring = self._new(x, DATA), self._new(0, 4)
        await self.memory.store(host, x, descriptor)
        await self.cpus[host].mmio_write(BARS["nvme"][0] + DOORBELL, ring)
        while (DOORBELL, ring) not in self.rung:
            await self.fabric.wait(10)
        self.rung.clear()
        self._same(await self.device.read(self._at(x), DATA), descriptor, "the device that was rung")

    def _doorbell(self, offset: int, data: bytes) -> None:
        self.rung.append((offset, data))

    async def cpu_flag(self, host: int, x: int, y: int) -> None:
        """A CPU writes data, then a flag; the device polls the flag and reads the data."""
        data, flag = self._new(x, DATA), self._new(y, 4)

        async def produce() -> None:
            await self.memory.store(host, x, data)
            await self.memory.store(host, y, flag)

        producing = cocotb.start_soon(produce())
        while await self.device.read(self._at(y), 4) != flag:
            await self.fabric.wait(20)
        self._same(await self.device.read(self._at(x), DATA), data, "the device that saw the flag")
        await producing

    async def store_buffering(self, host: int, x: int, y: int) -> None:
        """The device writes X and reads Y, a CPU writes Y and reads X: not both may miss the other's write (H63)."""
        new_x, new_y = self._new(x, 4), self._new(y, 4)
        seen: dict[str, bytes] = {}

        async def cpu() -> None:
            await self.fabric.wait(self.random.randint(1, 900))
            await self.memory.store(host, y, new_y)
            seen["x"] = await self.memory.load(host, x)

        running = cocotb.start_soon(cpu())
        await self.fabric.wait(self.random.randint(1, 900))
        await self.device.write(self._at(x), new_x)
        seen["y"] = await self.device.read(self._at(y), 4)
        await running
        if seen["x"] != new_x and seen["y"] != new_y:
            where = f"X at {x:#x}, Y at {y:#x} and Host {'AB'[host]} in cycle {self.fabric.cycle}"
            self.guest.judge("reordered", f"store buffering with {where}: both read old")

    async def device_flush(self, host: int, x: int, y: int) -> None:
        """The device writes X, reads Y, and then tells by a way of its own: X must be visible (H64). The checker compares the times."""
        await self.device.write(self._at(x), self._new(x, DATA))
        await (self.device.flush(self._at(y)) if self.random.random() < 0.5 else self.device.read(self._at(y), 4))


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def producer_consumer(dut: Any) -> None:
    """Rounds of random patterns, placements and hosts while the pages move."""
    config = BenchConfig("producer_consumer")
    rounds, pages = config.get("rounds", 60), config.get("pages", 4)
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES)
    config.refuse_unknown()
    for page in range(pages + 2):
        guest.fill(page)
    litmus = Litmus(guest, config)
    background = RandomTraffic(guest.system.functions["nic"], [WINDOW_BASE + page * PAGE for page in (pages, pages + 1)], guest.system.values,
                               config.number("background"), gap=200)
    random, done = config.random("rounds"), [False]

    async def move_pages() -> None:
        while not done[0]:
            page = random.randrange(pages + 1)
            result = await guest.move(page, 1 - litmus.memory.hosts[page])
            assert result.moved, f"page {page} did not move: {result.reason}"
            await guest.system.fabric.wait(random.choice((1, 500, 6000)))

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks = [manager.start_soon(move_pages()), manager.start_soon(background.run())]
        ran: Counter[str] = Counter()
        order = list(litmus.patterns) * -(-rounds // len(litmus.patterns))
        random.shuffle(order)
        for number, name in enumerate(order[:rounds]):
            config.progress(number, rounds, name)
            first, second = random.sample(range(pages), 2)
            x, y = (page * PAGE + random.randrange(0, PAGE, DATA) for page in (first, second))
            placement = "".join("AB"[litmus.memory.hosts[page]] for page in (first, second))
            host = random.randrange(2)
            await litmus.patterns[name](host, x, y)
            ran[f"{name} XY={placement} by {'AB'[host]}"] += 1
        done[0] = background.stop = True
        for task in tasks:
            await task
        cocotb.log.info(f"{len(ran)} kinds of rounds: {dict(ran)}")
        config.progress(rounds, rounds, "checking")

    await judged(guest, scenario, {"read_bytes": 100 * rounds, "final_bytes": 2 * PAGE})
