"""The commands a user types."""

import sys
from pathlib import Path

# The design and the bench that the runner is tried on stand beside the tests.
sys.path.insert(0, str(Path(__file__).parent))
