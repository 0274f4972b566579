"""Bench of :class:`echo.Echo`: what goes in comes out; it fails, hangs or stays silent when the config asks for it."""

import json
import os
import random
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def echoes(dut):
    config = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))
    parameters = config["parameters"]
    dut.rst.value = 1
    dut.i__valid.value = 0
    dut.i__payload.value = 0
    dut.o__ready.value = 1
    Clock(dut.clk, 4, unit="ns").start()
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    count = parameters.get("count", 300)
    dut.i__valid.value = 1
    with Path(config["progress_file"]).open("a", encoding="utf-8") as progress:
        sent = []
        for index in range(count):
            dut.i__payload.value = random.getrandbits(504) << 8 | index % 256
            await RisingEdge(dut.clk)
            sent.append(dut.i__payload.value.to_unsigned())
            if index > 1:
                assert dut.o__payload.value.to_unsigned() == sent[-2], f"item {index} differs"
            if index % 100 == 99:
                print(json.dumps({"done": index + 1, "total": count, "text": "echo"}), file=progress, flush=True)
    if parameters.get("write_result", True):
        result = {"checked": {"events": count}, "violations": {"lost": parameters.get("lost", 0)}, "seen": sent[0] % 2**64}
        Path(config["result_file"]).write_text(json.dumps(result), encoding="utf-8")


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def hangs_on_request(_dut):
    parameters = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))["parameters"]
    while parameters.get("hang"):
        await Timer(1, unit="step")
