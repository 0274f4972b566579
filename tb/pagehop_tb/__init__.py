"""What runs inside the simulator: agents, models, checkers, drivers, benches."""
