"""Helpers of these tests import each other by name: `rows`, `fake_registry`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
