"""A lane of completions that answer the hosts' requests, which went out under a tag of ours."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.issue import Issued
from pagehop.tlp.proxy import ProxyEntry

__all__ = ["ReplyLane"]


class ReplyLane(wiring.Component):
    """Give each completion the requester ID and tag of the request it answers, and offer it to the gate.

    Two cycles from ``ahead`` to ``offer``, one completion every three cycles and the later beats of each at one a cycle. A completion whose tag
    is not in use is dropped whole (``unexpected`` pulses). The tag is freed with the last completion of its request.

    Parameters
    ----------
    destinations : where the completions of each table go; two tables are told apart by bit 6 of the tag, one is used for all.
    slots : of the items at the gate.

    Members
    -------
    i, ahead : of the ordering queue. ``looked``: what is looked up; ``gone``: in the next cycle, nothing posted stands before it.
    index, enable : read the tables. ``entry``, ``used``: what they show one cycle later.
    free : one bit a table, entry ``free_index`` got its last completion in the cycle before. ``ended`` is what it held.
    room : one bit a table, the egress its completions go to has room.
    proven, waits : one bit a table, no fence stands before it; the head waits for its fence.
    """
    def __init__(self, data_bytes, lane_shape, ahead_shape, destinations, entries, slots=1):
        self.destinations = destinations
        tables = len(destinations)
        super().__init__({
            "i": In(stream.Signature(lane_shape)), "ahead": In(stream.Signature(ahead_shape)),
            "offer": Out(stream.Signature(Issued(data_bytes, slots))),
            "looked": Out(ahead_shape), "gone": In(1), "room": In(tables), "proven": In(tables), "waits": Out(tables),
            "index": Out(range(entries)), "enable": Out(1),
            "entry": In(ProxyEntry).array(tables), "used": In(1).array(tables),
            "free": Out(tables), "free_index": Out(range(entries)), "ended": Out(ProxyEntry), "unexpected": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        head, known = self.i.payload, Signal(self.ahead.payload.shape())   # `known`: of the completion that stands at the head
        info, looked, looks = known.info, self.looked, Signal()
        tables = len(self.destinations)
        table, table_q = Signal(1), Signal(1)
        found = Signal(data.StructLayout({"entry": ProxyEntry, "used": 1}))
        taken, body = Signal(), Signal()
        go = Signal(tables)   # the head may go, but for the fence, by table
        m.d.comb += [
            table.eq(info.tag[6] if tables == 2 else 0),
            looked.eq(known), self.index.eq(looked.info.tag),
            # A tag that is being freed is not looked up: a second completion for it must be unexpected.
            self.enable.eq(looks & ~self.free.any()),
            taken.eq(self.offer.ready),
            self.offer.valid.eq((go & self.proven).any() | (body & self.i.valid)), self.waits.eq(go & ~self.proven),
            self.ended.eq(found.entry),
        ]
        m.d.sync += [self.free.eq(0), self.free_index.eq(info.tag), go.eq(0)]
        with m.If(~body):
            m.d.sync += table_q.eq(table)
        self._present(m, head, found, Mux(body, table_q, table), body)
        with m.FSM():
            with m.State("Take"):
                m.d.comb += [self.ahead.ready.eq(~self.free.any()), looked.eq(self.ahead.payload), looks.eq(self.ahead.valid)]
                m.d.sync += known.eq(self.ahead.payload)
                with m.If(self.enable):
                    m.next = "Read"
            with m.State("Look Up"):
                m.d.comb += looks.eq(1)
                with m.If(self.enable):
                    m.next = "Read"
            with m.State("Read"):
                used = Signal()
                m.d.comb += used.eq(Cat(*self.used).bit_select(table, 1) & (info.tag[7:] == 1))
                m.d.sync += [
                    found.entry.eq(Mux(table, self.entry[-1], self.entry[0])), found.used.eq(used),
                    go.eq(Mux(used & self.gone & self.room.bit_select(table, 1), 1 << table, 0)),
                ]
                m.next = "Offer"
            with m.State("Offer"):
                m.next = "Look Up"
                with m.If(~found.used):
                    m.d.comb += self.unexpected.eq(1)
                    m.next = "Drop"
                with m.Elif(taken):
                    m.d.sync += self.free.eq(Mux(info.last_completion, 1 << table, 0))
                    m.next = "Take"
                    with m.If(~head.beat.last):
                        m.d.sync += body.eq(1)
                        m.next = "Body"
            with m.State("Body"):
                with m.If(taken & head.beat.last):
                    m.d.sync += body.eq(0)
                    m.next = "Take"
            with m.State("Drop"):
                m.d.comb += self.i.ready.eq(1)
                with m.If(self.i.valid & head.beat.last):
                    m.next = "Take"
        with m.If(taken):
            m.d.comb += self.i.ready.eq(1)
        return m

    def _present(self, m, head, found, table, body):
        issued = self.offer.payload
        restored = data.View(headers.CompletionHeader(), issued.beat.header)
        m.d.comb += [
            issued.beat.eq(head.beat), issued.lane.eq(EgressLane.COMPLETION),
            issued.destination.eq(Mux(table, self.destinations[-1], self.destinations[0])),
        ]
        with m.If(~body):
            m.d.comb += [
                restored.requester_id.eq(found.entry.requester_id),
                headers.whole_tag(restored).eq(found.entry.tag),
            ]
