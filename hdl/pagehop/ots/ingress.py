"""What comes to the on-the-side device: sorted, and led through the windows in the order of PCIe."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.ots.decode import OtsDecode
from pagehop.ots.layouts import Access, OtsInfo, OtsLane, WindowEntry, window_bits
from pagehop.ots.window_posted import WindowPosted
from pagehop.ots.window_requests import WindowRequests
from pagehop.tlp import headers
from pagehop.tlp.arbiter import TlpArbiter
from pagehop.tlp.credits import return_credits
from pagehop.tlp.egress import EgressBeat, EgressLane
from pagehop.tlp.issue import Issued, IssueRegister
from pagehop.tlp.ordering import OrderingQueue, may_go
from pagehop.tlp.pages import PAGE_BITS
from pagehop.tlp.proxy import ProxyTable
from pagehop.tlp.reply_lane import ReplyLane
from pagehop.tlp.room import Room, lines_to_beats
from pagehop.tlp.stream import CreditLimits, TlpBeat, connect_streams

__all__ = ["OtsIngress", "default_depths"]

#: Lanes whose TLPs draw credits of one class.
_CREDIT_LANES = {
    "posted": (OtsLane.POSTED, OtsLane.LOCAL_POSTED), "non_posted": (
        OtsLane.WINDOW_REQUEST, OtsLane.REGISTER_REQUEST, OtsLane.LEAF_WALK, OtsLane.LEAF_READ),
    "completion": (OtsLane.COMPLETION,),
}

#: What stays with the beats of each lane, and what is shown ahead of them.
_KEEPS = {
    OtsLane.POSTED: (), OtsLane.COMPLETION: (), OtsLane.LOCAL_POSTED: ("leaf",), OtsLane.WINDOW_REQUEST: (), OtsLane.REGISTER_REQUEST: (),
    OtsLane.LEAF_WALK: (), OtsLane.LEAF_READ: (),
}
_AHEAD = {
    OtsLane.POSTED: ("window", "generation"), OtsLane.COMPLETION: ("tag", "last_completion"),
    OtsLane.WINDOW_REQUEST: ("window", "generation", "atomic", "lines"),
}

#: Requests through windows that may be unanswered.
ENTRIES = 64


def default_depths(data_bytes):
    """Beats of each :class:`OtsLane`: room for the answer to a read of 4 KB, and for all that posted credits allow in each lane of these."""
    return 128, max(128, 64 * lines_to_beats(data_bytes)), 128, 16, 16, 16, 16


class OtsIngress(wiring.Component):
    """Lead writes and requests through their windows, completions back to who asked, and everything else to registers and leaf tables.

    Three cycles from ``rx`` to ``o`` for writes and requests, four for completions; writes at one beat a cycle. Nothing that comes through a window
    passes a write that came before it to any window. What goes to registers and leaf tables waits for no window: the order between the two is that of
    :class:`pagehop.ots.window_flush.WindowFlush`, which software asks for. An endpoint may do so, since nobody but its own driver depends on it.

    Parameters
    ----------
    data_bytes : beat width. windows, entries : see :class:`OtsDecode`. depths : beats of each :class:`OtsLane`
    max_payload : largest payload in bytes

    Members
    -------
    rx, rx_limits : the link. own_id, window_bar, leaf_bar, host_id : see :class:`OtsDecode`
    o : beats for the egress. room : of its lanes. entered, issued : TLPs that came to the issue register, and that left it
    flush, copy : completions of our own reads
    local_posted, local_leaf : TLPs for the registers, or the leaf tables. register_requests, leaf_walks, leaf_reads
    pauses, index, entry : of the table; index 0 is of writes, 1 of requests
    access, accesses : of the beat that leaves through a window in this cycle
    absorbing, absorb_window : in, writes through this window that begin from now on go to ``absorb`` too, a cycle later. atomic,
        atomic_offset : an atomic went there, to this byte of its page
    refused, refused_room : requests to no window. dropped, unexpected, timed_out : pulses. holds : something waits for a window
    atomics : a bit a window, an atomic waits for its answer
    accepted, left : writes to windows that came, and that are in the issue register or dropped
    limit : cycles after which a request is not waited for any more
    """
    def __init__(self, data_bytes, windows, entries, *, depths, max_payload=256):
        self.data_bytes, self.windows, self.depths, self.max_payload = data_bytes, windows, tuple(depths), max_payload
        self.decode = OtsDecode(data_bytes, windows, entries)
        self.queue = OrderingQueue(data_bytes, OtsInfo(windows), self.depths, completions=(OtsLane.COMPLETION,), keeps=_KEEPS, ahead=_AHEAD)
        self.lines = self.depths[OtsLane.COMPLETION] // lines_to_beats(data_bytes)
        if self.lines < 64:
            raise ValueError(f"The lane of completions must hold 4096 bytes in lines of 64, {64 * lines_to_beats(data_bytes)} beats, "
                             f"not {self.depths[OtsLane.COMPLETION]}")
        beat, window = stream.Signature(TlpBeat(data_bytes)), window_bits(windows)
        super().__init__({
            "rx": In(beat), "rx_limits": Out(CreditLimits), "own_id": In(16), "window_bar": In(64), "leaf_bar": In(64), "host_id": In(16),
            "o": Out(stream.Signature(EgressBeat(data_bytes))), "room": In(4), "entered": Out(4), "issued": Out(4),
            "flush": Out(beat), "copy": Out(beat), "local_posted": Out(beat), "local_leaf": Out(1), "register_requests": Out(beat),
            "leaf_walks": Out(beat), "leaf_reads": Out(beat), "pauses": In(1), "index": Out(window).array(2), "entry": In(WindowEntry).array(2),
            "access": Out(Access(windows)), "accesses": Out(1),
            "absorbing": In(1), "absorb_window": In(window), "absorb": Out(beat), "atomic": Out(1), "atomic_offset": Out(PAGE_BITS),
            "refused": Out(stream.Signature(headers.RequestHeader())), "refused_room": In(1),
            "dropped": Out(1), "unexpected": Out(1), "timed_out": Out(1), "holds": Out(1), "atomics": Out(windows),
            "accepted": Out(self.queue.stamp_bits), "left": Out(self.queue.stamp_bits), "limit": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.decode, m.submodules.queue = decode, queue = self.decode, self.queue
        m.submodules.gate = gate = TlpArbiter(Issued(self.data_bytes), 3)
        m.submodules.issue = issue = IssueRegister(Issued(self.data_bytes))
        for source, sink in ((self.rx, decode.i), (decode.o, queue.i), (decode.flush, self.flush), (decode.copy, self.copy), (gate.o, issue.i)):
            connect_streams(m, source, sink)
        posted, requests, replies = self._lanes(m, queue)
        for number, lane in enumerate((posted, replies, requests)):
            connect_streams(m, lane.offer, gate.i[number])
        self._tags(m, requests, replies)
        local = queue.o[OtsLane.LOCAL_POSTED]
        m.d.comb += [
            *(getattr(decode, name).eq(getattr(self, name)) for name in ("own_id", "window_bar", "leaf_bar", "host_id")),
            self.o.valid.eq(issue.o.valid), issue.o.ready.eq(self.o.ready), self.o.payload.beat.eq(issue.o.payload.beat),
            self.o.payload.lane.eq(issue.o.payload.lane), self.o.payload.to_memory.eq(issue.o.payload.to_memory),
            self.entered.eq(issue.entered), self.issued.eq(issue.accepted),
            self.local_posted.valid.eq(local.valid), local.ready.eq(self.local_posted.ready), self.local_posted.payload.eq(local.payload.beat),
            self.local_leaf.eq(local.payload.info.leaf),
            queue.posted_left.eq(posted.left), self.accepted.eq(queue.accepted), self.left.eq(queue.posted.left),
            self.accesses.eq(posted.accesses | requests.accesses), self.access.eq(Mux(posted.accesses, posted.access, requests.access)),
            self.dropped.eq(posted.dropped), self.unexpected.eq(replies.unexpected), self.holds.eq(posted.holds | requests.holds),
        ]
        for lane, sink in ((OtsLane.REGISTER_REQUEST, self.register_requests), (OtsLane.LEAF_WALK, self.leaf_walks),
                           (OtsLane.LEAF_READ, self.leaf_reads)):
            head = queue.o[lane]
            m.d.comb += [sink.valid.eq(head.valid), head.ready.eq(sink.ready), sink.payload.eq(head.payload.beat)]
        self._absorb(m, posted, requests)
        return_credits(m, queue, self.rx_limits, _CREDIT_LANES, self.data_bytes, self.max_payload)
        return m

    def _lanes(self, m, queue):
        shape, ahead = queue.lane_shape, queue.ahead_shape
        m.submodules.posted = posted = WindowPosted(self.data_bytes, shape, ahead, self.windows)
        m.submodules.requests = requests = WindowRequests(self.data_bytes, shape, ahead, self.windows, self.lines)
        m.submodules.replies = replies = ReplyLane(self.data_bytes, shape, ahead, (0,), ENTRIES)
        stamp = Signal.like(replies.looked.stamp)
        m.d.sync += stamp.eq(replies.looked.stamp)
        for lane, number, side in ((OtsLane.POSTED, 0, posted), (OtsLane.WINDOW_REQUEST, 1, requests)):
            connect_streams(m, queue.o[lane], side.i)
            connect_streams(m, queue.ahead[lane], side.ahead)
            m.d.comb += [
                self.index[number].eq(side.index), side.entry.eq(self.entry[number]), side.own_id.eq(self.own_id), side.pauses.eq(self.pauses),
            ]
        connect_streams(m, queue.o[OtsLane.COMPLETION], replies.i)
        connect_streams(m, queue.ahead[OtsLane.COMPLETION], replies.ahead)
        wiring.connect(m, wiring.flipped(self.refused), requests.refused)
        m.d.comb += [
            posted.room.eq(self.room[EgressLane.POSTED]), requests.room.eq(self.room[EgressLane.NON_POSTED]), requests.posted.eq(queue.posted),
            requests.refused_room.eq(self.refused_room), replies.gone.eq(may_go(stamp, queue.posted)),
            replies.room.eq(self.room[EgressLane.COMPLETION]), replies.proven.eq(1),
        ]
        return posted, requests, replies

    def _tags(self, m, requests, replies):
        """Requests leave under tags of ours, with room for their answers (D7, D16)."""
        m.submodules.proxies = proxies = ProxyTable(ENTRIES)
        m.submodules.room = room = Room(self.lines)
        m.d.comb += [
            requests.tag.eq(Cat(proxies.index, Const(3, 4))), requests.tag_valid.eq(proxies.index_valid), requests.lines_left.eq(room.amount_left),
            proxies.allocate.eq(requests.begins), proxies.allocate_entry.eq(requests.origin), proxies.limit.eq(self.limit),
            proxies.lookup_index[0].eq(replies.index), proxies.lookup_enable[0].eq(replies.enable), replies.entry[0].eq(proxies.entry[0]),
            replies.used[0].eq(proxies.valid[0]), proxies.free[0].eq(replies.free), proxies.free_index[0].eq(replies.free_index),
            room.reserve.eq(requests.begins), room.reserve_amount.eq(requests.origin.lines), self.timed_out.eq(proxies.timed_out),
            room.release[0].eq(replies.free), room.release_amount[0].eq(replies.ended.lines),
            room.release[1].eq(proxies.timed_out), room.release_amount[1].eq(proxies.timed_out_entry.lines),
        ]
        self._count_atomics(m, requests, replies, proxies)

    def _count_atomics(self, m, requests, replies, proxies):
        """Which windows have atomics that are not answered (H58): of all together, while any is. ``to_device`` of an entry marks an atomic here."""
        count, came, ended = Signal(range(ENTRIES + 1)), Signal(), Signal(2)
        touched = Signal(self.windows)
        m.d.comb += [
            came.eq(requests.begins & requests.origin.to_device),
            ended.eq((replies.free & replies.ended.to_device) + (proxies.timed_out & proxies.timed_out_entry.to_device)),
        ]
        m.d.sync += count.eq(count + came - ended)
        with m.If(came):
            m.d.sync += touched.eq(touched | (1 << requests.window))
        with m.Elif(count == 0):
            m.d.sync += touched.eq(0)
        m.d.comb += self.atomics.eq(touched)

    def _absorb(self, m, posted, requests):
        """Tell the engine of what changes the page that it copies."""
        begun, absorbs = Signal(), Signal()
        m.d.comb += absorbs.eq(Mux(posted.access.first, self.absorbing & (posted.access.window == self.absorb_window), begun))
        m.d.sync += [
            self.absorb.valid.eq(posted.accesses & absorbs), self.absorb.payload.eq(posted.offer.payload.beat),
            self.atomic.eq(requests.accesses & requests.access.first & requests.access.atomic & self.absorbing
                           & (requests.access.window == self.absorb_window)),
            self.atomic_offset.eq(Cat(Const(0, 2), requests.access.first_dword)),
        ]
        with m.If(posted.accesses):
            m.d.sync += begun.eq(absorbs)
