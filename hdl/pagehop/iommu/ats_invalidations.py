"""Invalidations of what devices keep, and responses to their page requests."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from pagehop.iommu.ats_messages import InvalidateCompletion, InvalidateRequest, PageResponse
from pagehop.iommu.command_queue import Executor
from pagehop.iommu.commands import DeviceMessage
from pagehop.tlp.arbiter import RoundRobin

__all__ = ["TIMER_BITS", "UNEXPECTED_BITS", "AtsDevice", "AtsInvalidations", "AtsRound"]

#: Bits of the time after which an invalidation is given up, in cycles: 274 s at 250 MHz. Bits of the count of completions that fitted nothing.
TIMER_BITS, UNEXPECTED_BITS = 36, 16


class AtsDevice(data.Struct):
    """A device that keeps translations, and the domain that it uses."""
    valid:        1
    requester_id: 16
    gscid:        16


class AtsRound(data.Struct):
    """One invalidation to all devices of a domain."""
    payload: 64
    gscid:   16


class _Wanted(data.StructLayout):
    """What is to be sent next. ``deadline`` has a bit more than what ever lies ahead, so that it is known when it is past."""
    def __init__(self, devices, timer_bits):
        super().__init__({
            "response": 1, "of_round": 1, "device": range(devices), "requester_id": 16, "process_valid": 1, "process": 20, "payload": 64,
            "deadline": timer_bits + 1,
        })


class _Row(data.StructLayout):
    """What is known of an invalidation by its ITag. ``heard``: completions that came; ``before``: how many are to come before the last."""
    def __init__(self, devices, timer_bits):
        super().__init__({"requester_id": 16, "device": range(devices), "heard": 3, "before": 3, "deadline": timer_bits + 1})


class AtsInvalidations(wiring.Component):
    """Execute ATS.INVAL and ATS.PRGR, and rounds of invalidations to all devices of a domain (section 4.1.4; H32).

    An ATS.INVAL is sent with an ITag that nobody uses; up to ``tags`` are outstanding. It is done when as many completions with its bit have come
    from its device as they say, at most 8; a broken device that names different counts is held to the greatest. A completion that fits nothing from
    its device ends nothing, and ``unexpected`` counts it (modulo 2^16). An ATS.PRGR is done when it has left.

    A round is one invalidation to every device of the table that has its ``gscid``. ``round.ready`` is 1 for the one cycle in which all have been
    answered, or given up: then ``round_failed``. Without devices that is 2 cycles a row of the table and one more after it came. A device whose
    invalidation of a round was given up is ``quarantined`` until software releases it: it may go on using what it was told to forget, so a round that
    meets it fails.

    Everything ends at the latest ``timeout + tags + 8`` cycles after it was taken, whether it could be sent or not, and nothing is ever taken to be
    done because of time. So a command is taken after at most two such times, and a round takes as many for each device. The ITag of an invalidation
    that was given up after it was handed out is ``late``: it is not used again before its completions have come, or software releases it because its
    device was reset, which has no effect while it still waits to be sent; so what comes late ends nothing newer. What was handed to a stream stays
    there until it is taken.

    Throughput: an invalidation in ``tags`` + 2 cycles, a completion in ``tags`` + 1; ``completions`` waits for nothing else.

    Parameters
    ----------
    tags : ITags that are used, from 0: 2, 4, 8, 16 or 32. devices : rows of the table, at least 2. timer_bits : of ``timeout``.

    Members
    -------
    commands : an :class:`Executor`. round : stream; round_failed : out, with its ``ready``
    invalidations, responses : streams to devices. completions : stream from devices
    timeout : in, cycles, for what is taken from now on. devices : in, the table; a row changes while it is not valid, or no round is under way
    quarantined, late : out, a bit a row, a bit an ITag. release_devices, release_tags : in, bits of them to be cleared. unexpected : out
    """
    def __init__(self, tags=8, devices=4, *, timer_bits=TIMER_BITS):
        if tags not in (2, 4, 8, 16, 32):
            raise ValueError(f"Invalidations must have 2, 4, 8, 16 or 32 tags, not {tags!r}")
        if devices not in range(2, 65):
            raise ValueError(f"Devices of invalidations must be 2 to 64, not {devices!r}")
        self.tags, self.count, self.timer_bits = tags, devices, timer_bits
        super().__init__({
            "commands": In(Executor(DeviceMessage)), "round": In(stream.Signature(AtsRound)), "round_failed": Out(1),
            "invalidations": Out(stream.Signature(InvalidateRequest)), "responses": Out(stream.Signature(PageResponse)),
            "completions": In(stream.Signature(InvalidateCompletion)), "timeout": In(timer_bits), "devices": In(AtsDevice).array(devices),
            "quarantined": Out(devices), "release_devices": In(devices), "late": Out(tags), "release_tags": In(tags),
            "unexpected": Out(UNEXPECTED_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        self._wanted, self._waits, self._overdue = Signal(_Wanted(self.count, self.timer_bits)), Signal(), Signal()
        self._open, self._of_round = Signal(self.tags), Signal(self.tags)      # by ITag; `_of_round` of those that are open
        self._given_up, self._device, self._failed = Signal(), Signal(range(self.count)), Signal()
        self._now, of_round, self._released = Signal(self.timer_bits + 1), self._waits & self._wanted.of_round, Signal(self.tags)
        m.d.sync += [
            self._now.eq(self._now + 1), self._overdue.eq(self._waits & self._is_past(self._wanted.deadline)),
            self.late.eq(self.late & ~self._released), self.quarantined.eq(self.quarantined & ~self.release_devices),
        ]
        drops = self._waits & self._overdue & ~self._given_up      # each has a pulse of its own
        unsent = Mux(self.invalidations.valid, 1 << self.invalidations.payload.itag, 0)
        m.d.comb += [
            self._released.eq(self.release_tags & ~unsent),
            self.commands.pending.eq((self._waits & ~of_round) | (self._open & ~self._of_round).any()),
            self.commands.expired.eq(drops & ~of_round),
        ]
        self._take(m, self._round(m, (of_round | (self._open & self._of_round).any())))
        self._respond(m)
        self._scan(m)
        with m.If(drops):
            m.d.sync += self._waits.eq(0)
            with m.If(of_round):
                m.d.sync += self._failed.eq(1)
        return m

    def _is_past(self, deadline):
        return ~(self._now - deadline)[self.timer_bits]

    def _take(self, m, wants):
        """Take a command, or the invalidation that a round ``wants``, in turns."""
        m.submodules.turns = turns = RoundRobin(2)
        wanted, command, deadline = self._wanted, self.commands.command, Signal(self.timer_bits + 1)
        message, entry = command.payload, Array(self.devices)[self._device]
        m.d.comb += [
            turns.requests.eq(Mux(self._waits, 0, Cat(command.valid, wants))), turns.served.eq(turns.grant), turns.last.eq(1),
            command.ready.eq(turns.grant[0]), self._taken.eq(turns.grant[1]),
        ]
        m.d.sync += deadline.eq(self._now + self.timeout)
        with m.If(~self._waits):
            m.d.sync += [
                self._waits.eq(turns.grant.any()), wanted.response.eq(message.function[0] & turns.grant[0]), wanted.of_round.eq(turns.grant[1]),
                wanted.device.eq(self._device), wanted.deadline.eq(deadline), wanted.process.eq(message.process),
                wanted.process_valid.eq(message.pv & turns.grant[0]),
                wanted.requester_id.eq(Mux(turns.grant[1], entry.requester_id, message.requester_id)),
                wanted.payload.eq(Mux(turns.grant[1], self.round.payload.payload, message.payload)),
            ]

    def _round(self, m, outstanding):
        """Go through the table for a round, then wait for what is ``outstanding``. Returns "an invalidation to the device is wanted"."""
        entry, self._taken = Array(self.devices)[self._device], Signal()
        looks, wants, matches = Signal(), Signal(), Signal()
        m.d.sync += matches.eq(entry.valid & (entry.gscid == self.round.payload.gscid))
        quarantined = self.quarantined.bit_select(self._device, 1)
        m.d.comb += [wants.eq(looks & matches & ~quarantined & ~self._failed), self.round_failed.eq(self._failed)]
        with m.FSM():
            with m.State("idle"), m.If(self.round.valid):
                m.d.sync += [self._device.eq(0), self._failed.eq(0)]
                m.next = "compare"
            with m.State("compare"):
                m.next = "device"
            with m.State("device"):
                m.d.comb += looks.eq(1)
                with m.If(matches & quarantined):
                    m.d.sync += self._failed.eq(1)
                with m.If(~wants | self._taken):
                    m.d.sync += self._device.eq(self._device + 1)
                    m.next = "compare"
                    with m.If(self._device == self.count - 1):
                        m.next = "collect"
            with m.State("collect"), m.If(~outstanding):
                m.d.comb += self.round.ready.eq(1)
                m.next = "idle"
        return wants

    def _respond(self, m):
        """Send a response to page requests. It is done when it has left, so it stays in ``wanted`` beside the stream."""
        wanted, out, placed = self._wanted, self.responses, Signal()
        with m.If(out.valid & out.ready):
            m.d.sync += out.valid.eq(0)
            with m.If(placed):
                m.d.sync += [self._waits.eq(0), placed.eq(0)]
        with m.Elif(self._waits & wanted.response & ~self._overdue & ~out.valid):
            payload = out.payload
            m.d.sync += [
                out.valid.eq(1), placed.eq(1), payload.requester_id.eq(wanted.requester_id), payload.process_valid.eq(wanted.process_valid),
                payload.process.eq(wanted.process), payload.group.eq(wanted.payload[32:41]), payload.code.eq(wanted.payload[44:48]),
            ]
        with m.If(self._overdue):
            m.d.sync += placed.eq(0)

    def _scan(self, m):
        """Look at one ITag a cycle, all in turn: whether a completion is for it, whether its time is over, whether it is free for what is wanted."""
        m.submodules.rows = rows = memory.Memory(shape=_Row(self.count, self.timer_bits), depth=self.tags, init=[])
        read, write, row = rows.read_port(domain="comb"), rows.write_port(), Signal(_Row(self.count, self.timer_bits))
        tag, here = Signal(range(self.tags)), Signal(self.tags, init=1)
        m.d.comb += [read.addr.eq(tag + 1), write.addr.eq(tag)]
        m.d.sync += [tag.eq(tag + 1), here.eq(here.rotate_left(1)), row.eq(read.data)]
        is_open, is_late = (self._open & here).any(), (self.late & here).any()
        heard, asked = self._hear(m, here)
        fits = (is_open | is_late) & (row.requester_id == heard.requester_id)
        before = Mux(heard.before > row.before, heard.before, row.before)
        counts, done = asked & fits, asked & fits & (row.heard == before)
        places = self._place(m, tag, is_open | is_late)
        m.d.comb += [
            self._stray.eq(asked & ~fits), self._given_up.eq(is_open & ~done & self._is_past(row.deadline)), write.en.eq(counts | places),
            write.data.eq(Mux(places, self._new.as_value(), Cat(row.requester_id, row.device, (row.heard + 1)[:3], before, row.deadline))),
        ]
        with m.If(done):
            m.d.sync += [self._open.eq(self._open & ~here), self.late.eq(self.late & ~self._released & ~here)]
        with m.Elif(self._given_up):
            m.d.sync += [self._open.eq(self._open & ~here), self.late.eq((self.late & ~self._released) | here)]
            with m.If((self._of_round & here).any()):
                m.d.sync += [self._failed.eq(1), self.quarantined.bit_select(row.device, 1).eq(1)]
            with m.Else():
                m.d.comb += self.commands.expired.eq(1)
        with m.Elif(places):
            m.d.sync += [
                self._open.eq(self._open | here), self._waits.eq(0),
                self._of_round.eq(Mux(self._wanted.of_round, self._of_round | here, self._of_round & ~here)),
            ]

    def _place(self, m, tag, used):
        """Send what is wanted with this ITag, if it is free. Returns "it is sent"."""
        wanted, out, places, self._new = self._wanted, self.invalidations, Signal(), Signal(_Row(self.count, self.timer_bits))
        m.d.comb += [
            places.eq(self._waits & ~wanted.response & ~self._overdue & ~out.valid & ~used),
            self._new.requester_id.eq(wanted.requester_id), self._new.device.eq(wanted.device), self._new.deadline.eq(wanted.deadline),
        ]
        with m.If(out.ready):
            m.d.sync += out.valid.eq(0)
        with m.If(places):
            m.d.sync += [
                out.valid.eq(1), out.payload.itag.eq(tag),
                *(out.payload[name].eq(wanted[name]) for name in ("requester_id", "payload", "process_valid", "process")),
            ]
        return places

    def _hear(self, m, here):
        """Keep a completion until it has met every ITag. Returns it, and "it has the bit of the ITag that is looked at"."""
        heard, left = Signal(data.StructLayout({"requester_id": 16, "itags": self.tags, "before": 3})), Signal(bits_for(self.tags))
        came, strange, self._stray = self.completions.payload, Signal(), Signal()
        m.d.comb += self.completions.ready.eq(left == 0)
        with m.If(left != 0):
            m.d.sync += [left.eq(left - 1), strange.eq(strange | self._stray)]
            with m.If((left == 1) & (strange | self._stray)):
                m.d.sync += self.unexpected.eq(self.unexpected + 1)
        with m.Elif(self.completions.valid):
            m.d.sync += [
                left.eq(self.tags), heard.requester_id.eq(came.requester_id), heard.itags.eq(came.itags), heard.before.eq(came.count - 1),
                strange.eq(came.itags[self.tags:].any() | ~came.itags.any()),
            ]
        return heard, (left != 0) & (heard.itags & here).any()
