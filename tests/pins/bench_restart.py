"""Bench of the port agents after a failure: what the failed test left on the wires must not reach the next test."""

import cocotb
from bench_pins import CONFIG, finish, make, run

from pagehop_tb.protocol import memory_write


class Planted(Exception):
    """The failure of the first test."""


@cocotb.test(timeout_time=1, timeout_unit="ms", expect_error=Planted)
async def fails_in_mid_traffic(dut):
    """Both ports send long TLPs without end, and the receiver raises in the middle of it: valid is high, beats are half sent."""
    fabric, (device, host, _) = make(dut, CONFIG["seed"], sink_pause=lambda: fabric.random.random() < 0.4)
    seen = []

    def take(tlp):
        seen.append(tlp)
        if len(seen) == 40:
            raise Planted("a model does not like this TLP")

    host.on_tlp = take
    await fabric.start()
    for number in range(200):
        for port in (device, host):
            port.queue(memory_write(0x100, 0x1000 * number, bytes(256)))
    while True:
        await fabric.wait(1000)


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def passes_after_it(dut):
    finish(await run(dut, 300, shuffle=0.3))
