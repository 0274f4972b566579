"""Bitmaps over the guest window, the page buffer and the copy engine."""
