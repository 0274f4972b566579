"""The coherent home at a port of a block in Amaranth's simulator."""

from amaranth.hdl import Value

from pagehop_tb.models.home import A, C, Home


def _fields(layout, beat):
    """Place, width and name of what a beat of this kind has in the payload."""
    return [(layout[name].offset, layout[name].width, name) for name in beat._fields if name in layout.members]


def unpacked(layout, kind, word):
    """The beat that a payload is."""
    return kind(**{name: word >> offset & (1 << width) - 1 for offset, width, name in _fields(layout, kind)})


def packed(layout, beat):
    """The payload that a beat is."""
    return sum(getattr(beat, name) << offset for offset, _, name in _fields(layout, beat))


def at_port(home: Home, port, stop, each=lambda: None):
    """A bench that runs ``home`` at ``port`` until ``stop()``; ``each()`` is called in every cycle, when what the home shows in it is decided."""
    from pagehop_tb.models.home import FromMaster

    names = ("a", "c", "e")
    samples = [value for name in names for value in (getattr(port, name).valid, Value.cast(getattr(port, name).payload))]

    async def bench(ctx):
        shown = {}

        def show(signal, value):
            if shown.get(signal) != value:
                shown[signal] = value
                ctx.set(dict(signals)[signal], value)

        signals = [("a", port.a.ready), ("c", port.c.ready), ("e", port.e.ready), ("b", port.b.valid), ("b payload", Value.cast(port.b.payload)),
                   ("d", port.d.valid), ("d payload", Value.cast(port.d.payload))]
        shows = home.shows
        while not stop():
            show("a", shows.a_ready)
            show("c", shows.c_ready)
            show("e", shows.e_ready)
            for name, beat in (("b", shows.b), ("d", shows.d)):
                show(name, int(beat is not None))
                if beat is not None:
                    show(f"{name} payload", packed(getattr(port, name).payload.shape(), beat))
            each()
            _, _, a_valid, a, c_valid, c, e_valid, e, b_ready, d_ready = await ctx.tick().sample(*samples, port.b.ready, port.d.ready)
            shows = home.step(FromMaster(
                unpacked(port.a.payload.shape(), A, a) if a_valid else None, b_ready,
                unpacked(port.c.payload.shape(), C, c) if c_valid else None, d_ready, e if e_valid else None))

    return bench
