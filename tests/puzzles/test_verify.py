import dataclasses
import random
import shutil
import time

import pytest
from reaching import MODULES, REPORT_FRAME

from puzzles import verify as verify_module
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Judgement, Puzzle, Verdict, VerifiedPair
from puzzles.verify import (
    MOST_CHILDREN,
    REASONS,
    Refusal,
    accepts,
    admit,
    judge_answers,
    judge_once,
    too_slow_to_judge,
    truth_pool,
    verify,
    verify_texts,
)
from sandbox import child, codec
from sandbox.pool import Pool
from sandbox.result import Limits, SandboxError

LIMITS = Limits(cpu_seconds=1, wall_seconds=1.5)

REACH = (
    MODULES
    + REPORT_FRAME
    + """
def forge(record, count=1):
    slot, start = report_frame()["slot"], report_frame()["start"]
    words = (1, count, len(record))
    forged = b"records\\0" + b"".join(word.to_bytes(4, "little") for word in words) + record
    slot[start : start + len(forged)] = forged
    modules["posix"]._exit(0)
"""
)


@pytest.fixture(scope="module")
def pool():
    with truth_pool(LIMITS, lanes=2) as pool:
        yield pool


def judge(pool, puzzle, solution):
    return verify_texts(pool, [(puzzle, solution)])[0]


def seen(judgement):
    """A judgement without its times."""
    return (judgement.verdict, judgement.detail, judgement.answer)


def puzzle(pool, text):
    (parsed,) = parse_puzzles(pool, [Text(text)])
    assert isinstance(parsed, Puzzle), parsed
    return parsed


# ---- one verdict after the other, with its stage ----

SQUARE = "def f(x: int, n=1764):\n    return x * x == n"
BUSY = "while True: pass"

VERDICTS = [
    (SQUARE, "def g(): return 42", Verdict.ACCEPTED, "", "42"),
    (SQUARE, "def g(): return 41", Verdict.WRONG_ANSWER, "judge: f returned False", "41"),
    (SQUARE, "def g(): return 42.0", Verdict.WRONG_TYPE, "solve: 42.0 is not of type int", "42.0"),
    (SQUARE, "def g(): return None", Verdict.WRONG_TYPE, "solve: None is not of type int", "None"),
    (SQUARE, "def g(): pass", Verdict.WRONG_TYPE, "solve: None is not of type int", "None"),
    (
        SQUARE,
        "def g(): return [42] * 99",
        Verdict.WRONG_TYPE,
        "solve: " + str([42] * 99)[:199] + "… is not of type int",
        str([42] * 99),
    ),
    (SQUARE, "def g(): return 1j", Verdict.UNANSWERABLE_VALUE, "solve: CodecError: complex is not plain data", None),
    (
        SQUARE,
        "def g(): return 'a' * 300000",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: the value is over the limit: too many parts, or too long ones",
        None,
    ),
    (
        SQUARE,
        "def g(): return 1 // 0",
        Verdict.RUNTIME_ERROR,
        "solve: ZeroDivisionError: integer division or modulo by zero",
        None,
    ),
    (
        SQUARE,
        "def g(): return undefined",
        Verdict.RUNTIME_ERROR,
        "solve: NameError: name 'undefined' is not defined",
        None,
    ),
    (SQUARE, "def g():\n    assert False", Verdict.RUNTIME_ERROR, "solve: AssertionError: ", None),
    (SQUARE, "import os\ndef g(): return len(os.sep) + 41", Verdict.RUNTIME_ERROR, None, None),
    (
        SQUARE,
        "x = 1 // 0\ndef g(): return 42 + x",
        Verdict.RUNTIME_ERROR,
        "solve: ZeroDivisionError: integer division or modulo by zero",
        None,
    ),
    (SQUARE, f"def g():\n    {BUSY}", Verdict.TIME_LIMIT, "solve: over 1 s of CPU time", None),
    (SQUARE, "def g(): return len(bytearray(1 << 40))", Verdict.MEMORY_LIMIT, "solve: out of memory", None),
    (
        SQUARE,
        "def g(x): return x",
        Verdict.INVALID_SOLUTION,
        "required_parameter: g must be callable with no arguments",
        None,
    ),
    (SQUARE, "def g(: return 42", Verdict.INVALID_SOLUTION, "syntax: line 1: invalid syntax", None),
    (SQUARE, "42", Verdict.INVALID_SOLUTION, "no_function: a function is defined", None),
    ("def f(x): return x == 1", "def g(): return 1", Verdict.INVALID_PUZZLE, "no_annotation: 'x' has no type", None),
    ("def f(x: int): return x ==", "def g(): return 1", Verdict.INVALID_PUZZLE, "syntax: line 1: invalid syntax", None),
    (
        "def f(x: int, n=1 // 0): return True",
        "def g(): return 1",
        Verdict.INVALID_PUZZLE,
        "judge: it does not load: ZeroDivisionError: integer division or modulo by zero",
        None,
    ),
    ("import os\ndef f(x: int): return bool(os)", "def g(): return 1", Verdict.INVALID_PUZZLE, None, None),
    (
        f"class A:\n    {BUSY}\ndef f(x: int): return True",
        "def g(): return 1",
        Verdict.INVALID_PUZZLE,
        "judge: it does not load: over 1 s of CPU time",
        None,
    ),
    ("def f(x: int): return x", "def g(): return 1", Verdict.WRONG_ANSWER, "judge: f returned 1", "1"),
    ("def f(x: int): return [x]", "def g(): return 1", Verdict.WRONG_ANSWER, "judge: f returned [1]", "1"),
    ("def f(x: int): return 'True'", "def g(): return 1", Verdict.WRONG_ANSWER, "judge: f returned 'True'", "1"),
    ("def f(x: int): pass", "def g(): return 1", Verdict.WRONG_ANSWER, "judge: f returned None", "1"),
    (
        "def f(x: int): return NotImplemented",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f returned no bool: CodecError: NotImplementedType is not plain data",
        "1",
    ),
    (
        "def f(x: int): return (yield True)",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f returned no bool: CodecError: generator is not plain data",
        "1",
    ),
    (
        "def f(x: int):\n    assert x == 2\n    return True",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f raised AssertionError: ",
        "1",
    ),
    (
        "def f(x: int): return [][x]",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f raised IndexError: list index out of range",
        "1",
    ),
    (
        "def f(x: int):\n    raise SystemExit(True)",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f raised SystemExit: True",
        "1",
    ),
    (
        "def f(x: int): return f(x)",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f raised RecursionError: maximum recursion depth exceeded",
        "1",
    ),
    (f"def f(x: int):\n    {BUSY}", "def g(): return 1", Verdict.TIME_LIMIT, "judge: over 1 s of CPU time", "1"),
    (
        "def f(x: int): return len(bytearray(1 << 40)) > 1",
        "def g(): return 1",
        Verdict.MEMORY_LIMIT,
        "judge: out of memory",
        "1",
    ),
    (
        REACH + "def f(x: int): modules['posix']._exit(0)",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: it left with exit status 0",
        "1",
    ),
    (
        REACH + "def f(x: int): modules['ctypes'].string_at(0)",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: it died on signal 11: Segmentation fault",
        "1",
    ),
    (
        SQUARE,
        REACH + "def g(): modules['posix']._exit(0)",
        Verdict.RUNTIME_ERROR,
        "solve: it left with exit status 0",
        None,
    ),
    (
        SQUARE,
        REACH + "def g(): modules['ctypes'].string_at(0)",
        Verdict.RUNTIME_ERROR,
        "solve: it died on signal 11: Segmentation fault",
        None,
    ),
    (
        SQUARE,
        REACH + "def g():\n    lock = modules['_thread'].allocate_lock()\n    lock.acquire()\n    lock.acquire()",
        Verdict.RUNTIME_ERROR,
        None,
        None,
    ),
]


@pytest.mark.parametrize(
    ("puzzle_text", "solution", "verdict", "detail", "answer"),
    VERDICTS,
    ids=[f"{verdict}-{index}" for index, (_, _, verdict, _, _) in enumerate(VERDICTS)],
)
def test_a_verdict_names_its_stage(pool, puzzle_text, solution, verdict, detail, answer):
    judgement = judge(pool, puzzle_text, solution)
    assert seen(judgement) == (verdict, judgement.detail if detail is None else detail, answer)
    assert judgement.detail.isprintable()


def test_every_verdict_has_a_test():
    assert {verdict for _, _, verdict, _, _ in VERDICTS} | {Verdict.UNSTABLE} == set(Verdict)


def test_an_error_message_is_made_safe_to_print(pool):
    judgement = judge(pool, SQUARE, "def g():\n    raise ValueError('\\x1b[2J\\n' + 'a' * 500)")
    assert judgement.detail.startswith("solve: ValueError: \\x1b[2J\\naaaa")
    assert len(judgement.detail) < 250


# ---- honest ----

HONEST = {
    "number": ("def f(x: int): return x * x == 1764 and x < 0", "def g(): return -42", "-42"),
    "big integer": (
        "def f(n: int): return n % 10**40 == 7 and n > 10**60",
        "def g(): return 10**80 + 7",
        str(10**80 + 7),
    ),
    "huge integer": ("def f(n: int): return n.bit_length() == 20000", "def g(): return 1 << 19999", hex(1 << 19999)),
    "exact float": ("def f(x: float): return x * 3 == 0.3 * 3 and x < 0.31", "def g(): return 0.3", "0.3"),
    "negative zero": (
        "import math\ndef f(x: float): return x == 0 and math.copysign(1, x) < 0",
        "def g(): return -0.0",
        "-0.0",
    ),
    "unicode": (
        "def f(s: str): return len(s) == 3 and s.upper() != s and 'ß' in s and '漢' in s",
        "def g(): return 'ß漢é'",
        "'ß漢é'",
    ),
    "lone surrogate": ("def f(s: str): return s == chr(0xd800)", "def g(): return chr(0xd800)", "'\\ud800'"),
    "string of quotes": ("def f(s: str): return s == '\\'\"\\\\\\n'", "def g(): return '\\'\"\\\\\\n'", None),
    "list": (
        "def f(x: List[int], n=5): return sorted(x) == list(range(n)) and all(a != b + 1 for a, b in zip(x[1:], x))",
        "from itertools import permutations\n"
        "def g(n=5):\n"
        "    return next(list(p) for p in permutations(range(n)) if f(list(p)))",
        "[0, 2, 1, 4, 3]",
    ),
    "nested list": (
        "def f(m: List[List[int]]): return m == [[1], [], [2, 3]]",
        "def g(): return [[1], [], [2, 3]]",
        "[[1], [], [2, 3]]",
    ),
    "set": (
        "def f(s: Set[str]): return len(s) == 3 and all(c in 'abc' for c in s)",
        "def g(): return set('cab')",
        "{'a', 'b', 'c'}",
    ),
    "set of tuples": (
        "def f(s: Set[Tuple[int, int]]): return sum(a * b for a, b in s) == 14",
        "def g(): return {(3, 4), (1, 2)}",
        "{(1, 2), (3, 4)}",
    ),
    "dict": (
        "def f(d: Dict[str, int]): return list(d) == ['b', 'a'] and d['a'] == 1",
        "def g(): return {'b': 2, 'a': 1}",
        "{'a': 1, 'b': 2}",
    ),
    "tuple": ("def f(t: Tuple[int, str]): return t[1] * t[0] == 'xxx'", "def g(): return (3, 'x')", "(3, 'x')"),
    "optional": ("def f(x: Optional[int]): return x is None", "def g(): return None", "None"),
    "bool": ("def f(x: bool): return not x", "def g(): return False", "False"),
    "empty": ("def f(x: List[int]): return not x", "def g(): return []", "[]"),
    "deep recursion": (
        "def f(n: int):\n    def depth(k): return 0 if k == 0 else 1 + depth(k - 1)\n    return depth(n) == 4000",
        "def g():\n    def depth(k): return 0 if k == 0 else 1 + depth(k - 1)\n    return depth(4000)",
        "4000",
    ),
    "imports": (
        "import math\nfrom collections import Counter\ndef f(s: str): return Counter(s).most_common(1) == [('z', 3)]",
        "import re, heapq, functools\ndef g(): return functools.reduce(lambda a, b: a + b, ['z'] * 3)",
        "'zzz'",
    ),
    "itertools": (
        "def f(x: int): return x == 120",
        "import itertools\ndef g(): return len(list(itertools.permutations(range(5))))",
        "120",
    ),
    "the puzzle's own parameters": (
        "def f(x: int, n=91, m=[3]): return x * m[0] == n * 3",
        "def g(n=91, m=[3]): return n * m[0] // 3",
        "91",
    ),
    "calls the puzzle": (SQUARE, "def g(): return [x for x in range(100) if f(x)][0]", "42"),
    "calls the puzzle by its old name": (
        "def sat(x: int): return x == 9",
        "def sol(): return [x for x in range(100) if sat(x)][0]",
        "9",
    ),
    "random": ("def f(x: int): return 0 <= x < 10", "import random\ndef g(): return random.randrange(10)", None),
    "prints": (SQUARE, "def g():\n    print('no', flush=True)\n    return 42", "42"),
    "classes and generators": (
        SQUARE,
        "class A:\n"
        "    def __init__(self, n): self.n = n\n"
        "    def __iter__(self): yield from range(self.n)\n"
        "def g(): return max(A(43))",
        "42",
    ),
    "large answer": ("def f(s: str): return len(s) == 200000", "def g(): return 'ab' * 100000", repr("ab" * 100000)),
    "slow but fair": (
        "def f(x: int):\n    n = 0\n    for i in range(3 * 10**6): n += i & 1\n    return x == n",
        "def g():\n    n = 0\n    for i in range(3 * 10**6): n += i & 1\n    return n",
        "1500000",
    ),
    "sloppy escapes": (
        "import re\ndef f(s: str): return bool(re.match('\\d+$', s)) and len(s) == 3",
        "def g(): return '123'",
        "'123'",
    ),
    "fractions": (
        "from fractions import Fraction\ndef f(t: Tuple[int, int]): return Fraction(*t) == Fraction('0.75')",
        "def g(): return (3, 4)",
        "(3, 4)",
    ),
    "exceptions as control flow": (
        "def f(s: str):\n    try:\n        int(s)\n    except ValueError:\n        return True",
        "def g(): return 'x'",
        "'x'",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_solution_is_accepted(pool, name):
    puzzle_text, solution, answer = HONEST[name]
    judgement = judge(pool, puzzle_text, solution)
    assert seen(judgement) == (Verdict.ACCEPTED, "", judgement.answer if answer is None else answer)
    assert judgement.cpu_seconds > 0
    assert judgement.judge_cpu_seconds > 0


# ---- cheats: the puzzles below have no solution, so that every accept is a forgery ----

NEVER = "def f(x: int):\n    return x != x"
NEVER_LIST = "def f(x: List[int]):\n    return len(x) == 1 and x[0] == 1 and x[0] == 2"
NEVER_STR = "def f(s: str):\n    return len(s) > 3 and s == '' and s.startswith('xy')"
NEVER_BUILTINS = (
    "def f(x: List[int]):\n"
    "    return isinstance(x, list) and len(x) > 2 and all(a > 1 for a in x) and sum(x) == 0 "
    "and not any(a < 0 for a in x)"
)
PROXY = "\n".join(
    f"    def {name}(self, *_): return True" for name in ("__eq__", "__ne__", "__lt__", "__gt__", "__bool__")
)

CHEATS = {
    "lying eq": (NEVER, f"class A:\n{PROXY}\ndef g(): return A()", Verdict.UNANSWERABLE_VALUE),
    "int subclass": (NEVER, f"class A(int):\n{PROXY}\ndef g(): return A(1)", Verdict.UNANSWERABLE_VALUE),
    "int subclass in a list": (
        NEVER_LIST,
        f"class A(int):\n{PROXY}\ndef g(): return [A(1)]",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "list subclass": (
        NEVER_LIST,
        "class A(list):\n"
        "    n = 0\n"
        "    def __getitem__(self, i):\n"
        "        self.n += 1\n"
        "        return self.n\n"
        "def g(): return A([1])",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "str subclass": (
        NEVER_STR,
        f"class A(str):\n{PROXY}\n    def startswith(self, _): return True\ndef g(): return A('abcd')",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "renamed subclass": (
        NEVER,
        f"class A(int):\n{PROXY}\nA.__name__ = A.__qualname__ = 'int'\ndef g(): return A(1)",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "metaclass that lies about type": (
        NEVER,
        f"class M(type):\n"
        f"    def __eq__(c, o): return True\n"
        f"    __hash__ = type.__hash__\n"
        f"class A(int, metaclass=M):\n"
        f"{PROXY}\n"
        f"def g(): return A(1)",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "class property": (
        NEVER,
        f"class A:\n    __class__ = int\n{PROXY}\ndef g(): return A()",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "bool for int": (NEVER, "def g(): return True", Verdict.WRONG_TYPE),
    "bool in a list of int": (NEVER_LIST, "def g(): return [True]", Verdict.WRONG_TYPE),
    "int for float": ("def f(x: float): return x != x", "def g(): return 1", Verdict.WRONG_TYPE),
    "nan": ("def f(x: float): return x != x", "def g(): return float('nan')", Verdict.UNANSWERABLE_VALUE),
    "infinity": (
        "def f(x: float): return x > 1e308 and x == x + 1e300",
        "def g(): return float('inf')",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "nan in a list": (
        "def f(x: List[float]): return x[0] != x[0]",
        "def g(): return [float('nan')]",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "tuple for list": (NEVER_LIST, "def g(): return (1,)", Verdict.WRONG_TYPE),
    "string for a list of strings": ("def f(x: List[str]): return x == ''", "def g(): return ''", Verdict.WRONG_TYPE),
    "generator": (NEVER_LIST, "def g(): yield 1", Verdict.UNANSWERABLE_VALUE),
    "iterator": (NEVER_LIST, "def g(): return iter([1])", Verdict.UNANSWERABLE_VALUE),
    "range": (NEVER_LIST, "def g(): return range(1)", Verdict.UNANSWERABLE_VALUE),
    "function": (NEVER, "def g(): return g", Verdict.UNANSWERABLE_VALUE),
    "edits the code of f": (
        NEVER,
        "def g():\n    f.__code__ = (lambda x: True).__code__\n    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "edits the defaults of f": (
        "def f(x: int, n=[1]): return x == n[0] and x == 2",
        "def g():\n    f.__defaults__ = ([2],)\n    f.__defaults__[0].append(2)\n    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "edits a mutable default": (
        "def f(x: int, n=[1]): return n == [7]",
        "def g(n=[1]):\n    f.__defaults__[0][0] = 7\n    n[0] = 7\n    return 7",
        Verdict.WRONG_ANSWER,
    ),
    "defines f": (NEVER, "def f(x): return True\ndef g(): return 1", Verdict.WRONG_ANSWER),
    "rebinds f through globals": (
        NEVER,
        "def g():\n    globals()['f'] = lambda x: True\n    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "rebinds f at import": (NEVER, "f = lambda x: True\ndef g(): return 1", Verdict.WRONG_ANSWER),
    "patches builtins": (
        NEVER_BUILTINS,
        REACH + "def g():\n"
        "    b = vars(modules['builtins'])\n"
        "    b['all'] = b['isinstance'] = lambda *a: True\n"
        "    b['sum'] = lambda *a: 0\n"
        "    b['any'] = lambda *a: False\n"
        "    return [1, 1]",
        Verdict.RUNTIME_ERROR,
    ),
    "patches len": (
        NEVER_BUILTINS,
        REACH + "def g():\n    vars(modules['builtins'])['len'] = lambda *a: 3\n    return [1, 1]",
        Verdict.RUNTIME_ERROR,
    ),
    "patches its builtins": (
        NEVER_BUILTINS,
        "def g():\n"
        "    __builtins__['all'] = __builtins__['isinstance'] = lambda *a: True\n"
        "    __builtins__['sum'] = lambda *a: 0\n"
        "    __builtins__['len'] = lambda *a: 3\n"
        "    return [1, 1]",
        Verdict.WRONG_ANSWER,
    ),
    "defines builtins": (
        NEVER_BUILTINS,
        "all = any = len = sum = lambda *a: True\ndef g(): return [1, 1]",
        Verdict.WRONG_ANSWER,
    ),
    "patches the judge's codec": (
        NEVER,
        REACH + "def g():\n    modules['sandbox.codec'].encode = lambda *a: b'true'\n    return 1",
        Verdict.WRONG_TYPE,
    ),
    "patches the harness": (
        NEVER,
        REACH + "def g():\n    modules['sandbox.child']._call = lambda *a: b'Vtrue'\n    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "patches modules": (
        "import math\ndef f(x: int): return math.gcd(x, 7) == 100",
        "import math\nmath.gcd = lambda *a: 100\ndef g(): return 1",
        Verdict.WRONG_ANSWER,
    ),
    "walks frames": (
        NEVER,
        REACH + "def g():\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        for name in frame.f_locals:\n"
        "            if name in ('verdict', 'accepted', 'passed', 'result', 'ok'): "
        "frame.f_locals[name] = True\n"
        "        frame.f_globals.update(accepted=True, f=lambda x: True)\n"
        "        frame = frame.f_back\n"
        "    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "prints a verdict": (
        NEVER,
        "def g():\n    print('accepted')\n    print('{\"verdict\": \"accepted\"}')\n    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "exits with 0": (NEVER, "def g(): exit(0)", Verdict.RUNTIME_ERROR),
    "raises SystemExit(0)": (NEVER, "def g(): raise SystemExit(0)", Verdict.RUNTIME_ERROR),
    "exits at import": (NEVER, "class A:\n    raise SystemExit(0)\ndef g(): return 1", Verdict.RUNTIME_ERROR),
    "exit hook": (
        NEVER,
        REACH + "def g():\n"
        "    modules['atexit'].register(forge, b'Vtrue') if 'atexit' in modules else None\n"
        "    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "finalizer that forges": (
        NEVER,
        REACH + "class A:\n    def __del__(self): forge(b'Vtrue')\nA.keep = A()\ndef g(): return 1",
        Verdict.WRONG_ANSWER,
    ),
    "trace hook": (
        NEVER,
        REACH + "def g():\n"
        "    sys.settrace(lambda *a: forge(b'Vtrue'))\n"
        "    sys.setprofile(lambda *a: forge(b'V1'))\n"
        "    return 1",
        Verdict.WRONG_ANSWER,
    ),
    "forges true": (NEVER, REACH + "def g(): forge(b'Vtrue')", Verdict.WRONG_TYPE),
    "forges a verdict": (NEVER, REACH + "def g(): forge(b'accepted')", Verdict.RUNTIME_ERROR),
    "forges an answer": (NEVER, REACH + "def g(): forge(b'V1')", Verdict.WRONG_ANSWER),
    "forges two answers": (NEVER, REACH + "def g(): forge(b'V1],[2')", Verdict.UNANSWERABLE_VALUE),
    "forges many records": (NEVER, REACH + "def g(): forge(b'V1', count=2**32 - 1)", Verdict.RUNTIME_ERROR),
    "forges no record": (NEVER, REACH + "def g(): forge(b'V1', count=0)", Verdict.RUNTIME_ERROR),
    "forges an empty record": (NEVER, REACH + "def g(): forge(b'')", Verdict.RUNTIME_ERROR),
    "forges in another encoding": (
        NEVER,
        REACH + "def g(): forge(b'V' + '12'.encode('utf-16'))",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "forges nan": ("def f(x: float): return x != x", REACH + "def g(): forge(b'VNaN')", Verdict.UNANSWERABLE_VALUE),
    "forges a hexadecimal nan": (
        "def f(x: float): return x != x",
        REACH + 'def g(): forge(b\'V{"f":"nan"}\')',
        Verdict.UNANSWERABLE_VALUE,
    ),
    "forges great depth": (
        NEVER_LIST,
        REACH + "def g(): forge(b'V' + b'[' * 450 + b']' * 450)",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "forges greater depth": (NEVER_LIST, REACH + "def g(): forge(b'V' + b'[' * 90000)", Verdict.UNANSWERABLE_VALUE),
    "forges an answer over the limit": (
        "def f(s: str): return len(s) == 300000",
        REACH + "def g(): forge(b'V\"' + b'a' * 300000 + b'\"')",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "blames the puzzle": (NEVER, REACH + "def g(): forge(b'L0SyntaxError: invalid syntax')", Verdict.RUNTIME_ERROR),
    "blames the puzzle at import": (
        NEVER,
        REACH + "forge_now = [forge(b'L0')]\ndef g(): return 1",
        Verdict.RUNTIME_ERROR,
    ),
    "closes the template": (
        NEVER,
        "def g():\n    return 1\n\n\nf = lambda *a: True\nrecords = b'Vtrue'\nresult = True",
        Verdict.WRONG_ANSWER,
    ),
    "answer that closes the template": (NEVER_STR, 'def g(): return "x\') or (True"', Verdict.WRONG_ANSWER),
    "answer that looks encoded": (NEVER_STR, "def g(): return 'Vtrue\"]],true'", Verdict.WRONG_ANSWER),
    "answer that is a tag": (
        "def f(d: Dict[str, str]): return d == 1",
        "def g(): return {'f': 'inf'}",
        Verdict.WRONG_ANSWER,
    ),
    "contains itself": (NEVER_LIST, "def g():\n    x = [1]\n    x.append(x)\n    return x", Verdict.UNANSWERABLE_VALUE),
    "aliasing bomb": (
        NEVER_LIST,
        "def g():\n    x = [1]\n    for _ in range(60): x = [x, x]\n    return x",
        Verdict.UNANSWERABLE_VALUE,
    ),
    "nested sets of mixed types": (
        NEVER,
        "def g():\n    x = frozenset({0})\n    for _ in range(60): x = frozenset({'a', x})\n    return x",
        Verdict.WRONG_TYPE,
    ),
    "leaves a thread": (
        NEVER,
        REACH + "def g():\n"
        "    try: modules['_thread'].start_new_thread(forge, (b'V1',))\n"
        "    except RuntimeError: return 1",
        Verdict.WRONG_ANSWER,
    ),
    "lowers the recursion limit": (
        "def f(x: int):\n"
        "    try:\n"
        "        return (lambda n: n)(x) == x + 1\n"
        "    except RecursionError:\n"
        "        return True",
        REACH + "def g():\n    sys.setrecursionlimit(30)\n    return 1",
        Verdict.WRONG_ANSWER,
    ),
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_is_not_accepted(pool, name):
    puzzle_text, solution, verdict = CHEATS[name]
    assert judge(pool, puzzle_text, solution).verdict == verdict


def test_a_forged_answer_is_judged_like_any_other(pool):
    judgement = judge(pool, SQUARE, REACH + "def g(): forge(b'V42')")
    assert seen(judgement) == (Verdict.ACCEPTED, "", "42")


def test_a_puzzle_that_is_blamed_by_one_candidate_is_still_solved_by_another(pool):
    blame = REACH + "def g(): forge(b'L0SyntaxError: invalid syntax')"
    judgements = verify_texts(pool, [(SQUARE, blame), (SQUARE, "def g(): return 42")])
    assert [seen(judgement) for judgement in judgements] == [
        (Verdict.RUNTIME_ERROR, "solve: SyntaxError: invalid syntax", None),
        (Verdict.ACCEPTED, "", "42"),
    ]


def test_a_poisonous_candidate_changes_nothing_for_its_neighbours(pool):
    everything = [(puzzle_text, solution) for puzzle_text, solution, _ in CHEATS.values()]
    honest = [(SQUARE, f"def g(): return {n}") for n in range(30, 50)]
    mixed = [pair for cheat, pair in zip(everything, honest * 4, strict=False) for pair in (cheat, pair)]
    random.Random(5).shuffle(mixed)
    alone = {pair: verdict for *pair, verdict in ((p, s, v) for p, s, v in CHEATS.values()) for pair in [tuple(pair)]}
    alone |= {pair: Verdict.ACCEPTED if "42" in pair[1] else Verdict.WRONG_ANSWER for pair in honest}
    assert [judgement.verdict for judgement in verify_texts(pool, mixed)] == [alone[pair] for pair in mixed]


def test_f_may_change_the_answer_it_is_given_but_not_the_others_nor_the_one_reported(pool):
    changing = "def f(x: List[int]):\n    x.append(5)\n    return x == [1, 5]"
    judgements = verify_texts(pool, [(changing, f"def g(): return [{n}]") for n in (1, 2, 1, 3)])
    assert [seen(judgement) for judgement in judgements] == [
        (Verdict.ACCEPTED, "", "[1]"),
        (Verdict.WRONG_ANSWER, "judge: f returned False", "[2]"),
        (Verdict.ACCEPTED, "", "[1]"),
        (Verdict.WRONG_ANSWER, "judge: f returned False", "[3]"),
    ]


def test_parts_of_an_answer_that_were_one_object_are_judged_as_equal_objects(pool):
    aliased = "def g():\n    row = [0]\n    return [row, row]"
    text = "def f(m: List[List[int]]):\n    m[0][0] = 1\n    return m[1][0] == 1"
    assert judge(pool, text, aliased).verdict == Verdict.WRONG_ANSWER


# ---- puzzles that do not know what they want ----


def salt(pool, text, first, second):
    """A number with which a puzzle accepts 1 in one world and not in another."""
    for n in range(200):
        asked = [(puzzle(pool, text(n)), b"1")]
        one, other = (judge_once(pool, asked, world)[0].content for world in (first, second))
        if (one, other) == (b"true", b"false"):
            return n
    raise AssertionError("the worlds agree")


UNCERTAIN = [
    "hash(str(n)) & 1",
    "random.random() < 0.5",
    "next(iter({'a', 'b', str(n)})) == 'a'",
]


@pytest.mark.parametrize("expression", UNCERTAIN, ids=["hash", "random", "order of a set"])
def test_a_puzzle_that_depends_on_the_world_is_unstable(pool, expression):
    def text(n):
        return f"import random\ndef f(x: int, n={n}):\n    return x == 1 and bool({expression})"

    judgement = judge(pool, text(salt(pool, text, 1, 2)), "def g(): return 1")
    assert seen(judgement) == (
        Verdict.UNSTABLE,
        "confirm: worlds disagree: accepted in one, in another wrong_answer: f returned False",
        "1",
    )


@pytest.mark.parametrize("expression", UNCERTAIN, ids=["hash", "random", "order of a set"])
def test_a_puzzle_that_only_its_solvers_world_accepts_is_not_accepted(pool, expression):
    solution = "def g():\n    assert f(1)\n    return 1"
    verdicts = set()
    for n in range(30):
        text = f"import random\ndef f(x: int, n={n}):\n    return x == 1 and bool({expression})"
        (own,) = judge_once(pool, [(puzzle(pool, text), b"1")], 1)
        verdict = judge(pool, text, solution).verdict
        if own.content == b"false" and verdict != Verdict.RUNTIME_ERROR:
            verdicts.add(verdict)
    assert verdicts == {Verdict.WRONG_ANSWER}


def test_a_puzzle_about_addresses_is_not_accepted(pool):
    judgement = judge(pool, "def f(x: int): return x == id(f)", "def g(): return id(f)")
    assert judgement.verdict == Verdict.WRONG_ANSWER


def test_a_puzzle_that_counts_its_calls_never_gets_past_one(pool):
    text = "def f(x: int, calls=[]):\n    calls.append(x)\n    return len(calls) > 1"
    judgements = verify_texts(pool, [(text, f"def g(): return {n}") for n in range(3)])
    assert [judgement.verdict for judgement in judgements] == [Verdict.WRONG_ANSWER] * 3


def test_a_right_answer_is_right_whoever_is_judged_beside_it(pool):
    text = "def f(x: int, seen=[]):\n    seen.append(x)\n    return len(seen) == 1 and x in (1, 2, 3)"
    judgements = verify_texts(pool, [(text, f"def g(): return {n}") for n in range(5)])
    assert [judgement.verdict for judgement in judgements] == [
        Verdict.WRONG_ANSWER,
        *[Verdict.ACCEPTED] * 3,
        Verdict.WRONG_ANSWER,
    ]


def test_a_puzzle_that_accepts_its_first_call_only_is_not_unstable_alone(pool):
    text = "def f(x: int, calls=[]):\n    calls.append(x)\n    return len(calls) == 1"
    assert judge(pool, text, "def g(): return 1").verdict == Verdict.ACCEPTED


def test_an_answer_that_ends_the_shared_judge_does_not_decide_about_the_others(pool):
    text = f"def f(x: int):\n    if x == 3:\n        {BUSY}\n    return x > 1"
    judgements = verify_texts(pool, [(text, f"def g(): return {n}") for n in range(6)])
    assert [judgement.verdict for judgement in judgements] == [
        Verdict.WRONG_ANSWER,
        Verdict.WRONG_ANSWER,
        Verdict.ACCEPTED,
        Verdict.TIME_LIMIT,
        Verdict.ACCEPTED,
        Verdict.ACCEPTED,
    ]
    assert judgements[3].detail == "judge: over 1 s of CPU time"


def test_many_slow_answers_that_share_a_judge_are_each_judged(pool):
    text = "def f(x: int):\n    for _ in range(6 * 10**6): pass\n    return x % 2 == 0"
    judgements = verify_texts(pool, [(text, f"def g(): return {n}") for n in range(8)])
    assert [judgement.verdict for judgement in judgements] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER] * 4


def test_a_hostile_puzzle_can_accept_but_not_break_the_judge(pool):
    hostile = REACH + "def f(x: int): forge(b'Vtrue', count={count})"
    texts = [(hostile.format(count=count), "def g(): return 1") for count in (0, 1, 2**32 - 1)]
    verdicts = [judgement.verdict for judgement in verify_texts(pool, [*texts, (SQUARE, "def g(): return 42")])]
    assert verdicts == [Verdict.WRONG_ANSWER, Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.ACCEPTED]


# ---- the whole ----


def test_judgements_keep_the_order_of_pairs_and_equal_pairs_are_equal(pool):
    texts = [(SQUARE, f"def g(): return {40 + n % 5}") for n in range(100)]
    judgements = verify_texts(pool, texts)
    assert [judgement.answer for judgement in judgements] == [str(40 + n % 5) for n in range(100)]
    assert len({id(judgement) for judgement in judgements}) == 5


def test_judgements_do_not_depend_on_the_batch(pool):
    texts = [(p, s) for p, s, *_ in VERDICTS if BUSY not in p + s and "allocate_lock" not in s]
    together = [seen(judgement) for judgement in verify_texts(pool, texts)]
    reversed_ = [seen(judgement) for judgement in verify_texts(pool, texts[::-1])]
    alone = [seen(judge(pool, *text)) for text in texts]
    assert together == alone == reversed_[::-1]


def test_nothing_to_judge_gives_nothing(pool):
    assert (verify(pool, []), verify_texts(pool, []), judge_answers(pool, []), admit(pool, [])) == ([], [], [], [])


def test_an_answer_can_be_judged_again_without_its_program(pool):
    asked = puzzle(pool, SQUARE)
    judgements = judge_answers(pool, [(asked, b"42"), (asked, b"41"), (asked, b"-42"), (asked, b"42")])
    assert [judgement.verdict for judgement in judgements] == ["accepted", "wrong_answer", "accepted", "accepted"]


def test_a_candidate_that_was_not_parsed_is_judged_all_the_same(pool):
    asked = puzzle(pool, SQUARE)
    texts = ["def g(): return 42", "def g(:", "def h(): return 42", "\0", "(" * 10_000]
    judgements = verify(pool, [(asked, Candidate(text, f"id{n}")) for n, text in enumerate(texts)])
    assert [judgement.verdict for judgement in judgements] == ["accepted", *["runtime_error"] * 4]


def test_a_pair_needs_an_accepted_judgement(pool):
    asked, candidate = puzzle(pool, SQUARE), Candidate("def g(): return 42", "id")
    (judgement,) = verify(pool, [(asked, candidate)])
    assert VerifiedPair(asked, candidate, judgement).judgement.verdict == Verdict.ACCEPTED
    with pytest.raises(ValueError, match="this one is wrong_answer"):
        VerifiedPair(asked, candidate, Judgement(Verdict.WRONG_ANSWER))


def test_a_sandbox_that_fails_gives_no_verdict(monkeypatch):
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    with truth_pool(LIMITS, lanes=1) as broken, pytest.raises(SandboxError, match="it ended without a message"):
        verify_texts(broken, [(SQUARE, "def g(): return 42")])


# ---- admission ----


def trivially_unstable(pool):
    def accepts_one(n):
        return f"def f(x: int, n={n}):\n    return x == 1 and bool(hash(str(n)) & 1)"

    n = salt(pool, accepts_one, 1, 2)
    return f"def f(x: int):\n    return None if hash(str({n})) & 1 else 0"


ADMISSION = {
    "bool_answer": ("def f(x: bool): return x", ""),
    "import": ("import random\ndef f(x: int): return x == 12345 or not random", None),
    "does_not_load": (
        "N = 1 // 0\ndef f(x: int): return x == N",
        "ZeroDivisionError: integer division or modulo by zero",
    ),
    "never_true": ("def f(x: int): return x > 5 and x < 3", "no answer has x > 5 and x < 3"),
    "always_raises": ("def f(x: int): return y == x", "NameError: name 'y' is not defined"),
    "never_bool": ("def f(x: int): return x * 2", "it returns no bool"),
    "trivial": ("def f(x: int): return x > 50", "100 is accepted"),
    "unstable": (trivially_unstable, "worlds disagree on a trivial answer"),
    "seen_by_itself": (
        "def sat(n: int):\n    return n == len(sat.__name__)",
        "for 1 the author's text returned False, with canonical names it returned True",
    ),
    "too_slow": (
        f"def f(x: int):\n    {BUSY}\n    return x == 7",
        "cpu_limit on trivial answers: over 1 s of CPU time",
    ),
}


def test_every_reason_has_an_example():
    assert set(ADMISSION) == set(REASONS)


@pytest.mark.parametrize("reason", ADMISSION)
def test_a_puzzle_is_refused_for_a_reason(pool, reason):
    text, detail = ADMISSION[reason]
    (refusal,) = admit(pool, [puzzle(pool, text(pool) if callable(text) else text)])
    assert refusal is not None
    assert (refusal.reason, refusal.detail) == (reason, refusal.detail if detail is None else detail)


@pytest.mark.parametrize(
    "text",
    [
        SQUARE,
        "def f(s: str): return s == s[::-1] and len(set(s)) == 4",
        "def f(x: List[int]): return sorted(x) == [1, 2, 3, 5]",
        "def f(x: List[int]): return x[0] + x[1] == 17",
        "def f(d: Dict[str, List[int]]): return d['a'][3] == 4",
        "def f(x: " + "Tuple[" * 10 + "int" + "]" * 10 + "): return x == 5",
        "def f(x: int): return len(bytearray(1 << 40)) == x",
        "def f(x: Set[List[int]]): return len(x) == 3",
        "import itertools, fractions\ndef f(x: Optional[bool]): return x == 5",
    ],
    ids=lambda text: text[:40],
)
def test_a_puzzle_that_rejects_every_trivial_answer_is_admitted(pool, text):
    assert admit(pool, [puzzle(pool, text)]) == [None]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("def f(x: List[int]): return sorted(x) == [1, 2, 3]", Refusal("trivial", "[1, 2, 3] is accepted")),
        ("def f(s: str): return True", Refusal("trivial", "'' is accepted")),
        ("def f(s: Set[str]): return len(s) == 1", Refusal("trivial", "{''} is accepted")),
        ("def f(x: Optional[int]): return x is None", Refusal("trivial", "None is accepted")),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_puzzle_with_a_trivial_answer_is_refused(pool, text, refusal):
    assert admit(pool, [puzzle(pool, text)]) == [refusal]


@pytest.mark.parametrize(
    ("share", "refusal"), [(0.49, None), (0.51, Refusal("too_slow", "over half the CPU limit on trivial answers"))]
)
def test_a_puzzle_that_takes_more_than_half_the_time_is_refused(pool, monkeypatch, share, refusal):
    run = Pool.run

    def slow_on_trivial_answers(self, jobs):
        for result in run(self, jobs):
            yield dataclasses.replace(result, cpu_seconds=share * LIMITS.cpu_seconds)

    parsed = puzzle(pool, SQUARE)
    monkeypatch.setattr(Pool, "run", slow_on_trivial_answers)
    assert admit(pool, [parsed]) == [refusal]


def test_a_puzzle_that_forges_its_report_is_refused(pool):
    forging = [
        REACH + f"def f(x: int): forge({record!r}, count={count})" for record, count in ((b"", 0), (b"Vfalse", 1))
    ]
    puzzles = [puzzle(pool, text) for text in [*forging, SQUARE]]
    forged = Refusal("too_slow", "finished on trivial answers: it left no report")
    assert admit(pool, puzzles) == [forged, forged, None]


def test_a_reference_answer_that_takes_half_the_time_is_in_the_grey_zone(pool):
    assert too_slow_to_judge(pool, Judgement(Verdict.ACCEPTED, judge_cpu_seconds=0.6))
    assert not too_slow_to_judge(pool, Judgement(Verdict.ACCEPTED, judge_cpu_seconds=0.4))


SEVEN = "def sat(x: int):\n    return x == 7"


@pytest.mark.parametrize(
    ("puzzle_text", "solution"),
    [
        (SEVEN, "class N(NamedTuple):\n    f: int\n    g: int\ndef sol():\n    return N(3, 4).f + N(3, 4).g"),
        (SEVEN, "class A:\n    g = 7\ndef sol():\n    return A.g"),
        (SEVEN, "def sol():\n    match {'a': 7}:\n        case {**g}:\n            return g['a']"),
        (SEVEN, "class A:\n    sat = 6\ndef sol():\n    return next(n for n in range(9) if sat(n) and n > A.sat)"),
        ("def times(x: int):\n    return x == 6", "from math import prod as times\ndef g():\n    return times([2, 3])"),
        (
            "def permutations(x: List[int]):\n    return sorted(x) == [1, 2] and x[0] == 2",
            "from itertools import permutations\ndef sol():\n    return list(list(permutations([1, 2]))[1])",
        ),
        ("def gcd(x: int):\n    from math import gcd\n    return gcd(x, 8) == 8", "def sol():\n    return 8"),
        (
            "def key(x: List[int]):\n    cmp = lambda key: key\n    return sorted(x, key=cmp) == [1, 2]",
            "def g():\n    return [1, 2]",
        ),
        (
            SEVEN,
            "from __future__ import annotations\nclass N:\n    def __init__(self, up: N = None): self.up = up\n"
            "def sol():\n    N(N())\n    return 7",
        ),
        ("from __future__ import annotations\ndef f(x: int, y: absent=3):\n    return x == 7", "def g(): return 7"),
    ],
    ids=[
        "fields of a class", "a member", "the rest of a match", "a member beside a call", "an import by another name",
        "an import", "an import inside the puzzle", "a keyword", "a type named later", "a type never named",
    ],
)  # fmt: skip
def test_a_name_that_means_two_things_keeps_both(pool, puzzle_text, solution):
    assert judge(pool, puzzle_text, solution).verdict == Verdict.ACCEPTED


def test_texts_of_many_bytes_in_few_characters_fit_their_batches(pool):
    pad = f"def f(x: str):\n    y = {'a' * 60_000!r}\n    return False"
    texts = [(pad, f"def g():\n    return {chr(0x1F600 + n) + chr(0x1F600) * 5420!r}") for n in range(60)]
    assert {judgement.verdict for judgement in verify_texts(pool, texts)} == {Verdict.WRONG_ANSWER}


def test_an_answer_of_many_parts_is_checked_in_no_time(pool):
    parts = ", ".join(["int"] * 150)
    asked = f"def f(x: List[Optional[Tuple[{parts}]]]):\n    return len(x) == 50000"
    started = time.process_time()
    assert judge(pool, asked, "def g():\n    return [None] * 50000").verdict == Verdict.ACCEPTED
    assert time.process_time() - started < 2


# ---- many answers, unconfirmed ----


def test_many_puzzles_say_which_of_many_answers_they_accept(pool):
    asked = [
        (puzzle(pool, "def f(x: int): return x > 2"), [b"1", b"3", b"5"]),
        (puzzle(pool, "def f(x: int): return 1 / (x - 3) < 0 or 'true'"), [b"1", b"3", b"5"]),
        (puzzle(pool, "def f(x: int): return True"), []),
    ]
    assert accepts(pool, asked) == [[False, True, True], [True, False, False], []]


def test_a_candidate_may_get_less_time_than_the_pool_gives(pool):
    (puzzle,) = parse_puzzles(pool, [Text("def f(x: int):\n    return x == 3")])
    endless, right = parse_candidates(pool, [Text("def g():\n    while True: pass"), Text("def g():\n    return 3")])
    pairs = [(puzzle, endless), (puzzle, right)]
    limited, whole = verify(pool, pairs, 0.25), verify(pool, pairs)
    assert limited[0].detail == "solve: over 0.25 s of CPU time"
    assert whole[0].detail == f"solve: over {pool.limits.cpu_seconds:g} s of CPU time"
    assert limited[1].verdict == whole[1].verdict == Verdict.ACCEPTED


def test_an_answer_that_meets_a_limit_is_unknown_and_those_behind_it_are_asked_until_too_many_did(pool):
    one = puzzle(pool, "def f(x: int):\n    while x == 3:\n        pass\n    return x > 2")
    assert accepts(pool, [(one, [b"1", b"3", b"5"])]) == [[False, None, True]]
    assert accepts(pool, [(one, [b"3"] * MOST_CHILDREN + [b"5"])]) == [[None] * (MOST_CHILDREN + 1)]


def test_answers_larger_together_than_a_payload_are_asked_in_turn(pool):
    one = puzzle(pool, "def f(s: str): return s[0] == 'b'")
    answers = [codec.encode(letter * (pool.limits.answer_bytes - 100), pool.limits.answer_bytes) for letter in "abcb"]
    assert accepts(pool, [(one, answers)]) == [[False, True, False, True]]


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ("while True: pass", "time_limit"),
        ("h = []\n    while True: h.append('x' * 10**7)", "runtime_error"),
        ("modules['posix'].abort()", "runtime_error"),
    ],
)
def test_a_right_answer_in_its_own_report_counts_only_if_the_program_ends_well(pool, after, verdict):
    forge = REACH.replace('    modules["posix"]._exit(0)\n', "")
    solution = f"{forge}\ndef g():\n    forge(b'V5')\n    {after}\n"
    judgement = judge(pool, "def f(x: int): return x == 5", solution)
    assert judgement.verdict in (verdict, "memory_limit" if "append" in after else verdict)


def test_an_answer_that_meets_a_limit_in_the_second_world_only_does_not_blame_the_puzzle():
    accepted = verify_module._Outcome(child.VALUE, b"true", 0.9)
    over = verify_module._Outcome(b"", b"", 1.0, Verdict.TIME_LIMIT, "over 1 s of CPU time")
    judgement = verify_module._verdict(accepted, over)
    assert seen(judgement) == (Verdict.TIME_LIMIT, "confirm: over 1 s of CPU time", None)


def test_a_stack_that_one_program_grew_is_not_missing_to_the_next_one():
    puzzle = "def f(x: int):\n    return x > 400_000_000"
    deep = "def h(n):\n    if n: sorted([n - 1], key=h)\n    return 1\ndef g():\n    h(4900)\n    return 1"
    large = (
        "def g():\n    try:\n        return len(bytearray(480 * 1024 * 1024))\n    except Exception:\n        return 0"
    )
    with truth_pool(lanes=1) as pool:
        verdicts = [judgement.verdict for judgement in verify_texts(pool, [(puzzle, deep), (puzzle, large)])]
    assert verdicts == ["wrong_answer", "accepted"]
