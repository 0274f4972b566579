"""Bench of the on-the-side device behind the adapter to the P-Tile: the same as behind the other adapter."""

import bench_shell_pt
import bench_shell_us

bench_shell_us.Link = bench_shell_pt.Link

from bench_shell_ots import windows

__all__ = ["windows"]
