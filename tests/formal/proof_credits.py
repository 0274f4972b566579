"""Claims about credits and room: nothing is sent that the partner has no place for, nothing is promised twice."""

from amaranth.hdl import Assert, Assume, Cover, Elaboratable, Module, Mux, Signal
from amaranth.lib import stream
from rules import any_value, held, past

from pagehop.tlp.credits import CreditGate, CreditReturn
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.room import Room
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

MAX_PAYLOAD = 32   # two data credits


class NeverOverspends(Elaboratable):
    """Two lanes draw on one class whenever the gate lets them: what was sent never exceeds the limits seen so far, in headers or in data
    (2.6.1.2)."""
    def __init__(self, gate=CreditGate):
        self.gate = gate

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.gate(MAX_PAYLOAD)
        limit = dut.limits.posted
        open_header, open_units = Signal(8), Signal(12)   # what the partner granted and was not used
        heads = [stream.Signature(2).create(path=(name,)) for name in ("a", "b")]
        lets = [Signal(name=f"lets{index}") for index in range(2)]
        for go, head in zip(lets, heads, strict=True):
            plenty = dut.plenty[TlpClass.POSTED.value]
            m.d.sync += go.eq(plenty | (head.valid & ~head.ready & dut.fits(TlpClass.POSTED, head.payload)))
        wants = any_value(m, 2, "wants")
        goes = [Signal(name=f"goes{index}") for index in range(2)]
        for index, head in enumerate(heads):
            units = any_value(m, 2, f"units{index}")
            m.d.comb += [head.valid.eq(any_value(m, 1, f"valid{index}")), head.payload.eq(units), Assume(units <= 2)]
            # A head stays until it goes.
            held(m, head, Assume, f"head{index}")
            m.d.comb += [goes[index].eq(head.valid & lets[index] & wants[index] & ~(goes[0] if index else 0)), head.ready.eq(goes[index])]
        spent = Mux(goes[0], heads[0].payload, heads[1].payload)
        m.d.comb += [dut.spend[TlpClass.POSTED.value].eq(goes[0] | goes[1]), dut.spend_data[TlpClass.POSTED.value].eq(spent)]
        self._partner(m, limit, open_header, open_units, goes[0] | goes[1], spent)
        with m.If(goes[0] | goes[1]):
            m.d.comb += [Assert(open_header != 0), Assert(open_units >= spent)]
        self.more(m, goes, open_header, limit.header)
        return m

    def _partner(self, m, limit, open_header, open_units, sent, spent):
        """Limits that grow at any time by any small amount, and stay within half their range."""
        # Not an assumption about the open credits: sby moves those across registers, where it would exclude the very underflow that is looked for.
        grant_header, grant_units = Signal(), Signal(2)
        header, units = Signal(8), Signal(12)
        m.d.comb += [
            grant_header.eq(any_value(m, 1, "may_grant_header") & (open_header < 100)),
            grant_units.eq(Mux(open_units < 1000, any_value(m, 2, "may_grant_units"), 0)),
            limit.header.eq(header), limit.data.eq(units),
        ]
        m.d.sync += [
            header.eq(header + grant_header), units.eq(units + grant_units),
            open_header.eq(open_header + grant_header - sent), open_units.eq(open_units + grant_units - Mux(sent, spent, 0)),
        ]

    def more(self, m, goes, open_header, header):
        """What a claim built on this one adds."""


class SpendsTheLast(NeverOverspends):
    """A single credit can be spent, and TLPs can go in consecutive cycles."""
    def more(self, m, goes, open_header, header):
        any_goes = goes[0] | goes[1]
        once = past(m, any_goes, "once")
        m.d.comb += [
            Cover(any_goes & (open_header == 1) & (header == 1)),
            Cover(any_goes & once & past(m, once, "twice")),
        ]


class ReturnsWhatLeft(Elaboratable):
    """The limits grow by one header credit a TLP and by one data credit for each 16 bytes begun, of what left, and by nothing else."""
    def __init__(self, returns=CreditReturn):
        self.returns = returns

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.returns(2, 4, 8)
        header, units = Signal(8, init=4), Signal(12, init=8)
        expected = []
        for lane in range(2):
            left, first, dwords = any_value(m, 1, f"left{lane}"), any_value(m, 1, f"first{lane}"), any_value(m, 6, f"dwords{lane}")
            m.d.comb += [dut.left[lane].eq(left), dut.first[lane].eq(first), dut.dwords[lane].eq(dwords), Assume(dwords <= 32)]
            expected.append((left & first, Mux(left, (dwords + 3) >> 2, 0)))
        tlps, beats = past(m, expected[0][0] + expected[1][0], "tlps"), past(m, expected[0][1] + expected[1][1], "beats")
        m.d.sync += [header.eq(header + tlps), units.eq(units + beats)]
        m.d.comb += [Assert(dut.limit.header == header), Assert(dut.limit.data == units)]
        return m


class RoomIsKept(Elaboratable):
    """Who reserves only what is left and releases only what was reserved never takes the count below 0 or above the capacity."""
    CAPACITY = 9

    def __init__(self, room=Room):
        self.room = room

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.room(self.CAPACITY)
        reserved = Signal(range(self.CAPACITY + 1))
        amounts = [any_value(m, 4, f"amount{index}") for index in range(3)]
        acts = any_value(m, 3, "acts")
        releases = sum(Mux(acts[index + 1], amounts[index + 1], 0) for index in range(2))
        takes = Mux(acts[0], amounts[0], 0)
        m.d.comb += [
            dut.reserve.eq(acts[0]), dut.reserve_amount.eq(amounts[0]),
            *(dut.release[index].eq(acts[index + 1]) for index in range(2)),
            *(dut.release_amount[index].eq(amounts[index + 1]) for index in range(2)),
            Assume(takes <= dut.amount_left), Assume(releases <= reserved),
        ]
        m.d.sync += reserved.eq(reserved + takes - releases)
        m.d.comb += [Assert(dut.amount_left <= self.CAPACITY), Assert(dut.amount_left + reserved == self.CAPACITY)]
        return m


def gate_bugs(claim):
    """The claim about gates with these bugs."""
    changes = {
        "credits are never spent": ("with m.If(self.spend[kind.value]):", "with m.If(0):"),
        "data credits are given back as they are spent": ("spent_data + self.spend_data", "spent_data - self.spend_data"),
        "data credits are ignored": (" & enough", ""),
        "header credits are ignored": (" & (left.header != 0)", ""),
        "one header credit is plenty": ("left.header >= 2", "left.header >= 1"),
        "data for one TLP is plenty": ("left.data >= 2 * self.max_units", "left.data >= self.max_units"),
        "what the other lane spends is not seen": ("~self.spend[kind.value] & ", ""),
    }
    return {name: lambda change=change: claim(planted(CreditGate, *change)) for name, change in changes.items()}


PROOFS = [
    Proof("credits_never_overspent", NeverOverspends.__doc__, NeverOverspends, "bmc", 10, fast=True, bugs=gate_bugs(NeverOverspends)),
    Proof("credits_last_is_spent", SpendsTheLast.__doc__, SpendsTheLast, "cover", 12, bugs={
        "the last credit is kept": lambda: SpendsTheLast(planted(CreditGate, "(left.header != 0)", "(left.header > 1)")),
    }),
    Proof("credits_returned", ReturnsWhatLeft.__doc__, ReturnsWhatLeft, "prove", 3, bugs={
        "a partly filled unit is free": lambda: ReturnsWhatLeft(planted(CreditReturn, "credits_of_dwords(dwords)", "(dwords >> 2)")),
        "later beats count as TLPs": lambda: ReturnsWhatLeft(planted(CreditReturn, "left & first for", "left for")),
    }),
    Proof("room_is_kept", RoomIsKept.__doc__, RoomIsKept, "prove", 3, bugs={
        "one of two releases is lost": lambda: RoomIsKept(planted(
            Room, "released_now.eq(released)", "released_now.eq(Mux(self.release[0], self.release_amount[0], released))")),
    }),
]
