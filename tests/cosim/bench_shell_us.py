"""Bench of the adapter to the UltraScale+ block: cocotbext-pcie's root complex and model of the block outside, a port agent as the core inside."""

import json
import os
from pathlib import Path
from random import Random
from types import SimpleNamespace

import cocotb
from cocotbext.axi import AxiStreamBus
from cocotbext.pcie.core import RootComplex
from cocotbext.pcie.core.tlp import CplStatus, TlpType
from cocotbext.pcie.core.tlp import Tlp as HostTlp
from cocotbext.pcie.core.utils import PcieId
from cocotbext.pcie.xilinx.us import UltraScalePlusPcieDevice, usp_model

from pagehop_tb.pins import BeatFormat, CreditConfig, Fabric, PortCredits, TlpPortAgent, bursts, sparse
from pagehop_tb.protocol import FlowClass, Kind, Tlp, answer, byte_mask, expand_byte_enables, memory_read, memory_write, read_completions

CONFIG = json.loads(Path(os.environ["PAGEHOP_CONFIG"]).read_text(encoding="utf-8"))
SEED = CONFIG["seed"]
STRADDLE = CONFIG["parameters"].get("rc_straddle", True)
BAR_BYTES = {0: 1 << 16, 2: 1 << 20}
CHECKED = {"events": 0}


async def _nothing():
    """The clock is the fabric's."""


usp_model.Clock = lambda *_, **__: SimpleNamespace(start=_nothing)


class Core:
    """The core behind the adapter: memory in two BARs, reads answered in random pieces, and reads and writes of its own."""

    def __init__(self, fabric, agent, random):
        self.fabric, self.agent, self.random = fabric, agent, random
        self.bars = {bar: bytearray(size) for bar, size in BAR_BYTES.items()}
        self.requests, self.waiting, self.status = [], {}, 0
        self.before_answer = None
        self.tags = list(range(256))
        agent.on_tlp = self.received

    def received(self, tlp):
        CHECKED["events"] += 1
        if tlp.is_completion:
            self.waiting[tlp.tag].append(tlp)
            return
        self.requests.append(tlp)
        bar, offset = tlp.address >> 60, tlp.address & (1 << 60) - 1
        memory = self.bars[bar]
        if tlp.kind is Kind.MWR:
            mask = byte_mask(expand_byte_enables(tlp), len(tlp.data))
            for place, (value, enabled) in enumerate(zip(tlp.data, mask, strict=True)):
                if enabled:
                    memory[offset + place] = value
            return
        if self.before_answer is not None:
            self.before_answer()
        if self.status:
            self.agent.queue(answer(tlp, 0x100, self.status, byte_count=4 * tlp.length))
            return
        data = bytes(memory[offset:offset + 4 * tlp.length])
        for completion in read_completions(tlp, data, 0x100, 64, 256, lambda most: self.random.randint(1, most)):
            self.agent.queue(completion)

    async def finished(self, tag):
        """Completions of the request with this tag, when all have come."""
        while not (found := self.waiting[tag]) or not self._whole(found):
            await self.fabric.wait(4)
        del self.waiting[tag]
        self.tags.append(tag)
        return found

    @staticmethod
    def _whole(found):
        last = found[-1]
        return bool(last.status) or not last.data or last.byte_count <= 4 * last.length - (last.lower_address & 3)

    async def ask(self, make):
        """Send what ``make`` returns for a tag, and return its completions."""
        while not self.tags:
            await self.fabric.wait(4)
        tag = self.tags.pop(self.random.randrange(len(self.tags)))
        self.waiting[tag] = []
        self.agent.queue(make(tag))
        return await self.finished(tag)

    async def read(self, address, size):
        """Read host memory."""
        found = await self.ask(lambda tag: memory_read(0x100, address, size, tag, relaxed_ordering=self.random.random() < 0.3))
        assert all(tlp.status == 0 for tlp in found), found
        data = b"".join(tlp.data for tlp in found)
        start = address & 3
        return data[start:start + size]


class Link:
    """Root complex and block at the adapter ``dut``. ``bars``: sizes; all but the first are prefetchable, of 64 bits."""

    def __init__(self, dut, bars=None):
        self.dut, self.random = dut, Random(SEED)
        self.fabric = Fabric(dut.clk, dut.rst, seed=SEED)
        self.root = RootComplex()
        self.root.max_payload_size = 2
        self.block = UltraScalePlusPcieDevice(
            pcie_generation=3, pcie_link_width=16, user_clk_frequency=250e6, max_payload_size=512, enable_extended_tag=True, rc_straddle=STRADDLE,
            user_clk=dut.clk, pcie_rq_seq_num0=dut.pcie_rq_seq_num0, pcie_rq_seq_num_vld0=dut.pcie_rq_seq_num_vld0,
            pcie_rq_seq_num1=dut.pcie_rq_seq_num1, pcie_rq_seq_num_vld1=dut.pcie_rq_seq_num_vld1, pcie_cq_np_req=dut.pcie_cq_np_req,
            cfg_bus_number=dut.cfg_bus_number, cfg_fc_sel=0b100,
            **{f"{name}_bus": AxiStreamBus.from_prefix(dut, f"{name}_") for name in ("rq", "rc", "cq", "cc")})
        for bar, size in (bars or BAR_BYTES).items():
            self.block.functions[0].configure_bar(bar, size, ext=bar > 0, prefetch=bar > 0)
        self.root.make_port().connect(self.block)
        # The model leaves these to itself and never sets them.
        dut.pcie_tfc_nph_av.value = 15
        dut.pcie_tfc_npd_av.value = 15
        self.shared = 0   # beats of RC in which a completion begins in the middle

    async def start(self):
        """Reset, enumeration, and the device made a bus master."""
        await self.fabric.start()
        await self.fabric.wait(20)
        cocotb.start_soon(self._watch())
        await self.root.enumerate()
        self.device = self.root.find_device(self.block.functions[0].pcie_id)
        await self.device.enable_device()
        await self.device.set_master()
        # All 8 bits of a tag.
        self.block.functions[0].pcie_cap.extended_tag_field_enable = True

    async def _watch(self):
        """A TLP on a stream to the block has no gaps; nothing is dropped or lost."""
        amid = {"rq": False, "cc": False}
        while True:
            await self.fabric.wait(1)
            for name in amid:
                valid, ready, last = (int(getattr(self.dut, f"{name}__{signal}").value) for signal in ("tvalid", "tready", "tlast"))
                assert valid or not amid[name], f"{name}: tvalid fell during a TLP"
                if valid and ready:
                    amid[name] = not last
            if int(self.dut.rc__tvalid.value) and int(self.dut.rc__tready.value):
                user = int(self.dut.rc__tuser.value)
                self.shared += (user >> 68 & 3) == 2 or bool(user >> 65 & 1)
            assert not int(self.dut.dropped.value) and not int(self.dut.lost.value)


class Bench(Link):
    """The link, the adapter and a port agent as the core."""

    def __init__(self, dut, granted=None, **changes):
        super().__init__(dut)
        self.agent = TlpPortAgent(dut, "core", self.fabric, BeatFormat(64), granted, mps=512, seed=SEED, **changes)
        self.core = Core(self.fabric, self.agent, self.random)

    async def finish(self):
        """Everything comes to rest, and all credits back; write the result."""
        for _ in range(500):
            await self.fabric.wait(10)
            if self.agent.idle and not self.agent.unreturned():
                break
        else:
            raise AssertionError(f"the port does not come to rest, credits missing: {self.agent.unreturned()}")
        write_result()


def write_result():
    Path(CONFIG["result_file"]).write_text(json.dumps({"checked": CHECKED, "violations": {}}), encoding="utf-8")


async def bar_traffic(bench, bar, count, low, high):
    """Random reads and writes of one part of a BAR, against a copy of it."""
    window, random = bench.device.bar_window[bar], Random(f"{SEED}-{bar}-{low}")
    copy = bytearray(high - low)
    for _ in range(count):
        size = random.choice((1, 2, 3, 4, 7, 8, 12, 31, 64, 128, 200, 256, 600))
        start = random.randrange(low, high - size)
        if random.random() < 0.5:
            data = random.randbytes(size)
            copy[start - low:start - low + size] = data
            await window.write(start, data)
        else:
            assert await window.read(start, size) == copy[start - low:start - low + size], (bar, start, size)


async def gathered(*coroutines):
    for task in [cocotb.start_soon(coroutine) for coroutine in coroutines]:
        await task


@cocotb.test(timeout_time=400, timeout_unit="us")
async def bars(dut):
    """Enumeration, and reads and writes of both BARs at the same time."""
    bench = Bench(dut, source_pause=sparse(SEED, 0.2), sink_pause=bursts(SEED, 9))
    await bench.start()
    await gathered(*(bar_traffic(bench, bar, 40, low, low + 0x4000) for bar in BAR_BYTES for low in (0, 0x8000)))
    assert int(dut.own_id.value) == int(bench.block.functions[0].pcie_id)
    await bench.finish()


async def dma_traffic(bench, region, base, count, low, high):
    """Random writes and reads of one part of a host's memory. A read sees every write before it."""
    random, copy = Random(f"{SEED}-dma-{low}"), bytearray(high - low)
    for _ in range(count):
        size = random.choice((1, 3, 4, 12, 44, 48, 52, 60, 64, 68, 112, 128, 200, 256, 512))
        start = random.randrange(low, high - size)
        size = min(size, 4096 - (base + start) % 4096)
        data = random.randbytes(size)
        copy[start - low:start - low + size] = data
        bench.core.agent.queue(memory_write(0x100, base + start, data))
        if random.random() < 0.6:
            start = random.randrange(low, high - 600)
            size = min(random.choice((1, 5, 64, 256, 512)), 4096 - (base + start) % 4096)
            assert await bench.core.read(base + start, size) == copy[start - low:start - low + size], (start, size)
        elif random.random() < 0.1:
            found = await bench.core.ask(lambda tag: memory_read(0x100, base + low, 0, tag))
            assert len(found) == 1 and found[0].status == 0
            assert bytes(region[low:high]) == copy


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def dma(dut):
    """Reads and writes of the device; reads push writes; completions straddle."""
    bench = Bench(dut, PortCredits(CreditConfig(4, 80), CreditConfig(3, 8), CreditConfig(2, 64)), source_pause=sparse(SEED, 0.1),
                  sink_pause=bursts(SEED, 5))
    await bench.start()
    bench.root.split_on_all_rcb = True
    region = bench.root.mem_pool.alloc_region(1 << 17)
    base = region.get_absolute_address(0)
    await gathered(
        *(dma_traffic(bench, region, base, 60, low, low + 0x2000) for low in range(0, 1 << 16, 1 << 13)),
        bar_traffic(bench, 0, 30, 0, 0x4000))
    assert (bench.shared > 20) == STRADDLE, bench.shared
    await bench.finish()


@cocotb.test(timeout_time=400, timeout_unit="us")
async def order(dut):
    """What the device wrote before it answered a read is in memory when the host has the answer, however slowly RQ is taken (O4)."""
    bench = Bench(dut)
    await bench.start()
    region = bench.root.mem_pool.alloc_region(4096)
    base, count = region.get_absolute_address(0), 0

    def write_first():
        nonlocal count
        count += 1
        for place in range(bench.random.randint(1, 5)):
            bench.agent.queue(memory_write(0x100, base + 512 * place, bytes(8 * bench.random.randint(0, 60))))
        bench.agent.queue(memory_write(0x100, base + 4088, count.to_bytes(8, "little")))

    bench.core.before_answer = write_first
    bench.block.rq_sink.set_pause_generator(bench.random.random() < 0.8 for _ in iter(int, 1))
    for _ in range(60):
        await bench.device.bar_window[0].read(0, bench.random.choice((4, 64, 200)))
        assert int.from_bytes(region[4088:4096], "little") == count, "a completion has passed a write"
    await bench.finish()


@cocotb.test(timeout_time=400, timeout_unit="us")
async def starved(dut):
    """A core that has no more credits for requests that want an answer gets all the others."""
    bench = Bench(dut, PortCredits(CreditConfig(16, 256), CreditConfig(2, 4)))
    await bench.start()
    window = bench.device.bar_window[0]
    bench.agent.starve(FlowClass.NON_POSTED)
    reads = [cocotb.start_soon(window.read(64 * place, 4)) for place in range(12)]
    await gathered(*(window.write(64 * place, bytes([place]) * 40) for place in range(40)))
    await bench.fabric.wait(200)
    seen = [tlp.flow for tlp in bench.core.requests]
    assert seen.count(FlowClass.POSTED) == 40 and seen.count(FlowClass.NON_POSTED) == 2, seen
    bench.agent.feed(FlowClass.NON_POSTED)
    for place, read in enumerate(reads):
        assert await read == bytes([place]) * 4 or place < 2
    await bench.finish()


@cocotb.test(timeout_time=400, timeout_unit="us")
async def kinds(dut):
    """AtomicOps and refusals, both ways."""
    bench = Bench(dut)
    await bench.start()
    core, root = bench.core, bench.root
    asked, send = [], bench.block.send

    async def answered(tlp):
        """The root port of the library routes no AtomicOps: they are answered at the block's side of the link."""
        if tlp.fmt_type.name.removesuffix("_64") not in ("FETCH_ADD", "SWAP", "CAS"):
            await send(tlp)
            return
        asked.append(tlp)
        done = HostTlp.create_completion_data_for_tlp(tlp, PcieId(0, 0, 0))
        done.byte_count = 8
        done.set_data(bytes(tlp.data[:8]))
        await bench.block.upstream_recv(done)

    bench.block.send = answered
    for kind in ("FETCH_ADD", "SWAP", "CAS"):
        for address in (0x4000, 0x12_0000_4000):
            data = bench.random.randbytes(16 if kind == "CAS" else 8)
            found, = await core.ask(lambda tag, kind=kind, address=address, data=data: Tlp(
                Kind[kind], 0x100, tag, address, len(data) // 4, 15, 15, data))
            last = asked.pop()
            assert (last.fmt_type, last.address, bytes(last.data)) == (TlpType[kind + ("_64" if address >> 32 else "")], address, data)
            assert found.data == data[:8] and found.status == 0
    found = await core.ask(lambda tag: memory_read(0x100, 0xDEAD_0000_0000, 256, tag))
    assert [tlp.status for tlp in found] == [1] and not found[0].data
    for core.status, expected in ((1, CplStatus.UR), (4, CplStatus.CA)):
        request = HostTlp()
        request.fmt_type, request.requester_id = TlpType.MEM_READ, PcieId(0, 0, 0)
        request.set_addr_be(bench.device.bar_addr[0], 16)
        found = await root.perform_nonposted_operation(request)
        assert [tlp.status for tlp in found] == [expected]
    core.status = 0
    await bench.finish()
