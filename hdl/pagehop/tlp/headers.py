"""TLP headers as structs, and what a header means.

Wire order is decoded here and nowhere else. Names and positions follow the PCI Express Base Specification 5.0, section 2.2 (non-flit mode).
A header is 128 bits with DW0 on top: ``header[127:120]`` is its first byte on the wire. A 3 DW header leaves DW3 zero.
"""

from amaranth.hdl import Cat, Const, Mux, Signal, Value
from amaranth.lib import data, enum

__all__ = [
    "Fmt", "TlpType", "TlpClass", "CompletionStatus", "AddressType",
    "RequestHeader", "CompletionHeader", "MessageHeader", "HINT_PREFIX", "IDE_PREFIX", "PASID_PREFIX",
    "CREDIT_BYTES", "tlp_class", "whole_tag", "credits_of_dwords", "ends_request", "address_of", "plain_request", "with_address", "without_hints",
]

#: Payload bytes that one data credit stands for (2.6.1).
CREDIT_BYTES = 16

#: First byte of an end-to-end prefix with more of a processing hint: half of the steering tag (2.2.7.1).
HINT_PREFIX = 0x90

#: First byte of an end-to-end PASID prefix (6.20).
PASID_PREFIX = 0x91

#: First byte of the end-to-end prefix of an encrypted TLP, which stands before all other prefixes (6.33, table 2-37).
IDE_PREFIX = 0x92


class Fmt(enum.Enum, shape=3):
    """Header format (table 2-2)."""
    DW3      = 0b000
    DW4      = 0b001
    DW3_DATA = 0b010
    DW4_DATA = 0b011
    PREFIX   = 0b100


class TlpType(enum.Enum, shape=5):
    """Type field (table 2-3). Messages take 0b10rrr, ``rrr`` being their routing."""
    MEMORY            = 0b00000
    MEMORY_LOCKED     = 0b00001
    IO                = 0b00010
    CONFIG_0          = 0b00100
    CONFIG_1          = 0b00101
    COMPLETION        = 0b01010
    COMPLETION_LOCKED = 0b01011
    FETCH_ADD         = 0b01100
    SWAP              = 0b01101
    COMPARE_AND_SWAP  = 0b01110
    MESSAGE_TO_ROOT   = 0b10000
    MESSAGE_BY_ADDRESS = 0b10001
    MESSAGE_BY_ID     = 0b10010
    MESSAGE_BROADCAST = 0b10011
    MESSAGE_LOCAL     = 0b10100
    MESSAGE_GATHERED  = 0b10101
    DEFERRED_WRITE    = 0b11011


class TlpClass(enum.Enum, shape=2):
    """The three flow-control classes (2.6.1)."""
    POSTED     = 0
    NON_POSTED = 1
    COMPLETION = 2


class CompletionStatus(enum.Enum, shape=3):
    """Completion Status field (table 2-34); any other value counts as UR."""
    SUCCESS             = 0b000
    UNSUPPORTED_REQUEST = 0b001
    CONFIGURATION_RETRY = 0b010
    COMPLETER_ABORT     = 0b100


class AddressType(enum.Enum, shape=2):
    """AT field of memory and atomic requests (10.2.1)."""
    UNTRANSLATED        = 0b00
    TRANSLATION_REQUEST = 0b01
    TRANSLATED          = 0b10


# DW0 is the same in every header (figure 2-5). Fields stand least significant first.
_DW0 = {
    "length": 10, "address_type": 2, "no_snoop": 1, "relaxed_ordering": 1, "poisoned": 1, "digest": 1,
    "hints": 1, "lightweight": 1, "id_ordering": 1, "tag8": 1, "traffic_class": 3, "tag9": 1,
    "type": 5, "fmt": 3,
}


class RequestHeader(data.StructLayout):
    """Memory, I/O, atomic and configuration request (2.2.7).

    ``dw2`` and ``dw3`` hold the address: of a 3 DW header in ``dw2``, of a 4 DW header its upper half in ``dw2``.
    """
    def __init__(self):
        super().__init__({
            "dw3": 32, "dw2": 32,
            "first_be": 4, "last_be": 4, "tag": 8, "requester_id": 16,
            **_DW0,
        })


class CompletionHeader(data.StructLayout):
    """Completion (2.2.9). ``byte_count`` 0 means 4096."""
    def __init__(self):
        super().__init__({
            "dw3": 32,
            "lower_address": 7, "reserved": 1, "tag": 8, "requester_id": 16,
            "byte_count": 12, "byte_count_modified": 1, "status": 3, "completer_id": 16,
            **_DW0,
        })


class MessageHeader(data.StructLayout):
    """Message request (2.2.8), always 4 DW."""
    def __init__(self):
        super().__init__({
            "dw3": 32, "dw2": 32,
            "code": 8, "tag": 8, "requester_id": 16,
            **_DW0,
        })


def _dw0(header):
    """View of ``header`` whose DW0 fields can be read whatever the TLP is."""
    return data.View(RequestHeader(), Value.cast(header))


def has_data(header):
    """1 when a payload follows."""
    return _dw0(header).fmt[1]


def is_4dw(header):
    """1 when the header has four DW."""
    return _dw0(header).fmt[0]


def is_completion(header):
    """1 for Cpl, CplD, CplLk and CplDLk."""
    return _dw0(header).type[1:5] == TlpType.COMPLETION.value >> 1


def is_memory(header):
    """1 for memory reads and writes, locked reads included."""
    return _dw0(header).type[1:5] == 0


def is_atomic(header):
    """1 for AtomicOps and deferrable memory writes: non-posted requests that change memory."""
    kind = _dw0(header).type
    return (
        (kind == TlpType.FETCH_ADD.value) | (kind == TlpType.SWAP.value)
        | (kind == TlpType.COMPARE_AND_SWAP.value) | (kind == TlpType.DEFERRED_WRITE.value)
    )


def has_prefix(beat, kind):
    """1 when a :class:`TlpBeat` brings a prefix of this kind, the first byte of the prefix."""
    return beat.prefix_valid & (beat.prefix[24:] == kind)


def is_damaged(beat):
    """1 when a :class:`TlpBeat` says that its TLP is poisoned, by EP or the flag of the beat, or that its digest was wrong."""
    return beat.poisoned | beat.digest_wrong | (beat.first & _dw0(beat.header).poisoned)


def is_message(header):
    """1 for Msg and MsgD."""
    return _dw0(header).type[3:5] == 0b10


def is_config(header):
    """1 for configuration reads and writes."""
    return _dw0(header).type[1:5] == TlpType.CONFIG_0.value >> 1


def tlp_class(header):
    """:class:`TlpClass` of a header, by table 2-3.

    An undefined Type counts as posted: it asks for no completion, so passing it on is all that a switch could do.
    """
    fields = _dw0(header)
    kind = fields.type
    non_posted = (
        ((kind == TlpType.MEMORY.value) & ~fields.fmt[1])
        | (kind == TlpType.MEMORY_LOCKED.value) | (kind == TlpType.IO.value)
        | is_config(header) | is_atomic(header)
    )
    return Mux(is_completion(header), TlpClass.COMPLETION.value,
               Mux(non_posted, TlpClass.NON_POSTED.value, TlpClass.POSTED.value))


def whole_tag(fields):
    """The ten bits of the tag of a header whose layout is known: to read or to assign. They stand apart in it (2.2.6.2)."""
    return Cat(fields.tag, fields.tag8, fields.tag9)


def tag_of(header):
    """10-bit tag of a request or completion: T9, T8 and the tag byte (2.2.6.2)."""
    request, completion = _dw0(header), data.View(CompletionHeader(), Value.cast(header))
    low = Mux(is_completion(header), completion.tag, request.tag)
    return Cat(low, request.tag8, request.tag9)


def sender_of(header):
    """Requester ID of a request, completer ID of a completion: they stand at the same place."""
    return data.View(RequestHeader(), header).requester_id


def address_of(header):
    """Byte address of a memory or atomic request, 64 bits, its two low bits 0."""
    fields = _dw0(header)
    low = Mux(fields.fmt[0], fields.dw3, fields.dw2)
    high = Mux(fields.fmt[0], fields.dw2, 0)
    return Cat(Const(0, 2), low[2:32], high)


def plain_request(m, has_data, dwords, requester_id, name="plain"):
    """Fields of a memory request of ours, of so many whole double words: TC 0, neither RO nor IDO nor NS. The tag is left to assign, the address to
    :func:`with_address`.
    """
    fields = data.View(RequestHeader(), Signal(128, name=name))
    m.d.comb += [
        fields.fmt.eq(Fmt.DW3_DATA if has_data else Fmt.DW3), fields.type.eq(TlpType.MEMORY), fields.length.eq(dwords),
        fields.first_be.eq(0xF), fields.last_be.eq(0xF if dwords > 1 else 0), fields.requester_id.eq(requester_id),
    ]
    return fields


def with_address(header, address, wide=None):
    """``header`` of a memory or atomic request with another byte address. ``wide``: the address is above 4 GB, where that is known already.

    The form follows the address: below 4 GB the header must be 3 DW, above it 4 DW (2.2.4.1, H24c). The two low bits, which carry the processing
    hint, stay.
    """
    fields = _dw0(header)
    hint = Mux(fields.fmt[0], fields.dw3[:2], fields.dw2[:2])
    low = Cat(hint, address[2:32])
    high = address[32:64]
    wide = high.any() if wide is None else wide
    return Cat(
        Mux(wide, low, 0)[:32], Mux(wide, high, low)[:32],
        Value.cast(header)[64:125], wide, Value.cast(header)[126:128],
    )


def without_hints(header):
    """``header`` without TLP Processing Hints (2.2.7.1): TH and PH are 0, and where a steering tag stood is what the request means without one.

    A steering tag stands in the tag of a write, which means nothing there. In reads and AtomicOps it stands in place of the byte enables, all of
    which are meant then. Anything else carries none.
    """
    fields, whole = _dw0(header), Value.cast(header)
    atomic = fields.type[2:5] == TlpType.FETCH_ADD.value >> 2
    hints, writes = fields.hints & (is_memory(header) | atomic), is_memory(header) & fields.fmt[1]
    wide, place = fields.fmt[0], RequestHeader()["hints"].offset
    enables = Cat(Const(0xF, 4), (fields.length != 1).replicate(4))
    return Cat(
        whole[:2] & ~(hints & wide).replicate(2), whole[2:32], whole[32:34] & ~(hints & ~wide).replicate(2), whole[34:64],
        Mux(hints & ~writes, enables, whole[64:72]), whole[72:80] & ~(hints & writes).replicate(8), whole[80:place], fields.hints & ~hints,
        whole[place + 1:],
    )


def ends_request(header):
    """1 when a completion is the last of its request: it has no data, or as many bytes as were still due (2.2.9)."""
    completion = data.View(CompletionHeader(), Value.cast(header))
    payload = (completion.length << 2)[:13] - completion.lower_address[:2]
    due = Mux(completion.byte_count == 0, 4096, completion.byte_count)
    return ~has_data(header) | (Mux(completion.length == 0, 4096, payload) >= due)


def credits_of_dwords(dwords):
    """Data credits of a payload of ``dwords`` double words: one per 16 bytes, rounded up (2.6.1)."""
    return (dwords + 3)[2:]
