"""cocotb tests, one module a scenario. What each needs comes in the file that ``PAGEHOP_CONFIG`` names (``pagehop_sim.run``)."""
