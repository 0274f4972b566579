"""Claims about progress: what may pass a blocked lane does, within a bounded number of cycles.

Time is bounded, so a claim shows that nothing waits *for* what is blocked, not only that it does not wait for ever. Headers and data are constant
but for what tells TLPs apart: no rule looked at here depends on them.
"""

from amaranth.hdl import Array, Assert, Assume, Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value, held, past

from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.request_lane import RequestLane
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.headers import Fmt, TlpType
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

DATA_BYTES = 16
LANES = (EgressLane.POSTED, EgressLane.COMPLETION, EgressLane.NON_POSTED)
PASSING = (EgressLane.POSTED, EgressLane.COMPLETION)
COUNT = 5   # bits of ghost counters


def patience(m, waits, name, bits=4):
    """Cycles in a row, up to now, in which ``waits`` was 1."""
    cycles = Signal(bits, name=f"{name}_cycles")
    m.d.sync += cycles.eq(Mux(waits, cycles + 1, 0))
    return cycles


def lively(m, name):
    """A ``ready`` that is 0 for one cycle at a time."""
    ready = any_value(m, 1, name)
    m.d.comb += Assume(ready | past(m, ready, name))
    return ready


def request_header(m, header, writes):
    """A memory request of one double word at address 0."""
    fields = data.View(headers.RequestHeader(), header)
    m.d.comb += [
        fields.type.eq(TlpType.MEMORY), fields.fmt.eq((Fmt.DW3_DATA if writes else Fmt.DW3).value), fields.length.eq(1), fields.first_be.eq(1),
    ]


def completion_header(m, header, tag):
    """A completion without data."""
    fields = data.View(headers.CompletionHeader(), header)
    m.d.comb += [fields.type.eq(TlpType.COMPLETION), fields.fmt.eq(Fmt.DW3.value), fields.tag.eq(tag)]


class DeviceIngressLetsPass(Elaboratable):
    """What the device posts or completes leaves the ingress within a bounded time, whatever set of its requests' needs (egress room at each host, a
    row, room for completions) is never met."""
    POSTED = 9       # cycles without a posted TLP that leaves
    PASSING = 10     # cycles without a posted TLP or completion that leaves
    REFUSED = 8      # cycles in which `rx` waits

    def __init__(self, ingress=DeviceIngress):
        self.ingress = ingress

    def elaborate(self, platform):
        m = Module()
        m.submodules.dut = dut = self.ingress(DATA_BYTES, 64, rows=2, entries=2, return_lines=1, depths=(4, 4, 4), max_payload=16)
        lane, rooms = self._rx(m, dut), any_constant(m, 2, "rooms")
        m.d.comb += [
            dut.settings.window.limit.eq(64), dut.settings.mapped.limit.eq(64), dut.settings.active_host.eq(any_constant(m, 1, "active_host")),
            dut.occupied.eq(any_value(m, 1, "occupied")), dut.limit.eq(any_constant(m, 2, "limit")),
        ]
        for host in range(2):
            sink, blocked = dut.o[host], ~rooms[host]
            m.d.comb += [
                dut.room[host].eq(Cat(1, 1, rooms[host], 0)), dut.return_room[host].eq(any_value(m, 1, f"return_room{host}")),
                dut.owner_bit[host].eq(any_value(m, 1, f"owner{host}")), dut.reply_used[host].eq(any_value(m, 1, f"reply_used{host}")),
                # The egress takes a TLP for which it had room, and none that it has no place for.
                sink.ready.eq(lively(m, f"ready{host}") & ~((sink.payload.lane == EgressLane.NON_POSTED) & blocked)),
            ]
        entered = dut.rx.valid & dut.rx.ready
        left = [sum(sink.valid & sink.ready & (sink.payload.lane == kind) for sink in dut.o) for kind in PASSING]
        posted, completions = Signal(COUNT), Signal(COUNT)
        leaves = [left[EgressLane.POSTED] != 0, (left[EgressLane.COMPLETION] != 0) | dut.unexpected]
        m.d.sync += [
            posted.eq(posted + (entered & (lane == EgressLane.POSTED)) - leaves[0]),
            completions.eq(completions + (entered & (lane == EgressLane.COMPLETION)) - leaves[1]),
        ]
        m.d.comb += [
            Assert(patience(m, (posted != 0) & ~leaves[0], "posted") <= self.POSTED),
            Assert(patience(m, ((posted != 0) | (completions != 0)) & ~leaves[0] & ~leaves[1], "passing") <= self.PASSING),
            Assert(patience(m, dut.rx.valid & ~dut.rx.ready, "refused") <= self.REFUSED),
        ]
        return m

    def _rx(self, m, dut):
        """TLPs of one beat and any class, requests as far as there are credits. Returns the class, as a lane."""
        lane, kinds = any_value(m, 2, "lane"), [Signal(128, name=f"header{lane}") for lane in LANES]
        request_header(m, kinds[EgressLane.POSTED], True)
        completion_header(m, kinds[EgressLane.COMPLETION], Cat(Const(0, 6), any_value(m, 1, "of_host"), 1))
        request_header(m, kinds[EgressLane.NON_POSTED], False)
        requests = Signal(8)
        m.d.comb += [
            dut.rx.valid.eq(any_value(m, 1, "rx_valid")), dut.rx.payload.header.eq(Array(kinds)[lane]),
            dut.rx.payload.first.eq(1), dut.rx.payload.last.eq(1), Assume(lane < len(LANES)),
            Assume(~(dut.rx.valid & (lane == EgressLane.NON_POSTED) & (requests == dut.rx_limits.non_posted.header))),
        ]
        held(m, dut.rx, Assume, "rx")
        m.d.sync += requests.eq(requests + (dut.rx.valid & dut.rx.ready & (lane == EgressLane.NON_POSTED)))
        return lane


PROOFS = [
    Proof("progress_device_ingress", DeviceIngressLetsPass.__doc__, DeviceIngressLetsPass, "bmc", 16, seconds=600, bugs={
        "a request is issued without room": lambda: DeviceIngressLetsPass(planted(DeviceIngress, "", "", RequestLane=planted(
            RequestLane, "held & free for", "held for"))),
        "more credits than places": lambda: DeviceIngressLetsPass(planted(
            DeviceIngress, "lane_credits(self.depths[lane], self.data_bytes", "lane_credits(4 * self.depths[lane], self.data_bytes")),
    }),
]
