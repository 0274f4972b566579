"""The IOMMU in software against answers worked out by hand from its specification, entry by entry in hexadecimal."""

import random
from dataclasses import replace
from itertools import count, product

import pytest

from pagehop_tb.models.iommu import (
    BUILT,
    EVERYTHING,
    NAPOT_SIZE,
    PAGE,
    Access,
    AddressSpace,
    Cause,
    DeviceContext,
    Directory,
    DirectoryCommand,
    DirectoryMode,
    FaultRecord,
    History,
    Implicit,
    Invalidation,
    Iommu,
    Mode,
    Outcome,
    Request,
    RiscvEntry,
    Status,
    Subset,
    TableMemory,
    VtdEntry,
    ats_entry,
    page_size,
    pages_from,
)
from pagehop_tb.models.iommu import model as model_module
from pagehop_tb.models.memory import HostMemory

MIB, GIB = 1 << 20, 1 << 30
OFF, BARE, ONE_LEVEL, TWO_LEVEL = DirectoryMode
READ, WRITE, TRANSLATED_READ, TRANSLATED_WRITE, ATS = Access

# Where things are: a directory of two levels for device 0x123 (DDI[1] = 2, DDI[0] = 0x23); a first stage in pages 0x1000 to 0x1002 for the IOVA
# 0x4020_3abc (VPN 1, 1, 3), which leads to 0x8765_4abc; a second stage in pages 0x3000 to 0x3011, in which the first gigabyte, with the tables of the
# first stage, is where it seems to be, and 0x8765_4000 (VPN 2, 0x3b, 0x54) leads to 0x1234_5000.
DEVICE, IOVA = 0x123, 0x4020_3ABC
UPPER, TC, IOHGATP, TA, FSC = 0x200_0010, 0x200_1460, 0x200_1468, 0x200_1470, 0x200_1478
ROOT, MIDDLE, LEAF = 0x100_0008, 0x100_1008, 0x100_2018
G_TABLES, G_ROOT, G_MIDDLE, G_LEAF = 0x300_0000, 0x300_0010, 0x301_01D8, 0x301_12A0
SV39, SV48 = 8 << 60, 9 << 60
EN_ATS, EN_PRI, T2GPA, DTF, PDTV, PRPR, GADE, SADE, DPE, SBE, SXL = (1 << bit for bit in range(1, 12))
# Flags of an entry of a page table: D A G U X W R V. A leaf that lets do everything has 0xdf.
D, A, G, U, X, W, R, V = 0x80, 0x40, 0x20, 0x10, 8, 4, 2, 1
ALL = D | A | U | X | W | R | V

ONE_STAGE = {
    UPPER: 0x80_0401, TC: V, IOHGATP: 0, TA: 0, FSC: SV39 | 0x1000,
    ROOT: 0x40_0401, MIDDLE: 0x40_0801, LEAF: 0x21D9_50DF,
}
TWO_STAGES = ONE_STAGE | {IOHGATP: SV39 | 7 << 44 | 0x3000, G_TABLES: 0xDF, G_ROOT: 0xC0_4001, G_MIDDLE: 0xC0_4401, G_LEAF: 0x48D_14DF}
# The same with entries of VT-d: D 0x200, A 0x100, PS 0x80, W 2, R 1.
VTD = TWO_STAGES | {G_TABLES: 0x383, G_ROOT: 0x301_0003, G_MIDDLE: 0x301_1003, G_LEAF: 0x1234_5303}
# First stage Bare: the IOVA is the guest's address, of which everything is at VPN 1 of the root, 1 GiB.
SECOND_ONLY = ONE_STAGE | {FSC: 0, IOHGATP: SV39 | 0x3000, 0x300_0008: 0x2000_00DF}


class Machine:
    """An IOMMU with what is in its memory."""

    def __init__(self, words, subset=None, mode=TWO_LEVEL, ppn=0x2000):
        self.memory = TableMemory(HostMemory())
        for address, value in words.items():
            self.write(address, value)
        self.iommu = Iommu(self.memory, subset, mode, ppn)

    def write(self, address, value):
        self.memory.write(address, value.to_bytes(8, "little"))

    def read(self, address):
        return int.from_bytes(self.memory.read(address, 8), "little")


def described(outcome):
    sizes = {PAGE: "4K", NAPOT_SIZE: "64K", 2 * MIB: "2M", GIB: "1G", 512 * GIB: "512G", EVERYTHING: "all"}
    if outcome.status is Status.TRANSLATED and outcome.cause is Cause.NONE:
        permissions = "r" * outcome.readable + "w" * outcome.writable or "-"
        return f"{outcome.address:#x} {sizes[outcome.size]} {permissions}"
    words = ["empty" if outcome.status is Status.TRANSLATED else outcome.status.value, str(int(outcome.cause))]
    if outcome.record is None:
        words += ["silent"] * (outcome.status is not Status.TRANSLATED)
    elif outcome.record.iotval2:
        words.append(f"{outcome.record.iotval2:#x}")
    return " ".join(words)


def leaf(flags, ppn=0x87654, more=0):
    return ppn << 10 | flags | more


class Case:
    """Words that differ from those of a ``base``, a request, and what must come of it.

    ``expected``: of a translation its address, size and permissions; of a refusal the status, the cause, the record's ``iotval2`` if it is not 0, and
    "silent" when there is no record. ``after``: words as they must then be.
    """

    def __init__(self, name, base, words, expected, access=READ, *, after=None, subset=None, mode=TWO_LEVEL, ppn=0x2000,
                 denied=None, corrupt=None, **request):
        self.name, self.base, self.words, self.expected, self.after = name, base, words, expected, after or {}
        self.subset, self.mode, self.ppn, self.denied, self.corrupt = subset, mode, ppn, denied, corrupt
        self.request = Request(**{"device_id": DEVICE, "iova": IOVA, "access": access, **request})

    def run(self):
        """What is wrong."""
        machine = Machine(self.base | self.words, self.subset, self.mode, self.ppn)
        machine.memory.denied |= {self.denied} - {None}
        machine.memory.corrupt |= {self.corrupt} - {None}
        outcome = machine.iommu.translate(self.request)
        wrong = [f"{outcome} is not {self.expected}"] if described(outcome) != self.expected else []
        if outcome.record:
            request = self.request
            fields = FaultRecord(cause=outcome.cause, access=request.access, device_id=request.device_id, iotval=request.iova,
                                 iotval2=outcome.record.iotval2, process_id=request.process_id or 0, process_valid=request.process_id is not None,
                                 privileged=request.privileged)
            wrong += [f"{outcome.record} is not {fields}"] if outcome.record != fields else []
        return wrong + [f"{address:#x} has {machine.read(address):#x}" for address, value in self.after.items() if machine.read(address) != value]


SMALL = Subset(first=(Mode.BARE, Mode.SV39), second=(Mode.BARE, Mode.SV39), ats=False, updates=False, pas=32)
EXACT, STORE = Subset(implicit=Implicit.EXACT), Subset(implicit=Implicit.STORE)
VTD_SUBSET = Subset(second_entries=VtdEntry)
OK = "0x87654abc 4K rw"
BOTH = "0x12345abc 4K rw"
PLAIN = f"{IOVA:#x} all rw"

DIRECTORY_CASES = [
    Case("off", ONE_STAGE, {}, "UR 256", mode=OFF),
    Case("off ats", ONE_STAGE, {}, "UR 256", ATS, mode=OFF),
    Case("bare", ONE_STAGE, {}, PLAIN, mode=BARE, device_id=0xFF_FFFF),
    Case("bare write", ONE_STAGE, {}, PLAIN, WRITE, mode=BARE),
    Case("bare translated", ONE_STAGE, {}, "UR 260", TRANSLATED_WRITE, mode=BARE),
    Case("bare ats", ONE_STAGE, {}, "UR 260", ATS, mode=BARE),
    Case("two levels", ONE_STAGE, {}, OK),
    Case("one level", ONE_STAGE, {}, OK, mode=ONE_LEVEL, ppn=0x2001, device_id=0x23),
    Case("device too wide for one level", ONE_STAGE, {}, "UR 260", mode=ONE_LEVEL, ppn=0x2001, device_id=0x80 | 0x23),
    Case("device too wide for two levels", ONE_STAGE, {}, "UR 260", device_id=0x1_0000 | DEVICE),
    Case("upper not valid", ONE_STAGE, {UPPER: 0x80_0400}, "UR 258"),
    *(Case(f"upper reserved {bit}", ONE_STAGE, {UPPER: 0x80_0401 | 1 << bit}, "UR 259") for bit in (1, 9, 54, 63)),
    Case("upper denied", ONE_STAGE, {}, "UR 257", denied=0x2000),
    Case("upper corrupt", ONE_STAGE, {}, "UR 268", corrupt=0x2000),
    Case("context denied", ONE_STAGE, {}, "UR 257", ATS, denied=0x2001),
    Case("context corrupt", ONE_STAGE, {}, "UR 268", WRITE, corrupt=0x2001),
    Case("context corrupt ats", ONE_STAGE, {}, "CA 268", ATS, corrupt=0x2001),
    Case("directory beyond PAS", ONE_STAGE, {UPPER: 0x4000_0000_0401}, "UR 257", subset=SMALL),
    Case("context not valid may hold anything", ONE_STAGE, {TC: 0xFFFF_FFFF_FFFF_FFFE}, "UR 258", ATS),
    *(Case(f"tc reserved {bit}", ONE_STAGE, {TC: V | 1 << bit}, "UR 259") for bit in (12, 23, 32, 63)),
    *(Case(f"tc custom {bit}", ONE_STAGE, {TC: V | 1 << bit}, OK) for bit in (24, 31)),
    *(Case(f"tc {bits:#x}", ONE_STAGE, {TC: V | bits}, "UR 259")
      for bits in (EN_PRI, T2GPA, EN_ATS | T2GPA, PRPR, EN_ATS | PRPR, EN_PRI | PRPR, DPE, SBE, SXL)),
    Case("tc of PRI", ONE_STAGE, {TC: V | EN_ATS | EN_PRI | PRPR}, OK),
    Case("T2GPA with a second stage", TWO_STAGES, {TC: V | EN_ATS | T2GPA}, "UR 259"),
    *(Case(f"ta reserved {bit}", ONE_STAGE, {TA: 1 << bit}, "UR 259") for bit in (0, 11, 32, 40, 63)),
    Case("ta with PSCID", ONE_STAGE, {TA: 0xFFFF_F000}, OK),
    *(Case(f"iosatp reserved {bit}", ONE_STAGE, {FSC: SV39 | 0x1000 | 1 << bit}, "UR 259") for bit in (44, 59)),
    *(Case(f"iosatp mode {mode}", ONE_STAGE, {FSC: mode << 60 | 0x1000}, "UR 259") for mode in (1, 7, 10, 11, 14, 15)),
    *(Case(f"iohgatp mode {mode}", TWO_STAGES, {IOHGATP: mode << 60 | 0x3000}, "UR 259") for mode in (1, 7, 10, 15)),
    *(Case(f"iohgatp root {ppn:#x}", TWO_STAGES, {IOHGATP: SV39 | ppn}, "UR 259") for ppn in (0x3001, 0x3002)),
    Case("iohgatp Bare with a root", ONE_STAGE, {IOHGATP: 0xFFFF_0000_0003}, OK),
    Case("pdtp Bare", ONE_STAGE, {TC: V | PDTV | DPE, FSC: 0}, PLAIN),
    Case("pdtp Bare with a process", ONE_STAGE, {TC: V | PDTV, FSC: 0}, PLAIN, process_id=0xF_FFFF, privileged=True),
    Case("pdtp PD8", ONE_STAGE, {TC: V | PDTV, FSC: 1 << 60}, "UR 259"),
    Case("pdtp reserved", ONE_STAGE, {TC: V | PDTV, FSC: 1 << 44}, "UR 259"),
    *(Case(f"tc {bits:#x} not supported", ONE_STAGE, {TC: V | bits}, "UR 259", subset=SMALL) for bits in (EN_ATS, GADE, SADE)),
    Case("Sv48 not supported", ONE_STAGE, {FSC: SV48 | 0x1000}, "UR 259", subset=SMALL),
    Case("Sv48x4 not supported", TWO_STAGES, {IOHGATP: SV48 | 0x3000}, "UR 259", subset=SMALL),
    Case("context misconfigured with DTF", ONE_STAGE, {TC: V | DTF | SXL}, "UR 259"),
    Case("both stages Bare", ONE_STAGE, {FSC: 0}, PLAIN, WRITE),
    Case("both stages Bare, high address", ONE_STAGE, {FSC: 0}, f"{(1 << 63) + 5:#x} all rw", iova=(1 << 63) + 5),
    Case("high address refused", ONE_STAGE, {FSC: 0}, "UR 5", subset=BUILT, iova=1 << 56),
    Case("high address refused, ats", ONE_STAGE, {TC: V | EN_ATS, FSC: 0}, "CA 5", ATS, subset=BUILT, iova=1 << 56),
    Case("high address refused, bare", ONE_STAGE, {}, "UR 7", WRITE, mode=BARE, subset=BUILT, iova=1 << 63),
    Case("high address refused, translated", ONE_STAGE, {TC: V | EN_ATS | DTF}, "UR 7 silent", TRANSLATED_WRITE, subset=BUILT, iova=1 << 56),
    Case("highest address", ONE_STAGE, {FSC: 0}, "0xffffffffffffff all rw", subset=BUILT, iova=(1 << 56) - 1),
    Case("custom bits refused", ONE_STAGE, {TC: V | 1 << 24}, "UR 259", subset=BUILT),
    Case("processes refused", ONE_STAGE, {TC: V | PDTV, FSC: 0}, "UR 260", subset=BUILT, process_id=1),
    Case("ats not enabled", ONE_STAGE, {}, "UR 260", ATS),
    Case("ats not enabled with DTF", ONE_STAGE, {TC: V | DTF}, "UR 260 silent", ATS),
    Case("translated not enabled", ONE_STAGE, {}, "UR 260", TRANSLATED_READ),
    Case("translated", TWO_STAGES, {TC: V | EN_ATS}, PLAIN, TRANSLATED_WRITE),
    Case("process without PDTV", ONE_STAGE, {}, "UR 260", process_id=0x54321, privileged=True),
    Case("ats with a process without PDTV", ONE_STAGE, {TC: V | EN_ATS}, "UR 260", ATS, process_id=0),
]

FIRST_STAGE_CASES = [
    Case("write", ONE_STAGE, {}, OK, WRITE),
    Case("ats", ONE_STAGE, {TC: V | EN_ATS}, OK, ATS),
    Case("leaf not valid", ONE_STAGE, {LEAF: 0}, "UR 13"),
    Case("leaf not valid, write", ONE_STAGE, {LEAF: leaf(ALL & ~V)}, "UR 15", WRITE),
    Case("leaf not valid, ats", ONE_STAGE, {TC: V | EN_ATS, LEAF: 0}, "empty 13", ATS),
    Case("leaf not valid, DTF", ONE_STAGE, {TC: V | DTF, LEAF: 0}, "UR 13 silent"),
    Case("root not valid", ONE_STAGE, {ROOT: 0}, "UR 13"),
    Case("writable only", ONE_STAGE, {LEAF: leaf(V | W | U | A | D)}, "UR 15", WRITE),
    Case("writable and executable", ONE_STAGE, {LEAF: leaf(V | W | X | U | A | D)}, "UR 15", WRITE),
    *(Case(f"leaf reserved {bit}", ONE_STAGE, {LEAF: leaf(ALL, more=1 << bit)}, "UR 13") for bit in (54, 58, 59, 60, 61, 62)),
    Case("RSW and G", ONE_STAGE, {LEAF: leaf(ALL | G | 0x300)}, OK),
    *(Case(f"pointer with {flag:#x}", ONE_STAGE, {MIDDLE: 0x40_0801 | flag}, "UR 13") for flag in (A, D, U, W, 1 << 54, 1 << 60, 1 << 61, 1 << 63)),
    Case("pointer with G and RSW", ONE_STAGE, {MIDDLE: 0x40_0801 | G | 0x300}, OK),
    Case("pointer at level 0", ONE_STAGE, {LEAF: 0x40_0801}, "UR 13"),
    Case("2 MiB", ONE_STAGE, {MIDDLE: leaf(ALL, 0x87600)}, "0x87603abc 2M rw"),
    *(Case(f"2 MiB misaligned {ppn:#x}", ONE_STAGE, {MIDDLE: leaf(ALL, ppn)}, "UR 13") for ppn in (0x87601, 0x87700)),
    Case("1 GiB", ONE_STAGE, {ROOT: leaf(ALL, 0x80000)}, "0x80203abc 1G rw"),
    *(Case(f"1 GiB misaligned {ppn:#x}", ONE_STAGE, {ROOT: leaf(ALL, ppn)}, "UR 13") for ppn in (0x80001, 0x80200, 0xA0000)),
    Case("64 KiB", ONE_STAGE, {LEAF: leaf(ALL, 0x87658, 1 << 63)}, "0x87653abc 64K rw"),
    *(Case(f"64 KiB reserved {low:#x}", ONE_STAGE, {LEAF: leaf(ALL, 0x87650 | low, 1 << 63)}, "UR 13") for low in (0, 1, 4, 9, 12)),
    Case("N at level 1", ONE_STAGE, {MIDDLE: leaf(ALL, 0x87600, 1 << 63)}, "UR 13"),
    Case("512 GiB", ONE_STAGE, {FSC: SV48 | 0x1000, 0x100_0000: leaf(ALL, 0)}, "0x40203abc 512G rw"),
    Case("512 GiB misaligned", ONE_STAGE, {FSC: SV48 | 0x1000, 0x100_0000: leaf(ALL, 0x400_0000)}, "UR 13"),
    Case("Sv39 upper half", ONE_STAGE, {0x100_0FF8: leaf(ALL, 0x80000)}, "0x80000abc 1G rw", iova=0xFFFF_FFFF_C000_0ABC),
    *(Case(f"Sv39 not canonical {iova:#x}", ONE_STAGE, {}, "UR 13", iova=iova)
      for iova in (1 << 38 | IOVA, 1 << 39 | IOVA, 1 << 63 | IOVA, 0x7FFF_FFFF_C000_0ABC, 0xFFFF_FFBF_C000_0ABC)),
    *(Case(f"Sv48 not canonical {iova:#x}", ONE_STAGE, {FSC: SV48 | 0x1000}, "UR 15", WRITE, iova=iova)
      for iova in (1 << 47, 1 << 48, 0xFFFF_7FFF_FFFF_F000)),
    Case("read only", ONE_STAGE, {LEAF: leaf(ALL & ~W)}, "0x87654abc 4K r"),
    Case("read only, write", ONE_STAGE, {LEAF: leaf(ALL & ~W)}, "UR 15", WRITE),
    Case("read only, ats", ONE_STAGE, {TC: V | EN_ATS, LEAF: leaf(ALL & ~W)}, "0x87654abc 4K r", ATS),
    Case("executable only", ONE_STAGE, {LEAF: leaf(V | X | U | A | D)}, "UR 13"),
    Case("executable only, ats", ONE_STAGE, {TC: V | EN_ATS, LEAF: leaf(V | X | U | A | D)}, "0x87654abc 4K -", ATS),
    Case("supervisor's", ONE_STAGE, {LEAF: leaf(ALL & ~U)}, "UR 13"),
    Case("supervisor's, ats", ONE_STAGE, {TC: V | EN_ATS, LEAF: leaf(ALL & ~U)}, "empty 13", ATS),
    Case("A=0", ONE_STAGE, {LEAF: leaf(ALL & ~A)}, "UR 13", after={LEAF: leaf(ALL & ~A)}),
    Case("A=0, SADE", ONE_STAGE, {TC: V | SADE, LEAF: leaf(ALL & ~A & ~D)}, "0x87654abc 4K r", after={LEAF: leaf(ALL & ~D)}),
    Case("A=0, only GADE", ONE_STAGE, {TC: V | GADE, LEAF: leaf(ALL & ~A)}, "UR 13"),
    Case("D=0, read", ONE_STAGE, {LEAF: leaf(ALL & ~D)}, "0x87654abc 4K r"),
    Case("D=0, write", ONE_STAGE, {LEAF: leaf(ALL & ~D)}, "UR 15", WRITE),
    Case("D=0, write, SADE", ONE_STAGE, {TC: V | SADE, LEAF: leaf(ALL & ~D & ~A)}, OK, WRITE, after={LEAF: leaf(ALL)}),
    Case("D=0, ats", ONE_STAGE, {TC: V | EN_ATS, LEAF: leaf(ALL & ~D)}, "empty 13", ATS),
    Case("D=0, ats, NW", ONE_STAGE, {TC: V | EN_ATS, LEAF: leaf(ALL & ~D)}, "0x87654abc 4K r", ATS, no_write=True),
    Case("D=0, ats, SADE", ONE_STAGE, {TC: V | EN_ATS | SADE, LEAF: leaf(ALL & ~D)}, OK, ATS, after={LEAF: leaf(ALL)}),
    Case("D=0, ats, SADE, NW", ONE_STAGE, {TC: V | EN_ATS | SADE, LEAF: leaf(ALL & ~D & ~A)}, "0x87654abc 4K r", ATS, no_write=True,
         after={LEAF: leaf(ALL & ~D)}),
    Case("D=1, ats, NW", ONE_STAGE, {TC: V | EN_ATS}, OK, ATS, no_write=True),
    Case("read only, D=0, ats, SADE", ONE_STAGE, {TC: V | EN_ATS | SADE, LEAF: leaf(ALL & ~W & ~D)}, "0x87654abc 4K r", ATS,
         after={LEAF: leaf(ALL & ~W & ~D)}),
    Case("refused write leaves D", ONE_STAGE, {TC: V | SADE, LEAF: leaf(ALL & ~W & ~D)}, "UR 15", WRITE, after={LEAF: leaf(ALL & ~W & ~D)}),
    Case("superpage, D=0, write, SADE", ONE_STAGE, {TC: V | SADE, MIDDLE: leaf(ALL & ~D, 0x87600)}, "0x87603abc 2M rw", WRITE,
         after={MIDDLE: leaf(ALL, 0x87600)}),
    Case("table denied", ONE_STAGE, {}, "UR 5", denied=0x1002),
    Case("table denied, write", ONE_STAGE, {}, "UR 7", WRITE, denied=0x1001),
    Case("table denied, ats", ONE_STAGE, {TC: V | EN_ATS}, "CA 5", ATS, denied=0x1000),
    Case("table denied, ats, DTF", ONE_STAGE, {TC: V | EN_ATS | DTF}, "CA 5 silent", ATS, denied=0x1000),
    Case("table corrupt", ONE_STAGE, {}, "UR 274", corrupt=0x1002),
    Case("table corrupt, ats", ONE_STAGE, {TC: V | EN_ATS}, "CA 274", ATS, corrupt=0x1002),
    Case("table corrupt, DTF", ONE_STAGE, {TC: V | DTF}, "UR 274 silent", WRITE, corrupt=0x1002),
    Case("table beyond PAS", ONE_STAGE, {MIDDLE: leaf(V, 0x10_0000)}, "UR 5", subset=SMALL),
    Case("page beyond PAS", ONE_STAGE, {LEAF: leaf(ALL, 0xFFF_FFFF_FFFF)}, "0xfffffffffffabc 4K rw", subset=SMALL),
]

TWO_STAGE_CASES = [
    Case("both", TWO_STAGES, {}, BOTH, WRITE),
    Case("both, ats", TWO_STAGES, {TC: V | EN_ATS}, BOTH, ATS),
    Case("Sv48 under Sv39x4", TWO_STAGES, {FSC: SV48 | 0x1010, 0x101_0000: 0x40_0001}, BOTH),
    Case("Sv39 under Sv48x4", TWO_STAGES, {IOHGATP: SV48 | 0x3020, 0x302_0000: 0xC0_0001}, BOTH),
    Case("page not valid", TWO_STAGES, {G_LEAF: 0}, "UR 21 0x87654abc"),
    Case("page not valid, write", TWO_STAGES, {G_LEAF: 0}, "UR 23 0x87654abc", WRITE),
    Case("iotval2 has no bits 1:0", TWO_STAGES, {G_LEAF: 0}, "UR 21 0x87654abc", iova=IOVA | 3),
    Case("page not valid, ats", TWO_STAGES, {TC: V | EN_ATS, G_LEAF: 0}, "empty 21", ATS),
    Case("page not valid, DTF", TWO_STAGES, {TC: V | DTF, G_LEAF: 0}, "UR 21 silent"),
    Case("first stage's fault", TWO_STAGES, {LEAF: 0}, "UR 13"),
    Case("tables not valid", TWO_STAGES, {G_TABLES: 0}, "UR 21 0x1000009"),
    Case("tables not valid, write, SADE", TWO_STAGES, {TC: V | SADE, G_TABLES: 0}, "UR 23 0x1000009", WRITE),
    Case("tables not valid, ats", TWO_STAGES, {TC: V | EN_ATS, G_TABLES: 0}, "empty 21", ATS),
    Case("supervisor's page", TWO_STAGES, {G_LEAF: leaf(ALL & ~U, 0x12345)}, "UR 21 0x87654abc"),
    Case("supervisor's tables", TWO_STAGES, {G_TABLES: ALL & ~U}, "UR 21 0x1000009"),
    Case("executable tables", TWO_STAGES, {G_TABLES: V | X | U | A | D}, "UR 21 0x1000009"),
    Case("executable tables, ats", TWO_STAGES, {TC: V | EN_ATS, G_TABLES: V | X | U | A | D}, "empty 21", ATS),
    Case("second stage reserved", TWO_STAGES, {G_LEAF: leaf(ALL, 0x12345, 1 << 60)}, "UR 21 0x87654abc"),
    Case("second stage misaligned", TWO_STAGES, {G_MIDDLE: leaf(ALL, 0x12345)}, "UR 21 0x87654abc"),
    Case("second stage denied", TWO_STAGES, {}, "UR 7", WRITE, denied=0x3011),
    Case("second stage corrupt", TWO_STAGES, {TC: V | EN_ATS}, "CA 274", ATS, corrupt=0x3000),
    Case("second stage denied for tables, ats", TWO_STAGES, {TC: V | EN_ATS}, "CA 5", ATS, denied=0x3000),
    Case("table beyond PAS", TWO_STAGES, {G_TABLES: leaf(ALL, 0x1000_0000)}, "UR 5", subset=SMALL),
    Case("second read only, write", TWO_STAGES, {G_LEAF: leaf(ALL & ~W, 0x12345)}, "UR 23 0x87654abc", WRITE),
    Case("second read only, ats", TWO_STAGES, {TC: V | EN_ATS, G_LEAF: leaf(ALL & ~W, 0x12345)}, "0x12345abc 4K r", ATS),
    Case("first read only, ats", TWO_STAGES, {TC: V | EN_ATS, LEAF: leaf(ALL & ~W)}, "0x12345abc 4K r", ATS),
    Case("second executable only, ats", TWO_STAGES, {TC: V | EN_ATS, G_LEAF: leaf(V | X | U | A | D, 0x12345)}, "0x12345abc 4K -", ATS),
    Case("2 MiB over 4 KiB", TWO_STAGES, {MIDDLE: leaf(ALL, 0x87600), G_LEAF - 0x288: leaf(ALL, 0x777)}, "0x777abc 4K rw"),
    Case("4 KiB over 2 MiB", TWO_STAGES, {G_MIDDLE: leaf(ALL, 0x12200)}, "0x12254abc 4K rw"),
    Case("2 MiB over 1 GiB", TWO_STAGES, {MIDDLE: leaf(ALL, 0x87600), G_ROOT: leaf(ALL, 0xC0000)}, "0xc7603abc 2M rw"),
    Case("1 GiB over 2 MiB", TWO_STAGES, {ROOT: leaf(ALL, 0x80000), 0x301_0008: leaf(ALL, 0x600)}, "0x603abc 2M rw"),
    Case("64 KiB over 2 MiB", TWO_STAGES, {LEAF: leaf(ALL, 0x87658, 1 << 63), G_MIDDLE: leaf(ALL, 0x12200)}, "0x12253abc 64K rw"),
    Case("2 MiB over 64 KiB", TWO_STAGES, {MIDDLE: leaf(ALL, 0x87600), G_LEAF - 0x288: leaf(ALL, 0x778, 1 << 63)}, "0x773abc 64K rw"),
    Case("first Bare", SECOND_ONLY, {}, "0x80203abc 1G rw", WRITE),
    Case("first Bare, not valid", SECOND_ONLY, {0x300_0008: 0}, f"UR 21 {IOVA:#x}"),
    Case("first Bare, root's upper part", SECOND_ONLY, {0x300_3FF8: leaf(ALL, 0x40000)}, "0x40000abc 1G rw", iova=0x1FF_C000_0ABC),
    Case("first Bare, beyond Sv39x4", SECOND_ONLY, {}, f"UR 23 {1 << 41:#x}", WRITE, iova=1 << 41),
    Case("first Bare, negative", SECOND_ONLY, {}, "UR 21 0xffffffffc0000abc", iova=0xFFFF_FFFF_C000_0ABC),
    Case("first Bare, beyond Sv48x4", SECOND_ONLY, {IOHGATP: SV48 | 0x3000}, f"UR 21 {1 << 50:#x}", iova=1 << 50),
    Case("first Bare, Sv48x4's upper part", SECOND_ONLY, {IOHGATP: SV48 | 0x3000, 0x300_3FF8: leaf(ALL, 0)}, "0xabc 512G rw",
         iova=0x3_FF80_0000_0ABC),
    Case("page beyond Sv39x4", TWO_STAGES, {LEAF: leaf(ALL, 1 << 29)}, f"UR 21 {(1 << 41) + 0xABC:#x}"),
    Case("table beyond Sv39x4", TWO_STAGES, {MIDDLE: leaf(V, 1 << 29)}, f"UR 21 {(1 << 41) + 0x19:#x}"),
    Case("A=0", TWO_STAGES, {G_LEAF: leaf(ALL & ~A, 0x12345)}, "UR 21 0x87654abc"),
    Case("A=0, only SADE", TWO_STAGES, {TC: V | SADE, G_LEAF: leaf(ALL & ~A, 0x12345)}, "UR 21 0x87654abc"),
    Case("A=0, GADE", TWO_STAGES, {TC: V | GADE, G_LEAF: leaf(ALL & ~A & ~D, 0x12345)}, "0x12345abc 4K r", after={G_LEAF: leaf(ALL & ~D, 0x12345)}),
    Case("D=0, write", TWO_STAGES, {G_LEAF: leaf(ALL & ~D, 0x12345)}, "UR 23 0x87654abc", WRITE),
    Case("D=0, write, GADE", TWO_STAGES, {TC: V | GADE, G_LEAF: leaf(ALL & ~D, 0x12345)}, BOTH, WRITE, after={G_LEAF: leaf(ALL, 0x12345)}),
    Case("D=0, ats, NW, GADE", TWO_STAGES, {TC: V | EN_ATS | GADE, G_LEAF: leaf(ALL & ~D, 0x12345)}, "0x12345abc 4K r", ATS, no_write=True,
         after={G_LEAF: leaf(ALL & ~D, 0x12345)}),
    Case("D=0, ats, GADE", TWO_STAGES, {TC: V | EN_ATS | GADE, G_LEAF: leaf(ALL & ~D, 0x12345)}, BOTH, ATS, after={G_LEAF: leaf(ALL, 0x12345)}),
    Case("D=0 in the first, ats, GADE", TWO_STAGES, {TC: V | EN_ATS | GADE, LEAF: leaf(ALL & ~D)}, "empty 13", ATS),
    Case("tables A=0", TWO_STAGES, {G_TABLES: ALL & ~A}, "UR 21 0x1000009"),
    Case("tables A=0, GADE", TWO_STAGES, {TC: V | GADE, G_TABLES: ALL & ~A & ~D}, BOTH, WRITE, after={G_TABLES: ALL & ~D}),
    # What an access to a table of the first stage is for the second.
    Case("tables D=0", TWO_STAGES, {G_TABLES: ALL & ~D}, BOTH, WRITE),
    Case("tables D=0, SADE", TWO_STAGES, {TC: V | SADE, G_TABLES: ALL & ~D}, "UR 21 0x1000009"),
    Case("tables D=0, SADE, exact", TWO_STAGES, {TC: V | SADE, G_TABLES: ALL & ~D}, BOTH, subset=EXACT),
    Case("tables D=0, SADE, exact, A=0", TWO_STAGES, {TC: V | SADE, G_TABLES: ALL & ~D, LEAF: leaf(ALL & ~A)}, "UR 21 0x100201b", subset=EXACT),
    Case("tables D=0, SADE, GADE", TWO_STAGES, {TC: V | SADE | GADE, G_TABLES: ALL & ~D}, BOTH, after={G_TABLES: ALL}),
    Case("tables D=0, SADE, GADE, exact", TWO_STAGES, {TC: V | SADE | GADE, G_TABLES: ALL & ~D}, BOTH, subset=EXACT, after={G_TABLES: ALL & ~D}),
    Case("tables D=0, SADE, GADE, exact, A=0", TWO_STAGES, {TC: V | SADE | GADE, G_TABLES: ALL & ~D, LEAF: leaf(ALL & ~A)}, BOTH, subset=EXACT,
         after={G_TABLES: ALL, LEAF: leaf(ALL)}),
    *(Case(f"tables read only, SADE, {kind}", TWO_STAGES, {TC: V | SADE, G_TABLES: ALL & ~W}, expected, subset=subset)
      for kind, subset, expected in (("ahead", None, BOTH), ("exact", EXACT, BOTH), ("store", STORE, "UR 21 0x100000b"))),
    *(Case(f"tables read only, A=0, SADE, {kind}", TWO_STAGES, {TC: V | SADE, G_TABLES: ALL & ~W, LEAF: leaf(ALL & ~A)}, expected, WRITE,
           subset=subset, after={LEAF: leaf(ALL & ~A)})
      for kind, subset, expected in (("ahead", None, "UR 23 0x100201b"), ("exact", EXACT, "UR 23 0x100201b"), ("store", STORE, "UR 23 0x100000b"))),
    Case("tables D=0, SADE, GADE, store", TWO_STAGES, {TC: V | SADE | GADE, G_TABLES: ALL & ~D}, BOTH, subset=STORE, after={G_TABLES: ALL}),
    # Entries of VT-d.
    Case("vtd", VTD, {}, BOTH, WRITE, subset=VTD_SUBSET),
    Case("vtd ignored bits", VTD, {G_LEAF: 0x7FF0_0000_1234_5F7F, G_MIDDLE: 0x7FF0_0000_0301_1F7F}, BOTH, WRITE, subset=VTD_SUBSET),
    Case("vtd not present", VTD, {G_LEAF: 0x1234_5300}, "UR 21 0x87654abc", subset=VTD_SUBSET),
    Case("vtd root not present", VTD, {G_ROOT: 0x301_0000}, "UR 23 0x87654abc", WRITE, subset=VTD_SUBSET),
    *(Case(f"vtd {name} lets read only", VTD, {place: value}, "0x12345abc 4K r", subset=VTD_SUBSET)
      for name, place, value in (("leaf", G_LEAF, 0x1234_5301), ("pointer", G_MIDDLE, 0x301_1001), ("root", G_ROOT, 0x301_0001))),
    Case("vtd pointer lets read only, write", VTD, {G_MIDDLE: 0x301_1001}, "UR 23 0x87654abc", WRITE, subset=VTD_SUBSET),
    Case("vtd write only, read", VTD, {G_ROOT: 0x301_0002}, "UR 21 0x87654abc", subset=VTD_SUBSET),
    Case("vtd write only, ats", VTD, {TC: V | EN_ATS, G_ROOT: 0x301_0002}, "0x12345abc 4K w", ATS, subset=VTD_SUBSET),
    Case("vtd 2 MiB", VTD, {G_MIDDLE: 0x1220_0383, MIDDLE: leaf(ALL, 0x87600)}, "0x12203abc 2M rw", subset=VTD_SUBSET),
    Case("vtd misaligned", VTD, {G_MIDDLE: 0x1230_1383}, "UR 21 0x87654abc", subset=VTD_SUBSET),
    Case("vtd 512 GiB", VTD, {IOHGATP: SV48 | 0x3000}, "UR 21 0x1000009", subset=VTD_SUBSET),
    Case("vtd beyond 39 bits", VTD, {LEAF: leaf(ALL, 1 << 27), 0x300_1000: 0x383}, f"UR 21 {(1 << 39) + 0xABC:#x}", subset=VTD_SUBSET),
    Case("vtd A=0", VTD, {G_LEAF: 0x1234_5203}, "UR 21 0x87654abc", subset=VTD_SUBSET),
    Case("vtd D=0, write, GADE", VTD, {TC: V | GADE, G_LEAF: 0x1234_5003}, BOTH, WRITE, subset=VTD_SUBSET,
         after={G_LEAF: 0x1234_5303, G_MIDDLE: 0x301_1003}),
    Case("vtd D=0, read, GADE", VTD, {TC: V | GADE, G_LEAF: 0x1234_5003}, "0x12345abc 4K r", subset=VTD_SUBSET, after={G_LEAF: 0x1234_5103}),
]

CASES = DIRECTORY_CASES + FIRST_STAGE_CASES + TWO_STAGE_CASES


def is_noticed(cases=CASES):
    """Whether a model that is wrong fails at one of the cases, or breaks there."""
    try:
        return any(case.run() for case in cases)
    except ValueError:
        return True


@pytest.mark.parametrize("cases", [DIRECTORY_CASES, FIRST_STAGE_CASES, TWO_STAGE_CASES], ids=["directory", "first", "second"])
def test_known_answers(cases):
    assert {case.name: case.run() for case in cases if case.run()} == {}


def test_causes_have_cases():
    refused = {int(case.expected.split()[1]) for case in CASES if case.expected.startswith(("UR", "CA", "empty"))}
    assert refused == set(Cause) - {Cause.NONE}
    assert len({case.name for case in FIRST_STAGE_CASES}) == len(FIRST_STAGE_CASES) and len(CASES) >= 200


# What a wrong model could do: each is noticed by one case at least.
def _patch_kind(wrong):
    def kind(entry, level, real=RiscvEntry.kind):
        return wrong(entry, level, real)
    return RiscvEntry, "kind", kind


def _patch_refusal(wrong):
    def refusal(request, fault, context, real=model_module._refusal):
        return wrong(request, fault, context, real)
    return model_module, "_refusal", refusal


def _of_user(value, real=RiscvEntry.of):
    entry = real(value)
    return replace(entry, user=1) if entry.readable else entry


WRONG = {
    "misaligned": (RiscvEntry, "misaligned", lambda entry, level: False),
    "aligned to 2 MiB only": (RiscvEntry, "misaligned", lambda entry, level: level > 0 and bool(entry.ppn & 511)),
    "everything is a user's": (RiscvEntry, "of", _of_user),
    "reserved bits": _patch_kind(lambda entry, level, real: real(replace(entry, reserved=0), level)),
    "write implies read": _patch_kind(lambda entry, level, real: real(replace(entry, readable=entry.readable | entry.writable), level)),
    "PBMT": _patch_kind(lambda entry, level, real: real(replace(entry, pbmt=0), level)),
    "not valid": _patch_kind(lambda entry, level, real: real(replace(entry, valid=1), level)),
    "64 KiB anyhow": _patch_kind(lambda entry, level, real: real(replace(entry, napot=0), level)),
    "64 KiB as 4": (RiscvEntry, "size", lambda entry, level: page_size(level)),
    "no D": (RiscvEntry, "marked", lambda entry, dirty: replace(entry, accessed=1)),
    "D of reads": (RiscvEntry, "marked", lambda entry, dirty: replace(entry, accessed=1, dirty=1)),
    "pointers give no permission": (RiscvEntry, "grants", lambda entry, level: (bool(entry.readable), bool(entry.writable))),
    "VT-d's pointers take nothing away": (
        VtdEntry, "grants", lambda entry, level: (True, True) if level else (bool(entry.readable), bool(entry.writable))),
    "root of one page": (RiscvEntry, "ROOT_BITS", 0),
    "VT-d's root of four": (VtdEntry, "ROOT_BITS", 2),
    "any context": (model_module, "misconfiguration", lambda context, subset: ""),
    "indices of extended contexts": (model_module, "DDI_BITS", (6, 9)),
    "CA for UR": (model_module, "_ABORTS", ()),
    "UR for no page": (model_module, "_NO_PAGE", ()),
    "DTF silences nothing": _patch_refusal(lambda request, fault, context, real: real(request, fault, None)),
    "DTF without a context": _patch_refusal(lambda request, fault, context, real: real(request, fault, context or DeviceContext(dtf=1))),
    "update that never was": (TableMemory, "compare_and_set", lambda memory, address, expected, value: True),
    "no limit of addresses": (Iommu, "_reach", lambda iommu, address: None),
    "writes are reads": (Request, "writes", False),
    "ATS requests are writes": (Request, "writes", True),
    "ATS as a device's access": (Request, "is_ats", False),
    "first stage alone": (Iommu, "_second", lambda iommu, context, guest, intent, write, iotval2: model_module._Found(guest)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_models_are_noticed(name, monkeypatch):
    monkeypatch.setattr(*WRONG[name])
    assert is_noticed()


@pytest.mark.parametrize("rule", range(13))
def test_each_rule_of_contexts_counts(rule, monkeypatch):
    """Without any one of the 13 rules for contexts, a case fails."""
    real = model_module.misconfiguration

    def without(context, subset):
        name = real(context, subset)
        return "" if name == names[rule] else name
    names = _rules()
    monkeypatch.setattr(model_module, "misconfiguration", without)
    assert is_noticed(DIRECTORY_CASES)


def _rules():
    contexts = ({"reserved": 1 << 12}, {"ats": 1}, {"t2gpa": 1}, {"pri": 1}, {"ats": 1, "prpr": 1}, {"ats": 1, "t2gpa": 1}, {"first_mode": 1},
                {"dpe": 1}, {"second_mode": 1}, {"second_mode": 8, "second_ppn": 1}, {"sade": 1}, {"sbe": 1}, {"sxl": 1})
    names = [model_module.misconfiguration(DeviceContext(**fields), SMALL if fields in ({"ats": 1}, {"sade": 1}) else Subset())
             for fields in contexts]
    assert len(set(names)) == 13 and all(names)
    return names


def test_update_is_tried_again_when_the_entry_changed():
    """Software moves the page between the walk's read and its update."""
    machine = Machine(TWO_STAGES | {TC: V | SADE, LEAF: leaf(ALL & ~D)})
    moved, real, tries = leaf(ALL & ~D & ~A, 0x87655), machine.memory.compare_and_set, count()

    def compare_and_set(address, expected, value):
        if next(tries) == 0:
            machine.write(LEAF, moved)
        return real(address, expected, value)
    machine.memory.compare_and_set = compare_and_set
    machine.write(G_LEAF + 8, leaf(ALL, 0x77777))
    assert described(machine.iommu.translate(Request(DEVICE, IOVA, WRITE))) == "0x77777abc 4K rw"
    assert machine.read(LEAF) == moved | A | D and next(tries) == 2


def test_update_is_not_made_when_the_entry_was_cleared():
    machine = Machine(ONE_STAGE | {TC: V | SADE, LEAF: leaf(ALL & ~D)})
    machine.memory.compare_and_set = lambda address, expected, value: machine.write(LEAF, 0)
    assert described(machine.iommu.translate(Request(DEVICE, IOVA, WRITE))) == "UR 15"
    assert machine.read(LEAF) == 0


SIZES = (PAGE, NAPOT_SIZE, 2 * MIB, GIB, 512 * GIB)


@pytest.mark.parametrize(("first_mode", "second_mode"), list(product(Mode, Mode)))
def test_what_is_mapped_is_translated(first_mode, second_mode):
    """Round trip of the builder and the model, for all sizes in both stages."""
    rng = random.Random(f"{first_mode} {second_mode}")
    for first_size, second_size in product(SIZES, SIZES):
        memory, allocate = TableMemory(HostMemory()), pages_from(0x80_0000_0000)
        directory = Directory(memory, allocate, rng.choice((ONE_LEVEL, TWO_LEVEL)))
        device = rng.randrange(1 << directory.mode.device_bits)
        context = DeviceContext(first_mode=first_mode, second_mode=second_mode, gscid=5, pscid=6)
        second, under = None, {}
        if second_mode != Mode.BARE:
            second = AddressSpace(memory, allocate, second_mode, second=True)
            context = replace(context, second_ppn=second.ppn)
            under = {"under": second, "guest_allocate": pages_from(0x180_0000_0000)}
        bits = first_mode.bits - 1 if first_mode != Mode.BARE else 40
        largest = page_size(2 if Mode.SV39 in (first_mode, second_mode) else 3)
        if max(first_size, second_size) > largest:
            continue
        iova = rng.randrange(1 << bits)
        guest, offset = rng.randrange(1 << 40) & ~(first_size - 1), iova & first_size - 1
        if first_mode != Mode.BARE:
            if rng.random() < 0.5:
                iova |= -1 << bits & EVERYTHING - 1
            first = AddressSpace(memory, allocate, first_mode, **under)
            first.map(iova & ~(first_size - 1), guest, first_size)
            context = replace(context, first_ppn=first.ppn)
        else:
            guest, offset = iova, 0
        physical, size = guest + offset, first_size if first_mode != Mode.BARE else EVERYTHING
        if second is not None:
            target = rng.randrange(1 << 50) & ~(second_size - 1)
            second.map(physical & ~(second_size - 1), target, second_size)
            physical, size = target + (physical & second_size - 1), min(size, second_size)
        directory.device(device, context)
        outcome = Iommu(memory, mode=directory.mode, ppn=directory.ppn).translate(Request(device, iova, rng.choice((READ, WRITE))))
        assert outcome == Outcome(Status.TRANSLATED, physical, size, True, True)


def test_builder_refuses_what_no_entry_can_map():
    space = AddressSpace(TableMemory(HostMemory()), pages_from(0), Mode.SV39)
    for arguments in ((0x1000, 0, 2 * MIB), (0, 0x1000, NAPOT_SIZE), (0, 0, 2 * PAGE), (0, 0, 512 * GIB)):
        with pytest.raises(ValueError, match=r"^An entry maps 4 KiB, 64 KiB, 2 MiB, 1 GiB or 512 GiB to as many, aligned to this size, not "):
            space.map(*arguments)


def test_builder_unmaps():
    machine = Machine(ONE_STAGE)
    space = AddressSpace(machine.memory, pages_from(0x4000_0000), Mode.SV39)
    machine.write(FSC, SV39 | space.ppn)
    space.map(0x4020_0000, 0x1000_0000, 2 * MIB)
    assert described(machine.iommu.translate(Request(DEVICE, IOVA))) == "0x10003abc 2M rw"
    assert space.unmap(IOVA) == space.place(IOVA, 1)
    assert described(machine.iommu.translate(Request(DEVICE, IOVA))) == "UR 13"


def test_records_in_memory():
    record = FaultRecord(cause=Cause.WRITE_GUEST_PAGE_FAULT, process_id=0xABCDE, process_valid=1, privileged=1, access=WRITE, device_id=0x123456,
                         iotval=0x1122_3344_5566_7788, iotval2=0x8765_4003)
    assert record.pack().hex() == "17e0cdab0f563412000000000000000088776655443322110340658700000000"
    assert FaultRecord.unpack(record.pack()) == record
    context = DeviceContext(ats=1, sade=1, custom=0x81, second_mode=Mode.SV48, gscid=0x1234, second_ppn=0x55554, pscid=0xABCDE, first_mode=Mode.SV39,
                            first_ppn=0x321)
    assert context.pack().hex() == "0301008100000000545505000040239100e0cdab000000002103000000000080"
    with pytest.raises(ValueError, match=r"^DeviceContext\.pscid must fit 20 bits, not be 0x100000$"):
        DeviceContext(pscid=1 << 20).pack()


@pytest.mark.parametrize(("expected", "address", "size", "permissions"), [
    (0x1234_5003, 0x1234_5ABC, PAGE, (True, True)), (0x1234_5001, 0x1234_5000, PAGE, (True, False)), (0, 0x1234_5000, PAGE, (False, False)),
    (0x1234_7803, 0x1234_5ABC, NAPOT_SIZE, (True, True)), (0x122F_F802, 0x1234_5ABC, 2 * MIB, (False, True)),
    (0x1FFF_F803, 0x1234_5ABC, GIB, (True, True)), (0x1FFF_F803, 0x1234_5ABC, EVERYTHING, (True, True)),
])
def test_ats_entries(expected, address, size, permissions):
    assert ats_entry(Outcome(Status.TRANSLATED, address, size, *permissions)) == expected


class Changes:
    """A history that begins with a base, and what a request may be answered in it."""

    def __init__(self, base, **words):
        self.machine = Machine(base)
        self.history = History(self.machine.memory, Subset(), TWO_LEVEL, 0x2000)
        self.request = Request(DEVICE, IOVA)

    def write(self, time, address, value):
        self.history.write(time, address, value.to_bytes(8, "little"))

    def invalidate(self, time, command, done=None):
        """Queue the command, and a fence that is done later."""
        self.history.command(time, command)
        if done is not None:
            self.history.fence(time, done)

    def at(self, start, end=None, request=None):
        return {described(outcome) for outcome in self.history.outcomes(request or self.request, start, start if end is None else end)}


OLD, NEW = "0x87654abc 4K rw", "0x99999abc 4K rw"
MOVED = leaf(ALL, 0x99999)


def test_change_is_free_until_its_fence():
    changes = Changes(ONE_STAGE)
    changes.write(10, LEAF, MOVED)
    changes.invalidate(20, Invalidation(), done=30)
    assert changes.at(5) == {OLD}
    assert changes.at(5, 10) == changes.at(10) == changes.at(15) == changes.at(25) == changes.at(29, 40) == {OLD, NEW}
    assert changes.at(30) == changes.at(50) == {NEW}
    assert not changes.history.allows(changes.request, Outcome(Status.TRANSLATED, 0x8765_4ABC, PAGE, True, True), 30, 31)


@pytest.mark.parametrize("command", [
    Invalidation(gv=1), Invalidation(func3=1), Invalidation(pscv=1, pscid=1), DirectoryCommand(), Invalidation(av=1, page=0x40204),
])
def test_other_invalidations_do_not_count(command):
    changes = Changes(ONE_STAGE)
    changes.write(10, LEAF, MOVED)
    changes.invalidate(20, command, done=30)
    assert changes.at(50) == {OLD, NEW}


def test_what_does_not_follow_does_not_count():
    changes = Changes(ONE_STAGE)
    changes.invalidate(5, Invalidation(), done=40)     # queued before the change
    changes.write(10, LEAF, MOVED)
    changes.invalidate(20, Invalidation())
    changes.history.fence(15, 40)                      # queued before the invalidation
    assert changes.at(50) == {OLD, NEW}
    changes.history.fence(45, 48)
    assert changes.at(47) == {OLD, NEW} and changes.at(48) == {NEW}


def test_invalidation_of_one_page():
    changes = Changes(ONE_STAGE)
    changes.write(10, LEAF, MOVED)
    changes.invalidate(20, Invalidation(av=1, page=IOVA >> 12), done=30)
    assert changes.at(30) == {NEW}


def test_pointers_stay_when_leaves_are_invalidated():
    changes = Changes(ONE_STAGE | {0x100_4018: MOVED})
    changes.write(10, MIDDLE, leaf(V, 0x1004))
    changes.invalidate(20, Invalidation(av=1, page=IOVA >> 12), done=30)
    assert changes.at(40) == {OLD, NEW}
    changes.invalidate(50, Invalidation(), done=60)
    assert changes.at(60) == {NEW}


def test_any_entry_answers_for_its_64_kib():
    """Also one with another D, as hardware sets it in one of them; not those of another range, and not what was forgotten."""
    clean, written, other = (leaf(flags, 0x87658, 1 << 63) for flags in (ALL & ~D, ALL, ALL & ~W))
    changes = Changes(ONE_STAGE | {LEAF - 0x18 + 8 * number: clean for number in range(16)} | {LEAF - 0x18 + 0x80: other})
    read_only, both = "0x87653abc 64K r", "0x87653abc 64K rw"
    assert changes.at(5) == {read_only}
    changes.write(10, LEAF + 0x20, written)
    assert changes.at(15) == {read_only, both}
    changes.write(20, LEAF + 0x20, clean)
    assert changes.at(25) == {read_only, both}
    changes.invalidate(30, Invalidation(av=1, page=IOVA >> 12), done=40)
    assert changes.at(45) == {read_only}


def test_global_entries_stay_when_a_process_is_invalidated():
    for pointer, expected in ((0x40_0801 | G, {OLD, NEW}), (0x40_0801, {NEW})):
        changes = Changes(ONE_STAGE | {MIDDLE: pointer})
        changes.write(10, LEAF, MOVED)
        changes.invalidate(20, Invalidation(pscv=1), done=30)
        assert changes.at(40) == expected


def test_what_was_not_valid_is_not_kept():
    changes = Changes(ONE_STAGE | {LEAF: 0})
    changes.write(10, LEAF, MOVED)
    assert changes.at(9, 11) == {"UR 13", NEW} and changes.at(11) == {NEW}
    changes.write(20, LEAF, 0)
    assert changes.at(25) == {"UR 13", NEW}
    changes.write(30, UPPER, 0)
    assert changes.at(35) == {"UR 258", "UR 13", NEW}


def test_contexts_and_second_stages_change_as_well():
    changes = Changes(TWO_STAGES)
    changes.write(10, G_LEAF, leaf(ALL, 0x77777))
    assert changes.at(15) == {BOTH, "0x77777abc 4K rw"}
    changes.invalidate(20, Invalidation(gv=1, gscid=7), done=30)
    assert changes.at(30) == {BOTH, "0x77777abc 4K rw"}
    changes.invalidate(40, Invalidation(func3=1, gv=1, gscid=7, av=1, page=0x87654), done=50)
    assert changes.at(50) == {"0x77777abc 4K rw"}
    changes.write(60, FSC, 0)
    assert changes.at(65) == {"0x77777abc 4K rw", f"{IOVA:#x} 1G rw"} or changes.at(65) == {"0x77777abc 4K rw", f"UR 21 {IOVA:#x}"}
    changes.invalidate(70, DirectoryCommand(dv=1, device_id=DEVICE), done=80)
    assert changes.at(80) == {f"UR 21 {IOVA:#x}"}


def test_updates_are_made_in_memory():
    """A write that finds an old entry without D compares it with memory, and looks again."""
    changes = Changes(ONE_STAGE | {TC: V | SADE, LEAF: leaf(ALL & ~D)})
    write = replace(changes.request, access=WRITE)
    assert changes.at(5, request=write) == {OLD}
    changes.write(6, LEAF, leaf(ALL))                  # as the IOMMU does
    changes.write(10, LEAF, MOVED & ~D)
    assert changes.at(15, request=write) == {OLD, NEW}     # the old entry with D may be kept
    assert changes.at(15) == {OLD, "0x87654abc 4K r", "0x99999abc 4K r"}
    changes.write(20, LEAF, 0)
    changes.write(30, LEAF, MOVED)
    changes.invalidate(40, Invalidation(), done=50)
    assert changes.at(50, request=write) == {NEW}


def test_refused_memory_stays_refused():
    changes = Changes(ONE_STAGE)
    changes.machine.memory.denied.add(LEAF >> 12)
    changes.write(10, MIDDLE, leaf(ALL, 0x87600))
    assert changes.at(15) == {"UR 5", "0x87603abc 2M rw"}


def test_tables_change_by_words():
    changes = Changes(ONE_STAGE)
    with pytest.raises(ValueError, match=r"^Tables change by words of 8 bytes, not by 4 bytes at 0x1002018$"):
        changes.history.write(0, LEAF, bytes(4))
