"""The words of a dirty bitmap in a host's memory in which bits are being set."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.interposer.log_settings import WORD_BITS, DirtyUnits, LogError, LogSettings, LogWord
from pagehop.tlp import headers
from pagehop.tlp.arbiter import lowest, number_of
from pagehop.tlp.flush import flush_tag
from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt, TlpType
from pagehop.tlp.stream import TlpBeat

__all__ = ["LogWords", "MOST_WORDS", "WORD_BYTES", "answer_of_log", "request_of_log"]

#: First index of the tags: ``1 h 11giii`` (docs/interposer.md, "Tags of ours").
FIRST_TAG = 48

#: Bytes of a word, and most that are asked for at a time.
WORD_BYTES, MOST_WORDS = 8, 8


class _Row(data.Struct):
    """Of a word: what it is ``known`` to hold in memory, bits ``wanted`` there besides, and of these what a compare-and-swap has ``asked`` for."""
    known:  WORD_BITS
    wanted: WORD_BITS
    asked:  WORD_BITS


class _Job(enum.Enum, shape=2):
    """What is done with a word."""
    MARK   = 0
    ANSWER = 1
    SEND   = 2


class _Kind(enum.Enum, shape=2):
    """What is sent."""
    READ  = 0
    WRITE = 1
    SWAP  = 2


class _Request(data.Struct):
    """A request for a word that is ``known`` to be so and shall be ``new``."""
    kind:  _Kind
    known: WORD_BITS
    new:   WORD_BITS


def request_of_log(m, host, generation, index, requester_id, *, has_data, swaps):
    """Fields of the header, but for the address, of request ``index`` of the log to one word at ``host``. A swap has data."""
    plain = headers.plain_request(m, False, WORD_BYTES // 4, requester_id)
    m.d.comb += plain.tag.eq(flush_tag(host, FIRST_TAG) | generation << exact_log2(MOST_WORDS) | index)
    with m.If(has_data):
        m.d.comb += plain.fmt.eq(Fmt.DW3_DATA)
    with m.If(swaps):
        # Byte enables of atomics are reserved (2.2.7).
        m.d.comb += [plain.type.eq(TlpType.COMPARE_AND_SWAP), plain.length.eq(2 * WORD_BYTES // 4), plain.first_be.eq(0), plain.last_be.eq(0)]
    return plain


def answer_of_log(m, completion, host, generation, count):
    """Of the TLP on the stream ``completion`` in the cycle before: whether it has a tag of the log, that of one of ``count`` requests, the number of
    that, whether it is a word without an error, and the word."""
    beat, header = completion.payload, data.View(CompletionHeader(), completion.payload.header)
    number, ours, good, value = Signal(range(count)), Signal(), Signal(), Signal(WORD_BITS)
    tag = flush_tag(host, FIRST_TAG) | generation << exact_log2(MOST_WORDS)
    m.d.comb += completion.ready.eq(1)
    m.d.sync += [
        ours.eq(completion.valid & beat.first & (header.tag[len(number):] == tag[len(number):])), number.eq(header.tag), value.eq(beat.data),
        good.eq((header.status == CompletionStatus.SUCCESS.value) & (header.fmt == Fmt.DW3_DATA.value) & (header.length == WORD_BYTES // 4)
                & ~headers.is_damaged(beat)),
    ]
    return ours, number, good, value


class LogWords(wiring.Component):
    """Set the bits of what comes in, in words of a bitmap in a host's memory, and never clear one.

    A word stays here from its first bit on until its place is needed or ``forget``. A bit that it is known to have costs nothing more. Otherwise,
    with compare-and-swap: the word is swapped for itself with the bits, from what it is known to be, at first 0; when it was something else, the
    answer says what, and the rest is asked for again (H47). With ``ping_pong`` nobody else writes the word: it is read once, and then written whole
    whenever bits are new. Bits that come while a request is on its way wait for the next.

    One job at a time: a mark takes 5 cycles, 4 when an answer or a request comes between, an answer 3, a request 7 and its turn at the egress.
    Answers have a place of their own and go first, requests go before marks, so nothing waits but for the host. An answer that is not what was
    asked for, or none for ``limit`` cycles although something is asked or offered, is an ``error``.

    While ``enable`` is 0 everything is forgotten, and an answer to what was asked before then is not taken afterwards: tags carry a generation.

    Parameters
    ----------
    data_bytes : beat width. words : words at a time, each with one request on its way at most; 2, 4 or 8.

    Members
    -------
    enable, settings, active, requester_id, limit : ``active`` is the bitmap; it changes while ``idle``.
    i : stream of :class:`DirtyUnits`. ``idle``: every bit that was taken is known to be in memory, or its write was handed over. ``forget``: while
        idle.
    o_request, o_write : streams of one-beat TLPs. ``completion``: stream, always ready; only what has a tag of ours counts.
    error : pulse, or NONE. ``generation``: of the tags, another one each time that ``enable`` rises.
    """
    def __init__(self, data_bytes=64, words=8):
        if words not in (2, 4, 8):
            raise ValueError(f"Words of the dirty log must be 2, 4 or 8 at a time, not {words!r}")
        self.data_bytes, self.words = data_bytes, words
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "enable": In(1), "settings": In(LogSettings), "active": In(1), "requester_id": In(16), "limit": In(32),
            "i": In(stream.Signature(DirtyUnits)), "idle": Out(1), "forget": In(1),
            "o_request": Out(beat), "o_write": Out(beat), "completion": In(beat), "error": Out(LogError), "generation": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.rows = rows = memory.Memory(shape=_Row, depth=self.words, init=[])
        m.submodules.answers = answers = memory.Memory(shape=WORD_BITS, depth=self.words, init=[])
        used, busy, checks, unread, answered = (Signal(self.words, name=name) for name in ("used", "busy", "checks", "unread", "answered"))
        learnt, arrived = Signal(self.words), Signal(self.words)
        generation, enabled, bad, late = self.generation, Signal(), Signal(), Signal()
        m.d.sync += enabled.eq(self.enable)
        with m.If(self.enable & ~enabled):
            m.d.sync += generation.eq(~generation)
        waits = self._jobs(m, rows, answers.read_port(), used, busy, checks, unread, answered, learnt, generation)
        self._answer(m, answers.write_port(), busy & ~answered, arrived, generation, bad)
        m.d.sync += answered.eq((answered & ~learnt) | arrived)
        self._time(m, busy, answered, late)
        m.d.comb += self.idle.eq(waits & ~(busy | checks | answered).any())
        with m.If(self.enable & bad):
            m.d.comb += self.error.eq(LogError.ANSWER)
        with m.Elif(self.enable & late):
            m.d.comb += self.error.eq(LogError.TIMEOUT)
        with m.If(~self.enable):
            m.d.sync += [names.eq(0) for names in (busy, checks, unread, answered)]
        with m.If(~self.enable | self.forget):
            m.d.sync += used.eq(0)
        return m

    def _jobs(self, m, rows, answer, used, busy, checks, unread, answered, learnt, generation):
        """Choose a job, read its row, change it. Returns whether there is none and none is being done."""
        read, write = rows.read_port(), rows.write_port()
        places = [Signal(LogWord, name=f"place_{number}") for number in range(self.words)]
        job, index, mark, held, new, found, turn = (
            Signal(_Job), Signal(range(self.words)), Signal(DirtyUnits), Signal(), Signal(), Signal(self.words), Signal(range(self.words)))
        place, request = Signal(LogWord), Signal(_Request)
        plain = self._header(m, index, request, generation)
        bits, ready, free, this, urgent = Signal(WORD_BITS), Signal(self.words), Signal(self.words), Signal(self.words), Signal()
        m.d.comb += [
            ready.eq(checks & ~busy), free.eq(~(busy | checks | answered)), this.eq(1 << index),
            read.addr.eq(index), answer.addr.eq(index), write.addr.eq(index),
        ]
        # A mark that is taken beside another job is held until that is done: `ready` says early in a cycle whether one is.
        m.d.sync += urgent.eq((answered | ready).any())
        with m.FSM() as steps:
            with m.State("Choose"):
                m.d.comb += self.i.ready.eq(~held & ~urgent)
                m.d.sync += new.eq(0)
                with m.If(answered.any()):
                    m.d.sync += [job.eq(_Job.ANSWER), index.eq(_first(answered))]
                    m.next = "Read"
                with m.Elif(ready.any()):
                    m.d.sync += [job.eq(_Job.SEND), index.eq(_first(ready))]
                    m.next = "Read"
                with m.Elif(held | (self.i.valid & ~urgent)):
                    m.d.sync += job.eq(_Job.MARK)
                    m.next = "Look"
                with m.If(~held & ~urgent):
                    m.d.sync += [mark.eq(self.i.payload), held.eq(self.i.valid)]
            with m.State("Look"):
                m.d.sync += found.eq(Cat(there & (one == mark.place) for there, one in zip(used, places, strict=True)))
                m.next = "Place"
            with m.State("Place"):
                m.d.sync += [index.eq(Mux(found.any(), number_of(found), turn)), bits.eq((1 | mark.pair << 1) << mark.bit)]
                m.next = "Read"
                with m.If(~found.any()):
                    m.d.sync += turn.eq(turn + 1)
                    with m.If(free.bit_select(turn, 1)):
                        m.d.sync += new.eq(1)
                    with m.Else():
                        # What keeps the place is seen to first.
                        m.next = "Choose"
            with m.State("Read"):
                m.d.sync += place.eq(Array(places)[index])
                m.next = "Change"
            with m.State("Change"):
                m.d.comb += write.en.eq(1)
                m.next = "Choose"
                with m.Switch(job):
                    with m.Case(_Job.MARK):
                        self._mark(m, read.data, write.data, bits, new, this, checks)
                        m.d.sync += held.eq(0)
                        with m.If(new):
                            m.d.sync += [used.eq(used | this), unread.eq(Mux(self.settings.ping_pong, unread | this, unread & ~this))]
                            for number, one in enumerate(places):
                                with m.If(this[number]):
                                    m.d.sync += one.eq(mark.place)
                    with m.Case(_Job.ANSWER):
                        self._learn(m, read.data, write.data, answer.data, (unread & this).any())
                        m.d.comb += learnt.eq(this)
                        m.d.sync += [busy.eq(busy & ~this), unread.eq(unread & ~this), checks.eq(checks | this)]
                    with m.Case(_Job.SEND):
                        m.d.sync += checks.eq(checks & ~this)
                        self._send(m, read.data, write.data, (unread & this).any(), this, busy, request)
            self._offer(m, place, request, plain)
        with m.If(~self.enable):
            m.d.sync += held.eq(0)
            m.d.comb += self.i.ready.eq(1)
        return steps.ongoing("Choose") & ~held

    @staticmethod
    def _mark(m, row, changed, bits, new, this, checks):
        """Bits that are not known to be there are wanted."""
        missing = bits & ~Mux(new, 0, row.known)
        m.d.comb += [changed.known.eq(Mux(new, 0, row.known)), changed.wanted.eq(Mux(new, 0, row.wanted) | missing), changed.asked.eq(row.asked)]
        with m.If(missing.any()):
            m.d.sync += checks.eq(checks | this)

    @staticmethod
    def _learn(m, row, changed, value, unread):
        """What the memory holds after a compare-and-swap that brought ``value``, or held at a read. What else is wanted is looked at next."""
        swapped = Signal()
        m.d.comb += [
            swapped.eq((value == row.known) & ~unread),
            changed.known.eq(value | Mux(swapped, row.asked, 0)), changed.wanted.eq(row.wanted & ~Mux(swapped, row.asked, value)),
            changed.asked.eq(row.asked),
        ]

    def _send(self, m, row, changed, unread, this, busy, request):
        """Ask for what is wanted, if anything is."""
        writes = self.settings.ping_pong & ~unread
        new = row.known | row.wanted
        m.d.comb += [
            changed.known.eq(Mux(writes, new, row.known)), changed.wanted.eq(Mux(writes, 0, row.wanted)), changed.asked.eq(row.wanted),
        ]
        m.d.sync += [
            request.kind.eq(Mux(unread, _Kind.READ, Mux(self.settings.ping_pong, _Kind.WRITE, _Kind.SWAP))),
            request.known.eq(row.known), request.new.eq(new),
        ]
        with m.If(row.wanted.any()):
            m.next = "Base"
            with m.If(~writes):
                m.d.sync += busy.eq(busy | this)

    def _header(self, m, index, request, generation):
        """Drive the payloads. Returns the header without its address."""
        plain = request_of_log(m, self.settings.host, generation, index, self.requester_id,
                               has_data=request.kind != _Kind.READ, swaps=request.kind == _Kind.SWAP)
        for out in (self.o_request.payload, self.o_write.payload):
            m.d.comb += [out.first.eq(1), out.last.eq(1)]
        m.d.comb += [
            self.o_request.payload.data.eq(Cat(request.known, request.new)), self.o_write.payload.data.eq(request.new),
            self.o_request.payload.dwords.eq(Mux(request.kind == _Kind.SWAP, 2 * WORD_BYTES // 4, 0)),
            self.o_write.payload.dwords.eq(WORD_BYTES // 4),
        ]
        return plain

    def _offer(self, m, place, request, plain):
        """Where the word is, header, offer."""
        base, address = Signal(64), Signal(64)
        with m.State("Base"):
            m.d.sync += base.eq(self.settings.ranges[place.range].bitmap[self.active])
            m.next = "Address"
        with m.State("Address"):
            m.d.sync += address.eq(base + (place.word << exact_log2(WORD_BYTES)))
            m.next = "Header"
        with m.State("Header"):
            m.d.sync += [out.payload.header.eq(headers.with_address(plain, address)) for out in (self.o_request, self.o_write)]
            m.next = "Offer"
        with m.State("Offer"):
            # Withdrawn with all else that is forgotten: the place may be somebody else's, or at the other host, when the log is on again.
            m.d.comb += [
                self.o_write.valid.eq(self.enable & (request.kind == _Kind.WRITE)),
                self.o_request.valid.eq(self.enable & (request.kind != _Kind.WRITE)),
            ]
            with m.If(~self.enable | Mux(request.kind == _Kind.WRITE, self.o_write.ready, self.o_request.ready)):
                m.next = "Choose"

    def _answer(self, m, write, awaited, arrived, generation, bad):
        """Put down what a completion brings, where its word waits for one."""
        ours, number, good, value = answer_of_log(m, self.completion, self.settings.host, generation, self.words)
        counts = ours & awaited.bit_select(number, 1)
        m.d.comb += [
            write.addr.eq(number), write.data.eq(value), write.en.eq(counts), bad.eq(counts & ~good), arrived.eq(Mux(counts, 1 << number, 0)),
        ]

    def _time(self, m, busy, answered, late):
        """Give up when nothing goes on for ``limit`` cycles although something is asked or offered."""
        timer, offered, taken = Signal(32), Signal(), Signal()
        m.d.comb += [
            offered.eq(self.o_request.valid | self.o_write.valid),
            taken.eq((self.o_request.valid & self.o_request.ready) | (self.o_write.valid & self.o_write.ready)),
        ]
        m.d.sync += [timer.eq(timer + 1), late.eq((busy.any() | offered) & (timer >= self.limit))]
        with m.If(~(busy.any() | offered) | taken | answered.any()):
            m.d.sync += [timer.eq(0), late.eq(0)]


def _first(bits):
    """Number of the first bit that is set."""
    return number_of(lowest(bits))
