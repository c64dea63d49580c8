"""The judge as a service, and its client: verdicts for trainers, harnesses and notebooks.

    from selfplay import judge

    judge.verify([("def f(x: int): return x * x == 1369", "def g(): return 37")])[0].verdict  # accepted

May import `sandbox`, `puzzles`, the files of `selfplay` and `selfplay.run`. Start reading in `client.py` for the
caller's side, in `service.py` for the other one.
"""

from __future__ import annotations

from selfplay.judge.client import Judge, JudgeError, verify
from selfplay.judge.pairs import Judged, Pair

__all__ = ["Judge", "JudgeError", "Judged", "Pair", "verify"]
