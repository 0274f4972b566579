"""One transaction-layer packet, to and from its header.

Written from the PCI Express Base Specification 5.0, section 2.2 (non-flit mode). A header is an integer of 128 bits, DW0 on top; that of three DWs
leaves its lowest 32 bits 0. A payload is bytes, lowest address first.
"""

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["CREDIT_BYTES", "FlowClass", "Kind", "MalformedTlp", "TRANSLATED", "TRANSLATION_REQUEST", "Tlp", "decode", "encode"]

#: Payload bytes of one data credit (2.6.1).
CREDIT_BYTES = 16

_FOUR_GB = 1 << 32

#: Values of the AT field (10.2.1) besides 0, an address that nobody has translated.
TRANSLATION_REQUEST, TRANSLATED = 0b01, 0b10


class MalformedTlp(ValueError):
    """A header that means nothing by table 2-3."""


class FlowClass(IntEnum):
    """The classes that have their own credits (2.6.1)."""

    POSTED = 0
    NON_POSTED = 1
    COMPLETION = 2


class Kind(IntEnum):
    """What a TLP is (table 2-3): Type in the low five bits, and bit 5 set when a payload follows."""

    MRD = 0b000000
    MRDLK = 0b000001
    MWR = 0b100000
    IORD = 0b000010
    IOWR = 0b100010
    CFGRD0 = 0b000100
    CFGWR0 = 0b100100
    CFGRD1 = 0b000101
    CFGWR1 = 0b100101
    FETCH_ADD = 0b101100
    SWAP = 0b101101
    CAS = 0b101110
    DMWR = 0b111011
    CPL = 0b001010
    CPLD = 0b101010
    CPLLK = 0b001011
    CPLDLK = 0b101011
    #: Messages have their routing in three bits of Type, kept in :attr:`Tlp.routing`.
    MSG = 0b010000
    MSGD = 0b110000


_KINDS = {int(kind): kind for kind in Kind}
_COMPLETIONS = frozenset((Kind.CPL, Kind.CPLD, Kind.CPLLK, Kind.CPLDLK))
_MESSAGES = frozenset((Kind.MSG, Kind.MSGD))
_ATOMICS = frozenset((Kind.FETCH_ADD, Kind.SWAP, Kind.CAS))
_POSTED = frozenset((Kind.MWR, Kind.MSG, Kind.MSGD))
_FLOW = {kind: FlowClass.POSTED if kind in _POSTED else FlowClass.COMPLETION if kind in _COMPLETIONS else FlowClass.NON_POSTED for kind in Kind}
_BY_ADDRESS = frozenset((Kind.MRD, Kind.MRDLK, Kind.MWR, Kind.DMWR)) | _ATOMICS


@dataclass(slots=True)
class Tlp:
    """A TLP with every field of its header.

    ``address`` is the dword-aligned byte address of a memory, I/O or atomic request; bus/device/function and register (DW2) of a configuration
    request; DW2 and DW3 of a message. ``length`` counts dwords, 1 to 1024, and is 0 where the field is reserved (completion or message without data).
    ``tag`` has ten bits. ``byte_count`` is 1 to 4096. ``four_dw`` is chosen from the address when it is ``None``.
    """

    kind: Kind
    requester_id: int = 0
    tag: int = 0
    address: int = 0
    length: int = 0
    first_be: int = 0
    last_be: int = 0
    data: bytes = b""
    relaxed_ordering: bool = False
    id_ordering: bool = False
    no_snoop: bool = False
    traffic_class: int = 0
    address_type: int = 0
    poisoned: bool = False
    hints: bool = False
    processing_hint: int = 0
    lightweight: bool = False
    digest: bool = False
    #: With ``digest``: the double word behind the data is not the right one.
    digest_wrong: bool = False
    completer_id: int = 0
    status: int = 0
    byte_count: int = 0
    byte_count_modified: bool = False
    lower_address: int = 0
    code: int = 0
    routing: int = 0
    prefix: int | None = None
    four_dw: bool | None = None
    #: Number of this TLP in the run, for the observer; not on the wire.
    key: int = field(default=-1, compare=False)

    def __post_init__(self) -> None:
        if self.four_dw is None:
            self.four_dw = self.kind in _MESSAGES or (self.address >= _FOUR_GB and self.kind in _BY_ADDRESS)

    @property
    def flow(self) -> FlowClass:
        """Flow-control class."""
        return _FLOW[self.kind]

    @property
    def has_data(self) -> bool:
        """A payload follows the header."""
        return bool(self.kind & 0b100000)

    @property
    def is_completion(self) -> bool:
        """One of Cpl, CplD, CplLk, CplDLk."""
        return self.kind in _COMPLETIONS

    @property
    def is_atomic(self) -> bool:
        """FetchAdd, Swap or CAS."""
        return self.kind in _ATOMICS

    @property
    def is_memory(self) -> bool:
        """A request routed by a memory address: read, write, deferrable write or AtomicOp."""
        return self.kind in _BY_ADDRESS

    @property
    def is_message(self) -> bool:
        """Msg or MsgD."""
        return self.kind in _MESSAGES

    @property
    def is_config(self) -> bool:
        """A configuration request of either type."""
        return self.kind & 0b011110 == 0b000100

    @property
    def data_credits(self) -> int:
        """Data credits that the payload takes: one per 16 bytes, rounded up, from Length (2.6.1)."""
        return (self.length + 3) >> 2 if self.kind & 0b100000 else 0

    def __str__(self) -> str:
        where = f"{self.completer_id:#06x} status {self.status} count {self.byte_count}" if self.is_completion else f"{self.address:#x}"
        return f"{self.kind.name} {where} length {self.length} from {self.requester_id:#06x} tag {self.tag:#x}"


def encode(tlp: Tlp) -> int:
    """Header of ``tlp`` as 128 bits."""
    kind = int(tlp.kind)
    is_message = kind & 0b011000 == 0b010000
    dw0 = (
        (bool(tlp.four_dw) | (kind & 0b100000) >> 4) << 29 | (kind & 0b11111 | (tlp.routing if is_message else 0)) << 24
        | (tlp.tag & 0x200) << 14 | tlp.traffic_class << 20 | (tlp.tag & 0x100) << 11 | tlp.id_ordering << 18 | tlp.lightweight << 17
        | tlp.hints << 16 | tlp.digest << 15 | tlp.poisoned << 14 | tlp.relaxed_ordering << 13 | tlp.no_snoop << 12 | tlp.address_type << 10
        | tlp.length & 0x3FF
    )
    tag = tlp.tag & 0xFF
    if kind & 0b011110 == 0b001010:
        dw1 = tlp.completer_id << 16 | tlp.status << 13 | tlp.byte_count_modified << 12 | tlp.byte_count & 0xFFF
        return dw0 << 96 | dw1 << 64 | (tlp.requester_id << 16 | tag << 8 | tlp.lower_address) << 32
    if is_message:
        return dw0 << 96 | (tlp.requester_id << 16 | tag << 8 | tlp.code) << 64 | tlp.address
    dw1 = tlp.requester_id << 16 | tag << 8 | tlp.last_be << 4 | tlp.first_be
    low = tlp.address | tlp.processing_hint
    return dw0 << 96 | dw1 << 64 | (low if tlp.four_dw else low << 32)


def decode(header: int, data: bytes = b"", prefix: int | None = None) -> Tlp:
    """TLP of a header, its payload and its prefix. Raises :class:`MalformedTlp` when Fmt and Type mean nothing together."""
    dw0 = header >> 96
    fmt, kind_bits = dw0 >> 29, dw0 >> 24 & 0b11111
    routing = 0
    if kind_bits & 0b11000 == 0b10000:
        routing, kind_bits = kind_bits & 0b111, 0b10000
    kind = _KINDS.get(kind_bits | (fmt & 0b10) << 4)
    if fmt & 0b100 or kind is None or (fmt & 1 and not (kind in _BY_ADDRESS or kind in _MESSAGES)):
        raise MalformedTlp(f"Fmt {fmt:#05b} with Type {dw0 >> 24 & 0b11111:#07b} is not a TLP")
    tlp = Tlp(
        kind, 0, (dw0 >> 14 & 0x200) | (dw0 >> 11 & 0x100), 0, dw0 & 0x3FF, 0, 0, data,
        bool(dw0 & 1 << 13), bool(dw0 & 1 << 18), bool(dw0 & 1 << 12), dw0 >> 20 & 7, dw0 >> 10 & 3, bool(dw0 & 1 << 14), bool(dw0 & 1 << 16),
        0, bool(dw0 & 1 << 17), bool(dw0 & 1 << 15), prefix=prefix, four_dw=bool(fmt & 1), routing=routing,
    )
    dw1 = header >> 64 & 0xFFFFFFFF
    if kind in _COMPLETIONS:
        dw2 = header >> 32 & 0xFFFFFFFF
        tlp.completer_id, tlp.status = dw1 >> 16, dw1 >> 13 & 7
        tlp.byte_count_modified, tlp.byte_count = bool(dw1 & 1 << 12), dw1 & 0xFFF or 4096
        tlp.requester_id, tlp.lower_address = dw2 >> 16, dw2 & 0x7F
        tlp.tag |= dw2 >> 8 & 0xFF
        if tlp.length == 0 and kind & 0b100000:
            tlp.length = 1024
        return tlp
    tlp.requester_id = dw1 >> 16
    tlp.tag |= dw1 >> 8 & 0xFF
    if kind in _MESSAGES:
        tlp.code = dw1 & 0xFF
        tlp.address = header & 0xFFFFFFFFFFFFFFFF
        if tlp.length == 0 and kind & 0b100000:
            tlp.length = 1024
        return tlp
    tlp.first_be, tlp.last_be = dw1 & 0xF, dw1 >> 4 & 0xF
    low = header & 0xFFFFFFFFFFFFFFFF if fmt & 1 else header >> 32 & 0xFFFFFFFF
    tlp.address, tlp.processing_hint = low & ~3, low & 3
    if tlp.length == 0:
        tlp.length = 1024
    return tlp
