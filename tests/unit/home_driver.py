"""The coherent home at a port of a block in Amaranth's simulator."""

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
    """A bench that runs ``home`` at ``port`` until ``stop()``."""
    watched = [value for channel in (port.a, port.c, port.e) for value in (channel.valid, Value.cast(channel.payload))]
    layouts = {name: getattr(port, name).payload.shape() for name in "abcd"}

    async def bench(ctx):
        shown = {}

        def show(name, signal, value):
            if shown.get(name) != value:
                shown[name] = value
                ctx.set(signal, value)

        shows = home.shows
        while not stop():
            for name in "ace":
                show(name, getattr(port, name).ready, getattr(shows, f"{name}_ready"))
            for name in "bd":
                channel, beat = getattr(port, name), getattr(shows, name)
                show(name, channel.valid, int(beat is not None))
                if beat is not None:
                    show(f"{name} payload", Value.cast(channel.payload), packed(layouts[name], beat))
            _, _, a_valid, a, c_valid, c, e_valid, e, b_ready, d_ready = await ctx.tick().sample(*watched, port.b.ready, port.d.ready)
            shows = home.step(FromMaster(
                unpacked(layouts["a"], A, a) if a_valid else None, b_ready, unpacked(layouts["c"], C, c) if c_valid else None, d_ready,
                e if e_valid else None))

    return bench
