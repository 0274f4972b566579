"""A device, its host and a translator around the TLP side of the IOMMU, one step a cycle, and what must come out."""

from collections import deque
from dataclasses import dataclass, replace

from pagehop_tb.pins.beats import BeatFormat
from pagehop_tb.protocol import TRANSLATED, TRANSLATION_REQUEST, FlowClass, Kind, Tlp, answer, memory_read, memory_write, violations

OWN, DEVICE, HOST, PAGE = 0x0042, 0x0300, 0x0008, 4096
READ, WRITE, TRANSLATED_READ, TRANSLATED_WRITE, ATS = 2, 3, 6, 7, 8
NAMES = {FlowClass.POSTED: "posted", FlowClass.NON_POSTED: "non_posted", FlowClass.COMPLETION: "completion"}
#: Pages by size: size in the answer, base-2 logarithm of the pages that it covers.
SIZES = ((0, 0), (1, 4), (2, 9), (3, 18), (4, 27), (7, 44))


@dataclass
class Answer:
    """What the translator says of a page: its status, the physical page, its size, and what may be done."""
    status: int
    ppn: int
    size: int
    readable: int
    writable: int


def refusal_of(page):
    """0 for pages that are translated, or the status of those that are not."""
    return {0: 1, 1: 2}.get(page * 40503 >> 8 & 7, 0)


def physical(page, generation):
    """The page that stands for ``page``, with its size. Every second lies above 4 GB; all that is large keeps its low bits."""
    size, bits = SIZES[page >> 3 & 1 and page >> 4 & 3]
    ppn = 0x8000 | generation % 16 << 16 | (page & 0x7FFF ^ 0x2A5A)
    ppn |= (page & 1) << 33 if bits < 18 else generation % 16 << 34
    return (ppn >> bits << bits | page & (1 << bits) - 1), size


def answer_of(request, generation):
    page, access = request["iova"] >> 12, request["access"]
    ppn, size = physical(page, generation)
    if access in (TRANSLATED_READ, TRANSLATED_WRITE):
        return Answer(refusal_of(page), page & (1 << 44) - 1, 7, 1, 1)
    readable, writable = (page >> 5 & 1, page >> 6 & 1) if access == ATS else (1, int(access == WRITE))
    # Of a large page only what it has in common is said.
    bits = dict(SIZES)[size]
    return Answer(refusal_of(page), ppn >> bits << bits | (page * 7 & (1 << bits) - 1), size, readable, writable)


def entry_of(page, answered):
    """Eight bytes of a translation completion (10.2.3)."""
    bits = {0: 0, 1: 4, 2: 9, 3: 18, 4: 27, 7: 9}[answered.size]
    ppn = answered.ppn if answered.size != 7 else page
    if bits:
        ppn = ppn >> bits << bits | (1 << bits - 1) - 1
    return (ppn << 12 | bool(bits) << 11 | answered.writable << 1 | answered.readable).to_bytes(8, "big")


class Link:
    """The partner at one port: sends under the credits it has, takes under those that it gives, both with random pauses."""

    def __init__(self, port, rng, beats, take):
        self.port, self.rng, self.beats, self.take = port, rng, beats, take
        self.queue, self.sending, self.came, self.pace = {kind: deque() for kind in FlowClass}, deque(), [], 0.8
        self.grants, self.most = 0.5, (8, 64)       # how often credits are given, and how many at most
        self.order = deque()                        # classes in the order in which TLPs shall be sent
        self.spent = {kind: [0, 0] for kind in FlowClass}
        self.used, self.granted = {kind: [0, 0] for kind in FlowClass}, {kind: [1, 20] for kind in FlowClass}
        self.starved, self.sent = set(), []

    def send(self, *tlps):
        for tlp in tlps:
            self.order.append(tlp)

    def idle(self):
        return not self.order and not self.sending

    def credits(self, ctx):
        """Headers and units of each class that could be sent now."""
        limits = ctx.get(self.port.rx_limits)
        return {name: ((limits[name].header - self.spent[kind][0]) % 256, (limits[name].data - self.spent[kind][1]) % 4096)
                for kind, name in NAMES.items()}

    def begin(self, limits):
        """The next TLP, unless it has no credits; then one of another class behind it, which may pass."""
        seen = set()
        for place, tlp in enumerate(self.order):
            flow = tlp.flow
            if flow in seen or (FlowClass.POSTED in seen):
                continue
            limit, spent = limits[NAMES[flow]], self.spent[flow]
            if limit["infinite"] or 0 < (limit["header"] - spent[0]) % 256 < 128 and (limit["data"] - spent[1] - tlp.data_credits) % 4096 < 2048:
                del self.order[place]
                spent[0] += 1
                spent[1] += tlp.data_credits
                self.sending.extend(self.beats.pack(tlp))
                self.sent.append(tlp)
                return tlp
            seen.add(flow)
        return None

    def before(self, ctx):
        port, rng = self.port, self.rng
        begun = None
        if not self.sending and self.order and rng.random() < self.pace:
            limits = ctx.get(port.rx_limits)
            begun = self.begin({name: {part: limits[name][part] for part in ("header", "data", "infinite")} for name in NAMES.values()})
        self.valid = bool(self.sending) and (begun is not None or rng.random() < self.pace)
        ctx.set(port.rx.valid, self.valid)
        if self.valid:
            ctx.set(port.rx.payload.as_value(), self.sending[0])
        for kind, granted in self.granted.items():
            if kind not in self.starved and rng.random() < self.grants:
                granted[0] = min(granted[0] + 1, self.used[kind][0] + self.most[0])
                granted[1] = min(granted[1] + 8, self.used[kind][1] + self.most[1])
        ctx.set(port.tx_limits, {name: {"header": self.granted[kind][0] % 256, "data": self.granted[kind][1] % 4096, "infinite": 0}
                                 for kind, name in NAMES.items()})
        self.ready = rng.random() < self.pace
        ctx.set(port.tx.ready, self.ready)
        return begun

    def after(self, ctx):
        if self.valid:
            assert ctx.get(self.port.rx.ready), "a TLP within its credits is not taken"
            self.sending.popleft()
        if self.ready and ctx.get(self.port.tx.valid):
            self.came.append(int(ctx.get(self.port.tx.payload.as_value())))
            if self.beats.is_last(self.came[-1]):
                tlp = self.beats.unpack(self.came)
                self.came = []
                problems = violations(tlp, mps=256)
                assert not problems, f"{tlp}: {problems}"
                used, granted = self.used[tlp.flow], self.granted[tlp.flow]
                used[0] += 1
                used[1] += tlp.data_credits
                assert used[0] <= granted[0] and used[1] <= granted[1], "credits overspent"
                self.take(tlp)


class Machine:
    """The whole around ``dut``. Work is put into ``device`` and ``host``; :meth:`step` does one cycle."""

    def __init__(self, dut, rng):
        self.dut, self.rng, self.cycle, self.generation, self.compared = dut, rng, 0, 0, 0
        self.drained_now = False
        beats = BeatFormat(dut.data_bytes)
        self.device, self.host = Link(dut.device, rng, beats, self.at_device), Link(dut.host, rng, beats, self.at_host)
        # In the order in which the device sent them, of each class: a TLP, posted ones that go on before it, and posted ones of any kind before it.
        self.up = {kind: deque() for kind in FlowClass}
        self.down = {kind: deque() for kind in FlowClass}
        self.posted_up, self.posted_down, self.came_up, self.came_down = 0, 0, 0, 0
        self.answers, self.entries = {}, {}     # refusals and translations by requester and tag
        self.asked, self.latency, self.stuck = {}, lambda request: rng.randint(1, 30), lambda request: False
        self.messages, self.message_order = {"completions": deque(), "page_requests": deque()}, deque()
        self.invalidations, self.responses, self.own_messages = deque(), deque(), {1: deque(), 5: deque()}
        self.host_delay, self.answering, self.reads_of = (lambda: rng.randint(1, 60)), [], {}
        self.hold, self.draining, self.drains, self.safe = 0, False, 0, 0
        self.oldest = 0                         # generation before which nothing may come any more
        self.proven, self.flushes = 0, 0        # posted TLPs that a flush has proven, flushes seen
        self.failed, self.may_fail, self.limit = False, False, 2000
        self.last_posted = {}                   # how many posted TLPs had come with the last of each generation
        self.requests_seen, self.taken, self.must = [], [], 0

    # What the device sends, and what is expected of it.
    def expect_up(self, tlp):
        refused = tlp.is_memory and (tlp.address_type == 3 or (tlp.address_type == TRANSLATION_REQUEST and tlp.kind is not Kind.MRD)
                                     or refusal_of(tlp.address >> 12))
        if tlp.kind is Kind.MSG and tlp.code in (2, 4):
            self.messages["completions" if tlp.code == 2 else "page_requests"].append((tlp, self.posted_up))
            return
        if tlp.kind is Kind.MRD and tlp.address_type == TRANSLATION_REQUEST:
            self.answers[tlp.requester_id, tlp.tag] = tlp
            return
        if refused:
            if tlp.flow is FlowClass.NON_POSTED:
                self.answers[tlp.requester_id, tlp.tag] = tlp
            return
        self.up[tlp.flow].append((tlp, self.posted_up))
        self.posted_up += tlp.flow is FlowClass.POSTED

    def expect_down(self, tlp):
        if tlp.is_completion and tlp.requester_id == OWN:
            return
        self.down[tlp.flow].append((tlp, self.posted_down))
        self.posted_down += tlp.flow is FlowClass.POSTED

    def at_host(self, tlp):
        if tlp.requester_id == OWN and tlp.kind is Kind.MRD:
            assert (tlp.first_be, tlp.last_be, tlp.length) == (0, 0, 1), "a flush that reads something"
            self.answering.append((self.cycle + self.host_delay(), tlp, self.came_up))
            self.flushes += 1
            return
        assert self.up[tlp.flow], f"{tlp} was never sent"
        sent, before = self.up[tlp.flow].popleft()
        assert before <= self.came_up, f"{tlp} passed {before - self.came_up} posted TLPs"
        self.came_up += tlp.flow is FlowClass.POSTED
        expected, generation = sent, self.generation
        if sent.is_memory and sent.address_type == 0:
            generation = next((g for g in range(self.generation, max(-1, self.generation - 16), -1)
                               if physical(sent.address >> 12, g)[0] == tlp.address >> 12), -1)
            assert generation >= 0, f"{sent} went to {tlp.address:#x}"
            assert generation >= self.oldest, f"{tlp} comes by translation {generation} after that was said to be drained"
            address = physical(sent.address >> 12, generation)[0] << 12 | sent.address & 0xFFF
            expected = replace(sent, address=address, four_dw=None)
        assert tlp == expected, f"{tlp} and not {expected}"
        self.compared += 1
        if tlp.flow is FlowClass.POSTED and sent.is_memory and sent.address_type == 0:
            self.last_posted[generation] = self.came_up
        if tlp.flow is FlowClass.NON_POSTED:
            self.reads_of[tlp.requester_id, tlp.tag] = generation
            self.answering.append((self.cycle + self.host_delay(), tlp, None))

    def at_device(self, tlp):
        self.compared += 1
        if tlp.is_completion and tlp.completer_id == OWN:
            request = self.answers.pop((tlp.requester_id, tlp.tag))
            page = request.address >> 12
            refused = refusal_of(page) if request.address_type != 3 else 1
            if request.address_type == TRANSLATION_REQUEST and request.kind is Kind.MRD and not refused:
                asked, since = {"iova": request.address, "access": ATS}, max(0, self.generation - 15)
                translations = [answer_of(asked, generation) for generation in range(since, self.generation + 1)]
                assert tlp.data in [entry_of(page, one) for one in translations], f"{tlp.data.hex()} for {request}"
                assert tlp == replace(answer(request, OWN, 0, tlp.data, 8, 0)), f"{tlp} answers {request}"
                return
            assert refused and not tlp.data and tlp.status == {1: 1, 2: 4}[refused], f"{tlp} answers {request}"
            assert (tlp.traffic_class, tlp.relaxed_ordering) == (request.traffic_class, request.relaxed_ordering)
            return
        if tlp.is_message and tlp.requester_id == OWN:
            expected = self.own_messages[tlp.code].popleft()
            assert tlp == expected, f"{tlp} and not {expected}"
            return
        sent, before = self.down[tlp.flow].popleft()
        assert before <= self.came_down, f"{tlp} passed a posted TLP on its way to the device"
        self.came_down += tlp.flow is FlowClass.POSTED
        assert tlp == sent, f"{tlp} and not {sent}"

    def host_answers(self):
        """Completions whose time has come; each read has one."""
        for due in [one for one in self.answering if one[0] <= self.cycle]:
            self.answering.remove(due)
            _, tlp, came = due
            if came is not None:
                self.proven = max(self.proven, came)
                self.host.send(answer(tlp, HOST, 0, bytes(4), 1, tlp.address & 0x7C))
            else:
                data = self.rng.randbytes(4 * tlp.length if tlp.kind is Kind.MRD else 4 * tlp.length // (2 if tlp.kind is Kind.CAS else 1))
                self.host.send(answer(tlp, HOST, 0, data, len(data), tlp.address & 0x7F if tlp.kind is Kind.MRD else 0))

    def translate(self, ctx):
        dut, rng = self.dut, self.rng
        due = [ident for ident, (when, request) in self.asked.items() if when <= self.cycle and not self.stuck(request)]
        ctx.set(dut.translated.valid, bool(due))
        if due:
            ident = rng.choice(due)
            _, request = self.asked.pop(ident)
            said = answer_of(request, self.generation)
            ctx.set(dut.translated.payload, {"id": ident, "status": said.status, "translation": {
                "ppn": said.ppn, "size": said.size, "readable": said.readable, "writable": said.writable}})
        self.takes = rng.random() < 0.9
        ctx.set(dut.translate.ready, self.takes)

    def translated(self, ctx):
        dut = self.dut
        if self.takes and ctx.get(dut.translate.valid):
            payload = ctx.get(dut.translate.payload)
            request = {name: int(getattr(payload, name)) if name != "access" else payload.access.value
                       for name in ("id", "device_id", "iova", "no_write", "process_valid", "process", "privileged", "access")}
            assert request["id"] not in self.asked, "an id is used twice"
            assert request["access"] != ATS or not ctx.get(dut.ats_quiet), "an ATS request is asked for after quiet"
            self.asked[request["id"]] = (self.cycle + self.latency(request), request)
            self.requests_seen.append(request)

    def take_messages(self, ctx):
        for name, queue in self.messages.items():
            port = getattr(self.dut, name)
            if ctx.get(port.valid) and ctx.get(port.ready):
                tlp, before = queue.popleft()
                said = ctx.get(port.payload)
                prefix = tlp.prefix or 0
                if name == "completions":
                    assert (said.requester_id, said.itags, said.count) == (tlp.requester_id, tlp.address & 0xFFFFFFFF, tlp.address >> 32 & 7)
                else:
                    assert (said.requester_id, said.payload) == (tlp.requester_id, tlp.address), f"{tlp}"
                    assert (said.process_valid, said.process) == (tlp.prefix is not None, prefix & 0xFFFFF)
                    assert (said.privileged, said.execute) == (prefix >> 23 & 1, prefix >> 22 & 1)
                self.compared += 1
                self.taken.append((tlp, before))

    async def step(self, ctx, *, drain=False):
        dut, rng = self.dut, self.rng
        ctx.set(dut.own_id, OWN)
        ctx.set(dut.limit, self.limit)
        ctx.set(dut.flush_address, 0x1_2345_6780)
        self.host_answers()
        for link, expect in ((self.device, self.expect_up), (self.host, self.expect_down)):
            begun = link.before(ctx)
            if begun is not None:
                expect(begun)
        self.translate(ctx)
        for name in self.messages:
            ctx.set(getattr(dut, name).ready, rng.random() < 0.8)
        ctx.set(dut.ats_hold, self.hold > 0)
        self.hold += self.hold > 0
        for name, queue in (("invalidations", self.invalidations), ("responses", self.responses)):
            port = getattr(dut, name)
            ctx.set(port.valid, bool(queue))
            if queue:
                ctx.set(port.payload, queue[0])
        ctx.set(dut.drain, drain)
        taken = [queue for name, queue in (("invalidations", self.invalidations), ("responses", self.responses))
                 if queue and ctx.get(getattr(dut, name).ready)]
        self.take_messages(ctx)
        self.translated(ctx)
        for link in (self.device, self.host):
            link.after(ctx)
        self.drained_now = self.draining and bool(ctx.get(dut.drained))
        if self.drained_now:
            self.drained(ctx)
        if drain:
            self.must = max((before for _, before in self.taken), default=0)
            # What is answered from the next cycle on is the new.
            self.generation += 1
            self.draining = True
        await ctx.tick()
        for queue in taken:
            queue.popleft()
        self.cycle += 1

    def drained(self, ctx):
        """All that was translated before is in memory: posted TLPs proven by a flush, requests answered."""
        self.failed = bool(ctx.get(self.dut.drain_failed))
        assert not self.failed or self.may_fail, "a drain that failed"
        self.draining, self.oldest, self.drains = False, self.generation, self.drains + 1
        old = max((came for generation, came in self.last_posted.items() if generation < self.oldest), default=0)
        if self.failed:
            return
        assert self.must <= self.came_up, "a message came out before what was written ahead of it has its place"
        assert old <= self.proven, f"{old - self.proven} posted writes are not proven visible"
        late = [str(tlp) for _, tlp, came in self.answering if came is None and self.reads_of[tlp.requester_id, tlp.tag] < self.oldest]
        assert not late, f"{late} are not answered"

    def message(self, process, code, payload, device, itag=0):
        """What the device must get, and what is asked for."""
        prefix = 0x91 << 24 | process if process is not None else None
        kind = Kind.MSGD if code == 1 else Kind.MSG
        said = {"requester_id": device, "process_valid": process is not None, "process": process or 0}
        if code == 1:
            self.invalidations.append({**said, "itag": itag, "payload": payload})
            self.own_messages[1].append(Tlp(kind, OWN, itag, device << 48, 2, data=payload.to_bytes(8, "big"), code=1, routing=2, prefix=prefix))
        else:
            self.responses.append({**said, "group": payload & 0x1FF, "code": payload >> 9})
            words = device << 48 | (payload >> 9) << 44 | (payload & 0x1FF) << 32
            self.own_messages[5].append(Tlp(kind, OWN, 0, words, code=5, routing=2, prefix=prefix))

    def empty(self):
        return (self.device.idle() and self.host.idle() and not self.asked and not any(self.up.values()) and not any(self.down.values())
                and not self.answers and not any(self.messages.values()) and not self.answering
                and not any(self.own_messages.values()) and not self.draining)


class Writer:
    """Random TLPs of a device and of a host."""

    def __init__(self, rng):
        self.rng, self.tag, self.serial = rng, 0, 0

    def page(self):
        return self.rng.choice((self.rng.randrange(1 << 8), self.rng.randrange(1 << 36)))

    def data(self, dwords):
        self.serial += 1
        return self.serial.to_bytes(4, "little") + self.rng.randbytes(4 * dwords - 4)

    def type(self):
        return self.rng.choices((0, TRANSLATED, 3), (20, 3, 1))[0]

    def prefix(self):
        return self.rng.choice((None, None, None, 0x91 << 24 | self.rng.getrandbits(20) | self.rng.getrandbits(2) << 22))

    def write(self, page=None, dwords=None):
        dwords = dwords or self.rng.choice((1, 1, 2, 5, 16, 64))
        address = (self.page() if page is None else page) << 12 | self.rng.randrange((PAGE - 4 * dwords) // 4 + 1) * 4
        return replace(memory_write(DEVICE, address, self.data(dwords)), address_type=self.type() if page is None else 0)

    def read(self, page=None, address_type=None):
        self.tag = (self.tag + 1) % 256
        if page is None and self.rng.random() < 0.2:
            wide = self.rng.random() < 0.5
            kind, dwords = (Kind.CAS, 8) if wide else (Kind.FETCH_ADD, 1)
            return Tlp(kind, DEVICE, self.tag, self.page() << 12 | self.rng.randrange(256) * 16, dwords, data=self.data(dwords),
                       first_be=0xF, last_be=0)
        size = self.rng.choice((4, 8, 64, 128))
        page = self.page() if page is None else page
        read = memory_read(DEVICE, page << 12 | self.rng.randrange(PAGE // size) * size, size, self.tag, relaxed_ordering=self.rng.random() < 0.2)
        return replace(read, address_type=self.type() if address_type is None else address_type)

    def ats(self, page=None, no_write=None):
        self.tag = (self.tag + 1) % 256
        read = memory_read(DEVICE, (self.page() if page is None else page) << 12, 8, self.tag)
        return replace(read, address_type=TRANSLATION_REQUEST, processing_hint=self.rng.randrange(2) if no_write is None else no_write)

    def completion(self):
        dwords = self.rng.choice((0, 1, 16))
        request = memory_read(HOST, 0x1000, 4 * dwords, self.rng.randrange(256))
        return answer(request, DEVICE, 0 if dwords else 1, self.data(dwords) if dwords else b"", 4 * dwords or 4, 0)

    def message(self, code):
        rng = self.rng
        if code == 2:
            return Tlp(Kind.MSG, DEVICE, 0, rng.getrandbits(16) << 48 | rng.getrandbits(3) << 32 | rng.getrandbits(32), code=2, routing=2)
        if code == 4:
            return Tlp(Kind.MSG, DEVICE, 0, rng.getrandbits(64), code=4, routing=0, prefix=self.prefix())
        return Tlp(Kind.MSG, DEVICE, 0, 0, code=0x20, routing=4)

    def from_device(self):
        make = self.rng.choices((self.write, self.read, self.ats, self.completion, lambda: self.message(self.rng.choice((2, 4, 0x20)))),
                                (8, 5, 2, 3, 1))[0]
        return make()

    def from_host(self):
        rng = self.rng
        address = rng.getrandbits(20) << 12 | rng.randrange(48) * 64
        if rng.random() < 0.6:
            return replace(memory_write(HOST, address, self.data(rng.choice((1, 4, 16)))))
        return memory_read(HOST, address, 4, rng.randrange(256))
