"""Whether a move that was asked for can be made."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import HOST_B, PAGE_BITS, Settings

__all__ = ["MoveError", "MoveMode", "MoveRequest", "MoveCheck"]


class MoveError(enum.Enum, shape=4):
    """Why a move or a request failed. The values are those of ``move_error`` in registers.rdl; a test compares them."""
    NONE            = 0
    NOT_IN_WINDOW   = 1
    PAGE_SIZE       = 2
    MISALIGNED      = 3
    ALREADY_THERE   = 4
    DESTINATION     = 5
    BUSY            = 6
    UNSUPPORTED     = 8
    COMPLETER_ABORT = 9
    POISONED        = 10
    COPY_TIMEOUT    = 11
    HOLD_TIMEOUT    = 12
    ABORTED         = 13
    CROSS_ACCESS    = 14
    MODE            = 15


class MoveMode(enum.Enum, shape=2):
    """What becomes of accesses to the page while it is copied. The values are those of ``move_mode`` in registers.rdl; a test compares them."""
    HOLD      = 0
    MERGE     = 1
    HOST_COPY = 2


class MoveRequest(data.Struct):
    """A move as software asks for it."""
    source:      64
    destination: 64
    to_host:     1
    mode:        MoveMode
    page_size:   8


class MoveCheck(wiring.Component):
    """Check a request that stays still, and find its page. Valid three cycles after ``request`` changed.

    Members
    -------
    owner : of ``page``, from the owner map, whenever it is known.
    error : :class:`MoveError`, the first that applies, all but the owner's. ``already_there``: the owner is the destination.
    page : number of the page in the window. ``near``, ``far`` : its address at Host A and Host B.
    """
    def __init__(self, window_pages):
        self.window_pages = window_pages
        super().__init__({
            "request": In(MoveRequest), "settings": In(Settings),
            "error": Out(MoveError), "page": Out(range(window_pages)), "near": Out(64), "far": Out(64),
        })

    def elaborate(self, platform):
        m = Module()
        request, settings = self.request, self.settings
        inside, special, in_map, known = Signal(), Signal(), Signal(), Signal()
        offset, page = Signal(52), Signal(52)
        expected = Signal()
        m.d.comb += [page.eq(request.source[PAGE_BITS:]), self.near.eq(request.source)]
        m.d.sync += [
            inside.eq(settings.window.holds(request.source)),
            special.eq(settings.msi.holds(request.source) | settings.mmio.holds(request.source)),
            offset.eq(page - settings.window.base),
            self.far.eq(request.source + settings.host_b_offset),
            # One cycle later than the above.
            in_map.eq(offset < self.window_pages),
            expected.eq(request.destination == Mux(request.to_host == HOST_B, self.far, self.near)),
            known.eq(inside & ~special),
        ]
        m.d.comb += self.page.eq(offset)
        aligned = ~request.source[:PAGE_BITS].any() & ~request.destination[:PAGE_BITS].any()
        with m.If(request.mode.as_value() > MoveMode.HOST_COPY.value):
            m.d.sync += self.error.eq(MoveError.MODE)
        with m.Elif(request.page_size != PAGE_BITS):
            m.d.sync += self.error.eq(MoveError.PAGE_SIZE)
        with m.Elif(~aligned):
            m.d.sync += self.error.eq(MoveError.MISALIGNED)
        with m.Elif(~(known & in_map)):
            m.d.sync += self.error.eq(MoveError.NOT_IN_WINDOW)
        with m.Elif(~expected):
            m.d.sync += self.error.eq(MoveError.DESTINATION)
        with m.Else():
            m.d.sync += self.error.eq(MoveError.NONE)
        return m
