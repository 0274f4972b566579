"""Bugs of what happens when nobody takes what goes to a port."""

from typing import Any

from tests.planted.bug import Bug, with_egress, with_parts

from pagehop.tlp.watchdog import Watchdog
from pagehop_sim.planted import edited

__all__ = ["PORTS"]


def watchdog_sleeps() -> Any:
    """The limit of a watchdog never expires."""
    return with_egress(Watchdog=edited(Watchdog, ("expires.eq(tick & ", "expires.eq(tick & ~planted_here & ")))


def discarded_requests_are_forgotten() -> Any:
    """A request to a port that is down is discarded without an answer."""
    return with_egress(("self.refused.valid.eq(Cat(", "self.refused.valid.eq(~planted_here & Cat("))


def discarded_tlps_spend_credits() -> Any:
    """What is discarded counts as sent, and the partner never grants it again."""
    return with_egress(("for lane in drawing).any() & ~discards)", "for lane in drawing).any() & (~discards | planted_here))"))


def port_stays_down() -> Any:
    """Software cannot bring a port up again."""
    return with_egress(Watchdog=edited(Watchdog, ("with m.If(self.watch.resume):", "with m.If(self.watch.resume & ~planted_here):")))


def pages_move_to_a_host_that_is_down() -> Any:
    """A move begins although its copy would be discarded."""
    return with_parts(("slot.abort.eq(control.abort[number] | down)", "slot.abort.eq(control.abort[number] | (down & ~planted_here))"))


#: A host silent once, by its limit.
ONCE = {"rounds": 1, "ways": ["limit"]}

PORTS = (
    Bug("watchdog_sleeps", ("H65", "D12"), watchdog_sleeps, "watchdog", ONCE, "is not down"),
    Bug("discarded_requests_are_forgotten", ("H65", "D12"), discarded_requests_are_forgotten, "watchdog", ONCE, "waits for the port"),
    Bug("discarded_tlps_spend_credits", ("H65", "D12"), discarded_tlps_spend_credits, "watchdog", ONCE, "although there are credits"),
    Bug("port_stays_down", ("H65", "D12"), port_stays_down, "watchdog", ONCE, "to be up, which has not come"),
    Bug("pages_move_to_a_host_that_is_down", ("H65",), pages_move_to_a_host_that_is_down, "watchdog", ONCE, "a move to a host that is down"),
)
