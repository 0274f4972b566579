"""What the tests of the adapters to hard blocks share: the core's side, and random TLPs."""

import os
import random

from pagehop_tb.pins import BeatFormat
from pagehop_tb.protocol import Kind, Tlp

CLOCK = 4e-9
BEATS = BeatFormat(64)

#: Completions of every kind.
COMPLETIONS = (Kind.CPL, Kind.CPLD, Kind.CPLLK, Kind.CPLDLK)


def generator(name):
    seed = f"{os.environ.get('SEED', '1')} {name}"
    print(f"seed {seed!r}")
    return random.Random(seed)


def attributes(rng):
    return {"relaxed_ordering": rng.random() < 0.3, "id_ordering": rng.random() < 0.3, "no_snoop": rng.random() < 0.3,
            "traffic_class": rng.choice((0, rng.randrange(8))), "requester_id": rng.getrandbits(16), "tag": rng.randrange(256)}


def random_length(rng):
    return rng.choice((1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 16, 17, 20, 27, 28, 29, 30, 32, 33, 64, rng.randint(1, 64)))


def random_request(rng, kinds):
    kind = rng.choice(kinds)
    common = attributes(rng)
    if kind in (Kind.MSG, Kind.MSGD):
        length = rng.choice((1, 20)) if kind is Kind.MSGD else 0
        return Tlp(kind, address=rng.getrandbits(62) << 2, length=length, data=rng.randbytes(4 * length), code=0x7E, **common)
    address = rng.getrandbits(rng.choice((30, 58))) & ~3
    if kind in (Kind.FETCH_ADD, Kind.SWAP, Kind.CAS):
        length = rng.choice((2, 4, 8) if kind is Kind.CAS else (1, 2))
        return Tlp(kind, address=address & ~31, length=length, first_be=15, last_be=15 * (length > 1), data=rng.randbytes(4 * length), **common)
    length = random_length(rng)
    if kind in (Kind.IORD, Kind.IOWR):
        length, address = 1, address & 0xFFFC
    first, last = (rng.randrange(16), 0) if length == 1 else (rng.randrange(1, 16), rng.randrange(1, 16))
    data = rng.randbytes(4 * length) if kind in (Kind.MWR, Kind.IOWR) else b""
    if kind is Kind.MRD:
        length = rng.choice((length, 1024)) if length > 1 else 1
        common["address_type"] = rng.choice((0, 0, 2))
    return Tlp(kind, address=address, length=length, first_be=first, last_be=last, data=data, **common)


def random_completion(rng):
    kind, length = rng.choice((*COMPLETIONS, Kind.CPLD, Kind.CPLD)), random_length(rng)
    with_data = kind in (Kind.CPLD, Kind.CPLDLK)
    return Tlp(kind, length=length * with_data, data=rng.randbytes(4 * length * with_data), completer_id=rng.getrandbits(16),
               status=0 if with_data else rng.choice((1, 2, 4)), byte_count=rng.choice((1, 4, 77, 4095, 4096)), lower_address=rng.randrange(128),
               poisoned=with_data and rng.random() < 0.1, **attributes(rng))


class CoreSide:
    """Credits of the core: each class has its own, given back after a while."""

    def __init__(self, rng, headers, units):
        self.rng, self.given, self.used = rng, [[headers[flow], units[flow]] for flow in range(3)], [[0, 0] for _ in range(3)]
        self.late, self.starved = [], set()

    def arrived(self, tlp, cycle):
        flow = tlp.flow
        self.used[flow][0] += 1
        self.used[flow][1] += tlp.data_credits
        for kind in range(2):
            assert self.used[flow][kind] <= self.given[flow][kind], f"{tlp} exceeds its credits"
        self.late.append((cycle + self.rng.randrange(30), flow, tlp.data_credits))

    def limits(self, cycle):
        for entry in [entry for entry in self.late if entry[0] <= cycle and entry[1] not in self.starved]:
            self.late.remove(entry)
            self.given[entry[1]][0] += 1
            self.given[entry[1]][1] += entry[2]
        return sum((header & 0xFF | (units & 0xFFF) << 8) << 21 * flow for flow, (header, units) in enumerate(self.given))
