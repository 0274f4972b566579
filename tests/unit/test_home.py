"""The home of the bench: what a master may do, and each rule that it may not break."""

import pytest

from pagehop_tb.models.home import LINE, A, C, Cap, FromMaster, Home, HomeError, OpA, OpC, OpD, Shrink
from pagehop_tb.simulate import seeded

ACQUIRE = A(OpA.ACQUIRE_BLOCK, 1, 6, 0, LINE)
PUT = A(OpA.PUT_FULL, 0, 6, 1, LINE)
BACK = C(OpC.RELEASE, Shrink.T_TO_N, 6, 0, LINE)
ANSWER = C(OpC.PROBE_ACK, Shrink.T_TO_N, 6, 0, LINE)


class Master:
    """Shows one thing at a time until it is taken."""
    def __init__(self, **options):
        self.home = Home(seeded("home"), latency=lambda: 1, **options)
        self.idle()

    def step(self, **shows):
        return self.home.step(FromMaster(**{"b_ready": 1, "d_ready": 1, **shows}))

    def idle(self, cycles=1):
        for _ in range(cycles):
            self.step()

    def send(self, *beats):
        for beat in beats:
            self.step(**{"a" if isinstance(beat, A) else "c": beat})

    def answered(self, opcode):
        """Wait for the last beat of an answer."""
        last = None
        for _ in range(30):
            shown = self.home.shows.d
            self.step()
            if shown is None and last is not None:
                assert last.opcode == opcode
                return last
            last = shown
        raise AssertionError("no answer")

    def own(self):
        """Own the line and acknowledge."""
        self.send(ACQUIRE)
        sink = self.answered(OpD.GRANT_DATA).sink
        self.step(e=sink)
        assert self.home.holds(1) == "T"
        return sink

    def probed(self, line=1):
        self.home.probe(line, Cap.TO_N)
        self.idle(5)


def test_a_line_goes_there_and_back():
    master = Master()
    master.own()
    master.send(*(BACK._replace(opcode=OpC.RELEASE_DATA, data=word) for word in range(8)))
    master.answered(OpD.RELEASE_ACK)
    assert master.home.holds(1) == "N" and master.home.idle and [master.home.word(LINE + 8 * word) for word in range(8)] == [*range(8)]
    access = master.home.access(0, LINE + 24)
    master.own()
    assert access.result == 3 and access.done is not None
    waiting = master.home.access(1, LINE + 24, 99)
    master.idle(5)
    assert waiting.done is None
    master.send(ANSWER)
    master.idle(5)
    assert waiting.done is not None and waiting.result == 3 and master.home.word(LINE + 24) == 99
    # A swap is made of what is expected only; it says what stood there.
    for expected, after in ((98, 99), (99, 7)):
        assert master.home.access(1, LINE + 24, 7, expected).result == 99 and master.home.word(LINE + 24) == after


def _wrong(name):
    master = Master(patience=20)
    match name:
        case "a beat changes while it waits":
            master.home.stalled = "a"
            master.idle()
            master.send(ACQUIRE, ACQUIRE._replace(address=0))
        case "beats of two messages":
            master.send(PUT, ACQUIRE)
        case "two operations of one source":
            master.send(A(OpA.GET, 0, 3, 1, 0), A(OpA.GET, 0, 3, 1, 8))
        case "an address that is not aligned":
            master.send(PUT._replace(address=LINE + 8))
        case "a mask that does not fit":
            master.send(A(OpA.GET, 0, 2, 1, 4, 0x0F))
        case "a line that is owned already":
            master.own()
            master.send(ACQUIRE)
        case "a line whose release is open":
            master.own()
            master.send(BACK, ACQUIRE)
        case "a release before the acknowledgement":
            master.send(ACQUIRE)
            master.answered(OpD.GRANT_DATA)
            master.send(BACK)
        case "a release of what is not owned":
            master.send(BACK)
        case "an answer to no probe":
            master.own()
            master.send(ANSWER)
        case "an answer from another state":
            master.own()
            master.probed()
            master.send(ANSWER._replace(param=Shrink.N_TO_N))
        case "an answer that keeps too much":
            master.own()
            master.probed()
            master.send(ANSWER._replace(param=Shrink.T_TO_B))
        case "an answer while a release is open":
            master.own()
            master.home.probe(1)
            master.idle(4)
            master.send(BACK, ANSWER._replace(param=Shrink.N_TO_N))
        case "data of a line that is not owned":
            master.probed()
            master.send(ANSWER._replace(opcode=OpC.PROBE_ACK_DATA, param=Shrink.N_TO_N))
        case "no answer":
            master.own()
            master.probed()
            master.idle(30)
        case "no acknowledgement":
            master.send(ACQUIRE)
            master.idle(50)
        case "an acknowledgement of nothing":
            master.step(e=0)
        case "two acknowledgements":
            sink = master.own()
            master.step(e=sink)


def test_lines_of_a_device_are_fetched():
    """The answer waits for the device, others do not wait for it, and what the device refuses is denied."""
    asked, master = {}, Master()
    master.home.remote = LINE, LINE, lambda address, size, done: asked.setdefault((address, size), done)
    master.send(ACQUIRE)
    master.idle(5)
    master.send(PUT._replace(opcode=OpA.GET, size=3, address=0))
    master.answered(OpD.ACCESS_ACK_DATA)
    (one, done), = asked.items()
    assert one == (LINE, LINE) and not master.home.idle
    done(b"".join(word.to_bytes(8, "little") for word in range(8)))
    grant = master.answered(OpD.GRANT_DATA)
    assert grant.data == 7 and not grant.denied
    master.step(e=grant.sink)
    master.send(BACK)
    master.answered(OpD.RELEASE_ACK)
    master.send(PUT._replace(opcode=OpA.GET, size=3, address=LINE + 8))
    master.idle(5)
    asked[LINE + 8, 8](b"")
    assert master.answered(OpD.ACCESS_ACK_DATA).denied
    with pytest.raises(HomeError, match="writes to a line that a device has"):
        master.send(*[PUT] * 8)
        master.idle(5)


@pytest.mark.parametrize(("name", "says"), [
    ("a beat changes while it waits", "which was not taken"), ("beats of two messages", "between the beats"),
    ("two operations of one source", "has the source of an operation"), ("an address that is not aligned", "no multiple of its size"),
    ("a mask that does not fit", "the mask of"), ("a line that is owned already", "of which the master has T"),
    ("a line whose release is open", "release is not acknowledged"), ("a release before the acknowledgement", "grant is not acknowledged"),
    ("a release of what is not owned", "from a state"), ("an answer to no probe", "answers no probe"),
    ("an answer from another state", "from a state"),
    ("an answer that keeps too much", "keeps more"), ("an answer while a release is open", "release is not acknowledged"),
    ("data of a line that is not owned", "brings data"), ("no answer", "was not answered in 20"), ("no acknowledgement", "not acknowledged in 20"),
    ("an acknowledgement of nothing", "acknowledges nothing"), ("two acknowledgements", "acknowledges nothing"),
])
def test_a_broken_rule_is_told(name, says):
    with pytest.raises(HomeError, match=says):
        _wrong(name)
