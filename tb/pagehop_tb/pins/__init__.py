"""Agents of one port: they know handshakes and credits, not meaning."""

from .apertures import packed_aperture
from .beats import BeatError, BeatFormat
from .credits import CreditConfig, CreditError, PortCredits
from .fabric import Fabric
from .pauses import bursts, sparse
from .port import IllFormedTlp, TlpPortAgent
from .starvation import Starvation
from .streams import TlpSink, TlpSource

__all__ = [
    "BeatError", "BeatFormat", "CreditConfig", "CreditError", "Fabric", "IllFormedTlp", "PortCredits", "Starvation", "TlpPortAgent", "TlpSink",
    "TlpSource", "bursts", "packed_aperture", "sparse",
]
