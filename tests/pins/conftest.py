"""The port agents, tried on wires."""

import sys
from pathlib import Path

# The design and the bench that the agents are tried on stand beside the tests.
sys.path.insert(0, str(Path(__file__).parent))
