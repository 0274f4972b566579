"""Tells the observer of every posted TLP of the device's functions on the links of the interposer, in and out."""

from collections.abc import Callable, Container

from pagehop_tb.pins import Fabric, TlpPortAgent
from pagehop_tb.protocol import FlowClass, Tlp

from .observer import Observer

__all__ = ["watch_link"]


def watch_link(port: TlpPortAgent, number: int, fabric: Fabric, observer: Observer, functions: Container[int]) -> None:
    """Report posted TLPs of ``port`` (0: the device's, 1 and 2: the hosts') before whoever serves the port learns of them.

    Upstream only those of the device's ``functions``: what a host sends through the aperture comes in at one host and out at the other.
    """

    def told(further: Callable[[Tlp], None] | None, upstream: bool) -> Callable[[Tlp], None]:
        def tell(tlp: Tlp) -> None:
            if tlp.flow is FlowClass.POSTED and (not upstream or tlp.requester_id in functions):
                observer.link(fabric.cycle, number, upstream, tlp.kind.name, tlp.address, tlp.data, tlp.requester_id, tlp.traffic_class,
                              tlp.relaxed_ordering, tlp.id_ordering, tlp.no_snoop, tlp.poisoned)
            if further is not None:
                further(tlp)
        return tell

    port.on_sent = told(port.on_sent, number == 0)
    port.on_tlp = told(port.on_tlp, number != 0)
