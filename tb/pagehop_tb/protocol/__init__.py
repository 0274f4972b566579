"""TLP encoder, decoder and well-formedness rules, written from the specification facts and sharing nothing with the hardware."""

from .digest import digest_of
from .requests import (
    PAGE,
    PIECE_BOUNDARY,
    answer,
    byte_mask,
    byte_range,
    completion_cuts,
    cut,
    expand_byte_enables,
    memory_read,
    memory_write,
    pieces,
    read_completions,
    request_bytes,
    without_hints,
)
from .rules import violations
from .tlp import CREDIT_BYTES, TRANSLATED, TRANSLATION_REQUEST, FlowClass, Kind, MalformedTlp, Tlp, decode, encode

__all__ = [
    "CREDIT_BYTES", "FlowClass", "Kind", "MalformedTlp", "PAGE", "PIECE_BOUNDARY", "TRANSLATED", "TRANSLATION_REQUEST", "Tlp", "answer",
    "byte_mask", "byte_range", "completion_cuts", "cut", "decode", "digest_of", "encode", "expand_byte_enables", "memory_read",
    "memory_write", "pieces", "read_completions", "request_bytes", "violations", "without_hints",
]
