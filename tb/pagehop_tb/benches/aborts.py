"""Random traffic while faults end moves before their commit: UR, CA, poison and silence of a copy read, a late completion, the hold timer, the
host, a CPU that was not stopped and stores to the page through its aperture.

A page whose move failed stays where it was, with everything that was written meanwhile; the next move of it may succeed.
"""

from collections import Counter
from random import Random
from typing import Any

import cocotb
from cocotb.triggers import TaskManager

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import PAGE, Guest, judged
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.api import MoveResult
from pagehop_tb.driver.interposer import PAGE_BITS, units
from pagehop_tb.models.observer import Status
from pagehop_tb.models.root_complex import Injection

WINDOW_BASE = 0x1_0000_0000
WINDOW_PAGES = 64
Error = regs.MoveError

#: Faults and the errors that may report them. A silent read can also run into the hold timer, and a late answer may just be in time.
FAULTS = {
    "unsupported": {Error.UNSUPPORTED}, "completer_abort": {Error.COMPLETER_ABORT}, "poison": {Error.POISONED},
    "silence": {Error.COPY_TIMEOUT, Error.HOLD_TIMEOUT}, "late": {Error.COPY_TIMEOUT, Error.HOLD_TIMEOUT},
    "hold_timer": {Error.HOLD_TIMEOUT}, "host": {Error.ABORTED}, "cross_store": {Error.CROSS_ACCESS},
}
STATUSES = {"unsupported": Status.UNSUPPORTED_REQUEST, "completer_abort": Status.COMPLETER_ABORT, "poison": Status.POISONED,
            "silence": Status.TIMEOUT, "late": Status.TIMEOUT}
#: Cycles that a hold may last beyond its limit: to notice, and to open the gate. One more for each further unit whose owner changes.
BEYOND_LIMIT = 4
#: Cycles of a hold within which a CPU's store begins: it arrives before the first copied line can have been proven visible.
EARLY = 100


class Saboteur:
    """Puts one fault into the next move, and says what became of it."""

    def __init__(self, guest: Guest, random: Random) -> None:
        self.guest, self.random = guest, random
        self.outcomes: Counter[str] = Counter()

    async def move(self, page: int, to_host: int, fault: str, slot: int = 0, page_size: int = PAGE_BITS) -> MoveResult:
        """Move ``page`` with ``fault`` (empty: none) and check the way in which it ended. Of a large page the fault meets any unit."""
        guest, driver = self.guest, self.guest.driver
        mode = guest.mode()
        run = units(page, page_size)
        injection = self._inject(fault, self._one_of(run), 1 - to_host)
        beyond = BEYOND_LIMIT + len(run) - 1
        limit = self.random.randint(1, 900 * len(run)) if fault == "hold_timer" else guest.setup.hold_limit
        if fault == "hold_timer":
            await self._limit(limit)
        storing = cocotb.start_soon(self._store(self._one_of(run), to_host, slot, mode)) if fault == "cross_store" else None
        running = [True]
        if fault == "host":
            soon = self.random.randint(1, 2500 + 300 * (len(run) - 1))
            guest.system.fabric.after(soon, lambda: cocotb.start_soon(driver.abort(slot)) if running else None)
        result = await driver.move(page, to_host, mode, slot, page_size)
        running.clear()
        if fault == "hold_timer":
            await self._limit(guest.setup.hold_limit)
        if injection is not None:
            assert injection.done, f"the fault {fault} met no copy read"
            assert not result.moved or fault == "late", f"the move of page {page} succeeded in spite of the fault {fault}"
        if storing is not None:
            await storing
            assert not result.moved, f"page {page} moved in spite of a store through the aperture (H59)"
        assert not result.moved or result.hold_cycles <= limit + beyond, f"page {page} was held for {result.hold_cycles} cycles, limit {limit}"
        if not result.moved:
            allowed = FAULTS[fault] if fault else {Error.HOLD_TIMEOUT}
            assert result.error in allowed, f"fault {fault or 'none'} was reported as {result.reason}"
        self.outcomes[f"{fault or 'none'}: {result.reason}"] += 1
        return result

    def _one_of(self, run: range) -> int:
        return self.random.choice(run) if len(run) > 1 else run[0]

    def _inject(self, fault: str, page: int, source: int) -> Injection | None:
        if fault not in STATUSES:
            return None
        guest = self.guest
        is_copy_read = guest.reads_of_engine(source, guest.driver.place(page, source))
        late = self.random.randint(2000, 8000) if fault == "late" else None
        # The copy is made of at least 16 reads; the number of the bad one is random.
        injection = Injection(is_copy_read, STATUSES[fault], nth=self.random.randrange(16), late=late)
        guest.system.hosts[source].root_complex.injections.append(injection)
        return injection

    async def _store(self, page: int, host: int, slot: int, mode: int) -> None:
        """A store of the host that is to get the page, through its aperture, soon after the page is held or its copy begins (H59, D5)."""
        guest, apertures = self.guest, self.guest.check_config.apertures
        if mode == regs.MoveMode.HOLD:
            while not int(guest.dut.holding.value) >> slot & 1:
                await guest.system.fabric.wait(10)
        else:
            while regs.MovePhase(regs.MoveStatus.PHASE.get(await guest.driver.status(slot))) in (regs.MovePhase.IDLE, regs.MovePhase.GATE):
                await guest.system.fabric.wait(10)
        await guest.system.fabric.wait(self.random.randint(1, EARLY))
        offset = page * PAGE + self.random.randrange(0, PAGE, 64)
        await guest.system.hosts[host].cpu.store(apertures[host].base + offset, guest.system.values.take(WINDOW_BASE + offset, 64))

    async def _limit(self, cycles: int) -> None:
        limits = regs.MoveLimits
        await self.guest.driver.registers.write(limits.offset, limits.HOLD.of(cycles) | limits.COMPLETION.of(self.guest.setup.completion_limit))


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def aborts(dut: Any) -> None:
    """Many moves, most of them with a fault, under traffic that never stops."""
    config = BenchConfig("aborts")
    moves, pages, share = config.get("moves", 60), config.get("pages", 16), config.get("abort_share", 0.6)
    faults = config.get("faults", list(FAULTS))   # in turn
    guest = Guest(dut, config, WINDOW_BASE, WINDOW_PAGES)
    config.refuse_unknown()
    agents = guest.traffic(range(pages))
    random = config.random("faults")
    saboteur = Saboteur(guest, random)

    async def scenario(manager: TaskManager) -> None:
        await guest.start()
        tasks = [manager.start_soon(agent.run()) for agent in agents]
        owners, still = [0] * pages, list(range(pages))     # `still`: what does not move in another slot

        async def move(slot: int) -> None:
            for done in range(slot, moves, guest.driver.slots):
                config.progress(done, moves, f"move {done}")
                page = still.pop(random.randrange(len(still)))
                fault = faults[done % len(faults)] if random.random() < share else ""
                result = await saboteur.move(page, 1 - owners[page], fault, slot)
                owners[page] ^= result.moved
                still.append(page)

        for task in [manager.start_soon(move(slot)) for slot in range(guest.driver.slots)]:
            await task
        await guest.end(agents, tasks)
        cocotb.log.info(f"outcomes: {dict(saboteur.outcomes)}")
        assert any(outcome.endswith("none") for outcome in saboteur.outcomes), "no move succeeded"
        assert moves < 20 or len(saboteur.outcomes) > 5 or len(faults) < 5, f"too few kinds of endings: {dict(saboteur.outcomes)}"
        config.progress(moves, moves, "checking")

    await judged(guest, scenario, {"read_bytes": 10_000 if moves >= 50 else 100, "final_bytes": PAGE})
