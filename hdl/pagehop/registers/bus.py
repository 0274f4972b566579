"""The register bus: how a BAR reaches a register file, and a register file its memories.

Both sides move 64-bit words. A write is not answered; a read is answered once. A client has at most one read unanswered, and its answer waits where
it is in nobody's way, so a bus with a slow read in it still carries writes (H24).
"""

from amaranth.hdl import Cat, Mux
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BusRequest", "BusResponse", "MemoryRequest", "MemoryWrite", "RegisterWrite", "RegisterBus", "MemoryBus", "overwritten"]


class BusRequest(data.StructLayout):
    """One access. ``address`` is in bytes, its three low bits 0; ``strobe`` bit *i* stands for byte *i* of the word, in reads too."""
    def __init__(self, address_bits):
        super().__init__({"address": address_bits, "write": 1, "data": 64, "strobe": 8})


class BusResponse(data.Struct):
    """Answer to a read. With ``error`` the data mean nothing, and the read changed nothing."""
    data:  64
    error: 1


class MemoryRequest(data.StructLayout):
    """Read of the 64-bit word ``index``; ``strobe`` says which of its bytes were asked for and is never 0."""
    def __init__(self, index_bits):
        super().__init__({"index": index_bits, "strobe": 8})


class RegisterWrite(data.StructLayout):
    """What software wrote to a register of ``size`` bytes that its block keeps; in a cycle without a write ``strobe`` is 0."""
    def __init__(self, size):
        super().__init__({"strobe": size, "data": 8 * size})


class MemoryWrite(data.StructLayout):
    """What software wrote to the 64-bit word ``index``; in a cycle without a write ``strobe`` is 0."""
    def __init__(self, index_bits):
        super().__init__({"index": index_bits, "strobe": 8, "data": 64})


def overwritten(value, write):
    """``value``, of any width, with those bytes of it that were written."""
    return Cat(Mux(write.strobe[low // 8], write.data[low:low + 8], value[low:low + 8])[:len(value[low:low + 8])]
               for low in range(0, len(value), 8))


class RegisterBus(wiring.Signature):
    """Client side of a register bus of ``address_bits`` bits.

    ``request.ready`` comes within a fixed number of cycles. ``response`` stays until it is taken.
    """
    def __init__(self, address_bits):
        if address_bits not in range(4, 65):
            raise ValueError(f"Register bus must have 4 to 64 address bits, not {address_bits!r}")
        self.address_bits = address_bits
        super().__init__({
            "request": Out(stream.Signature(BusRequest(address_bits))),
            "response": In(stream.Signature(BusResponse)),
        })


class MemoryBus(wiring.Signature):
    """Client side of a memory of ``2 ** index_bits`` words: one request, then one response, any number of cycles later.

    ``response.ready`` is always 1.
    """
    def __init__(self, index_bits):
        self.index_bits = index_bits
        super().__init__({
            "request": Out(stream.Signature(MemoryRequest(index_bits))),
            "response": In(stream.Signature(BusResponse)),
        })
