"""What is true: puzzles, candidates, verdicts, and archives of what was verified.

May import `sandbox`. Two rooms stand above the files here: `rules/` makes puzzles by rule, `archive/` keeps and
exchanges them. Start reading at `verify.py`.

The names below are the public Python API; each is imported when it is first used, so `import puzzles` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from puzzles.archive.catalogue import Filter, page_of
    from puzzles.archive.store import Archive
    from puzzles.verify import truth_pool, verify_texts

__all__ = ["Archive", "Filter", "page_of", "truth_pool", "verify_texts"]
_HOMES = {
    "Archive": "puzzles.archive.store",
    "Filter": "puzzles.archive.catalogue",
    "page_of": "puzzles.archive.catalogue",
    "truth_pool": "puzzles.verify",
    "verify_texts": "puzzles.verify",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
