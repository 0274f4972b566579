"""What software does to set up a machine: page tables and a device directory, written to a memory in a few lines."""

from collections.abc import Callable
from typing import Protocol

from pagehop_tb.models.iommu.tables import (
    DDI_BITS,
    LEVEL_BITS,
    NAPOT_SIZE,
    PAGE,
    PAGE_BITS,
    DeviceContext,
    DirectoryEntry,
    DirectoryMode,
    Entry,
    Kind,
    Mode,
    RiscvEntry,
    page_size,
)

__all__ = ["AccessFault", "AddressSpace", "Corruption", "Directory", "Store", "TableMemory", "pages_from"]


class AccessFault(Exception):
    """Memory refuses an access."""


class Corruption(Exception):
    """Memory returns data that it knows to be bad."""


class Store(Protocol):
    """Where tables are written: a :class:`~pagehop_tb.models.memory.HostMemory`, or what behaves like it."""

    def read(self, address: int, size: int) -> bytes:
        """Bytes at ``address``."""

    def write(self, address: int, data: bytes) -> None:
        """Change them."""


class TableMemory:
    """Memory as an IOMMU reaches it. ``denied`` and ``corrupt`` hold numbers of pages that refuse every access, and whose data is bad."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.denied: set[int] = set()
        self.corrupt: set[int] = set()

    def read(self, address: int, size: int) -> bytes:
        """Bytes at ``address``; raises :class:`AccessFault` or :class:`Corruption`."""
        if address >> PAGE_BITS in self.denied:
            raise AccessFault(f"Nothing is at {address:#x}")
        if address >> PAGE_BITS in self.corrupt:
            raise Corruption(f"Data at {address:#x} is bad")
        return self.store.read(address, size)

    def write(self, address: int, data: bytes) -> None:
        """Change bytes, as software does, which nothing refuses."""
        self.store.write(address, data)

    def compare_and_set(self, address: int, expected: int, value: int) -> bool:
        """Write the 8 bytes ``value`` if they are ``expected``, as one step; say whether it was done."""
        if int.from_bytes(self.read(address, 8), "little") != expected:
            return False
        self.store.write(address, value.to_bytes(8, "little"))
        return True


def pages_from(first: int) -> Callable[[int], int]:
    """An allocator: each call with a number of pages, a power of two, returns the address of as many that were never returned, aligned to their size,
    from the address ``first`` on."""
    following = first

    def allocate(pages: int) -> int:
        nonlocal following
        address = -(-following // (pages * PAGE)) * pages * PAGE
        following = address + pages * PAGE
        return address
    return allocate


class AddressSpace:
    """A tree of page tables of one stage.

    Parameters
    ----------
    memory : where tables are written, at physical addresses
    allocate : finds room for tables, see :func:`pages_from`
    mode : Sv39 or Sv48
    second : it is a second stage: of RISC-V's entries, the x4 form
    entries : format of the entries
    under, guest_allocate : of a first stage below a second one, that one, and an allocator of the guest's addresses at which tables shall be. Each
        table is then mapped there by one page.
    """

    def __init__(self, memory: Store, allocate: Callable[[int], int], mode: Mode, *, second: bool = False, entries: type[Entry] = RiscvEntry,
                 under: "AddressSpace | None" = None, guest_allocate: Callable[[int], int] | None = None) -> None:
        self.memory, self.allocate, self.mode, self.entries = memory, allocate, mode, entries
        self.under, self.guest_allocate = under, guest_allocate
        self.root_bits = entries.ROOT_BITS if second else 0
        self._places: dict[int, int] = {}     # guest's page of a table: physical page
        self.root = self._table(1 << self.root_bits)

    @property
    def ppn(self) -> int:
        """Number of the root's page, as a device context has it: that of the guest, below a second stage."""
        return self.root >> PAGE_BITS

    def map(self, address: int, target: int, size: int = PAGE, **flags: int) -> None:
        """Translate the ``size`` bytes at ``address`` to those at ``target``, all by entries of this one size: 4 KiB, 64 KiB, or that of a level
        above. ``flags`` are fields of the entry, where they shall differ from those of a page that was accessed and written and lets do
        everything."""
        level = next((level for level in range(self.mode.levels) if page_size(level) == size), 0)
        if size not in (NAPOT_SIZE, page_size(level)) or (address | target) & size - 1:
            raise ValueError(f"An entry maps 4 KiB, 64 KiB, 2 MiB, 1 GiB or 512 GiB to as many, aligned to this size, not {size:#x} bytes from "
                             f"{address:#x} to {target:#x}")
        napot = {"napot": 1} if size == NAPOT_SIZE else {}
        entry = self.entries.leaf(target >> PAGE_BITS, level, **napot, **flags)
        for part in range(0, size, size if level else PAGE):
            self.write(self.place(address + part, level), entry)

    def unmap(self, address: int) -> int:
        """Clear the entry that translates ``address`` (of 64 KiB, only that of its page); return its place."""
        place = self.place(address)
        self.write(place, self.entries.of(0))
        return place

    def place(self, address: int, level: int | None = None) -> int:
        """Physical address of the entry for ``address`` at a level, whose tables are made when they are not there; by default, of the last entry that
        there is on the way to its page."""
        table = self.root
        for now in range(self.mode.levels - 1, -1, -1):
            bits = LEVEL_BITS + (self.root_bits if now == self.mode.levels - 1 else 0)
            place = self._physical(table) + 8 * (address >> PAGE_BITS + LEVEL_BITS * now & (1 << bits) - 1)
            if now == (level or 0):
                return place
            entry = self.read(place)
            if entry.kind(now) is not Kind.POINTER:
                if level is None:
                    return place
                entry = self.entries.pointer(self._table() >> PAGE_BITS)
                self.write(place, entry)
            table = entry.ppn << PAGE_BITS
        raise ValueError(f"There is no level {level} in tables of {self.mode.name}")

    def read(self, place: int) -> Entry:
        """The entry at a physical address."""
        return self.entries.unpack(self.memory.read(place, 8))

    def write(self, place: int, entry: Entry) -> None:
        """Replace it."""
        self.memory.write(place, entry.pack())

    def _table(self, pages: int = 1) -> int:
        physical = self.allocate(pages)
        self.memory.write(physical, bytes(pages * PAGE))
        if self.under is None or self.guest_allocate is None:
            return physical
        guest = self.guest_allocate(pages)
        self.under.map(guest, physical)
        self._places[guest] = physical
        return guest

    def _physical(self, table: int) -> int:
        return self._places.get(table, table)


class Directory:
    """A device directory of one or two levels. ``mode`` and ``ppn`` are for ``ddtp``."""

    def __init__(self, memory: Store, allocate: Callable[[int], int], mode: DirectoryMode = DirectoryMode.TWO_LEVEL) -> None:
        self.memory, self.allocate, self.mode = memory, allocate, mode
        self.ppn = self._table()

    def device(self, device_id: int, context: DeviceContext) -> int:
        """Give a device its context; return the context's address."""
        place = self.place(device_id)
        self.memory.write(place, context.pack())
        return place

    def upper_place(self, device_id: int) -> int:
        """Address of the entry of the upper of two levels."""
        return (self.ppn << PAGE_BITS) + 8 * (device_id >> DDI_BITS[0])

    def place(self, device_id: int) -> int:
        """Address of a device's context, in a table that is made when it is not there."""
        ppn = self.ppn
        if self.mode is DirectoryMode.TWO_LEVEL:
            upper = self.upper_place(device_id)
            entry = DirectoryEntry.unpack(self.memory.read(upper, 8))
            if not entry.valid:
                entry = DirectoryEntry(ppn=self._table())
                self.memory.write(upper, entry.pack())
            ppn = entry.ppn
        return (ppn << PAGE_BITS) + DeviceContext.SIZE * (device_id & (1 << DDI_BITS[0]) - 1)

    def _table(self) -> int:
        address = self.allocate(1)
        self.memory.write(address, bytes(PAGE))
        return address >> PAGE_BITS
