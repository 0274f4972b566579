"""A memory at an uncached TileLink port, one request at a time, for the unit tests of what uses it."""

GET, PUT_FULL, PUT_PARTIAL = 4, 0, 1
ACCESS_ACK, ACCESS_ACK_DATA = 0, 1


class UncachedMemory:
    """Words of 8 bytes by address. :meth:`before` drives the port for the coming cycle, :meth:`after` looks at what is transferred in it.

    ``latency`` is the number of cycles from a request to the first beat of its answer. Requests for an address in ``denied`` (by line of 64 bytes)
    are denied, beats of a word in ``corrupt`` are. ``stores`` has (address, bytes) of each write that was done, or tried, by ``denied`` or not.
    """
    def __init__(self, port, rng, latency=None):
        self.port, self.rng, self.latency = port, rng, latency
        self.words, self.denied, self.corrupt = {}, set(), set()
        self.stores, self.reads = [], []
        self.answers, self.wait, self.kept, self.burst = [], 0, None, None

    @property
    def busy(self):
        return bool(self.answers or self.burst)

    def before(self, ctx):
        calm = self.latency is not None
        self.ready = calm or self.rng.random() < 0.7
        ctx.set(self.port.a.ready, self.ready)
        self.wait = max(0, self.wait - 1)
        self.valid = bool(self.answers) and not self.wait and (calm or self.rng.random() < 0.8)
        ctx.set(self.port.d.valid, self.valid)
        if self.valid:
            ctx.set(self.port.d.payload, self.answers[0])

    def after(self, ctx):
        if self.valid and ctx.get(self.port.d.ready):
            self.answers.pop(0)
            if self.latency is None and self.rng.random() < 0.05:
                self.wait = 20
        valid = ctx.get(self.port.a.valid)
        request = ctx.get(self.port.a.payload.as_value()) if valid else None
        assert self.kept is None or request == self.kept, "a request that was not taken has changed"
        self.kept = request if valid and not self.ready else None
        if valid and self.ready:
            self.take(ctx.get(self.port.a.payload))

    def take(self, ask):
        assert not self.answers, "a second request before the first is answered"
        size, bytes_ = ask.size, 1 << ask.size
        lanes = (1 << min(8, bytes_)) - 1 << (ask.address % 8 if bytes_ < 8 else 0)
        assert ask.address % bytes_ == 0 and size <= 6 and ask.mask == lanes and ask.param == 0 and not ask.corrupt, "a malformed request"
        denied = ask.address // 64 in self.denied
        self.wait = self.latency if self.latency is not None else self.rng.randrange(1, 12)
        answer = {"size": size, "source": ask.source, "denied": denied, "param": 0, "sink": 0}
        if ask.opcode.value == GET:
            self.reads.append((ask.address, bytes_))
            for word in range(ask.address // 8, (ask.address + max(bytes_, 8)) // 8):
                self.answers.append({**answer, "opcode": ACCESS_ACK_DATA, "data": self.words.get(word, self.rng.getrandbits(64)),
                                     "corrupt": denied or word in self.corrupt})
            return
        assert ask.opcode.value == PUT_FULL
        data = ask.data.to_bytes(8, "little")
        first, self.burst = self.burst or ((ask.address, size), b""), None
        assert first[0] == (ask.address, size), "the beats of a burst differ"
        data = first[1] + (data if bytes_ >= 8 else data[ask.address % 8:][:bytes_])
        if len(data) < bytes_:
            self.burst = (ask.address, size), data
            return
        self.stores.append((ask.address, data, denied))
        self.answers.append({**answer, "opcode": ACCESS_ACK, "data": 0, "corrupt": 0})
