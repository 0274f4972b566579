"""The on-the-side device: an endpoint that pages are redirected through, and that watches leaf tables (docs/ots.md)."""
