"""The TLP side of the IOMMU: only parts and connections (docs/iommu.md)."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.ats_messages import InvalidateCompletion, InvalidateRequest, MessageCode, PageRequest, PageResponse
from pagehop.iommu.front_answers import FrontAnswers
from pagehop.iommu.front_decode import FrontDecode
from pagehop.iommu.front_drain import FrontDrain
from pagehop.iommu.front_ingress import FrontIngress
from pagehop.iommu.front_layouts import Prefix, Route
from pagehop.iommu.layouts import TranslationRequest, TranslationResponse
from pagehop.tlp import headers
from pagehop.tlp.egress import Egress, EgressLane
from pagehop.tlp.flush import FlushTracker, FlushView
from pagehop.tlp.stream import TlpPort, connect_streams

__all__ = ["TlpFront"]


class TlpFront(wiring.Component):
    """Between a device and its host: TLPs of the device leave with the addresses that its translations say, in the order of PCIe (table 2-40).

    Each lane asks for the translations of its TLPs ahead, and uses them in order: a posted write that waits for a walk keeps what must not pass it
    (H16, H17, H18), a request that waits keeps other requests only (H24). What may not go is dropped when it is posted, and answered with UR or CA.
    ATS requests are answered with one translation each. Messages of ATS are taken out behind all that came before them (H32).

    **Drain.** ``drain`` throws away what has been translated ahead, which is asked for again, and waits for what the gate has chosen. So it never
    waits for a translation, and nothing that leaves after ``drained`` has a translation that was given up to ``drain``. See :class:`FrontDrain`.

    **No deadlock with ATS** (H30). ``ats_hold`` keeps ATS requests back, at the head of the requests; posted TLPs and completions go
    by. ``ats_quiet``: while it is held, none has been asked for whose answer is not with the device's egress.

    Latency and throughput are in docs/iommu.md, "TLP side".

    Parameters
    ----------
    data_bytes : beat width. slot_bits : translations a lane asks for ahead, base-2 logarithm. max_payload : largest payload in bytes
    depths : beats of the posted, completion and non-posted lane of each queue

    Members
    -------
    device, host : the two links. own_id : requester ID of the IOMMU's own TLPs
    translate, translated : to and from the translator, ``translated`` is taken at once
    completions, page_requests : messages of the device. Nothing of the device passes one that is not taken
    invalidations, responses : messages to it
    drain : in, a pulse. drained : out, 0 from the next cycle until all is done or given up; drain_failed : beside it, it was given up
    flush_address : in, any address that can be read at the host. limit : in, cycles after which a flush is given up; a drain after twice as many
    """
    def __init__(self, data_bytes=64, *, slot_bits=3, max_payload=256, depths=(128, 128, 16)):
        self.data_bytes, self.slot_bits, self.max_payload, self.depths = data_bytes, slot_bits, max_payload, tuple(depths)
        super().__init__({
            "device": Out(TlpPort(data_bytes)), "host": Out(TlpPort(data_bytes)), "own_id": In(16),
            "translate": Out(stream.Signature(TranslationRequest(slot_bits + 1))),
            "translated": In(stream.Signature(TranslationResponse(slot_bits + 1))),
            "completions": Out(stream.Signature(InvalidateCompletion)), "page_requests": Out(stream.Signature(PageRequest)),
            "invalidations": In(stream.Signature(InvalidateRequest)), "responses": In(stream.Signature(PageResponse)),
            "ats_hold": In(1), "ats_quiet": Out(1),
            "drain": In(1), "drained": Out(1), "drain_failed": Out(1), "flush_address": In(64), "limit": In(32),
        })

    def elaborate(self, platform):
        m = Module()
        bytes_, depths, payload = self.data_bytes, self.depths, self.max_payload
        m.submodules.up = up = FrontIngress(bytes_, depths, max_payload=payload, slot_bits=self.slot_bits)
        m.submodules.down = down = FrontIngress(bytes_, depths, max_payload=payload)
        m.submodules.to_host = to_host = Egress(bytes_, 2, (*depths, 16), max_payload=payload, writers=(1, 1, 1, 1))
        m.submodules.to_device = to_device = Egress(bytes_, 2, depths, max_payload=payload, writers=(2, 2, 1))
        m.submodules.answers = answers = FrontAnswers(bytes_)
        m.submodules.flush = flush = FlushTracker(0, data_bytes=bytes_)
        for link, ingress, egress, takes_ours in ((self.device, up, to_device, False), (self.host, down, to_host, True)):
            decode = FrontDecode(bytes_, takes_ours=takes_ours)
            m.submodules[f"decode_{'host' if takes_ours else 'device'}"] = decode
            connect_streams(m, link.rx, decode.i)
            connect_streams(m, decode.o, ingress.i)
            connect_streams(m, egress.tx, link.tx)
            m.d.comb += [decode.own_id.eq(self.own_id), link.rx_limits.eq(ingress.limits), egress.limits.eq(link.tx_limits)]
            m.d.comb += [
                egress.payload_limit.eq(-1),   # nothing is cut
                ingress.taken.eq(decode.ours.valid & decode.ours.ready), ingress.taken_beat.eq(decode.ours.payload),
            ]
            if takes_ours:
                connect_streams(m, decode.ours, flush.completion)
            else:
                m.d.comb += decode.ours.ready.eq(1)
        wiring.connect(m, wiring.flipped(self.translate), up.request)
        wiring.connect(m, wiring.flipped(self.translated), up.response)
        for ours, theirs in ((self.invalidations, answers.invalidations), (self.responses, answers.responses)):
            wiring.connect(m, wiring.flipped(ours), theirs)
        connect_streams(m, answers.o, to_device.i[1])
        m.d.comb += [
            answers.own_id.eq(self.own_id), answers.room.eq(to_device.room), down.room.eq(to_device.room),
            up.refused_room.eq(answers.refused_room), up.entry_room.eq(answers.entry_room),
            down.o.ready.eq(to_device.i[0].ready), to_device.i[0].valid.eq(down.o.valid),
            to_device.i[0].payload.beat.eq(down.o.payload.beat), to_device.i[0].payload.lane.eq(down.o.payload.lane),
        ]
        self._dispatch(m, up, to_host, answers)
        self._ats(m, up, answers)
        self._drain(m, up, to_host, flush)
        return m

    def _dispatch(self, m, up, to_host, answers):
        """Each TLP in the order in which it was chosen to where it goes: so a message is taken when all before it has its place."""
        beat, route, header = up.o.payload.beat, up.o.payload.route, up.o.payload.beat.header
        message, prefix = data.View(headers.MessageHeader(), header), Prefix(beat.prefix)
        invalidated, asked = self.completions.payload, self.page_requests.payload
        onward, taken = to_host.i[0], message.code == MessageCode.INVALIDATE_COMPLETION.value
        m.d.comb += [
            onward.valid.eq(up.o.valid & (route == Route.ONWARD)), onward.payload.beat.eq(beat), onward.payload.lane.eq(up.o.payload.lane),
            answers.refused.valid.eq(up.o.valid & (route == Route.REFUSED) & beat.first), answers.refused.payload.eq(header),
            answers.aborts.eq(up.o.payload.aborts),
            answers.entry.valid.eq(up.o.valid & (route == Route.ENTRY)), answers.entry.payload.request.eq(header),
            answers.entry.payload.translation.eq(up.o.payload.translation),
            self.completions.valid.eq(up.o.valid & (route == Route.MESSAGE) & taken),
            invalidated.requester_id.eq(message.requester_id), invalidated.itags.eq(message.dw3), invalidated.count.eq(message.dw2),
            self.page_requests.valid.eq(up.o.valid & (route == Route.MESSAGE) & ~taken),
            asked.requester_id.eq(message.requester_id), asked.payload.eq(Cat(message.dw3, message.dw2)),
            asked.process_valid.eq(headers.has_prefix(beat, headers.PASID_PREFIX)),
            # Room was seen to where there is any.
            up.o.ready.eq(Mux(route == Route.ONWARD, onward.ready, Mux(
                route == Route.MESSAGE, Mux(taken, self.completions.ready, self.page_requests.ready), 1))),
        ]
        with m.If(asked.process_valid):
            m.d.comb += [asked.process.eq(prefix.process), asked.privileged.eq(prefix.privileged), asked.execute.eq(prefix.execute)]

    def _ats(self, m, up, answers):
        underway = Signal(6)   # of as many as the issue register and the answers hold
        m.d.comb += up.ats_hold.eq(self.ats_hold)
        held = Signal()
        m.d.sync += [
            underway.eq(underway + up.entry - answers.sent), held.eq(self.ats_hold),
            self.ats_quiet.eq(self.ats_hold & held & ~up.ats_inside & (underway == 0) & ~up.entry),
        ]

    def _drain(self, m, up, to_host, flush):
        m.submodules.drain = drain = FrontDrain()
        # More than the tags of a device count to. Both may change in a cycle.
        unanswered, ends = Signal(16), Signal()
        asks = to_host.i[0]
        m.d.comb += [
            up.discard.eq(self.drain), drain.start.eq(self.drain), drain.entered.eq(up.entered), drain.accepted.eq(up.accepted),
            drain.limit.eq(self.limit), self.drained.eq(drain.done), self.drain_failed.eq(drain.failed),
            up.room.eq(Cat(to_host.room[:EgressLane.NON_POSTED], to_host.room[EgressLane.NON_POSTED] & ~drain.holds)),
            flush.posted.eq(to_host.posted), flush.requester_id.eq(self.own_id), flush.limit.eq(self.limit), flush.address.eq(self.flush_address),
            flush.request.eq(drain.flush_request), flush.insist.eq(drain.flush_request),
            *(drain.flush[name].eq(getattr(flush, name)) for name, _ in FlushView.as_shape()),
            flush.o.ready.eq(to_host.i[1].ready & to_host.room[EgressLane.ENGINE]),
            to_host.i[1].valid.eq(flush.o.valid & to_host.room[EgressLane.ENGINE]),
            to_host.i[1].payload.beat.eq(flush.o.payload), to_host.i[1].payload.lane.eq(EgressLane.ENGINE),
        ]
        began, answered = Signal(), Signal()
        m.d.comb += ends.eq(self.host.rx.valid & self.host.rx.ready & self.host.rx.payload.first)
        m.d.sync += [
            began.eq(asks.valid & asks.ready & asks.payload.beat.first & (asks.payload.lane == EgressLane.NON_POSTED)),
            answered.eq(ends & self._answers(self.host.rx.payload.header)),
            unanswered.eq(unanswered + began - answered), drain.unanswered.eq((unanswered != 0) | began),
        ]

    def _answers(self, header):
        """1 when a header of the host ends a request of the device."""
        completion = data.View(headers.CompletionHeader(), header)
        return headers.is_completion(header) & (completion.requester_id != self.own_id) & headers.ends_request(header)
