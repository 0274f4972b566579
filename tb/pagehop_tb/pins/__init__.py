"""Agents of one port: they know handshakes and credits, not meaning."""
