"""The judge in a notebook or a script: `python judge.py`."""

from selfplay import judge

PUZZLE = "def f(x: int):\n    return x * x == 1369 and x > 0"
REPLIES = ["def g():\n    return 37", "The answer:\n```python\ndef g():\n    return -37\n```", "import os; os._exit(0)"]

if __name__ == "__main__":
    for verdict in judge.verify([(PUZZLE, reply) for reply in REPLIES]):
        print(verdict.verdict, verdict.answer, verdict.detail)
