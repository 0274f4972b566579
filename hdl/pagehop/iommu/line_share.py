"""One owner of a line, several who want one."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.line_owner import LinePort
from pagehop.tlp.arbiter import RoundRobin, select_one

__all__ = ["LineShare"]


class LineShare(wiring.Component):
    """Let ``users`` use one :class:`LineOwner` in turns: who has acquired a line has the owner until that has ended. Nothing takes a cycle.

    Who has it is told by ``touched`` also that another user waits for it.

    Members
    -------
    users : who wants lines. ``owner`` : to the owner.
    """
    def __init__(self, users):
        if not isinstance(users, int) or users < 2:
            raise ValueError(f"Users of a line must be two or more, not {users!r}")
        super().__init__({"users": In(LinePort()).array(users), "owner": Out(LinePort())})

    def elaborate(self, platform):
        m = Module()
        users, owner = self.users, self.owner
        m.submodules.turns = turns = RoundRobin(len(users), stays=True)
        holder = Signal(len(users))     # 0 for nobody
        m.d.comb += [
            # The owner takes no other line before this one has ended.
            turns.requests.eq(Cat(user.acquire.valid for user in users)),
            turns.served.eq(turns.grant & owner.acquire.ready.replicate(len(users))), turns.last.eq(1),
            owner.acquire.valid.eq(turns.grant.any()), owner.acquire.payload.eq(select_one(turns.grant, [user.acquire.payload for user in users])),
            *(getattr(owner, name).eq(select_one(holder, [getattr(user, name) for user in users]))
              for name in ("index", "edit", "value", "hold", "release")),
        ]
        with m.If(turns.served.any()):
            m.d.sync += holder.eq(turns.served)
        with m.Elif(owner.ended):
            m.d.sync += holder.eq(0)
        for user, served, holds in zip(users, turns.served, holder, strict=True):
            m.d.comb += [
                user.acquire.ready.eq(served), user.entry.eq(owner.entry), user.end.eq(owner.end),
                *(getattr(user, name).eq(getattr(owner, name) & holds) for name in ("owned", "ended")),
                user.touched.eq(holds & (owner.touched | Cat(other.acquire.valid for other in users if other is not user).any())),
            ]
        return m
