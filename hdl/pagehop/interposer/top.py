"""The interposer as a whole: only parts and connections (docs/interposer.md)."""

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.interposer.adjuster import AddressAdjuster
from pagehop.interposer.answer_turn import answer_beat
from pagehop.interposer.bitmaps import DirtyMap, OwnerMap
from pagehop.interposer.control import DISCARDED, Control
from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.dirty_log import DirtyLog
from pagehop.interposer.host_ingress import HostIngress
from pagehop.interposer.layouts import HOST_A, LOCAL_LANES, PORTS, Aperture, Destination, EpochView, PortConfig
from pagehop.interposer.move_check import MoveCheck
from pagehop.interposer.move_queue import MoveQueue
from pagehop.interposer.notifier import Notifier
from pagehop.interposer.slide import Slide
from pagehop.interposer.slot import MovePhase, PageSlot
from pagehop.interposer.switchover import Switchover
from pagehop.iommu.entry_format import RiscvEntries, VtdEntries
from pagehop.memory.copy_engine import CopyEngine
from pagehop.memory.copy_tags import NARROW_BITS, WIDE_BITS, CopyTag
from pagehop.memory.page_buffer import PAGE_BYTES
from pagehop.tlp.arbiter import select_one
from pagehop.tlp.digest_check import DigestCheck
from pagehop.tlp.digest_make import DigestMake
from pagehop.tlp.egress import Egress, EgressLane
from pagehop.tlp.flush import FlushTracker, FlushView
from pagehop.tlp.local import LocalSource
from pagehop.tlp.outstanding import OutstandingTable
from pagehop.tlp.proxy import ProxyTable
from pagehop.tlp.refusals import Refusals
from pagehop.tlp.room import LINE_BYTES, Room
from pagehop.tlp.stream import TlpPort, check_data_bytes, connect_streams

__all__ = ["ECRC", "LOG_TABLES", "Interposer", "Sizes"]

#: What can be done with the digests of TLPs, see :class:`Interposer`.
ECRC = ("outside", "strip", "recompute")

#: The formats of entries that the dirty log can mark, see :class:`Interposer`.
LOG_TABLES = {"none": None, "riscv": RiscvEntries, "vtd": VtdEntries}


@dataclass(frozen=True)
class Sizes:
    """Depths of the lanes in beats, of what can be aside in the device's ingress, and of the tables. Powers of two."""
    device_ingress: tuple[int, ...]   # posted, completion, non-posted
    host_ingress:   tuple[int, ...]   # by HostLane
    device_egress:  tuple[int, ...]   # posted, completion, non-posted
    host_egress:    tuple[int, ...]   # posted, completion, non-posted, engine
    aside:          tuple[int, ...] = (256, 32)   # beats of posted TLPs, and of requests
    rows:    int = 1024               # of the outstanding table
    entries: int = 64                 # of each proxy table

    @classmethod
    def for_width(cls, data_bytes, hosts=2):
        """Sizes that hold a page in each host's posted egress (D13) and the answers to a read of 4 KB in each completion lane (D7)."""
        check_data_bytes(data_bytes)
        if hosts == 1:
            sizes = cls.for_width(data_bytes)
            posted, to_device, _, *requests = sizes.host_ingress
            # Nothing is answered to another host: as little as can be counted, beside two of the largest payloads.
            return replace(sizes, host_ingress=(posted, to_device, 2048 // data_bytes, *requests))
        if data_bytes == 16:
            return cls((256, 1024, 16), (256, 512, 512, 16, 16, 16), (256, 256, 16), (512, 128, 16, 16))
        # A completion lane of a host's egress keeps room for a largest TLP of each source.
        return cls((128, 256, 32), (128, 512, 128, 16, 16, 16), (64, 128, 32), (128, 128 if data_bytes == 32 else 64, 32, 64))


class Interposer(wiring.Component):
    """The interposer of docs/interposer.md, figures 7A and 10; with one host figure 9, and in a row figure 7B.

    Six cycles from rx to tx when idle, either way; one beat a cycle in every direction at once.

    Parameters
    ----------
    data_bytes : payload bytes of a beat: 16, 32, 64 or 128.
    window_pages : pages that the owner map and the dirty bitmap cover at a time, a power of two from 64 to 262 144.
    max_payload : largest payload of a TLP in bytes, a power of two from 128 to 512.
    chunk_bytes : bytes of one copy read and copy write; at most the MPS and MRRS of both hosts.
    slots : pages that move at the same time: 1, 2, 4 or 8.
    hosts : 2, or 1 with two memories. Then a page's owner says whether the offset is added, and all goes by one egress: order is that of one path.
        There is no port of Host B, no aperture, no switchover and no fence.
    in_row : a second interposer stands in the link to Host B, an :class:`AddressAdjuster`, and ``host_b`` and its configuration are those of its far
        link. The two are one for order: this one is the ordering point, and that one a part of the path.
    ecrc : whose the digests of TLPs are. ``outside``: the ports' own logic checks and makes them, and TD is 0 here. ``strip``: a TLP that comes with
        a digest loses it, unchecked, and leaves with TD = 0, a cycle later. ``recompute``: it is checked (:class:`DigestCheck`), and one of what
        leaves is made (:class:`DigestMake`), which is wrong if the first one was; 4 cycles more for a TLP without a digest.
    log_tables : format of the page tables that the dirty log can mark instead of bitmaps: ``none``, ``riscv`` or ``vtd``.
    sizes : depths of lanes and tables, by default :meth:`Sizes.for_width`.

    Members
    -------
    device, host_a, host_b : the three links.
    config_device, config_host_a, config_host_b : what each link knows of itself. With one host there is neither ``host_b`` nor its configuration.
    adjust : with ``in_row``, the addresses at Host B to which the second interposer adds, and what.
    commit, commit_page, commit_host : the page of the window whose owner changes in this cycle, and to whom.
    holding : a bit a slot, its page is held.
    """
    def __init__(self, data_bytes=64, window_pages=262_144, *, max_payload=256, chunk_bytes=128, slots=1, hosts=2, in_row=False,
                 ecrc="outside", log_tables="none", sizes=None):
        check_data_bytes(data_bytes)
        if window_pages not in [1 << n for n in range(6, 19)]:
            raise ValueError(f"Window must have a power of two of 64 to 262144 pages, not {window_pages!r}")
        if max_payload not in (128, 256, 512):
            raise ValueError(f"Largest payload must be 128, 256 or 512 bytes, not {max_payload!r}")
        if chunk_bytes not in (64, 128, 256) or chunk_bytes > max_payload:
            raise ValueError(f"Copy chunk must be 64, 128 or 256 bytes and at most the largest payload of {max_payload}, not {chunk_bytes!r}")
        if slots not in (1, 2, 4, 8):
            raise ValueError(f"Slots for moves must be 1, 2, 4 or 8, not {slots!r}")
        if CopyTag.bits(PAGE_BYTES // chunk_bytes, slots) > WIDE_BITS:
            raise ValueError(f"Copy chunk must be larger with {slots} slots, for there are no tags for so many reads, not {chunk_bytes} bytes")
        if hosts not in (1, 2):
            raise ValueError(f"Hosts must be 1 or 2, not {hosts!r}")
        if in_row and hosts == 1:
            raise ValueError("A second interposer in a row stands in the link to Host B, so hosts must be 2, not 1")
        if ecrc not in ECRC:
            raise ValueError(f"ECRC must be one of {', '.join(ECRC)}, not {ecrc!r}")
        if log_tables not in LOG_TABLES:
            raise ValueError(f"Page tables of the dirty log must be one of {', '.join(LOG_TABLES)}, not {log_tables!r}")
        self.data_bytes, self.window_pages, self.max_payload, self.chunk_bytes = data_bytes, window_pages, max_payload, chunk_bytes
        self.slots, self.hosts, self.in_row, self.ecrc, self.log_tables = slots, hosts, in_row, ecrc, log_tables
        self.sizes = Sizes.for_width(data_bytes, hosts) if sizes is None else sizes
        super().__init__({
            **{port: Out(TlpPort(data_bytes)) for port in PORTS[:1 + hosts]}, **{f"config_{port}": In(PortConfig) for port in PORTS[:1 + hosts]},
            **({"adjust": In(Aperture)} if in_row else {}),
            "commit": Out(1), "commit_page": Out(32), "commit_host": Out(1), "holding": Out(slots),
        })

    def _of(self, host, ports):
        """Those of two ports, one for each owner that a page can have, which are this host's."""
        return [ports[host]] if self.hosts == 2 else list(ports)

    def _named(self, host):
        """The host that a register names."""
        return host if self.hosts == 2 else Const(HOST_A, 1)

    def _lines(self, beats):
        """Lines of 64 bytes for which a lane of so many beats has room, after a TLP that is still leaving (D7)."""
        return (beats - 2 * max(1, self.max_payload // self.data_bytes)) // max(1, LINE_BYTES // self.data_bytes)

    def elaborate(self, platform):
        m = Module()
        sizes, data_bytes = self.sizes, self.data_bytes
        replies = self._lines(sizes.device_ingress[1]) // 2   # half for the requests of each host
        m.submodules.device_ingress = device = DeviceIngress(
            data_bytes, self.window_pages, rows=sizes.rows, entries=sizes.entries, return_lines=self._lines(sizes.host_ingress[1]),
            depths=sizes.device_ingress, aside=sizes.aside, max_payload=self.max_payload, slots=self.slots, hosts=self.hosts)
        # The hosts, and answers to the device's requests that are refused.
        m.submodules.device_egress = egress = Egress(
            data_bytes, self.hosts + 1, sizes.device_egress, max_payload=self.max_payload, writers=(self.hosts, self.hosts + 1, self.hosts))
        m.submodules.register_side = control = Control(data_bytes, self.window_pages, self.slots, self.hosts)
        m.submodules.table = table = OutstandingTable(sizes.rows)
        m.submodules.check = check = MoveCheck(self.window_pages, self.slots)
        m.submodules.slide = slide = Slide(
            self.window_pages, len(device.posted_left), len(device.requests_left), len(device.aside_left), self.slots)
        movers = [_Mover(m, self, number, len(device.posted_left)) for number in range(self.slots)]
        m.submodules.queue = queue = MoveQueue(data_bytes, self.slots)
        switchovers = [Switchover() for _ in range(self.hosts - 1)]
        for switchover in switchovers:
            m.submodules.switchover = switchover
        m.submodules.log = log = DirtyLog(data_bytes, LOG_TABLES[self.log_tables])
        m.submodules.notifier = notifier = Notifier(data_bytes)
        m.submodules.owners = owners = OwnerMap(self.window_pages, lookups=3, users=self.slots + 2)
        m.submodules.dirty = dirty = DirtyMap(self.window_pages)
        hosts = [_Host(m, self, host, replies) for host in range(self.hosts)]
        self._ports(m, device, egress, control, hosts)
        self._upstream(m, device, table, owners, hosts)
        self._downstream(m, device, egress, table, hosts)
        self._flushes(m, device, movers, dirty, slide, log, switchovers, control, hosts)
        self._moves(m, device, table, check, movers, owners, dirty, slide, log, control)
        self._slide(m, device, check, movers, owners, dirty, slide, control)
        self._refused(m, device, egress)
        if self.hosts == 2:
            self._between_hosts(m, control, hosts)
        for switchover in switchovers:
            self._switchover(m, device, table, switchover, control, hosts)
        self._notify(m, movers, queue, switchovers, notifier, control)
        for mover in movers:
            self._mover(m, mover, device, queue, control, hosts)
        self._queue(m, queue, movers, control, hosts)
        self._log(m, log, device, control, hosts)
        self._own(m, notifier, control, hosts)
        self._registers(m, device, table, owners, dirty, control, hosts)
        return m

    def _ports(self, m, device, egress, control, hosts):
        """The links, and what happens when nobody is at their other end."""
        ends = [(device, egress), *((host.ingress, host.egress) for host in hosts)]
        self._checks = []
        for number, (name, (ingress, way_out)) in enumerate(zip(PORTS, ends, strict=False)):
            rx, rx_limits, tx, tx_limits = self._link(m, name)
            config = getattr(self, f"config_{name}")
            m.submodules[f"refusals_{number}"] = refusals = Refusals()
            for source, sink in ((rx, ingress.rx), (way_out.tx, tx), (way_out.refused, refusals.i), (refusals.o, ingress.answer)):
                connect_streams(m, source, sink)
            m.d.comb += [
                rx_limits.eq(ingress.rx_limits), way_out.limits.eq(tx_limits),
                way_out.watch.eq(control.watch[number]), control.port_state[number].eq(way_out.state),
                way_out.payload_limit.eq(control.payload_limit[number]), way_out.strip_hints.eq(control.strip_hints[number]),
                way_out.refused_room.eq(refusals.room), refusals.completer_id.eq(config.requester_id),
            ]
        outs = [way_out for _, way_out in ends]
        m.d.comb += control.wrong_digests.eq(sum((check.wrong for check in self._checks), Const(0, 1)))
        m.d.comb += [getattr(control, f"discarded_{name}").eq(sum(out.discarded[kind.value] for out in outs)) for kind, name in DISCARDED.items()]

    def _link(self, m, name):
        """What comes from the partner of a port, what limits that, what goes there, and what limits this."""
        port, (rx, tx) = getattr(self, name), self._digests(m, name)
        if not (self.in_row and name == "host_b"):
            return rx, port.rx_limits, tx, port.tx_limits
        m.submodules.second = second = AddressAdjuster(self.data_bytes)
        near, far = second.near, second.far
        connect_streams(m, rx, far.rx)
        connect_streams(m, far.tx, tx)
        m.d.comb += [port.rx_limits.eq(far.rx_limits), far.tx_limits.eq(port.tx_limits), second.up.eq(self.adjust)]
        return near.tx, near.tx_limits, near.rx, near.rx_limits

    def _digests(self, m, name):
        """The streams of a port behind what does with digests as ``ecrc`` says. They take no credits (2.6.1)."""
        port = getattr(self, name)
        if self.ecrc == "outside":
            return port.rx, port.tx
        m.submodules[f"digest_check_{name}"] = check = DigestCheck(self.data_bytes, self.max_payload, renews=self.ecrc == "recompute")
        self._checks.append(check)
        connect_streams(m, port.rx, check.i)
        if self.ecrc == "strip":
            return check.o, port.tx
        m.submodules[f"digest_make_{name}"] = make = DigestMake(self.data_bytes)
        connect_streams(m, make.o, port.tx)
        return check.o, make.i

    def _upstream(self, m, device, table, owners, hosts):
        """Device to hosts: page owners, outstanding requests, room for their completions."""
        for port in range(len(owners.bit)):
            m.d.comb += [
                owners.index[port].eq(device.owner_index[port]), owners.enable[port].eq(device.owner_enable[port]),
                device.owner_bit[port].eq(owners.bit[port]),
            ]
        m.d.comb += [
            table.lookup_row.eq(device.row), table.lookup_enable.eq(device.row_enable), device.occupied.eq(table.occupied),
            table.give_up.eq(device.give_up), table.allocate.eq(device.allocate), table.allocate_row.eq(device.allocate_row),
            table.allocate_entry.eq(device.allocate_entry),
        ]
        for owner, place in enumerate(_places(hosts)):
            m.d.comb += [device.room[owner].eq(place.egress.room), device.return_room[owner].eq(place.room.amount_left)]
        for number, host in enumerate(hosts):
            connect_streams(m, device.o[number], host.egress.i[_Host.FROM_DEVICE])
            m.d.comb += [
                host.room.reserve.eq(reduce(or_, self._of(number, device.reserve))), host.room.reserve_amount.eq(device.reserve_lines),
                host.room.release[0].eq(table.ended[number]), host.room.release_amount[0].eq(table.ended_lines[number]),
            ]

    def _downstream(self, m, device, egress, table, hosts):
        """Hosts to device: requests under tags of ours, completions by the outstanding table."""
        for number, host in enumerate(hosts):
            ingress, proxy = host.ingress, host.proxy
            connect_streams(m, ingress.o[Destination.DEVICE], egress.i[number])
            m.d.comb += [
                ingress.room_device.eq(egress.room), ingress.device_id.eq(self.config_device.requester_id),
                table.completion_row[number].eq(ingress.row), table.completion_enable[number].eq(ingress.enable),
                ingress.entry.eq(table.completion_entry[number]), ingress.used.eq(table.completion_valid[number]),
                table.free[number].eq(ingress.free), table.free_row[number].eq(ingress.free_row), table.free_entry[number].eq(ingress.free_entry),
                ingress.tag_index.eq(proxy.index), ingress.tag_valid.eq(proxy.index_valid),
                proxy.allocate.eq(ingress.tag_allocate), proxy.allocate_entry.eq(ingress.tag_entry),
                proxy.lookup_index[0].eq(device.reply_index), proxy.lookup_enable[0].eq(device.reply_enable),
                device.reply_entry[number].eq(proxy.entry[0]), device.reply_used[number].eq(proxy.valid[0]),
                proxy.free[0].eq(device.reply_free[number]), proxy.free_index[0].eq(device.reply_free_index),
                ingress.device_room.eq(host.reply_room.amount_left),
                host.reply_room.reserve.eq(ingress.reserve_device), host.reply_room.reserve_amount.eq(ingress.reserve_lines),
                host.reply_room.release[0].eq(device.reply_free[number]), host.reply_room.release_amount[0].eq(device.reply_lines),
                host.reply_room.release[1].eq(proxy.timed_out & proxy.timed_out_entry.to_device),
                host.reply_room.release_amount[1].eq(proxy.timed_out_entry.lines),
            ]

    def _between_hosts(self, m, control, hosts):
        """Apertures: requests of one host to the other, and their completions; what answers the device waits for the other host's flush (H64)."""
        apertures = (control.settings.aperture_a, control.settings.aperture_b)
        for number, (host, other) in enumerate(zip(hosts, reversed(hosts), strict=True)):
            ingress, proxy = host.ingress, host.proxy
            connect_streams(m, ingress.o[Destination.OTHER], other.egress.i[_Host.FROM_OTHER])
            m.d.comb += [
                ingress.aperture.eq(apertures[number]), ingress.flushed.eq(other.tracker.done), ingress.flush_newest.eq(other.tracker.newest),
                ingress.room_other.eq(other.egress.room), ingress.other_id.eq(other.config.requester_id),
                proxy.lookup_index[1].eq(other.ingress.reply_index), proxy.lookup_enable[1].eq(other.ingress.reply_enable),
                other.ingress.reply_entry.eq(proxy.entry[1]), other.ingress.reply_used.eq(proxy.valid[1]),
                proxy.free[1].eq(other.ingress.reply_free), proxy.free_index[1].eq(other.ingress.reply_free_index),
                ingress.other_room.eq(other.other_room.amount_left),
                other.other_room.reserve.eq(ingress.reserve_other), other.other_room.reserve_amount.eq(ingress.reserve_lines),
                other.other_room.release[0].eq(other.ingress.reply_free), other.other_room.release_amount[0].eq(other.ingress.reply_lines),
                other.other_room.release[1].eq(proxy.timed_out & ~proxy.timed_out_entry.to_device),
                other.other_room.release_amount[1].eq(proxy.timed_out_entry.lines),
            ]

    def _flushes(self, m, device, movers, dirty, slide, log, switchovers, control, hosts):
        """Trackers of the hosts, and who asks for flushes: with one path nothing of the device waits for the proof of another."""
        told = [log, *switchovers, *(mover.slot for mover in movers)]   # when a flush fails
        waits = [dirty, *told]
        users = [*waits, *([device] if self.hosts == 2 else [])]
        for number, host in enumerate(hosts):
            tracker, view = host.tracker, Signal(FlushView, name=f"flush_view_{'ab'[number]}")
            connect_streams(m, tracker.o, host.local.flush)
            connect_streams(m, host.ingress.flush, tracker.completion)
            m.d.comb += [
                *(view[name].eq(getattr(tracker, name)) for name in ("issued", "done", "newest", "dirty", "clean", "lost")),
                tracker.posted.eq(host.egress.posted), tracker.address.eq(host.egress.posted_address),
                tracker.requester_id.eq(host.config.requester_id), tracker.limit.eq(control.completion_limit),
                tracker.insist.eq(Cat(*(self._of(number, user.flush_request) for user in waits),
                                      slide.flush_request if number == HOST_A else 0).any()),
                tracker.request.eq(tracker.insist | (Cat(self._of(number, device.flush_request)).any() if self.hosts == 2 else 0)),
                *([slide.flush.eq(view)] if number == HOST_A else []),
                *(flush.eq(view) for user in users for flush in self._of(number, user.flush)),
                *(lost.eq(tracker.timed_out | tracker.failed) for user in told for lost in self._of(number, user.flush_lost)),
            ]

    def _moves(self, m, device, table, check, movers, owners, dirty, slide, log, control):
        """What the slots share: the check of requests, the owner map, epochs."""
        epochs, slots = Signal(EpochView), [mover.slot for mover in movers]
        committed = Cat(slot.committed for slot in slots)
        for number, slot in enumerate(slots):
            connect_streams(m, slot.owner_op, owners.op[number])
            m.d.comb += [
                check.request[number].eq(slot.checked), check.asks[number].eq(slot.checks), check.busy[number].eq(slot.moving),
                check.page[number].eq(slot.guard.page), check.mask[number].eq(slot.guard.mask),
                slot.answer.eq(check.answer[number]), slot.verdict.eq(check.verdict),
                device.guard[number].eq(slot.guard), slot.epochs.eq(epochs),
            ]
        connect_streams(m, check.owner_op, owners.op[self.slots])
        m.d.comb += [
            check.settings.eq(control.settings), check.opaque.eq(control.opaque),
            check.owner.eq(owners.answer), check.owner_valid.eq(owners.answer_valid),
            *(epochs[name].eq(getattr(table, name)) for name in ("advance_ready", "epoch", "unanswered", "atomics")),
            dirty.epochs.eq(epochs), slide.epochs.eq(epochs), log.epochs.eq(epochs),
            table.advance.eq(dirty.advance | slide.advance | log.advance | Cat(slot.advance for slot in slots).any()),
            device.pause.eq(dirty.pause | Cat(mover.copy.pause for mover in movers).any()),
            # The owner map takes one commit a cycle.
            self.commit.eq(committed.any()), self.commit_page.eq(select_one(committed, [slot.number for slot in slots])),
            self.commit_host.eq(select_one(committed, [slot.guard.to_host for slot in slots])),
            self.holding.eq(Cat(slot.guard.closed for slot in slots)),
        ]

    def _slide(self, m, device, check, movers, owners, dirty, slide, control):
        """The range that the maps cover."""
        connect_streams(m, slide.owner_op, owners.op[-1])
        connect_streams(m, slide.drop, dirty.drop)
        m.d.comb += [
            slide.start.eq(control.slide), slide.target.eq(control.slide_target), slide.pages.eq(control.window_count),
            slide.settings.eq(control.settings), control.slide_status.eq(slide.status),
            check.low.eq(slide.status.low), check.movable.eq(slide.movable), check.pause.eq(slide.check_pause), slide.check_idle.eq(check.idle),
            slide.busy.eq(Cat(mover.slot.moving for mover in movers)),
            *(page.eq(mover.slot.guard.page) for page, mover in zip(slide.page, movers, strict=True)),
            slide.owner.eq(owners.answer), slide.owner_valid.eq(owners.answer_valid), slide.decoded.eq(device.rx.ready),
            *(getattr(slide, f"{kind}_{count}").eq(getattr(device, f"{kind}_{count}"))
              for kind, counts in (("posted", ("accepted", "left")), ("requests", ("accepted", "left")), ("aside", ("entered", "left")),
                                   ("issue", ("entered", "accepted")))
              for count in counts),
        ]

    def _refused(self, m, device, egress):
        """Answer what the device's ingress refuses."""
        m.submodules.refusals = refusals = Refusals()
        connect_streams(m, device.refused, refusals.i)
        answer, room = egress.i[self.hosts], egress.room[EgressLane.COMPLETION]
        m.d.comb += [
            refusals.completer_id.eq(self.config_device.requester_id),
            answer.valid.eq(refusals.o.valid & room), refusals.o.ready.eq(answer.ready & room),
            *answer_beat(answer.payload.beat, refusals.o.payload), answer.payload.lane.eq(EgressLane.COMPLETION),
        ]

    def _switchover(self, m, device, table, switchover, control, hosts):
        m.d.comb += [
            switchover.start.eq(control.switches), switchover.to_host.eq(control.switch_to), switchover.unblock.eq(control.unblock),
            switchover.limit.eq(control.hold_limit), switchover.written.eq(control.written), switchover.chosen.eq(control.chosen),
            switchover.opaque.eq(control.stays), control.switchover.eq(switchover.status),
            switchover.issue_entered.eq(device.issue_entered), switchover.issue_accepted.eq(device.issue_accepted),
            device.holds.eq(switchover.holds),
        ]
        for number, host in enumerate(hosts):
            m.d.sync += [
                switchover.unanswered[number].eq(table.count[number] != 0),
                switchover.asked[number].eq(host.reply_room.amount_left != host.reply_room.capacity),
            ]

    def _notify(self, m, movers, queue, switchovers, notifier, control):
        """Count what has ended, and tell of it: of a move of the queue when its record is on its way."""
        slots = [mover.slot for mover in movers]
        ended, retired = Cat(slot.ended for slot in slots), Cat(slot.status.phase == MovePhase.RETIRE for slot in slots)
        m.d.comb += [
            control.moves_done.eq(sum(ended & retired)), control.moves_failed.eq(sum(ended & ~retired)),
            notifier.event.eq((ended & ~queue.running).any() | queue.recorded | Cat(one.ended for one in switchovers).any()),
            notifier.enable.eq(control.notify_enable), notifier.host.eq(self._named(control.notify_host)),
            notifier.address.eq(control.notify_address), notifier.value.eq(control.notify_data),
        ]

    def _queue(self, m, queue, movers, control, hosts):
        """The move queue: its ring is in the memory of one of the hosts."""
        at, slots = self._named(control.queue.host), [mover.slot for mover in movers]
        m.d.comb += [
            queue.settings.eq(control.queue), queue.settings.host.eq(at),
            control.queue_state.eq(queue.state), queue.limit.eq(control.completion_limit),
            queue.ended.eq(Cat(slot.ended for slot in slots)), queue.started.eq(control.start),
            *(queue.status[number].eq(slot.status) for number, slot in enumerate(slots)),
        ]
        self._in_memory(m, queue, at, hosts, descriptor=queue.o_read, record=queue.o_record)

    def _log(self, m, log, device, control, hosts):
        """The dirty log: its bitmaps or tables are in the memory of one of the hosts."""
        at = self._named(control.log.host)
        m.d.comb += [
            log.settings.eq(control.log), log.settings.host.eq(at), log.sync.eq(control.sync_log), log.changed.eq(control.log_changed),
            control.log_status.eq(log.status),
            log.opaque.eq(control.opaque), log.down.eq(_chosen(at, hosts, lambda host: host.egress.state.down)),
            log.writes.eq(device.writes), log.written.eq(device.written), device.pause_changes.eq(log.pause),
            log.limit.eq(control.completion_limit), log.entered.eq(device.issue_entered), log.accepted.eq(device.issue_accepted),
            log.local_entered.eq(_chosen(at, hosts, lambda host: host.local.entered)),
            log.local_accepted.eq(_chosen(at, hosts, lambda host: host.local.accepted)),
        ]
        self._in_memory(m, log, at, hosts, log_request=log.o_request, log_write=log.o_write)

    def _in_memory(self, m, part, at, hosts, **streams):
        """A part with memory of its own at the host ``at``: what it sends, by the name of the local source's stream, and what answers that."""
        completion = part.completion
        m.d.comb += [
            part.requester_id.eq(_id_of(at, hosts)), completion.valid.eq(_chosen(at, hosts, lambda host: host.ingress.flush.valid)),
            completion.payload.eq(_chosen(at, hosts, lambda host: host.ingress.flush.payload)),
        ]
        for name, source in streams.items():
            m.d.comb += source.ready.eq(_chosen(at, hosts, lambda host, name=name: getattr(host.local, name).ready))
            for number, host in enumerate(hosts):
                sink = getattr(host.local, name)
                m.d.comb += [sink.valid.eq(source.valid & (at == number)), sink.payload.eq(source.payload)]

    def _mover(self, m, mover, device, queue, control, hosts):
        """A slot, its copy engine, and the hosts between which it moves its page."""
        slot, copy, number = mover.slot, mover.copy, mover.number
        # The copy, or what proves it, would be discarded: no page moves from or to a host that is down.
        down = Cat(host.egress.state.down for host in hosts).any()
        connect_streams(m, device.absorb[number], copy.absorb)
        m.d.comb += [
            slot.start.eq(control.start[number] | queue.start[number]), slot.abort.eq(control.abort[number] | down),
            slot.changed.eq(device.changed[number]), slot.changed_unit.eq(device.changed_unit),
            slot.copied.eq(control.copied[number]), slot.request.eq(Mux(queue.start[number], queue.request, control.request)),
            slot.hold_limit.eq(control.hold_limit), slot.opaque.eq(control.opaque),
            slot.room.eq(Cat(place.egress.room[EgressLane.POSTED] for place in _places(hosts))), control.status[number].eq(slot.status),
            slot.issue_entered.eq(device.issue_entered), slot.issue_accepted.eq(device.issue_accepted),
            slot.posted_accepted.eq(device.posted_accepted), slot.posted_left.eq(device.posted_left),
            copy.start.eq(slot.copy_start), copy.stop.eq(slot.copy_stop), copy.over.eq(slot.copy_over), copy.limit.eq(control.completion_limit),
            copy.prepare.eq(slot.copy_prepare), copy.prepare_set.eq(slot.copy_set), copy.absorbing.eq(slot.absorbing),
            copy.atomic.eq(device.atomic[number]), copy.atomic_offset.eq(device.atomic_offset),
            slot.copy_prepared.eq(copy.prepared), slot.copy_absorbed.eq(copy.absorbed), slot.copy_stale.eq(copy.stale),
            slot.copy_fetched.eq(copy.fetched), slot.copy_written.eq(copy.written), slot.copy_outstanding.eq(copy.outstanding),
            slot.copy_error.eq(copy.error), slot.copy_owed.eq(copy.owed),
            copy.source_address.eq(slot.copy_source), copy.destination_address.eq(slot.copy_destination),
            copy.source_id.eq(_id_of(slot.from_host, hosts)), copy.destination_id.eq(_id_of(slot.to_host, hosts)),
        ]
        for side, place in enumerate(_places(hosts)):
            m.d.comb += [
                slot.local_entered[side].eq(place.local.entered), slot.local_accepted[side].eq(place.local.accepted),
                slot.cross_write[side].eq(place.ingress.cross_write), slot.cross_address[side].eq(place.ingress.cross_address),
            ]
        for side, host in enumerate(hosts):
            reads, writes = [(ours == side) | Const(self.hosts == 1, 1) for ours in (slot.from_host, slot.to_host)]
            read, write = host.local.copy_read[number], host.local.copy_write[number]
            m.d.comb += [
                read.valid.eq(copy.o_read.valid & reads), read.payload.eq(copy.o_read.payload),
                write.valid.eq(copy.o_write.valid & writes), write.payload.eq(copy.o_write.payload),
            ]
            with m.If(reads):
                m.d.comb += [
                    copy.o_read.ready.eq(read.ready),
                    copy.completion.valid.eq(host.ingress.copy.valid), copy.completion.payload.eq(host.ingress.copy.payload),
                ]
            with m.If(writes):
                m.d.comb += copy.o_write.ready.eq(write.ready)

    def _own(self, m, notifier, control, hosts):
        """What else the interposer itself sends to each host."""
        for number, host in enumerate(hosts):
            local = host.local
            connect_streams(m, notifier.o[number], local.notification)
            connect_streams(m, control.answer[number], local.answer)
            connect_streams(m, local.o, host.egress.i[_Host.FROM_LOCAL])
            m.d.comb += [notifier.config[number].eq(host.config), local.room.eq(host.egress.room), host.ingress.copy.ready.eq(1)]

    def _registers(self, m, device, table, owners, dirty, control, hosts):
        wiring.connect(m, control.owner, owners.read)
        wiring.connect(m, control.dirty_take, dirty.take)
        wiring.connect(m, control.dirty_peek, dirty.peek)
        m.d.comb += [
            dirty.mark.eq(device.dirty), dirty.page.eq(device.dirty_page),
            dirty.entered.eq(device.issue_entered), dirty.accepted.eq(device.issue_accepted),
            device.settings.eq(control.settings), device.limit.eq(control.completion_limit << 4),
            control.passed.eq(device.opaque),
            control.fences.eq(device.fence_started), control.fence_cycles.eq(device.fence_waits),
            control.outstanding_timeouts.eq(table.given_up),
            control.completion_waits.eq(sum(host.ingress.waits for host in hosts)),
            control.unexpected.eq(device.unexpected + sum(host.ingress.unexpected for host in hosts)),
            control.unsupported.eq(sum(host.ingress.unsupported for host in hosts) + sum(device.blocked)),
            *(count.eq(host.tracker.sent) for count, host in zip((control.flushes_a, control.flushes_b), hosts, strict=False)),
            control.flush_timeouts.eq(sum(host.tracker.timed_out for host in hosts)),
        ]
        if self.hosts == 1:
            m.d.comb += device.settings.fence.eq(0)   # all is one path
        for number, host in enumerate(hosts):
            connect_streams(m, host.ingress.o[Destination.LOCAL], control.i[number])
            m.d.comb += [
                control.config[number].eq(host.config), host.ingress.config.eq(host.config),
                host.ingress.read_ready.eq(control.read_ready[number]),
                host.ingress.active.eq(control.settings.active_host == number), host.proxy.limit.eq(control.completion_limit << 4),
                control.outstanding[number].eq(table.count[number]),
            ]


def _places(hosts):
    """The host of each owner that a page can have: with one host it is the same for both."""
    return hosts[HOST_A], hosts[-1]


def _chosen(host, hosts, what):
    """``what`` of the host that a signal chooses."""
    return Mux(host, what(hosts[-1]), what(hosts[HOST_A]))


def _id_of(host, hosts):
    """Our requester ID at a host that a signal chooses."""
    return _chosen(host, hosts, lambda one: one.config.requester_id)


class _Mover:
    """A page slot and its copy engine."""

    def __init__(self, m, top, number, stamp_bits):
        self.number = number
        self.slot = PageSlot(top.window_pages, stamp_bits)
        self.copy = CopyEngine(top.data_bytes, top.chunk_bytes, number, top.slots)
        m.submodules[f"slot_{number}"] = self.slot
        m.submodules[f"copy_{number}"] = self.copy


class _Host:
    """The parts that each host has one of."""

    #: Sources of its egress.
    FROM_DEVICE, FROM_OTHER, FROM_LOCAL = range(3)

    #: How many of these use each lane: we post, answer and read ourselves, the last in a lane of its own.
    WRITERS = (3, 3, 2, 1)

    def __init__(self, m, top, host, reply_lines):
        sizes, data_bytes, name = top.sizes, top.data_bytes, "ab"[host]
        to_device, to_other = top._lines(sizes.host_ingress[1]), top._lines(sizes.host_ingress[2])
        self.config = getattr(top, f"config_host_{name}")
        self.ingress = HostIngress(
            data_bytes, host, rows=sizes.rows, entries=sizes.entries, depths=sizes.host_ingress,
            device_lines=reply_lines, other_lines=to_other, max_payload=top.max_payload,
            wide_copy_tags=CopyTag.bits(PAGE_BYTES // top.chunk_bytes, top.slots) > NARROW_BITS)
        self.egress = Egress(data_bytes, 3, sizes.host_egress, max_payload=top.max_payload, clear_ido=True, writers=self.WRITERS)
        self.local = LocalSource(data_bytes, LOCAL_LANES, top.slots)
        self.tracker = FlushTracker(host, data_bytes=data_bytes)
        self.proxy = ProxyTable(sizes.entries)
        self.room = Room(to_device, 1)         # in this host's ingress, for answers to the device
        self.other_room = Room(to_other)       # in this host's ingress, for answers to the other host
        self.reply_room = Room(reply_lines)    # in the device's ingress, for answers to this host
        for kind in ("ingress", "egress", "local", "tracker", "proxy", "room", "other_room", "reply_room"):
            m.submodules[f"host_{name}_{kind}"] = getattr(self, kind)
