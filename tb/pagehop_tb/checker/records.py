"""What a replay makes of a log: accesses with the times of their steps, and the versions that memory had."""

from dataclasses import dataclass, field

from pagehop_tb.checker.space import Location

__all__ = ["DEVICE_STREAM", "STATUS_NAMES", "SUCCESS", "TIMEOUT", "Read", "Versions", "Write", "atomic_result"]

#: Streams of writes that keep their order: the device port, the CPU of Host A, the CPU of Host B.
DEVICE_STREAM = 0

SUCCESS = 0
TIMEOUT = 9
STATUS_NAMES = {1: "UR", 2: "CRS", 4: "CA", 8: "poison", 9: "timeout", 10: "a malformed completion"}


@dataclass(slots=True)
class Write:
    """An accepted posted write, store or atomic: when it was issued and when (and where) it became visible (-1: not yet).

    ``strong`` may not pass anything posted. ``remote`` went through an aperture. ``answered`` is when an atomic's requester had its answer.
    """

    event: int
    stream: int
    agent: str
    location: Location
    strong: bool
    performed: int = -1
    host: int = -1
    atomic: tuple[str, bytes] | None = None
    length: int = 0
    ro: bool = False
    ido: bool = False
    remote: bool = False
    answered: int = -1


@dataclass(slots=True)
class Read:
    """A read that was answered with data: ``issued`` and ``done`` are positions in the log.

    ``knows`` is the position up to which its agent's knowledge counts: ``issued`` for a device, for a CPU the end of the cycle of issue.
    ``pushes``: all posted writes before it must be visible when it is answered. ``remote`` went through an aperture. ``atomic`` stands for the answer
    to an atomic, without data.
    """

    agent: str
    location: Location
    length: int
    issued: int
    done: int
    data: bytes
    knows: int
    pushes: bool = True
    remote: bool = False
    atomic: bool = False


@dataclass
class Versions:
    """What each performed write left behind, in the order in which they became visible: whole dwords.

    ``partial`` tells for the entries that did not write all bytes of their dwords which they did: bit *i* for byte *i*.
    """

    dword: list[int] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    event: list[int] = field(default_factory=list)
    writer: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    partial: dict[int, int] = field(default_factory=dict)


def atomic_result(op: str, old: bytes, operand: bytes) -> bytes:
    """What an AtomicOp leaves in memory (PCIe 6.15: operands are little-endian here, as the models configure them)."""
    if op == "fetch_add":
        return ((int.from_bytes(old, "little") + int.from_bytes(operand, "little")) % (1 << 8 * len(old))).to_bytes(len(old), "little")
    if op == "swap":
        return operand
    compare, swap = operand[:len(old)], operand[len(old):]
    return swap if old == compare else old
