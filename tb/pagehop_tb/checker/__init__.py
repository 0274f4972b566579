"""The event log of a run and the verdict on it."""
