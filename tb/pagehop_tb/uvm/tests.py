"""The tests of the environment, selected by name: a simulation runs one of them."""

import cocotb
import pyuvm

from pagehop_tb.driver.interposer import PAGE_BITS
from pagehop_tb.uvm.bins import STOPPED_IN, STOPS, UNREACHABLE
from pagehop_tb.uvm.environment import BaseTest
from pagehop_tb.uvm.operations import Operations
from pagehop_tb.uvm.sequences import BadAnswers, Combination, CpuTraffic, Fault, Harvests, RandomDma, call, second_start

__all__ = ["Answers", "Api", "Faults", "Refusals", "ThereAndBack"]

PAGE = 4096
#: Pages that only CPUs use: one stays at Host A, one is moved to Host B first.
OWN = (63, 62)
TIMEOUT = {"timeout_time": 100, "timeout_unit": "ms"}


class _Traffic(BaseTest):
    """What all tests have: random DMA to some pages, and CPUs on pages of their own."""

    default_pages = 8
    default_rounds = 1

    def prepare(self) -> None:
        """Read the parameters and fill the pages."""
        config, env = self.config, self.env
        self.rounds = config.get("rounds", self.default_rounds)
        self.pages = list(range(config.get("pages", self.default_pages)))
        self.random = config.random("scenario")
        self.dma = RandomDma(env, config.random("dma"), self.pages, config.get("gap", 40))
        self.cpus = CpuTraffic(env, config.random("cpus"), self.pages, OWN)
        self.harvests = Harvests("harvests", env, config.random("harvests"))
        for page in (*self.pages, *OWN):
            env.guest.fill(page)

    async def begin(self) -> None:
        """Start the traffic."""
        await self.move(OWN[1], 1)
        self.dma.go(self.env.device.sequencer)
        self.cpus.go()
        self.harvests.go()

    async def end(self) -> None:
        """Stop the traffic and let it end."""
        for sequence in (self.dma, self.cpus, self.harvests):
            await sequence.end()
        await self.env.guest.system.quiesce()
        for clear in (False, True, False, True):
            bits = (await call(self.env, "harvest", 0, 64, clear=clear)).result
        assert bits == 0, f"dirty bits are left after a take: {bits:#x}"

    async def move(self, page: int, to_host: int, must: bool = True) -> bool:
        """Move a page; the hold timer may end a try."""
        self.dma.focus = page if page in self.pages else None
        for _ in range(8):
            result = (await call(self.env, "move", page, to_host)).moved
            if result.moved or result.reason != "hold_timeout":
                break
        assert result.moved or not must, f"page {page} did not move: {result.reason}"
        self.dma.focus = None
        return result.moved


@pyuvm.test(**TIMEOUT)
class ThereAndBack(_Traffic):
    """All pages move to Host B and back, again and again, under random DMA; then, from idle, under the fence policy."""

    default_rounds = 2

    async def scenario(self) -> None:
        """``rounds`` times there and back."""
        await self.begin()
        for number in range(self.rounds):
            for to_host in (1, 0):
                for page in self.random.sample(self.pages, len(self.pages)):
                    await self.move(page, to_host)
            await self._combinations(self.pages[number % len(self.pages)])
            self.config.progress(number + 1, self.rounds, "round")
        await self._fenced()
        await self.end()

    async def _fenced(self) -> None:
        """Half of the pages at Host B, and a device that waits for its reads: each change of the host costs a round trip now."""
        half = self.pages[::2]
        for page in half:
            await self.move(page, 1)
        await self.end()
        await self.env.set_fence(True)
        self.dma.gap, self.dma.patient = 400, True
        self.dma.go(self.env.device.sequencer)
        self.cpus.go()
        for page in half:
            await self.move(page, 0)
            await self.env.guest.system.fabric.wait(8000)

    async def _combinations(self, page: int) -> None:
        """Moves that begin with just these accesses under way, there and back; three bits say which."""
        for bits in range(8):
            kinds = tuple(kind for bit, kind in enumerate(("write", "read", "atomic")) if bits >> bit & 1)
            for _ in range(2):
                await Combination(self.env, self.dma, page, kinds).start()


@pyuvm.test(**TIMEOUT)
class Faults(_Traffic):
    """Every reason to end a move, in every phase in which it can, in both directions."""

    default_pages = 4

    async def scenario(self) -> None:
        """Each fault, until it has met its phase."""
        await self.begin()
        cases = [(stop, phase) for stop in STOPS for phase in STOPPED_IN if not _impossible(stop, phase)]
        for done in range(self.rounds):
            for source in (0, 1):
                for stop, phase in self.random.sample(cases, len(cases)):
                    await self._fault(stop, phase, source)
            self.config.progress(done + 1, self.rounds, "round")
        await self.end()

    async def _fault(self, stop: str, phase: str, source: int) -> None:
        for _ in range(12):
            page = self.random.choice(self.pages)
            if self.env.watch.owner(page) != source:
                await self.move(page, source)
            fault = Fault(self.env, self.dma, page, stop, phase, self.random)
            await fault.start()
            if fault.result.reason == stop and (phase == "asked") == (self.env.watch.stopped_in == "asked"):
                return


def _impossible(stop: str, phase: str) -> bool:
    return any(group == "stops" and stop in pattern["error"] and phase in pattern["phase"] for group, pattern, _ in UNREACHABLE)


@pyuvm.test(**TIMEOUT)
class Answers(_Traffic):
    """The device's own requests are answered with errors, before, while and after their page moves."""

    default_pages = 3
    default_rounds = 6

    async def scenario(self) -> None:
        """``rounds`` times there and back."""
        bad = BadAnswers("answers", self.env, self.config.random("answers"))
        await self.begin()
        bad.go()
        for _ in range(self.rounds):
            for to_host in (1, 0):
                for page in self.pages:
                    await self.move(page, to_host)
        await bad.end()
        for host in self.env.guest.system.hosts:
            for injection in host.root_complex.injections:
                injection.done = True
        await self.end()


@pyuvm.test(**TIMEOUT)
class Refusals(_Traffic):
    """Requests that must be refused, and commands that come too late, from both hosts' side of the window."""

    default_pages = 4

    async def scenario(self) -> None:
        """Each refusal in both directions, then the late commands."""
        await self.begin()
        for _ in range(self.rounds):
            for to_host in (1, 0):
                await self._refused(self.pages[0], to_host)
                await self._late(self.pages[0], to_host)
        await self.end()

    async def _refused(self, page: int, to_host: int) -> None:
        """The page is at the other host, and stays there."""
        driver, outside = self.env.guest.driver, self.env.guest.pages
        source, destination = driver.place(page, 0), driver.place(page, to_host)
        requests = {
            "not_in_window": ((driver.place(outside, 0), driver.place(outside, to_host), to_host), {}),
            "page_size": ((source, destination, to_host), {"page_size": PAGE_BITS - 1}),
            "misaligned": ((source + 8, destination + 8, to_host), {}),
            "already_there": ((source, driver.place(page, 1 - to_host), 1 - to_host), {}),
            "destination": ((source, destination + PAGE, to_host), {}),
        }
        for name, (arguments, named) in requests.items():
            result = (await call(self.env, "request", *arguments, **named, page=page)).moved
            assert result.reason == name and not result.moved, f"a request that is {name} ended with {result}"

    async def _late(self, page: int, to_host: int) -> None:
        """Starts while the page is held and while it drains, an abort while it drains: the move goes on."""
        env = self.env
        self.dma.focus = page
        move = cocotb.start_soon(call(env, "move", page, to_host))
        if await env.watch.reach("gate", "copy"):
            await second_start(env, self.pages[1])
        if await env.watch.reach("drain"):
            await call(env, "abort")
            await second_start(env, self.pages[1])
        result = (await move).moved
        assert result.moved, f"the move was disturbed: {result}"
        assert (await call(env, "owner", self.pages[1])).result == env.watch.owner(self.pages[1]) == 1 - to_host
        await self.move(self.pages[1], to_host)


@pyuvm.test(**TIMEOUT)
class Api(BaseTest):
    """The parameter ``operations``, one after the other, against the reference (:mod:`pagehop_tb.uvm.operations`)."""

    least = {"events": 1}

    def prepare(self) -> None:
        """All pages are empty, as the reference has them."""
        self.operations = self.config.get("operations", [])
        self.pages = self.config.get("pages", 4)
        for page in range(self.pages):
            self.env.guest.system.preset(0, self.env.guest.base + page * PAGE, bytes(PAGE))

    async def scenario(self) -> None:
        """As given."""
        assert self.operations, "there is nothing to do"
        await Operations(self.env, self.operations, self.pages).start()
