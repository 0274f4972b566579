"""Room for completions, reserved before their request is forwarded (rule D7)."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp.headers import RequestHeader, has_data, is_memory
from pagehop.tlp.stream import check_data_bytes

__all__ = ["LINE_BYTES", "Room", "completion_lines", "lines_to_beats"]

#: The smallest Read Completion Boundary of a host: a read has at most one completion a line (2.3.1.1).
LINE_BYTES = 64


def completion_lines(header):
    """Most lines, and so most completions, that the answer to a request may have: 7 bits.

    A memory read, a locked one too, has one for each line of 64 bytes that it touches; ``Length`` 0 stands for 1024 double words.
    Any other request has one.
    """
    fields = data.View(RequestHeader(), Value.cast(header))
    low = Mux(fields.fmt[0], fields.dw3[2:6], fields.dw2[2:6])
    dwords = Cat(fields.length, fields.length == 0)
    lines = (low + dwords + 15)[4:11]
    return Mux(is_memory(header) & ~has_data(header), lines, 1)


def lines_to_beats(data_bytes):
    """Most beats that one line takes on a stream of ``data_bytes``: what to multiply :func:`completion_lines` with to reserve beats."""
    check_data_bytes(data_bytes)
    return max(1, LINE_BYTES // data_bytes)


class Room(wiring.Component):
    """Count of free places in a buffer.

    ``amount_left`` is a register: what is reserved and released in a cycle shows in the next. All inputs may act in the same cycle, every cycle.
    The counter does not saturate. Who reserves must see ``amount_left >= reserve_amount`` in the same cycle; who releases gives back what was
    reserved, once. With both, it never leaves 0 to ``capacity``.

    Parameters
    ----------
    capacity : int
        Places, all free after reset.
    releases : int
        Number of release inputs.

    Members
    -------
    amount_left : out
    reserve, reserve_amount : in
    release, release_amount : arrays of ``releases``, in
    """
    def __init__(self, capacity, releases=2):
        if capacity < 1:
            raise ValueError(f"Capacity must be at least 1, not {capacity!r}")
        if releases < 1:
            raise ValueError(f"Number of release inputs must be at least 1, not {releases!r}")
        self.capacity = capacity
        self.releases = releases
        amount = range(capacity + 1)
        super().__init__({
            "amount_left": Out(amount, init=capacity),
            "reserve": In(1), "reserve_amount": In(amount),
            "release": In(1).array(releases), "release_amount": In(amount).array(releases),
        })

    def elaborate(self, platform):
        m = Module()
        released = sum(Mux(release, amount, 0) for release, amount in zip(self.release, self.release_amount, strict=True))
        released_now = Signal(range(self.releases * self.capacity + 1))
        m.d.comb += released_now.eq(released)
        m.d.sync += self.amount_left.eq(self.amount_left + released_now - Mux(self.reserve, self.reserve_amount, 0))
        return m
