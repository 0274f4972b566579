"""Bench of the adapter to the P-Tile: the tests of the other adapter, with cocotbext-pcie's model of this block."""

from random import Random
from types import SimpleNamespace

import bench_shell_us as shared
from bench_shell_us import BAR_BYTES, SEED
from cocotbext.pcie.core import RootComplex
from cocotbext.pcie.intel.ptile import PTilePcieDevice, PTileRxBus, PTileTxBus, ptile_model

from pagehop_tb.pins import Fabric

ptile_model.Clock = lambda *_, **__: SimpleNamespace(start=shared._nothing)


class Link(shared.Link):
    """Root complex and block at the adapter ``dut``."""

    def __init__(self, dut, bars=None):
        self.dut, self.random = dut, Random(SEED)
        self.fabric = Fabric(dut.clk, dut.rst, seed=SEED)
        self.root = RootComplex()
        self.root.max_payload_size = 2
        self.block = PTilePcieDevice(
            pcie_generation=3, pcie_link_width=16, pld_clk_frequency=250e6, max_payload_size=512, enable_extended_tag=True,
            coreclkout_hip=dut.clk, rx_bus=PTileRxBus.from_prefix(dut, "rx_st_"), tx_bus=PTileTxBus.from_prefix(dut, "tx_st_"),
            **{name: getattr(dut, name) for name in (
                "rx_buffer_limit", "rx_buffer_limit_tdm_idx", "tx_cdts_limit", "tx_cdts_limit_tdm_idx", "tl_cfg_func", "tl_cfg_add", "tl_cfg_ctl")})
        self.block.rq_sink = self.block.tx_sink   # the name of what takes requests in the other model
        for bar, size in (bars or BAR_BYTES).items():
            self.block.functions[0].configure_bar(bar, size, ext=bar > 0, prefetch=bar > 0)
        self.root.make_port().connect(self.block)
        # The model leaves it 0.
        dut.dl_up.value = 0
        self.shared = 0   # beats in which a TLP begins in the second segment

    async def start(self):
        await super().start()
        self.dut.dl_up.value = 1
        # What came meanwhile begins in the second segments.
        self.block.rx_source.set_pause_generator(self.random.random() < 0.5 for _ in iter(int, 1))
        await self.fabric.wait(200)

    async def _watch(self):
        """A TLP on the stream to the block has no gaps but those that ``ready`` made 3 cycles before."""
        amid, ready = False, [0] * 3
        while True:
            await self.fabric.wait(1)
            valid, eop = int(self.dut.tx_st__valid.value), int(self.dut.tx_st__eop.value)
            allowed = ready.pop(0)
            ready.append(int(self.dut.tx_st__ready.value))
            assert valid or not amid or not allowed, "valid fell during a TLP"
            if valid:
                amid = not eop
            self.shared += int(self.dut.rx_st__valid.value) & int(self.dut.rx_st__sop.value) & 2 > 0


class Bench(shared.Bench, Link):
    """The link, the adapter and a port agent as the core."""

    async def finish(self):
        """Credits come back when the link partner says so, which it does at times."""
        for _ in range(100):
            await self.fabric.wait(100)
            if not self.agent.unreturned():
                break
        if "send" in vars(self.block):
            # A test has answered AtomicOps before the link, so they took none of its credits.
            assert self.agent.unreturned() == ["NON_POSTED 6/6"], self.agent.unreturned()
            shared.write_result()
        else:
            await super().finish()


shared.Bench = Bench
bars, dma, order, starved, kinds = shared.bars, shared.dma, shared.order, shared.starved, shared.kinds
