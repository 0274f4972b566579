"""A test of the pyuvm environment with a fault in the machine around the hardware: the scoreboard must see it."""

import pyuvm

from pagehop_tb.uvm.tests import Refusals


@pyuvm.test(timeout_time=50, timeout_unit="ms")
class LostWrite(Refusals):
    """A byte that the device wrote is not in memory any more at the end."""

    async def end(self):
        """As always, and then a host forgets a line."""
        await super().end()
        guest = self.env.guest
        page = self.pages[0]
        host = self.env.watch.owner(page)
        guest.system.hosts[host].memory.write(guest.driver.place(page, host) + 0x200, bytes(64))
