# amaranth: UnusedElaboratable=no
"""Two hosts, an adapter each, one register file of the interposer: what a host reads over PCIe is what the .rdl says."""

import os
import random
from pathlib import Path

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped
from amaranth.sim import Simulator

import pagehop.interposer
from pagehop.registers.adapter import TlpRegisterAdapter
from pagehop.registers.bus import MemoryBus
from pagehop.registers.file import RegisterFile
from pagehop.tlp.stream import TlpBeat
from pagehop_tb.driver import interposer_registers as names
from pagehop_tb.protocol import Kind, decode, encode, memory_read, memory_write

CLOCK = 4e-9
BASES = (0xF000_0000, 0x20_0000_0000)
IDS = (0x0100, 0x0300)


class _Bars(wiring.Component):
    """Two BARs on one register file; the status register shows the last move command, the memories come out."""
    def __init__(self, data_bytes):
        self.file = RegisterFile(Path(pagehop.interposer.__file__).parent / "registers.rdl", clients=2, whole_words=("dirty_take",))
        self.adapters = [TlpRegisterAdapter(data_bytes, self.file.address_bits) for _ in range(2)]
        members = self.adapters[0].signature.members
        super().__init__({
            **{name: members[name].array(2) for name in members if name != "bus"},
            "dirty_take": Out(MemoryBus(12)), "owner": Out(MemoryBus(12)), "starts": Out(8), "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.file = file = self.file
        for number, adapter in enumerate(self.adapters):
            m.submodules[f"adapter_{number}"] = adapter
            connect(m, adapter.bus, file.bus[number])
            for name in ("posted", "non_posted", "completion"):
                connect(m, flipped(getattr(self, name)[number]), getattr(adapter, name))
            m.d.comb += [
                adapter.completer_id.eq(self.completer_id[number]), adapter.base.eq(self.base[number]),
                self.idle_for_read[number].eq(adapter.idle_for_read), self.unsupported[number].eq(adapter.unsupported),
            ]
        connect(m, file.dirty_take, flipped(self.dirty_take))
        connect(m, file.owner, flipped(self.owner))
        m.d.comb += [file.move_status_0.ended.eq(self.starts), self.dropped.eq(file.bus_dropped)]
        with m.If(file.move_command_written & file.move_command.start):
            m.d.sync += self.starts.eq(self.starts + 1)
        return m


class Host:
    """A host that makes one access at a time."""
    def __init__(self, ctx, dut, number, data_bytes):
        self.ctx, self.dut, self.number, self.data_bytes, self.tag = ctx, dut, number, data_bytes, 0
        ctx.set(dut.base[number], BASES[number])
        ctx.set(dut.completer_id[number], IDS[number])

    async def _send(self, port, tlp):
        beat = TlpBeat(self.data_bytes).const({
            "header": encode(tlp), "data": int.from_bytes(tlp.data, "little"), "dwords": len(tlp.data) // 4, "first": 1, "last": 1,
        })
        self.ctx.set(port.payload, beat)
        self.ctx.set(port.valid, 1)
        _, _, ready = await self.ctx.tick().sample(port.ready)
        while not ready:
            _, _, ready = await self.ctx.tick().sample(port.ready)
        self.ctx.set(port.valid, 0)

    async def write(self, offset, value, size=8):
        await self._send(self.dut.posted[self.number], memory_write(9, BASES[self.number] + offset, value.to_bytes(size, "little")))

    async def read(self, offset, size=8):
        """Value, or ``None`` when the answer is UR."""
        while not self.ctx.get(self.dut.idle_for_read[self.number]):
            await self.ctx.tick()
        self.tag = (self.tag + 1) % 1024
        await self._send(self.dut.non_posted[self.number], memory_read(9, BASES[self.number] + offset, size, self.tag))
        port = self.dut.completion[self.number]
        self.ctx.set(port.ready, 1)
        _, _, valid, beat = await self.ctx.tick().sample(port.valid, port.payload)
        while not valid:
            _, _, valid, beat = await self.ctx.tick().sample(port.valid, port.payload)
        self.ctx.set(port.ready, 0)
        completion = decode(beat.header, beat.data.to_bytes(self.data_bytes, "little")[:4 * beat.dwords])
        assert (completion.requester_id, completion.tag, completion.completer_id) == (9, self.tag, IDS[self.number])
        if completion.status:
            assert (completion.kind, completion.status) == (Kind.CPL, 1)
            return None
        assert completion.byte_count == size
        return int.from_bytes(completion.data, "little")


def simulate(dut, benches, background=()):
    simulator = Simulator(dut)
    simulator.add_clock(CLOCK)
    for bench in benches:
        simulator.add_testbench(bench)
    for bench in background:
        simulator.add_testbench(bench, background=True)
    simulator.run()


async def memory(ctx, port, base, cycles):
    """Answer each read of ``port`` with ``base`` plus its index after ``cycles``."""
    ctx.set(port.request.ready, 1)
    while True:
        _, _, valid, payload = await ctx.tick().sample(port.request.valid, port.request.payload)
        if not valid:
            continue
        ctx.set(port.request.ready, 0)
        for _ in range(cycles):
            await ctx.tick()
        ctx.set(port.response.payload.data, base + payload.index)
        ctx.set(port.response.valid, 1)
        await ctx.tick()
        ctx.set(port.response.valid, 0)
        ctx.set(port.request.ready, 1)


def test_both_hosts_read_back_what_they_write_and_a_start_shows_at_once():
    seed = f"{os.environ.get('SEED', '1')}-bar"
    print(f"seed {seed}")
    rng = random.Random(seed)
    dut = _Bars(16)
    started = []

    def host(number, register):
        async def bench(ctx):
            device = Host(ctx, dut, number, 16)
            assert await device.read(names.Identification.offset) == names.Identification.reset
            assert await device.read(names.MoveLimits.offset + 4, 4) == 2500
            for _ in range(12):
                value = rng.getrandbits(64)
                await device.write(register.offset, value)
                assert await device.read(register.offset) == value
                await device.write(register.offset + 4, value >> 7 & 0xFFFF_FFFF, 4)
                assert await device.read(register.offset + 4, 4) == value >> 7 & 0xFFFF_FFFF
                assert await device.read(register.offset, 4) == value & 0xFFFF_FFFF
                # The other host starts moves too, so the count is at least our own.
                before = names.MoveStatus.ENDED.get(await device.read(names.MoveStatus.offset))
                await device.write(names.MoveCommand.offset, names.MoveCommand.START.of(1) | names.MoveCommand.PAGE_SIZE.of(12))
                started.append(number)
                assert names.MoveStatus.ENDED.get(await device.read(names.MoveStatus.offset)) > before
            assert await device.read(0x8000) is None
        return bench

    simulate(dut, [host(0, names.ApertureAOffset), host(1, names.ApertureBOffset)])
    assert len(started) == 24


def test_a_harvest_that_waits_stops_neither_writes_nor_the_other_host():
    dut = _Bars(64)
    order = []

    async def first(ctx):
        device = Host(ctx, dut, 0, 64)
        assert await device.read(names.DIRTY_TAKE.at(5), 4) is None
        assert await device.read(names.DIRTY_TAKE.at(5)) == 1005
        order.append("harvest")

    async def second(ctx):
        device = Host(ctx, dut, 1, 64)
        for value in range(20):
            await device.write(names.WindowBase.offset, value << 12)
            assert await device.read(names.WindowBase.offset) == value << 12
            assert await device.read(names.OWNER.at(4095)) == 4095
        order.append("registers")

    async def dirty(ctx):
        await memory(ctx, dut.dirty_take, 1000, 1500)

    async def owner(ctx):
        await memory(ctx, dut.owner, 0, 2)

    simulate(dut, [first, second], [dirty, owner])
    assert order == ["registers", "harvest"]
