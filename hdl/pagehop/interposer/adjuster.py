"""Address adjustment between two links and nothing else: figure 8, and the second of two interposers in a row (figure 7B)."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.layouts import Aperture
from pagehop.interposer.stages import LookupStage
from pagehop.tlp import headers
from pagehop.tlp.headers import AddressType, TlpClass, ends_request
from pagehop.tlp.pages import PAGE_BITS, PAGE_NUMBER_BITS, FarPage, far_header
from pagehop.tlp.proxy import ProxyEntry, ProxyTable
from pagehop.tlp.stream import TlpBeat, TlpPort, check_data_bytes, connect_streams

__all__ = ["AddressAdjuster", "AdjusterLane"]

#: Data credits of the largest request that is not posted: two operands of 16 bytes.
_REQUEST_UNITS = 2


class AdjusterLane(wiring.Component):
    """One direction: memory and atomic requests to the ``aperture`` get its offset, and the form of header that their new address asks for (H24c).

    Two cycles from ``i`` to ``o``, one beat a cycle, first in first out; ``i.ready`` is a register. Translated requests and encrypted TLPs stay as
    they are (H24f): the address of the one is none of the aperture's, and nobody may change the other.

    Members
    -------
    looks, looked : a header is looked at in this cycle, and which. ``entry``, ``found``: from the next cycle to the next look, whose request that
        answers when it is a completion. ``ended``: it does, for the last time, and goes on.
    """
    def __init__(self, data_bytes):
        self.data_bytes = data_bytes
        beat = TlpBeat(data_bytes)
        super().__init__({
            "i": In(stream.Signature(beat)), "o": Out(stream.Signature(beat)), "aperture": In(Aperture),
            "looks": Out(1), "looked": Out(128), "entry": In(ProxyEntry), "found": In(1), "ended": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.stage = stage = LookupStage(TlpBeat(self.data_bytes), data.StructLayout({"header": 128}))
        connect_streams(m, self.i, stage.i)
        page, inside, number, far = Signal(PAGE_NUMBER_BITS), Signal(), Signal(PAGE_NUMBER_BITS), Signal(FarPage)
        beat, kept = stage.middle, stage.o.payload
        m.d.comb += [
            page.eq(headers.address_of(stage.head.header)[PAGE_BITS:]), *far.is_at(number),
            self.looks.eq(stage.enable), self.looked.eq(stage.head.header),
            stage.result.header.eq(beat.header),
            self.o.valid.eq(stage.o.valid), stage.o.ready.eq(self.o.ready),
            self.o.payload.eq(kept.head), self.o.payload.header.eq(kept.result.header),
        ]
        with m.If(stage.enable):
            m.d.sync += [inside.eq(self.aperture.range.holds_page(page)), number.eq(page + self.aperture.offset[PAGE_BITS:])]
        fields = data.View(headers.RequestHeader(), beat.header)
        encrypted = headers.has_prefix(beat, headers.IDE_PREFIX)
        plain = (fields.address_type == AddressType.UNTRANSLATED) & ~encrypted
        restored = data.View(headers.CompletionHeader(), stage.result.header)
        with m.If(beat.first & inside & plain & (headers.is_memory(beat.header) | headers.is_atomic(beat.header))):
            m.d.comb += stage.result.header.eq(far_header(beat.header, far))
        with m.If(beat.first & self.found & headers.is_completion(beat.header)):
            m.d.comb += [
                restored.requester_id.eq(self.entry.requester_id), headers.whole_tag(restored).eq(self.entry.tag),
                self.ended.eq(stage.middle_valid & stage.advance & ends_request(beat.header)),
            ]
        return m


class AddressAdjuster(wiring.Component):
    """Pass everything on between two links; requests to a range of addresses get an offset.

    Two cycles from rx to tx, one beat a cycle in each direction. Each side sends under the credits of the other, which are passed on a cycle later:
    what begins to arrive here the partner behind it takes. So nothing is stored but in registers, nothing waits but for the wire, and order is
    that of one link among all classes: there is no queue in which anything could pass (O2, O3).

    With ``tags`` requests of the near side leave under our ID at the far link, for their own are those of another domain and may be somebody
    else's there (D16). Those that are answered take one of so many tags, and their completions get back the ID and tag of the request. ``near`` is
    granted no more of them than there are tags left, so what stands behind such a request waits for no answer; for a free number it waits
    ``tags`` cycles at most. A completion that answers none of them stays as it is, to be unexpected where it arrives. A tag whose answer does not
    come is free again after ``limit`` to 2 x ``limit`` cycles and a few.

    Parameters
    ----------
    data_bytes : payload bytes of a beat: 16, 32, 64 or 128.
    tags : 0: requests keep their IDs; else a power of two from 2 to 64.

    Members
    -------
    near, far : the two links. ``up``: what requests of the near side get, ``down``: those of the far side.
    requester_id : ours at the far link, and ``limit``, with ``tags`` only.
    """
    def __init__(self, data_bytes=64, *, tags=0):
        check_data_bytes(data_bytes)
        if tags not in (0, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"Tags must be 0, or a power of two from 2 to 64, not {tags!r}")
        self.data_bytes, self.tags = data_bytes, tags
        super().__init__({
            "near": Out(TlpPort(data_bytes)), "far": Out(TlpPort(data_bytes)), "up": In(Aperture), "down": In(Aperture),
            **({"requester_id": In(16), "limit": In(32)} if tags else {}),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.up, m.submodules.down = lanes = AdjusterLane(self.data_bytes), AdjusterLane(self.data_bytes)
        for lane, (source, sink), aperture in zip(
                lanes, ((self.near, self.far), (self.far, self.near)), (self.up, self.down), strict=True):
            connect_streams(m, source.rx, lane.i)
            connect_streams(m, lane.o, sink.tx)
            m.d.comb += lane.aperture.eq(aperture)
            m.d.sync += source.rx_limits.eq(sink.tx_limits)
        if self.tags:
            self._retag(m, *lanes)
        return m

    def _retag(self, m, up, down):
        m.submodules.table = table = ProxyTable(self.tags)
        sent, header = up.o.payload, data.View(headers.RequestHeader(), self.far.tx.payload.header)
        coming, kind = data.View(headers.CompletionHeader(), down.looked), headers.tlp_class(sent.header)
        asks, waits, ours = Signal(), Signal(), Signal()
        m.d.comb += [
            asks.eq(sent.first & (kind == TlpClass.NON_POSTED)), waits.eq(asks & ~table.index_valid),
            self.far.tx.valid.eq(up.o.valid & ~waits), up.o.ready.eq(self.far.tx.ready & ~waits),
            table.allocate.eq(up.o.valid & up.o.ready & asks), table.limit.eq(self.limit),
            table.allocate_entry.requester_id.eq(headers.sender_of(sent.header)),
            table.allocate_entry.tag.eq(headers.whole_tag(data.View(headers.RequestHeader(), sent.header))),
            table.lookup_enable[0].eq(down.looks), table.lookup_index[0].eq(coming.tag),
            down.entry.eq(table.entry[0]), down.found.eq(table.valid[0] & ours),
        ]
        with m.If(sent.first & (kind != TlpClass.COMPLETION)):
            m.d.comb += header.requester_id.eq(self.requester_id)
        with m.If(asks):
            m.d.comb += headers.whole_tag(header).eq(table.index)
        with m.If(down.looks):
            m.d.sync += ours.eq((coming.requester_id == self.requester_id) & (headers.whole_tag(coming) < self.tags))
        # Given back through the port that looks up nothing.
        looked = Signal.like(table.index)
        with m.If(down.looks):
            m.d.sync += looked.eq(coming.tag)
        m.d.sync += [table.free[1].eq(down.ended), table.free_index[1].eq(looked)]
        self._grant(m, table, sent.header)

    def _grant(self, m, table, header):
        """Credits for requests: those of the far partner, and no more than there are tags."""
        granted, limit = self.far.tx_limits.non_posted, self.near.rx_limits.non_posted
        requests, units, open_ = Signal(8), Signal(12), Signal(range(self.tags + 1))   # sent, their data, and not answered
        left, room, ended = Signal(8), Signal(range(self.tags + 1)), Signal(2)
        m.d.comb += [left.eq(granted.header - requests), room.eq(self.tags - open_), ended.eq(table.free[1] + table.timed_out)]
        m.d.sync += [
            limit.infinite.eq(0), limit.header.eq(requests + Mux(granted.infinite | (left > room), room, left)),
            limit.data.eq(Mux(granted.infinite, units + room * _REQUEST_UNITS, granted.data)),
            # An answer that comes twice in a row ends its request twice.
            open_.eq(Mux(open_ + table.allocate >= ended, open_ + table.allocate - ended, 0)),
        ]
        with m.If(table.allocate):
            length = data.View(headers.RequestHeader(), header).length
            m.d.sync += [requests.eq(requests + 1), units.eq(units + Mux(headers.has_data(header), headers.credits_of_dwords(length), 0))]
