"""The home at a port of a block in Amaranth's simulator."""

from amaranth.hdl import Value

from pagehop_tb.models.home import A, C, FromMaster


def _fields(layout, names):
    return [(layout[name].offset, layout[name].width, name) for name in names if name in layout.members]


def unpacked(layout, kind, word):
    """The beat that a payload is."""
    return kind(**{name: word >> offset & (1 << width) - 1 for offset, width, name in _fields(layout, kind._fields)})


def packed(layout, beat):
    """The payload that a beat is."""
    return sum(getattr(beat, name) << offset for offset, _, name in _fields(layout, beat._fields))


def at_port(home, port, stop):
    """A bench that runs ``home`` at ``port``, a coherent or an uncached one, until ``stop()``."""
    coherent = "b" in port.signature.members
    sent, got = ("ace", "bd") if coherent else ("a", "d")
    watched = [value for name in sent for value in (getattr(port, name).valid, Value.cast(getattr(port, name).payload))]
    readies = [getattr(port, name).ready for name in got]
    layouts = {name: getattr(port, name).payload.shape() for name in "abcd" if name in sent + got}

    async def bench(ctx):
        shown = {}

        def show(name, signal, value):
            if shown.get(name) != value:
                shown[name] = value
                ctx.set(signal, value)

        shows = home.shows
        while not stop():
            for name in sent:
                show(name, getattr(port, name).ready, getattr(shows, f"{name}_ready"))
            for name in got:
                channel, beat = getattr(port, name), getattr(shows, name)
                show(name, channel.valid, int(beat is not None))
                if beat is not None:
                    show(f"{name} payload", Value.cast(channel.payload), packed(layouts[name], beat))
            _, _, *saw = await ctx.tick().sample(*watched, *readies)
            if not coherent:
                saw = [*saw[:2], 0, 0, 0, 0, 0, *saw[2:]]
            a_valid, a, c_valid, c, e_valid, e, b_ready, d_ready = saw
            shows = home.step(FromMaster(
                unpacked(layouts["a"], A, a) if a_valid else None, b_ready, unpacked(layouts["c"], C, c) if c_valid else None, d_ready,
                e if e_valid else None))

    return bench
