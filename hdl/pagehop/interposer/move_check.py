"""Whether a move that was asked for can be made."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.bitmaps import OwnerOp, OwnerOpKind
from pagehop.interposer.layouts import HOST_B, Settings, in_run, run_bits
from pagehop.tlp.arbiter import RoundRobin, select_one
from pagehop.tlp.pages import PAGE_BITS, PAGE_NUMBER_BITS

__all__ = ["MoveCheck", "MoveError", "MoveMode", "MoveRequest", "Verdict"]


class MoveError(enum.Enum, shape=4):
    """Why a move or a request failed. The values are those of ``move_error`` in registers.rdl; a test compares them."""
    NONE            = 0
    NOT_IN_WINDOW   = 1
    PAGE_SIZE       = 2
    MISALIGNED      = 3
    ALREADY_THERE   = 4
    DESTINATION     = 5
    BUSY            = 6
    OPAQUE          = 7
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


class Verdict(data.StructLayout):
    """What is known of a request that was checked: ``error``, or the ``number`` of the page in the window, its entry in the
    maps, ``page``, and the number that it has at Host B, ``far``; of a large page, those of its first unit, and ``mask``, its units but one."""
    def __init__(self, window_pages):
        super().__init__({
            "error": MoveError, "page": range(window_pages), "mask": run_bits(window_pages), "number": 32, "far": PAGE_NUMBER_BITS,
        })


class MoveCheck(wiring.Component):
    """Check the requests of the slots, one after the other, in turns: whether the page can be moved, belongs to the other host, and moves in no other
    slot (H49). A large page is checked unit by unit, and the first that is refused speaks for all.

    A slot ``asks``, with its request still, until ``answer`` has its bit: 8 cycles later when no other asks, 7 more for each further unit, 5 for a
    request that is wrong in itself.
    From the next cycle on it has the page, and is ``busy``, until the move is over.

    Parameters
    ----------
    window_pages : pages of the owner map.
    slots : 1 to 8.

    Members
    -------
    low, movable : pages of the window between which they can move (:class:`Slide`). ``pause``: no turn begins; ``idle``: no request is being checked.
    request, asks, busy, page, mask : of each slot. settings. opaque : the device's accesses to a page cannot be told or changed (H24f).
    verdict, answer : the :class:`Verdict`; valid for the slot whose bit ``answer`` has in this cycle.
    owner_op, owner, owner_valid : port of the owner map.
    """
    def __init__(self, window_pages, slots=1):
        self.window_pages, self.slots = window_pages, slots
        super().__init__({
            "request": In(MoveRequest).array(slots), "asks": In(slots), "busy": In(slots), "page": In(range(window_pages)).array(slots),
            "mask": In(run_bits(window_pages)).array(slots),
            "low": In(32), "movable": In(33), "pause": In(1), "idle": Out(1),
            "settings": In(Settings), "opaque": In(1), "verdict": Out(Verdict(window_pages)), "answer": Out(slots),
            "owner_op": Out(stream.Signature(OwnerOp(window_pages))), "owner": In(1), "owner_valid": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turns = turns = RoundRobin(self.slots)
        request, asked, delay, moves = Signal(MoveRequest), Signal(self.slots), Signal(2), Signal(self.slots)
        verdict, unit, entry = self.verdict, Signal.like(self.verdict.mask), Signal.like(self.verdict.page)
        error = self._check(m, request, unit)
        m.d.comb += [
            turns.requests.eq(Mux(self.pause, 0, self.asks)), turns.last.eq(1),
            self.owner_op.payload.kind.eq(OwnerOpKind.READ), self.owner_op.payload.index.eq(entry), entry.eq(verdict.page | unit),
        ]
        m.d.sync += moves.eq(Cat(busy & in_run(entry, page, mask) for busy, page, mask in zip(self.busy, self.page, self.mask, strict=True)))
        with m.FSM() as fsm:
            with m.State("Idle"):
                m.d.comb += turns.served.eq(turns.grant)
                m.d.sync += [request.eq(select_one(turns.grant, self.request)), asked.eq(turns.grant), delay.eq(2), unit.eq(0)]
                with m.If(turns.grant.any()):
                    m.next = "Check"
            with m.State("Check"):
                m.d.sync += [delay.eq(delay - 1), verdict.error.eq(error)]
                with m.If(delay == 0):
                    m.next = "Compare"
            with m.State("Compare"):
                m.next = "Answer"
                with m.If(verdict.error == MoveError.NONE):
                    m.next = "Read"
            with m.State("Read"):
                m.d.comb += self.owner_op.valid.eq(1)
                with m.If(self.owner_op.ready):
                    m.next = "Owner"
            with m.State("Owner"):
                with m.If(self.owner_valid):
                    m.next = "Answer"
                    with m.If(moves.any()):
                        m.d.sync += verdict.error.eq(MoveError.BUSY)
                    with m.Elif(self.owner == request.to_host):
                        m.d.sync += verdict.error.eq(MoveError.ALREADY_THERE)
                    with m.Elif(unit != verdict.mask):
                        m.d.sync += [unit.eq(unit + 1), delay.eq(2)]
                        m.next = "Check"
            with m.State("Answer"):
                m.d.comb += self.answer.eq(asked)
                m.next = "Idle"
        m.d.comb += self.idle.eq(fsm.ongoing("Idle"))
        return m

    def _check(self, m, request, unit):
        """Three cycles after ``request`` or ``unit`` came: the first reason against it that lies in itself. Registers what the verdict has of it."""
        settings, verdict, error = self.settings, self.verdict, Signal(MoveError)
        inside, special, in_map, expected, aligned, offset, far = Signal(), Signal(), Signal(), Signal(), Signal(), Signal(52), Signal(64)
        page, place = request.source[PAGE_BITS:] | unit, offset | unit
        # What must be a multiple of the page size: the addresses, and the entries, so that a guard tells them by their upper bits.
        units = request.source[PAGE_BITS:] | request.destination[PAGE_BITS:] | far[PAGE_BITS:] | offset
        m.d.sync += [
            inside.eq(settings.window.holds_page(page)),
            special.eq(settings.msi.holds_page(page) | settings.mmio.holds_page(page)),
            offset.eq(request.source[PAGE_BITS:] - settings.window.base),
            far.eq(request.source + settings.host_b_offset),
            verdict.mask.eq(Cat(request.page_size > bits for bits in range(PAGE_BITS, PAGE_BITS + len(verdict.mask)))),
            # One cycle later than the above.
            aligned.eq(~request.source[:PAGE_BITS].any() & ~request.destination[:PAGE_BITS].any() & ~(units & verdict.mask).any()),
            in_map.eq(inside & ~special & (place >= self.low) & (place < self.movable)),
            expected.eq(request.destination == Mux(request.to_host == HOST_B, far, request.source)),
            verdict.page.eq(offset), verdict.number.eq(offset), verdict.far.eq(far[PAGE_BITS:]),
        ]
        with m.If(request.mode.as_value() > MoveMode.HOST_COPY.value):
            m.d.comb += error.eq(MoveError.MODE)
        with m.Elif((request.page_size < PAGE_BITS) | (request.page_size > PAGE_BITS + len(verdict.mask))):
            m.d.comb += error.eq(MoveError.PAGE_SIZE)
        with m.Elif(~aligned):
            m.d.comb += error.eq(MoveError.MISALIGNED)
        with m.Elif(~in_map):
            m.d.comb += error.eq(MoveError.NOT_IN_WINDOW)
        with m.Elif(~expected):
            m.d.comb += error.eq(MoveError.DESTINATION)
        with m.Elif(self.opaque):
            m.d.comb += error.eq(MoveError.OPAQUE)
        return error
