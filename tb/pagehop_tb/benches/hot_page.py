"""One page moves to and fro under a device that never stops writing, reading and counting in it."""

from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import MSI_BASE, PAGE, Guest, judged
from pagehop_tb.models.devices import AtomicCounter, HotPageWriter, RandomTraffic
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection
from pagehop_tb.protocol import Kind

WINDOW_BASE = 0x4000_0000
PAGES = 64
HOT, COUNTING = 5, 6
#: Most cycles between two interrupts.
INTERRUPT_GAP = 200
#: Longer than a whole move otherwise takes, shorter than the completion timeout of the devices.
LATE_CYCLES = 6000


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def hot_page(dut: Any) -> None:
    """A writer and reader on the hot page, a counter on its neighbour, random traffic on both; the two pages change hosts in turn.

    Each ``reads``-th access of the writer is a read, which it waits for; with 0 nothing but credits stops it, and no read is delayed. It
    waits up to ``gap`` cycles after each access; a share of its writes, ``relaxed``, has RO; a share, ``astride``, lies in two lines.
    Its accesses have ``line`` bytes. The random traffic waits up to ``traffic_gap`` cycles.
    """
    config = BenchConfig("hot_page")
    moves, reads, gap, relaxed = config.get("moves", 20), config.get("reads", 4), config.get("gap", 0), config.get("relaxed", 0.0)
    astride, traffic_gap, line = config.get("astride", 0.0), config.get("traffic_gap", 100), config.get("line", 64)
    guest = Guest(dut, config, WINDOW_BASE, PAGES, ("nvme", "nic", "third"))
    config.refuse_unknown()
    hot, counting = (WINDOW_BASE + page * PAGE for page in (HOT, COUNTING))
    guest.fill(HOT)
    functions, values = guest.system.functions, guest.system.values
    writer = HotPageWriter(functions["nvme"], hot, values, config.number("writer"), reads, gap=gap, relaxed=relaxed, astride=astride, line=line)
    counter = AtomicCounter(functions["nic"], counting + 0x100)
    traffic = RandomTraffic(functions["third"], [hot], values, config.number("traffic"), gap=traffic_gap)
    agents = (writer, counter, traffic)
    device_ids = {function.config.requester_id for function in functions.values()}

    async def delay_a_read(host: int) -> None:
        """Let the host that is about to lose the hot page answer one read of it so late that the move must wait for it at its end (H12)."""
        late = Injection(lambda tlp: tlp.kind is Kind.MRD and tlp.requester_id in device_ids and tlp.address // PAGE == place // PAGE,
                         Status.TIMEOUT, late=LATE_CYCLES)
        place = guest.driver.place(HOT, host)
        guest.system.hosts[host].root_complex.injections.append(late)
        for _ in range(500):
            if late.done:
                return
            await guest.system.fabric.wait(10)
        raise AssertionError("no read of the hot page came to be delayed")

    async def interrupt() -> None:
        """Interrupts at addresses that have the number of the hot page as far as a small window tells pages apart: they are of no page (H48)."""
        random = config.random("interrupts")
        while not traffic.stop:
            address = MSI_BASE + HOT * PAGE + 4 * random.randrange(PAGE // 4)
            await functions["third"].interrupt(address, values.take(address, 4))
            await guest.system.fabric.wait(random.randint(1, INTERRUPT_GAP))

    async def scribble(page: int, host: int) -> None:
        """The hypervisor uses the old place again at once (H12): what stands there must never reach the device."""
        cpu, place = guest.system.hosts[host].cpu, guest.driver.place(page, host)
        for offset in range(0, PAGE, 256):
            await cpu.store(place + offset, values.take(place + offset, 256))

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks = [*(manager.start_soon(agent.run()) for agent in agents), manager.start_soon(interrupt())]
        for done in range(moves):
            config.progress(done, moves, f"move {done}")
            if done % 3 == 0 and reads:
                await delay_a_read(done % 2)
            for page in (HOT, COUNTING):
                result = await guest.move(page, 1 - done % 2)
                assert result.moved, f"page {page} did not move: {result.reason}"
                await scribble(page, done % 2)
        await guest.end(agents, tasks)
        host = moves % 2
        final = int.from_bytes(guest.read_memory(host, guest.driver.place(COUNTING, host) + 0x100, 8), "little")
        assert final == counter.count, f"{counter.count} adds were answered, and memory counts {final}"
        assert counter.count > 5 * moves, f"only {counter.count} atomics in {moves} moves"
        config.progress(moves, moves, "checking")

    await judged(guest, scenario, {"read_bytes": 500 * moves if reads else 0, "final_bytes": 2 * PAGE})
