"""Which part of the guest the maps cover, and how they come to cover the next."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.interposer.bitmaps import WORD_INDEX_BITS, OwnerOp, OwnerOpKind
from pagehop.interposer.epoch_wait import EpochWait
from pagehop.interposer.layouts import EpochView, Settings
from pagehop.memory.bitmap import WORD_BITS
from pagehop.tlp.flush import FlushView
from pagehop.tlp.flush_wait import FlushWait
from pagehop.tlp.issue import Mark

__all__ = ["Slide", "SlideError", "SlideStatus"]

#: Cycles after which what enters the ingress is certainly decoded with the new bounds.
DECODED_CYCLES = 4

#: Cycles after which the answer to the last look at an owner has certainly come.
ANSWERED_CYCLES = 4


class SlideError(enum.Enum, shape=3):
    """Why the range did not slide. The values are those of ``slide_error`` in registers.rdl; a test compares them."""
    NONE        = 0
    MISALIGNED  = 1
    NOT_FORWARD = 2
    BEYOND      = 3
    NOT_AT_B    = 4
    MOVING      = 5


class SlideStatus(data.Struct):
    """The range and the last request, as the registers show them."""
    busy:    1
    refused: 1
    error:   SlideError
    low:     32
    high:    33


class Slide(wiring.Component):
    """Slide the range: the pages ``low`` to ``high`` - 1 of the window, which the maps cover, page *n* in the entry *n* modulo their size.

    What lies below the range belongs to Host B, what lies above to Host A. A request to begin at ``target`` is refused, and changes nothing,
    unless every page that the range leaves is at B and does not move (MSI and MMIO pages, which belong to nobody, aside). Requests for moves wait
    while that is looked up, a cycle a page. Then:

    - ``low`` rises. What is decoded from now on to a page that was left goes to B by its side, as it did before by its entry.
    - What was decoded before leaves the lanes: its entries mean the old pages until then. Nothing is held for this.
    - Word by word, entries get the owner A and are clean, and stand for the next pages above: ``high`` rises.
    - What was decoded to these pages before, and so is guarded by nobody, leaves too; its writes are proven visible at A and its atomics answered.
      Only then may the pages move (``movable``), and a clean page is one whose writes are visible.

    So no entry is looked up for another page than the one it was decoded for, and at no time has a page two owners. A bit of a page that is left
    is dropped: tracking cannot wait for software to take what devices set again. The bounds outlive a reset as the owners do (H52); a slide that a
    reset interrupts goes on after it.

    Parameters
    ----------
    window_pages : pages of the maps, a power of two. slots : pages that move at the same time.
    posted_bits, requests_bits, aside_bits : widths of the counts of the device ingress.
    word_pages : pages of a word of the dirty bitmap, the unit of ``target``.

    Members
    -------
    start, target : from the registers; ``pages``, of the window; ``settings``.
    status : for the registers. ``movable``: pages from here on do not move.
    check_pause, check_idle : of the :class:`MoveCheck`. ``busy``, ``page``: of each slot; of a run its first page, which is left first.
    owner_op, owner, owner_valid : port of the owner map. ``drop``: words of the dirty bitmap that are forgotten, taken when they are.
    decoded : what was decoded before this cycle has its place in the lanes at its end.
    posted_accepted, posted_left, requests_accepted, requests_left : counts of the lanes. ``aside_*``: of requests that wait
        beside theirs. ``issue_*``: of the issue register.
    advance, epochs : of the outstanding table. flush, flush_request : of Host A's tracker.
    """
    def __init__(self, window_pages, posted_bits, requests_bits, aside_bits, slots=1, word_pages=WORD_BITS):
        self.window_pages, self.word_pages = window_pages, word_pages
        if window_pages % word_pages:
            raise ValueError(f"The maps must have a multiple of {word_pages} pages, not {window_pages!r}")
        page = range(window_pages)
        super().__init__({
            "start": In(1), "target": In(32), "pages": In(32), "settings": In(Settings), "status": Out(SlideStatus), "movable": Out(33),
            "check_pause": Out(1), "check_idle": In(1), "busy": In(slots), "page": In(page).array(slots),
            "owner_op": Out(stream.Signature(OwnerOp(window_pages))), "owner": In(1), "owner_valid": In(1),
            "drop": Out(stream.Signature(WORD_INDEX_BITS)), "decoded": In(1),
            "posted_accepted": In(posted_bits), "posted_left": In(posted_bits),
            "requests_accepted": In(requests_bits), "requests_left": In(requests_bits),
            "aside_entered": In(aside_bits), "aside_left": In(aside_bits),
            "issue_entered": In(4), "issue_accepted": In(4), "advance": Out(1), "epochs": In(EpochView),
            "flush": In(FlushView), "flush_request": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        low = Signal(32, reset_less=True)
        high, movable = (Signal(33, init=self.window_pages, reset_less=True, name=name) for name in ("high", "movable"))
        end = Signal(33, init=self.window_pages, reset_less=True)   # of the entries, from `low` on
        target, delay = Signal(32), Signal(range(max(DECODED_CYCLES, ANSWERED_CYCLES) + 1))
        m.d.comb += [self.status.low.eq(low), self.status.high.eq(high), self.movable.eq(movable)]
        m.d.sync += [end.eq(low + self.window_pages), delay.eq(Mux(delay.any(), delay - 1, 0))]
        with m.FSM() as fsm:
            with m.State("Idle"):
                with m.If(movable != end):
                    # A reset came amid a slide.
                    m.d.sync += delay.eq(DECODED_CYCLES)
                    m.next = "Decode"
                with m.Elif(self.start):
                    m.d.sync += [target.eq(self.target), self.status.error.eq(SlideError.NONE), self.status.refused.eq(0)]
                    m.next = "Compare"
            self._check(m, low, high, target, delay)
            self._follow(m, high, end, delay)
            self._clear(m, high, end, delay)
            self._prove(m, high, movable)
        m.d.comb += self.status.busy.eq(~fsm.ongoing("Idle"))
        with m.If(self.status.busy & self.start):
            m.d.sync += self.status.refused.eq(1)
        return m

    def _refuse(self, m, error):
        m.d.sync += self.status.error.eq(error)
        m.next = "Idle"

    def _check(self, m, low, high, target, delay):
        """May the range leave these pages? Then ``low`` rises."""
        backwards, beyond, above = Signal(), Signal(), Signal()
        page, left = Signal(32), Signal(range(self.window_pages + 1))
        # Of the page whose owner was asked for in the cycle before, and in the one before that.
        number, entry, special, moves = Signal(len(self.settings.window.base)), Signal(range(self.window_pages)), Signal(), Signal()
        answered, elsewhere, moving = Signal(), Signal(), Signal()
        m.d.sync += [
            backwards.eq(target <= low), beyond.eq(target > self.pages), above.eq(target > high),
            number.eq(self.settings.window.base + page), entry.eq(page),
            special.eq(self.settings.msi.holds_page(number) | self.settings.mmio.holds_page(number)),
            moves.eq(Cat(busy & (entry == one) for busy, one in zip(self.busy, self.page, strict=True)).any()),
            elsewhere.eq(elsewhere | (answered & ~self.owner & ~special)), moving.eq(moving | (answered & moves)),
        ]
        m.d.comb += [answered.eq(self.check_pause & self.owner_valid), self.owner_op.payload.index.eq(page)]
        with m.State("Compare"):
            m.next = "Decide"
        with m.State("Decide"):
            m.d.sync += [page.eq(low), left.eq(target - low), elsewhere.eq(0), moving.eq(0)]
            with m.If(target[:exact_log2(self.word_pages)].any()):
                self._refuse(m, SlideError.MISALIGNED)
            with m.Elif(backwards):
                self._refuse(m, SlideError.NOT_FORWARD)
            with m.Elif(beyond):
                self._refuse(m, SlideError.BEYOND)
            with m.Elif(above):
                self._refuse(m, SlideError.NOT_AT_B)
            with m.Else():
                m.next = "Pause"
        with m.State("Pause"):
            # A request that has just been answered is known to be a move in the next cycle.
            m.d.comb += self.check_pause.eq(1)
            with m.If(self.check_idle):
                m.next = "Look"
        with m.State("Look"):
            m.d.comb += [self.check_pause.eq(1), self.owner_op.valid.eq(1), self.owner_op.payload.kind.eq(OwnerOpKind.READ)]
            with m.If(self.owner_op.ready):
                m.d.sync += [page.eq(page + 1), left.eq(left - 1), delay.eq(ANSWERED_CYCLES)]
                with m.If(left == 1):
                    m.next = "Looked"
        with m.State("Looked"):
            m.d.comb += self.check_pause.eq(1)
            with m.If(delay == 0):
                with m.If(moving):
                    self._refuse(m, SlideError.MOVING)
                with m.Elif(elsewhere):
                    self._refuse(m, SlideError.NOT_AT_B)
                with m.Else():
                    m.d.sync += [low.eq(target), delay.eq(DECODED_CYCLES)]
                    m.next = "Decode"

    def _follow(self, m, high, end, delay):
        """Wait until what was decoded with the bounds of before has left the lanes."""
        m.submodules.posted_mark = posted = Mark(len(self.posted_accepted))
        m.submodules.requests_mark = requests = Mark(len(self.requests_accepted))
        m.submodules.aside_mark = aside = Mark(len(self.aside_entered))
        m.d.comb += [
            posted.target.eq(self.posted_accepted), posted.count.eq(self.posted_left),
            requests.target.eq(self.requests_accepted), requests.count.eq(self.requests_left),
            aside.target.eq(self.aside_entered), aside.count.eq(self.aside_left),
        ]
        with m.State("Decode"):
            with m.If((delay == 0) & self.decoded):
                m.next = "Mark"
        with m.State("Mark"):
            m.d.comb += [posted.set.eq(1), requests.set.eq(1)]
            m.next = "Leave"
        with m.State("Leave"):
            # Which of the requests that left their lane went aside is known when all have.
            with m.If(posted.passed & requests.passed):
                m.d.comb += aside.set.eq(1)
                m.next = "Leave Aside"
        with m.State("Leave Aside"):
            with m.If(aside.passed):
                m.next = "Follow"
                with m.If(high != end):
                    m.next = "Clear"

    def _clear(self, m, high, end, delay):
        """A word of entries after the other gets another meaning."""
        word = exact_log2(self.word_pages)
        entry, place = Signal(word), high[word:exact_log2(self.window_pages)]
        m.d.comb += self.drop.payload.eq(place)
        with m.State("Clear"):
            m.d.comb += [
                self.owner_op.valid.eq(1), self.owner_op.payload.kind.eq(OwnerOpKind.CLEAR), self.owner_op.payload.index.eq(Cat(entry, place)),
            ]
            with m.If(self.owner_op.ready):
                m.d.sync += entry.eq(entry + 1)
                with m.If(entry.all()):
                    m.next = "Drop"
        with m.State("Drop"):
            m.d.comb += self.drop.valid.eq(1)
            with m.If(self.drop.ready):
                m.d.sync += [high.eq(high + self.word_pages), delay.eq(DECODED_CYCLES)]
                m.next = "Cleared"
        with m.State("Cleared"):
            m.next = "Clear"
            with m.If(high == end):
                m.next = "Decode"

    def _prove(self, m, high, movable):
        """What was written before its page had an entry must be visible when software takes the page for clean (H46)."""
        m.submodules.issue_mark = issued = Mark(4)
        m.submodules.atomics = atomics = EpochWait()
        m.submodules.wait = wait = FlushWait()
        m.d.comb += [
            issued.target.eq(self.issue_entered), issued.count.eq(self.issue_accepted), atomics.epoch.eq(self.epochs.epoch),
            atomics.unanswered.eq(self.epochs.atomics), atomics.start.eq(self.advance),
            wait.flush.eq(self.flush), wait.start.eq(self.advance), self.flush_request.eq(wait.request),
        ]
        with m.State("Follow"):
            m.d.comb += issued.set.eq(1)
            m.next = "Pass"
        with m.State("Pass"):
            with m.If(issued.passed & self.epochs.advance_ready):
                m.d.comb += self.advance.eq(1)
                m.next = "Prove"
        with m.State("Prove"):
            with m.If(wait.done & atomics.done):
                m.d.sync += movable.eq(high)
                m.next = "Idle"
