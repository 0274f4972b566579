"""A trace as the benches need it. Its form is checked before the simulation starts (``pagehop_sim.traces``)."""

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TraceAccess", "read_accesses", "touched_pages"]

PAGE = 4096


@dataclass(frozen=True)
class TraceAccess:
    """One line: what ``device`` did (``op`` W or R) with ``length`` bytes at ``address``."""

    device: str
    op: str
    address: int
    length: int
    kind: str


def read_accesses(path: str) -> list[TraceAccess]:
    """Accesses of a trace in their order."""
    with Path(path).open(encoding="utf-8", newline="") as lines:
        return [TraceAccess(row["device"], row["op"], int(row["address"], 0), int(row["length"]), row["kind"]) for row in csv.DictReader(lines)]


def touched_pages(accesses: list[TraceAccess], covered: int) -> list[int]:
    """Pages of the guest that the accesses touch, all of which a window of ``covered`` pages must have."""
    touched = sorted({access.address // PAGE for access in accesses if access.kind != "msi"})
    outside = [page for page in touched if page >= covered]
    assert not outside, f"The trace touches page {outside[0]}, and the window has {covered} pages"
    return touched
