# amaranth: UnusedElaboratable=no
"""Invalidations of what devices keep: devices that answer late, in parts, several at once, wrongly, too late or never."""

from dataclasses import dataclass, field

import pytest

from pagehop.iommu.ats_invalidations import AtsInvalidations
from pagehop_sim.planted import planted
from pagehop_tb.models.iommu.ats import AtsDevice, Completion, Manner
from pagehop_tb.simulate import run, seeded

TAGS, TIMEOUT = 4, 500
#: After which time everything has ended.
BOUND = TIMEOUT + TAGS + 8
IDS = [0x0100, 0x0108, 0x0210, 0x0318, 0x0420]
#: The table: of which domain the first four devices are. The last is in no domain.
DOMAINS = [5, 7, 5, 5]
PROMPT, LATE, NEVER = Manner(), Manner(1, (TIMEOUT + 60, TIMEOUT + 300)), Manner(2, (1, 20), missing=1)
USUAL = [PROMPT, Manner(2, (1, 200)), Manner(8, (1, 200)), Manner(3, (1, 150), strays=1)]
UNUSUAL = [LATE, NEVER, Manner(2, (TIMEOUT + 60, TIMEOUT + 300))]


@dataclass
class Command:
    """A command, or a round: when it was taken, what must become of it, and when all was heard that it waits for."""
    requester_ids: list[int]
    payload: int
    process: int | None
    taken: int
    sent: dict[int, int] = field(default_factory=dict)      # devices, when
    done: dict[int, int] = field(default_factory=dict)

    def done_at(self):
        return max(self.done.values(), default=0) if len(self.done) == len(self.requester_ids) else None


class Machine:
    """The rest of the IOMMU and the devices around the tracker. It compares what is said with what the devices have answered."""
    def __init__(self, dut, rng, manners=USUAL):
        self.dut, self.rng, self.manners, self.cycle = dut, rng, manners, 0
        self.devices = {requester_id: AtsDevice(requester_id, rng) for requester_id in IDS}
        self.commands, self.offered, self.expired = [], None, 0
        self.round, self.round_offered, self.rounds = None, None, []
        self.responses, self.answered = [], []
        self.waiting, self.strays, self.unexpected, self.kept = None, [], 0, {}
        self.blocked, self.compared, self.serial, self.failures, self.last_taken = set(), 0, 0, 0, 0

    async def setup(self, ctx):
        ctx.set(self.dut.timeout, TIMEOUT)
        for number, gscid in enumerate(DOMAINS):
            ctx.set(self.dut.devices[number], {"valid": 1, "requester_id": IDS[number], "gscid": gscid})
        await self.step(ctx)

    def payload(self):
        self.serial += 1
        return self.serial << 12 | self.rng.randrange(2) << 11 | self.rng.randrange(2)

    def offer_inval(self, requester_id=None):
        process = self.rng.choice((None, self.rng.getrandbits(20)))
        self.offered = ("inval", requester_id or self.rng.choice(IDS), self.payload(), process)

    def offer_response(self):
        group, code = self.rng.randrange(512), self.rng.choice((0, 1, 15))
        self.offered = ("response", self.rng.choice(IDS), group << 32 | code << 44, self.rng.choice((None, self.rng.getrandbits(20))))

    def offer_round(self, gscid):
        self.round_offered = (gscid, self.payload())

    async def step(self, ctx):
        dut, rng = self.dut, self.rng
        self.drive(ctx)
        for name in ("invalidations", "responses"):
            ctx.set(getattr(dut, name).ready, name not in self.blocked and rng.random() < 0.6)
        self.held(ctx)
        pending = ctx.get(dut.commands.pending)
        self.expired += ctx.get(dut.commands.expired)
        self.messages(ctx)
        self.check(ctx, pending)
        await ctx.tick()
        self.cycle += 1
        assert ctx.get(dut.unexpected) <= self.unexpected

    def drive(self, ctx):
        dut = self.dut
        ctx.set(dut.commands.command.valid, self.offered is not None)
        if self.offered:
            kind, requester_id, payload, process = self.offered
            ctx.set(dut.commands.command.payload, {
                "opcode": 4, "function": kind == "response", "process": process or 0, "pv": process is not None, "requester_id": requester_id,
                "payload": payload, "dsv": self.rng.randrange(2), "segment": self.rng.randrange(256)})
        ctx.set(dut.round.valid, self.round_offered is not None)
        if self.round_offered:
            ctx.set(dut.round.payload, {"gscid": self.round_offered[0], "payload": self.round_offered[1]})
        if self.waiting is None:
            if self.strays:
                self.waiting = self.strays.pop(0)
            else:
                devices = list(self.devices.values())
                self.rng.shuffle(devices)
                self.waiting = next((one for one in (device.completion(self.cycle) for device in devices) if one), None)
        ctx.set(dut.completions.valid, self.waiting is not None)
        if self.waiting:
            ctx.set(dut.completions.payload, vars(self.waiting))

    def held(self, ctx):
        """What was not taken stays as it is."""
        for name in ("invalidations", "responses"):
            port = getattr(self.dut, name)
            valid, ready, payload = ctx.get(port.valid), ctx.get(port.ready), ctx.get(port.payload.as_value())
            assert name not in self.kept or (valid and payload == self.kept[name]), f"{name} changes before it is taken"
            self.kept.pop(name, None)
            if valid and not ready:
                self.kept[name] = payload

    def messages(self, ctx):
        dut = self.dut
        if self.offered and ctx.get(dut.commands.command.ready):
            (kind, requester_id, payload, process), self.last_taken = self.offered, self.cycle
            if kind == "inval":
                self.commands.append(Command([requester_id], payload, process, self.cycle))
            else:
                self.responses.append((requester_id, process, payload >> 32 & 511, payload >> 44, self.cycle))
            self.offered = None
        if self.round_offered and self.round is None:
            gscid, payload = self.round_offered
            self.quarantined = ctx.get(dut.quarantined)
            self.round = Command([one for one, domain in zip(IDS, DOMAINS, strict=False) if domain == gscid], payload, None, self.cycle)
        out = dut.invalidations
        if ctx.get(out.valid) and ctx.get(out.ready):
            self.sent(ctx.get(out.payload))
        out = dut.responses
        if ctx.get(out.valid) and ctx.get(out.ready):
            one, process = ctx.get(out.payload), None
            if one.process_valid:
                process = one.process
            expected = self.responses.pop(0)
            assert (one.requester_id, process, one.group, one.code) == expected[:4]
            self.answered.append(self.cycle - expected[4])
            self.compared += 1
        if self.waiting and ctx.get(dut.completions.ready):
            self.hear(self.waiting)
            self.waiting = None

    def sent(self, message):
        process = message.process if message.process_valid else None
        one = next(command for command in [*self.commands, *([self.round] if self.round else []), *self.rounds] if command.payload == message.payload)
        assert message.requester_id in one.requester_ids and message.requester_id not in one.sent and process == one.process
        assert message.itag < self.dut.tags
        one.sent[message.requester_id] = self.cycle
        manner = self.rng.choice(self.manners)
        self.devices[message.requester_id].invalidate(self.cycle, message.itag, message.payload, process, manner)
        for _ in range(manner.strays):
            self.strays.append(Completion(self.rng.choice([0x7777, message.requester_id ^ 1]), 1 << message.itag, 1))
        if manner.strays:
            self.strays.append(Completion(message.requester_id, 1 << self.rng.randrange(self.dut.tags, 32), 1))
        self.compared += 1

    def hear(self, message):
        device = self.devices.get(message.requester_id)
        if device is None or message.itags >> self.dut.tags or not message.itags:
            self.unexpected += 1
            return
        for received in device.heard(message.itags):
            for command in [*self.commands, *self.rounds, *([self.round] if self.round else [])]:
                if command.payload == received.payload:
                    command.done[device.requester_id] = self.cycle
        self.compared += 1

    def given_up(self, command):
        """Whether it must have been given up, may have been, or must not."""
        done = command.done_at()
        if done is None or done > command.taken + BOUND:
            return True
        return None if done > command.taken + TIMEOUT - TAGS - 8 else False

    def check(self, ctx, pending):
        early = [one for one in self.commands if self.cycle > one.taken and self.cycle < one.taken + TIMEOUT - 2 and one.done_at() is None]
        early += [one for one in self.responses if one[4] < self.cycle < one[4] + TIMEOUT - 2]
        assert pending or not early, f"{early} is said to be done"
        assert not pending or self.cycle <= self.last_taken + BOUND, "nothing ends"
        if self.round and ctx.get(self.dut.round.ready):
            self.round_ends(ctx)

    def round_ends(self, ctx):
        one, self.round, self.round_offered = self.round, None, None
        failed = ctx.get(self.dut.round_failed)
        quarantined = [IDS[number] for number in range(4) if self.quarantined >> number & 1 and IDS[number] in one.requester_ids]
        if not failed:
            assert not quarantined and one.done_at() is not None, f"{one} ends before all is heard"
        late = [device for device in one.requester_ids if device not in one.done or one.done[device] > self.cycle - 1]
        assert not failed or quarantined or late or self.cycle > one.taken + TIMEOUT, "a round fails for nothing"
        assert self.cycle <= one.taken + 2 * len(DOMAINS) + 2 * BOUND * max(1, len(one.requester_ids))
        self.failures += failed
        self.rounds.append(one)
        self.compared += 1

    async def until(self, ctx, done, limit=4 * BOUND):
        since = self.cycle
        while not done():
            await self.step(ctx)
            assert self.cycle - since < limit, "nothing ends"

    async def quiet(self, ctx):
        """Everything that was begun has ended, and everything late has come."""
        await self.until(ctx, lambda: self.offered is None and self.round_offered is None and not self.strays, 12 * BOUND)
        for _ in range(2 * BOUND):
            await self.step(ctx)
        assert not ctx.get(self.dut.commands.pending)
        verdicts = [self.given_up(command) for command in self.commands]
        # Of responses that were given up, which can only be when nobody took them.
        assert verdicts.count(True) <= self.expired <= verdicts.count(True) + verdicts.count(None) + (len(self.responses) if self.blocked else 0)
        assert ctx.get(self.dut.unexpected) == self.unexpected
        expected = sum(1 << itag for itag in {itag for device in self.devices.values() for itag in device.outstanding})
        assert ctx.get(self.dut.late) == expected
        self.seen = {"given up": verdicts.count(True), "done": verdicts.count(False)}
        self.commands.clear()
        self.rounds.clear()
        self.expired = 0


async def pulse(ctx, machine, port, bits):
    ctx.set(port, bits)
    await machine.step(ctx)
    ctx.set(port, 0)


def traffic(dut, name, manners, *, turns=6, per_turn=25):
    machine = Machine(dut, seeded(name), manners)
    rng, seen = machine.rng, {"given up": 0, "done": 0, "failed": 0}

    async def bench(ctx):
        await machine.setup(ctx)
        for _ in range(turns):
            for _ in range(per_turn):
                if machine.offered is None and rng.random() < 0.7:
                    rng.choice((machine.offer_inval, machine.offer_inval, machine.offer_response))()
                if machine.round_offered is None and rng.random() < 0.3:
                    machine.offer_round(rng.choice((5, 5, 7, 9)))
                for _ in range(rng.choice((1, 10, 60))):
                    await machine.step(ctx)
            await machine.quiet(ctx)
            for kind, count in machine.seen.items():
                seen[kind] += count
            # Devices whose completions are lost are reset; then software releases what they held.
            for device in machine.devices.values():
                device.reset()
            await pulse(ctx, machine, dut.release_tags, (1 << TAGS) - 1)
            await pulse(ctx, machine, dut.release_devices, 15)
            assert not ctx.get(dut.late) and not ctx.get(dut.quarantined)
        seen["failed"] = machine.failures

    run(dut, bench)
    return machine, seen


@pytest.mark.hazard("H32")
def test_nothing_is_done_before_every_completion_has_come():
    machine, seen = traffic(AtsInvalidations(TAGS), "ats", USUAL)
    assert machine.compared > 400 and machine.unexpected > 20 and seen["done"] > 50 and not seen["given up"] and not seen["failed"], seen


@pytest.mark.hazard("H32")
def test_what_comes_too_late_or_never_is_given_up_in_time():
    _, seen = traffic(AtsInvalidations(TAGS), "ats late", USUAL + UNUSUAL, turns=8)
    assert seen["done"] > 30 and seen["given up"] > 15 and seen["failed"] > 5, seen


async def late_completion(machine, ctx):
    """All ITags are given up, and answered by the devices only when new invalidations wait for them: those are not ended by it."""
    machine.manners = [LATE]
    await machine.setup(ctx)
    for _ in range(TAGS):
        machine.offer_inval(IDS[4])
        await machine.until(ctx, lambda: machine.offered is None)
    await machine.until(ctx, lambda: ctx.get(machine.dut.late) == (1 << TAGS) - 1)
    machine.manners = [PROMPT]
    machine.offer_inval(IDS[4])
    await machine.quiet(ctx)
    assert machine.seen == {"given up": TAGS, "done": 1}


async def quarantined(machine, ctx):
    """A device that does not answer a round makes it fail, and so does the next, until software has released it."""
    await machine.setup(ctx)
    machine.manners = [NEVER]
    for _ in range(2):
        machine.offer_round(7)
        await machine.until(ctx, lambda: machine.round_offered is None)
        assert ctx.get(machine.dut.quarantined) == 2
    assert machine.failures == 2 and len(machine.rounds[0].sent) == 1 and not machine.rounds[1].sent
    machine.manners = [PROMPT]
    machine.devices[IDS[1]].reset()
    await pulse(ctx, machine, machine.dut.release_tags, (1 << TAGS) - 1)
    await pulse(ctx, machine, machine.dut.release_devices, 2)
    machine.offer_round(7)
    await machine.until(ctx, lambda: machine.round_offered is None)
    assert machine.failures == 2 and not ctx.get(machine.dut.quarantined)


async def blocked(machine, ctx):
    """Nothing leaves for long: commands are taken and given up in time all the same, and what was handed out before stays there."""
    await machine.setup(ctx)
    machine.blocked = {"invalidations", "responses"}
    for _ in range(2):
        for offer in (machine.offer_inval, machine.offer_response):
            offer()
            await machine.until(ctx, lambda: machine.offered is None, 3 * BOUND)
    await machine.until(ctx, lambda: not ctx.get(machine.dut.commands.pending))
    assert machine.expired == 4
    machine.commands, machine.responses = machine.commands[:1], machine.responses[:1]
    machine.offer_inval()
    for blocked_, cycles in (({"invalidations", "responses"}, 20), ({"invalidations"}, 20), (set(), 300)):
        machine.blocked = blocked_
        for _ in range(cycles):
            await machine.step(ctx)
    assert not machine.responses and all(one.done for one in machine.commands) and machine.expired == 4


async def counts_differ(machine, ctx):
    """A broken device says 3, then 2: the second does not end it, the third does."""
    dut = machine.dut
    await machine.setup(ctx)
    machine.manners = [Manner(3, (9000, 9000))]
    machine.offer_inval(IDS[0])
    await machine.until(ctx, lambda: machine.commands and machine.commands[0].sent)
    for number, count in enumerate((3, 2, 1)):
        assert ctx.get(dut.commands.pending)
        machine.waiting = Completion(IDS[0], 1 << next(iter(machine.devices[IDS[0]].outstanding)), count)
        await machine.until(ctx, lambda: machine.waiting is None)
        for _ in range(TAGS + 1 if number < 2 else 0):
            await machine.step(ctx)
    for _ in range(TAGS + 2):
        await machine.step(ctx)
    assert not ctx.get(dut.commands.pending) and not machine.expired


def directed(dut, test, name="directed"):
    machine = Machine(dut, seeded(name))

    async def bench(ctx):
        await test(machine, ctx)

    run(dut, bench)


@pytest.mark.hazard("H32")
@pytest.mark.parametrize("test", [late_completion, quarantined, blocked, counts_differ])
def test_case(test):
    directed(AtsInvalidations(TAGS), test)


@pytest.mark.parametrize("rows", [2, 4])
def test_a_round_without_devices_ends_at_once(rows):
    dut = AtsInvalidations(2, rows)

    async def bench(ctx):
        ctx.set(dut.round.payload.gscid, 3)
        ctx.set(dut.round.valid, 1)
        for _ in range(2 * rows + 1):
            assert not ctx.get(dut.round.ready)
            await ctx.tick()
        assert ctx.get(dut.round.ready) and not ctx.get(dut.round_failed)

    run(dut, bench)


def test_there_are_as_many_tags_and_devices_as_are_built():
    with pytest.raises(ValueError, match=r"^Invalidations must have 2, 4, 8, 16 or 32 tags, not 3$"):
        AtsInvalidations(3)
    with pytest.raises(ValueError, match=r"^Devices of invalidations must be 2 to 64, not 1$"):
        AtsInvalidations(4, 1)


def random_traffic(dut):
    traffic(dut, "ats bug", USUAL + UNUSUAL, turns=8)


def directly(test):
    return lambda dut: directed(dut, test)


@pytest.mark.hazard("H32")
@pytest.mark.parametrize(("change", "test"), [
    (("asked & fits & (row.heard == before)", "asked & fits"), random_traffic),
    (("heard.before.eq(came.count - 1)", "heard.before.eq(Mux(came.count == 0, 0, came.count - 1))"), random_traffic),
    (("& (row.requester_id == heard.requester_id)", ""), random_traffic),
    (("self._of_round & here).any()):\n                m.d.sync += [self._failed.eq(1), self",
      "self._of_round & here).any()):\n                m.d.sync += [self"), random_traffic),
    (("m.d.comb += self.commands.expired.eq(1)", "pass"), random_traffic),
    (("(self.late & ~self._released) | here)]", "self.late & ~self._released)]"), directly(late_completion)),
    (("self._device == self.count - 1", "self._taken"), random_traffic), (("m.If(~outstanding)", "m.If(1)"), random_traffic),
    (("~quarantined & ", ""), directly(quarantined)), (("self._wanted.of_round, self._of_round | here", "0, self._of_round | here"), random_traffic),
    (("Mux(heard.before > row.before, heard.before, row.before)", "heard.before"), directly(counts_differ)),
    (("self._waits & self._is_past(self._wanted.deadline)", "0"), directly(blocked)),
    (("self._waits & self._overdue & ~", "self._overdue & ~"), directly(blocked)),
    (("self._wanted.deadline)),", "self._wanted.deadline) & ~self._wanted.response),"), directly(blocked)),
    (("with m.If(placed):", "with m.If(1):"), directly(blocked)), (("wanted.payload[32:41]", "wanted.payload[33:42]"), random_traffic),
    (("came.itags[self.tags:].any() | ~came", "~came"), random_traffic),
], ids=["counted once", "count of 8", "of another device", "believed in a round", "believed", "late one ends a newer", "round of one",
        "round does not wait", "quarantine", "round or not", "counts differ", "waits for ever", "dropped twice", "response waits for ever",
        "response for another", "group", "unexpected"])
def test_planted_bug_is_found(change, test):
    with pytest.raises((AssertionError, StopIteration, KeyError, RuntimeError)):
        test(planted(AtsInvalidations, *change)(TAGS))
