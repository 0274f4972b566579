"""What a TLP of a host is, decided once, as it arrives."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.answer_turn import AnswerTurn, answer_beat
from pagehop.interposer.layouts import Aperture, Destination, HostInfo, PortConfig
from pagehop.tlp import headers
from pagehop.tlp.headers import TlpClass, ends_request
from pagehop.tlp.ordering import POSTED, QueueBeat
from pagehop.tlp.pages import PAGE_BITS, PAGE_NUMBER_BITS
from pagehop.tlp.room import completion_lines
from pagehop.tlp.stream import TlpBeat

__all__ = ["REGISTER_SPACE_BITS", "HostLane", "HostDecode"]

#: Base-2 logarithm of the size of the register BAR.
REGISTER_SPACE_BITS = 18


class HostLane(enum.IntEnum):
    """Lanes of a host's ingress. Requests and completions have one lane a destination, so that none waits for another's (D6)."""
    POSTED           = POSTED
    TO_DEVICE        = 1     # completions of the device's requests
    TO_OTHER         = 2     # completions of the other host's requests
    REQUEST_LOCAL    = 3
    REQUEST_DEVICE   = 4
    REQUEST_OTHER    = 5


class _Place(data.Struct):
    """Where a TLP belongs. ``copy``, ``flush``: it answers a request of our own."""
    lane:  HostLane
    copy:  1
    flush: 1


class _Known(data.Struct):
    """What is registered of a TLP."""
    place:       _Place
    destination: 2
    far:         PAGE_NUMBER_BITS


class HostDecode(wiring.Component):
    """Sort a host's TLPs into lanes and take out what answers the interposer itself (D4). One cycle, one beat a cycle.

    Lane and destination are decided on the way into the register, the rest follows from the header behind it. What is known of a TLP stays with its
    later beats. Completions of copy and flush reads leave on ``copy`` and ``flush``; both are always ready. Requests go to the registers, through the
    aperture to the other host, or to the device; configuration requests and messages only come through from the active host.

    ``answer`` brings completions without data that are given in the place of a host that takes no requests (D12). They are sorted as the host's are.

    Parameters
    ----------
    host : 0 or 1, the host this is the port of.
    wide_copy_tags : copy reads have tags of 10 bits.
    """
    def __init__(self, data_bytes, host, wide_copy_tags=False):
        self.data_bytes, self.host, self.wide_copy_tags = data_bytes, host, wide_copy_tags
        beat = TlpBeat(data_bytes)
        super().__init__({
            "i": In(stream.Signature(beat)), "o": Out(stream.Signature(QueueBeat(data_bytes, HostInfo, len(HostLane)))),
            "copy": Out(stream.Signature(beat)), "flush": Out(stream.Signature(beat)), "answer": In(stream.Signature(headers.CompletionHeader())),
            "config": In(PortConfig), "aperture": In(Aperture), "active": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.turn = turn = AnswerTurn()
        header, answer = self.i.payload.header, self.answer.payload
        valid, beat, known, advance = Signal(), Signal(TlpBeat(self.data_bytes)), Signal(_Known), Signal()
        answers, answered = Signal(), Signal(_Place)   # chosen from behind the register, for what is compared in front of it takes a whole cycle
        place = _Place(Mux(answers, answered, known.place))
        m.d.comb += [
            turn.answers.eq(self.answer.valid), turn.valid.eq(self.i.valid), turn.last.eq(self.i.payload.last), turn.advance.eq(advance),
            advance.eq(~valid | place.copy | place.flush | self.o.ready),
            self.i.ready.eq(advance & ~turn.turn), self.answer.ready.eq(advance & turn.turn),
            self.o.valid.eq(valid & ~place.copy & ~place.flush), self.o.payload.beat.eq(beat), self.o.payload.lane.eq(place.lane),
            self.copy.valid.eq(valid & place.copy), self.copy.payload.eq(beat),
            self.flush.valid.eq(valid & place.flush), self.flush.payload.eq(beat),
        ]
        with m.If(advance):
            m.d.sync += [valid.eq(self.i.valid | turn.turn), beat.eq(self.i.payload), answers.eq(turn.turn)]
            m.d.sync += self._sort(answer, Mux(self._is_ours(answer), HostLane.TO_OTHER, HostLane.TO_DEVICE), answered)
            with m.If(turn.turn):
                m.d.sync += answer_beat(beat, answer)
        with m.If(advance & self.i.valid & self.i.payload.first):
            self._compare(m, header, known)
        self._inform(m, beat.header, known)
        return m

    def _is_ours(self, header):
        """1 when a TLP answers a request that left this port under our ID."""
        completion = data.View(headers.CompletionHeader(), header)
        narrow = ~completion.tag8 & ~completion.tag9
        return (headers.is_completion(header) & (completion.requester_id == self.config.requester_id)
                & (narrow | (~completion.tag[7] if self.wide_copy_tags else 0)))

    def _sort(self, header, lane, result):
        ours, tag = self._is_ours(header), data.View(headers.CompletionHeader(), header).tag
        return [result.lane.eq(lane), result.copy.eq(ours & ~tag[7]), result.flush.eq(ours & tag[7] & (tag[6] == self.host))]

    def _compare(self, m, header, known):
        address, ours = headers.address_of(header), self._is_ours(header)
        destination, lane = Signal(2), Signal(HostLane)
        m.d.sync += [
            *self._sort(header, lane, known.place), known.destination.eq(destination),
            known.far.eq(address[PAGE_BITS:] + self.aperture.offset[PAGE_BITS:]),
        ]
        kind, registers = headers.tlp_class(header), address[REGISTER_SPACE_BITS:] == self.config.register_base[REGISTER_SPACE_BITS:]
        with m.If(headers.is_memory(header) | headers.is_atomic(header)):
            with m.If(registers):
                m.d.comb += destination.eq(Destination.LOCAL)
            with m.Elif(self.aperture.range.holds_page(address[PAGE_BITS:])):
                m.d.comb += destination.eq(Destination.OTHER)
        with m.Elif(~self.active & (headers.is_config(header) | headers.is_message(header))):
            # The device belongs to one host at a time: the other may not configure it.
            m.d.comb += destination.eq(Mux(kind == TlpClass.POSTED, Destination.DROP, Destination.LOCAL))
        with m.If(kind == TlpClass.COMPLETION):
            m.d.comb += lane.eq(Mux(ours, HostLane.TO_OTHER, HostLane.TO_DEVICE))
        with m.Elif(kind == TlpClass.NON_POSTED):
            m.d.comb += lane.eq(Mux(destination == Destination.LOCAL, HostLane.REQUEST_LOCAL,
                                    Mux(destination == Destination.OTHER, HostLane.REQUEST_OTHER, HostLane.REQUEST_DEVICE)))

    def _inform(self, m, header, known):
        info, completion = self.o.payload.info, data.View(headers.CompletionHeader(), header)
        m.d.comb += [
            info.destination.eq(known.destination),
            *info.far.is_at(known.far), info.lines.eq(completion_lines(header)),
            info.requester_id.eq(completion.requester_id), info.tag.eq(headers.whole_tag(completion)),
            info.last_completion.eq(ends_request(header)),
        ]
