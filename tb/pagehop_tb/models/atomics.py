"""AtomicOps as the completer performs them (6.15): little-endian operands of 4, 8 or, for CAS, 16 bytes."""

from pagehop_tb.protocol import Kind

__all__ = ["KINDS", "NAMES", "apply"]

#: Name of an AtomicOp in the observer's calls.
NAMES = {Kind.FETCH_ADD: "fetch_add", Kind.SWAP: "swap", Kind.CAS: "cas"}
KINDS = {name: kind for kind, name in NAMES.items()}


def apply(op: str, old: bytes, operand: bytes) -> bytes:
    """New value of the operand's place. A CAS operand is the value to compare with, then the value to swap in."""
    size = len(old)
    if op == "fetch_add":
        return (int.from_bytes(old, "little") + int.from_bytes(operand, "little") & (1 << 8 * size) - 1).to_bytes(size, "little")
    if op == "swap":
        return operand
    if op == "cas":
        return operand[size:] if operand[:size] == old else old
    raise ValueError(f"AtomicOp must be fetch_add, swap or cas, not {op!r}")
