# amaranth: UnusedElaboratable=no
"""The on-the-side device between a root complex with memory and devices whose pages lead through its windows."""

import pytest
from ots_machine import CLOSE, COMMIT, HOLD, LIMITS, OPEN, OWN, PAGE, TRACK, OtsMachine, Traffic

from pagehop_tb.protocol import FlowClass, memory_read, memory_write
from pagehop_tb.simulate import run, seeded

TARGETS = [0x12345, 0x4_0000_0007, 0x77, 0x10_0000]


def drive(name, bench, data_bytes=16, windows=4, **parts):
    rng = seeded(name)
    machine = OtsMachine(rng, data_bytes=data_bytes, windows=windows, **parts)

    async def whole(ctx):
        await bench(ctx, machine, rng)
        await machine.until(ctx, lambda: not machine.due and machine.link.idle())
        await machine.steps(ctx, 100)
        assert not any(machine.sent.values()), f"not come through: {machine.sent}"

    run(machine.dut, whole)
    return machine


async def opened(ctx, machine, count=None):
    bases = []
    for window in range(machine.windows if count is None else count):
        bases.append(await machine.take_window(ctx, window, TARGETS[window], plain=window & 1))
        assert await machine.order(ctx, window, OPEN) == 0
    return bases


@pytest.mark.parametrize("data_bytes", [16, 64])
def test_requests_come_through_and_are_noted(data_bytes):
    """Addresses, order, answers; and every byte that was written is in the map, no other is."""
    async def bench(ctx, machine, rng):
        bases = await opened(ctx, machine)
        for window in range(4):
            assert await machine.order(ctx, window, TRACK) == 0
        traffic = Traffic(rng, bases)
        tlps = [traffic.one() for _ in range(250)]
        machine.device(*tlps)
        await machine.until(ctx, lambda: machine.link.idle() and not machine.due, 20_000)
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
            for line in range(64):
                bits = await machine.read(ctx, 0x2000 + 512 * window + 8 * line)
                assert bits == sum(1 << byte % 64 for byte in written if byte // 64 == line), f"line {line} of window {window}"
            assert await machine.word(ctx, window, 5) == len(writes) << 32 | len(reads)
            first, last = await machine.word(ctx, window, 3), await machine.word(ctx, window, 4)
            assert 0 < first < last < machine.cycle
            state = await machine.word(ctx, window, 0)
            assert state == TARGETS[window] << 12 | 0x31 | (window & 1) << 2, f"{state:#x}"

    assert drive(f"ots/through/{data_bytes}", bench, data_bytes).compared == 250
