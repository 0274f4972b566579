# amaranth: UnusedElaboratable=no
"""The on-the-side device between a root complex with memory and devices whose pages lead through its windows."""

import pytest
from ots_machine import CLOSE, COMMIT, COPY, HOLD, LIMITS, OPEN, OWN, PAGE, TRACK, OtsMachine, Traffic

from pagehop.ots.byte_map import ByteMap
from pagehop.ots.decode import OtsDecode
from pagehop.ots.ingress import OtsIngress
from pagehop.ots.monitor import Monitor
from pagehop.ots.top import Ots
from pagehop.ots.window_flush import WindowFlush
from pagehop.ots.window_look import WindowLook
from pagehop.ots.window_posted import WindowPosted
from pagehop.ots.window_requests import WindowRequests
from pagehop.ots.window_table import WindowTable
from pagehop_sim.planted import planted
from pagehop_tb.protocol import FlowClass, memory_read, memory_write
from pagehop_tb.simulate import run, seeded

TARGETS = [0x12345, 0x4_0000_0007, 0x77, 0x10_0000]


def drive(name, bench, data_bytes=16, windows=4, **parts):
    rng = seeded(name)
    machine = OtsMachine(rng, data_bytes=data_bytes, windows=windows, **parts)

    async def whole(ctx):
        await bench(ctx, machine, rng)
        await machine.until(ctx, machine.quiet)
        await machine.steps(ctx, 100)

    run(machine.dut, whole)
    return machine


async def opened(ctx, machine, count=None):
    bases = []
    for window in range(machine.windows if count is None else count):
        bases.append(await machine.take_window(ctx, window, TARGETS[window], plain=window & 1))
        assert await machine.order(ctx, window, OPEN) == 0
    return bases


def through(name, ots=Ots, *, data_bytes=16, count=80):
    """Addresses, order, answers; and every byte that was written is in the map, no other is."""
    async def bench(ctx, machine, rng):
        bases = await opened(ctx, machine)
        for window in range(4):
            assert await machine.order(ctx, window, TRACK) == 0
        traffic = Traffic(rng, bases)
        tlps = [traffic.one() for _ in range(count)]
        machine.device(*tlps)
        await machine.until(ctx, machine.quiet, 20_000)
        await machine.steps(ctx, 100)
        for tlp in tlps:
            if tlp.flow is FlowClass.NON_POSTED:
                got = machine.answers[tlp.requester_id, tlp.tag]
                assert machine.done((tlp.requester_id, tlp.tag)) and all(one.status == 0 for one in got), f"{tlp} was answered {got}"
        for window, base in enumerate(bases):
            ours = [tlp for tlp in tlps if tlp.address >> 12 == base >> 12]
            writes = [tlp for tlp in ours if tlp.is_atomic or tlp.flow is FlowClass.POSTED]
            reads = [tlp for tlp in ours if tlp.flow is FlowClass.NON_POSTED]
            written = set().union(*(machine.bytes_of(tlp) for tlp in writes))
            assert await machine.word(ctx, window, 2) == sum(1 << line for line in {byte // 64 for byte in written})
            for line in {rng.randrange(64) for _ in range(12)} | {byte // 64 for byte in written}:
                bits = await machine.read(ctx, 0x2000 + 512 * window + 8 * line)
                assert bits == sum(1 << byte % 64 for byte in written if byte // 64 == line), f"line {line} of window {window}"
            assert await machine.word(ctx, window, 5) == len(writes) << 32 | len(reads)
            first, last = await machine.word(ctx, window, 3), await machine.word(ctx, window, 4)
            assert 0 < first < last < machine.cycle
            state = await machine.word(ctx, window, 0)
            assert state == TARGETS[window] << 12 | 0x31 | (window & 1) << 2, f"{state:#x}"

    assert drive(name, bench, data_bytes, ots=ots).compared == count


@pytest.mark.parametrize("data_bytes", [16, 64])
def test_requests_come_through_and_are_noted(data_bytes):
    through(f"ots/through/{data_bytes}", data_bytes=data_bytes, count=80 if data_bytes == 16 else 40)


async def expect(ctx, machine, window, op, refusal, page=None):
    assert await machine.order(ctx, window, op, page) == refusal


def holds(ots=Ots):
    """From the moment it is taken, and when it is told to; registers and other classes go on, and what waits comes in order when it opens."""
    async def bench(ctx, machine, rng):
        base = await machine.take_window(ctx, 0, TARGETS[0])
        other = await machine.take_window(ctx, 1, TARGETS[1])
        assert await machine.order(ctx, 1, OPEN) == 0
        for _ in range(2):
            came = machine.compared
            machine.device(*(memory_write(0x100, base + 64 * line, rng.randbytes(64)) for line in range(6)), memory_read(0x100, base, 64, 1))
            machine.device(memory_read(0x101, other, 64, 1))
            await machine.steps(ctx, 150)
            # The read of the other window stands behind writes, too.
            assert machine.compared == came and (await machine.word(ctx, 0, 0)) & 3 == 3
            assert await machine.order(ctx, 0, OPEN) == 0
            await machine.until(ctx, machine.quiet)
            assert machine.compared == came + 8
            assert await machine.order(ctx, 0, HOLD) == 0
        machine.device(memory_read(0x100, base, 64, 1))
        await machine.steps(ctx, 50)
        came = machine.compared
        machine.device(memory_write(0x100, other, rng.randbytes(64)))
        await machine.until(ctx, lambda: machine.compared == came + 1)   # posted TLPs pass requests that wait
        assert await machine.order(ctx, 0, OPEN) == 0

    drive("ots/holds", bench, ots=ots)


@pytest.mark.hazard("H25", "H26")
def test_a_window_holds_what_comes():
    holds()


def limited(ots=Ots):
    async def bench(ctx, machine, rng):
        await machine.write(ctx, LIMITS, 400 | 50_000 << 32)
        base = await machine.take_window(ctx, 2, TARGETS[2])
        started = machine.cycle
        machine.device(memory_write(0x100, base, rng.randbytes(64)), memory_read(0x100, base, 64, 1))
        await machine.until(ctx, machine.quiet)
        assert 300 < machine.cycle - started < 900
        assert (await machine.word(ctx, 2, 0)) & 0xF == 0b1001
        assert await machine.read(ctx, 0xB0) == 1
        assert await machine.order(ctx, 2, HOLD) == 0
        assert (await machine.word(ctx, 2, 0)) & 0xF == 0b0011
        assert await machine.order(ctx, 2, OPEN) == 0
        await machine.steps(ctx, 600)
        assert (await machine.word(ctx, 2, 0)) & 0xF == 0b0001

    drive("ots/limit", bench, ots=ots)


@pytest.mark.hazard("H19")
def test_a_hold_ends_by_its_limit():
    limited()


def commits(ots=Ots):
    """At every cycle between the last write and the order: either the write is at the new page, or the order is refused."""
    async def bench(ctx, machine, rng):
        base = await machine.take_window(ctx, 0, TARGETS[0])
        assert await machine.order(ctx, 0, OPEN) == 0
        refused = 0
        for turn in range(36):
            page = TARGETS[1] + turn
            assert await machine.order(ctx, 0, TRACK) == 0
            machine.device(*(memory_read(0x100, base, 64, tag) for tag in range(3)))
            came = len(machine.link.sent)
            before = machine.places[base >> 12][0]
            await machine.write(ctx, 0x10, page << 12)
            for _ in range(rng.randrange(20)):
                await machine.step(ctx)
            status = await machine.read(ctx, 0x20)
            machine.places[base >> 12] = None      # it may be either, until the answer is known
            machine.either = before, page
            tlps = [memory_write(0x101, base + 8, rng.randbytes(8))] + [Traffic(rng, [base]).atomic(base)] * (rng.random() < 0.2)
            machine.link.pace = 1
            if turn % 3 == 0:
                machine.device(*tlps)
                await machine.steps(ctx, rng.randrange(12))
            await machine.write(ctx, 0x18, COMMIT << 8)
            if turn % 3:
                await machine.steps(ctx, turn // 3)
                machine.device(*tlps)
            machine.link.pace = 0.8
            while not ((after := await machine.read(ctx, 0x20)) ^ status) >> 8 & 0xFF:
                pass
            failed = after >> 4 & 0xF
            assert failed in (0, 3)
            refused += bool(failed)
            await machine.until(ctx, lambda: not any(machine.sent.values()))
            machine.places[base >> 12] = (before if failed else page), 0
            # Only if it came through at the new page, nothing was written at the old one.
            assert failed or machine.went == {page}, f"{machine.went} and not {page:#x}"
            machine.went.clear()
            await machine.until(ctx, machine.quiet)
            assert len(machine.link.sent) > came
        assert 0 < refused < 36

    drive("ots/commit", bench, ots=ots)


@pytest.mark.hazard("H25", "H58")
def test_commit_only_of_what_was_not_written():
    commits()


def closes(ots=Ots):
    """UR for requests, nothing of writes, whatever window is taken afterwards; and orders that make no sense are refused."""
    async def bench(ctx, machine, rng):
        await expect(ctx, machine, 0, OPEN, 2)
        await expect(ctx, machine, 5, OPEN, 4)
        base = await machine.take_window(ctx, 0, TARGETS[0])
        await expect(ctx, machine, 0, 1, 2, TARGETS[1])
        await expect(ctx, machine, 0, 9, 2)
        await expect(ctx, machine, 0, OPEN, 0)
        for turn in range(3):
            machine.device(memory_write(0x100, base, rng.randbytes(64)), memory_read(0x100, base, 64, 1))
            await machine.until(ctx, machine.quiet)
            await expect(ctx, machine, 0, CLOSE, 0)
            machine.places.pop(base >> 12)
            old, base = base, await machine.take_window(ctx, 0, TARGETS[turn + 1])
            assert base != old
            await expect(ctx, machine, 0, OPEN, 0)
            before = machine.memory.read(TARGETS[turn + 1] << 12, PAGE)
            machine.device(memory_write(0x100, old, rng.randbytes(128)), memory_read(0x101, old, 64, 1), memory_write(0x100, base + 512, b"\1" * 64))
            await machine.until(ctx, machine.quiet)
            got, = machine.answers[0x101, 1]
            assert got.status == 1 and not got.data and got.byte_count == 64 and got.completer_id == OWN
            assert machine.memory.read(TARGETS[turn + 1] << 12, 512) == before[:512]
            assert (await machine.read(ctx, 0x80), await machine.read(ctx, 0x88)) == (turn + 1, turn + 1)

    drive("ots/closed", bench, ots=ots)


@pytest.mark.hazard("H27")
def test_a_closed_window_is_nobodys():
    closes()


def flushes(ots=Ots):
    async def bench(ctx, machine, rng):
        base = await machine.take_window(ctx, 3, TARGETS[3])
        machine.device(*(memory_write(0x100, base + 64 * line, rng.randbytes(64)) for line in range(6)))
        await machine.until(ctx, lambda: not machine.link.order and not machine.link.sending)
        await machine.write(ctx, 0x28, 3)
        await machine.steps(ctx, 100)
        assert (await machine.read(ctx, 0x30)) & 1 and not machine.flushes
        assert await machine.order(ctx, 3, OPEN) == 0
        while (await machine.read(ctx, 0x30)) & 1:
            pass
        assert machine.flushes == [(TARGETS[3] << 12, 6)]
        await machine.flush(ctx, 3)
        assert len(machine.flushes) == 2          # it was proven, but who knows where

    drive("ots/flush", bench, ots=ots)


@pytest.mark.hazard("H03", "H13", "H20")
def test_a_flush_proves_what_came_before_it():
    flushes()


@pytest.mark.parametrize("windows", [1, 16])
def test_latency_and_throughput(windows):
    """Five cycles to a window's page and six back, at most twelve; a beat a cycle; sixteen windows as fast as one."""
    async def bench(ctx, machine, rng):
        bases = [await machine.take_window(ctx, window, 0x1000 + window) for window in range(windows)]
        for window in range(windows):
            assert await machine.order(ctx, window, OPEN) == 0
        link = machine.link
        link.pace, link.grants, link.most = 1, 1, (64, 512)
        for _ in range(40):
            await machine.step(ctx)
        came = {}
        machine.delay = lambda: 10
        for name, tlp in (("write", memory_write(0x100, bases[-1], rng.randbytes(64))), ("read", memory_read(0x100, bases[-1], 64, 1))):
            start = machine.cycle
            machine.device(tlp)
            await machine.until(ctx, lambda tlp=tlp, start=start: machine.last.get(tlp.flow, -1) >= start)
            came[name] = machine.last[tlp.flow] - start
            if name == "read":
                middle = machine.cycle
                await machine.until(ctx, lambda: machine.done((0x100, 1)))
                came["completion"] = machine.last[FlowClass.COMPLETION] - middle - 9
        print(came)
        assert came["write"] <= 6 and came["read"] + came["completion"] <= 12, came
        start, before = machine.cycle, machine.came
        machine.device(*(memory_write(0x100, rng.choice(bases) + 64 * (line % 64), rng.randbytes(64)) for line in range(60)))
        await machine.until(ctx, lambda: machine.came == before + 60)
        assert machine.cycle - start <= 60 + 12, f"{machine.cycle - start} cycles for 60 writes of a beat"

    drive(f"ots/speed/{windows}", bench, 64, windows)


@pytest.mark.hazard("H20", "H25")
def test_a_held_window_tells_what_it_has_let_through():
    """While it holds: a flush of what passed ends, and track says in one step which lines were written before, and forgets them."""
    async def bench(ctx, machine, rng):
        base = await machine.take_window(ctx, 0, TARGETS[0])
        assert await machine.order(ctx, 0, OPEN) == 0
        machine.device(memory_write(0x100, base + 100, rng.randbytes(64)))
        await machine.until(ctx, machine.quiet)
        assert await machine.order(ctx, 0, HOLD) == 0
        machine.device(memory_write(0x100, base + 1024, rng.randbytes(64)))
        await machine.steps(ctx, 50)
        await machine.write(ctx, 0x28, 0 | 1 << 8)
        while (await machine.read(ctx, 0x30)) & 1:
            pass
        assert machine.flushes == [(TARGETS[0] << 12, 1)]
        await expect(ctx, machine, 0, COMMIT, 3, TARGETS[1])
        assert await machine.order(ctx, 0, TRACK) == 0
        assert (await machine.word(ctx, 0, 6), await machine.word(ctx, 0, 2)) == (0b110, 0)
        await expect(ctx, machine, 0, COMMIT, 0, TARGETS[1])
        machine.places[base >> 12] = TARGETS[1], 0
        assert await machine.order(ctx, 0, OPEN) == 0
        await machine.until(ctx, machine.quiet)
        assert await machine.word(ctx, 0, 2) == 1 << 16

    drive("ots/held", bench)


def copies(name, ots=Ots, *, error=None, atomics=0.02):
    """The device copies a page while others write to it; returns whether it moved, and the machine."""
    outcome = []

    async def bench(ctx, machine, rng):
        base = await machine.take_window(ctx, 1, TARGETS[1])
        assert await machine.order(ctx, 1, OPEN) == 0
        machine.memory.write(TARGETS[1] << 12, rng.randbytes(PAGE))
        machine.copying = TARGETS[1], TARGETS[2]
        machine.fails = error
        traffic = Traffic(rng, [base], atomics)
        machine.delay = lambda: rng.randint(1, 60)
        await machine.write(ctx, 0x10, TARGETS[2] << 12)
        before = await machine.read(ctx, 0x20)
        await machine.write(ctx, 0x18, 1 | COPY << 8)
        while not ((after := await machine.read(ctx, 0x20)) ^ before) >> 8 & 0xFF:
            machine.device(*(traffic.one() for _ in range(4)))
        machine.device(*(traffic.one() for _ in range(20)))
        await machine.until(ctx, machine.quiet, 20_000)
        await machine.flush(ctx, 1)
        # The copy was proven before the window led there, as far as it was sent then.
        assert outcome or machine.flushes[0][0] == TARGETS[2] << 12 or error is not None
        outcome.append(after >> 4 & 0xF)
        place = TARGETS[1] if outcome[0] else TARGETS[2]
        assert (await machine.word(ctx, 1, 0)) >> 12 == place
        assert machine.memory.read(place << 12, PAGE) == machine.image, "the page is not what was written to it"
        assert not outcome[0] or machine.went <= {TARGETS[1]}

    machine = drive(name, bench, ots=ots)
    return outcome[0], machine


@pytest.mark.hazard("H07", "H09", "H25", "H58")
def test_the_device_copies_while_others_write():
    refusal, machine = copies("ots/copies/0")
    assert refusal == 0 and machine.went == set(TARGETS[1:3])


@pytest.mark.hazard("H14")
def test_a_copy_that_fails_changes_nothing():
    refusal, machine = copies("ots/copy_fails", error=1024)
    assert refusal == 5 and machine.went == {TARGETS[1]}


def passing(ots):
    through("ots/bug", ots, count=60)


def copying(ots):
    copies("ots/copies/0", ots)


def part(kind, old, new):
    """The device with a bug in a part of the top, or in a part of its ingress."""
    broken = {kind.__name__: planted(kind, old, new)}
    if kind in (WindowPosted, WindowRequests, OtsDecode):
        return planted(Ots, "", "", OtsIngress=planted(OtsIngress, "", "", **broken))
    if kind is WindowLook:
        lanes = {lane.__name__: planted(lane, "", "", **broken) for lane in (WindowPosted, WindowRequests)}
        return planted(Ots, "", "", OtsIngress=planted(OtsIngress, "", "", **lanes))
    if kind is ByteMap:
        return planted(Ots, "", "", Monitor=planted(Monitor, "", "", **broken))
    return planted(Ots, "", "", **broken)


BUGS = {
    "a window is open when it is taken": (part(WindowTable, "after.held.eq(1), after.plain", "after.held.eq(0), after.plain"), holds),
    "what holds lets through": (part(WindowLook, "reaches & ~self.entry.held", "reaches"), holds),
    "no timer": (part(WindowTable, "holds.eq(before & (age >= self.limit))", "holds.eq(0)"), limited),
    "written is not looked at": (part(WindowTable, "~self.copied, written)", "~self.copied, 0)"), commits),
    "nothing pauses": (part(WindowTable, "self.pauses.eq(1)", "self.pauses.eq(0)"), commits),
    "the same address again": (part(WindowTable, "now.generation + 1", "now.generation"), closes),
    "generations are not looked at": (part(WindowLook, "& (self.entry.generation == info.generation)", ""), closes),
    "a flush waits for nothing": (part(WindowFlush, "with m.If(came.passed):", "with m.If(1):"), flushes),
    "a flush of another page will do": (part(WindowFlush, "self.insist.eq(1)", "self.insist.eq(0)"), flushes),
    "requests pass writes": (part(WindowRequests, "(passed | self.posted.none)", "1"), holds),
    "the address stays": (part(WindowPosted, "far_header(beat.header, self.entry.target)", "beat.header"), passing),
    "byte enables are not looked at": (part(ByteMap, "enables.eq(access.first_be)", "enables.eq(0b1111)"), passing),
    "what goes on in the next line": (part(ByteMap, "high.any() << following]", "0]"), passing),
    "the engine is not told": (part(OtsIngress, "posted.accesses & absorbs)", "0)"), copying),
}


@pytest.mark.hazard("H03", "H20", "H25", "H26", "H27")
@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name):
    ots, test = BUGS[name]
    with pytest.raises((AssertionError, KeyError, ValueError, IndexError)):
        test(ots)
