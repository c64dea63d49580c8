import json
import sys

import pytest

from puzzles.parse import BATCH_TEXTS, MAX_TEXT_BYTES, RULES, ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from puzzles.verify import truth_pool, verify_texts
from sandbox.pool import Pool
from sandbox.result import Limits


@pytest.fixture(scope="module")
def pool():
    with truth_pool(Limits(), lanes=2) as pool:
        yield pool


def puzzle(pool, text, form="program"):
    (parsed,) = parse_puzzles(pool, [Text(text, form)])
    return parsed


def candidate(pool, text, form="program", rename=None):
    (parsed,) = parse_candidates(pool, [Text(text, form, rename or {})])
    return parsed


def shown(parsed):
    """All fields of a puzzle but its hashes."""
    assert isinstance(parsed, Puzzle), parsed
    fields = ("source", "answer_type", "header", "imports", "original_name", "description")
    return {name: getattr(parsed, name) for name in fields}


def source(parsed):
    assert isinstance(parsed, Puzzle | Candidate), parsed
    return parsed.source


# ---- whole texts ----


def test_a_puzzle_in_p3s_form_becomes_canonical(pool):
    text = '''
from typing import List
import math, itertools as it

def sat(li: List[int], k=6, name: str = "a b") -> bool:
    """Find a list with a longest
    monotone subsequence of length k"""
    # the classic
    return all(sum(li[i] <= li[j] for i in range(j)) < k for j in range(len(li))) and len(li) > math.floor(2.5)
'''
    assert shown(puzzle(pool, text)) == {
        "source": (
            "from typing import List\nimport math, itertools as it\n\n"
            "def f(li: List[int], k=6, name: str='a b'):\n"
            "    return all((sum((li[i] <= li[j] for i in range(j))) < k for j in range(len(li))))"
            " and len(li) > math.floor(2.5)"
        ),
        "answer_type": "List[int]",
        "header": "def g(k=6, name='a b'):",
        "imports": ("itertools", "math", "typing"),
        "original_name": "sat",
        "description": "Find a list with a longest\nmonotone subsequence of length k",
    }


def test_a_continuation_ends_where_the_model_went_on(pool):
    text = (
        "def f(x: int, n=17):\n"
        "    # twice\n"
        "    y = 2 * x\n"
        "\n"
        "    return y == n * 2\n"
        "\n"
        "def f(y: str):\n"
        "    return y == 'the next\n"
    )
    assert shown(puzzle(pool, text, "continuation")) == {
        "source": "def f(x: int, n=17):\n    y = 2 * x\n    return y == n * 2",
        "answer_type": "int",
        "header": "def g(n=17):",
        "imports": (),
        "original_name": "f",
        "description": "",
    }


@pytest.mark.parametrize(
    "tail", ["\nassert f(3)", "\n```\nand so on", "\n# next", "\nThis puzzle is", "\n\n\n\ndef", "\n<|endoftext|>", ""]
)
def test_whatever_follows_a_continuation_is_cut(pool, tail):
    assert source(candidate(pool, "def g():\n    return 3" + tail, "continuation")) == "def g():\n    return 3"


def test_a_continuation_on_one_line_is_whole(pool):
    assert source(candidate(pool, "def g(): return 3\nprint(g())", "continuation")) == "def g():\n    return 3"


def test_a_chat_reply_gives_its_first_block_with_a_function(pool):
    text = """Sure! First install it:

```bash
pip install nothing
```

Here is a puzzle.

```python
import math

def sat(x: float) -> bool:
    return math.isclose(x * x, 2.0)
```

And a solution:

```python
def sol():
    return 2 ** 0.5
```
"""
    assert shown(puzzle(pool, text, "chat")) == {
        "source": "import math\n\ndef f(x: float):\n    return math.isclose(x * x, 2.0)",
        "answer_type": "float",
        "header": "def g():",
        "imports": ("math",),
        "original_name": "sat",
        "description": "",
    }


def test_a_chat_block_that_was_cut_off_counts(pool):
    assert source(candidate(pool, "Here:\n```python\ndef g():\n    return 3\n", "chat")) == "def g():\n    return 3"


def test_a_solution_calls_the_puzzle_by_its_canonical_name(pool):
    text = "def sol(n=9):\n    '''tries'''\n    return next(x for x in range(n) if sat(x))"
    assert source(candidate(pool, text, rename={"sat": "f"})) == (
        "def g(n=9):\n    return next((x for x in range(n) if f(x)))"
    )


# ---- names ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "def f(n):\n    return n + 1\n\ndef sat(x: int):\n    return f(x) == 3",
            "def f_(n):\n    return n + 1\n\ndef f(x: int):\n    return f_(x) == 3",
        ),
        (
            "def g(n):\n    return n + 1\n\ndef sat(x: int):\n    return g(x) == 3",
            "def g_(n):\n    return n + 1\n\ndef f(x: int):\n    return g_(x) == 3",
        ),
        (
            "def f_(n):\n    return 1\n\ndef f(n):\n    return 2\n\ndef sat(x: int):\n    return f_(x) + f(x) == x",
            "def f_(n):\n    return 1\n\ndef f__(n):\n    return 2\n\ndef f(x: int):\n    return f_(x) + f__(x) == x",
        ),
        (
            "def g_(n):\n    return 1\n\ndef g(n):\n    return 2\n\ndef f(x: int):\n    return g_(x) + g(x) == x",
            "def g__(n):\n    return 1\n\ndef g_(n):\n    return 2\n\ndef f(x: int):\n    return g__(x) + g_(x) == x",
        ),
        ("def g(x: int):\n    return x == 1", "def f(x: int):\n    return x == 1"),
        ("def is_right(x: int):\n    return x == 1", "def f(x: int):\n    return x == 1"),
        (
            "def sat(x: int, f=3):\n    return x == f",
            "def f(x: int, f_=3):\n    return x == f_",
        ),
        (
            "def sat(n: int, m=3):\n    return n == 0 or sat(n - 1, m=m) and n < m",
            "def f(n: int, m=3):\n    return n == 0 or (f(n - 1, m=m) and n < m)",
        ),
        (
            "def sat(x: int):\n    global f\n    f = x\n    return f == 1",
            "def f(x: int):\n    global f_\n    f_ = x\n    return f_ == 1",
        ),
        (
            "class Node:\n\n    def f(self):\n        return 1\n\ndef sat(x: int):\n    return Node().f() == x",
            "class Node:\n\n    def f(self):\n        return 1\n\ndef f(x: int):\n    return Node().f() == x",
        ),
        (
            "def key(x: List[int]):\n    return sorted(x, key=abs) == x",
            "def f(x: List[int]):\n    return sorted(x, key=abs) == x",
        ),
        (
            "def count(x: List[int]):\n    return x.count(1) == 3",
            "def f(x: List[int]):\n    return x.count(1) == 3",
        ),
        (
            "def sat(x: int):\n    return (lambda f: f)(f=x) == 1",
            "def sat(x: int):\n    return (lambda f: f)(f=x) == 1\nf = sat",
        ),
        (
            "def helper(a: int, b: int):\n    return a * b\n\ndef sat(x: int):\n    return helper(x, 2) == 6",
            "def helper(a: int, b: int):\n    return a * b\n\ndef f(x: int):\n    return helper(x, 2) == 6",
        ),
        (
            "def check(x: int):\n    return x == 1\n\ndef square(a):\n    return a * a",
            "def f(x: int):\n    return x == 1\n\ndef square(a):\n    return a * a",
        ),
    ],
    ids=[
        "helper f",
        "helper g",
        "helpers f and f_",
        "helpers g and g_",
        "puzzle g",
        "free name",
        "parameter f",
        "recursion",
        "global f",
        "method f",
        "named as a keyword",
        "named as a method",
        "lambda f",
        "typed helper",
        "helper behind",
    ],
)
def test_a_puzzle_becomes_f_and_keeps_its_meaning(pool, text, expected):
    assert source(puzzle(pool, text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def sol():\n    return 1", "def g():\n    return 1"),
        ("def solve(n=3):\n    return n", "def g(n=3):\n    return n"),
        (
            "def g():\n    return g_()\n\ndef g_():\n    return 1",
            "def g():\n    return g_()\n\ndef g_():\n    return 1",
        ),
        (
            "def sol(n=3):\n    return 1 if n == 0 else sol(n - 1)",
            "def g(n=3):\n    return 1 if n == 0 else g(n - 1)",
        ),
        (
            "def g(a):\n    return a\n\ndef sol():\n    return g(1)",
            "def g_(a):\n    return a\n\ndef g():\n    return g_(1)",
        ),
        (
            "def sol():\n    f = 3\n    return [x for x in range(f) if sat(x)]",
            "def g():\n    f_ = 3\n    return [x for x in range(f_) if f(x)]",
        ),
        ("def g(*, n=3):\n    return n", "def g(*, n=3):\n    return n"),
        ("def g(*args, **kwargs):\n    return 1", "def g(*args, **kwargs):\n    return 1"),
        (
            "import math as f\n\ndef sol():\n    return f.pi",
            "import math as f_\n\ndef g():\n    return f_.pi",
        ),
        (
            "class Solution:\n\n    def g(self):\n        return 1\n\ndef sol():\n    return Solution().g()",
            "class Solution:\n\n    def g(self):\n        return 1\n\ndef g():\n    return Solution().g()",
        ),
    ],
    ids=lambda text: text[:20],
)
def test_a_solution_becomes_g_and_keeps_its_meaning(pool, text, expected):
    assert source(candidate(pool, text, rename={"sat": "f"})) == expected


@pytest.mark.parametrize(
    ("text", "solution", "answer"),
    [
        ("def g(x: int):\n    return x == 4", "def sol():\n    return [n for n in range(9) if g(n)][0]", "4"),
        (
            "class A:\n    def f(self):\n        return 7\ndef sat(x: int):\n    return x == A().f()",
            "def g(): return 7",
            "7",
        ),
        (
            "def f_(x):\n    return x\ndef f(x):\n    return -x\ndef sat(x: int):\n    return f_(x) + f(x) == 0",
            "def g(): return 1",
            "1",
        ),
        ("def default(x: List[int]):\n    return max(x, default=8) == 8", "def g(): return []", "[]"),
    ],
    ids=["puzzle g", "method f", "helpers", "keyword"],
)
def test_renamed_programs_still_run(pool, text, solution, answer):
    (judgement,) = verify_texts(pool, [(text, solution)])
    assert (judgement.verdict, judgement.detail, judgement.answer) == ("accepted", "", answer)


# ---- what is kept and what is dropped ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('def f(x: int):\n    """only this"""', "def f(x: int):\n    pass"),
        ('def f(x: int):\n    "one"\n    "two"\n    return x == 1', "def f(x: int):\n    return x == 1"),
        ('"""module"""\ndef f(x: int):\n    return x == 1\n"end"\n...', "def f(x: int):\n    return x == 1"),
        ("def f(x: int) -> bool: return x == 1", "def f(x: int):\n    return x == 1"),
        ("def f(x: int):\r\n    return x == 1\r\n", "def f(x: int):\n    return x == 1"),
        ("def f(x: int):\n\treturn x == 1", "def f(x: int):\n    return x == 1"),
        ("N = 3\ndef f(x: int, n=N):\n    return x == n", "N = 3\n\ndef f(x: int, n=N):\n    return x == n"),
        ("def f(x: str):\n    return re.match('\\d', x)", "def f(x: str):\n    return re.match('\\\\d', x)"),
        ("def f(x: int):\n    return x is 1", "def f(x: int):\n    return x is 1"),
        ("def f(x: str):\n    return x == 'é\\n'", "def f(x: str):\n    return x == 'é\\n'"),
        ("def f(x: int):\n    return x == 0x10", "def f(x: int):\n    return x == 16"),
        ("def f(x: int, /, n=1, *, m=2):\n    return x == n", "def f(x: int, /, n=1, *, m=2):\n    return x == n"),
    ],
    ids=lambda text: text[:25],
)
def test_the_canonical_text_has_one_layout(pool, text, expected):
    assert source(puzzle(pool, text)) == expected


@pytest.mark.parametrize(
    ("annotation", "canonical"),
    [("list[int]", "List[int]"), ("'dict[str, int]'", "Dict[str, int]"), ("int | None", "Optional[int]")],
)
def test_builtin_spellings_of_types_become_typings(pool, annotation, canonical):
    parsed = puzzle(pool, f"def f(x: {annotation}):\n    return x == 1")
    assert (parsed.answer_type, parsed.source) == (canonical, f"def f(x: {canonical}):\n    return x == 1")


@pytest.mark.parametrize(
    ("parameters", "header"),
    [
        ("x: int", "def g():"),
        ("x: int = 3", "def g():"),
        ("x: int, n=3, m: List[int] = [1, 2]", "def g(n=3, m=[1, 2]):"),
        ("x: int, *, n='a'", "def g(n='a'):"),
        ("x: int = 1, n=2", "def g(n=2):"),
    ],
)
def test_the_header_of_a_solution_has_the_further_parameters(pool, parameters, header):
    assert puzzle(pool, f"def f({parameters}):\n    return x == 1").header == header


# ---- rules ----

BROKEN_PUZZLES = {
    "too_long": "x = '" + "a" * MAX_TEXT_BYTES + "'",
    "too_complex": "def f(x: int):\n    return " + "-" * 20_000 + "1",
    "syntax": "def f(x: int):\n    return x ==",
    "statement": "def f(x: int):\n    return x == 1\nreturn f(1)",
    "no_function": "x = 1",
    "no_parameter": "def f():\n    return True",
    "required_parameter": "def f(x: int, n):\n    return x == n",
    "starred_parameter": "def f(x: int, *more):\n    return x == 1",
    "no_annotation": "def f(x):\n    return x == 1",
    "answer_type": "def f(x: bytes):\n    return x == b'a'",
    "asynchronous": "async def f(x: int):\n    return x == 1",
}


def test_every_rule_has_an_example():
    # No program is known that Python cannot write back; the rule is for those that nobody knows.
    assert {*BROKEN_PUZZLES, *(rule for _, rule, _ in BROKEN_TASKS), "no_code", "unprintable"} == set(RULES)


@pytest.mark.parametrize("rule", BROKEN_PUZZLES)
def test_a_text_that_breaks_a_rule_says_which(pool, rule):
    parsed = puzzle(pool, BROKEN_PUZZLES[rule])
    assert isinstance(parsed, ParseFailure)
    assert parsed.rule == rule
    assert str(parsed).startswith(f"{rule}: ")


def test_a_chat_reply_without_code_breaks_no_code(pool):
    replies = ["I cannot do that.", "", "``` ```", "<think>\n```python\ndef f(x: int):\n    return x == 5\n```"]
    parsed = parse_puzzles(pool, [Text(reply, "chat") for reply in replies])
    assert parsed == [ParseFailure("no_code")] * 4
    assert str(parsed[0]) == "no_code: a reply holds a program: in a fenced block, or as lines of its own"


@pytest.mark.parametrize(
    ("text", "rule", "detail"),
    [
        ("def f(x: int):\n  return (", "syntax", "line 2: '(' was never closed"),
        (
            "def f(x: int):\nreturn 1",
            "syntax",
            "line 2: expected an indented block after function definition on line 1",
        ),
        ("print 'hello'", "syntax", "line 1: Missing parentheses in call to 'print'. Did you mean print(...)?"),
        ("def f(x: int): pass\nraise f", "statement", "line 2: Raise"),
        ("if True:\n    def f(x: int): pass", "no_function", ""),
        ("def f(x: int, n): pass", "required_parameter", "'n' has no default"),
        ("def f(x: int, *, n): pass", "required_parameter", "'n' has no default"),
        ("def f(x): pass", "no_annotation", "'x' has no type"),
        ("def f(x: Callable): pass", "answer_type", "'Callable' is not supported"),
        ("def f(**x: int): pass", "no_parameter", ""),
        ("def f(x: int, **kw): pass", "starred_parameter", ""),
        ("class A: pass", "no_function", ""),
        ("", "no_function", ""),
        ("   \n\n", "no_function", ""),
        ("x\ufeff = 3", "syntax", "line 1: invalid non-printable character U+FEFF"),
        ("\ud800", "syntax", None),
        ("def f(x: int): return x == '\0'", "syntax", None),
        (
            "def f(x: " + "List[" * 50 + "int" + "]" * 50 + "): return 1",
            "answer_type",
            "'nested too deeply' is not supported",
        ),
        ("def f(x: int" + " | None" * 900 + "): return 1", "answer_type", "'nested too deeply' is not supported"),
    ],
    ids=lambda text: str(text)[:25],
)
def test_a_failure_says_where(pool, text, rule, detail):
    parsed = puzzle(pool, text)
    assert isinstance(parsed, ParseFailure)
    assert (parsed.rule, parsed.detail if detail is not None else None) == (rule, detail)


@pytest.mark.parametrize(
    ("text", "failure"),
    [
        ("def g(x):\n    return x", ParseFailure("required_parameter", "g must be callable with no arguments")),
        ("def g(*, x):\n    return x", ParseFailure("required_parameter", "g must be callable with no arguments")),
        ("y = 3", ParseFailure("no_function")),
        ("async def g():\n    return 1", ParseFailure("asynchronous")),
        ("def g():\n    return 1\nreturn g()", ParseFailure("statement", "line 3: Return")),
        ("", ParseFailure("no_function")),
    ],
    ids=lambda text: str(text)[:20],
)
def test_a_text_that_is_no_solution_says_why(pool, text, failure):
    assert candidate(pool, text) == failure


# ---- abduction ----

TASK = {"snippet": "def f(a):\n    return a * 2", "input": "3", "output": "6", "imports": []}


@pytest.mark.parametrize(
    ("given", "declared", "call"),
    [
        ("3", "int", "f_(x)"),
        (" [[], [1.5]]  # two", "List[List[float]]", "f_(x)"),
        ("(1, 2)", "Tuple[int, int]", "f_(x)"),
        ("1, 2", "Tuple[int, int]", "f_(*x)"),
        ("{'a': None, 'b': 2},\n{3}", "Tuple[Dict[str, Optional[int]], Set[int]]", "f_(*x)"),
    ],
)
def test_a_task_becomes_a_puzzle_that_asks_for_its_input(pool, given, declared, call):
    parsed = puzzle(pool, json.dumps(TASK | {"input": given}), "abduction")
    assert source(parsed) == f"def f_(a):\n    return a * 2\n\ndef f(x: {declared}):\n    return {call} == 6"


def test_a_tasks_imports_stand_before_its_program_once(pool):
    snippet = "import math\ndef f(a):\n    return math.sqrt(a) + tau"
    parsed = puzzle(
        pool,
        json.dumps(TASK | {"snippet": snippet, "imports": ["import math", "from math import tau", "import string"]}),
        "abduction",
    )
    assert source(parsed).startswith("from math import tau\nimport string\nimport math\n\ndef f_(a):")


NO_F = "expected a function f, and nothing called sat"
BROKEN_TASKS = [
    ({"snippet": "def f(a): return a", "imports": [], "inputs": ["1"], "outputs": ["1"]}, "no_input", ""),
    (TASK | {"input": ""}, "no_literal", "the input '' is no literal"),
    (TASK | {"input": "dict(a=1)"}, "no_literal", "the input 'dict(a=1)' is no literal"),
    (TASK | {"input": "a=1"}, "no_literal", "the input 'a=1' is no literal"),
    (TASK | {"input": "*[1]"}, "no_literal", "the input '*[1]' is no literal"),
    (TASK | {"input": "1) or (True"}, "no_literal", "the input '1) or (True' is no literal"),
    (TASK | {"input": "{[]: 1}"}, "no_literal", "the input '{[]: 1}' is no literal"),
    (TASK | {"output": "6 or True"}, "no_literal", "the output '6 or True' is no literal"),
    (TASK | {"output": "6\nx = 1"}, "no_literal", "the output '6\\nx = 1' is no literal"),
    (TASK | {"output": "<object>"}, "no_literal", "the output '<object>' is no literal"),
    (TASK | {"input": "[]"}, "answer_type", "the input: [] are not of one type"),
    (TASK | {"input": "b'a'"}, "answer_type", "the input: b'a' does not tell a type"),
    (TASK | {"snippet": ""}, "no_function", NO_F),
    (TASK | {"snippet": "def f(a): return sat(a)\ndef sat(a): return a"}, "no_function", NO_F),
    (TASK | {"snippet": "def f(a): return a\nreturn f(1)"}, "statement", "line 2: Return"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "rule", "detail"), BROKEN_TASKS, ids=str)
def test_a_task_that_makes_no_puzzle_says_why(pool, task, rule, detail):
    assert puzzle(pool, json.dumps(task), "abduction") == ParseFailure(rule, detail)


@pytest.mark.parametrize("field", ["input", "output"])
def test_a_literal_bomb_does_not_hurt_its_neighbours(pool, field):
    texts = [json.dumps(task) for task in (TASK, TASK | {field: "[" * 20_000 + "]" * 20_000}, TASK)]
    first, bomb, last = parse_puzzles(pool, [Text(text, "abduction") for text in texts])
    assert isinstance(bomb, ParseFailure)
    assert first == last == puzzle(pool, json.dumps(TASK), "abduction")


# ---- bombs ----

BOMBS = {
    "brackets": "(" * 5000,
    "closed brackets": "(" * 5000 + ")" * 5000,
    "unary": "-" * 20_000 + "1",
    "shorter unary": "-" * 2500 + "1",
    "not": "not " * 12_000 + "x",
    "sum": "1" + "+1" * 15_000,
    "attributes": "a" + ".b" * 20_000,
    "subscripts": "[0]" * 15_000,
    "calls": "a" + "()" * 20_000,
    "lambdas": "lambda:" * 9000 + "1",
    "conditions": "1" + " if 1 else 1" * 4000,
    "comparisons": "1" + "<1" * 15_000,
    "digits": "9" * 60_000,
    "hexadecimal digits": "0x" + "f" * 60_000,
    "exponent": "1e" + "9" * 60_000,
    "null bytes": "\0" * 1000,
    "surrogates": "'" + "\ud800" * 1000 + "'",
    "long name": "a" * 60_000,
    "format strings": "f'{" * 150 + "1" + "}'" * 150,
    "comprehensions": "[" * 90 + "1" + " for a in b]" * 90,
    "backslashes": "'" + "\\" * 40_000 + "'",
    "braces": "f'" + "{x}" * 15_000 + "'",
    "not utf-8": "'\udcff\udcfe'",
    "tabs": "(\n" + "\t \t" * 15_000 + "1)",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_parser_bomb_does_not_hurt_its_neighbours(pool, bomb):
    texts = [f"def f(x: int):\n    return x == {body}" for body in ("1", BOMBS[bomb], "2", BOMBS[bomb] + " ", "3")]
    parsed = parse_puzzles(pool, [Text(text) for text in texts])
    assert [source(parsed[index]) for index in (0, 2, 4)] == [texts[0], texts[2], texts[4]]
    for index in (1, 3):
        assert isinstance(parsed[index], Puzzle) or parsed[index].rule in RULES


def test_deeply_indented_code_is_refused(pool):
    text = "def f(x: int):\n" + "".join(" " * depth + "if x:\n" for depth in range(1, 150)) + " " * 150 + "pass"
    assert puzzle(pool, text).rule == "syntax"


def test_a_batch_that_exceeds_one_child_is_parsed_in_several():
    # Each text's shingles fill most of a small slot: only the first of a batch fits.
    texts = [
        Text("def f(x: int):\n    return " + "+".join(f"a{n + 2000 * copy}*x" for n in range(700))) for copy in range(4)
    ]
    with truth_pool(Limits(answer_bytes=64), lanes=1) as pool:
        parsed = parse_puzzles(pool, texts)
    assert [type(item) for item in parsed] == [Puzzle] * 4


def test_texts_that_use_up_a_childs_time_together_are_each_parsed():
    texts = [Text("def f(x: int):\n    return " + "x+" * 300 + str(n)) for n in range(30)]
    with truth_pool(Limits(cpu_seconds=0.2, wall_seconds=2), lanes=1) as pool:
        parsed = parse_puzzles(pool, texts)
    assert [type(item) for item in parsed] == [Puzzle] * 30


# ---- many ----


def test_answers_keep_the_order_of_texts_and_equal_texts_are_equal(pool):
    texts = [f"def f(x: int):\n    return x == {n % 100}" for n in range(3 * BATCH_TEXTS)]
    assert [source(item) for item in parse_puzzles(pool, [Text(text) for text in texts])] == texts


def test_no_texts_give_nothing(pool):
    assert (parse_puzzles(pool, []), parse_candidates(pool, [])) == ([], [])


def test_nothing_of_a_text_is_run_by_parsing(pool):
    text = "def f(x: int, n=1 / 0, m=exit()):\n    return x == 1\n\nclass A(1 / 0):\n    pass"
    assert isinstance(puzzle(pool, text), Puzzle)


def test_parsing_happens_in_a_child_and_not_here(pool, monkeypatch):
    monkeypatch.setattr("ast.parse", lambda *_: pytest.fail("parsed in this process"))
    assert isinstance(puzzle(pool, "def f(x: int):\n    return x == 1"), Puzzle)
    assert "puzzles.parse" in sys.modules


def test_a_pool_that_was_not_given_the_rules_says_so():
    with Pool(limits=Limits(), lanes=1) as plain, pytest.raises(ValueError, match=r"puzzles.parse:parse_batch"):
        parse_puzzles(plain, [Text("def f(x: int): return True")])
