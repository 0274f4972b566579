"""What every TLP on a wire must obey: violations are returned as sentences, none means well formed (2.2, 2.3)."""

from .requests import PAGE
from .tlp import Kind, Tlp

__all__ = ["violations"]

_READS = frozenset((Kind.MRD, Kind.MRDLK, Kind.IORD, Kind.CFGRD0, Kind.CFGRD1))
_ONE_DWORD = frozenset((Kind.IORD, Kind.IOWR, Kind.CFGRD0, Kind.CFGWR0, Kind.CFGRD1, Kind.CFGWR1))
_OPERAND_DWORDS = {Kind.FETCH_ADD: (1, 2), Kind.SWAP: (1, 2), Kind.CAS: (2, 4, 8)}


def violations(tlp: Tlp, mps: int = 4096, mrrs: int = 4096, rcb: int = 64) -> list[str]:
    """Rules that ``tlp`` breaks on a link with these limits. ``rcb`` is the smallest Read Completion Boundary that its sender may use."""
    found = []
    if tlp.has_data:
        if len(tlp.data) != 4 * tlp.length:
            found.append(f"payload has {len(tlp.data)} bytes, Length says {4 * tlp.length}")
        if 4 * tlp.length > mps:
            found.append(f"payload of {4 * tlp.length} bytes exceeds the maximum of {mps}")
    elif tlp.data:
        found.append("payload on a TLP without data")
    if tlp.prefix is not None and tlp.prefix >> 29 != 0b100:
        found.append(f"prefix {tlp.prefix:#010x} does not start with the Fmt of a prefix")
    if tlp.is_memory:
        found += _memory(tlp, mrrs)
    elif tlp.is_completion:
        found += _completion(tlp, rcb)
    elif tlp.kind in _ONE_DWORD:
        if tlp.length != 1 or tlp.last_be:
            found.append(f"I/O or configuration request of Length {tlp.length}, Last BE {tlp.last_be:#06b}")
        if tlp.traffic_class or tlp.relaxed_ordering or tlp.id_ordering or tlp.no_snoop or tlp.address_type:
            found.append("I/O or configuration request with TC, attributes or AT")
    elif tlp.is_message and not tlp.four_dw:
        found.append("message header of three dwords")
    return found


def _memory(tlp: Tlp, mrrs: int) -> list[str]:
    found = []
    if bool(tlp.four_dw) != (tlp.address >= 1 << 32):
        found.append(f"address {tlp.address:#x} in a header of {3 + bool(tlp.four_dw)} dwords")
    # The payload of a CAS is two operands, and only one of them has a place in memory.
    size = 4 * tlp.length if tlp.kind is not Kind.CAS else 2 * tlp.length
    if tlp.address % PAGE + size > PAGE:
        found.append(f"request of {size} bytes at {tlp.address:#x} crosses a 4 KB boundary")
    if tlp.kind in _READS and 4 * tlp.length > mrrs:
        found.append(f"read of {4 * tlp.length} bytes exceeds the maximum of {mrrs}")
    if tlp.is_atomic:
        return found + _atomic(tlp)
    if tlp.hints and tlp.kind in _READS:
        return found
    if tlp.length == 1:
        if tlp.last_be:
            found.append(f"Last BE {tlp.last_be:#06b} with Length 1")
    elif not tlp.first_be or not tlp.last_be:
        found.append(f"byte enables {tlp.first_be:#06b}, {tlp.last_be:#06b} with Length {tlp.length}")
    elif (_has_hole(tlp.first_be, 0b1000) or _has_hole(tlp.last_be, 0b0001)) and not (tlp.length == 2 and tlp.address % 8 == 0):
        found.append(f"holes in byte enables {tlp.first_be:#06b}, {tlp.last_be:#06b} of a request that is no aligned quad word")
    return found


def _has_hole(enables: int, edge: int) -> bool:
    """Enabled bytes do not reach, without a gap, the side of ``edge``, where the neighbouring dword is."""
    runs = {0b1000: (0b1111, 0b1110, 0b1100, 0b1000), 0b0001: (0b1111, 0b0111, 0b0011, 0b0001)}
    return enables not in runs[edge]


def _atomic(tlp: Tlp) -> list[str]:
    allowed = _OPERAND_DWORDS[tlp.kind]
    if tlp.length not in allowed:
        return [f"{tlp.kind.name} of Length {tlp.length}, allowed are {', '.join(map(str, allowed))}"]
    operand = 4 * tlp.length // (2 if tlp.kind is Kind.CAS else 1)
    if tlp.address % operand:
        return [f"{tlp.kind.name} of {operand} bytes at {tlp.address:#x} is not aligned to its operand"]
    return []


def _completion(tlp: Tlp, rcb: int) -> list[str]:
    found = []
    if tlp.four_dw:
        found.append("completion header of four dwords")
    if tlp.hints or tlp.address_type:
        found.append("completion with TH or AT")
    if not tlp.has_data:
        if tlp.length:
            found.append(f"Length {tlp.length} in a completion without data")
        return found
    if tlp.status:
        found.append(f"completion with data and status {tlp.status}")
    offset = tlp.lower_address & 3
    if 4 * tlp.length > (offset + tlp.byte_count + 3) & ~3:
        found.append(f"{4 * tlp.length} bytes of data for a byte count of {tlp.byte_count} at lower address {tlp.lower_address:#x}")
    elif 4 * tlp.length < offset + tlp.byte_count and (tlp.lower_address - offset + 4 * tlp.length) % rcb:
        found.append(f"completion from lower address {tlp.lower_address:#x} with {4 * tlp.length} bytes ends off the {rcb}-byte boundary")
    return found
