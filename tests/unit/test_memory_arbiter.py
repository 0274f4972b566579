# amaranth: UnusedElaboratable=no
"""One port for walks, queues and the line's owner: nothing is lost, mixed up, or late, and nobody starves."""

from functools import partial

import pytest
from amaranth.hdl import Module, Value
from amaranth.lib import wiring
from home_driver import at_port, packed, unpacked
from test_entry_update import WRITTEN, ask

from pagehop.iommu.entry_update import EntryUpdate
from pagehop.iommu.line_owner import LineOwner
from pagehop.iommu.line_share import LineShare
from pagehop.iommu.memory_arbiter import MemoryArbiter
from pagehop_sim.planted import planted
from pagehop_tb.models.home import LINE, A, D, Home, OpA, OpD
from pagehop_tb.simulate import run, seeded

CLIENTS = 3
#: Lines in which entries are updated and CPUs write, and lines of each client's own.
SHARED, PRIVATE = (0x40, 0x41), 0x100
CPU_WORDS = [LINE * line + 8 * place for line in SHARED for place in range(4, 8)]


class Port(wiring.Component):
    """Clients, and two parts that update entries with the one line."""
    def __init__(self, arbiter=MemoryArbiter, share=LineShare):
        self.arbiter, self.share = arbiter(CLIENTS), share(2)
        self.owner, self.updates = LineOwner(CLIENTS, 2), [EntryUpdate(), EntryUpdate()]
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules += [self.arbiter, self.share, self.owner, *self.updates]
        for user, update in zip(self.share.users, self.updates, strict=True):
            wiring.connect(m, update.line, user)
        wiring.connect(m, self.share.owner, self.owner.user)
        wiring.connect(m, self.owner.port, self.arbiter.owner)
        m.d.comb += self.owner.limit.eq(0)
        return m


class Client:
    """One part that reads and writes memory uncached: whole words and lines of its own, and reads of the shared lines."""
    def __init__(self, number, dut, home, rng, rate=0.3):
        self.number, self.port, self.home, self.rng, self.rate = number, dut.arbiter.clients[number], home, rng, rate
        self.beats, self.got, self.done, self.asked, self.longest = [], [], 0, None, 0
        self.own = dict.fromkeys(range((PRIVATE + 2 * number) * LINE, (PRIVATE + 2 * number + 2) * LINE, 8), 0)

    def request(self):
        rng = self.rng
        size = rng.choice((3, 3, 4, 6))
        base = rng.choice([*self.own]) >> size << size
        places = range(base, base + (1 << size), 8)
        match rng.choice(("get", "get", "put", "partial", "shared")):
            case "shared":
                base = rng.choice(SHARED) * LINE + 8 * rng.randrange(8)
                return [A(OpA.GET, 0, 3, 1, base)], range(base, base + 8, 8)
            case "get":
                return [A(OpA.GET, 0, size, 0, base)], places
            case "put":
                return [A(OpA.PUT_FULL, 0, size, 0, base, data=rng.getrandbits(64)) for _ in places], places
            case _:
                return [A(OpA.PUT_PARTIAL, 0, size, 0, base, rng.getrandbits(8), rng.getrandbits(64)) for _ in places], places

    async def bench(self, ctx, stop):
        a, d = self.port.a, self.port.d
        layout_a, layout_d = a.payload.shape(), d.payload.shape()
        start = 0
        while not stop() or self.asked:
            if not self.asked and not stop() and self.rng.random() < self.rate:
                self.beats, places = self.request()
                self.asked, self.got, start = (list(self.beats), places), [], self.home.cycle
                self.seen = {address: self.home.word(address) for address in places}
                self.mark = len(self.home.writes)
            ctx.set(a.valid, bool(self.beats))
            if self.beats:
                ctx.set(Value.cast(a.payload), packed(layout_a, self.beats[0]))
            _, _, taken, comes, answer = await ctx.tick().sample(a.ready, d.valid, Value.cast(d.payload))
            if self.beats and taken:
                self.beats.pop(0)
            if comes:
                self.answer(unpacked(layout_d, D, answer))
                if not self.asked:
                    self.longest = max(self.longest, self.home.cycle - start)

    def answer(self, beat):
        assert self.asked and not self.beats, f"client {self.number} did not ask for {beat}"
        request, places = self.asked
        assert (beat.size, beat.source, beat.denied, beat.corrupt, beat.param) == (request[0].size, 0, 0, 0, 0)
        if request[0].opcode == OpA.GET:
            assert beat.opcode == OpD.ACCESS_ACK_DATA
            self.got.append(beat.data)
            if len(self.got) < len(places):
                return
            for address, value in zip(places, self.got, strict=True):
                meanwhile = {write.new for write in self.home.writes[self.mark:] if write.address == address}
                allowed = {self.own[address]} if address in self.own else {self.seen[address]} | meanwhile
                assert value in allowed, f"client {self.number} reads {value:#x} at {address:#x}"
        else:
            assert beat.opcode == OpD.ACCESS_ACK
            for address, put in zip(places, request, strict=True):
                mask = sum(0xFF << 8 * byte for byte in range(8) if put.mask >> byte & 1)
                self.own[address] = self.own[address] & ~mask | put.data & mask
        self.asked, self.done = None, self.done + 1


def exercise(dut, name, *, cycles=3000, rate=0.3, cpus=0.05, **options):
    """All at once. Returns the clients, how many entries were written, and the home."""
    rng = seeded(name)
    home = Home(rng, cacher=CLIENTS, **options)
    clients, written, running = [Client(number, dut, home, rng, rate) for number in range(CLIENTS)], [0], [CLIENTS + 2]

    def over():
        return home.cycle >= cycles

    async def updater(ctx, number):
        if number == 0:
            home.hammer(CPU_WORDS, cpus)
        part = type("Part", (), {"update": dut.updates[number]})
        while not over():
            address = LINE * rng.choice(SHARED) + 8 * (number + 2 * rng.randrange(2))
            expected, value = home.word(address), number << 60 | home.cycle
            status, _ = await ask(ctx, part, address, expected, value)
            assert status == WRITTEN and home.word(address) == value, "nobody else writes these entries"
            written[0] += 1
        home.hammer([], 0)
        running[0] -= 1

    async def watch(ctx):
        while running[0]:
            _, _, *told = await ctx.tick().sample(*(getattr(user, name) for name in ("owned", "ended") for user in dut.share.users))
            assert sum(told[:2]) <= 1 and sum(told[2:]) <= 1, "one line has two users"

    async def client(ctx, number):
        await clients[number].bench(ctx, over)
        running[0] -= 1

    run(dut, at_port(home, dut.arbiter.port, lambda: not running[0] and home.idle), watch,
        *(partial(client, number=number) for number in range(CLIENTS)), *(partial(updater, number=number) for number in range(2)))
    for each in clients:
        assert all(home.word(address) == value for address, value in each.own.items())
    return clients, written[0], home


@pytest.mark.parametrize(("latency", "broadcast", "ready", "pause"), [((0, 3), False, 1.0, 0.0), ((0, 12), True, 0.5, 0.3)])
def test_everybody_gets_what_was_asked_for(latency, broadcast, ready, pause):
    name = f"arbiter/{latency}"
    rng = seeded(name)
    clients, written, home = exercise(
        Port(), name, latency=lambda: rng.randint(*latency), broadcast=broadcast, ready=ready, pause=pause, patience=300)
    assert min(client.done for client in clients) > 40 and written > 30 and home.counts["probes"] > 20


def test_nobody_starves():
    """Everybody asks again at once, and channel A is what they wait for."""
    clients, written, _ = exercise(Port(), "arbiter/full", rate=1.0, cpus=0.0, latency=lambda: 0, ready=0.3, patience=300)
    done = [client.done for client in clients]
    assert min(done) > 0.7 * max(done) and written > 40, (done, written)
    assert max(client.longest for client in clients) < 200


@pytest.mark.parametrize("number", range(CLIENTS + 1))
def test_nothing_takes_a_cycle(number):
    """What one asks for is at the port in the same cycle, and its answer is with it in the same cycle, and with nobody else."""
    dut = MemoryArbiter(CLIENTS)
    sources = [*dut.clients, dut.owner]

    async def bench(ctx):
        ctx.set(dut.port.a.ready, 1)
        ctx.set(sources[number].a.valid, 1)
        ctx.set(sources[number].a.payload.opcode, OpA.GET)
        ctx.set(sources[number].a.payload.address, 0x1238)
        assert ctx.get(dut.port.a.valid) and [ctx.get(source.a.ready) for source in sources] == [index == number for index in range(CLIENTS + 1)]
        assert ctx.get(dut.port.a.payload.address) == 0x1238 and ctx.get(dut.port.a.payload.source) == number
        ctx.set(dut.port.d.valid, 1)
        ctx.set(dut.port.d.payload.source, number)
        ctx.set(dut.port.d.payload.data, 77)
        assert [ctx.get(source.d.valid) for source in sources] == [index == number for index in range(CLIENTS + 1)]
        assert ctx.get(sources[number].d.payload.data) == 77 and ctx.get(dut.port.d.ready)
        await ctx.tick()

    run(dut, bench)


BUGS = {
    "bursts are interleaved": (MemoryArbiter, "turns.last.eq(Mux(left.any(), left == 1, select_one(turns.grant, alone)))", "turns.last.eq(1)"),
    "what is offered changes": (MemoryArbiter, "stays=True", "stays=False"),
    "answers go to the next": (MemoryArbiter, "d.payload.source == number", "d.payload.source == (number + 1) % 4"),
    "everybody has one source": (MemoryArbiter, "number if name == \"source\" else", "0 if name == \"source\" else"),
    "a line has no user": (LineShare, "holder.eq(turns.served)", "holder.eq(0)"),
    "all users are told": (LineShare, "getattr(owner, name) & holds", "getattr(owner, name)"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bug_is_found(bug):
    component, old, new = BUGS[bug]
    changed = planted(component, old, new)
    rng = seeded("arbiter/bug")
    with pytest.raises(AssertionError):
        exercise(Port(**{"arbiter" if component is MemoryArbiter else "share": changed}), "arbiter/bug", cycles=1500,
                 latency=lambda: rng.randint(0, 12), broadcast=True, ready=0.5, pause=0.3, patience=300)


def test_counts_are_checked():
    with pytest.raises(ValueError, match=r"^Clients of the memory must be one or more, not 0$"):
        MemoryArbiter(0)
    with pytest.raises(ValueError, match=r"^Users of a line must be two or more, not 1$"):
        LineShare(1)
