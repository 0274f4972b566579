"""What a storm is made of: everything that one seed decides before it starts."""

from dataclasses import dataclass, replace
from random import Random

from pagehop_tb.models.delay import Delay
from pagehop_tb.models.device import DeviceConfig
from pagehop_tb.models.root_complex import RootComplexConfig
from pagehop_tb.models.system import SystemConfig
from pagehop_tb.pins import CreditConfig, PortCredits

__all__ = ["AGENTS", "Plan", "draw"]

#: Who may take part, and how likely.
AGENTS = {"traffic": 0.9, "nvme": 0.8, "nic": 0.7, "counter": 0.7, "peers": 0.7, "status": 0.6, "cpus": 0.7, "errors": 0.6, "harvest": 0.6,
          "hot": 0.5}

#: Base of the window and what Host B adds: both below 4 GB, both above, one of each, and a window that crosses 4 GB.
PLACES = ((0x4000_0000, 0), (0x4000_0000, 0x12_0000_0000), (0x1_0000_0000, 0x12_0000_0000), (0x1_0000_0000, -0xC000_0000),
          (0xFFFE_0000, -0xB000_0000), (0xFFFE_0000, 0x10_0000_0000))

#: TLPs of a class that may stand in an egress.
QUEUED = 64

#: Cycles of the shortest completion timeout that a device may have, 50 µs.
SHORT_TIMEOUT = 12_500


@dataclass(frozen=True)
class Plan:
    """``tight``: devices with a completion timeout of 50 µs that use their few tags again at once, and hosts and limits that let them live.

    Else delays go to thousands of cycles. ``starvation`` has (pause, length) of the episodes of each port, or None. ``fault_share`` of the moves
    meet a fault. ``polls``: CPUs poll rather than wait for interrupts, ``cpu_hosts`` where the driver of the NVMe device and of the NIC then runs.
    """

    tight: bool
    agents: frozenset[str]
    base: int
    host_b_offset: int
    hosts: tuple[RootComplexConfig, RootComplexConfig]
    functions: tuple[DeviceConfig, ...]
    device_credits: PortCredits
    host_credits: PortCredits
    starvation: dict[str, tuple[tuple[int, int], tuple[int, int]]]
    pauses: float
    shuffle: float
    fence: bool
    hold_limit: int
    completion_limit: int
    fault_share: float
    polls: bool
    cpu_hosts: tuple[int, int]

    def machine(self, usual: SystemConfig) -> SystemConfig:
        """The machine of this plan."""
        functions = tuple(replace(one, bar=old.bar) for one, old in zip(self.functions, usual.functions, strict=True))
        hosts = (replace(self.hosts[0], msi=usual.hosts[0].msi), replace(self.hosts[1], msi=usual.hosts[1].msi))
        return replace(usual, hosts=hosts, functions=functions, device_credits=self.device_credits, host_credits=self.host_credits,
                       pauses=self.pauses, shuffle=self.shuffle)

    def told(self) -> str:
        """The plan in a few lines, for the log."""
        hosts = "; ".join(f"Host {name}: posted {one.posted.low}-{one.posted.high}/{one.posted.rare and one.posted.longest}, "
                          f"read {one.read.low}-{one.read.high}/{one.read.rare and one.read.longest}, rcb {one.rcb}, mps {one.mps}, cut {one.cut}, "
                          f"torn {one.torn}, ido {one.completion_ido}" for name, one in zip("AB", self.hosts, strict=True))
        functions = ", ".join(f"{one.name} tags {one.tags} tc {one.traffic_class} mps {one.mps} mrrs {one.mrrs}" for one in self.functions)
        return (f"{'tight' if self.tight else 'loose'}; {', '.join(sorted(self.agents))}; window {self.base:#x} offset {self.host_b_offset:#x}; "
                f"{hosts}; {functions}; starved {self.starvation}; pauses {self.pauses}, fence {self.fence}, hold limit {self.hold_limit}, "
                f"completion limit {self.completion_limit}, faults {self.fault_share}, {'polling' if self.polls else 'interrupts'}")


def _delay(random: Random, tight: bool) -> Delay:
    """Of one path: from nothing to the longest that the limits allow."""
    if tight:
        return random.choice((Delay(0, 0), Delay(0, 20), Delay(20, 300), Delay(0, 60, 0.05, 600), Delay(100, 700)))
    return random.choice((Delay(0, 0), Delay(20, 300), Delay(0, 60, 0.02, 5000), Delay(0, 3000), Delay(500, 2500)))


def _host(random: Random, tight: bool) -> RootComplexConfig:
    gaps = (Delay(0, 0), Delay(0, 8), Delay(0, 60)) if tight else (Delay(0, 8), Delay(0, 200), Delay(0, 20, 0.02, 1500))
    return RootComplexConfig(
        posted=_delay(random, tight), read=_delay(random, tight), gap=random.choice(gaps), down=random.choice((Delay(0, 10), Delay(5, 300))),
        response=random.choice((Delay(0, 10), Delay(5, 300))), rcb=random.choice((64, 128)), mps=random.choice((128, 256)),
        cut=random.choice((0.0, 0.3, 1.0)), torn=random.choice((0.0, 0.3)), timeout=400_000, completion_ido=random.random() < 0.3)


def _credits(random: Random, completion: bool) -> PortCredits:
    posted = CreditConfig(random.choice((2, 8, 64)), random.choice((16, 40, 1024)), delay=(1, random.choice((4, 60))))
    non_posted = CreditConfig(random.choice((2, 8, 64)), random.choice((4, 64)), delay=(1, random.choice((4, 60))))
    infinite = not completion or random.random() < 0.6
    return PortCredits(posted, non_posted, CreditConfig(random.choice((4, 32)), random.choice((32, 256)), infinite=infinite))


def _functions(random: Random, tight: bool, status: bool) -> tuple[DeviceConfig, ...]:
    """With ``status`` the third tells by a register of what it wrote: CPUs read it in class 0, and the answers have no order with writes of another
    class (table 2-40, O7)."""
    common = random.choice((0, 0, 3))
    made = []
    for number, name in enumerate(("nvme", "nic", "third")):
        ten_bit = random.random() < 0.6
        made.append(DeviceConfig(
            name, random.choice((0x0108, 0x0200, 0x3F10)) + number, tags=random.choice((2, 4, 8)) if tight else random.choice((4, 32, 200)),
            ten_bit=ten_bit, reuse=tight or random.random() < 0.5, reuse_timed_out=tight, mps=random.choice((128, 256)),
            mrrs=random.choice((128, 512, 1024, 4096)), timeout=SHORT_TIMEOUT if tight else 2_500_000,
            traffic_class=common if random.random() < 0.7 else random.randrange(8)))
    if status:
        made[-1] = replace(made[-1], traffic_class=0)
    return tuple(made)


def _starvation(random: Random, tight: bool) -> dict[str, tuple[tuple[int, int], tuple[int, int]]]:
    found = {}
    for name in ("device", "host_a", "host_b"):
        if random.random() < 0.5:
            found[name] = ((1000, 6000), (1, 150)) if tight else random.choice((((300, 4000), (1, 400)), ((2000, 20_000), (500, 3000))))
    return found


def _longest(delay: Delay) -> int:
    return delay.longest if delay.rare else delay.high


def _queue_cycles(host: RootComplexConfig, granted: PortCredits) -> int:
    """Cycles after which what stands in a full egress has left at the latest, about: the credits of each come back only when it has taken effect.

    An answer takes that much longer, and the limits of the interposer must allow for it: what it gives up it cannot order any more.
    """
    posted, reads = granted.posted, granted.non_posted
    at_once = min(posted.header, posted.data // 16)
    return QUEUED * (_longest(host.posted) + posted.delay[1]) // at_once + QUEUED * (_longest(host.read) + reads.delay[1]) // reads.header


def _slow(random: Random, tight: bool) -> tuple[tuple[RootComplexConfig, RootComplexConfig], PortCredits, int]:
    """Hosts and their credits, and the cycles of the slowest answer: any that the limits can allow for."""
    while True:
        hosts, granted = (_host(random, tight), _host(random, tight)), _credits(random, True)
        slowest = max(_longest(host.posted) + _longest(host.read) + _queue_cycles(host, granted) for host in hosts)
        if slowest <= (2000 if tight else 25_000):
            return hosts, granted, slowest


def draw(random: Random) -> Plan:
    """The plan of one seed."""
    tight = random.random() < 0.5
    hosts, host_credits, slowest = _slow(random, tight)
    base, offset = random.choice(PLACES)
    starvation = _starvation(random, tight)
    starved = 2 * max((length[1] for _, length in starvation.values()), default=0)
    completion_limit = 2500 if tight else slowest + starved + 2000
    agents = frozenset(name for name, share in AGENTS.items() if random.random() < share) or frozenset(("traffic",))
    return Plan(
        tight=tight, agents=agents, base=base, host_b_offset=offset, hosts=hosts, functions=_functions(random, tight, "status" in agents),
        device_credits=_credits(random, False), host_credits=host_credits, starvation=starvation,
        pauses=random.choice((0.0, 0.1, 0.3)), shuffle=random.choice((0.0, 0.2, 0.5)), fence=random.random() < 0.2,
        hold_limit=5000 if tight else 3 * completion_limit, completion_limit=completion_limit, fault_share=random.choice((0.0, 0.3, 0.7)),
        polls=random.random() < 0.4, cpu_hosts=(random.randrange(2), random.randrange(2)))
