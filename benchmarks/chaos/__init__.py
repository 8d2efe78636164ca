"""Faults at seeded instants on a real Ray cluster: `python -m benchmarks.chaos`, or `make chaos`."""

import sys
from pathlib import Path

KIT = Path(__file__).parents[2] / "tests" / "kit"
if str(KIT) not in sys.path:
    sys.path.insert(0, str(KIT))  # the misbehaving servers of the tests
