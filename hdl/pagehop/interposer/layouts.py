"""What travels between the parts of the interposer, each declared once."""

from amaranth.hdl import Cat
from amaranth.lib import data
from amaranth.utils import exact_log2

from pagehop.tlp import headers
from pagehop.tlp.egress import EgressLane
from pagehop.tlp.outstanding import EPOCHS
from pagehop.tlp.pages import PAGE_BITS, PAGE_NUMBER_BITS, FarPage

__all__ = [
    "HOST_A", "HOST_B", "LARGEST_BITS", "LOCAL_LANES", "PORTS", "Destination", "Settings", "Range", "PortConfig", "Guard", "Guarded", "EpochView",
    "Holds", "Aperture", "DeviceInfo", "HostInfo", "Opaque", "Requesters", "Source", "Standing", "Written", "GROUPS", "in_run", "run_bits",
]

HOST_A, HOST_B = 0, 1

#: Ports by number, as the top and the fields of registers name them.
PORTS = ("device", "host_a", "host_b")

#: Base-2 logarithm of the size of the largest page that moves as one: a run of pages, the units of the maps.
LARGEST_BITS = 21


#: What the interposer itself sends to a host, and by which lane.
LOCAL_LANES = {
    "flush": EgressLane.ENGINE, "copy_read": EgressLane.ENGINE, "copy_write": EgressLane.POSTED, "descriptor": EgressLane.ENGINE,
    "record": EgressLane.POSTED, "notification": EgressLane.POSTED, "answer": EgressLane.COMPLETION, "log_request": EgressLane.ENGINE,
    "log_write": EgressLane.POSTED,
}

#: Groups of requesters that software can declare independent of each other and of all others.
GROUPS = 4


class Destination:
    """Where a TLP of a host goes. Towards the hosts the destination is the host itself, 0 or 1."""
    DEVICE = 0
    OTHER  = 1
    LOCAL  = 2
    DROP   = 3


class Range(data.Struct):
    """Pages ``base`` to ``limit`` - 1 of an address space, as page numbers. Empty when ``limit`` is not above ``base``."""
    base:  52
    limit: 53

    def holds(self, address):
        """1 when the 64-bit byte ``address`` lies in the range."""
        return self.holds_page(address[PAGE_BITS:])

    def holds_page(self, page):
        """1 when the page of this number does."""
        return (page >= self.base) & (page < self.limit)


class Aperture(data.Struct):
    """A range of one host's addresses that leads to the other host, ``offset`` (bytes) being added."""
    range:  Range
    offset: 64


class Requesters(data.Struct):
    """A group of requesters: those whose ID is ``id`` in the bits of ``mask``, when it is ``enabled``."""
    id:      16
    mask:    16
    enabled: 1

    def has(self, requester_id):
        """1 when the requester of this ID belongs to the group."""
        return self.enabled & ~((requester_id ^ self.id) & self.mask).any()


class Source(data.Struct):
    """What tells whether a TLP may pass a posted one (table 2-40): its requester or, of a completion, its completer, its traffic class, its IDO,
    and the ``group`` of requesters that it belongs to, from 1 on; 0 is everybody else."""
    requester_id:  16
    traffic_class: 3
    id_ordering:   1
    group:         range(GROUPS + 1)

    def may_pass(self, other):
        """1 when this one may pass a posted TLP of the source ``other``: in another traffic class, with IDO of another requester, or in another
        group, which software said to be independent (H24d)."""
        return ((self.traffic_class != other.traffic_class) | (self.id_ordering & (self.requester_id != other.requester_id))
                | (self.group != other.group))

    def is_like(self, other):
        """1 when whatever may pass ``other`` may pass this one."""
        return (self.requester_id == other.requester_id) & (self.traffic_class == other.traffic_class) & (self.group == other.group)


class Standing(data.Struct):
    """Of whom posted TLPs are aside: ``sources``, as far as they are ``used``, and perhaps of ``everybody``."""
    sources:   data.ArrayLayout(Source, 4)
    used:      4
    everybody: 1


class Settings(data.Struct):
    """What the registers say, ready to compare with. ``mapped``: the part of the window that the maps cover (:class:`Slide`)."""
    window:        Range
    msi:           Range
    mmio:          Range
    host_b_offset: 64
    aperture_a:    Aperture
    aperture_b:    Aperture
    groups:        data.ArrayLayout(Requesters, GROUPS)
    active_host:   1
    blocks:        1    # translated requests of the device
    fence:         1
    track_dirty:   1
    mapped:        Range


class PortConfig(data.Struct):
    """What the link of a port knows of itself: our requester ID there and, at a host, where our registers stand."""
    requester_id:  16
    register_base: 64


def run_bits(window_pages):
    """Bits that tell apart the units of the largest page, when the maps cover so many units."""
    return min(LARGEST_BITS - PAGE_BITS, exact_log2(window_pages))


def in_run(number, page, mask):
    """1 when the page of this ``number`` is one of the run that begins with ``page``, whose pages differ in the low bits of ``mask`` only."""
    return (number | mask) == (page | mask)


class Guard(data.StructLayout):
    """What a page slot tells the gates.

    ``active``: the run of ``page`` (of the window) and ``mask`` (:func:`in_run`) is moving. ``closed``: nothing that touches it may
    pass, ``atomics_closed``: no atomic may. ``absorbs``: what changes it is told to the slot. ``strict``: what changes it passes nothing, so it
    loses RO. ``committed``: its owner is ``to_host``, whatever a look-up from before says.
    """
    def __init__(self, window_pages):
        super().__init__({
            "page": range(window_pages), "mask": run_bits(window_pages), "active": 1, "closed": 1, "atomics_closed": 1, "absorbs": 1, "strict": 1,
            "committed": 1, "to_host": 1,
        })


class Guarded(data.StructLayout):
    """What the guards of all slots say of a TLP to one page, see :class:`Guard`; at most one of them is of it (H49). ``absorbs`` has a bit a slot."""
    def __init__(self, slots):
        super().__init__({"closed": 1, "absorbs": slots, "strict": 1, "committed": 1, "to_host": 1})


class EpochView(data.Struct):
    """What others see of the epochs of the outstanding table; the fields are ports of :class:`OutstandingTable`."""
    advance_ready: 1
    epoch:         range(EPOCHS)
    unanswered:    EPOCHS
    atomics:       EPOCHS


class Holds(data.Struct):
    """Lanes of the device of which nothing begins to pass the gate: 1 takes effect in the next cycle but one."""
    posted:   1
    requests: 1


class Written(data.Struct):
    """What a write or atomic of the device to the window touches, as the device addresses it: ``dwords`` double words, 0 for 1024, from the double
    word ``first`` of ``page`` on. Of a compare-and-swap both operands count."""
    page:   PAGE_NUMBER_BITS
    first:  PAGE_BITS - 2
    dwords: 10

    @classmethod
    def by(cls, header):
        """By a request with this header."""
        fields, address = data.View(headers.RequestHeader(), header), headers.address_of(header)
        return data.View(cls, Cat(address[PAGE_BITS:], address[2:PAGE_BITS], fields.length))


class Opaque(data.Struct):
    """What the device sends under which no page may move: translated requests (AT = 10), TLPs with an IDE prefix, requests to the window in another
    traffic class than 0. The fields are those of the register ``opaque``."""
    translated: 1
    encrypted:  1
    classed:    1


class DeviceInfo(data.StructLayout):
    """What is known of a TLP of the device when it has been decoded.

    ``in_window``: it goes to the guest's memory. ``mapped``: to what the maps cover, and ``page`` is its entry there; else ``below`` says on which
    side: 1 where all pages are at Host B, 0 where all are at Host A.
    ``needs_proof``: it is ordered behind every earlier posted write, at whatever host (all but RO posted). ``far``: the page that it goes to at Host
    B. ``source``: what it may pass. ``translated``: a request by an address of the active host. Of a request: its ``row`` in the outstanding table,
    whether it is ``atomic``, the ``lines`` of its answer. Of a completion: its ``tag``, and whether it ends its request.
    """
    def __init__(self, window_pages, rows):
        super().__init__({
            "page": range(window_pages), "in_window": 1, "mapped": 1, "below": 1, "needs_proof": 1, "far": FarPage, "source": Source, "translated": 1,
            "row": range(rows), "atomic": 1, "lines": 7, "tag": 10, "last_completion": 1,
        })


class HostInfo(data.Struct):
    """What is known of a TLP of a host when it has been decoded.

    ``far``: the page that it goes to through the aperture. Of a request: the ``lines`` of its answer. Of a completion: whose request it
    answers, and whether it ends it.
    """
    destination:     2
    far:             FarPage
    lines:           7
    requester_id:    16
    tag:             10
    last_completion: 1
