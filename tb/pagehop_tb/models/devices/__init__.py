"""What device functions do: each class drives one function, or the guest's CPU as the driver of one."""

from .counter import AtomicCounter
from .guest_cpu import GuestAccess, GuestCpu
from .hot_page import HotPageWriter
from .nic import NicDriver, NicReceiver, NicRing
from .nvme import NvmeController, NvmeDriver, NvmeQueues
from .peers import PeerPair
from .producer import Producer
from .random_traffic import RandomTraffic
from .status_register import StatusRegister
from .trace_replay import TraceReplay

__all__ = [
    "AtomicCounter", "GuestAccess", "GuestCpu", "HotPageWriter", "NicDriver", "NicReceiver", "NicRing", "NvmeController", "NvmeDriver", "NvmeQueues",
    "PeerPair", "Producer", "RandomTraffic", "StatusRegister", "TraceReplay",
]
