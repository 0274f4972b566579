"""Answers to copy reads that no healthy host gives: of another shape, twice, of another copy, in any order. None becomes part of a page (H14, D16).

What is of another shape, or an error, ends the move with its reason, and the page stays. What belongs to no read that waits is dropped.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import GUEST, HOST_IDS, PAGE, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup, result
from pagehop_tb.protocol import Kind, Tlp, read_completions, request_bytes

CPU, LINE, PAGES = 0x0000, 64, 64
HOST_B_OFFSET = 1 << 32
#: The completion limit, and cycles after which nobody waits for an answer.
LIMIT, NOBODY_WAITS = 400, 16 * 400
#: Completions behind the last of an answer that may still be taken for a part of it.
SETTLES = 4
#: Cycles that a host has to copy a page, so many times the limit of a hold.
PATIENCE, ABSORBING_PATIENCE = 4000, 16
Error = regs.MoveError
Change = Callable[[list[Tlp]], list[Tlp]]


def _first(**fields: Any) -> Change:
    """The first completion of the answer with other fields."""
    return lambda answer: [replace(answer[0], **fields), *answer[1:]]


def _without_data(status: int) -> Change:
    return lambda answer: [replace(answer[0], kind=Kind.CPL, status=status, length=0, data=b"")]


def _half_a_line(answer: list[Tlp]) -> list[Tlp]:
    half = answer[0].data[:LINE // 2]
    return [replace(answer[0], length=len(half) // 4, data=half), *answer[1:]]


def _longer(answer: list[Tlp]) -> list[Tlp]:
    """The last completion carries a line more than is due."""
    return [*answer[:-1], replace(answer[-1], length=answer[-1].length + LINE // 4, data=answer[-1].data + bytes(LINE))]


#: How one answer of a copy is spoilt, and the reason that the move must end with.
SPOILT: dict[str, tuple[Change, int]] = {
    "success without data": (_without_data(0), Error.UNSUPPORTED), "unsupported request": (_without_data(1), Error.UNSUPPORTED),
    "retry": (_without_data(2), Error.UNSUPPORTED), "completer abort": (_without_data(4), Error.COMPLETER_ABORT),
    "poison": (_first(poisoned=True), Error.POISONED),
    "half a line": (_half_a_line, Error.UNSUPPORTED), "too much data": (_longer, Error.UNSUPPORTED),
    "count beyond the read": (_first(byte_count=4 * LINE), Error.UNSUPPORTED), "count of 4096": (_first(byte_count=4096), Error.UNSUPPORTED),
    "count of a part of a line": (_first(byte_count=LINE + 4), Error.UNSUPPORTED), "count of bytes": (_first(byte_count=2), Error.UNSUPPORTED),
}


class OddCopies:
    """Two plain hosts whose answers to copy reads are collected and then sent as a case says."""

    def __init__(self, dut: Any, config: BenchConfig) -> None:
        self.bench = ThreePorts(dut, config, delay=20)
        self.fabric, self.driver, self.hosts = self.bench.fabric, self.bench.driver, self.bench.hosts
        self.random = config.random("odd")
        self.requests: list[tuple[Tlp, bytes]] = []
        self.answers: list[list[Tlp]] = []
        self.checked = self.looked = 0
        self.generation = PAGE // config.chunk_bytes    # the bit of a tag above the number of the chunk
        self.refuses: int | None = None     # the host that answers flushes with UR
        for number, host in enumerate(self.hosts):
            self._collect(number, host, host.agent.on_tlp)

    def _collect(self, number: int, host: Any, usual: Any) -> None:
        def arrived(tlp: Tlp) -> None:
            if tlp.kind is Kind.MRD and tlp.first_be and tlp.requester_id in HOST_IDS:
                start, size = request_bytes(tlp)
                data = bytes(host.page(start)[start % PAGE:start % PAGE + size])
                self.requests.append((tlp, data))
                self.answers.append(read_completions(tlp, data, CPU, LINE, self.random.choice((LINE, 2 * LINE))))
            elif tlp.kind is Kind.MRD and not tlp.first_be and number == self.refuses:
                host.agent.queue(Tlp(Kind.CPL, tlp.requester_id, tlp.tag, completer_id=CPU, status=1, byte_count=4))
            else:
                usual(tlp)
        host.agent.on_tlp = arrived

    async def look_on(self) -> None:
        """Host B reads a register without a rest; the driver at Host A nearly so. Their answers share the way out with copies."""
        while True:
            assert await self.hosts[1].read(regs.Identification.offset) == regs.Identification.reset
            self.looked += 1

    async def start(self) -> None:
        """Program the interposer."""
        await self.fabric.start()
        self.driver.poll_cycles = 1
        await self.driver.setup(Setup(window_base=GUEST, window_pages=PAGES, host_b_offset=HOST_B_OFFSET, completion_limit=LIMIT))

    async def move(self, page: int, to_host: int, send: Callable[[list[list[Tlp]], Any], None]) -> Any:
        """Move a page. ``send(answers, queue)`` gets the answers to all reads, and queues what it will."""
        self.answers.clear()
        self.requests.clear()
        source, copy = (self.hosts[host].page(self.driver.place(page, host)) for host in (1 - to_host, to_host))
        source[:] = self.random.randbytes(PAGE)
        running = cocotb.start_soon(self.driver.move(page, to_host))
        while sum(answer[0].byte_count for answer in self.answers) < PAGE:
            await self.fabric.wait(5)
        send(self.answers, self.hosts[1 - to_host].agent.queue)
        result = await running
        if result.moved:
            assert source == copy, f"page {page} moved and its copy differs"
        assert await self.driver.owner(page) == (to_host if result.moved else 1 - to_host), f"page {page} is not where the status says"
        self.checked += 1
        return result

    async def spoilt(self, name: str, page: int) -> None:
        """One answer of another shape, early or late among good ones."""
        change, reason = SPOILT[name]

        def send(answers: list[list[Tlp]], queue: Any) -> None:
            bad = self.random.randrange(len(answers))
            for number, answer in enumerate(answers):
                for tlp in change(answer) if number == bad else answer:
                    queue(tlp)

        result = await self.move(page, 1, send)
        assert not result.moved and result.error == reason, f"{name}: the move ended with {result.reason}, not with {Error(reason).name}"

    async def unproven(self, page: int, to_host: int) -> None:
        """The destination refuses the flush behind the copy: nothing proves that the copy is there, so the page stays (H03, H14)."""
        def send(answers: list[list[Tlp]], queue: Any) -> None:
            for tlp in self._mixed(answers):
                queue(tlp)

        self.refuses = to_host
        result = await self.move(page, to_host, send)
        self.refuses = None
        assert not result.moved and result.error == Error.COPY_TIMEOUT, f"a flush that was refused ended the move with {result.reason}"
        assert result.total_cycles < LIMIT, f"a flush that was refused ended the move only after {result.total_cycles} cycles"

    async def owed(self, page: int, comes: bool) -> None:
        """One answer does not come and the move fails. The next begins when the last piece of it has come, or nobody waits for it any more."""
        missing: list[Tlp] = []

        def send(answers: list[list[Tlp]], queue: Any) -> None:
            missing[:] = read_completions(*self.requests[self.random.randrange(len(answers))], CPU, LINE, LINE)
            for answer in answers:
                for tlp in answer if answer[0].tag != missing[0].tag else ():
                    queue(tlp)

        result = await self.move(page, 1, send)
        assert not result.moved and result.error == Error.COPY_TIMEOUT, f"an answer that does not come ended the move with {result.reason}"
        self.requests.clear()
        began = self.fabric.cycle
        running = cocotb.start_soon(self.strangers(page, 1))
        for tlp in missing if comes else ():
            await self.fabric.wait(200)
            assert not self.requests, "the next copy began while an answer was owed to the one before"
            self.hosts[0].agent.queue(replace(tlp, data=bytes(len(tlp.data))))
        await running
        waited = self.fabric.cycle - began
        if not comes:
            assert waited >= NOBODY_WAITS, f"the next move ended {waited} cycles after one whose answer was owed"
        else:
            assert waited < NOBODY_WAITS, f"the next move took {waited} cycles after the answer that was owed to the one before"

    async def strangers(self, page: int, to_host: int) -> None:
        """Good answers in any order, their pieces too; between them what nobody waits for: of another copy, and for what has come already."""
        def send(answers: list[list[Tlp]], queue: Any) -> None:
            done: list[Tlp] = []
            for tlp in self._mixed(answers):
                garbage = bytes(len(tlp.data))
                if self.random.random() < 0.3:
                    queue(replace(tlp, tag=tlp.tag ^ self.generation, data=garbage))
                if self.random.random() < 0.1:
                    queue(replace(tlp, tag=tlp.tag ^ self.generation, kind=Kind.CPL, status=4, length=0, data=b""))
                if len(done) > SETTLES and self.random.random() < 0.3:
                    again = self.random.choice(done[:-SETTLES])
                    queue(replace(again, data=bytes(len(again.data))))
                queue(tlp)
                if 4 * tlp.length == tlp.byte_count:
                    done.append(tlp)

        result = await self.move(page, to_host, send)
        assert result.moved, f"page {page} did not move: {result.reason}"

    def _mixed(self, answers: list[list[Tlp]]) -> Iterator[Tlp]:
        """Pieces of different answers in any order, those of one answer in theirs."""
        rest = [iter(answer) for answer in answers]
        order = [number for number, answer in enumerate(answers) for _ in answer]
        self.random.shuffle(order)
        return (next(rest[number]) for number in order)


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def odd_copies(dut: Any) -> None:
    """Every way to spoil an answer; after each the page moves, with strangers among the answers."""
    config = BenchConfig("odd_copies")
    names, owed = config.get("cases", list(SPOILT)), config.get("owed", 2)
    config.refuse_unknown()
    bench = OddCopies(dut, config)
    await bench.start()
    looking = cocotb.start_soon(bench.look_on())
    for name in bench.random.sample(names, len(names)):
        page = bench.random.randrange(PAGES)
        # The owner map outlives a reset, so an earlier test may have brought it.
        if await bench.driver.owner(page):
            await bench.strangers(page, 0)
        await bench.spoilt(name, page)
        await bench.strangers(page, 1)
    for to_host in (0, 1):      # the last page is at Host B
        await bench.unproven(page, to_host)
        await bench.strangers(page, to_host)
    for number in range(owed):
        if await bench.driver.owner(number):
            await bench.strangers(number, 0)
        await bench.owed(number, comes=number % 2 == 0)
    looking.cancel()
    assert bench.looked > 10 * bench.checked, f"Host B read a register only {bench.looked} times"
    assert bench.checked >= 2 * len(names), f"only {bench.checked} moves"
    config.write({"checked": {"events": bench.checked, "final_bytes": PAGE * bench.checked}, "violations": {}})


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def silent_host(dut: Any) -> None:
    """A host that is to copy the page never says that it has: the move ends by its timer, not before, and is counted (H19)."""
    bench = ThreePorts(dut, BenchConfig("odd_copies"), delay=20)
    driver, fields = bench.driver, regs.MoveStatus
    await bench.start_settled()
    await driver.setup(Setup(window_base=GUEST, window_pages=PAGES, host_b_offset=HOST_B_OFFSET, hold_limit=PATIENCE // ABSORBING_PATIENCE))
    await bench.bring(0, 0)
    ended = fields.ENDED.get(await driver.status())
    await driver.start(driver.place(0, 0), driver.place(0, 1), 1, mode=regs.MoveMode.HOST_COPY)
    while fields.BUSY.get(status := await driver.status()):
        await bench.fabric.wait(50)
    found = result(status, await driver.registers.read(regs.MoveCycles.array.at(0)))
    assert found.error == regs.MoveError.HOLD_TIMEOUT, f"the move ended with {found.reason}"
    assert PATIENCE <= found.total_cycles <= PATIENCE + 500, f"the move took {found.total_cycles} cycles, {PATIENCE} are allowed to the host"
    assert fields.ENDED.get(status) == ended + 1, "the move that failed is not counted"
    assert await driver.owner(0) == 0, "the page moved without a copy"
