"""A trace as the benches need it. Its form is checked before the simulation starts (``pagehop_sim.traces``)."""

import csv
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TraceAccess", "read_accesses"]


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
