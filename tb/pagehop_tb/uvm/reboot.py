"""A host that resets the card: everything but the bitmaps starts again (H52)."""

from pagehop_tb.models.system import System
from pagehop_tb.pins import PortCredits
from pagehop_tb.pins.credits import Grants, Usage

__all__ = ["reset_card"]

RESET_CYCLES = 8


async def reset_card(system: System) -> None:
    """Reset the interposer, and the credits of its links with it. Nothing may be on its way."""
    await system.quiesce()
    fabric = system.fabric
    fabric.reset.value = 1
    await fabric.wait(RESET_CYCLES)
    for port in system.ports.values():
        old = port.grants
        port.usage = Usage(old.name.replace(" tx", " rx"))
        port.grants = Grants(old.name, PortCredits(*old.config), fabric, old.random, old.drive)
    fabric.reset.value = 0
    await fabric.wait(RESET_CYCLES)
