"""Measurements. They start the same real parts as the tests do (tests/parts)."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
