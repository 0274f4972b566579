"""Compile Verilog for a simulator, once for each content: many seeds and scenarios share one build."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import cocotb_tools.config

from pagehop_sim.files import content_hash, locked
from pagehop_sim.toolchain import ToolError, build_root, check_simulator, environment
from pagehop_sim.verilog import ports

__all__ = ["Build", "build"]

# Amaranth gives every register and memory its initial value, so what is undefined can only be what nothing uses: Verilator may choose
# it freely. Icarus keeps X, and the benches fail on an X at a port.
# Small functions in small files halve the compiler's time, and the simulation executes the same number of instructions.
VERILATOR = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert", "-Wno-fatal", "-Wno-lint", "-Wno-style", "--timescale", "1ns/1ps",
             "--output-split", "5000", "--output-split-cfuncs", "500")
# The wheel was configured without the flag that makes the compiler read a precompiled header, which designs of more than one file use.
OPTIMISE = ("CXX=g++", "CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O2", "OPT_SLOW=-O0", "OPT_GLOBAL=-O2")
HASTY = tuple("OPT_FAST=-O1" if setting.startswith("OPT_FAST=") else setting for setting in OPTIMISE)
BUILD_SECONDS = 1200


@dataclass(frozen=True)
class Build:
    """A compiled design: ``command`` starts its simulation under cocotb."""

    simulator: str
    toplevel: str
    folder: Path
    command: tuple[str, ...]
    waves: bool
    wave_file: str


def build(verilog: Path, toplevel: str, simulator: str, waves: bool = False, public: bool = False, hasty: bool = False) -> Build:
    """Compile the file ``verilog`` for ``simulator`` and return the build, from the cache where the content is the same.

    Benches see the ports of ``toplevel`` and, with Verilator, nothing below: public signals cost most of its speed. ``public`` opens all of them.
    ``hasty`` compiles in half the time what then runs more slowly: for designs that run only for seconds.
    """
    check_simulator(simulator)
    text = verilog.read_text(encoding="utf-8")
    optimise = HASTY if hasty else OPTIMISE
    key = content_hash(text, toplevel, simulator, f"{waves} {public}", cocotb_tools.config.__file__, " ".join(VERILATOR + optimise))
    with locked(build_root() / "cache" / simulator / f"{toplevel}-{key}") as folder:
        made = _verilator(verilog, folder, toplevel, waves, optimise) if simulator == "verilator" else _icarus(verilog, folder, toplevel, waves)
        if not (folder / "done").is_file():
            if simulator == "verilator":
                _write_visible(folder / "public.vlt", toplevel, ["*"] if public else ports(text, toplevel), public)
            elif waves:
                _write_dump(folder / "dump.v", toplevel)
            for command in made.commands:
                if command[0] == "make":
                    _share_runtime(folder, waves)
                _call(command, folder, simulator)
            _keep_runtime(folder, waves)
            (folder / "done").touch()
    return Build(simulator, toplevel, folder, made.start, waves, made.wave_file)


@dataclass(frozen=True)
class _Recipe:
    commands: list[list[str]]
    start: tuple[str, ...]
    wave_file: str


def _verilator(verilog: Path, folder: Path, toplevel: str, waves: bool, optimise: tuple[str, ...]) -> _Recipe:
    main = cocotb_tools.config.share_dir / "lib" / "verilator" / "verilator.cpp"
    libraries = cocotb_tools.config.libs_dir
    translate = ["verilator", "-cc", "--exe", "--vpi", "-Mdir", str(folder), "--top-module", toplevel, "--prefix", "Vtop", "-o", toplevel,
                 "-LDFLAGS", f"-Wl,-rpath,{libraries} -L{libraries} -lcocotbvpi_verilator", *VERILATOR,
                 *(["--trace"] if waves else []), str(main), str(folder / "public.vlt"), str(verilog)]
    compile_all = ["make", "-j2", "-C", str(folder), "-f", "Vtop.mk", *optimise]
    start = (str(folder / toplevel), *(["--trace"] if waves else []))
    return _Recipe([translate, compile_all], start, "dump.vcd")  # its FST writer needs a system library that the wheel lacks


def _icarus(verilog: Path, folder: Path, toplevel: str, waves: bool) -> _Recipe:
    (folder / "timescale.f").write_text("+timescale+1ns/1ps\n", encoding="utf-8")
    dump = ["-s", "dump", str(folder / "dump.v")] if waves else []
    compile_all = ["iverilog", "-g2012", "-o", str(folder / "sim.vvp"), "-s", toplevel, "-f", str(folder / "timescale.f"), *dump, str(verilog)]
    start = ("vvp", "-m", str(cocotb_tools.config.lib_entry("vpi", "icarus")), str(folder / "sim.vvp"), "-fst" if waves else "-none")
    return _Recipe([compile_all], start, "dump.fst")


def _write_visible(path: Path, toplevel: str, names: list[str], everywhere: bool) -> None:
    module = "*" if everywhere else toplevel
    lines = [f'public_flat_rw -module "{module}" -var "{name}"' for name in names]
    path.write_text("\n".join(["`verilator_config", *lines, ""]), encoding="utf-8")


def _write_dump(path: Path, toplevel: str) -> None:
    # The file name is relative: vvp runs in the folder of the run, and so does its dump.
    path.write_text(f'module dump();\ninitial begin $dumpfile("dump.fst"); $dumpvars(0, {toplevel}); end\nendmodule\n', encoding="utf-8")


def _runtime(waves: bool) -> Path:
    return build_root() / "cache" / "verilator" / f"runtime-{content_hash(*OPTIMISE, str(waves), cocotb_tools.config.__file__)}"


def _share_runtime(folder: Path, waves: bool) -> None:
    """Start from Verilator's own object files of an earlier build: they are the same for every design and take most of a small one's time.

    They are copied after the translation, because they must be newer than its headers.
    """
    with locked(_runtime(waves)) as runtime:
        for kept in runtime.glob("verilated*.o"):
            shutil.copyfile(kept, folder / kept.name)


def _keep_runtime(folder: Path, waves: bool) -> None:
    with locked(_runtime(waves)) as runtime:
        for made in folder.glob("verilated*.o"):
            shutil.copyfile(made, runtime / made.name)


def _call(command: list[str], folder: Path, simulator: str) -> None:
    log = folder / "build.log"
    with log.open("a", encoding="utf-8") as output:
        print("$", " ".join(command), file=output, flush=True)
        try:
            made = subprocess.run(command, cwd=folder, env=environment(), stdout=output, stderr=subprocess.STDOUT, timeout=BUILD_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"{simulator} did not finish compiling in {BUILD_SECONDS} s; see {log}") from error
    if made.returncode != 0:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-12:])
        raise ToolError(f"{simulator} could not compile the design (status {made.returncode}); the end of {log}:\n{tail}")
