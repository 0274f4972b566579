# amaranth: UnusedElaboratable=no
"""What the gate of the device does with TLPs that a page holds, in states that the benches of the whole design seldom reach."""

import pytest

from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.layouts import Requesters
from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.request_lane import RequestLane
from pagehop_sim.planted import planted
from pagehop_tb.protocol import Kind, Tlp, encode, memory_read, memory_write
from pagehop_tb.simulate import run, seeded

BYTES, PAGE, BASE, PAGES, ROWS, LINES = 16, 4096, 0x40_0000, 64, 16, 64
DEVICE, OTHER, MOVING, STILL = 0x0100, 0x0208, 3, 5
LIMIT, SETTLED = 120, 24      # cycles for which a row or room may be missing; and until a TLP stands where it will wait
HOST_A, HOST_B = 0, 1


def compare_and_swap(page, offset, tag):
    """Of 8 bytes, so that its two operands fill a beat."""
    return Tlp(Kind.CAS, DEVICE, tag, BASE + page * PAGE + offset, 4, 0, 0, bytes(range(16)))


def write(page, requester=DEVICE, size=16, **attributes):
    return memory_write(requester, BASE + page * PAGE, bytes(size), **attributes)


def read(page, tag, requester=DEVICE):
    return memory_read(requester, BASE + page * PAGE, 64, tag)


class Gate:
    """The ingress, with a host that takes all and a table whose rows are ``used``."""
    def __init__(self, dut):
        self.dut, self.used, self.came, self.absorbed, self.atomics, self.given_up = dut, set(), [], 0, [], []
        self.cycle, self.flushes, self.row, self.rows = 0, 0, None, []

    def start(self, ctx):
        dut = self.dut
        for name in ("window", "mapped"):
            ctx.set(dut.settings[name], {"base": BASE // PAGE, "limit": BASE // PAGE + PAGES})
        ctx.set(dut.limit, LIMIT)
        for host in (HOST_A, HOST_B):
            ctx.set(dut.room[host], 0b1111)
            ctx.set(dut.return_room[host], LINES)
            ctx.set(dut.o[host].ready, 1)
            ctx.set(dut.flush[host].clean, 1)

    def guard(self, ctx, **says):
        ctx.set(self.dut.guard[0], {"page": MOVING, "active": 1, **says})

    async def step(self, ctx, cycles=1):
        """The outputs of each cycle are noted, and the table looks up."""
        dut = self.dut
        for _ in range(cycles):
            ctx.set(dut.occupied, self.row in self.used)
            for host in (HOST_A, HOST_B):
                if ctx.get(dut.o[host].valid) and ctx.get(dut.o[host].payload.beat.first):
                    self.came.append(ctx.get(dut.o[host].payload.beat.header))
            self.absorbed += ctx.get(dut.absorb[0].valid)
            if ctx.get(dut.atomic):
                self.atomics.append(ctx.get(dut.atomic_offset))
            if ctx.get(dut.give_up):
                self.given_up.append((self.cycle, ctx.get(dut.row)))
            if ctx.get(dut.allocate):
                self.rows.append(ctx.get(dut.allocate_row))
            self.flushes += sum(ctx.get(dut.flush_request[host]) for host in (HOST_A, HOST_B))
            looks, row = ctx.get(dut.row_enable), ctx.get(dut.row)
            await ctx.tick()
            self.cycle += 1
            self.row = row if looks else self.row

    async def send(self, ctx, tlp):
        beats = max(1, -(-len(tlp.data) // BYTES))
        for beat in range(beats):
            part = tlp.data[beat * BYTES:(beat + 1) * BYTES]
            ctx.set(self.dut.rx.payload, {"data": int.from_bytes(part, "little"), "header": encode(tlp) if beat == 0 else 0,
                                          "dwords": len(part) // 4, "first": beat == 0, "last": beat == beats - 1})
            ctx.set(self.dut.rx.valid, 1)
            while not ctx.get(self.dut.rx.ready):
                await self.step(ctx)
            await self.step(ctx)
        ctx.set(self.dut.rx.valid, 0)


def exercise(step, ingress=DeviceIngress):
    dut = ingress(BYTES, PAGES, rows=ROWS, entries=16, return_lines=LINES, depths=(32, 32, 16), aside=(16, 8), max_payload=128)

    async def bench(ctx):
        gate = Gate(dut)
        gate.start(ctx)
        await step(gate, ctx)
    run(dut, bench)


async def absorbs_writes_alone(gate, ctx):
    """The copy is told of the beats of writes, and only that there was an atomic: its operands are not what it leaves."""
    gate.guard(ctx, absorbs=1, strict=1)
    for tag in range(8):
        await gate.send(ctx, write(MOVING, size=64))
        await gate.send(ctx, compare_and_swap(MOVING, 16 * tag, tag))
        await gate.send(ctx, write(STILL))
        await gate.step(ctx, SETTLED)
        assert (gate.absorbed, gate.atomics) == (4 * (tag + 1), [16 * n for n in range(tag + 1)])


async def is_strict_aside(gate, ctx):
    """A write that was aside loses RO when its page still says so; one to another page keeps it."""
    gate.guard(ctx, closed=1, strict=1)
    await gate.send(ctx, write(MOVING, relaxed_ordering=True))
    await gate.step(ctx, SETTLED)
    assert not gate.came
    gate.guard(ctx, strict=1, committed=1)
    await gate.step(ctx, SETTLED)
    await gate.send(ctx, write(STILL, relaxed_ordering=True))
    await gate.step(ctx, SETTLED)
    assert [header >> 109 & 1 for header in gate.came] == [0, 1]


async def counts(gate, ctx):
    """What marks are set on: of requests in their lane, and aside."""
    def told():
        dut = gate.dut
        return [ctx.get(count) for count in (dut.requests_accepted, dut.requests_left, dut.aside_entered, dut.aside_left)]

    for closed, expected in ((1, [4, 4, 4, 0]), (0, [4, 4, 4, 4]), (0, [8, 8, 4, 4]), (1, [12, 12, 8, 4]), (0, [12, 12, 8, 8])):
        gate.guard(ctx, closed=closed)
        if expected[0] > told()[0]:
            for tag in range(4):
                await gate.send(ctx, compare_and_swap(MOVING, 0, tag) if tag & 1 else read(MOVING, tag))
        await gate.step(ctx, 4 * SETTLED)
        assert told() == expected
        await gate.step(ctx, SETTLED)
        assert told() == expected


async def tells_groups(gate, ctx):
    """Requesters of which software said that they are independent pass what is aside of others, and no other does."""
    ctx.set(gate.dut.settings.groups[0], {"id": OTHER & 0xFF00, "mask": 0xFF00, "enabled": 1})
    gate.guard(ctx, closed=1)
    await gate.send(ctx, write(MOVING))
    sent = (OTHER, OTHER + 1, DEVICE, OTHER ^ 0xFF)
    for count, requester in enumerate(sent, 1):
        await gate.send(ctx, write(STILL, requester))
        await gate.step(ctx, SETTLED)
        assert [header >> 80 & 0xFFFF for header in gate.came] == [one for one in sent[:count] if one != DEVICE]


async def asks_for_no_flush_in_vain(gate, ctx):
    """A write that its page holds is not one that waits for the fence."""
    ctx.set(gate.dut.settings.fence, 1)
    gate.guard(ctx, closed=1)
    for host in (HOST_A, HOST_B):
        ctx.set(gate.dut.flush[host].clean, 0)
    await gate.send(ctx, write(MOVING))
    await gate.step(ctx, 2 * SETTLED)
    assert not gate.flushes and not gate.came
    gate.guard(ctx)
    await gate.step(ctx, SETTLED)
    assert gate.flushes and not gate.came


async def gives_a_row_its_time(gate, ctx):
    """For as long as a request is held by its page, nobody else's row is what it waits for (H24b)."""
    gate.used = set(range(ROWS))
    gate.guard(ctx, closed=1)
    await gate.send(ctx, read(MOVING, 1))
    await gate.step(ctx, 3 * LIMIT)
    assert not gate.given_up
    gate.guard(ctx)
    opened = gate.cycle
    await gate.step(ctx, 2 * LIMIT)
    assert gate.given_up and LIMIT - 6 <= gate.given_up[0][0] - opened <= LIMIT + 12


async def sweeps(gate, ctx):
    """For want of room every request in the table is given up, once, and the request goes on with its own row (H24b)."""
    rng = seeded("sweeps")
    for tag in range(6):
        gate.given_up, gate.rows, gate.came, gate.used = [], [], [], set(range(ROWS))
        await gate.send(ctx, read(STILL, tag))
        await gate.step(ctx, SETTLED)
        own = ctx.get(gate.dut.row)
        await gate.step(ctx, LIMIT // 2)        # the row becomes free before it is given up
        gate.used = {row for row in range(ROWS) if row != own and rng.random() < 0.7}
        for host in (HOST_A, HOST_B):
            ctx.set(gate.dut.return_room[host], 0)
        await gate.step(ctx, LIMIT + 5 * ROWS)
        assert sorted(row for _, row in gate.given_up) == sorted(gate.used) and not gate.came
        gate.used = set()
        for host in (HOST_A, HOST_B):
            ctx.set(gate.dut.return_room[host], LINES)
        await gate.step(ctx, SETTLED)
        assert gate.rows == [own] and len(gate.came) == 1


def bug(component, old, new, **parts):
    """An ingress in which this is changed."""
    changed = planted(component, old, new, **parts)
    return changed if component is DeviceIngress else planted(DeviceIngress, "", "", **{component.__name__: changed})


STEPS = (absorbs_writes_alone, is_strict_aside, counts, tells_groups, asks_for_no_flush_in_vain, gives_a_row_its_time, sweeps)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
@pytest.mark.hazard("H24b", "H24d", "H58")
def test_the_gate(step):
    exercise(step)


BUGS = {
    "operands are absorbed": (absorbs_writes_alone, DeviceIngress, "absorbed[slot] & ~issued.non_posted", "absorbed[slot]"),
    "RO aside": (is_strict_aside, PostedLane, "strict_header(head.beat.header, strict)", "strict_header(head.beat.header, Signal())"),
    "aside backwards": (counts, DeviceIngress, "self.aside_left + self._ends", "self.aside_left - self._ends"),
    "what stands has left": (counts, DeviceIngress, "lane.valid & lane.ready & lane.payload.beat.last", "lane.payload.beat.last"),
    "what stands has come": (counts, DeviceIngress, "decode.o.valid & decode.o.ready & decode.o.payload.beat.first & (decode",
                             "decode.o.payload.beat.first & (decode"),
    "a flush in vain": (asks_for_no_flush_in_vain, PostedLane, "first & go & ~proven & ~settles, 1 <<", "first & ~proven & ~settles, 1 <<"),
    "time of others": (gives_a_row_its_time, RequestLane, "waited.eq(Mux(~found.held & (", "waited.eq(Mux(("),
    "a sweep ends early": (sweeps, RequestLane, "swept.eq(swept + 1)", "swept.eq(swept + 3)"),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name):
    step, *change = BUGS[name]
    with pytest.raises(AssertionError):
        exercise(step, bug(*change))


def test_without_its_mask_nobody_belongs_to_a_group(monkeypatch):
    monkeypatch.setattr(Requesters, "has", lambda self, _: self.enabled & ~self.mask.any())
    with pytest.raises(AssertionError):
        exercise(tells_groups)
