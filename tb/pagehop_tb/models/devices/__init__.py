"""What device functions do: each class drives one function."""

from .counter import AtomicCounter
from .hot_page import HotPageWriter
from .producer import Producer
from .random_traffic import RandomTraffic
from .trace_replay import TraceReplay

__all__ = ["AtomicCounter", "HotPageWriter", "Producer", "RandomTraffic", "TraceReplay"]
