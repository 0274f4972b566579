# amaranth: UnusedElaboratable=no
"""The command queue: random commands against what the specification says of each, bit by bit."""

import pytest
from uncached_memory import UncachedMemory

from pagehop.iommu import commands
from pagehop.iommu.command_queue import CommandQueue
from pagehop.iommu.commands import Opcode
from pagehop_sim.planted import planted
from pagehop_tb.simulate import run, seeded

BASE = 0x12_3456 << 12 & ~0xFFFFF
CQEN, CIE, CQMF, CMD_TO, CMD_ILL, FENCE_W_IP = 1 << 0, 1 << 1, 1 << 8, 1 << 9, 1 << 10, 1 << 11
ERRORS = CQMF | CMD_TO | CMD_ILL
VMA, GVMA, FENCE, DDT, PDT, ATS, PRGR, BY_PAGE, BY_ENTRY, PAGES = (
    (1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (64, 0), (64, 1), (65, 0))
#: Bits of a command that are not reserved, from section 4.1, first and last; NL (34) and S (73) are not built.
OPERANDS = {
    VMA: [(10, 10), (12, 31), (32, 32), (33, 33), (44, 59), (74, 125)], GVMA: [(10, 10), (12, 31), (33, 33), (44, 59), (74, 125)],
    FENCE: [(10, 13), (32, 63), (64, 125)], DDT: [(33, 33), (40, 63)], PDT: [(12, 19), (33, 33), (40, 63)],
    ATS: [(12, 33), (40, 127)], PRGR: [(12, 33), (40, 127)], BY_PAGE: [(10, 18), (24, 63), (76, 127)],
    BY_ENTRY: [(10, 18), (24, 63), (67, 127)], PAGES: [(15, 119)],
}
ALWAYS = [VMA, GVMA, FENCE, DDT, PDT]
MODES = {0: 24, 1: 24, 2: 7, 3: 16}


def bits(command, low, high):
    return command >> low & (1 << high - low + 1) - 1


def legal(command, mode, wired, extra):
    """Whether a command is, of the queue with or without executors of ATS commands and of moves."""
    opcode, function = bits(command, 0, 6), bits(command, 7, 9)
    name = next((name for name in OPERANDS if name[0] == opcode and name[1] == function), None)
    if name not in (OPERANDS if extra else ALWAYS):
        return False
    allowed = sum((1 << high - low + 1) - 1 << low for low, high in OPERANDS[name])
    if command >> 10 << 10 & ~allowed or (name == FENCE and command >> 11 & 1 and not wired) or (name == PDT and not command >> 33 & 1):
        return False
    has_device = name == BY_PAGE or (name in (DDT, PDT) and command >> 33 & 1)
    return not (has_device and bits(command, 40, 63) >> MODES[mode])


class Machine:
    """Software, memory and the rest of the IOMMU around a queue. All that the queue does is compared with what the command at ``head`` asks for."""
    def __init__(self, dut, rng, *, extra=False, latency=None, wired=0, mode=3):
        self.dut, self.rng, self.extra, self.wired, self.mode = dut, rng, extra, wired, mode
        self.memory = UncachedMemory(dut.memory, rng, latency)
        self.calm = latency is not None
        self.cycle, self.compared = 0, 0
        self.log2, self.head, self.tail, self.on = 1, 0, 0, False
        self.commands, self.expected = {}, None
        self.stale = self.stale_next = self.draining = 0
        self.drain_fails, self.drain_wait, self.given_up, self.pending = False, None, False, {"ats": [], "modify": []}
        self.writes, self.seen = [], dict.fromkeys(("cqmf", "cmd_to", "cmd_ill", "off", "wrapped"), 0)
        self.stuck = False

    @property
    def size(self):
        return 2 << self.log2 - 1

    def put(self, index, command):
        self.commands[index] = command
        for half in range(2):
            self.memory.words[(BASE + 16 * index) // 8 + half] = command >> 64 * half & (1 << 64) - 1

    def events_of(self, command):
        """What a legal command does besides moving ``head``."""
        name = bits(command, 0, 6), bits(command, 7, 9)
        if name[0] == 1:
            paged = name == VMA and bits(command, 10, 10)
            return [("pages", paged, bits(command, 74, 74 + 37) if paged else None)]
        if name[0] == 3:
            return [("contexts", bits(command, 33, 33), bits(command, 40, 63) if bits(command, 33, 33) else None)]
        if name == FENCE:
            drain = [("drain",)] if bits(command, 12, 13) else []
            store = [("store", bits(command, 64, 125) << 2, bits(command, 32, 63))] if bits(command, 10, 10) else []
            return drain + store
        return [("ats" if name[0] == 4 else "modify", command)]

    def fails(self, event):
        return event[0] == "store" and (event[1] >> 56 or event[1] // 64 in self.memory.denied)

    def begin(self):
        """What is expected of the command at ``head``: the events, and the error in which they end."""
        command, address = self.commands[self.head], BASE + 16 * self.head
        bad = address // 64 in self.memory.denied or self.memory.corrupt & {address // 8, address // 8 + 1}
        if bad:
            return [], "cqmf"
        if not legal(command, self.mode, self.wired, self.extra):
            return [], "cmd_ill"
        events = self.events_of(command)
        if bits(command, 0, 6) == 2 and self.given_up:
            return [event for event in events if event[0] == "drain"], "cmd_to"
        if events and self.fails(events[-1]):
            return events[:-1] + [event for event in events[-1:] if not event[1] >> 56], "cqmf"
        return events, None

    def event(self, *event):
        assert self.on and self.head != self.tail, f"{event} of a command that is not there"
        if self.expected is None:
            self.expected = self.begin()
        assert self.expected[0] and self.expected[0][0] == event, f"{event} and not {self.expected} at {self.head}: {self.commands[self.head]:#x}"
        self.expected[0].pop(0)
        self.compared += 1

    async def step(self, ctx):
        dut, rng = self.dut, self.rng
        write = self.writes.pop(0) if self.writes else None
        for name in ("tail", "csr"):
            port = getattr(dut, f"{name}_write")
            hit = write is not None and write[0] == name
            ctx.set(port.strobe, 0xF if hit else 0)
            ctx.set(port.data, write[1] if hit else rng.getrandbits(32))
        self.stale = self.stale_next = max(0, self.stale_next - 1)
        ctx.set(dut.stale, self.stale > 0 or self.stuck)
        drained = self.draining and self.drain_wait == 0
        self.drain_wait = max(0, self.drain_wait - 1) if self.draining else None
        ctx.set(dut.drained, bool(drained))
        ctx.set(dut.drain_failed, self.drain_fails if drained else rng.getrandbits(1))
        self.draining = self.draining and not drained
        self.executors(ctx)
        self.memory.before(ctx)
        stores = len(self.memory.stores)
        self.watch(ctx)
        self.memory.after(ctx)
        for address, data, _ in self.memory.stores[stores:]:
            self.quiet()
            self.event("store", address, int.from_bytes(data, "little"))
        await ctx.tick()
        self.cycle += 1
        self.registers(ctx, write)

    def quiet(self):
        assert not self.stale and not self.draining and not any(self.pending.values()), "a fence does not wait"

    def executors(self, ctx):
        for name in self.pending if self.extra else ():
            port, waits = getattr(self.dut, name), self.pending[name]
            waits[:] = [cycles - 1 for cycles in waits]
            expired = 0 in waits and not self.calm and self.rng.random() < 0.1
            self.given_up |= expired
            waits[:] = [cycles for cycles in waits if cycles > 0]
            ctx.set(port.expired, expired)
            ctx.set(port.pending, bool(waits))
            ctx.set(port.command.ready, self.rng.random() < 0.5)

    def watch(self, ctx):
        dut = self.dut
        if ctx.get(dut.invalidate_pages):
            paged = ctx.get(dut.pages.paged)
            self.event("pages", paged, ctx.get(dut.pages.page) if paged else None)
            self.stale_next = self.rng.choice((0, 0, 3, 30)) if not self.calm else 0
        if ctx.get(dut.invalidate_contexts):
            named = ctx.get(dut.device_named)
            self.event("contexts", named, ctx.get(dut.device_id) if named else None)
            self.stale_next = self.rng.choice((0, 0, 3, 30)) if not self.calm else 0
        if ctx.get(dut.drain):
            self.quiet()
            self.event("drain")
            self.draining, self.drain_wait = True, 0 if self.calm else self.rng.randrange(20)
            self.drain_fails = not self.calm and self.rng.random() < 0.1
            if self.drain_fails:
                self.given_up, self.expected = True, ([], "cmd_to")
        for name in self.pending if self.extra else ():
            port = getattr(dut, name).command
            if ctx.get(port.valid) and ctx.get(port.ready):
                self.event(name, ctx.get(port.payload if name == "modify" else port.payload.as_value()))
                self.pending[name].append(self.rng.choice((1, 2, 40)))

    def registers(self, ctx, write):
        """``head`` and ``cqcsr`` after a cycle in which software wrote ``write``."""
        dut, csr, head = self.dut, ctx.get(self.dut.csr), ctx.get(self.dut.head)
        if not self.on:
            assert head == self.head or (csr.cqon and head == 0)
            self.head = head
        elif head != self.head:
            assert self.head != self.tail and head == (self.head + 1) % self.size, f"head goes from {self.head} to {head}"
            expected, self.expected = self.expected or self.begin(), None
            assert expected == ([], None), f"head passes {self.head}, where {expected} was to come"
            command = self.commands[self.head]
            if bits(command, 0, 6) == 2:
                self.quiet()
                assert not self.memory.busy or not bits(command, 10, 10)
                assert csr.fence_w_ip or not bits(command, 11, 11)
            self.seen["wrapped"] += head == 0
            self.head = head
            self.compared += 1
        for name in ("cqmf", "cmd_to", "cmd_ill"):
            if csr[name] and not self.csr[name]:
                expected, self.expected = self.expected or self.begin(), None
                assert expected == ([], name) and head == self.head, f"{name} at {self.head}, where {expected} was to come"
                self.seen[name] += 1
                self.given_up &= name != "cmd_to"
                self.compared += 1
        if self.on and not csr.cqon:
            assert not csr.cqen and not self.memory.busy and self.expected is None and not self.draining
        if not self.on and csr.cqon:
            assert not any(csr[name] for name in ("cqmf", "cmd_to", "cmd_ill", "fence_w_ip")) and head == 0
            self.given_up = False
        self.on = bool(csr.cqon)
        if write is not None and write[0] == "tail":
            self.tail = write[1] % self.size
            assert ctx.get(dut.tail) == self.tail
        self.csr = csr

    async def write(self, ctx, name, value):
        self.writes.append((name, value))
        while self.writes:
            await self.step(ctx)

    async def until(self, ctx, done, limit=4000):
        since = self.cycle
        while not done():
            await self.step(ctx)
            assert self.cycle - since < limit, f"the queue stands still at {self.head}, with {self.csr}, {self.expected}"

    async def enable(self, ctx, log2):
        self.log2 = log2
        ctx.set(self.dut.base, {"log2sz": log2 - 1, "ppn": BASE >> 12})
        ctx.set(self.dut.wired, self.wired)
        ctx.set(self.dut.mode, self.mode)
        self.csr = ctx.get(self.dut.csr)
        for _ in range(3):
            await self.step(ctx)
        await self.write(ctx, "tail", 0)
        await self.write(ctx, "csr", CQEN | CIE)
        await self.until(ctx, lambda: self.on and not self.csr.busy)

    async def publish(self, ctx, new):
        for command in new:
            self.put(self.tail, command)
            await self.write(ctx, "tail", self.tail + 1 & self.size - 1 | self.rng.getrandbits(32) << self.log2 & 0xFFFF_FFFF)

    def plant(self, new):
        """Perhaps something goes wrong with the memory of a command, or where a fence stores."""
        kind, number = self.rng.randrange(12), self.rng.randrange(len(new))
        address = BASE + 16 * ((self.tail + number) % self.size)
        if kind == 0:
            self.memory.corrupt.add(address // 8 + self.rng.randrange(2))
        if kind == 1:
            self.memory.denied.add(address // 64)
        if kind == 2:
            self.memory.denied |= {(bits(command, 64, 125) << 2) // 64 for command in new if bits(command, 0, 6) == 2}

    async def recover(self, ctx):
        """After an error: nothing happens until software has cleared it; then the command counts that is there now."""
        for _ in range(self.rng.randrange(1, 9)):
            await self.step(ctx)
        assert ctx.get(self.dut.interrupt)
        if not (self.csr.cmd_to or self.rng.random() < 0.3) or self.csr.cmd_ill:
            self.put(self.head, self.rng.choice((1, 3)))
        if self.rng.random() < 0.5:
            for number in range(1, (self.tail - self.head) % self.size):
                self.put((self.head + number) % self.size, random_command(self.rng, self.extra, self.wired))
        self.memory.denied.clear()
        self.memory.corrupt.clear()
        await self.write(ctx, "csr", CQEN | CIE | ERRORS | self.rng.choice((0, FENCE_W_IP)))


def random_command(rng, extra, wired):
    """A command that is legal in most cases."""
    name = rng.choice([VMA, GVMA, FENCE, FENCE, DDT, PDT] + ([ATS, PRGR, BY_PAGE, BY_ENTRY, PAGES] if extra else []))
    command = name[0] | name[1] << 7
    for low, high in OPERANDS[name]:
        command |= rng.choice((0, rng.getrandbits(high - low + 1))) << low
    if name == FENCE:
        command |= rng.randrange(2) << 10
        command &= ~(0 if wired else 1 << 11) & ~(rng.choice((0xFF, 0xFF, 0)) << 118)
    if name in (DDT, PDT):
        command = command & ~(0xFF << 56) | (name == PDT) << 33
    if name == BY_PAGE:
        command &= ~(0xFF << 56)
    return command ^ (1 << rng.randrange(128) if rng.random() < 0.04 else 0)


def full_house(dut, name, *, extra, rounds=3, count=150):
    """Random commands in queues of several sizes, with errors, and the queue switched off amid them."""
    rng = seeded(name)
    machine = Machine(dut, rng, extra=extra, wired=rng.randrange(2))

    async def bench(ctx):
        for turn in range(rounds):
            await machine.enable(ctx, (1, 2, 3, 5, 9)[turn % 5])
            left = count
            while left:
                room = (machine.head - machine.tail - 1) % machine.size
                if room and rng.random() < 0.3:
                    new = [random_command(rng, extra, machine.wired) for _ in range(min(room, left, rng.choice((1, 2, 9))))]
                    left -= len(new)
                    if machine.head == machine.tail:      # nothing of these has been read
                        machine.plant(new)
                    await machine.publish(ctx, new)
                await machine.step(ctx)
                if machine.csr.cqmf or machine.csr.cmd_to or machine.csr.cmd_ill:
                    await machine.recover(ctx)
            if turn % 2:
                await machine.until(ctx, lambda: machine.head == machine.tail or machine.csr.cqmf or machine.csr.cmd_to or machine.csr.cmd_ill)
            await machine.write(ctx, "csr", 0)
            await machine.until(ctx, lambda: not machine.on and not machine.csr.busy)
            machine.seen["off"] += 1
            machine.memory.denied.clear()
            machine.memory.corrupt.clear()

    run(dut, bench)
    return machine


@pytest.mark.parametrize("extra", [False, True], ids=["alone", "executors"])
def test_random_commands_do_what_the_specification_says(extra):
    machine = full_house(CommandQueue(ats=extra, modify=extra, fence_bits=10), f"commands/{extra}", extra=extra, rounds=7)
    assert machine.compared > 1500 and all(count > 3 for name, count in machine.seen.items() if extra or name != "cmd_to"), machine.seen


def flips(dut, names, *, extra, wired, mode, name):
    """Each command, with few and with all operands, with each bit changed in turn."""
    rng, seen = seeded(name), [0, 0]
    machine = Machine(dut, rng, extra=extra, latency=1, wired=wired, mode=mode)

    async def bench(ctx):
        await machine.enable(ctx, 9)
        for chosen in names:
            for filled in (0, 1):
                base = chosen[0] | chosen[1] << 7 | (chosen == PDT) << 33
                for low, high in OPERANDS[chosen] if filled else ():
                    base |= (1 << high - low + 1) - 1 << low
                if filled and chosen in (DDT, PDT, BY_PAGE):
                    base &= ~(0xFFFFFF << 40) | (1 << 40 + MODES[mode]) - 1
                if chosen == FENCE:
                    base &= ~(0xFF << 118) & ~(0 if wired else 1 << 11)
                await machine.publish(ctx, [base ^ 1 << bit for bit in range(118 if chosen == FENCE else 128)])
                seen[0] += 128
                while machine.head != machine.tail:
                    await machine.until(ctx, lambda: machine.head == machine.tail or machine.csr.cmd_ill, 4000)
                    if machine.csr.cmd_ill:
                        seen[1] += 1
                        machine.put(machine.head, 1)
                        await machine.write(ctx, "csr", CQEN | CIE | CMD_ILL)

    run(dut, bench)
    return seen


@pytest.mark.parametrize(("extra", "wired", "mode"), [(False, 0, 2), (True, 1, 3)], ids=["alone", "executors"])
def test_every_reserved_bit_and_encoding_is_refused(extra, wired, mode):
    names = OPERANDS if extra else ALWAYS
    tried, refused = flips(CommandQueue(ats=extra, modify=extra, fence_bits=10), names, extra=extra, wired=wired, mode=mode, name=f"flips/{extra}")
    assert refused > 400 and tried - refused > 400, (tried, refused)


@pytest.mark.parametrize("latency", [1, 10, 50])
def test_an_invalidation_and_a_fence_take_the_cycles_of_the_documentation(latency):
    dut = CommandQueue()
    machine, took = Machine(dut, seeded("cycles"), latency=latency), []

    async def bench(ctx):
        await machine.enable(ctx, 6)
        machine.put(0, VMA[0] | 1 << 10 | 0x12345 << 74)
        machine.put(1, FENCE[0] | 1 << 10 | 7 << 32 | 0x4000 << 64)
        since = machine.cycle
        await machine.write(ctx, "tail", 2)
        await machine.until(ctx, lambda: machine.head == 2)
        took.append(machine.cycle - since)

    run(dut, bench)
    assert took == [17 + 2 * latency] and took[0] <= 20 + 2 * latency


@pytest.mark.parametrize("what", ["stale", "drain"])
def test_a_fence_does_not_wait_for_ever(what):
    dut = CommandQueue(fence_bits=6)
    machine = Machine(dut, seeded("timer"), latency=3)

    async def bench(ctx):
        await machine.enable(ctx, 3)
        machine.stuck = what == "stale"
        machine.put(0, FENCE[0] | 3 << 12)
        machine.given_up = True         # what ends in cmd_to
        await machine.write(ctx, "tail", 1)
        if what == "drain":
            await machine.until(ctx, lambda: machine.draining)
            machine.draining = False
        else:
            machine.expected = [], "cmd_to"
        since = machine.cycle
        await machine.until(ctx, lambda: machine.csr.cmd_to)
        assert machine.head == 0 and 60 < machine.cycle - since < 90
        machine.stuck = False
        await machine.write(ctx, "csr", CQEN | CMD_TO)
        await machine.until(ctx, lambda: machine.head == 1)

    run(dut, bench)


def test_limit_of_a_fence_must_be_in_range():
    with pytest.raises(ValueError, match=r"^A fence must wait 2 to the power of 4 to 48 cycles, not of 3$"):
        CommandQueue(fence_bits=3)


@pytest.mark.parametrize("change", [
    ("self._there.bit_select(self._slot, 1).eq(0),", ""), ("with m.If(~self.stale):", "with m.If(1):"), ('m.next = "drain"', 'm.next = "complete"'),
    ("with m.If(self.memory.d.payload.denied):", "with m.If(0):"), ("bad | (beat[0] & self._bad.bit_select(place, 1))", "bad"),
    (" & ~Mux(upto, every << self.tail[:2], 0)", ""), ("[self._there.eq(0), self._wanted", "[self._wanted"), ("~stopped & ahead", "ahead"),
    ("pages.av & ~pages.function[0]", "pages.av"),
    ("(self.head + 1) & self._mask", "self.head + 1"),
    ("with m.If(~self._fetching):\n                m.d.sync += [self.csr.cqon", "with m.If(1):\n                m.d.sync += [self.csr.cqon"),
    ("fence.address[ADDRESS_BITS - SIZE_STORE:].any()", "0"), ("with m.If(self.drain_failed):", "with m.If(0):"),
    ("Mux(fence.address[0], 0xF0, 0x0F)", "0x0F"),
    ("self.device_named.eq(contexts.dv)", "self.device_named.eq(1)"),
    ("with m.If(fence.wsi):", "with m.If(0):"), ("self.head.eq(0), self.csr.cqon", "self.csr.cqon"),
    ("overwritten(self.tail, self.tail_write) & self._mask", "overwritten(self.tail, self.tail_write)"),
    ("with m.Elif(~self._fetching):\n                m.next = \"store\"", "with m.Else():\n                m.next = \"store\""),
], ids=["executed again", "not stale", "not drained", "store denied", "one corrupt word", "unpublished", "executed as it was",
        "goes on after an error", "page of a guest", "no wrap", "off amid a read", "beyond memory", "drain believed", "other half",
        "all devices", "no interrupt", "head stays", "tail too far", "store amid a read"])
def test_planted_bug_is_found(change):
    with pytest.raises(AssertionError):
        full_house(planted(CommandQueue, *change)(fence_bits=10), "commands/bug", extra=False, rounds=10)


@pytest.mark.parametrize("change", [
    ("settle\"), m.If(~pending):", "settle\"), m.If(1):"), ("with m.If(self._expired):", "with m.If(0):"), ("m.d.sync += self._expired.eq(0)", ""),
    ("with m.If(executor.command.ready):", "with m.If(1):"),
], ids=["executor pending", "given up", "given up for ever", "handed over"])
def test_planted_bug_with_executors_is_found(change):
    with pytest.raises(AssertionError):
        full_house(planted(CommandQueue, *change)(ats=True, modify=True, fence_bits=10), "commands/bug", extra=True, rounds=10)


@pytest.mark.parametrize(("command", "change"), [
    (GVMA, ("~(function[0] & pages.pscv)", "1")), (PDT, ("~contexts.dv | contexts.process[8:].any()", "contexts.process[8:].any()")),
    (DDT, ("contexts.process.any()) | (contexts.dv & wide)", "0) | (contexts.dv & wide)")), (DDT, ("(contexts.dv & wide)", "wide")),
    (DDT, ("is_too_wide(contexts.device_id, mode)", "is_too_wide(contexts.device_id & ~0x80, mode)")),
    (FENCE, ("(wired | ~fence.wsi)", "1")), (FENCE, ("~function.any() &", "")),
], ids=["PSCV", "DV", "PID", "DID without DV", "WSI", "DID", "function"])
def test_planted_bug_in_what_is_legal_is_found(command, change):
    broken = planted(CommandQueue, "", "", kind_of=planted(commands.kind_of, *change))
    with pytest.raises(AssertionError):
        flips(broken(fence_bits=10), [command], extra=False, wired=0, mode=2, name="flips/bug")


def test_opcodes_are_those_of_the_specification():
    assert {one.name: one.value for one in Opcode} == {"IOTINVAL": 1, "IOFENCE": 2, "IODIR": 3, "ATS": 4, "MODIFY": 64, "MODIFY_PAGES": 65}
