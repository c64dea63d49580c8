"""Where tests find what is outside their own folder."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
P3 = ROOT.parent / "shared" / "data" / "p3"
"""Microsoft's P3 puzzles, beside the repository; tests that need them are skipped without them."""
