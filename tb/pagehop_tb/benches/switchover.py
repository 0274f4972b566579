"""The last step of a migration: the active host changes under a device that never stops (H53 to H57).

Host A's path is ten times as long as Host B's, and both lead to one double word, as they do where A's memory is reached through a bridge to B. What
comes out at the new host comes only when the old one owes nothing: each read there is answered, each write visible, each request of its own answered.
"""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import cocotb

from pagehop_tb.benches.frame import BenchConfig
from pagehop_tb.benches.three_ports import BAR, DEVICE, DEVICE_ID, GUEST, PAGE, ThreePorts
from pagehop_tb.driver import interposer_registers as regs
from pagehop_tb.driver.interposer import Setup
from pagehop_tb.protocol import TRANSLATED, Kind, Tlp, answer, memory_read, memory_write, read_completions

HOST_A, HOST_B = 0, 1
CPU, CPU_TAG = 0x0000, 9
MSI, OUTSIDE, SHARED = 0xFEE0_0000, 0x7000_0000, 0x7000_2000
OFFSET, PAGES, MOVING = 0x20_0000_0000, 64, 3
#: Cycles from the arrival of a write to its being visible, and from that of a read to its answer, at each host.
VISIBLE, ANSWER = (900, 90), (1000, 100)
#: So much later a read of the device may be answered.
SLOWER = 1500
#: Tags of reads that are open at the flip, and of those that wait.
OPEN, WAITING = range(32), range(32, 64)
#: Those of translated requests.
TRANSLATED_TAGS = (70, 71)
HOLD, COMPLETION = 6000, 4000
Error = regs.SwitchoverError


class Run:
    """The bench. ``arrived``: what the device posted outside the window, as (number, host) in the order of arrival."""

    def __init__(self, bench: ThreePorts, setup: Setup, random: Random) -> None:
        self.bench, self.setup, self.random = bench, setup, random
        self.fabric = bench.fabric
        self.sent, self.compared = 0, 0
        self.arrived: list[tuple[int, int]] = []
        self.places: tuple[int, ...] = (MSI, SHARED)     # where the device posts to, in turns
        self.invisible, self.last = [0, 0], -1           # interrupts on their way at each host; the number in the shared double word
        self.reads: dict[int, int | None] = {}           # by tag, and the host that it came out at
        self.cpu_reads = [0, 0]                          # of each host, unanswered
        self.old = HOST_A                                # the host to leave, or that was left
        self.flushes_fail, self.silent, self.refused = False, False, list[Tlp]()
        self.strangers: list[tuple[int, Tlp]] = []       # translated requests that came out
        self.reply_after = 40
        bench.device.on_tlp = self._at_device
        for host, (plain, usual) in enumerate((plain, plain.agent.on_tlp) for plain in bench.hosts):
            plain.delay = ANSWER[host]
            plain.agent.on_tlp = lambda tlp, host=host, usual=usual: self._at_host(host, usual, tlp)
            plain.agent.on_sent = lambda tlp, host=host: self._answered(host, tlp)

    # Host side

    def _at_host(self, host: int, usual: Any, tlp: Tlp) -> None:
        if tlp.is_completion and tlp.tag == CPU_TAG:
            assert self.cpu_reads[host] and tlp.status == 0, f"Host {'AB'[host]} got {tlp}"
            self.cpu_reads[host] -= 1
            return
        if tlp.address_type == TRANSLATED and tlp.requester_id == DEVICE:
            self.strangers.append((host, tlp))
        elif tlp.requester_id == DEVICE and not GUEST <= tlp.address < GUEST + PAGES * PAGE:
            self._from_device(host, tlp)
        if tlp.kind is Kind.MRD and tlp.requester_id != DEVICE and not tlp.first_be and self.flushes_fail:
            self.bench.hosts[host].agent.queue(answer(tlp, CPU, 1, byte_count=1))
        elif tlp.kind is Kind.MRD and tlp.requester_id == DEVICE:
            # A flush read overtakes them, so its answer says nothing of theirs.
            self.fabric.after(HOLD + 2000 if self.silent else self.random.randrange(SLOWER), lambda: usual(tlp))
        elif tlp.is_atomic:
            self.bench.hosts[host].agent.queue(answer(tlp, CPU, data=bytes(8), byte_count=8))
        else:
            usual(tlp)

    def _from_device(self, host: int, tlp: Tlp) -> None:
        if host != self.old:
            self._owes_nothing(str(tlp))
        if tlp.kind is Kind.MRD:
            assert self.reads[tlp.tag] is None, f"{tlp} came out twice"
            self.reads[tlp.tag] = host
            return
        self.arrived.append((number := int.from_bytes(tlp.data[:4], "little"), host))
        if tlp.address == SHARED:
            self.fabric.after(VISIBLE[host], lambda: self._lands(number))
        else:
            self.invisible[host] += 1
            self.fabric.after(VISIBLE[host], lambda: self._taken(host))

    def _owes_nothing(self, what: str) -> None:
        """Something came out at the new host."""
        old = "AB"[self.old]
        open_reads = [tag for tag, host in self.reads.items() if host == self.old]
        assert not open_reads, f"H55: {what} came out while Host {old} still owed answers to {len(open_reads)} reads"
        assert not self.cpu_reads[self.old], f"H55: {what} came out while a read of Host {old} was not answered"
        assert not self.invisible[self.old], f"H56: {what} came out while {self.invisible[self.old]} interrupts had not reached Host {old}'s CPU"
        self.compared += 1

    def _taken(self, host: int) -> None:
        self.invisible[host] -= 1

    def _lands(self, number: int) -> None:
        assert number > self.last, f"H53: {number} is older than {self.last}, and landed on it"
        self.last = number

    def _answered(self, host: int, tlp: Tlp) -> None:
        """The first beat of something leaves a host."""
        if tlp.is_completion and tlp.requester_id == DEVICE and self.reads.get(tlp.tag) == host:
            self.reads[tlp.tag] = -1

    # Device side

    def _at_device(self, tlp: Tlp) -> None:
        if tlp.kind is Kind.MRD:
            self.fabric.after(self.reply_after, lambda: self._reply(tlp))
        elif tlp.is_completion and tlp.tag in TRANSLATED_TAGS:
            self.refused.append(tlp)
        elif tlp.is_completion:
            assert self.reads.pop(tlp.tag, None) == -1, f"the device got {tlp}, which answers nothing"
            self.compared += 1

    def _reply(self, tlp: Tlp) -> None:
        # The answer stands behind what the device has posted.
        self.post()
        for completion in read_completions(tlp, bytes(4 * tlp.length), DEVICE, 128, 256):
            self.bench.device.queue(completion)

    def post(self) -> None:
        """An interrupt, or a write to the double word that both hosts reach, with the next number."""
        address = self.places[self.sent % len(self.places)]
        self.bench.device.queue(memory_write(DEVICE, address, self.sent.to_bytes(4, "little")))
        self.sent += 1

    def read(self, tag: int) -> None:
        """A read of the device outside the window."""
        assert tag not in self.reads
        self.reads[tag] = None
        self.bench.device.queue(memory_read(DEVICE, OUTSIDE + 64 * tag, 64, tag))

    def cpu_read(self, host: int) -> None:
        """A host reads a register of the device."""
        self.cpu_reads[host] += 1
        self.bench.hosts[host].agent.queue(memory_read(CPU, BAR + 64, 4, CPU_TAG))

    async def _flood(self, cycles: int) -> None:
        """A posted TLP in every cycle, so that one comes in every cycle of the switchover."""
        for _ in range(cycles // 10):
            for _ in range(10):
                self.post()
            await self.fabric.wait(10)

    # Steps

    async def _quiet(self) -> None:
        await self.fabric.wait(2 * max(VISIBLE) + SLOWER + 200)
        assert self.invisible == [0, 0] and not self.reads and self.cpu_reads == [0, 0], f"left: {self.invisible}, {self.reads}, {self.cpu_reads}"

    async def _switch(self, expected: Error = Error.NONE) -> None:
        """To the other host, with whatever runs beside; what has arrived since must be all that was posted, in order."""
        to_host = 1 - self.old
        began = self.fabric.cycle
        error = await self.bench.driver.switch_over(to_host)
        took = self.fabric.cycle - began
        assert error == expected, f"the switchover ended with {Error(error).name} after {took} cycles, not {expected.name}"
        assert took <= HOLD + 300, f"I7: the switchover took {took} cycles"
        status, fields = await self.bench.driver.registers.read(regs.SwitchoverStatus.offset), regs.SwitchoverStatus
        assert fields.ACTIVE_HOST.get(status) == (to_host if error == Error.NONE else self.old)
        told = fields.BUSY.get(status), fields.DONE.get(status), fields.FAILED.get(status)
        assert told == (0, error == Error.NONE, error != Error.NONE), f"after {Error(error).name} busy, done, failed are {told}"

    async def _all_came(self, first: int, kept: bool = False) -> None:
        """Each number from ``first`` on has come once, in order, and when the host changed it did so once."""
        await self._quiet()
        numbers, hosts = [number for number, _ in self.arrived], [host for _, host in self.arrived]
        lost = [number for number, count in (Counter(range(first, self.sent)) - Counter(numbers)).items() if count]
        assert not lost, f"H56: {len(lost)} posted TLPs are lost, first {lost[0]}"
        assert numbers == list(range(first, self.sent)), "H56: posted TLPs came out twice or in another order"
        changes = [(before, after) for before, after in pairwise(hosts) if before != after]
        assert changes == ([] if kept else [(self.old, 1 - self.old)]), f"the host changed as {changes}"
        self.compared += len(numbers)
        self.arrived.clear()
        if not kept:
            self.old = 1 - self.old

    async def flooded(self) -> None:
        """Posted TLPs in every cycle, and reads: first writes, then interrupts, and then the other way."""
        for places in ((SHARED,), (MSI,)):
            self.places = places
            await self._flooded()
        self.places = (MSI, SHARED)

    async def _flooded(self) -> None:
        first = self.sent
        flood = cocotb.start_soon(self._flood(5000))
        await self.fabric.wait(self.random.randrange(40, 400))
        for tag in OPEN:
            self.read(tag)
        await self.fabric.wait(self.random.randrange(60, 200))
        switch = cocotb.start_soon(self._switch())
        for tag in WAITING:
            await self.fabric.wait(self.random.randrange(20))
            self.read(tag)
        await switch
        await flood
        await self._all_came(first)

    async def open_reads(self) -> None:
        """32 reads open at the old host, and nothing else."""
        first = self.sent
        self.post()
        for tag in OPEN:
            self.read(tag)
        await self.fabric.wait(self.random.randrange(60, 200))
        await self._switch()
        self.post()
        for tag in WAITING:
            self.read(tag)
        await self._all_came(first)

    async def asked_by_the_old_host(self) -> None:
        """The old host reads registers of the device, again and again, until some time; each answer stands behind posted TLPs."""
        first, old, until = self.sent, self.old, self.fabric.cycle + self.random.randrange(800, 2000)
        self.reply_after = self.random.randrange(100, 500)
        self.post()
        self.cpu_read(old)
        await self.fabric.wait(60)
        switch = cocotb.start_soon(self._switch())
        while self.fabric.cycle < until:
            await self.fabric.wait(self.random.randrange(1, 60))
            # What the old host asks after the change is its own affair.
            if not self.cpu_reads[old] and all(host == old for _, host in self.arrived) and not switch.done():
                self.cpu_read(old)
            self.post()
        await switch
        self.post()
        await self._all_came(first)

    async def in_time(self) -> None:
        """A read that is not answered, and a flush that is answered with an error, leave everything as it was."""
        for expected in (Error.TIMEOUT, Error.FLUSH):
            first = self.sent
            self.post()
            self.silent, self.flushes_fail = expected == Error.TIMEOUT, expected == Error.FLUSH
            if self.silent:
                self.read(OPEN[0])
            await self.fabric.wait(100)
            self.silent = False
            switch = cocotb.start_soon(self._switch(expected))
            await self._flood(500)
            await switch
            self.flushes_fail = False
            self.post()
            await self.fabric.wait(3000)
            await self._all_came(first, kept=True)
        driver, first = self.bench.driver, self.sent
        assert await driver.switch_over(self.old) == Error.ALREADY_THERE
        self.post()
        await self._all_came(first, kept=True)

    async def written(self) -> None:
        """Software writes the active host itself: for a device that is quiet, at once."""
        first, control = self.sent, regs.Control
        self.post()
        await self._quiet()
        value = await self.bench.driver.registers.read(control.offset)
        await self.bench.driver.registers.write(control.offset, value ^ control.ACTIVE_HOST.mask)
        assert await self.bench.driver.active_host() == 1 - self.old
        self.post()
        await self._all_came(first)

    def _translated(self) -> list[Tlp]:
        address, (read, swap) = GUEST + MOVING * PAGE, TRANSLATED_TAGS
        tlps = [memory_write(DEVICE, address, self.random.randbytes(200)), memory_read(DEVICE, address + 5, 70, read),
                Tlp(Kind.CAS, DEVICE, swap, address, 4, 0, 0, self.random.randbytes(16))]
        return [replace(tlp, address_type=TRANSLATED) for tlp in tlps]

    async def translated(self) -> None:
        """Translated requests forbid a switchover, end one that runs, and are blocked after it until software says that they are of the new host."""
        driver, write = self.bench.driver, self._translated()[0]
        await driver.unblock()
        for before in (True, False):
            first = self.sent
            if before:
                self.bench.device.queue(write)
                await self.fabric.wait(60)
            switch = cocotb.start_soon(self._switch(Error.OPAQUE))
            if not before:
                await self.fabric.wait(self.random.randrange(30, 100))
                self.bench.device.queue(write)
            self.post()
            await switch
            await self._all_came(first, kept=True)
            assert self.strangers == [(self.old, write)], f"H54: a translated write came out as {self.strangers}"
            self.strangers.clear()
            await driver.forget_opaque()
        first, dropped = self.sent, await driver.counter(regs.Unsupported.offset)
        self.post()
        await self.fabric.wait(20)
        await self._switch()
        for tlp in self._translated():
            self.post()
            self.bench.device.queue(tlp)
        self.post()
        await self._all_came(first)
        assert not self.strangers, f"H54: translated requests came out at the new host: {self.strangers}"
        _, read, swap = self._translated()
        wanted = [answer(read, DEVICE_ID, 1, byte_count=70, lower_address=read.address + 1 & 0x7F), answer(swap, DEVICE_ID, 1, byte_count=8)]
        assert sorted(self.refused, key=lambda tlp: tlp.tag) == wanted, f"the device got {self.refused}, not {wanted}"
        assert await driver.counter(regs.Unsupported.offset) == dropped + 3, "not every translated request that was blocked is counted"
        await driver.unblock()
        self.bench.device.queue(write)
        await self.fabric.wait(200)
        assert self.strangers == [(self.old, write)], f"a translated write came out as {self.strangers} when it was allowed again"
        self.strangers.clear()
        self.refused.clear()
        await driver.forget_opaque()


STEPS = (Run.flooded, Run.open_reads, Run.asked_by_the_old_host, Run.in_time, Run.written, Run.translated)


@cocotb.test(timeout_time=4, timeout_unit="ms")
async def switchover(dut: Any) -> None:
    """``rounds`` of each step in ``steps`` (all without), to and fro."""
    config = BenchConfig("switchover")
    rounds, steps = config.get("rounds", 4), config.get("steps", [step.__name__ for step in STEPS])
    config.refuse_unknown()
    bench = ThreePorts(dut, config, delay=ANSWER[HOST_A])
    setup = Setup(window_base=GUEST, window_pages=PAGES, host_b_offset=OFFSET, msi=(MSI, 1), hold_limit=HOLD, completion_limit=COMPLETION)
    await bench.start_settled()
    await bench.driver.setup(setup)
    run = Run(bench, setup, config.random("switchover"))
    for _ in range(rounds):
        for step in STEPS:
            if step.__name__ in steps:
                await step(run)
    config.write({"checked": {"events": run.compared}, "violations": {}})
