"""Order over two hosts, case by case: each litmus case in every placement, thousands of rounds at once under delays that change all the time.

Two tests. The first runs a few rounds of each case, and the checker judges every access; the second runs many rounds, judged by their outcomes alone.
Rounds run beside each other, on lines of their own. What was seen is counted in ``litmus`` of the result, as litmus7 prints it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from io import StringIO
from random import Random
from typing import Any

import cocotb
from cocotb.triggers import TaskManager
from rich.console import Console
from rich.table import Table

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.guest import BARS, COUNTERS, PAGE, Guest, judged
from pagehop_tb.benches.litmus_cases import LEFT_OUT, NOT_RUN, Variant, chosen, variants
from pagehop_tb.benches.litmus_round import BANDS, Behaviour, Machine, Round, WatchedLog
from pagehop_tb.checker.verdict import VIOLATIONS
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.models.delay import Delay
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.protocol import FlowClass

WINDOW_BASE = 0x2000_0000
#: Pages of lines at each host, and one more that is only written.
PAGES = 6
WINDOW_PAGES = 2 * (PAGES + 1)
#: Posted writes that fill an egress and the device's ingress behind it.
CLOG = 110
CLOG_DEVICE = 60
#: Cycles in which one round of many must end, and completion timeout of device and CPUs.
LONGEST_ROUND, PATIENCE = 100_000, 150_000
#: Cycles between two looks at whether rounds end.
WATCH = 1000
#: What ``left_out`` names when the rule is missing in the hardware already.
HARDWARE = "hardware"
#: Rules of a host that ``left_out`` may name, with the setting that leaves them out.
HOST_RULES = {"posted_in_order": False, "requests_push": False, "completions_push": False, "down_in_order": False}


class LitmusGuest(Guest):
    """A guest whose device and timers are patient: what is slow here is meant to be."""

    def _system(self, functions: tuple[str, ...]) -> SystemConfig:
        system = super()._system(functions)
        first, second = (replace(host, timeout=PATIENCE) for host in system.hosts)
        return replace(system, functions=tuple(replace(function, timeout=PATIENCE) for function in system.functions), hosts=(first, second))


class Moods:
    """Changes the delays of both hosts, grants and withholds credits, and fills egresses, all the time and for each host by itself."""

    def __init__(self, guest: Guest, scratch: tuple[int, int], random: Random, left_out: str, every: int, clogs: float) -> None:
        self.guest, self.scratch, self.random, self.every, self.clogs = guest, scratch, random, every, clogs
        self.fabric = guest.system.fabric
        self.changes: dict[str, Any] = {left_out: HOST_RULES[left_out]} if left_out in HOST_RULES else {}
        self.stop = False

    async def run(self) -> None:
        """Change moods until stopped."""
        while not self.stop:
            for host in self.guest.system.hosts:
                host.root_complex.config = self._mood(host.root_complex.config)
            await self.fabric.wait(self.random.randrange(self.every // 4, self.every))
            if self.random.random() < self.clogs:
                await self._clog(self.random.randrange(2))
                self._clog_device(self.random.randrange(2))

    def _mood(self, config: RootComplexConfig) -> RootComplexConfig:
        draw = self.random.choice
        return replace(config, posted=Delay(0, draw(BANDS)), read=Delay(0, draw(BANDS)), response=Delay(0, draw(BANDS)), down=Delay(1, draw(BANDS)),
                       completion_ido=draw((False, True)), **self.changes)

    async def _clog(self, host: int) -> None:
        """Posted writes to one host stand still until they fill its egress, and what follows waits before it; then they go."""
        port = self.guest.system.ports["host_b" if host else "host_a"]
        port.starve(FlowClass.POSTED)
        # By a timer: with others' writes before them, these may not all find room until then.
        self.fabric.after(self.random.randrange(200, 2000), lambda: port.feed(FlowClass.POSTED))
        device = self.guest.system.functions["nic"]
        for _ in range(CLOG):
            await device.write(WINDOW_BASE + self.scratch[host], self.guest.system.values.take(0, 4))


    def _clog_device(self, host: int) -> None:
        """The same the other way: register writes of one host fill the device's egress and the host's ingress behind it."""
        port, values = self.guest.system.ports["device"], self.guest.system.values
        port.starve(FlowClass.POSTED)
        self.fabric.after(self.random.randrange(200, 2000), lambda: port.feed(FlowClass.POSTED))
        for _ in range(CLOG_DEVICE):
            self.guest.system.hosts[host].root_complex.post(BARS["nic"][0], values.take(0, 4))


class Tally:
    """Outcomes, counted by case and variant."""

    def __init__(self, fence: bool) -> None:
        self.fence = fence
        self.outcomes: dict[Variant, Counter[tuple[tuple[str, int], ...]]] = {}

    def add(self, variant: Variant, seen: dict[str, int]) -> None:
        """Count one round."""
        self.outcomes.setdefault(variant, Counter())[tuple(sorted(seen.items()))] += 1

    def forbidden(self, variant: Variant) -> int:
        """How often the forbidden outcome was seen."""
        return sum(count for outcome, count in self.outcomes[variant].items() if variant.case.forbidden(dict(outcome)))

    def wrong(self) -> dict[Variant, int]:
        """Variants in which it must not be seen and was."""
        promised = (variant for variant in self.outcomes if variant.case.promised and not variant.fails(self.fence))
        return {variant: count for variant in promised if (count := self.forbidden(variant))}

    def missing(self) -> list[Variant]:
        """Variants in which it must be seen and was not."""
        return [variant for variant in self.outcomes if variant.fails(self.fence) and not self.forbidden(variant)]

    def as_result(self) -> dict[str, Any]:
        """For result.json: by case and variant the rounds, the forbidden ones, whether these must be, and the histogram."""
        result: dict[str, Any] = {}
        for variant in sorted(self.outcomes, key=lambda one: (one.case.name, one.label)):
            counts, forbidden = self.outcomes[variant], variant.case.forbidden
            histogram = {" ".join(f"{name}={number}" for name, number in outcome) + (" *" if forbidden(dict(outcome)) else ""): count
                         for outcome, count in sorted(counts.items())}
            expected = "seen" if variant.fails(self.fence) else "never" if variant.case.promised else "any"
            result.setdefault(variant.case.name, {})[variant.label] = {
                "rounds": counts.total(), "forbidden": self.forbidden(variant), "expected": expected, "outcomes": histogram}
        return result

    def text(self) -> str:
        """The table for a terminal."""
        table = Table("case", "rounds", "outcomes", "forbidden, by variant", title="litmus")
        for name, found in self.as_result().items():
            seen = [f"{label}: {one['forbidden']}" for label, one in found.items() if one["forbidden"]]
            kinds = len({outcome for one in found.values() for outcome in one["outcomes"]})
            table.add_row(name, str(sum(one["rounds"] for one in found.values())), str(kinds), ", ".join(seen) or "0")
        console = Console(file=StringIO(), width=150)
        console.print(table)
        for row, reason in NOT_RUN.items():
            console.print(f"not run: {row}: {reason}")
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()


class Bench:
    """What both tests share: the guest with its pages in place, the parameters, the deck of rounds."""

    def __init__(self, dut: Any, config: BenchConfig, judge: bool) -> None:
        self.config, self.random = config, config.random("rounds" if judge else "free rounds")
        self.cases = [case for case in chosen(config.get("cases", [])) if case.promised and case.fails is None or not judge]
        free, few = config.get("rounds", 100), config.get("judged_rounds", 2)
        self.rounds = few if judge else free
        self.left_out = config.get("left_out", "")
        self.workers = config.get("workers", 128)
        every = config.get("mood_cycles", 3000)
        clogs = config.get("clogs", 0.15)
        if self.left_out and self.left_out not in (known := (*LEFT_OUT, HARDWARE)):
            raise ValueError(f"Rule to leave out must be one of {', '.join(known)}, not {self.left_out!r}")
        self.log = WatchedLog()
        self.guest = LitmusGuest(dut, config, WINDOW_BASE, WINDOW_PAGES, log=self.log)
        config.refuse_unknown()
        self.judge = judge
        self.tally = Tally(self.guest.setup.fence)
        behaviour = Behaviour(read_back=judge, never_read_back=self.left_out == "read_back", answered=self.left_out != "answered",
                              uncached=self.left_out != "uncached", in_order=judge)
        half = PAGES + 1
        held = ([*range(PAGES)], [*range(half, half + PAGES)])
        self.machine = Machine(self.guest, self.log, WINDOW_BASE, held, behaviour, config.random("machine"), self.workers)
        self.moods = Moods(self.guest, (PAGES * PAGE, (half + PAGES) * PAGE), config.random("moods"), self.left_out, every, clogs)
        for page in range(WINDOW_PAGES):
            if judge:
                self.guest.fill(page)

    async def start(self) -> None:
        """Leave reset, and bring each page to its host: the owner map outlives a reset."""
        await self.guest.start()
        owners = await self.guest.driver.owners(WINDOW_PAGES)
        for page in range(WINDOW_PAGES):
            host = int(page > PAGES)
            if owners >> page & 1 != host:
                result = await self.guest.move(page, host)
                assert result.moved, f"page {page} did not move: {result.reason}"

    async def switch_over(self) -> None:
        """Make Host B the active one."""
        registers = self.guest.driver.registers
        control = await registers.read(regs.Control.offset)
        await registers.write(regs.Control.offset, control | regs.Control.ACTIVE_HOST.of(1))
        await registers.read(regs.Control.offset)   # the write has taken effect when this returns

    async def run(self, manager: TaskManager, active: int, report: Callable[[], None]) -> None:
        """Run the deck of the cases that can run while Host ``active`` is the active one."""
        deck = [variant for case in self.cases for variant in variants(case) if self._runs(variant, active) for _ in range(self._repeats(variant))]
        self.random.shuffle(deck)
        moods = manager.start_soon(self.moods.run())
        watchdog = manager.start_soon(self._watch(deck))
        for worker in [manager.start_soon(self._work(deck, report)) for _ in range(self.workers)]:
            await worker
        self.moods.stop = True
        await moods
        await watchdog
        self.moods.stop = False

    def _repeats(self, variant: Variant) -> int:
        """What must be seen needs more tries than what must not."""
        return self.rounds * variant.case.repeats * (4 if variant.fails(self.tally.fence) else 1)

    def _runs(self, variant: Variant, active: int) -> bool:
        return "ab".index(variant.cpu) == active if variant.case.active else active == 0

    async def _watch(self, deck: list[Variant]) -> None:
        """Fail when no round ends for long: moods would keep a hung simulation going for ever."""
        before: object = None
        waited = 0
        while not self.moods.stop and waited < LONGEST_ROUND:
            now = len(deck), len(self.machine.running)
            waited = waited + WATCH if now == before else 0
            before = now
            await self.guest.system.fabric.wait(WATCH)
        if not self.moods.stop:
            raise TimeoutError(f"no round has ended in {LONGEST_ROUND} cycles: {', '.join(self.machine.running.values())}")

    async def _work(self, deck: list[Variant], report: Callable[[], None]) -> None:
        while deck:
            variant = deck.pop()
            case = variant.case
            one = Round(self.machine, case.locations, variant.placement, variant.cpu, case.posted)
            self.machine.running[one] = f"{case.name} {variant.label}"
            await one.run(case.actors)
            del self.machine.running[one]
            self.tally.add(variant, one.seen)
            report()

    def total(self) -> int:
        """Rounds of all decks."""
        return sum(self._repeats(variant) for case in self.cases for variant in variants(case) if self._runs(variant, 0) or not self.judge)


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def judged_rounds(dut: Any) -> None:
    """A few rounds of each case that holds; the checker sees every access."""
    config = BenchConfig("litmus")
    bench = Bench(dut, config, judge=True)
    if bench.left_out or not bench.rounds:
        return

    async def scenario(manager: TaskManager) -> None:
        await bench.start()
        await bench.run(manager, 0, lambda: config.progress(len(bench.tally.outcomes), bench.total(), "judged"))

    await judged(bench.guest, scenario, {"read_bytes": 4 * bench.total()})
    _demand_none(bench.tally.wrong())


@cocotb.test(timeout_time=400, timeout_unit="ms")
async def free_rounds(dut: Any) -> None:
    """Many rounds of each case, then those that need Host B to be the active one."""
    config = BenchConfig("litmus")
    bench = Bench(dut, config, judge=False)
    done = Counter[str]()

    def report() -> None:
        done["rounds"] += 1
        if done["rounds"] % 500 == 0:
            bench.log.drop()
        config.progress(done["rounds"], bench.total(), "rounds")

    try:
        async with TaskManager() as manager:
            await bench.start()
            await bench.run(manager, 0, report)
            await bench.guest.system.quiesce()
            await bench.switch_over()
            await bench.run(manager, 1, report)
            await bench.guest.system.quiesce()
        counters = {name: await bench.guest.driver.counter(offset) for name, offset in COUNTERS.items()}
    finally:
        config.write({"litmus": bench.tally.as_result(), "cycles": bench.guest.system.cycle})
        cocotb.log.info("\n" + bench.tally.text())
    bench.guest.system.check_clean()
    if bench.left_out:
        return
    late = {name: counters[name] for name in ("unexpected", "flush_timeouts", "outstanding_timeouts") if counters[name]}
    assert not late, f"something was given up, so no rule was tried: {late}"
    if wrong := bench.tally.wrong():
        config.write({"violations": dict.fromkeys(VIOLATIONS, 0) | {"reordered": sum(wrong.values())}})
    _demand_none(wrong)
    missing = bench.tally.missing()
    assert not missing, f"the table says that these fail, and they were not seen to: {_names(missing)}; delays are too tame, or the rounds too few"


def _demand_none(wrong: dict[Variant, int]) -> None:
    assert not wrong, f"a forbidden outcome was seen in {_names(wrong)}"


def _names(found: Iterable[Variant]) -> str:
    return ", ".join(f"{variant.case.name} {variant.label}" for variant in found)
