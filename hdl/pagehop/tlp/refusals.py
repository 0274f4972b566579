"""Answers in place of a partner that takes no requests (D12)."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.completion import CompletionBuilder
from pagehop.tlp.fifo import LaneFifo
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, RequestHeader

__all__ = ["Refusals"]

#: Requests that wait for their answer.
_PLACES = 16

#: Requests that may be discarded before ``room`` tells it: three whose way to the level takes as long as that of ``room`` back, and the next.
_UNDERWAY = 4


class Refusals(wiring.Component):
    """Answer each request with one completion that says Unsupported Request, in order (2.3.1), as if the partner had.

    The answer needs no credits of the partner, and room for it was reserved before the request was forwarded (D7), so it always comes through. Six
    cycles from ``i`` to ``o``, one answer a cycle.

    Members
    -------
    i : headers of requests, always ready for who keeps to ``room``: it chooses none in the cycle after ``room`` was 0, and hands each over in the
        cycle after it chose it.
    completer_id : of the answers.
    o : completions, which have no data.
    """
    def __init__(self):
        super().__init__({
            "i": In(stream.Signature(RequestHeader())), "room": Out(1), "completer_id": In(16), "o": Out(stream.Signature(CompletionHeader())),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = LaneFifo(RequestHeader(), _PLACES, direct=True)
        m.submodules.builder = builder = CompletionBuilder(16)   # of no data
        wiring.connect(m, wiring.flipped(self.i), fifo.i)
        m.d.comb += [
            self.o.valid.eq(builder.o.valid), self.o.payload.eq(builder.o.payload.header), builder.o.ready.eq(self.o.ready),
            builder.request.valid.eq(fifo.o.valid), fifo.o.ready.eq(builder.request.ready), builder.request.payload.header.eq(fifo.o.payload),
            builder.request.payload.completer_id.eq(self.completer_id), builder.request.payload.status.eq(CompletionStatus.UNSUPPORTED_REQUEST),
        ]
        m.d.sync += self.room.eq(fifo.level <= _PLACES - _UNDERWAY)
        return m
