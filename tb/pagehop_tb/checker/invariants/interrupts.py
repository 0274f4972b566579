"""I11: every interrupt is delivered, where the guest's CPU is, and not twice."""

from typing import TYPE_CHECKING

from pagehop_tb.checker.space import host_name

if TYPE_CHECKING:
    from pagehop_tb.checker.replay import Replay

__all__ = ["Interrupts"]


class Interrupts:
    """*Duplicated*, *invented*: an interrupt that no device raised, or not again. *Misdirected*: delivered where the guest's CPU does not run.

    An interrupt that is not delivered is a write that is not performed (I3); one that comes before its data is out of order (I5), and so is what
    its CPU reads then (the graph). Where the guest's CPU runs is known when the log has ``vcpu`` events.
    """

    def __init__(self, replay: "Replay") -> None:
        self.replay = replay
        self._host: int | None = None

    def runs_at(self, host: int) -> None:
        """The guest's CPU runs at ``host`` from here on."""
        self._host = host

    def delivered(self, cycle: int, host: int, address: int) -> None:
        """An interrupt that a device raised was delivered at ``host``."""
        if self._host not in (None, host):
            story = f"cycle {cycle}: interrupt {address:#x} was delivered at {host_name(host)}, and the guest's CPU runs at {host_name(1 - host)}"
            self.replay.verdict.add("misdirected", story)

    def unasked(self, cycle: int, host: int, address: int, again: bool) -> None:
        """An interrupt was delivered that no device waits for; ``again``: one like it was delivered before."""
        name = "duplicated" if again else "invented"
        self.replay.verdict.add(name, f"cycle {cycle}: interrupt {address:#x} at {host_name(host)} that no device raised (again)")
