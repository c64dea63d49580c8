"""A right answer counts however a chat model or a person writes it, and what is none is refused by a named rule."""

import pytest

from puzzles.parse import ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle

G = "def g():\n    return 42"


def fenced(code=G, tag="python", fence="```"):
    return f"{fence}{tag}\n{code}\n{fence}"


RIGHT = {
    "a block": fenced(),
    "a tag in capitals": fenced(tag="PYTHON"),
    "a tag with a version": fenced(tag="python3.12"),
    "attributes": fenced(tag='python linenums="1"'),
    "braces": fenced(tag="{.py}"),
    "tildes": fenced(fence="~~~~"),
    "five backticks": fenced(fence="`````"),
    "carriage returns": fenced().replace("\n", "\r\n"),
    "spaces behind the fences": "```python   \n" + G + "\n```   ",
    "in a numbered list": "1. So:\n\n   ```python\n   def g():\n       return 42\n   ```\n2. Done",
    "in a quotation": "> ```python\n> def g():\n>     return 42\n> ```",
    "a fence on the last line of code": f"```python\n{G}```",
    "a block that is not closed": f"Sure:\n```python\n{G}\n",
    "on one line": "```python def g(): return 42```",
    "no fence": f"Here is my answer.\n\n{G}\n\nIt returns 42.",
    "no fence, with a helper": f"This works:\n\ndef h(x):\n    return x * 2\n\n{G[:8]}\n    return h(21)\n\nBye.",
    "thoughts": "<think>\n" + fenced("def g():\n    return 1") + "\n</think>\n" + fenced(),
    "thoughts without a beginning": fenced("def g():\n    return 1") + "\nHm, no.</think>\n" + fenced(),
    "thoughts with another name": "<reasoning>def g(): return 1</reasoning>" + fenced(),
    "the puzzle said back": fenced("def f(x: int):\n    return x == 42") + "\nSo:\n" + fenced(),
    "the puzzle in the same block": fenced("def f(x: int):\n    return x == 42\n\n" + G),
    "two tries": fenced("def g():\n    return 41") + "\nNo, better:\n" + fenced(),
    "a test behind it": fenced() + "\nTest it:\n" + fenced("def test_g():\n    assert g() == 42"),
    "a helper in a block of its own": fenced("def h():\n    return 21")
    + "\nand\n"
    + fenced("def g():\n    return 2 * h()"),
    "its output behind it": fenced() + "\nThis prints\n" + fenced("42", tag="text"),
    "an install command before it": fenced("pip install nothing", tag="bash") + "\n" + fenced(),
    "a docstring with fences": fenced('def g():\n    """\n    ```\n    x\n    ```\n    """\n    return 42'),
    "no-break spaces": fenced("def g():\n\xa0\xa0\xa0\xa0return 42"),
    "a session": fenced(">>> def g():\n...     return 42\n..."),
    "print": fenced(G + "\n\nprint(f(g()))"),
    "assert": fenced(G + "\n\nassert f(g()) is True, 'no'"),
    "a main guard": fenced(G + "\n\nif __name__ == '__main__':\n    import sys\n    sys.exit(not f(g()))"),
    "a loop of checks": fenced(G + "\n\nfor _ in range(3):\n    assert f(g())"),
    "a result": fenced(G + "\n\nanswer = g()\nprint(answer)"),
    "a comment behind it": fenced(G + "\n# -> 42"),
    "a table filled by a loop": fenced("T = {}\nfor i in range(50):\n    T[i] = i\ndef g():\n    return T[42]"),
    "a table filled behind it": fenced("T = []\ndef g():\n    return T[0]\nT.append(42)\nprint(T)"),
    "a constant that grows": fenced("N = 40\nN += 2\ndef g():\n    return N"),
    "a recursion limit": fenced("import sys\nsys.setrecursionlimit(10**6)\n" + G),
    "an unused import": fenced("import numpy as np\n" + G),
    "an optional import": fenced("try:\n    import numpy\nexcept ImportError:\n    numpy = None\n" + G),
    "a lambda": fenced("g = lambda: 42"),
    "a named answer": fenced("answer = 6 * 7"),
    "a named answer behind its parts": fenced("a = 6\nb = 7\nsolution = a * b"),
    "another usual name": fenced("def solution():\n    return 42"),
    "an unusual name": fenced("def find_it():\n    return 42"),
    "a helper without arguments": fenced("def g():\n    return helper() + 1\n\ndef helper():\n    return 41"),
    "a helper before an unusual name": fenced("def find_it():\n    return half() * 2\n\ndef half():\n    return 21"),
    "an annotation": fenced("def g() -> int:\n    return 42"),
    "a byte order mark": "\ufeff" + G,
}


@pytest.fixture(scope="module")
def puzzle(pool):
    (parsed,) = parse_puzzles(pool, [Text("def f(x: int):\n    return x == 42")])
    return parsed


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("form", ["chat", "program"])
def test_a_right_answer_counts_however_it_is_written(pool, puzzle, name, form):
    from puzzles.verify import verify

    (candidate,) = parse_candidates(pool, [Text(RIGHT[name], form)])
    assert isinstance(candidate, Candidate), candidate
    (judgement,) = verify(pool, [(puzzle, candidate)])
    assert (judgement.verdict, judgement.answer) == ("accepted", "42"), judgement


WRONG = {
    "I do not know.": "no_code",
    "<think>" + fenced(): "no_code",
    fenced("def g(x):\n    return x"): "required_parameter",
    fenced("def f(x: int):\n    return x == 42"): "required_parameter",
    fenced("y = 3"): "no_function",
    "```json\n{\"answer\": 42}\n```": "no_function",
    fenced("async def g():\n    return 42"): "asynchronous",
}  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_reply_that_is_no_answer_is_refused_by_a_named_rule(pool, text):
    (parsed,) = parse_candidates(pool, [Text(text, "chat")])
    assert isinstance(parsed, ParseFailure)
    assert parsed.rule == WRONG[text]


F = "def f(x: int):\n    return x * x == 1764"
PROPOSED = {
    "a block": fenced(F),
    "thoughts": "<think>def f(x: int): return True</think>\n" + fenced(F),
    "checks behind it": fenced(F + "\n\nprint(f(42))\nassert f(42)"),
    "a solution behind it": fenced(F) + "\nA solution is\n" + fenced(G),
    "no fence": f"A new puzzle:\n\n{F}\n\nIts answer is 42.",
    "a helper behind it": fenced(
        "def puzzle(x: int):\n    return square(x) == 1764\n\ndef square(n: int):\n    return n * n"
    ),
    "a helper that looks like a puzzle": fenced(
        "def is_prime(n: int):\n    return n > 1 and all(n % d for d in range(2, n))\n\n"
        "def check(x: int):\n    return is_prime(x) and x > 90"
    ),
    "the same, the other way round": fenced(
        "def check(x: int):\n    return is_prime(x) and x > 90\n\n"
        "def is_prime(n: int):\n    return n > 1 and all(n % d for d in range(2, n))"
    ),
}


@pytest.mark.parametrize("name", PROPOSED)
def test_a_puzzle_counts_however_it_is_written(pool, name):
    (parsed,) = parse_puzzles(pool, [Text(PROPOSED[name], "chat")])
    assert isinstance(parsed, Puzzle), parsed
    assert parsed.original_name in ("f", "puzzle", "check")
    assert "assert" not in parsed.source
