"""What stands on the streams of AMD's UltraScale+ integrated block for PCI Express, 512 bits wide (PG213): descriptors and side bands.

Each is declared here once, least significant field first, and turned into a header of the TLP layer, or made of one, here and nowhere else.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt, RequestHeader, TlpType

__all__ = [
    "DWORDS", "AxiStream", "RequestType", "CompleterRequest", "CompleterCompletion", "RequesterRequest", "RequesterCompletion",
    "CqUser", "CcUser", "RqUser", "RcUser", "RequestDecode", "completion_header", "completer_completion", "requester_request", "carried",
]

#: Double words of a beat.
DWORDS = 16


class RequestType(enum.Enum, shape=4):
    """Request Type of a descriptor (PG213, table "Transaction Types"). Messages have three."""
    READ             = 0b0000
    WRITE            = 0b0001
    IO_READ          = 0b0010
    IO_WRITE         = 0b0011
    FETCH_ADD        = 0b0100
    SWAP             = 0b0101
    COMPARE_AND_SWAP = 0b0110
    READ_LOCKED      = 0b0111
    MESSAGE          = 0b1100


class AxiStream(wiring.Signature):
    """One AXI4-Stream of the block, seen from its source. ``user`` is the layout of ``tuser``."""
    def __init__(self, user):
        super().__init__({
            "tdata": Out(32 * DWORDS), "tuser": Out(user), "tkeep": Out(DWORDS), "tlast": Out(1), "tvalid": Out(1), "tready": In(1),
        })


# Alike in all four descriptors: traffic class and attributes.
_ATTRIBUTES = {"traffic_class": 3, "no_snoop": 1, "relaxed_ordering": 1, "id_ordering": 1}


class CompleterRequest(data.StructLayout):
    """Descriptor of a request on CQ. ``address`` is in double words; ``aperture`` bits of the byte address lie inside the BAR."""
    def __init__(self):
        super().__init__({
            "address_type": 2, "address": 62, "dwords": 11, "type": 4, "_0": 1, "requester_id": 16,
            "tag": 8, "function": 8, "bar": 3, "aperture": 6, **_ATTRIBUTES, "_1": 1,
        })


class RequesterRequest(data.StructLayout):
    """Descriptor of a request on RQ. With ``use_id`` 0 the block fills in its own bus number."""
    def __init__(self):
        super().__init__({
            "address_type": 2, "address": 62, "dwords": 11, "type": 4, "poisoned": 1, "requester_id": 16,
            "tag": 8, "completer_id": 16, "use_id": 1, **_ATTRIBUTES, "force_digest": 1,
        })


class RequesterCompletion(data.StructLayout):
    """Descriptor of a completion on RC. ``error`` tells why the block ended the request, or what is wrong with the completion."""
    def __init__(self):
        super().__init__({
            "lower_address": 12, "error": 4, "byte_count": 13, "locked": 1, "completed": 1, "_0": 1,
            "dwords": 11, "status": 3, "poisoned": 1, "_1": 1, "requester_id": 16,
            "tag": 8, "completer_id": 16, "_2": 1, **_ATTRIBUTES, "_3": 1,
        })


class CompleterCompletion(data.StructLayout):
    """Descriptor of a completion on CC. With ``use_id`` 0 the block fills in its own bus number."""
    def __init__(self):
        super().__init__({
            "lower_address": 7, "_0": 1, "address_type": 2, "_1": 6, "byte_count": 13, "locked": 1, "_2": 2,
            "dwords": 11, "status": 3, "poisoned": 1, "_3": 1, "requester_id": 16,
            "tag": 8, "completer_id": 16, "use_id": 1, **_ATTRIBUTES, "force_digest": 1,
        })


# Where TLPs begin and end in a beat: starts in units of 4 double words, ends in double words. CQ, CC and RQ have two of each, RC four.
def _framing(places):
    return {"sop": places, "sop_at": data.ArrayLayout(2, places), "eop": places, "eop_at": data.ArrayLayout(4, places)}


class CqUser(data.StructLayout):
    """``tuser`` of CQ. Byte enables are those of the first TLP that begins in the beat, then those of the second."""
    def __init__(self):
        super().__init__({
            "first_be": data.ArrayLayout(4, 2), "last_be": data.ArrayLayout(4, 2), "enables": 64, **_framing(2),
            "discontinue": 1, "hints": 22, "parity": 64,
        })


class CcUser(data.StructLayout):
    """``tuser`` of CC."""
    def __init__(self):
        super().__init__({**_framing(2), "discontinue": 1, "parity": 64})


class RqUser(data.StructLayout):
    """``tuser`` of RQ."""
    def __init__(self):
        super().__init__({
            "first_be": data.ArrayLayout(4, 2), "last_be": data.ArrayLayout(4, 2), "address_offset": 4, **_framing(2),
            "discontinue": 1, "hints": 24, "sequence": data.ArrayLayout(6, 2), "parity": 64,
        })


class RcUser(data.StructLayout):
    """``tuser`` of RC."""
    def __init__(self):
        super().__init__({"enables": 64, **_framing(4), "discontinue": 1, "parity": 64})


#: What each type of request is in a header, and whether it has data. What is not here is a message.
_TYPES = {
    RequestType.READ: (TlpType.MEMORY, 0), RequestType.WRITE: (TlpType.MEMORY, 1), RequestType.IO_READ: (TlpType.IO, 0),
    RequestType.IO_WRITE: (TlpType.IO, 1), RequestType.FETCH_ADD: (TlpType.FETCH_ADD, 1), RequestType.SWAP: (TlpType.SWAP, 1),
    RequestType.COMPARE_AND_SWAP: (TlpType.COMPARE_AND_SWAP, 1), RequestType.READ_LOCKED: (TlpType.MEMORY_LOCKED, 0),
}

#: Error codes of requests that ended without a completion: reset of the function, and completion timeout.
_ENDED = (0b1000, 0b1001)


def _common(fields, descriptor):
    """What a header copies from a descriptor of either kind."""
    return [
        fields.length.eq(descriptor.dwords), fields.requester_id.eq(descriptor.requester_id), fields.tag.eq(descriptor.tag),
        *(fields[name].eq(descriptor[name]) for name in _ATTRIBUTES),
    ]


class RequestDecode(wiring.Component):
    """Header of a request on CQ, two cycles after its descriptor.

    The address is that of the byte inside its BAR, with the number of the BAR in bits 62 to 60. Above 4 GB, and so in every BAR but the first, the
    header has four double words (2.2.4.1); that of an I/O request always has three, and no number of a BAR.

    Members
    -------
    descriptor, first_be, last_be : in.
    header, units, non_posted, message : two cycles later; ``units`` are the data credits, and a message has no header.
    """
    def __init__(self):
        super().__init__({
            "descriptor": In(CompleterRequest()), "first_be": In(4), "last_be": In(4),
            "header": Out(RequestHeader()), "units": Out(9), "non_posted": Out(1), "message": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        given, inside = Signal(CompleterRequest()), Signal(62)
        enables = Signal(8)
        aperture = self.descriptor.aperture
        m.d.sync += [
            given.eq(self.descriptor), enables.eq(Cat(self.first_be, self.last_be)),
            inside.eq(Cat(self.descriptor.address[place] & (aperture > place + 2) for place in range(62))),
        ]
        fields, address = self.header, Signal(64)
        io = given.type[1:] == RequestType.IO_READ.value >> 1
        wide, has_data = Signal(), Signal()
        m.d.comb += [address.eq(Cat(Const(0, 2), inside[:58], given.bar)), wide.eq(address[32:].any() & ~io)]
        m.d.sync += [self.message.eq(given.type[3]), self.non_posted.eq(given.type != RequestType.WRITE.value), _common(fields, given)]
        with m.Switch(given.type):
            for kind, (tlp_type, with_data) in _TYPES.items():
                with m.Case(kind):
                    m.d.sync += fields.type.eq(tlp_type)
                    m.d.comb += has_data.eq(with_data)
        m.d.sync += [
            fields.fmt.eq(Cat(wide, has_data, 0)), fields.address_type.eq(given.address_type),
            fields.first_be.eq(enables[:4]), fields.last_be.eq(enables[4:]),
            fields.dw2.eq(Mux(wide, address[32:], address[:32])), fields.dw3.eq(Mux(wide, address[:32], 0)),
            self.units.eq(Mux(has_data, headers.credits_of_dwords(given.dwords), 0)),
        ]
        return m


def completion_header(descriptor):
    """Header of a completion on RC, and its data credits. What the block says in place of a completion, that a request has ended without one, is
    an abort by the completer."""
    header = Signal(CompletionHeader())
    ended = (descriptor.error == _ENDED[0]) | (descriptor.error == _ENDED[1])
    has_data = (descriptor.dwords != 0) & ~ended
    return header, [
        *_common(header, descriptor), header.length.eq(Mux(has_data, descriptor.dwords, 0)),
        header.fmt.eq(Mux(has_data, Fmt.DW3_DATA.value, Fmt.DW3.value)),
        header.type.eq(Mux(descriptor.locked, TlpType.COMPLETION_LOCKED.value, TlpType.COMPLETION.value)),
        header.poisoned.eq(descriptor.poisoned), header.lower_address.eq(descriptor.lower_address), header.byte_count.eq(descriptor.byte_count),
        header.status.eq(Mux(ended, CompletionStatus.COMPLETER_ABORT.value, descriptor.status)), header.completer_id.eq(descriptor.completer_id),
    ]


def carried(beat):
    """1 when a TLP of the core can be said on RQ or CC: a completion, or a memory, I/O or atomic request, with a tag of 8 bits and no prefix."""
    header = beat.header
    fields = data.View(RequestHeader(), header)
    known = Cat(fields.type == tlp_type.value for tlp_type, _ in _TYPES.values()).any()
    return (headers.is_completion(header) | known) & ~fields.tag8 & ~fields.tag9 & ~beat.prefix_valid


def _whole(count, bits):
    """A length or Byte Count in which 0 does not stand for the most."""
    return Cat(count, count == 0)[:bits]


def requester_request(beat):
    """Descriptor on RQ of the request whose first beat this is: assignments of a :class:`RequesterRequest` are returned as a dictionary."""
    fields = data.View(RequestHeader(), Value.cast(beat.header))
    kinds = Const(0, 4)
    for kind, (tlp_type, with_data) in _TYPES.items():
        kinds = Mux((fields.type == tlp_type.value) & (fields.fmt[1] == with_data), kind.value, kinds)
    return {
        "address_type": fields.address_type, "address": headers.address_of(fields)[2:], "dwords": _whole(fields.length, 11), "type": kinds,
        "poisoned": fields.poisoned | beat.poisoned, "requester_id": fields.requester_id, "tag": fields.tag,
        **{name: fields[name] for name in _ATTRIBUTES},
    }


def completer_completion(beat):
    """Descriptor on CC of the completion whose first beat this is, as a dictionary."""
    fields = data.View(CompletionHeader(), Value.cast(beat.header))
    return {
        "lower_address": fields.lower_address, "byte_count": _whole(fields.byte_count, 13),
        "dwords": Mux(fields.fmt[1], _whole(fields.length, 11), 0),
        "locked": fields.type[0], "status": fields.status, "poisoned": fields.poisoned | beat.poisoned,
        "requester_id": fields.requester_id, "tag": fields.tag, "completer_id": fields.completer_id,
        **{name: fields[name] for name in _ATTRIBUTES},
    }
