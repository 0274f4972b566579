"""Requests whose answer is not at hand: one at a time is looked into, the others wait in order."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, enum, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from pagehop.iommu.iotlb import AddressSpace, Cached
from pagehop.iommu.layouts import (
    DEVICE_BITS,
    LEVEL_BITS,
    PAGE_BITS,
    PPN_BITS,
    Access,
    Cause,
    Context,
    FaultRecord,
    Located,
    Status,
    Translation,
    TranslationRequest,
    TranslationResponse,
)
from pagehop.iommu.page_walk import WalkFault, WalkRequest, WalkResult
from pagehop.iommu.tilelink import ADDRESS_BITS

__all__ = ["Looked", "Misses", "Offer", "Verdict", "address_space"]


class Verdict(enum.Enum, shape=2):
    """What is done with a request whose translation is not known."""
    DIRECTORY = 0    # its device's context must be found
    TABLES    = 1    # its page must be found
    REFUSE    = 2    # it may not be


class Looked(data.StructLayout):
    """A request, and what could be said of its address at once.

    ``sign_39``, ``sign_48``: an address of the first stage with 39, 48 bits. ``beyond``: it has bits that no physical address has;
    ``no_guest``: bits that no guest's address has.
    """
    def __init__(self, id_bits):
        super().__init__({"request": TranslationRequest(id_bits), "sign_39": 1, "sign_48": 1, "beyond": 1, "no_guest": 1})


class Offer(data.StructLayout):
    """A request that could not be answered: why, and what was found of it. ``known``: its ``context`` was. ``replaces``: see :class:`Iotlb`."""
    def __init__(self, id_bits, ways):
        super().__init__({
            "looked": Looked(id_bits), "verdict": Verdict, "cause": Cause, "known": 1, "context": Context, "replaces": ways,
        })


#: Causes that say that a page is not there, or not for this access.
_OF_PAGES = (Cause.READ_PAGE_FAULT, Cause.WRITE_PAGE_FAULT, Cause.READ_GUEST_PAGE_FAULT, Cause.WRITE_GUEST_PAGE_FAULT)
#: Causes of UR for an ATS request; all others mean CA.
_UNSUPPORTED = (Cause.ALL_DISALLOWED, Cause.DIRECTORY_ACCESS_FAULT, Cause.DIRECTORY_NOT_VALID, Cause.DIRECTORY_MISCONFIGURED, Cause.TYPE_DISALLOWED)
#: Causes that leave a record whatever DTF says (table 11).
_ALWAYS_TOLD = (Cause.ALL_DISALLOWED, Cause.DIRECTORY_ACCESS_FAULT, Cause.DIRECTORY_NOT_VALID, Cause.DIRECTORY_MISCONFIGURED,
                Cause.DIRECTORY_CORRUPTED)


def address_space(context):
    """The space of addresses that a device with this context uses."""
    return data.View(AddressSpace, Cat(context.first, context.second, context.gscid, context.pscid))


class Misses(wiring.Component):
    """Find contexts and pages by walks, answer the requests that waited for them, tell the fault queue of those that are refused.

    One request at a time is looked into; the next ones, up to ``2 ** id_bits``, wait in order, and are looked up again when it is their turn, for
    what they need may have been found by then. Answers and refusals go out when nothing is looked up: while one waits ``blocks`` is 1, and no new
    request may come.

    What is found while something is invalidated is the answer to the request that was there before, and is not kept. Until then ``stale`` is 1: a
    fence must wait for it.

    ``locate`` asks for the entry by which a page is translated, of the second stage when there is one, by a request without an access. It waits for
    one other request at most, however many there are. Nothing is marked, kept, or recorded. With PRECACHE, what a read would find is kept instead,
    and A is set, when there is one stage. After ``redo`` nothing is answered by what a walk has found or read until then: it is looked for again.

    Parameters
    ----------
    id_bits : of requests. At most ``2 ** id_bits`` are unanswered.
    ways : of the IOTLB.

    Members
    -------
    offer : with ``offered``, which may come late, a request that cannot be answered from what is known
    again : stream, requests that are to be looked up once more; what becomes of one is said in the cycle after it was taken, in which ``looks`` is 1.
        Its payload is at any time the request that is looked into
    walk, walked; directory, cause, context : the walks. keeps : out, what the walk of tables reads now may be kept
    locate, located : stream, its ``ready`` is 1 for one cycle, with what was found
    answer : stream, taken in cycles in which nothing was looked up in the cycle before
    fault : stream of records, kept until they are taken
    """
    def __init__(self, id_bits, ways):
        self.id_bits, self.ways = id_bits, ways
        super().__init__({
            "offered": In(1), "offer": In(Offer(id_bits, ways)),
            "blocks": Out(1), "again": Out(stream.Signature(TranslationRequest(id_bits))), "looks": Out(1),
            "directory": Out(stream.Signature(DEVICE_BITS)), "cause": In(Cause), "context": In(Context),
            "walk": Out(stream.Signature(WalkRequest)), "walked": In(WalkResult),
            "guest_page": In(PPN_BITS), "implicit": In(1), "index": In(LEVEL_BITS),
            "fill_context": Out(1), "fill": Out(1), "filled": Out(Cached), "replaces": Out(ways),
            "invalidate": In(1), "stale": Out(1), "keeps": Out(1), "redo": In(1), "entry_address": In(ADDRESS_BITS - 3),
            "locate": In(stream.Signature(TranslationRequest(id_bits))), "located": Out(Located),
            "answer": Out(stream.Signature(TranslationResponse(id_bits))), "fault": Out(stream.Signature(FaultRecord)),
        })

    def elaborate(self, platform):
        m = Module()
        self._looked, self._context, self._known = Signal(Looked(self.id_bits)), Signal(Context), Signal()
        self._cause, self._translation = Signal(Cause), Signal(Translation)
        self._guest_address = Signal(64)     # as a record has it
        self._locates, self._precaches, self._redo = Signal(), Signal(), Signal()    # the second only beside the first
        self._fills = Signal()               # in the cycle before, a walk has found what may be kept
        self._invalidated = Signal()         # in the cycle before, when what is offered was looked up
        turn = Signal()                      # of `locate`, however many requests wait: the last that was looked into was one of them
        request, takes = self._looked.request, Signal()
        waiting, waits, next_ = self._queue(m, self.offered & ~takes)
        m.d.comb += [
            self.again.payload.eq(request), self.directory.payload.eq(request.device_id), self.answer.payload.id.eq(request.id),
        ]
        self._connect_walk(m)
        self._record(m)
        m.d.sync += self._invalidated.eq(self.invalidate)
        with m.If(self.invalidate):
            m.d.sync += self.stale.eq(1)
        # Registers, for the look-up, the walk and what is kept begin with them.
        m.d.sync += [self.again.valid.eq(0), self._fills.eq(0)]
        with m.FSM():
            with m.State("idle"):
                m.d.sync += self.stale.eq(self.invalidate)
                m.d.sync += self._locates.eq(0)
                with m.If(self.locate.valid & turn):
                    m.next = "locate"
                with m.Elif(waits):
                    m.d.comb += next_.eq(1)
                    m.d.sync += [request.eq(waiting), turn.eq(1)]
                    self._look_again(m)
                with m.Else():
                    self._take(m, takes)
                    m.d.sync += turn.eq(turn | self.offered)
                    with m.If(~self.offered & self.locate.valid):
                        m.next = "locate"
            with m.State("locate"):
                m.d.sync += [
                    turn.eq(0), request.eq(self.locate.payload), self._locates.eq(1),
                    self._precaches.eq(self.locate.payload.access == Access.PRECACHE),
                ]
                self._look_again(m)
            with m.State("again"):
                m.d.comb += self.blocks.eq(1)
                m.next = "look"
                with m.If(~self.again.ready):
                    self._look_again(m)
            with m.State("look"):
                m.d.comb += self.looks.eq(1)
                m.next = "idle"
                self._take(m, takes)
            with m.State("directory"):
                m.d.comb += self.directory.valid.eq(1)
                with m.If(self.directory.ready):
                    m.d.comb += self.fill_context.eq((self.cause == Cause.NONE) & ~self.stale)
                    m.d.sync += self._cause.eq(self.cause)
                    with m.If(self.cause == Cause.NONE):
                        self._look_again(m)
                    with m.Else():
                        m.next = "refuse"
            with m.State("tables"):
                self._tables(m)
            with m.State("answer"):
                m.d.comb += [
                    self.blocks.eq(1), self.answer.valid.eq(~self.redo), self.answer.payload.translation.eq(self._translation),
                ]
                with m.If(self.redo):
                    self._look_again(m)
                with m.Elif(self.answer.ready):
                    m.next = "idle"
            with m.State("refuse"):
                self._refuse(m)
            with m.State("record"):
                m.d.comb += self.fault.valid.eq(1)
                with m.If(self.fault.ready):
                    m.next = "idle"
        return m

    def _look_again(self, m):
        """Nothing after it may choose another state."""
        m.d.sync += self.again.valid.eq(1)
        m.next = "again"

    def _queue(self, m, offered):
        """The requests that wait: the first of them, whether there is one, and what takes it.

        ``offered`` is known late: each request is written where the next one stands, and stays there when it was offered.
        """
        m.submodules.waiting = kept = memory.Memory(shape=TranslationRequest(self.id_bits), depth=1 << self.id_bits, init=[])
        write, read = kept.write_port(), kept.read_port(domain="comb")
        first, last, more, taken = Signal(self.id_bits + 1), Signal(self.id_bits + 1), Signal(), Signal()
        end = (last + more)[:len(last)]
        m.d.sync += [more.eq(offered), last.eq(end), first.eq(first + taken)]
        m.d.comb += [
            write.addr.eq(end), write.data.eq(self.offer.looked.request), write.en.eq((end ^ first) != 1 << self.id_bits),
            read.addr.eq(first),
        ]
        return read.data, first != end, taken

    def _take(self, m, takes):
        """Look into what is offered, if it is. What was invalidated before has not been read yet."""
        offer = self.offer
        # All that nothing is asked of without a request, whether there is one or not, which is known late.
        m.d.sync += [
            self._looked.eq(offer.looked), self._context.eq(offer.context), self._known.eq(offer.known), self._cause.eq(offer.cause),
            self.replaces.eq(offer.replaces), self._redo.eq(0), self._guest_address.eq(0),
        ]
        with m.If(self.offered):
            m.d.comb += takes.eq(1)
            m.d.sync += self.stale.eq(self.invalidate | self._invalidated)
            with m.Switch(offer.verdict):
                with m.Case(Verdict.DIRECTORY):
                    m.next = "directory"
                with m.Case(Verdict.TABLES):
                    m.d.sync += self.walk.valid.eq(1)
                    m.next = "tables"
                with m.Default():
                    m.next = "refuse"

    def _connect_walk(self, m):
        request, context, walk, walked = self._looked.request, self._context, self.walk.payload, self.walked
        ats = request.access == Access.ATS_REQUEST
        m.d.comb += [
            walk.context.eq(context), walk.context.first.eq(context.first & ~(self._locates & context.second)),
            walk.locates.eq(self._locates & ~self._precaches),
            self.located.nested.eq(context.first & context.second), self.located.address.eq(self.entry_address),
            self.located.translation.eq(walked.translation), walk.page.eq(request.iova[PAGE_BITS:]),
            walk.writes.eq((request.access == Access.WRITE) | (ats & ~request.no_write)), walk.lenient.eq(ats),
            walk.canonical.eq(Mux(context.first_deep, self._looked.sign_48, self._looked.sign_39)), walk.beyond.eq(self._looked.beyond),
            self.filled.space.eq(address_space(context)), self.filled.page.eq(request.iova[PAGE_BITS:]),
            # In the cycle after the walk, before anything else is looked into.
            self.filled.translation.eq(self._translation), self.fill.eq(self._fills & ~self.stale & ~self.redo),
        ]

    def _tables(self, m):
        """Walk; the answer goes out in the cycle in which the walk ends, if nothing is looked up."""
        walked, request = self.walked, self._looked.request
        redo, sound = self._redo | self.redo, walked.fault == WalkFault.NONE
        found = self.walk.ready & sound & ~redo & ~self._locates
        precached = self.walk.ready & sound & ~redo & self._locates & self._precaches & ~(self._context.first & self._context.second)
        m.d.sync += self._redo.eq(redo)
        m.d.sync += [self._fills.eq((found | precached) & (request.access != Access.ATS_REQUEST)), self.walk.valid.eq(~self.walk.ready)]
        m.d.comb += [
            self.keeps.eq(~self.stale & ~redo), self.answer.valid.eq(found), self.answer.payload.translation.eq(walked.translation),
        ]
        with m.If(self.walk.ready):
            writes = Mux(request.access == Access.WRITE, Cause.WRITE_PAGE_FAULT.value ^ Cause.READ_PAGE_FAULT.value, 0)
            m.d.sync += [self._translation.eq(walked.translation), self._guest_address.eq(self._guest_place())]
            with m.Switch(walked.fault):
                with m.Case(WalkFault.PAGE):
                    m.d.sync += self._cause.eq(Cause.READ_PAGE_FAULT.value | writes)
                with m.Case(WalkFault.GUEST):
                    m.d.sync += self._cause.eq(Cause.READ_GUEST_PAGE_FAULT.value | writes)
                with m.Case(WalkFault.ACCESS):
                    m.d.sync += self._cause.eq(Cause.READ_ACCESS_FAULT.value | writes)
                with m.Default():
                    m.d.sync += self._cause.eq(Cause.TABLE_CORRUPTED)
            m.next = "refuse"
            with m.If(redo):
                self._look_again(m)
            with m.Elif(self._locates & sound):
                m.d.comb += [self.locate.ready.eq(1), self.located.found.eq(1)]
                m.next = "idle"
            with m.Elif(found):
                m.next = "answer"
                with m.If(self.answer.ready):
                    m.next = "idle"

    def _guest_place(self):
        """``iotval2`` of a fault of the second stage: the guest's address, whether it is that of a table, and whether that was to be written."""
        request, context = self._looked.request, self._context
        table = Cat(Const(1, 1), context.sade, Const(0, 1), self.index, self.guest_page)
        page = Cat(Const(0, 2), request.iova[2:PAGE_BITS], self.guest_page)
        place = Mux(self.implicit, table, Mux(context.first, page, Cat(Const(0, 2), request.iova[2:])))
        return Mux(self.walked.fault == WalkFault.GUEST, place, 0)

    def _refuse(self, m):
        """Section 2.4: an ATS request for a page that is not there is answered without permissions, and leaves no record."""
        cause, ats = self._cause.as_value(), self._looked.request.access == Access.ATS_REQUEST
        missing, refused = (Cat(cause == one.value for one in causes).any() for causes in (_OF_PAGES, _UNSUPPORTED))
        always = Cat(cause == one.value for one in _ALWAYS_TOLD).any()
        m.d.comb += [
            self.blocks.eq(1), self.answer.valid.eq(~self._locates), self.locate.ready.eq(self._locates),
            self.answer.payload.status.eq(Mux(
                ats & missing, Status.TRANSLATED, Mux(ats & ~refused, Status.COMPLETER_ABORT, Status.UNSUPPORTED_REQUEST))),
        ]
        with m.If(self._locates):
            m.next = "idle"
        with m.Elif(self.answer.ready):
            m.next = "idle"
            with m.If(~(ats & missing) & (always | ~(self._known & self._context.dtf))):
                m.next = "record"

    def _record(self, m):
        record, request = self.fault.payload, self._looked.request
        m.d.comb += [
            record.cause.eq(self._cause), record.access.eq(request.access), record.device_id.eq(request.device_id),
            record.process_valid.eq(request.process_valid), record.iotval.eq(request.iova), record.iotval2.eq(self._guest_address),
        ]
        with m.If(request.process_valid):
            m.d.comb += [record.process.eq(request.process), record.privileged.eq(request.privileged)]
