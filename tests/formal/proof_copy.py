"""Claims about the copy of a page: it needs nothing of the device's side."""

from amaranth.hdl import Assert, Assume, Cat, Const, Elaboratable, Module, Mux, Signal
from amaranth.lib import data
from rules import any_constant, any_value

from pagehop.interposer.host_ingress import HostIngress
from pagehop.interposer.layouts import LOCAL_LANES
from pagehop.memory.copy_engine import CopyEngine, CopyError
from pagehop.memory.page_buffer import PageBuffer
from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.headers import Fmt, TlpType
from pagehop.tlp.local import LocalSource
from pagehop_sim.formal import Proof
from pagehop_sim.planted import planted

DATA_BYTES = 64
CHUNKS = 2
HOST_ID = 1


def small_copy(old="", new=""):
    """The copy engine for pages of two chunks of a beat each, with this change."""
    page = {"PAGE_BYTES": CHUNKS * 64}
    return planted(CopyEngine, old, new, PageBuffer=planted(PageBuffer, "", "", **page), **page)


class CopyCompletes(Elaboratable):
    """A copy is written within a bounded time while the device takes no posted TLPs of the source host, which sends what its credits allow. The
    source's link always takes what is within its credits."""
    WRITTEN = 15   # cycles from the start to the last write's transfer

    def __init__(self, ingress=HostIngress, copy=None, local=LocalSource):
        self.ingress, self.copy, self.local = ingress, small_copy() if copy is None else copy, local

    def elaborate(self, platform):
        m = Module()
        m.submodules.copy = copy = self.copy(DATA_BYTES, 64)
        m.submodules.reads = reads = self.local(DATA_BYTES, LOCAL_LANES)
        m.submodules.writes = writes = self.local(DATA_BYTES, LOCAL_LANES)
        m.submodules.ingress = ingress = self.ingress(
            DATA_BYTES, 0, rows=2, entries=2, depths=(4,) * 6, device_lines=1, other_lines=1, max_payload=64)
        m.d.comb += [
            copy.limit.eq(-1), ingress.config.requester_id.eq(HOST_ID), copy.source_id.eq(HOST_ID), ingress.config.register_base.eq(1 << 40),
            ingress.room_device.eq(any_constant(m, 4, "room_device") & ~1), ingress.active.eq(1),
            reads.copy_read[0].valid.eq(copy.o_read.valid), reads.copy_read[0].payload.eq(copy.o_read.payload),
            copy.o_read.ready.eq(reads.copy_read[0].ready),
            writes.copy_write[0].valid.eq(copy.o_write.valid), writes.copy_write[0].payload.eq(copy.o_write.payload),
            copy.o_write.ready.eq(writes.copy_write[0].ready),
            copy.completion.valid.eq(ingress.copy.valid), copy.completion.payload.eq(ingress.copy.payload),
        ]
        # The egress of each host has room and takes what it had room for: it does not depend on the device's (proof_egress.py, proof_progress.py).
        m.d.comb += [port.eq(-1) for local in (reads, writes) for port in (local.room, local.o.ready)]
        started, start, cycles = Signal(), Signal(), Signal(6)
        m.d.comb += [start.eq(~started), copy.start.eq(start)]
        m.d.sync += [started.eq(started | start), cycles.eq(Mux(started & ~copy.written, cycles + 1, 0))]
        self._host(m, reads, ingress)
        m.d.comb += [Assert(cycles <= self.WRITTEN), Assert(copy.error == CopyError.NONE)]
        return m

    def _host(self, m, reads, ingress):
        """The source host: it answers a read at least every other cycle, in any order, and posts what its credits allow in between."""
        asked, pending = Signal(CHUNKS), Signal(CHUNKS)
        request = data.View(headers.RequestHeader(), reads.o.payload.beat.header)
        arrives = reads.o.valid & reads.o.ready & (reads.o.payload.lane == EgressLane.ENGINE)
        posts, chunk, valid = any_value(m, 1, "posts"), any_value(m, 1, "chunk"), any_value(m, 1, "rx_valid")
        posted = Signal(8)
        taken = valid & ingress.rx.ready
        m.d.comb += asked.eq(arrives << request.tag[0])
        m.d.sync += [pending.eq((pending & ~Mux(taken & ~posts, 1 << chunk, 0)) | asked), posted.eq(posted + (taken & posts))]
        answer, write = Signal(headers.CompletionHeader()), Signal(headers.RequestHeader())
        m.d.comb += [
            answer.fmt.eq(Fmt.DW3_DATA.value), answer.type.eq(TlpType.COMPLETION), answer.length.eq(16), answer.byte_count.eq(64),
            answer.requester_id.eq(HOST_ID), answer.tag.eq(Cat(chunk, Const(1, 1))),   # the chunk, and the first generation
            write.fmt.eq(Fmt.DW3_DATA.value), write.type.eq(TlpType.MEMORY), write.length.eq(16), write.first_be.eq(15), write.last_be.eq(15),
            ingress.rx.valid.eq(valid), ingress.rx.payload.header.eq(Mux(posts, write, answer)),
            ingress.rx.payload.first.eq(1), ingress.rx.payload.last.eq(1), ingress.rx.payload.dwords.eq(16),
            Assume(~valid | Mux(posts, ingress.rx_limits.posted.header != posted, pending.bit_select(chunk, 1))),
            Assert(~valid | ingress.rx.ready),
        ]
        late = Signal(2)
        answers = valid & ~posts
        m.d.sync += late.eq(Mux(pending.any() & ~answers, late + 1, 0))
        m.d.comb += Assume(late < 2)


PROOFS = [
    Proof("copy_completes", CopyCompletes.__doc__, CopyCompletes, "bmc", 18, seconds=240, bugs={
        "copy completions wait behind posted TLPs": lambda: CopyCompletes(planted(
            HostIngress, "        self._posted_left(m, queue, posted)\n",
            "        m.d.comb += self.copy.valid.eq(decode.copy.valid & queue.posted.none)\n        self._posted_left(m, queue, posted)\n")),
        "more credits than places": lambda: CopyCompletes(planted(
            HostIngress, "lane_credits(min(self.depths[lane] for lane in lanes)", "lane_credits(32")),
        "a chunk is not read": lambda: CopyCompletes(copy=small_copy("reading.eq((chunk != self.chunks - 1)", "reading.eq((chunk != 0)")),
    }),
]
