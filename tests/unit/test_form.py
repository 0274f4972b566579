"""The form of the generated Verilog: one driver for each wire, one block for the registers of a module."""

import re

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib.wiring import Component, In, Out

from pagehop_sim.form import gathered, undivided
from pagehop_sim.verilog import convert

DESIGN = """\
attribute \\top 1
module \\top
  attribute \\init 6'1x0010
  wire width 6 \\state
  attribute \\init 2'11
  wire width 2 \\other
  wire width 4 output 1 \\out
  wire width 3 \\open
  wire width 4 input 2 \\in
  wire input 3 \\clk
  cell $dff $1
    parameter \\WIDTH 5
    connect \\CLK \\clk
    connect \\D { \\in \\in [0] }
    connect \\Q { \\state [5:2] \\other [1] }
  end
  cell \\child \\child
    connect \\value { \\state [1:0] \\other [0] }
  end
  connect \\out [3:1] { \\in [0] 2'10 }
  connect \\out [0] \\state [5]
  connect \\open [2] \\in [1]
end
attribute \\generator "test"
module \\child
  wire width 3 output 1 \\value
  connect \\value 3'101
end
"""

WHOLE = """\
attribute \\top 1
module \\top
  attribute \\init 5'1x001
  wire width 5 $part$0
  attribute \\init 3'101
  wire width 3 $part$1
  wire width 6 \\state
  wire width 2 \\other
  wire width 4 output 1 \\out
  wire width 3 \\open
  wire width 4 input 2 \\in
  wire input 3 \\clk
  cell $dff $1
    parameter \\WIDTH 5
    connect \\CLK \\clk
    connect \\D { \\in \\in [0] }
    connect \\Q $part$0
  end
  cell \\child \\child
    connect \\value $part$1
  end
  connect \\other { $part$0 [0:0] $part$1 [0:0] }
  connect \\state { $part$0 [4:1] $part$1 [2:1] }
  connect \\out { \\in [0:0] 2'10 \\state [5:5] }
  connect \\open [2:2] { \\in [1:1] }
end
attribute \\generator "test"
module \\child
  wire width 3 output 1 \\value
  connect \\value 3'101
end
"""


NUMBER = """\
module \\top
  attribute \\init 65539
  wire width 32 \\state
  cell $dff $1
    connect \\Q \\state [31:16]
  end
  cell $dff $2
    connect \\Q \\state [15:0]
  end
end
"""


def test_an_initial_value_that_is_a_number_goes_to_the_parts():
    initial = [line for line in undivided(NUMBER).splitlines() if "init" in line]
    assert initial == [f"  attribute \\init 16'{1:016b}", f"  attribute \\init 16'{3:016b}"]


BLOCKS = """\
module \\top (clk, a, b, other);
  reg [1:0] x;
  always @(posedge clk)
    x <= a;
  assign a = b;
  always @(posedge clk) begin
    if (a)
      memory[b] <= x;
  end
  always @(posedge clk)
    if (a) w <= b;
    else w <= x;
  always @(posedge other)
    z <= a;
  always @(posedge clk)
    \\y$1  <= { x, b };
endmodule
module empty (i);
  input i;
endmodule
"""

GATHERED = """\
module \\top (clk, a, b, other);
  reg [1:0] x;
  assign a = b;
  always @(posedge clk) begin
    if (a)
      memory[b] <= x;
  end
  always @(posedge clk)
    if (a) w <= b;
    else w <= x;
  always @(posedge clk) begin
    x <= a;
    \\y$1  <= { x, b };
  end
  always @(posedge other) begin
    z <= a;
  end
endmodule
module empty (i);
  input i;
endmodule
"""


def test_parts_become_wires():
    """Cells, instances and connections drive whole wires; initial values go along; a wire with open bits stays as it is."""
    assert undivided(DESIGN) == WHOLE


def test_registers_of_a_clock_share_a_block():
    """Updates keep their order; blocks that do more stay."""
    assert gathered(BLOCKS) == GATHERED


class Divided(Component):
    """Drives a register and an output in parts."""

    i: In(8)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        state = Signal(8, init=0xA5)
        count = Signal(4, init=3)
        m.d.sync += [state[:3].eq(self.i[5:] + 1), state[3:].eq(state[3:] ^ self.i[3:]), count.eq(count + state[0])]
        m.d.comb += [self.o[:4].eq(state[4:]), Cat(self.o[4], self.o[7], self.o[5:7]).eq(count + self.i[:4])]
        return m


def test_verilog_drives_no_parts():
    """The Verilog of a design that drives signals in parts assigns whole wires, in one block of registers, and keeps names and initial values."""
    text = convert(Divided(), "divided").read_text(encoding="utf-8")
    assert not re.search(r"^  assign (\S+ ?\[|\{)", text, re.MULTILINE)
    assert text.count("always @") == 1
    assert "state" in text and "8'ha5" in text and "count = 4'h3" in text


class Stuck(Component):
    """A counter beside a register that never changes."""
    i: In(1)
    o: Out(4)
    never: Out(1)

    def elaborate(self, platform):
        m = Module()
        count = Signal(4)
        with m.If(self.i):
            m.d.sync += count.eq(count + 1)
        m.d.sync += self.never.eq(0)
        m.d.comb += self.o.eq(count)
        return m


def test_a_register_that_never_changes_leaves_the_others_their_form():
    """Yosys goes over a design once more where it finds such a register, and must not make enables of multiplexers then."""
    text = convert(Stuck(), "stuck").read_text(encoding="utf-8")
    assert "rst ?" in text and "if (" not in text, text
