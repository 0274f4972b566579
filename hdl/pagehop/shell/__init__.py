"""Adapters between a port of a core and the hard PCIe blocks of FPGAs."""
