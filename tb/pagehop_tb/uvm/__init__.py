"""The pyuvm environment: agents, sequences and coverage around the pin agents and models that every bench uses."""
