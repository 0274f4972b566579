# amaranth: UnusedElaboratable=no
"""The TLP side of the IOMMU between a device, a host and a translator of random latency."""

import pytest
from front_machine import ATS, Machine, Writer, refusal_of

from pagehop.iommu.front import TlpFront
from pagehop.iommu.front_answers import FrontAnswers
from pagehop.iommu.front_decode import FrontDecode
from pagehop.iommu.front_drain import FrontDrain
from pagehop.iommu.front_ingress import FrontIngress
from pagehop.iommu.front_lane import FrontLane
from pagehop.iommu.front_translations import Translations
from pagehop_sim.planted import planted
from pagehop_tb.protocol import FlowClass
from pagehop_tb.simulate import run, seeded

PAGES = [page for page in range(1 << 12) if not refusal_of(page) and not page & 8]


def machine_of(front, name, data_bytes=16):
    rng = seeded(name)
    machine = Machine(front(data_bytes), rng)
    return machine, Writer(rng), rng


def mix(front, name, *, data_bytes=16, count=150, cycles=5000):
    """Random TLPs both ways, messages of ours, drains under way."""
    machine, writer, rng = machine_of(front, name, data_bytes)
    for _ in range(count):
        machine.device.send(writer.from_device())
        if rng.random() < 0.3:
            machine.host.send(writer.from_host())

    async def bench(ctx):
        free = [link.credits(ctx) for link in (machine.device, machine.host)]
        while not (machine.empty() and machine.cycle > 100):
            assert machine.cycle < cycles, f"stands still: {machine.up} {machine.answers} {machine.messages}"
            if rng.random() < 0.02:
                process = rng.choice((None, rng.getrandbits(20)))
                machine.message(process, rng.choice((1, 5)), rng.getrandbits(13), rng.getrandbits(16), rng.getrandbits(5))
            await machine.step(ctx, drain=not machine.draining and rng.random() < 0.06)
        for _ in range(100):
            await machine.step(ctx)
        for link, before in zip((machine.device, machine.host), free, strict=True):
            assert link.credits(ctx) == before, f"of {before} credits {link.credits(ctx)} came back"

    run(machine.dut, bench)
    assert machine.compared > count // 2 and machine.drains > 5
    return machine


@pytest.mark.hazard("H16", "H17", "H18", "H24", "H24c", "H32")
@pytest.mark.parametrize("data_bytes", [16, 64])
def test_order_addresses_and_answers(data_bytes):
    mix(TlpFront, f"front/mix/{data_bytes}", data_bytes=data_bytes)


async def until(ctx, machine, done, most=3000, **named):
    """Steps until ``done``, with ``named`` in the first. Returns how many."""
    start = machine.cycle
    while True:
        await machine.step(ctx, **named)
        named = {}
        if done():
            return machine.cycle - start
        assert machine.cycle < start + most, "stands still"


def drain_before_a_walk(front):
    """The first write waits for a walk that waits for the drain; what is behind it has been translated."""
    machine, writer, _ = machine_of(front, "front/held")
    held, other = PAGES[3], PAGES[7]
    machine.stuck = lambda request: request["iova"] >> 12 == held and not machine.drains
    machine.latency = lambda request: 2
    machine.device.send(*(writer.write(other, 4) for _ in range(4)), writer.write(held, 4), *(writer.write(other, 4) for _ in range(6)))

    async def bench(ctx):
        await until(ctx, machine, lambda: machine.device.idle() and machine.came_up == 4)
        for _ in range(40):
            await machine.step(ctx)
        await until(ctx, machine, lambda: machine.drained_now, drain=True)
        await until(ctx, machine, machine.empty)

    run(machine.dut, bench)
    assert machine.came_up == 11 and machine.drains == 1


@pytest.mark.hazard("H30")
def test_drain_waits_for_no_walk():
    drain_before_a_walk(TlpFront)


def acknowledgement_behind_misses(front):
    """64 writes that miss, an ATS request before them and the acknowledgement behind: held ATS requests keep none of them."""
    machine, writer, rng = machine_of(front, "front/h30")
    machine.hold = 1
    machine.device.send(writer.ats(PAGES[1]), writer.read(PAGES[2], 0))
    for _ in range(64):
        machine.device.send(writer.write(rng.choice(PAGES), 4))
    machine.device.send(writer.message(2), writer.completion())
    machine.latency = lambda request: rng.randint(30, 60)

    async def bench(ctx):
        await until(ctx, machine, lambda: machine.taken and machine.device.idle() and not machine.up[FlowClass.COMPLETION])
        assert machine.taken[0][1] == 64, "the acknowledgement came too early"
        assert not any(request["access"] == ATS for request in machine.requests_seen) and len(machine.up[FlowClass.NON_POSTED]) == 1
        assert ctx.get(machine.dut.ats_quiet)
        await until(ctx, machine, lambda: machine.drained_now, drain=True)
        machine.hold = 0
        await until(ctx, machine, machine.empty)

    run(machine.dut, bench)


@pytest.mark.hazard("H30", "H32", "H24")
def test_an_acknowledgement_comes_through():
    acknowledgement_behind_misses(TlpFront)


def acknowledgement_and_no_credits(front):
    """The host takes no writes for a while. The acknowledgement comes out behind them, and a drain that begins then waits for them."""
    machine, writer, rng = machine_of(front, "front/h32")
    machine.host.starved = {FlowClass.POSTED}
    machine.device.send(*(writer.write(rng.choice(PAGES), 1) for _ in range(8)), writer.message(2))

    async def bench(ctx):
        await until(ctx, machine, lambda: machine.taken)
        await machine.step(ctx, drain=True)
        for _ in range(100):
            await machine.step(ctx)
            assert not machine.drained_now, "drained before the writes have left"
        machine.host.starved = set()
        await until(ctx, machine, machine.empty)

    run(machine.dut, bench)
    assert machine.drains == 1


@pytest.mark.hazard("H32", "H01")
def test_a_drain_behind_the_acknowledgement_has_all_that_was_written():
    acknowledgement_and_no_credits(TlpFront)


def quiet(front):
    """``ats_quiet`` only when no translation is underway to the device."""
    machine, writer, rng = machine_of(front, "front/quiet")
    machine.device.starved = {FlowClass.COMPLETION}
    machine.latency = lambda request: rng.randint(20, 40)
    machine.device.send(*(writer.ats(rng.choice(PAGES)) for _ in range(6)))

    async def bench(ctx):
        await until(ctx, machine, lambda: sum(request["access"] == ATS for request in machine.requests_seen) > 2)
        machine.hold = 1
        await until(ctx, machine, lambda: ctx.get(machine.dut.ats_quiet))
        asked = sum(request["access"] == ATS for request in machine.requests_seen)
        assert asked < 7 and not machine.asked, "quiet while something is asked for"
        machine.message(None, 1, 0x1000, 0x300, 5)
        machine.device.starved = set()
        await until(ctx, machine, lambda: not machine.own_messages[1])
        for _ in range(200):
            await machine.step(ctx)
        assert len(machine.answers) == 6 - asked, "an answer came after quiet"
        machine.hold = 0
        await until(ctx, machine, machine.empty)

    run(machine.dut, bench)


@pytest.mark.hazard("H30")
def test_quiet():
    quiet(TlpFront)


def give_up(front, silent):
    """The host answers nothing: a drain ends all the same, and says so."""
    machine, writer, _ = machine_of(front, f"front/silent/{silent}")
    machine.may_fail, machine.host_delay, machine.limit = True, lambda: 100_000, 300
    machine.device.send(writer.read(PAGES[0], 0) if silent == "read" else writer.write(PAGES[0], 1))

    async def bench(ctx):
        await until(ctx, machine, lambda: machine.came_up or machine.answering)
        cycles = await until(ctx, machine, lambda: machine.drained_now, most=700, drain=True)
        assert machine.failed and cycles > 250, f"{machine.failed} after {cycles}"

    run(machine.dut, bench)


@pytest.mark.parametrize("silent", ["read", "write"])
def test_a_drain_has_a_timer(silent):
    give_up(TlpFront, silent)


def starved(front):
    """The host takes no requests: everything else goes on, both ways."""
    machine, writer, rng = machine_of(front, "front/starved")
    machine.host.starved = {FlowClass.NON_POSTED}
    for _ in range(30):
        machine.device.send(writer.read(rng.choice(PAGES), 0), writer.write(rng.choice(PAGES), 4), writer.completion())
        machine.host.send(writer.from_host())

    async def bench(ctx):
        await until(ctx, machine, lambda: machine.came_up == 30 and not machine.up[FlowClass.COMPLETION] and not any(machine.down.values()))
        machine.host.starved = set()
        await until(ctx, machine, machine.empty)

    run(machine.dut, bench)


@pytest.mark.hazard("H24")
def test_requests_that_wait_keep_nothing_else():
    starved(TlpFront)


def messages(front):
    """Messages that are taken late are not lost."""
    machine, writer, rng = machine_of(front, "front/messages")
    machine.device.send(*(writer.message(rng.choice((2, 4))) for _ in range(24)))

    async def bench(ctx):
        await until(ctx, machine, machine.empty, most=400)

    run(machine.dut, bench)
    assert len(machine.taken) == 24


def test_messages_are_not_lost():
    messages(TlpFront)


def inside(part, old, new):
    """The front with a bug in a part of its way up."""
    return planted(TlpFront, "", "", FrontIngress=planted(FrontIngress, "", "", **{part.__name__: planted(part, old, new)}))


def beside(part, old, new):
    return planted(TlpFront, "", "", **{part.__name__: planted(part, old, new)})


def mixed(front):
    mix(front, "front/bug", data_bytes=64)


BUGS = {
    "what was translated ahead stays": (inside(Translations, "with m.If(self.discard):", "with m.If(0):"), mixed),
    "an answer of the cycle of the drain stays": (
        inside(Translations, "there.eq(there_next & final_next)", "there.eq((there & final) | comes)"), mixed),
    "a decision stays": (inside(Translations, "& ~self.discard)", ")"), mixed),
    "requests pass posted": (inside(FrontLane, "(passes | (self.lane == EgressLane.POSTED))", "1"), mixed),
    "stamp of the one before": (inside(FrontLane, "self.i.valid & first & ~self.i.ready & may_go", "may_go"), mixed),
    "what is not permitted goes on": (inside(Translations, "Mux(wanted.data.posted, Route.DROPPED, Route.REFUSED)", "Route.ONWARD"), mixed),
    "UR for CA": (inside(Translations, "(kind != Kind.REFUSE) & (result.data.status == Status.COMPLETER_ABORT)", "0"), mixed),
    "always below 4 GB": (inside(Translations, "page[32 - PAGE_BITS:].any()", "0"), mixed),
    "large pages are small": (inside(Translations, "page.eq(translated(", "page.eq(0 & translated("), mixed),
    "AT is not looked at": (beside(FrontDecode, "info.kind.eq(Kind.TRANSLATED)", "info.kind.eq(Kind.UNTRANSLATED)"), mixed),
    "size of a translation": (beside(FrontAnswers, "sized(translation)", "translation.ppn"), mixed),
    "drained without a flush": (beside(FrontDrain, "~passing & wait.done &", "~passing &"), mixed),
    "drained without the answers": (beside(FrontDrain, " & ~self.unanswered", ""), mixed),
    "drain waits for the lane": (
        planted(TlpFront, "drain.entered.eq(up.entered)", "drain.entered.eq(up.entered + 1)"), drain_before_a_walk),
    "ATS requests are not held": (inside(Translations, " & ~(ats & self.ats_hold)", ""), acknowledgement_behind_misses),
    "ATS requests hold posted": (
        inside(Translations, "~(ats & self.ats_hold)", "~self.ats_hold"), acknowledgement_behind_misses),
    "quiet while asked": (planted(TlpFront, "& ~up.ats_inside", ""), quiet),
    "a message that nobody takes": (planted(TlpFront, "Mux(taken, self.completions.ready, self.page_requests.ready)", "1"), messages),
    "credits of flushes are kept": (planted(TlpFront, "decode.ours.valid & decode.ours.ready", "0"), mixed),
    "no timer": (beside(FrontDrain, "expired | (~passing", "(~passing"), lambda front: give_up(front, "read")),
    "requests of all lanes in one": (
        planted(TlpFront, "", "", FrontIngress=planted(FrontIngress, "Cat(self.room[number],", "Cat(self.room.all(),")), starved),
}


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name):
    front, test = BUGS[name]
    with pytest.raises((AssertionError, KeyError, ValueError)):
        test(front)
