"""The guest of a recorded trace does its DMA in a loop while all its pages move from Host A to Host B; then DMA goes on at B.

With one host they move from one of its memories to the other, and interrupts stay where they were.
"""

from typing import Any

import cocotb
from cocotb.task import Task
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import MSI_BASE, PAGE, Guest, judged
from pagehop_tb.benches.trace import read_accesses, touched_pages
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.models.devices import TraceReplay

WINDOW_BASE = 0


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def migrate(dut: Any) -> None:
    """Every page of the trace moves once, as many at a time as there are slots; nothing is lost, stale or out of order.

    With ``queue`` the moves are put into the ring of the move queue, which has all slots.
    """
    config = BenchConfig("migrate")
    assert config.trace is not None, "migrate needs a trace"
    accesses = read_accesses(config.trace)
    most = config.get("pages", 0)
    passes_after = config.get("passes_after", 1)
    gap = config.get("gap", 100)
    by_queue = config.get("queue", False)
    guest = Guest(dut, config, WINDOW_BASE, config.covered_pages)
    config.refuse_unknown()
    touched = touched_pages(accesses, config.covered_pages)
    for page in touched:
        guest.fill(page)
    replays = [TraceReplay(function, [access for access in accesses if access.device == name], guest.system.values, gap=gap)
               for name, function in guest.system.functions.items()]
    moving = touched[:most] if most else touched

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks: list[Task[None]] = [manager.start_soon(replay.run()) for replay in replays]
        waiting = list(reversed(list(enumerate(moving))))

        async def move(slot: int) -> None:
            while waiting:
                done, page = waiting.pop()
                config.progress(done, len(moving) + 1, f"page {page}")
                result = await guest.move(page, 1, slot)
                assert result.moved, f"page {page} did not move: {result.reason}"

        if by_queue:
            await guest.move_all([(page, 1) for page in moving], config.progress)
        else:
            for task in [manager.start_soon(move(slot)) for slot in range(guest.driver.slots)]:
                await task
        config.progress(len(moving), len(moving) + 1, "DMA at its new place")
        if config.hosts == 2:
            # Interrupts go to Host B from now on, and Host A has taken what was sent to it before.
            ended = await guest.driver.switch_over(1)
            assert ended == regs.SwitchoverError.NONE, f"the switchover ended with {regs.SwitchoverError(ended).name}"
        for replay in replays:
            replay.stop = True
        for task in tasks:
            await task
        await guest.system.quiesce()
        before = _device_interrupts(guest)
        for replay in replays:
            replay.stop, replay.gap = False, 0
        for task in [manager.start_soon(replay.run(passes_after)) for replay in replays]:
            await task
        await guest.system.quiesce()
        after = _device_interrupts(guest)
        raised = passes_after * sum(access.kind == "msi" for access in accesses)
        left = before[0] if config.hosts == 2 else after[0]
        assert after[0] == left and after[1] == before[1] + raised, f"interrupts must follow the guest to Host B: {before}, then {after}"
        config.progress(len(moving) + 1, len(moving) + 1, "checking")

    await judged(guest, scenario, {"read_bytes": 1, "final_bytes": len(touched) * PAGE})


def _device_interrupts(guest: Guest) -> list[int]:
    """Interrupts of the device that each host has taken."""
    return [sum(address == MSI_BASE for _, address, _ in host.cpu.interrupts) for host in guest.system.hosts]
