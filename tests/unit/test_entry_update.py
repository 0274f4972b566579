# amaranth: UnusedElaboratable=no
"""Compare-and-set of entries, beside CPUs that write the same lines."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from home_driver import at_port

from pagehop.iommu.entry_update import EntryUpdate
from pagehop.iommu.layouts import EntryUpdateStatus
from pagehop.iommu.line_owner import LineOwner
from pagehop_sim.planted import planted
from pagehop_tb.models.home import LINE, Home
from pagehop_tb.simulate import run, seeded

WRITTEN, CHANGED, ERROR = EntryUpdateStatus
LINES = (0x40, 0x41, 0x8000_0000_0000 // LINE)
#: What CPUs write, and what of it is updated too.
WORDS = [LINE * line + 8 * place for line in LINES for place in (0, 3, 6, 7)]


class Updater(wiring.Component):
    """The update and the line's owner."""
    def __init__(self, update=EntryUpdate, owner=LineOwner):
        self.update, self.owner = update(), owner()
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.update, m.submodules.owner = self.update, self.owner
        wiring.connect(m, self.update.line, self.owner.user)
        return m


async def ask(ctx, dut, address, expected, value):
    """One update. Returns its status and how many cycles it took."""
    update, updated = dut.update.update, dut.update.updated
    ctx.set(update.payload, {"address": address // 8, "expected": expected, "value": value})
    ctx.set(update.valid, 1)
    ctx.set(updated.ready, 1)
    for cycles in range(1, 3000):
        _, _, taken, done, status = await ctx.tick().sample(update.ready, updated.valid, updated.payload)
        if taken:
            ctx.set(update.valid, 0)
        if done:
            return status, cycles
    raise AssertionError("an update never ended")


def alone(dut, home, *updates):
    """Updates one after the other; what became of each."""
    results = []

    async def bench(ctx):
        await ctx.tick()
        for update in updates:
            results.append(await ask(ctx, dut, *update))

    run(dut, at_port(home, dut.owner.port, lambda: len(results) == len(updates) and home.idle), bench)
    return results


def test_cycles_are_those_of_the_contract():
    home = Home(seeded("update/cycles"), latency=lambda: 7)
    first, acknowledged = 7 + 1, 7     # from the acquire to the grant's first beat, from the last of the release to its acknowledgement
    home.memory.write(0x1238, (5).to_bytes(8, "little"))
    results = alone(Updater(), home, (0x1238, 5, 6), (0x1238, 5, 7), (0x1238, 6, 8))
    assert results == [(WRITTEN, 19 + first + acknowledged), (CHANGED, 12 + first + acknowledged), (WRITTEN, 19 + first + acknowledged)]
    assert home.word(0x1238) == 8 and [write.old for write in home.writes] == [5, 6]


@pytest.mark.parametrize("bit", range(0, 64, 7))
def test_the_whole_entry_is_compared(bit):
    home = Home(seeded("update/bit"))
    home.memory.write(0x40, (1 << bit).to_bytes(8, "little"))
    assert [status for status, _ in alone(Updater(), home, (0x40, 0, 3), (0x40, 1 << bit, 3))] == [CHANGED, WRITTEN]


@pytest.mark.parametrize("fault", ["denied", "corrupt"])
def test_a_line_that_cannot_be_had_is_an_error(fault):
    for seed in range(12):
        faults = [fault, ""]
        home = Home(seeded(f"update/{fault}/{seed}"), fault=lambda _, faults=faults: faults.pop(0))
        assert [status for status, _ in alone(Updater(), home, (0x40, 0, 3), (0x40, 0, 4))] == [ERROR, WRITTEN]
        assert [(write.old, write.new) for write in home.writes] == [(0, 4)] and home.holds(1) == "N"


def hammered(dut, name, *, updates=100, rate=0.2, faulty=0.0, **options):
    """CPUs write and read three lines while entries in them are updated. What the home saw written is what was updated, each once, in its place."""
    rng = seeded(name)
    home = Home(rng, fault=lambda _: rng.choice(["denied", "corrupt"]) if rng.random() < faulty else "", **options)
    seen, ended = dict.fromkeys([*EntryUpdateStatus, "raced"], 0), []

    async def bench(ctx):
        home.hammer(WORDS, rate)
        for number in range(updates):
            address = rng.choice(WORDS[1::2])
            expected, value, before, start = home.word(address), 0xABC << 48 | number, len(home.writes), home.cycle
            wrong = rng.random() < 0.1
            if wrong:
                expected ^= 1 << rng.randrange(64)
            for _ in range(rng.randrange(30)):      # a walk read the entry some time ago
                await ctx.tick()
            status, _ = await ask(ctx, dut, address, expected, value)
            ours = [write for write in home.writes[before:] if write.who == "line"]
            assert [write[1:] for write in ours] == ([(address, expected, value, "line")] if status is WRITTEN else []), (status, ours)
            if status is CHANGED:
                values = {home.word(address)} | {write.old for write in home.writes[before:] if write.address == address}
                assert values - {expected}, f"an entry that was {expected:#x} from cycle {start} on is said to be another"
            assert status is not ERROR or faulty
            seen[status] += 1
            seen["raced"] += status is CHANGED and not wrong
        home.hammer(WORDS, 0)
        ended.append(True)

    run(dut, at_port(home, dut.owner.port, lambda: ended and home.idle), bench)
    assert sum(write.who == "line" for write in home.writes) == seen[WRITTEN] == home.counts["data"]
    assert all(home.holds(line) == "N" for line in LINES)
    return seen, home


@pytest.mark.hazard("H34")
@pytest.mark.parametrize(("latency", "broadcast", "ready", "pause"), [
    ((0, 0), False, 1.0, 0.0), ((0, 6), True, 0.6, 0.3), ((10, 60), False, 0.9, 0.1), ((0, 30), True, 0.3, 0.0)])
def test_updates_beside_cpus_are_one_step(latency, broadcast, ready, pause):
    name = f"update/{latency}/{broadcast}"
    rng = seeded(name)
    seen, home = hammered(
        Updater(), name, latency=lambda: rng.randint(*latency), broadcast=broadcast, ready=ready, pause=pause, patience=200)
    assert seen[WRITTEN] > 30 and seen["raced"] > 5 and home.counts["probes"] > 30 and home.counts["accesses"] > 100, (seen, home.counts)


def hammered_with_faults(dut):
    return hammered(dut, "update/faulty", faulty=0.3, broadcast=True)


def test_updates_beside_cpus_with_lines_that_cannot_be_had():
    seen, _ = hammered_with_faults(Updater())
    assert min(seen.values()) > 5, seen


BUGS = {
    "nothing is compared": ("line.edit.eq(same)", "line.edit.eq(1)"),
    "an entry of another place is compared": ("line.index.eq(request.address[:words])", "line.index.eq(request.address[1:])"),
    "half of the entry is compared": ("pieces_equal(line.entry, request.expected)", "pieces_equal(line.entry[:32], request.expected[:32])"),
    "all is well": ("line.end == LineEnd.FAILED", "0"),
    "done before it is seen": ("with m.If(line.ended):", "with m.If(line.owned):"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    with pytest.raises(AssertionError):
        hammered_with_faults(Updater(planted(EntryUpdate, *BUGS[bug])))
