"""TileLink: the channels of a coherent port and of an uncached one (SiFive TileLink Specification 1.8.1).

``param`` has three bits on every channel, as the specification has it; ``size`` is the base-2 logarithm of the bytes of the whole message. A message
with data that is larger than the bus takes several beats, which are the same but for ``data``.
"""

from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = [
    "ADDRESS_BITS", "DATA_BITS", "LINE_BYTES", "LINE_BEATS", "LINE_ADDRESS_BITS", "SIZE_LINE", "SIZE_WORD", "OpA", "OpB", "OpC", "OpD", "Grow", "Cap",
    "Shrink", "ChannelA", "ChannelB", "ChannelC", "ChannelD", "ChannelE", "CoherentPort", "MemoryPort", "beats_after_first",
]

#: Physical addresses, the bus, a cacheline, and ``size`` of a line and of a word of the bus.
ADDRESS_BITS, DATA_BITS, LINE_BYTES = 56, 64, 64
SIZE_LINE, SIZE_WORD = 6, 3
#: Beats that carry a line, and bits of the number of a line.
LINE_BEATS, LINE_ADDRESS_BITS = 8 * LINE_BYTES // DATA_BITS, ADDRESS_BITS - SIZE_LINE


class OpA(enum.Enum, shape=3):
    """Opcodes of channel A, requests."""
    PUT_FULL      = 0
    PUT_PARTIAL   = 1
    ARITHMETIC    = 2
    LOGICAL       = 3
    GET           = 4
    INTENT        = 5
    ACQUIRE_BLOCK = 6
    ACQUIRE_PERM  = 7


class OpB(enum.Enum, shape=3):
    """Opcodes of channel B that a home sends to a cache."""
    PROBE_BLOCK = 6
    PROBE_PERM  = 7


class OpC(enum.Enum, shape=3):
    """Opcodes of channel C."""
    PROBE_ACK      = 4
    PROBE_ACK_DATA = 5
    RELEASE        = 6
    RELEASE_DATA   = 7


class OpD(enum.Enum, shape=3):
    """Opcodes of channel D."""
    ACCESS_ACK      = 0
    ACCESS_ACK_DATA = 1
    HINT_ACK        = 2
    GRANT           = 4
    GRANT_DATA      = 5
    RELEASE_ACK     = 6


class Grow(enum.Enum, shape=3):
    """``param`` of an Acquire: from none (N), branch (B) to branch or tip (T)."""
    N_TO_B = 0
    N_TO_T = 1
    B_TO_T = 2


class Cap(enum.Enum, shape=3):
    """``param`` of a Probe and of a Grant: the most that is left, or given."""
    TO_T = 0
    TO_B = 1
    TO_N = 2


class Shrink(enum.Enum, shape=3):
    """``param`` of a ProbeAck or Release: what is given up, or, with both the same, what is reported."""
    T_TO_B = 0
    T_TO_N = 1
    B_TO_N = 2
    T_TO_T = 3
    B_TO_B = 4
    N_TO_N = 5


class ChannelA(data.StructLayout):
    """A request. ``mask`` has a bit a byte of ``data``."""
    def __init__(self, source_bits):
        super().__init__({
            "opcode": OpA, "param": 3, "size": 4, "source": source_bits, "address": ADDRESS_BITS,
            "mask": DATA_BITS // 8, "data": DATA_BITS, "corrupt": 1,
        })


class ChannelB(data.StructLayout):
    """A probe of a line. ``source`` is the master that is probed."""
    def __init__(self, source_bits):
        super().__init__({"opcode": OpB, "param": Cap, "size": 4, "source": source_bits, "address": ADDRESS_BITS})


class ChannelC(data.StructLayout):
    """An answer to a probe, or a release."""
    def __init__(self, source_bits):
        super().__init__({
            "opcode": OpC, "param": Shrink, "size": 4, "source": source_bits, "address": ADDRESS_BITS, "data": DATA_BITS, "corrupt": 1,
        })


class ChannelD(data.StructLayout):
    """An answer of the home. ``denied``: nothing was done or granted; ``corrupt``: the data of this beat mean nothing."""
    def __init__(self, source_bits, sink_bits):
        super().__init__({
            "opcode": OpD, "param": 3, "size": 4, "source": source_bits, "sink": sink_bits, "denied": 1, "data": DATA_BITS, "corrupt": 1,
        })


class ChannelE(data.StructLayout):
    """The acknowledgement of a grant."""
    def __init__(self, sink_bits):
        super().__init__({"sink": sink_bits})


class MemoryPort(wiring.Signature):
    """Master side of an uncached port (TL-UL, and TL-UH when it sends bursts): requests on ``a``, answers on ``d``."""
    def __init__(self, source_bits=1, sink_bits=1):
        super().__init__({"a": Out(stream.Signature(ChannelA(source_bits))), "d": In(stream.Signature(ChannelD(source_bits, sink_bits)))})


class CoherentPort(wiring.Signature):
    """Master side of a coherent port (TL-C). What waits on a channel may wait for channels of later letters only."""
    def __init__(self, source_bits=1, sink_bits=1):
        super().__init__({
            "a": Out(stream.Signature(ChannelA(source_bits))), "b": In(stream.Signature(ChannelB(source_bits))),
            "c": Out(stream.Signature(ChannelC(source_bits))), "d": In(stream.Signature(ChannelD(source_bits, sink_bits))),
            "e": Out(stream.Signature(ChannelE(sink_bits))),
        })


def beats_after_first(size):
    """Beats that follow the first one of a message with data of this ``size``, for sizes up to a line."""
    return ((1 << size) - 1)[SIZE_WORD:SIZE_LINE]
