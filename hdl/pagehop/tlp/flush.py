"""Zero-length reads that prove posted writes visible at one host."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from pagehop.tlp.headers import CompletionHeader, CompletionStatus, Fmt, RequestHeader, TlpType
from pagehop.tlp.stream import TlpBeat, check_data_bytes

__all__ = ["FLUSH_SEQUENCE_BITS", "FlushView", "FlushTracker", "flush_tag", "reached"]

#: Width of the numbers that count flushes, modulo.
FLUSH_SEQUENCE_BITS = 6


class FlushView(data.Struct):
    """What others see of the flush tracker of one host; the fields are ports of :class:`FlushTracker`."""
    issued: FLUSH_SEQUENCE_BITS
    done:   FLUSH_SEQUENCE_BITS
    newest: FLUSH_SEQUENCE_BITS
    dirty:  1
    clean:  1
    lost:   1


def flush_tag(host, index):
    """Tag of a flush read (docs/interposer.md, "Tags of ours"): ``1 h iiiiii``."""
    return 0x80 | host << 6 | index


def reached(done, target, newest):
    """1 when flush number ``target`` has been answered; the three are a tracker's ``done``, a number taken from it, and its ``newest``.

    It has been unless it is one of the numbers after ``done`` up to ``newest``: those that somebody may still wait for. To look at ``done`` and
    ``target`` alone would go wrong with a target of long ago: when ``done`` has come halfway round since, it looks like one to come, and nobody might
    ever send that flush. So a target may be kept for any time; at worst an old one waits for flushes that are on their way.
    Valid from the cycle after the one in which the target was taken.
    """
    return (target - done - 1)[:FLUSH_SEQUENCE_BITS] >= (newest - done)[:FLUSH_SEQUENCE_BITS]


class FlushTracker(wiring.Component):
    """Send flush reads to one host, and know which posted writes they have proven visible there (H01, H03, H13, H46, H60, H64).

    Flushes are numbered from 1, modulo 64, in the order of their transfer on ``o``. Flush *n* covers every posted TLP accepted in a
    cycle before the one of its transfer; up to ``tags`` are on their way at a time, and the answer to one proves the earlier ones too.
    Who depends on the writes accepted so far takes a number in one cycle, asserts ``request`` **in the same cycle** if ``dirty`` (or
    always), and waits for :func:`reached`. The number is one of two:

    - ``issued + 1`` if ``dirty`` else ``issued``, registers both, covers what was accepted in cycles *before* this one;
    - ``target``, combinational from ``posted`` and ``o.ready``, covers what is accepted *in* this cycle too, whatever else happens in it.

    One flush serves all who ask before it is transferred. A request when nothing was accepted since the last flush is dropped: that flush
    covers it. ``o.valid`` rises in the cycle after ``request``, if a tag is free; ``done`` moves three cycles after a completion's transfer.

    A flush unanswered for ``limit`` to 1.5 x ``limit`` cycles (and at most 2 x ``tags`` more) is given up: ``done`` moves as if it had
    been answered, so that nothing waits for ever, and ``timed_out`` says that the proof is missing. A completion that reports an error
    ends its flush too and pulses ``failed``. Of the last flush that ``done`` counts, ``lost`` says that it was one of these. Who must know then
    asserts ``insist`` with ``request`` and takes ``issued + 1``: a flush is sent although nothing was accepted since. A tag is used again after its
    own answer or give-up; the answer to a flush given up would be taken for that to the next one of its tag, so ``limit`` must be longer than the
    host's slowest answer.

    Parameters
    ----------
    host : int
        0 for Host A, 1 for Host B: bit 6 of the tags.
    tags : int
        Flushes on their way at a time, a power of two up to 32.
    data_bytes : int
        Beat width.

    Members
    -------
    posted : in, a posted TLP is accepted by this host's egress in this cycle
    request : in, somebody needs the posted TLPs accepted so far proven; may act in every cycle
    insist : in, with ``request``: also if they count as proven by a flush that was lost
    address : in, where to read: an address of the last posted write
    requester_id : in, of the flush reads
    limit : in
    o : stream of one-beat TLPs, out
    completion : stream, in, always ready; the completions with this tracker's tags. Only beats with ``first`` count
    issued : out, number of the last flush transferred on ``o``
    done : out, number of the last flush answered or given up
    newest : out, the highest number that anybody waits for
    target : out
    dirty : out, something was accepted since the last flush was transferred
    clean : out, not ``dirty`` and ``done == issued``: all is proven
    lost : out, flush ``done`` proved nothing
    sent, timed_out, failed : out, pulses; the last two in the cycle before ``done`` moves
    """
    def __init__(self, host, tags=16, data_bytes=64):
        if host not in (0, 1):
            raise ValueError(f"Host must be 0 or 1, not {host!r}")
        if tags not in (2, 4, 8, 16, 32):
            raise ValueError(f"Number of flush tags must be a power of two from 2 to 32, not {tags!r}")
        check_data_bytes(data_bytes)
        self.host = host
        self.tags = tags
        self.data_bytes = data_bytes
        beat = stream.Signature(TlpBeat(data_bytes))
        super().__init__({
            "posted": In(1), "request": In(1), "insist": In(1), "address": In(64), "requester_id": In(16), "limit": In(32),
            "o": Out(beat), "completion": In(beat),
            "issued": Out(FLUSH_SEQUENCE_BITS), "done": Out(FLUSH_SEQUENCE_BITS), "newest": Out(FLUSH_SEQUENCE_BITS),
            "target": Out(FLUSH_SEQUENCE_BITS), "dirty": Out(1), "clean": Out(1), "lost": Out(1),
            "sent": Out(1), "timed_out": Out(1), "failed": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        busy, old = Signal(self.tags), Signal(self.tags)
        start, end = Signal(self.tags), Signal(self.tags)
        m.d.comb += self.completion.ready.eq(1)
        m.d.sync += busy.eq((busy & ~end) | start)
        pending = self._count(m)
        self._send(m, busy, start, pending)
        self._age(m, start, old)
        self._finish(m, busy, old, end)
        return m

    def _count(self, m):
        """What was accepted since the last flush. Returns whether somebody waits for the next."""
        pending = Signal()
        dirty_next = Signal()
        m.d.comb += [
            # What is accepted in the cycle of a transfer may stand behind that flush, so it counts for the next.
            dirty_next.eq(self.posted | (self.dirty & ~self.sent)),
            self.newest.eq(self.issued + pending),
            self.clean.eq(~self.dirty & (self.done == self.issued)),
            self.target.eq(self.issued + (self.dirty | self.posted) + (self.posted & self.sent)),
        ]
        m.d.sync += [
            self.dirty.eq(dirty_next),
            pending.eq((self.request & (dirty_next | (self.insist & self.lost))) | (pending & ~self.sent)),
            self.issued.eq(self.issued + self.sent),
        ]
        return pending

    def _send(self, m, busy, start, pending):
        """One read while somebody waits and the next tag is free. Tags are taken in turn, so the number of a flush follows from its tag."""
        header = Signal(RequestHeader())
        index = self.issued[:exact_log2(self.tags)]
        wide = Signal()
        m.d.comb += [
            header.fmt.eq(Mux(wide, Fmt.DW4.value, Fmt.DW3.value)),
            header.type.eq(TlpType.MEMORY),
            header.length.eq(1),
            header.tag.eq(flush_tag(self.host, index)),
            self.o.valid.eq(pending & ~busy.bit_select(index, 1)),
            self.o.payload.header.eq(header),
            self.o.payload.first.eq(1),
            self.o.payload.last.eq(1),
            self.sent.eq(self.o.valid & self.o.ready),
            start.eq(self.sent << index),
        ]
        # The address may change while the read waits for its turn, the payload must not.
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                wide.eq(self.address[32:].any()),
                header.requester_id.eq(self.requester_id),
                header.dw2.eq(Mux(self.address[32:].any(), self.address[32:], self.address[:32] & ~3)),
                header.dw3.eq(Mux(self.address[32:].any(), self.address[:32] & ~3, 0)),
            ]

    def _age(self, m, start, old):
        """A tag is old after the third tick that it sees: two whole halves of ``limit``."""
        timer, tick = Signal(32), Signal()
        once, twice = Signal(self.tags), Signal(self.tags)
        m.d.sync += [
            tick.eq(timer >= self.limit[1:]),
            timer.eq(timer + 1),
        ]
        with m.If(tick):
            m.d.sync += [timer.eq(0), tick.eq(0)]
        for later, earlier in ((once, Const(-1, self.tags)), (twice, once), (old, twice)):
            m.d.sync += later.eq(Mux(tick, earlier, later) & ~start)

    def _finish(self, m, busy, old, end):
        """End a flush by its completion or, in cycles without one, by its age; one a cycle."""
        answer = data.View(CompletionHeader(), self.completion.payload.header)
        answered, success, index = Signal(), Signal(), Signal(range(self.tags))
        m.d.sync += [
            answered.eq(self.completion.valid & self.completion.payload.first & (answer.tag[len(index):6] == 0)),
            success.eq(answer.status == CompletionStatus.SUCCESS.value),
            index.eq(answer.tag[:len(index)]),
        ]
        sweep, ended, ends = Signal(range(self.tags)), Signal(range(self.tags)), Signal()
        just_ended, just_ends = Signal(range(self.tags)), Signal()
        since, unanswered = Signal(range(self.tags)), Signal(range(self.tags + 1))   # flushes after the one that ended; after the last that is done
        m.d.comb += [
            ended.eq(Mux(answered, index, sweep)),
            ends.eq(busy.bit_select(ended, 1) & (answered | old.bit_select(ended, 1))),
            end.eq(ends << ended),
            # The tag is free from this cycle on, but `issued` does not yet count a flush that takes it.
            since.eq(self.issued - 1 - just_ended), unanswered.eq(self.issued - self.done),
        ]
        with m.If(~answered):
            m.d.sync += sweep.eq(sweep + 1)
        with m.If(just_ends & (since < unanswered)):
            m.d.sync += [self.done.eq(self.issued - since), self.lost.eq(self.failed | self.timed_out)]
        m.d.sync += [
            just_ended.eq(ended),
            just_ends.eq(ends),
            self.failed.eq(ends & answered & ~success),
            self.timed_out.eq(ends & ~answered),
        ]
