"""A right answer counts however a chat model or a person writes it, and what is none is refused by a named rule."""

import ast

import pytest

from puzzles.parse import ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Judgement, Puzzle
from puzzles.verify import verify, verify_texts

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
    "a fence behind words": "Here's the code: " + fenced(),
    "a fence behind bold words": "**Solution:** " + fenced(),
    "a fence in answer tags": "<answer>" + fenced() + "</answer>",
    "a fence behind a number": "1. " + fenced().replace("\n", "\n   "),
    "bare code, its output in a fence": G + "\n\nOutput:\n" + fenced("42", tag=""),
    "bare code, a command in a fence": G + "\n\nRun it:\n" + fenced("python a.py", tag="bash"),
    "a lost opening fence": G + "\n```\nThis works.",
    "bare code and a span": G + "\n\nSee `x = 3`.\n" + fenced("42", tag=""),
    "two modules in one import": fenced(
        "import math, sys\nsys.setrecursionlimit(9999)\n" + G[:8] + "\n    return math.isqrt(1764)"
    ),
    "bare code with a loop": "Here:\n\nT = []\nfor i in range(50):\n    T.append(i)\n\n" + G[:8] + "\n    return T[42]",
    "bare code with a constant that grows": "Here:\n\nN = 40\nN += 2\n\n" + G[:8] + "\n    return N",
    "bare code with two names": "Here:\n\na, b = 6, 7\n\n" + G[:8] + "\n    return a * b",
    "a bare choice": "So:\n\nanswer = 1\nif f(42):\n    answer = 42\nelse:\n    answer = 7\n\nDone.",
    "a bare search": "So:\n\nfor x in range(100):\n    if f(x):\n        answer = x\n        break\n\nDone.",
    "thoughts in channels without their signs": "analysisWe need "
    + fenced(G[:8] + "\n    return 1")
    + "assistantfinal"
    + fenced(),
    "a stub behind it": fenced() + "\nThe signature is\n" + fenced("def g(): ..."),
    "a check by another usual name": fenced(G + "\n\ndef solution():\n    return f(g())"),
    "an answer that prints": fenced(G + "\n\ndef answer():\n    print(g())"),
    "thoughts begun by the prompt": fenced(G[:8] + "\n    return 1")
    + "\n</think><answer>\n"
    + fenced()
    + "\n</answer>",
    "thoughts in the middle of a line": "Sure. <think>" + fenced(G[:8] + "\n    return 1") + "</think>" + fenced(),
    "bare JSON": '{"code": "def g():\\n    return 42"}',
    "an end of turn behind it": G + "<|im_end|>",
    "in a quotation of a quotation": "> > ```python\n> > def g():\n> >     return 42\n> > ```",
    "in HTML": "<details><summary>Answer</summary>\n\n" + fenced() + "\n\n</details>",
    "in answer tags": "<answer>\ndef g():\n    return 42\n</answer>",
    "in code tags": "<code>\ndef g():\n    return 42\n</code>",
    "in HTML tags for code": '<pre><code class="language-python">def g():\n    return 42\n</code></pre>',
    "a box of LaTeX": "\\boxed{42}\n" + fenced(),
    "a test that is called": fenced(G + "\n\ndef test_g():\n    assert g() == 42\n\ntest_g()"),
    "a main function": fenced(G + "\n\ndef main():\n    print(g())\n\nif __name__ == '__main__':\n    main()"),
    "a main function that prints": fenced(
        "def solve():\n    return 42\n\ndef main():\n    x = solve()\n    print(f(x))\n\nmain()"
    ),
    "a check that is called": fenced("def g():\n    return 42\n\ndef check():\n    return f(g())\n\nprint(check())"),
    "a function that verifies": fenced(
        "def find():\n    return 42\n\ndef verify():\n    x = find()\n    return f(x)\nverify()"
    ),
    "a class Solution": fenced(
        "class Solution:\n    def g(self):\n        return 42\n\ndef g():\n    return Solution().g()"
    ),
    "a star import of typing": fenced("from typing import *\n" + G),
    "a future import": fenced("from __future__ import annotations\n" + G),
    "an unused import of dataclasses": fenced("from dataclasses import dataclass\n" + G),
    "unused imports for prints": fenced("import sys, os\n" + G + "\nprint(g(), file=sys.stderr)"),
    "a clock around it": fenced("import time\nstart = time.time()\n" + G + "\nprint(g())\nprint(time.time() - start)"),
    "a seed": fenced("import random\nrandom.seed(0)\n" + G),
    "the puzzle behind it": fenced(G + "\n\ndef f(x: int):\n    return x == 42\n\nprint(f(g()))"),
    "the puzzle before it, called": fenced(
        "def f(x: int): return x == 42\n\ndef g():\n    for i in range(50):\n        if f(i):\n            return i"
    ),
    "a table by a comprehension": fenced("T = [i for i in range(100)]\ndef g():\n    return T[42]"),
    "a constant by a while loop": fenced("n = 0\nwhile n * n < 1764:\n    n += 1\ndef g():\n    return n"),
    "an answer by a loop": fenced(
        "for i in range(100):\n    if i * i == 1764:\n        answer = i\n        break\ndef g():\n    return answer"
    ),
    "an answer without a function": fenced("x = 0\nwhile x != 42:\n    x += 1\nanswer = x"),
    "an annotated answer": fenced("answer: int = 42"),
    "an annotated lambda": fenced("from typing import Callable\ng: Callable[[], int] = lambda: 42"),
    "a tuple of names": fenced("a, b = 6, 7\nanswer = a * b"),
    "a default": fenced("def g(n=42):\n    return n"),
    "a default of a keyword": fenced("def g(*, n=42):\n    return n"),
    "any arguments": fenced("def g(*args):\n    return 42"),
    "any arguments and keywords": fenced("def g(*args, **kw):\n    return 42"),
    "a cache": fenced("from functools import lru_cache\n@lru_cache(maxsize=None)\ndef g():\n    return 42"),
    "a cached helper": fenced(
        "import functools\n@functools.cache\ndef h(n):\n    return n if n < 2 else 42\ndef g():\n    return h(9)"
    ),
    "tabs": fenced("def g():\n\treturn 42"),
    "a semicolon": fenced("def g(): return 42;"),
    "an indented block": "Here:\n\n    def g():\n        return 42\n\nDone.",
    "tildes inside": fenced("def g():\n    s = '''\n~~~\n'''\n    return 42"),
    "a fence in a longer fence": "````markdown\n```python\ndef g():\n    return 42\n```\n````",
    "a fence in a fence": "```markdown\nText\n```python\ndef g():\n    return 42\n```\n```",
    "a title and line numbers in the tag": '```python title="a b" {1,3}\ndef g():\n    return 42\n```',
    "a longer closing fence": "```python\ndef g():\n    return 42\n`````",
    "old line ends": fenced().replace("\n", "\r"),
    "spaces at the ends of lines": fenced("def g():   \n    return 42   "),
    "cut in a main guard": "```python\n" + G + "\n\nif __name__ == '__main__':\n    print(f'The ans",
    "cut in a test": "```python\n" + G + "\n\ndef test():\n    assert (",
    "the puzzle said again": fenced() + "\nSince f is\n" + fenced("def f(x: int):\n    return x == 42"),
    "a use behind it": fenced() + "\nUsage:\n" + fenced("print(g())"),
    "a use with a result": fenced() + "\nUsage:\n" + fenced("result = g()\nprint(result)"),
    "a use with an answer": fenced() + "\nUsage:\n" + fenced("answer = g()\nprint(answer)"),
    "a session behind it": fenced() + "\n" + fenced(">>> g()\n42"),
    "a helper in a later block": fenced("def g():\n    return h() * 2")
    + "\nwhere\n"
    + fenced("def h():\n    return 21"),
    "an import in a block of its own": fenced("import math") + "\n" + fenced("def g():\n    return math.isqrt(1764)"),
    "a constant in a block of its own": fenced("N = 42") + "\nthen\n" + fenced("def g():\n    return N"),
    "thoughts with an attribute": "<thinking type='x'>" + fenced("def g():\n    return 1") + "</thinking>" + fenced(),
    "thoughts between triangles": "◁think▷" + fenced("def g():\n    return 1") + "◁/think▷" + fenced(),
    "thoughts between brackets": "[THINK]" + fenced("def g():\n    return 1") + "[/THINK]" + fenced(),
    "thoughts in a channel": "<|channel|>analysis<|message|>"
    + fenced("def g():\n    return 1")
    + "<|end|><|start|>assistant<|channel|>final<|message|>"
    + fenced(),
    "a sign of thoughts in a string": fenced("def g():\n    s = '<think>'\n    return 42"),
    "thoughts in thoughts": "<think>a<think>b</think>" + fenced("def g():\n    return 1") + "</think>" + fenced(),
    "a function called solve": fenced("def solve():\n    return 42"),
    "a helper before it": fenced("def helper():\n    return 41\n\ndef find():\n    return helper() + 1"),
    "a search with f": fenced("def g():\n    return next(i for i in range(100) if f(i))"),
    "the puzzle by another name": fenced(
        "def sat(x: int):\n    return x == 42\n\ndef sol():\n    return 42\n\nassert sat(sol())"
    ),
    "a field of JSON": '```json\n{"why": "it is", "code": "def g():\\n    return 42"}\n```',
    "a code span": "`def g(): return 42`",
    "a code span with a lambda": "The answer is `g = lambda: 42`.",
    "a typographic quote": fenced("def g():\n    # it\u2019s fine\n    return 42"),
    "in a list": "- ```python\n  def g():\n      return 42\n  ```",
    "a session without a fence": ">>> def g():\n...     return 42\n",
    "a session of IPython": fenced("In [1]: def g():\n   ...:     return 42"),
    "a magic command": fenced("%timeit g()\n" + G),
    "a shell command": fenced("!pip install numpy\n" + G),
    "a coroutine beside it": fenced(
        "import asyncio\n" + G + "\nasync def main():\n    print(g())\nasyncio.run(main())"
    ),
    "a deleted name": fenced("tmp = 3\ndel tmp\n" + G),
    "a file that is written": fenced(G + "\n\nwith open('x','w') as h:\n    h.write(str(g()))"),
    "a check in a try": fenced(G + "\n\ntry:\n    assert f(g())\nexcept Exception as e:\n    print(e)"),
    "an exit": fenced(G + "\n\nexit(0)"),
    "an exit before it": fenced("import sys\nif len(sys.argv) > 5:\n    sys.exit(1)\n" + G),
    "an input before it": fenced("n = int(input())\n" + G),
    "a test case": fenced(
        "import unittest\n"
        + G
        + "\n\nclass T(unittest.TestCase):\n    def test(self):\n        self.assertTrue(f(g()))"
        + "\n\nif __name__ == '__main__':\n    unittest.main()"
    ),
    "a seed of a module that is not there": fenced("import numpy as np\nnp.random.seed(0)\n" + G),
    "logging": fenced("import logging\nlogging.basicConfig(level=logging.INFO)\n" + G),
    "warnings": fenced("import warnings\nwarnings.filterwarnings('ignore')\n" + G),
    "a list of exports": fenced("__all__ = ['g']\n" + G),
    "a text before it": fenced("'''Solution.'''\n" + G),
}


@pytest.fixture(scope="module")
def outcomes(pool):
    """What the judge says of each right answer, read as a reply and as a file; or the rule that the text broke."""
    (puzzle,) = parse_puzzles(pool, [Text("def f(x: int):\n    return x == 42")])
    places = [(name, form) for name in RIGHT for form in ("chat", "program")]
    parsed = parse_candidates(pool, [Text(RIGHT[name], form) for name, form in places])
    read = [place for place, candidate in zip(places, parsed, strict=True) if isinstance(candidate, Candidate)]
    candidates = [candidate for candidate in parsed if isinstance(candidate, Candidate)]
    judgements = verify(pool, [(puzzle, candidate) for candidate in candidates])
    return {**dict(zip(places, parsed, strict=True)), **dict(zip(read, judgements, strict=True))}


@pytest.mark.parametrize("form", ["chat", "program"])
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_answer_counts_however_it_is_written(outcomes, name, form):
    outcome = outcomes[name, form]
    assert isinstance(outcome, Judgement), outcome
    assert (outcome.verdict, outcome.answer) == ("accepted", "42"), outcome


BEGUN = {
    "goes on": "    return 42\n",
    "goes on, then tests": "    return 42\n\nprint(f(g()))\nassert f(g())\n",
    "goes on, then a fence": "    return 42\n```\nThis is right.",
    "does nothing, begins anew": "    pass\n\nHere it is:\n" + fenced(),
    "begins anew in a fence": "\nSure:\n" + fenced(),
    "begins anew without a fence": "Here it is.\n\n" + G,
    "thinks first": "<think>\nhm\n</think>\n" + fenced(),
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_function_that_was_begun_for_the_model_may_be_finished_or_begun_anew(pool, name):
    (candidate,) = parse_candidates(pool, [Text("def g():\n" + BEGUN[name], "continuation")])
    assert isinstance(candidate, Candidate), candidate
    assert candidate.source == G


BROKEN = [
    "def g():\n    x = 42\n    return x +",
    "def g():\n    x = 42\n    return [x,\n",
    "def g():\n\tx = 42\n        return x",
]


@pytest.mark.parametrize("form", ["chat", "program", "continuation"])
@pytest.mark.parametrize("text", BROKEN)
def test_a_part_of_a_broken_function_is_no_answer(pool, text, form):
    (parsed,) = parse_candidates(pool, [Text(text, form)])
    assert isinstance(parsed, ParseFailure)
    assert parsed.rule == "syntax"


NEEDED = {
    "a seed of a module": ("import random\nrandom.seed(5)\n" + G[:8] + "\n    return random.randrange(9)", 2),
    "a table that a loop fills": ("T = []\nfor n in range(9):\n    T.append(n)\n" + G[:8] + "\n    return T[5]", 2),
    "a table that a function fills": (
        "T = []\ndef fill(t):\n    t.extend(range(9))\nfill(T)\n" + G[:8] + "\n    return T[5]",
        3,
    ),
    "a table by its other name": ("T = [[]]\nfor row in T:\n    row.append(5)\n" + G[:8] + "\n    return T[0][0]", 2),
    "a sorted table": ("import heapq\nT = [5, 3]\nheapq.heapify(T)\n" + G[:8] + "\n    return T[0]", 3),
    "a name set by a function": (
        "N = 1\ndef grow():\n    global N\n    N += 1\ngrow()\n" + G[:8] + "\n    return N",
        3,
    ),
    "a table that a function fills and prints": (
        "T = []\ndef fill(t):\n    t.append(5)\n    print('ok')\nfill(T)\n" + G[:8] + "\n    return T[0]",
        3,
    ),
    "a seed by its own name": ("from random import seed, randint\nseed(1)\n" + G[:8] + "\n    return randint(1, 9)", 2),
    "a seed beside a name of its module": (
        "import random\nfrom random import randint\nrandom.seed(1)\n" + G[:8] + "\n    return randint(1, 9)",
        3,
    ),
    "a function's attribute": (G[:8] + "\n    return g.x\ng.x = 42", 1),
    "a helper's attribute": (
        "def h(n):\n    return h.memo.get(n, n)\n" + G[:8] + "\n    return h(5)\nh.memo = {}\nfor i in range(9):\n"
        "    h.memo[i] = i",
        3,
    ),
    "the function put in its place": (G + "\ndef wrap(h):\n    return lambda: h() + 1\ng = wrap(g)", 2),
    "an optional import that is used": (
        "try:\n    import math as m\nexcept ImportError:\n    m = None\n" + G[:8] + "\n    return m.gcd(4, 6)",
        1,
    ),
}


@pytest.mark.parametrize(("text", "others"), NEEDED.values(), ids=NEEDED)
def test_what_the_answer_needs_is_kept(pool, text, others):
    (candidate,) = parse_candidates(pool, [Text(text + "\nprint(g())\nassert f(g())")])
    assert isinstance(candidate, Candidate), candidate
    assert len(ast.parse(candidate.source).body) == others + 1
    assert [line.partition(": ")[2] for line in candidate.left_out] == ["print(g())", "assert f(g())"]


def test_what_was_left_out_is_told_with_its_line(pool):
    text = "import numpy\n" + G + "\nif __name__ == '__main__':\n    print(g())"
    (judgement,) = verify_texts(pool, [("def f(x: int):\n    return x == 42\nprint(f(42))", text)])
    assert judgement.verdict == "accepted"
    assert judgement.left_out == ("line 1: import numpy", "line 4: if __name__ == '__main__':")


WRONG = {
    "I do not know.": "no_code",
    "<think>" + fenced(): "no_code",
    fenced("def g(x):\n    return x"): "required_parameter",
    fenced("def f(x: int):\n    return x == 42"): "required_parameter",
    fenced("y = 3"): "no_function",
    "Sure. <think>so " + fenced(): "no_code",
    "<|start|>assistant<|channel|>analysis<|message|>" + fenced(): "no_code",
    fenced("x = 42\ndef g():\n    y = (x"): "syntax",
    fenced("def helper(): return 42\n\ndef g(): return helper("): "syntax",
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
    "a search beside it": fenced(
        "def check(x: int):\n    return x > 90 and x % 7 == 3\n\n"
        "def g(limit: int = 100):\n    return next(i for i in range(limit) if check(i))"
    ),
    "a test beside it": fenced(
        "def check(x: int):\n    return x > 90 and x % 7 == 3\n\ndef test_it(x: int = 94):\n    return check(x)"
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


@pytest.mark.parametrize("form", ["chat", "program"])
def test_a_solution_beside_the_puzzle_is_no_part_of_it(pool, form):
    text = F + "\n\n" + G + "\n\nassert f(g())"
    (parsed,) = parse_puzzles(pool, [Text(fenced(text) if form == "chat" else text, form)])
    assert isinstance(parsed, Puzzle), parsed
    assert parsed.source == F
    assert [line.partition(": ")[2] for line in parsed.left_out] == ["def g():", "assert f(g())"]


def test_a_function_with_a_solutions_name_that_the_puzzle_uses_stays(pool):
    (parsed,) = parse_puzzles(
        pool, [Text("def solution(n):\n    return n * n\n\ndef f(x: int):\n    return solution(x) == 1764")]
    )
    assert isinstance(parsed, Puzzle), parsed
    assert "def solution(n):" in parsed.source
