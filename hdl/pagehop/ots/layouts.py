"""What travels between the parts of the on-the-side device, each declared once."""

from amaranth.lib import data, enum
from amaranth.utils import ceil_log2

from pagehop.tlp.ordering import POSTED
from pagehop.tlp.pages import PAGE_BITS, FarPage

__all__ = [
    "GENERATION_BITS", "LINES", "MOST_WINDOWS", "Access", "OtsInfo", "OtsLane", "Refusal", "WindowCommand", "WindowEntry", "WindowOp",
    "check_windows", "window_bits",
]

#: Lines of 64 bytes of a page.
LINES = 64

#: Bits of the generation of a window: the part of its address that changes when it is closed (H27).
GENERATION_BITS = 8

MOST_WINDOWS = 16


def check_windows(windows):
    """Raise unless there can be so many windows."""
    if windows not in range(1, MOST_WINDOWS + 1):
        raise ValueError(f"The on-the-side device must have 1 to {MOST_WINDOWS} windows, not {windows!r}")


def window_bits(windows):
    """Bits of the number of a window: at least one, so that there is a number."""
    return max(1, ceil_log2(windows))


class OtsLane(enum.IntEnum):
    """Lanes of the ingress. What goes to a window may have to wait there; nothing else waits for it, but completions for posted TLPs before them."""
    POSTED           = POSTED
    COMPLETION       = 1     # of requests that were forwarded
    LOCAL_POSTED     = 2     # to registers and leaf tables
    WINDOW_REQUEST   = 3
    REGISTER_REQUEST = 4
    LEAF_WALK        = 5     # of the IOMMU, to leaf tables
    LEAF_READ        = 6     # of software


class OtsInfo(data.StructLayout):
    """What is known of a TLP when it has been decoded. Of one to a window: which, in which ``generation``. Of a request to a window: whether it is an
    ``atomic``, the ``lines`` of its answer. Of a completion: its ``tag``, and whether it ends its request. ``leaf``: a posted TLP is for
    the leaf tables.
    """
    def __init__(self, windows):
        super().__init__({
            "window": window_bits(windows), "generation": GENERATION_BITS, "atomic": 1, "lines": 7, "tag": 10, "last_completion": 1, "leaf": 1,
        })


class WindowEntry(data.Struct):
    """What stands in the table of a window: the page that it leads to, the generation of its address, whether it is open at all, whether accesses
    wait, and whether reads leave without RO, and all without NS. Writes and atomics never have RO."""
    target:     FarPage
    generation: GENERATION_BITS
    open:       1
    held:       1
    plain:      1


class WindowOp(enum.Enum, shape=4):
    """What software orders of a window: those values of ``window_op`` (registers.rdl)."""
    NONE   = 0
    TAKE   = 1
    OPEN   = 2
    HOLD   = 3
    TRACK  = 4
    COMMIT = 5
    CLOSE  = 6
    COPY   = 7


class Refusal(enum.Enum, shape=4):
    """Why an order was not carried out: those values of ``window_refusal`` (registers.rdl)."""
    NONE    = 0
    BUSY    = 1
    STATE   = 2
    WRITTEN = 3
    UNKNOWN = 4
    COPY    = 5


class WindowCommand(data.StructLayout):
    """An order: of which window, and the page that it shall lead to (TAKE, COMMIT, COPY). ``known``: there is such a window.
    ``plain``: see :class:`WindowEntry` (TAKE)."""
    def __init__(self, windows):
        super().__init__({"window": window_bits(windows), "known": 1, "op": WindowOp, "plain": 1, "target": FarPage})


class Access(data.StructLayout):
    """A beat of a request that leaves through a window: what the monitor must know of it.

    ``first_dword`` is where in the page the payload begins; ``dwords`` of it are in this beat. The byte enables are those of the first and last
    double word of the request; an ``atomic`` has none.
    """
    def __init__(self, windows):
        super().__init__({
            "window": window_bits(windows), "writes": 1, "atomic": 1, "first": 1, "last": 1, "first_dword": PAGE_BITS - 2, "dwords": 6,
            "first_be": 4, "last_be": 4,
        })

