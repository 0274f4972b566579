# amaranth: UnusedElaboratable=no
"""The adapter to the P-Tile against cocotbext-pcie's root complex and model of the block, on Verilator."""

from shell_endpoint import CoreOutside, OtsInside

from pagehop.shell.ptile import PTileShell


def test_a_port_behind_the_block(behind_block):
    behind_block(CoreOutside(PTileShell({0: 1 << 16, 2: 1 << 20})), "bench_shell_pt").check(min_tests=5, min_checked={"events": 1000})


def test_the_on_the_side_device_behind_the_block(behind_block):
    behind_block(OtsInside(PTileShell({0: 1 << 16, 2: 1 << 21, 4: 1 << 12})), "bench_shell_pt_ots").check(min_checked={"events": 80})
