"""Episodes in which the receiver of a port grants no credits."""

from collections.abc import Iterable
from random import Random

from pagehop_tb.protocol import FlowClass

from .fabric import Fabric
from .port import TlpPortAgent

__all__ = ["Starvation"]


class Starvation:
    """Starves the classes ``flows`` of ``port`` at random, each by itself, from :meth:`start` to :meth:`stop`.

    Episodes last ``length`` cycles and stand ``pause`` cycles apart, each drawn between the two bounds. What the partner has been granted before
    it may still use, and a class with infinite credits is never starved. The number of episodes stands in ``episodes``.
    """

    def __init__(self, port: TlpPortAgent, fabric: Fabric, seed: int, pause: tuple[int, int] = (500, 5000), length: tuple[int, int] = (1, 800),
                 flows: Iterable[FlowClass] = tuple(FlowClass)) -> None:
        for name, (low, high) in (("Pause", pause), ("Length", length)):
            if not 1 <= low <= high:
                raise ValueError(f"{name} of starvation must be a range of at least 1 cycle, not {(low, high)}")
        self.port = port
        self.fabric = fabric
        self.random = Random(seed)
        self.pause = pause
        self.length = length
        self.flows = tuple(flows)
        self.episodes = 0
        self._running = False

    def start(self) -> None:
        """Begin with a pause of each class."""
        self._running = True
        for flow in self.flows:
            self._wait(flow)

    def stop(self) -> None:
        """End all episodes now; there are no more."""
        self._running = False
        self.port.feed(*self.flows)

    def _wait(self, flow: FlowClass) -> None:
        self.fabric.after(self.random.randint(*self.pause), lambda: self._starve(flow))

    def _starve(self, flow: FlowClass) -> None:
        if self._running:
            self.episodes += 1
            self.port.starve(flow)
            self.fabric.after(self.random.randint(*self.length), lambda: self._feed(flow))

    def _feed(self, flow: FlowClass) -> None:
        if self._running:
            self.port.feed(flow)
            self._wait(flow)
