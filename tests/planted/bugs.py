"""All planted bugs, and why some hazards and rules have none."""

from tests.planted.bug import Bug
from tests.planted.dirty_log import DIRTY_LOG
from tests.planted.hosts import HOSTS
from tests.planted.ingress import INGRESS
from tests.planted.large_pages import LARGE_PAGES
from tests.planted.limits_and_hints import LIMITS_AND_HINTS
from tests.planted.moves import MOVES
from tests.planted.ots import OTS
from tests.planted.ports import PORTS
from tests.planted.slides import SLIDES
from tests.planted.slots import SLOTS
from tests.planted.switchover import SWITCHOVER
from tests.planted.topologies import TOPOLOGIES

__all__ = ["BUGS", "OUT_OF_SCOPE", "Bug"]

BUGS: tuple[Bug, ...] = (
    *MOVES, *INGRESS, *HOSTS, *PORTS, *LIMITS_AND_HINTS, *SLOTS, *LARGE_PAGES, *SLIDES, *SWITCHOVER, *TOPOLOGIES, *DIRTY_LOG, *OTS)

#: Hazard or rule, and in one sentence why no hardware here has a bug of it.
OUT_OF_SCOPE = {
    "H05": "CPUs are stopped by the hypervisor, and a store to its own host's memory does not come by; one through the aperture does: H59.",
    "H15": "One host serves a whole access in every mode: while a page is copied its source has all that was written.",
    "H57": "Fencing a host that was left is a step of the hypervisor: the programmer's guide has it; the hardware's part, nothing on its way: H55.",
    "O4": "The interposer has ports of TLPs; the adapter to a hard block keeps it, and its own tests plant the bug: docs/shell.md.",
    "O5": "A rule for the hosts, not for the interposer; the litmus bench leaves it out on the hosts' side.",
    "O8": "A rule for the hypervisor: nothing in the interposer can see how a page is mapped.",
    "D11": "A rule for who programs the apertures: the interposer does not know where a host's addresses lead.",
    "D13": "A size, not a rule: a queue that is too small costs rate, which `make bench` measures against its limits.",
    "D15": "Nothing is merged on the way back: the source answers reads in merge mode too.",
}
