"""``python -m pagehop_sim``: the ``pagehop`` command where the package is not installed."""

import sys

from pagehop_sim.cli import main

sys.exit(main())
