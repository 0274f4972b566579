# amaranth: UnusedElaboratable=no
"""The adapter to the UltraScale+ block against cocotbext-pcie's root complex and model of the block, on Verilator."""

from shell_endpoint import CoreOutside, OtsInside

from pagehop.shell.ultrascale import UltraScaleShell


def test_a_port_behind_the_block(behind_block):
    behind_block(CoreOutside(UltraScaleShell(rc_straddle=True)), "bench_shell_us").check(min_tests=5, min_checked={"events": 1000})


def test_the_on_the_side_device_behind_the_block(behind_block):
    behind_block(OtsInside(UltraScaleShell(rc_straddle=True)), "bench_shell_ots").check(min_checked={"events": 80})
