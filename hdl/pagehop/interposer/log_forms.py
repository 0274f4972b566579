"""Both forms of the dirty log: words of a bitmap, and entries of page tables."""

from amaranth.hdl import Module, Mux, ResetInserter
from amaranth.lib import wiring

from pagehop.interposer.log_tables import LogTables
from pagehop.interposer.log_words import LogWords
from pagehop.tlp.stream import connect_streams

__all__ = ["LogForms"]


class LogForms(wiring.Component):
    """What :class:`LogWords` does, or :class:`LogTables` while ``settings.tables`` is 1; which may change only while ``enable`` is 0.

    Parameters
    ----------
    data_bytes : beat width. entries : class of the :class:`EntryFormat`.

    Members
    -------
    as those of :class:`LogWords`.
    """
    def __init__(self, data_bytes, entries):
        self.words, self.tables = LogWords(data_bytes), LogTables(data_bytes, entries)
        super().__init__(dict(self.words.signature.members))

    def elaborate(self, platform):
        m = Module()
        m.submodules.words, m.submodules.tables = words, _ = self.words, ResetInserter(~self.enable)(self.tables)
        tables, chosen = self.tables, self.settings.tables
        for form in (words, tables):
            m.d.comb += [getattr(form, name).eq(getattr(self, name)) for name in ("settings", "requester_id", "limit", "forget")]
            connect_streams(m, self.completion, form.completion)
        connect_streams(m, words.o_write, self.o_write)
        m.d.comb += [
            # The words are on in both modes, for their generation is that of all tags of the log.
            words.enable.eq(self.enable), words.active.eq(self.active), tables.generation.eq(words.generation), self.generation.eq(words.generation),
            words.i.valid.eq(self.i.valid & ~chosen), tables.i.valid.eq(self.i.valid & chosen),
            words.i.payload.eq(self.i.payload), tables.i.payload.eq(self.i.payload), self.i.ready.eq(Mux(chosen, tables.i.ready, words.i.ready)),
            self.o_request.valid.eq(words.o_request.valid | (tables.o_request.valid & self.enable)),
            self.o_request.payload.eq(Mux(chosen, tables.o_request.payload, words.o_request.payload)),
            words.o_request.ready.eq(self.o_request.ready), tables.o_request.ready.eq(self.o_request.ready),
            self.idle.eq(words.idle & tables.idle), self.error.eq(Mux(chosen, tables.error, words.error)),
        ]
        return m
