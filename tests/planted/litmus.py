"""Bugs that litmus cases must show: the outcome that a rule forbids is seen as soon as the rule is left out."""

from typing import Any

from amaranth.hdl import Const, Value
from tests.planted.bug import HARDWARE, Bug, with_egress, with_parts
from tests.planted.hosts import id_ordering_kept
from tests.planted.ingress import answer_before_the_other_flush

from pagehop.interposer import top
from pagehop.interposer.completion_lane import CompletionLane
from pagehop.interposer.device_ingress import DeviceIngress
from pagehop.interposer.earlier import Earlier
from pagehop.interposer.host_ingress import HostIngress
from pagehop.interposer.host_requests import HostRequests
from pagehop_sim.planted import edited

__all__ = ["LITMUS", "SHOWN", "SLOW"]

#: Hosts that take their time, so that what may pass does.
SLOW = {"write_delay": [0, 300], "read_delay": [0, 300], "hold_limit": 200_000, "completion_limit": 100_000}


def early(*_: object) -> Value:
    """Nothing has to go before."""
    return Const(1)


def early_at_the_ingress() -> Any:
    """Requests and completions leave every ingress before earlier posted writes."""
    host = edited(HostIngress, may_go=early, CompletionLane=edited(CompletionLane, may_go=early), HostRequests=edited(HostRequests, may_go=early))
    device = edited(DeviceIngress, Earlier=edited(Earlier, may_go=early))
    return with_parts(DeviceIngress=device, _Host=edited(top._Host, HostIngress=host))


def early_at_the_egress() -> Any:
    """Requests and completions leave every egress before posted writes that were accepted earlier. Copy and flush reads do not."""
    return with_egress(("(1, 1) if lane == POSTED else", "(1, 1) if lane != EgressLane.ENGINE else"))


FAR_FLAG, FAR_DATA, ANY = ("XY=AB a", "XY=BA b"), ("XY=BA a", "XY=AB b"), ("X=A a", "X=A b", "X=B a", "X=B b")

#: By the name of the design, what must show it: each case in one of these variants.
SHOWN: dict[str, dict[str, tuple[str, ...]]] = {
    "early_at_the_ingress": {
        "atomic_flag": ("XY=AA a", "XY=BB b", *FAR_FLAG, *FAR_DATA), "status": ANY, "peer_told": ("X=A -", "X=B -")},
    "early_at_the_egress": {"flag": FAR_FLAG + FAR_DATA, "doorbell": ("X=B a", "X=A b"), "status": ANY},
    "id_ordering_kept": {"doorbell_ido": ("X=B a", "X=A b"), "cpu_read_ido": FAR_DATA, "cpu_flag_device_ido": FAR_DATA},
    "answer_before_the_other_flush": {"flush": FAR_FLAG},
}


def _bug(design: Any, covers: tuple[str, ...], clogs: float, rounds: int) -> Bug:
    """``clogs``: how often egresses are full. Not all cases at once: egresses must fill more than once while rounds run."""
    parameters = SLOW | {"workers": 48, "clogs": clogs, "mood_cycles": 2000, "rounds": rounds, "judged_rounds": 0, "left_out": "hardware",
                         "cases": list(SHOWN[design.__name__])}
    return Bug(f"litmus_{design.__name__}", covers, design, "litmus", parameters, "", HARDWARE)


LITMUS = (
    _bug(early_at_the_ingress, ("O1", "H18", "H61"), 0.7, 20),
    _bug(early_at_the_egress, ("O3",), 0.7, 20),
    _bug(id_ordering_kept, ("H62",), 0.1, 24),
    _bug(answer_before_the_other_flush, ("H64",), 0.1, 24),
)
