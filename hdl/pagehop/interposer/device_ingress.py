"""What the device sends: sorted, looked up, gated, issued to one of the hosts."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.aside_order import AsideOrder
from pagehop.interposer.device_decode import DeviceDecode
from pagehop.interposer.earlier import Earlier
from pagehop.interposer.lane_turns import LaneTurns
from pagehop.interposer.layouts import HOST_A, HOST_B, DeviceInfo, Guard, Holds, Opaque, Settings, Written, run_bits
from pagehop.interposer.posted_lane import PostedLane
from pagehop.interposer.request_lane import RequestLane
from pagehop.interposer.set_aside import SetAside
from pagehop.tlp import headers
from pagehop.tlp.arbiter import TlpArbiter, select_one
from pagehop.tlp.credits import CreditReturn, lane_credits
from pagehop.tlp.egress import EgressBeat, EgressLane
from pagehop.tlp.flush import FlushView
from pagehop.tlp.issue import Issued, IssueRegister
from pagehop.tlp.ordering import OrderingQueue, mark_bits
from pagehop.tlp.outstanding import OutstandingEntry, row_of
from pagehop.tlp.pages import PAGE_BITS
from pagehop.tlp.proxy import ProxyEntry
from pagehop.tlp.reply_lane import ReplyLane
from pagehop.tlp.stream import CreditLimits, TlpBeat, connect_streams

__all__ = ["DeviceIngress"]

_LANES = (EgressLane.POSTED, EgressLane.COMPLETION, EgressLane.NON_POSTED)

#: What stays with the beats of each lane, and what is shown ahead of them.
_KEEPS = (("far",), (), ("far",))
_AHEAD = {
    EgressLane.POSTED: ("page", "in_window", "mapped", "below", "needs_proof", "translated", "source"),
    EgressLane.COMPLETION: ("tag", "last_completion", "source"),
    EgressLane.NON_POSTED: ("page", "in_window", "mapped", "below", "row", "lines", "atomic", "translated", "source"),
}


class DeviceIngress(wiring.Component):
    """Bring the device's TLPs to the hosts, in order, except what a moving page holds.

    Four cycles from ``rx`` to ``o`` when idle (decode, look-up, decision, issue), one beat a cycle. Posted TLPs go in order; requests and
    completions go when the posted TLPs before them have gone (O1). A head that must wait waits in its own lane, but what a moving page holds goes
    aside as long as there is room, and so does what may not pass it; what may pass goes on (table 2-40, H24d).

    Parameters
    ----------
    data_bytes, window_pages, rows (of the outstanding table), entries (of a proxy table), return_lines (reserved room of a host's completion lane).
    depths : beats of the posted, completion and non-posted lane. aside : beats of posted TLPs, and of requests, that can be aside.
    slots : pages that move at the same time.
    hosts : with 1 everything goes to Host A, and the owner of a page says only which of its memories it is in.
    max_payload : largest payload in bytes.

    Members
    -------
    rx, rx_limits : the device's link. ``answer``: completions given in its place.
    o : to each host's egress; ``room``: its room, a bit a lane.
    owner_* : ports of the owner map, for posted TLPs, non-posted TLPs, and posted TLPs that are aside.
    row, occupied, allocate … : ports of the outstanding table.
    reply_* : port into the proxy tables of both hosts.
    return_room, reserve, reserve_lines : room for completions at each host's ingress.
    flush, flush_request : each host's flush tracker.
    holds : lanes that wait for a switchover. ``pause_changes``: posted TLPs and requests wait, as of the next cycle but one.
    refused : headers of requests. ``blocked``: pulses, one was dropped or refused.
    dirty, dirty_page : a write to this page was chosen in the cycle before; ``pause``: choose nothing in this cycle.
    writes, written : a write or atomic to the window was chosen in the cycle before, and touches this.
    absorb : streams, one a slot, always ready; beats of writes to the page that it copies, as they are accepted at its source.
    atomic, atomic_offset : a bit a slot, an atomic was accepted there in the cycle before, to this byte of the page.
    changed, changed_unit : the same of writes and atomics, to a page with these low bits of its number.
    posted_accepted, posted_left, requests_accepted, requests_left, aside_entered, aside_left, issue_entered, issue_accepted : counts to set marks on.
        A posted TLP has left when all before it have; a request has left its lane, perhaps to wait aside.
    fence_started, fence_waits, unexpected : pulses for the counters. opaque : of :class:`DeviceDecode`.
    """
    def __init__(self, data_bytes, window_pages, *, rows, entries, return_lines, depths, max_payload, aside=(64, 16), slots=1, hosts=2):
        self.slots, self.aside, self.hosts = slots, aside, hosts
        self.data_bytes, self.window_pages, self.rows, self.entries = data_bytes, window_pages, rows, entries
        self.return_lines, self.depths, self.max_payload = return_lines, depths, max_payload
        self._queue = OrderingQueue(data_bytes, DeviceInfo(window_pages, rows), depths, completions=(EgressLane.COMPLETION,), keeps=_KEEPS,
                                    ahead=_AHEAD, outside=16 + aside[0])
        page = range(window_pages)
        requests_bits, aside_bits = (mark_bits(depth + 16) for depth in (depths[EgressLane.NON_POSTED], aside[1]))
        super().__init__({
            "rx": In(stream.Signature(TlpBeat(data_bytes))), "rx_limits": Out(CreditLimits),
            "answer": In(stream.Signature(headers.CompletionHeader())),
            "o": Out(stream.Signature(EgressBeat(data_bytes))).array(2), "room": In(4).array(2),
            "settings": In(Settings), "guard": In(Guard(window_pages)).array(slots), "limit": In(32), "pause": In(1),
            "owner_index": Out(page).array(3), "owner_enable": Out(1).array(3), "owner_bit": In(1).array(3),
            "row": Out(range(rows)), "row_enable": Out(1), "occupied": In(1), "give_up": Out(1),
            "allocate": Out(1), "allocate_row": Out(range(rows)), "allocate_entry": Out(OutstandingEntry),
            "reply_index": Out(range(entries)), "reply_enable": Out(1),
            "reply_entry": In(ProxyEntry).array(2), "reply_used": In(1).array(2), "reply_free": Out(2), "reply_free_index": Out(range(entries)),
            "reply_lines": Out(7),
            "return_room": In(range(return_lines + 1)).array(2), "reserve": Out(1).array(2), "reserve_lines": Out(7),
            "holds": In(Holds), "refused": Out(stream.Signature(headers.RequestHeader())), "blocked": Out(3),
            "flush": In(FlushView).array(2), "flush_request": Out(1).array(2),
            "dirty": Out(1), "dirty_page": Out(page), "writes": Out(1), "written": Out(Written), "pause_changes": In(1),
            "absorb": Out(stream.Signature(TlpBeat(data_bytes))).array(slots), "atomic": Out(slots), "atomic_offset": Out(PAGE_BITS),
            "changed": Out(slots), "changed_unit": Out(run_bits(window_pages)),
            "posted_accepted": Out(self._queue.stamp_bits), "posted_left": Out(self._queue.stamp_bits),
            "requests_accepted": Out(requests_bits), "requests_left": Out(requests_bits),
            "aside_entered": Out(aside_bits), "aside_left": Out(aside_bits),
            "issue_entered": Out(4), "issue_accepted": Out(4),
            "fence_started": Out(1), "fence_waits": Out(1), "unexpected": Out(1),
            "opaque": Out(Opaque),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.decode = decode = DeviceDecode(self.data_bytes, self.window_pages, self.rows)
        m.submodules.queue = queue = self._queue
        issued = Issued(self.data_bytes, self.slots)
        m.submodules.gate = gate = TlpArbiter(issued, len(_LANES) + 1)
        m.submodules.issue = issue = IssueRegister(issued)
        shapes = (queue.lane_shape, queue.ahead_shape)
        m.submodules.posted = posted = PostedLane(self.data_bytes, *shapes, self.window_pages, self.slots)
        m.submodules.held = held = PostedLane(self.data_bytes, *shapes, self.window_pages, self.slots)
        m.submodules.replies = replies = ReplyLane(self.data_bytes, *shapes, (HOST_A, HOST_B), self.entries, self.slots)
        m.submodules.requests = requests = RequestLane(self.data_bytes, *shapes, self.window_pages, self.rows, self.return_lines, self.slots)
        connect_streams(m, self.rx, decode.i)
        connect_streams(m, self.answer, decode.answer)
        connect_streams(m, decode.o, queue.i)
        m.d.comb += [
            decode.settings.eq(self.settings), self.opaque.eq(decode.opaque),
            self.posted_accepted.eq(queue.accepted),
            self.issue_entered.eq(issue.entered), self.issue_accepted.eq(issue.accepted),
        ]
        turns = self._aside(m, queue, posted, held, replies, requests)
        for number, (beats, ahead) in enumerate(((posted.i, posted.ahead), (replies.i, replies.ahead), (turns.i[0], turns.i_ahead[0]))):
            connect_streams(m, queue.o[number], beats)
            connect_streams(m, queue.ahead[number], ahead)
        for number, lane in enumerate((posted, replies, requests, held)):
            connect_streams(m, lane.offer, gate.i[number])
        m.d.comb += [
            issue.i.valid.eq(gate.o.valid & ~self.pause), issue.i.payload.eq(gate.o.payload), gate.o.ready.eq(issue.i.ready & ~self.pause),
        ]
        if self.hosts == 1:
            m.d.comb += issue.i.payload.destination.eq(HOST_A)
        m.d.sync += [
            self.requests_accepted.eq(self.requests_accepted + (
                decode.o.valid & decode.o.ready & decode.o.payload.beat.first & (decode.o.payload.lane == EgressLane.NON_POSTED))),
            self.requests_left.eq(self.requests_left + self._ends(queue.o[EgressLane.NON_POSTED])),
        ]
        self._lanes(m, posted, requests, held, issue)
        self._replies(m, replies)
        connect_streams(m, requests.refused, self.refused)
        m.d.comb += self.blocked.eq(Cat(posted.drops, held.drops, self.refused.valid & self.refused.ready))
        waits = self._fence(m, gate, issue, (posted, replies, requests, held))
        self._reserve(m, requests.offer)
        self._issue(m, issue, waits)
        self._credits(m, queue)
        return m

    def _aside(self, m, queue, posted, held, replies, requests):
        """Where TLPs wait beside their lanes, and what those behind them must wait for. Returns the two lanes of requests."""
        shapes, depths = (queue.lane_shape, queue.ahead_shape), self.aside
        m.submodules.held_posted = held_posted = SetAside(*shapes, depths[0])
        m.submodules.held_requests = held_requests = SetAside(*shapes, depths[1])
        m.submodules.turns = turns = LaneTurns(*shapes)
        m.submodules.order = order = AsideOrder(queue.stamp_bits, depths[0])
        for source, sink in (
                (posted.aside, held_posted.i), (held_posted.o, held.i), (held_posted.ahead, held.ahead), (requests.aside, held_requests.i),
                (held_requests.o, turns.i[1]), (held_requests.ahead, turns.i_ahead[1]), (turns.o, requests.i), (turns.ahead, requests.ahead)):
            connect_streams(m, source, sink)
        aside = posted.aside.valid & posted.aside.ready
        m.d.comb += [
            # A write that is dropped is neither offered nor put aside.
            order.ended.eq(((posted.offer.ready | aside) & posted.offer.payload.beat.last) | posted.drops),
            order.enters.eq(aside & posted.offer.payload.beat.first), order.source.eq(posted.aside.payload.ahead.info.source),
            order.leaves.eq((held.offer.ready & held.offer.payload.beat.last) | held.drops),
            order.accepted.eq(queue.accepted), order.left.eq(queue.posted.left),
            posted.standing.eq(order.standing), self.posted_left.eq(order.posted.left),
        ]
        m.d.sync += queue.posted_left.eq(order.ended)
        for name, lane in (("replies", replies), ("requests", requests)):
            m.submodules[f"before_{name}"] = earlier = Earlier(queue.ahead_shape)
            m.d.comb += [
                earlier.looked.eq(lane.looked), earlier.posted.eq(queue.posted), earlier.through.eq(order.posted),
                earlier.standing.eq(order.standing), lane.gone.eq(earlier.gone),
            ]
        m.d.comb += [requests.stands.eq(earlier.stands), requests.again.eq(turns.aside)]
        m.d.sync += [
            self.aside_entered.eq(self.aside_entered + (requests.aside.valid & requests.aside.ready & requests.aside.payload.lane.beat.last)),
            self.aside_left.eq(self.aside_left + self._ends(held_requests.o)),
        ]
        return turns

    @staticmethod
    def _ends(lane):
        """1 when a TLP leaves ``lane`` with its last beat."""
        return lane.valid & lane.ready & lane.payload.beat.last

    def _lanes(self, m, posted, requests, held, issue):
        for port, (lane, kind, stops) in enumerate((
                (posted, EgressLane.POSTED, self.holds.posted), (requests, EgressLane.NON_POSTED, self.holds.requests),
                (held, EgressLane.POSTED, self.holds.posted))):
            m.d.comb += [
                lane.settings.eq(self.settings), *(guard.eq(ours) for guard, ours in zip(lane.guard, self.guard, strict=True)),
                self.owner_index[port].eq(lane.owner_index), self.owner_enable[port].eq(lane.owner_enable), lane.owner_bit.eq(self.owner_bit[port]),
            ]
            for host in (HOST_A, HOST_B):
                m.d.comb += lane.room[host].eq(self.room[host][kind] & ~stops & ~self.pause_changes)
        m.d.comb += [
            self.row.eq(requests.row), self.row_enable.eq(requests.row_enable),
            requests.occupied.eq(self.occupied), self.give_up.eq(requests.give_up), requests.limit.eq(self.limit),
            # One request at a time between the look-up of its row and the allocation, which the table does not show in its own cycle.
            requests.clear.eq(~issue.request_held & ~self.allocate),
        ]
        for host in (HOST_A, HOST_B):
            m.d.comb += requests.return_room[host].eq(self.return_room[host])
        lanes = (posted, requests, held)
        marks = [lane.offer.ready & lane.dirty for lane in lanes]
        m.d.sync += [self.dirty.eq(Cat(marks).any()), self.dirty_page.eq(select_one(marks, [lane.dirty_page for lane in lanes]))]
        writes = [lane.offer.ready & lane.writes for lane in lanes]
        m.d.sync += [self.writes.eq(Cat(writes).any()), self.written.eq(select_one(writes, [lane.written for lane in lanes]))]

    def _replies(self, m, replies):
        m.d.comb += [
            self.reply_index.eq(replies.index), self.reply_enable.eq(replies.enable),
            self.reply_free.eq(replies.free), self.reply_free_index.eq(replies.free_index), self.reply_lines.eq(replies.ended.lines),
            self.unexpected.eq(replies.unexpected),
        ]
        for host in (HOST_A, HOST_B):
            m.d.comb += [
                replies.entry[host].eq(self.reply_entry[host]), replies.used[host].eq(self.reply_used[host]),
                replies.room[host].eq(self.room[host][EgressLane.COMPLETION]),
            ]

    def _fence(self, m, gate, issue, lanes):
        """Fence policy: let a head go to one host only when nothing sent to the other is unproven. Return for which hosts heads wait."""
        proven, proven_posted, proven_others = Signal(2), Signal(2), Signal(2)   # in the next cycle, and now
        waits, waited = Signal(2), Signal()
        only = Signal(2)   # all that stands in the issue register goes to this host
        for host in (HOST_A, HOST_B):
            # What stands in the issue register is not known to the tracker yet.
            # A register, so what is chosen in this cycle counts too.
            leaves = Cat(
                lane.offer.ready & lane.offer.payload.beat.first & (lane.offer.payload.destination != host)
                for lane in lanes).any()
            m.d.sync += only[host].eq((issue.empty | only[host]) & ~leaves)
            m.d.comb += proven[host].eq(~self.settings.fence | (self.flush[1 - host].clean & (issue.empty | only[host]) & ~leaves))
        # Posted writes pause while another lane waits, else they would make the other host unproven for ever. Requests are looked at every third
        # cycle.
        posted, *others = lanes
        patience = Signal(2)
        other_waits = Cat(lane.waits for lane in others).any()
        pauses = other_waits | patience.any()
        m.d.sync += [patience.eq(Cat(other_waits, patience)), proven_others.eq(proven), proven_posted.eq(Mux(pauses, 0, proven))]
        m.d.comb += [posted.proven.eq(proven_posted), *(lane.proven.eq(proven_others) for lane in others)]
        for lane in lanes:
            with m.If(lane.waits.any()):
                m.d.comb += waits.eq(lane.waits)
        m.d.comb += [self.fence_waits.eq(waits.any()), self.fence_started.eq(waits.any() & ~waited)]
        m.d.sync += waited.eq(waits.any() | (waited & ~(gate.o.valid & gate.o.ready)))
        return waits

    def _reserve(self, m, offer):
        issued = offer.payload
        for host in (HOST_A, HOST_B):
            m.d.sync += self.reserve[host].eq(offer.ready & issued.beat.first & (issued.destination == host))
        m.d.sync += self.reserve_lines.eq(issued.lines)

    def _issue(self, m, issue, waits):
        """Hand over what stands in the issue register, and note a request in the outstanding table in the cycle after it was accepted."""
        issued = issue.o.payload
        fields = data.View(headers.RequestHeader(), issued.beat.header)
        tag = headers.whole_tag(fields)
        for host in (HOST_A, HOST_B):
            m.d.comb += [
                self.o[host].valid.eq(issue.o.valid & (issued.destination == host)),
                self.o[host].payload.beat.eq(issued.beat), self.o[host].payload.lane.eq(issued.lane),
                self.o[host].payload.to_memory.eq(issued.to_memory),
            ]
        absorbed = Mux(issue.o.valid & issue.o.ready, issued.absorbed, 0)
        m.d.comb += [
            issue.o.ready.eq(Mux(issued.destination == HOST_B, self.o[HOST_B].ready, self.o[HOST_A].ready)),
            *(absorb.valid.eq(absorbed[slot] & ~issued.non_posted) for slot, absorb in enumerate(self.absorb)),
            *(absorb.payload.eq(issued.beat) for absorb in self.absorb),
        ]
        address = headers.address_of(issued.beat.header)
        m.d.sync += [
            self.atomic.eq(Mux(issued.non_posted & issued.beat.first, absorbed, 0)), self.atomic_offset.eq(address[:PAGE_BITS]),
            self.changed.eq(Mux(issued.beat.first, absorbed, 0)), self.changed_unit.eq(address[PAGE_BITS:]),
        ]
        entry = self.allocate_entry
        flush = FlushView(Mux(entry.host == HOST_B, self.flush[HOST_A], self.flush[HOST_B]))
        m.d.sync += [
            self.allocate.eq(issue.o.valid & issue.o.ready & issued.non_posted & issued.beat.first),
            self.allocate_row.eq(row_of(fields.requester_id, tag, self.rows)),
            entry.requester_id.eq(fields.requester_id), entry.tag.eq(tag),
            entry.host.eq(issued.destination), entry.atomic.eq(issued.atomic), entry.lines.eq(issued.lines),
        ]
        m.d.comb += [
            # Its completion must not return before what the device wrote at the other host is visible (H64).
            entry.flush_target.eq(flush.issued + flush.dirty),
        ]
        for host in (HOST_A, HOST_B):
            m.d.comb += self.flush_request[host].eq(
                (self.allocate & (entry.host != host) & self.flush[host].dirty) | waits[1 - host])

    def _credits(self, m, queue):
        for lane, name in zip(_LANES, ("posted", "completion", "non_posted"), strict=True):
            # A request has two operands of 16 bytes at most.
            count, units = lane_credits(self.depths[lane], self.data_bytes, 32 if lane == EgressLane.NON_POSTED else self.max_payload)
            # Room for completions is reserved before their request leaves, so they need no credits (D7).
            returned = CreditReturn(1, count, units, infinite=lane == EgressLane.COMPLETION)
            m.submodules[f"{name}_credits"] = returned
            head = queue.o[lane]
            m.d.comb += [
                returned.left[0].eq(head.valid & head.ready), returned.first[0].eq(head.payload.beat.first),
                returned.dwords[0].eq(head.payload.beat.dwords), self.rx_limits[name].eq(returned.limit),
            ]
