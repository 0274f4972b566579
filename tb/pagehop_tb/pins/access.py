"""The short way to the simulator, for what happens at every edge.

A bench at 64 bytes a beat spends its time here: cocotb's public way costs 13 us for the wake-up of a task, 3 us for a bit and 16 us for a payload of
682 bits, where the simulator itself needs 3, 0.4 and 8. So this file, and no other, uses names of cocotb 2.1 that are not public.
"""

from collections.abc import Callable
from typing import Any

from cocotb import simulator
from cocotb._gpi_triggers import GPITrigger
from cocotb.handle import LogicObject, _GPISetAction, _schedule_write, _trust_inertial

__all__ = ["EachEdge", "Undefined", "bit_reader", "number_reader", "text_reader", "writer"]


class Undefined(AssertionError):
    """A signal that must be known is X or Z."""


class EachEdge(GPITrigger):
    """Calls ``step`` at every rising edge of ``clock``, without a task, for as long as it returns true; then it fires.

    An exception of ``step`` makes it fire too and stands in :attr:`failure`.
    """

    def __init__(self, clock: LogicObject, step: Callable[[], bool]) -> None:
        super().__init__()
        self._clock = clock._handle
        self._step = step
        self.failure: BaseException | None = None

    def _prime(self) -> None:
        self._cbhdl = simulator.register_value_change_callback(self._clock, self._react, simulator.RISING)

    def _do_callbacks(self) -> None:
        try:
            again = self._step()
        except BaseException as error:
            # Raised again by the task that waits for this trigger: here it would only end the simulator.
            self.failure = error
            again = False
        if again:
            self._prime()
        else:
            super()._do_callbacks()


def text_reader(handle: Any) -> Callable[[], str]:
    """Return a function that reads a signal as its digits, most significant first, X and Z among them."""
    read: Callable[[], str] = handle._handle.get_signal_val_binstr
    return read


def bit_reader(handle: Any) -> Callable[[], bool]:
    """Return a function that reads a single bit."""
    read = handle._handle.get_signal_val_binstr

    def value() -> bool:
        text = read()
        if text == "0":
            return False
        if text == "1":
            return True
        raise Undefined(f"{handle._path} is {text}")

    return value


def number_reader(handle: Any) -> Callable[[], int]:
    """Return a function that reads a vector as an unsigned number."""
    read = handle._handle.get_signal_val_binstr

    def value() -> int:
        text = read()
        try:
            return int(text, 2)
        except ValueError as error:
            raise Undefined(f"{handle._path} has undefined bits: {text}") from error

    return value


def writer(handle: Any) -> Callable[[int], None]:
    """Return a function that writes an unsigned number to a bit or vector. The number must fit."""
    write, above, deposit = handle._handle.set_signal_val_binstr, 1 << len(handle), _GPISetAction.DEPOSIT.value

    # bin() of a number with one more bit is the quickest way to all digits: "0b1" and then they.
    def direct(number: int) -> None:
        write(deposit, bin(number | above)[3:])

    def scheduled(number: int) -> None:
        _schedule_write(handle, write, _GPISetAction.DEPOSIT, bin(number | above)[3:])

    return direct if _trust_inertial else scheduled
