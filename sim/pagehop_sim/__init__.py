"""What runs outside the simulator: build, run, scenarios, results, reports, and the ``pagehop`` command."""
