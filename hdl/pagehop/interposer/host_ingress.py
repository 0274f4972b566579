"""What a host sends: sorted, translated, re-tagged, issued to the device, the other host or the registers."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.completion_lane import CompletionLane
from pagehop.interposer.host_decode import HostDecode, HostLane
from pagehop.interposer.host_posted import HostPostedLane
from pagehop.interposer.host_requests import HostRequests
from pagehop.interposer.layouts import Aperture, Destination, HostInfo, PortConfig
from pagehop.tlp import headers
from pagehop.tlp.arbiter import TlpArbiter
from pagehop.tlp.credits import return_credits
from pagehop.tlp.egress import EgressBeat, EgressLane
from pagehop.tlp.flush import FLUSH_SEQUENCE_BITS
from pagehop.tlp.issue import Issued, IssueRegister
from pagehop.tlp.ordering import OrderingQueue, may_go
from pagehop.tlp.outstanding import OutstandingEntry
from pagehop.tlp.proxy import ProxyEntry
from pagehop.tlp.reply_lane import ReplyLane
from pagehop.tlp.stream import CreditLimits, TlpBeat, connect_streams

__all__ = ["HostIngress"]

_REQUEST_LANES = (HostLane.REQUEST_LOCAL, HostLane.REQUEST_DEVICE, HostLane.REQUEST_OTHER)
_CREDIT_LANES = {
    "posted": (HostLane.POSTED,),
    "non_posted": _REQUEST_LANES,
    "completion": (HostLane.TO_DEVICE, HostLane.TO_OTHER),
}


#: What stays with the beats of each lane, and what is shown ahead of them.
_KEEPS = {
    HostLane.POSTED: ("destination", "far"), HostLane.TO_DEVICE: (), HostLane.TO_OTHER: (), HostLane.REQUEST_LOCAL: ("stamp",),
    HostLane.REQUEST_DEVICE: ("lines", "stamp"), HostLane.REQUEST_OTHER: ("lines", "far", "stamp"),
}
_AHEAD = {HostLane.TO_DEVICE: ("requester_id", "tag", "last_completion"), HostLane.TO_OTHER: ("tag", "last_completion")}


class HostIngress(wiring.Component):
    """Bring one host's TLPs to where they belong, and its answers to the interposer itself out of their way.

    Four cycles from ``rx`` to ``o`` when idle (decode, look-up, decision, issue), three for posted TLPs and four for requests. One beat a cycle for
    posted TLPs and for completions of the device's requests. Posted TLPs are never held (D5).

    Parameters
    ----------
    data_bytes : beat width.
    host : 0 or 1.
    rows, entries : of the outstanding table and of a proxy table.
    depths : beats of each :class:`HostLane`.
    device_lines, other_lines : room for completions at the device's and the other host's ingress.
    max_payload : largest payload in bytes.
    wide_copy_tags : copy reads have tags of 10 bits.

    Members
    -------
    rx, rx_limits : the host's link. ``answer``: completions given in its place.
    o : beats for each :class:`Destination` but the last. ``room_device``, ``room_other``: room of these egresses; ``read_ready``: the registers
    take a read.
    copy, flush : completions of copy and flush reads, never stalled.
    config, device_id, other_id, aperture, active : what the host's link and the registers say.
    row, enable, entry, used, free … : port of the outstanding table.
    reply_* : port of the other host's proxy table. ``tag_index`` …: this host's own proxy table.
    device_room, other_room, reserve, reserve_lines : room for completions.
    flushed, flush_newest : of the other host.
    cross_write, cross_address : a posted TLP was handed to the other host's egress.
    """
    def __init__(self, data_bytes, host, *, rows, entries, depths, device_lines, other_lines, max_payload, wide_copy_tags=False):
        self.data_bytes, self.host, self.rows, self.entries = data_bytes, host, rows, entries
        self.depths, self.device_lines, self.other_lines, self.max_payload = depths, device_lines, other_lines, max_payload
        self.wide_copy_tags = wide_copy_tags
        beat = TlpBeat(data_bytes)
        super().__init__({
            "rx": In(stream.Signature(beat)), "rx_limits": Out(CreditLimits), "answer": In(stream.Signature(headers.CompletionHeader())),
            "o": Out(stream.Signature(EgressBeat(data_bytes))).array(3),
            "room_device": In(4), "room_other": In(4), "read_ready": In(1),
            "copy": Out(stream.Signature(beat)), "flush": Out(stream.Signature(beat)),
            "config": In(PortConfig), "device_id": In(16), "other_id": In(16), "aperture": In(Aperture), "active": In(1),
            "row": Out(range(rows)), "enable": Out(1), "entry": In(OutstandingEntry), "used": In(1),
            "free": Out(1), "free_row": Out(range(rows)), "free_entry": Out(OutstandingEntry),
            "reply_index": Out(range(entries)), "reply_enable": Out(1), "reply_entry": In(ProxyEntry), "reply_used": In(1),
            "reply_free": Out(1), "reply_free_index": Out(range(entries)),
            "reply_lines": Out(7),
            "tag_index": In(range(entries)), "tag_valid": In(1), "tag_allocate": Out(1), "tag_entry": Out(ProxyEntry),
            "device_room": In(range(device_lines + 1)), "other_room": In(range(other_lines + 1)),
            "reserve_device": Out(1), "reserve_other": Out(1), "reserve_lines": Out(7),
            "flushed": In(FLUSH_SEQUENCE_BITS), "flush_newest": In(FLUSH_SEQUENCE_BITS),
            "cross_write": Out(1), "cross_address": Out(64),
            "waits": Out(1), "unexpected": Out(1), "unsupported": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.decode = decode = HostDecode(self.data_bytes, self.host, self.wide_copy_tags)
        m.submodules.queue = queue = OrderingQueue(
            self.data_bytes, HostInfo, self.depths, completions=_CREDIT_LANES["completion"], keeps=_KEEPS, ahead=_AHEAD)
        m.submodules.gate = gate = TlpArbiter(Issued(self.data_bytes), 4)
        m.submodules.issue = issue = IssueRegister(Issued(self.data_bytes))
        posted, to_device, to_other, requests = self._lanes(m, queue.lane_shape, queue.ahead_shape)
        m.d.comb += [decode.config.eq(self.config), decode.aperture.eq(self.aperture), decode.active.eq(self.active)]
        for source, sink in ((self.rx, decode.i), (self.answer, decode.answer), (decode.o, queue.i), (decode.copy, self.copy),
                             (decode.flush, self.flush), (gate.o, issue.i)):
            connect_streams(m, source, sink)
        for number, lane in ((HostLane.POSTED, posted), (HostLane.TO_DEVICE, to_device), (HostLane.TO_OTHER, to_other)):
            connect_streams(m, queue.o[number], lane.i)
            if number in _AHEAD:
                connect_streams(m, queue.ahead[number], lane.ahead)
        for number, lane in enumerate(_REQUEST_LANES):
            connect_streams(m, queue.o[lane], requests.i[number])
        for number, lane in enumerate((posted, to_device, to_other, requests)):
            connect_streams(m, lane.offer, gate.i[number])
        stamp = Signal.like(to_other.looked.stamp)
        m.d.sync += stamp.eq(to_other.looked.stamp)
        m.d.comb += [to_device.posted.eq(queue.posted), requests.posted.eq(queue.posted), to_other.gone.eq(may_go(stamp, queue.posted))]
        self._posted_left(m, queue, posted)
        self._allocate(m, issue, requests)
        self._hand_over(m, issue)
        return_credits(m, queue, self.rx_limits, _CREDIT_LANES, self.data_bytes, self.max_payload)
        return m

    def _lanes(self, m, shape, ahead):
        m.submodules.posted = posted = HostPostedLane(self.data_bytes, shape)
        m.submodules.to_device = to_device = CompletionLane(self.data_bytes, shape, ahead, self.rows)
        m.submodules.to_other = to_other = ReplyLane(self.data_bytes, shape, ahead, (Destination.OTHER,), self.entries)
        m.submodules.requests = requests = HostRequests(self.data_bytes, shape, self.device_lines, self.other_lines)
        tag = Cat(self.tag_index, Const(2 + self.host, 8 - len(self.tag_index)))
        m.d.comb += [
            posted.room.eq(Cat(self.room_device[EgressLane.POSTED], self.room_other[EgressLane.POSTED], 1)),
            to_device.room.eq(self.room_device[EgressLane.COMPLETION]),
            to_device.entry.eq(self.entry), to_device.used.eq(self.used),
            self.row.eq(to_device.row), self.enable.eq(to_device.enable),
            self.free.eq(to_device.free), self.free_row.eq(to_device.free_row), self.free_entry.eq(to_device.free_entry),
            to_device.flushed.eq(self.flushed), to_device.flush_newest.eq(self.flush_newest),
            to_other.room.eq(self.room_other[EgressLane.COMPLETION]), to_other.proven.eq(1),
            to_other.entry[0].eq(self.reply_entry), to_other.used[0].eq(self.reply_used),
            self.reply_index.eq(to_other.index), self.reply_enable.eq(to_other.enable),
            self.reply_free.eq(to_other.free), self.reply_free_index.eq(to_other.free_index), self.reply_lines.eq(to_other.ended.lines),
            requests.room.eq(Cat(self.read_ready, self.room_device[EgressLane.NON_POSTED], self.room_other[EgressLane.NON_POSTED])),
            requests.device_id.eq(self.device_id), requests.other_id.eq(self.other_id),
            requests.device_room.eq(self.device_room), requests.other_room.eq(self.other_room),
            requests.tag.eq(tag), requests.tag_valid.eq(self.tag_valid),
            self.waits.eq(to_device.waits), self.unsupported.eq(posted.unsupported),
            self.unexpected.eq(to_device.unexpected | to_other.unexpected),
        ]
        return posted, to_device, to_other, requests

    def _posted_left(self, m, queue, posted):
        """A posted TLP has left when it is in the issue register, or was dropped."""
        dropped = posted.unsupported
        issued = posted.offer.ready & posted.offer.payload.beat.last
        # The two cannot meet: while one posted TLP is dropped the lane offers none.
        m.d.sync += queue.posted_left.eq(issued | dropped)

    def _allocate(self, m, issue, requests):
        """Take a tag and reserve room for a request that has been chosen. The next one waits until these are up to date."""
        _, to_device, to_other = requests.begins
        cooling = Signal(2)   # until tables and room have counted the last request
        m.d.sync += [
            self.tag_allocate.eq(to_device | to_other),
            self.tag_entry.lines.eq(requests.offer.payload.lines), self.tag_entry.to_device.eq(to_device),
            self.tag_entry.requester_id.eq(requests.origin_id), self.tag_entry.tag.eq(requests.origin_tag),
            self.reserve_device.eq(to_device), self.reserve_other.eq(to_other), self.reserve_lines.eq(requests.offer.payload.lines),
            cooling.eq(Cat(requests.begins.any(), cooling)),
            requests.clear.eq(~requests.begins.any() & ~cooling.any() & ~issue.request_held),
        ]

    def _hand_over(self, m, issue):
        issued = issue.o.payload
        for destination, sink in enumerate(self.o):
            with m.If(issued.destination == destination):
                m.d.comb += [sink.valid.eq(issue.o.valid), issue.o.ready.eq(sink.ready)]
            m.d.comb += [sink.payload.beat.eq(issued.beat), sink.payload.lane.eq(issued.lane), sink.payload.to_memory.eq(issued.to_memory)]
        m.d.sync += [
            self.cross_write.eq(self.o[Destination.OTHER].valid & self.o[Destination.OTHER].ready & issued.beat.first
                                & ((issued.lane == EgressLane.POSTED) | headers.is_atomic(issued.beat.header))),
            self.cross_address.eq(headers.address_of(issued.beat.header)),
        ]
