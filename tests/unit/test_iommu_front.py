# amaranth: UnusedElaboratable=no
"""The TLP side of the IOMMU between a device, a host and a translator of random latency."""

import pytest
from front_machine import Machine, Writer, execute

from pagehop.iommu.front import TlpFront
from pagehop_tb.simulate import seeded


def mix(front, name, *, data_bytes=16, count=250, cycles=6000, drains=True):
    """Random TLPs both ways, messages of ours, drains under way."""
    rng = seeded(name)
    dut = front(data_bytes)
    machine, writer = Machine(dut, rng), Writer(rng)
    for _ in range(count):
        machine.device.send(writer.from_device())
        if rng.random() < 0.3:
            machine.host.send(writer.from_host())

    async def bench(ctx):
        while not (machine.empty() and machine.cycle > 100):
            assert machine.cycle < cycles, f"stands still: {machine.up} {machine.answers} {machine.messages}"
            if rng.random() < 0.02:
                machine.message(rng.choice((None, rng.getrandbits(20))), rng.choice((1, 5)), rng.getrandbits(13), rng.getrandbits(16), rng.getrandbits(5))
            await machine.step(ctx, drain=drains and not machine.draining and rng.random() < 0.02)

    execute(dut, bench)
    assert machine.compared > count // 2
    return machine


@pytest.mark.parametrize("data_bytes", [16, 64])
def test_mix(data_bytes):
    machine = mix(TlpFront, f"front/mix/{data_bytes}", data_bytes=data_bytes)
    assert machine.drains > 5
