"""The registers of the interposer, and the BAR of each host that leads to them."""

from pathlib import Path

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.bitmaps import WORD_INDEX_BITS
from pagehop.interposer.descriptors import QueueSettings, QueueState
from pagehop.interposer.host_decode import REGISTER_SPACE_BITS
from pagehop.interposer.layouts import PORTS, Opaque, PortConfig, Settings, run_bits
from pagehop.interposer.log_settings import LogError, LogSettings, LogStatus
from pagehop.interposer.move_check import MoveRequest
from pagehop.interposer.settings import SettingsStage
from pagehop.interposer.slide import SlideStatus
from pagehop.interposer.slot import MoveStatus
from pagehop.interposer.switchover import SwitchoverStatus
from pagehop.registers.adapter import TlpRegisterAdapter
from pagehop.registers.bus import MemoryBus
from pagehop.registers.file import RegisterFile
from pagehop.tlp.counters import Counters
from pagehop.tlp.cutter import LIMIT_BITS
from pagehop.tlp.egress import EgressBeat, EgressLane
from pagehop.tlp.headers import TlpClass
from pagehop.tlp.pages import PAGE_BITS
from pagehop.tlp.stream import TlpBeat
from pagehop.tlp.watchdog import PortState, PortWatch

__all__ = ["COUNTERS", "DISCARDED", "Control", "REGISTERS"]

#: Register map of the interposer.
REGISTERS = Path(__file__).with_name("registers.rdl")

#: Counters, named as their registers.
COUNTERS = (
    "moves_done", "moves_failed", "fences", "fence_cycles", "flushes_a", "flushes_b", "completion_waits", "unsupported", "unexpected",
    "flush_timeouts", "outstanding_timeouts", "discarded_posted", "discarded_requests", "discarded_completions",
    "wrong_digests",
)

#: The counters of what egresses discard, by class.
DISCARDED = {TlpClass.POSTED: "posted", TlpClass.NON_POSTED: "requests", TlpClass.COMPLETION: "completions"}


class Control(wiring.Component):
    """Registers, counters and settings, reached by both hosts. With one of the ``hosts``, what concerns the other is 0.

    Members
    -------
    i : each host's TLPs for the registers, requests only while ``read_ready``. ``answer``: completions.
    config : of both hosts' ports.
    settings : ready for the data path.
    start, abort, copied, request : a move that is asked for, its end before the commit, and that the host has copied the page; a bit a slot.
    status : of each slot. ``queue``, ``queue_state``: of the move queue.
    slide, slide_target, window_count, slide_status : of the :class:`Slide`.
    hold_limit, completion_limit : cycles.
    watch, port_state, payload_limit, strip_hints : of the egresses to the device, Host A and Host B.
    switches, switch_to, unblock : a switchover that is asked for. ``chosen``, ``written``: the active host as software writes it.
    switchover : its status.
    log, sync_log, log_changed, log_status : of the dirty log.
    stays : no switchover may be.
    passed : pulses, the device sent such. ``opaque``: no page may move.
    notify_* : where the end of a move is written.
    dirty_take, dirty_peek, owner : the bitmaps.
    outstanding : unanswered requests of the device at each host.
    <counter> : events in this cycle.
    """
    def __init__(self, data_bytes, window_pages, slots=1, hosts=2):
        self.data_bytes, self.window_pages, self.slots, self.hosts = data_bytes, window_pages, slots, hosts
        self._file = RegisterFile(REGISTERS, clients=2, whole_words=("dirty_take",), looked_up=COUNTERS)
        bitmap = MemoryBus(WORD_INDEX_BITS)
        super().__init__({
            "i": In(stream.Signature(EgressBeat(data_bytes))).array(2), "read_ready": Out(1).array(2),
            "answer": Out(stream.Signature(TlpBeat(data_bytes))).array(2), "config": In(PortConfig).array(2),
            "settings": Out(Settings), "start": Out(slots), "abort": Out(slots), "copied": Out(slots), "request": Out(MoveRequest),
            "status": In(MoveStatus).array(slots),
            "slide": Out(1), "slide_target": Out(32), "window_count": Out(32), "slide_status": In(SlideStatus),
            "queue": Out(QueueSettings), "queue_state": In(QueueState), "hold_limit": Out(32), "completion_limit": Out(32),
            "watch": Out(PortWatch).array(3), "port_state": In(PortState).array(3),
            "payload_limit": Out(LIMIT_BITS).array(3), "strip_hints": Out(1).array(3),
            "switches": Out(1), "switch_to": Out(1), "unblock": Out(1), "chosen": Out(1), "written": Out(1), "switchover": In(SwitchoverStatus),
            "log": Out(LogSettings), "sync_log": Out(1), "log_changed": Out(1), "log_status": In(LogStatus),
            "stays": Out(1), "passed": In(Opaque), "opaque": Out(1),
            "notify_enable": Out(1), "notify_host": Out(1), "notify_address": Out(64), "notify_data": Out(32),
            "dirty_take": Out(bitmap), "dirty_peek": Out(bitmap), "owner": Out(bitmap),
            "outstanding": In(16).array(2),
            **{name: In(3) for name in COUNTERS},
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = self._file
        m.submodules.counters = counters = Counters(COUNTERS)
        unsupported = self.unsupported + registers.bus_dropped
        for host in range(2):
            adapter = TlpRegisterAdapter(self.data_bytes, REGISTER_SPACE_BITS)
            m.submodules[f"adapter_{'ab'[host]}"] = adapter
            self._adapt(m, host, adapter, registers)
            unsupported = unsupported + adapter.unsupported
        m.d.comb += [
            *(getattr(counters, name).eq(unsupported if name == "unsupported" else getattr(self, name)) for name in COUNTERS),
            counters.index.eq(registers.looked_index), counters.enable.eq(registers.looked_enable), registers.looked_word.eq(counters.count),
        ]
        self._settings(m, registers)
        self._move(m, registers)
        self._queue(m, registers)
        self._switchover(m, registers)
        self._slide(m, registers)
        self._log(m, registers)
        self._opaque(m, registers)
        self._watch(m, registers)
        self._rewrites(m, registers)
        for name in ("dirty_take", "dirty_peek", "owner"):
            wiring.connect(m, getattr(registers, name), wiring.flipped(getattr(self, name)))
        return m

    def _adapt(self, m, host, adapter, registers):
        source = self.i[host]
        posted = source.payload.lane == EgressLane.POSTED
        m.d.comb += [
            adapter.posted.valid.eq(source.valid & posted), adapter.posted.payload.eq(source.payload.beat),
            adapter.non_posted.valid.eq(source.valid & ~posted), adapter.non_posted.payload.eq(source.payload.beat),
            adapter.completer_id.eq(self.config[host].requester_id), adapter.base.eq(self.config[host].register_base),
            self.read_ready[host].eq(adapter.idle_for_read),
            self.answer[host].valid.eq(adapter.completion.valid), self.answer[host].payload.eq(adapter.completion.payload),
            adapter.completion.ready.eq(self.answer[host].ready),
        ]
        with m.If(posted):
            m.d.comb += source.ready.eq(adapter.posted.ready)
        with m.Else():
            m.d.comb += source.ready.eq(adapter.non_posted.ready)
        wiring.connect(m, adapter.bus, registers.bus[host])

    def _settings(self, m, registers):
        m.submodules.settings = stage = SettingsStage()
        for name in ("window", "msi", "mmio"):
            m.d.comb += [
                getattr(stage, f"{name}_base").eq(getattr(registers, f"{name}_base").address),
                getattr(stage, f"{name}_pages").eq(getattr(registers, f"{name}_pages").count),
            ]
        for name in ("aperture_a", "aperture_b"):
            m.d.comb += [
                getattr(stage, f"{name}_base").eq(getattr(registers, f"{name}_base").address),
                getattr(stage, f"{name}_pages").eq(getattr(registers, f"{name}_pages").count),
                getattr(stage, f"{name}_offset").eq(getattr(registers, f"{name}_offset").offset),
            ]
        control = registers.control
        for number, group in enumerate(stage.groups):
            declared = getattr(registers, f"independent_{number}")
            m.d.comb += [group.id.eq(declared.requester_id), group.mask.eq(declared.mask), group.enabled.eq(declared.enable)]
        m.d.comb += [
            stage.low.eq(self.slide_status.low), stage.high.eq(self.slide_status.high), self.window_count.eq(registers.window_pages.count),
            stage.host_b_offset.eq(registers.host_b_offset.offset),
            stage.active_host.eq(self.switchover.active_host), stage.blocks.eq(self.switchover.blocks),
            stage.fence.eq(control.fence), stage.track_dirty.eq(control.dirty_enable),
            self.settings.eq(stage.settings),
            self.notify_enable.eq(control.notify_enable), self.notify_host.eq(control.notify_host),
            self.notify_address.eq(registers.notify_address.address), self.notify_data.eq(registers.notify_data.data),
            registers.capabilities.window_pages.eq(self.window_pages), registers.capabilities.slots.eq(self.slots),
            registers.capabilities.page_size.eq(PAGE_BITS), registers.capabilities.data_bytes.eq(self.data_bytes),
            registers.page_sizes.largest.eq(PAGE_BITS + run_bits(self.window_pages)),
            registers.outstanding.host_a.eq(self.outstanding[0]), registers.outstanding.host_b.eq(self.outstanding[1]),
        ]

    def _move(self, m, registers):
        command = registers.move_command
        chosen = Mux(registers.move_command_written, 1 << command.slot, 0)
        m.d.comb += [
            self.start.eq(Mux(command.start, chosen, 0)), self.abort.eq(Mux(command.abort, chosen, 0)),
            self.copied.eq(Mux(command.copied, chosen, 0)), self.request.mode.eq(command.mode),
            self.request.source.eq(registers.move_source.address), self.request.destination.eq(registers.move_destination.address),
            self.request.to_host.eq(command.to_host), self.request.page_size.eq(command.page_size),
            self.hold_limit.eq(registers.move_limits.hold), self.completion_limit.eq(registers.move_limits.completion),
        ]
        for slot, shown in enumerate(self.status):
            status, cycles = getattr(registers, f"move_status_{slot}"), getattr(registers, f"move_cycles_{slot}")
            m.d.comb += [
                *(status[field].eq(shown[field]) for field in ("busy", "done", "failed", "phase", "error", "refused", "ended")),
                cycles.hold.eq(shown.hold), cycles.total.eq(shown.total),
            ]

    def _watch(self, m, registers):
        limits, command, written, status = registers.port_limits, registers.port_command, registers.port_command_written, registers.port_status
        for name, watch, state in zip(PORTS[:1 + self.hosts], self.watch, self.port_state, strict=False):
            m.d.comb += [
                watch.limit.eq(limits.device if name == "device" else limits.hosts),
                watch.stop.eq(written & command[f"stop_{name}"]), watch.resume.eq(written & command[f"resume_{name}"]),
                status[f"down_{name}"].eq(state.down), status[f"expired_{name}"].eq(state.expired),
            ]

    def _rewrites(self, m, registers):
        """What is changed of TLPs as they leave. The device is a port of no host, whose caches no steering tag names."""
        hints = registers.processing_hints
        m.d.comb += [
            *(limit.eq(registers.payload_limits[name]) for name, limit in zip(PORTS, self.payload_limit, strict=True)),
            *(strip.eq(hints[f"strip_{name}"]) for name, strip in zip(PORTS[1:], self.strip_hints[1:], strict=True)),
        ]

    def _switchover(self, m, registers):
        command, written, status = registers.switchover_command, registers.switchover_command_written, registers.switchover_status
        m.d.comb += [
            self.switches.eq(written & command.start), self.switch_to.eq(command.to_host), self.unblock.eq(written & command.unblock),
            self.chosen.eq(registers.control.active_host), self.written.eq(registers.control_written),
            *(status[field].eq(self.switchover[field]) for field in ("busy", "done", "failed", "error", "active_host", "blocks", "cycles")),
        ]

    def _opaque(self, m, registers):
        """Remember what has no page that could be told or changed, or no order with us, until software says that it is over (H24f, H48, O7)."""
        kept, control = Signal(Opaque), registers.control
        over = registers.opaque_over_written & registers.opaque_over.forget
        firm = kept.encrypted | (kept.classed & ~control.allow_classes)
        m.d.comb += [registers.opaque[field].eq(kept[field]) for field in ("translated", "encrypted", "classed")]
        m.d.sync += [
            kept.eq(self.passed.as_value() | Mux(over, 0, kept)),
            self.stays.eq(firm | kept.translated), self.opaque.eq(firm | (kept.translated & ~control.allow_translated)),
        ]

    def _queue(self, m, registers):
        queue, control, state = self.queue, registers.queue_control, self.queue_state
        m.d.comb += [
            *(queue[name].eq(control[name]) for name in ("enable", "host", "order", "slots")),
            queue.base.eq(registers.queue_base.address), queue.records.eq(registers.queue_records.address),
            queue.tail.eq(registers.queue_tail.count),
            *(registers.queue_status[name].eq(state[name]) for name in ("taken", "done", "running", "idle", "error")),
        ]

    def _log(self, m, registers):
        control, status, written = registers.log_control, self.log_status, [registers.log_root_written]
        for number, one in enumerate(self.log.ranges):
            base, size, first, second = (getattr(registers, f"log_{name}_{number}") for name in ("base", "size", "bitmap", "second"))
            m.d.comb += [
                one.base.eq(base.address[PAGE_BITS:]), one.pages.eq(size.pages), one.shift.eq(size.shift),
                one.bitmap[0].eq(first.address), one.bitmap[1].eq(second.address),
            ]
            written += [getattr(registers, f"log_{name}_{number}_written") for name in ("base", "size", "bitmap", "second")]
        m.d.comb += [
            *(self.log[name].eq(control[name]) for name in ("enable", "host", "ping_pong", "tables")),
            *(self.log.root[name].eq(registers.log_root[name]) for name in ("ppn", "deep")), self.log_changed.eq(Cat(written).any()),
            self.sync_log.eq(registers.log_command_written & registers.log_command.sync),
            *(registers.log_status[name].eq(status[name]) for name in ("busy", "active", "error", "tables")),
            registers.log_status.everything_dirty.eq(status.error != LogError.NONE),
            registers.log_traffic.requests.eq(status.requests), registers.log_traffic.waits.eq(status.waits),
        ]

    def _slide(self, m, registers):
        shown, status = self.slide_status, registers.slide_status
        m.d.comb += [
            self.slide.eq(registers.slide_written), self.slide_target.eq(registers.slide.target),
            *(status[name].eq(shown[name]) for name in ("busy", "refused", "error")),
            registers.mapped.low.eq(shown.low), registers.mapped.high.eq(shown.high),
        ]
