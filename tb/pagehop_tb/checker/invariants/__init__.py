"""The invariants I1 to I13 (correctness 4), one a file: each is told what the replay of a log meets, and says what is wrong.

They are cheaper than the graph and localise a fault. Those that need the whole run are functions, called at its end.
"""
