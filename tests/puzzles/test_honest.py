"""Honest puzzles and solutions keep their verdicts: right is accepted, wrong is rejected for what it is.

The last test judges them all beside busy neighbours: a verdict depends on CPU time used, never on the clock.
"""

import subprocess
import sys

import pytest

from puzzles.puzzle import Verdict
from puzzles.verify import truth_pool, verify_texts
from sandbox.pool import PURE_MODULES
from sandbox.result import Limits

LIMITS = Limits(cpu_seconds=0.5, wall_seconds=1)


@pytest.fixture(scope="module")
def pool():
    with truth_pool(LIMITS, lanes=2) as pool:
        yield pool


def identity(declared, expression):
    """A puzzle that accepts one value, in its exact text."""
    return f"def f(x: {declared}): return repr(x) == repr({expression})"


ANSWER = "def f(x: int): return x == 42"
BURN = "    for _ in range(8 * 10**6): pass\n"  # a seventh of a second on a slow machine

HONEST = {
    # types
    "int": (identity("int", "-42"), "def g(): return -42", "-42"),
    "float": (identity("float", "1.5"), "def g(): return 3 / 2", "1.5"),
    "bool": ("def f(x: bool): return x is False", "def g(): return 1 > 2", "False"),
    "str": (identity("str", "'ab'"), "def g(): return 'a' + 'b'", "'ab'"),
    "list": (identity("List[int]", "[1, 2]"), "def g(): return [1, 2]", "[1, 2]"),
    "list in new spelling": ("def f(x: list[int]): return x == [3]", "def g(): return [3]", "[3]"),
    "tuple": ("def f(x: Tuple[int, str, bool]): return x == (1, 'a', True)", "def g(): return 1, 'a', True", None),
    "tuple of any length": ("def f(x: Tuple[int, ...]): return sum(x) == 6", "def g(): return 1, 2, 3", "(1, 2, 3)"),
    "empty tuple": ("def f(x: Tuple[int, ...]): return x == ()", "def g(): return ()", "()"),
    "set in any order": ("def f(x: Set[int]): return x == {1, 2, 3}", "def g(): return {3, 1, 2}", "{1, 2, 3}"),
    "dict in any order": (
        "def f(x: Dict[str, int]): return x == {'a': 1, 'b': 2}",
        "def g(): return {'b': 2, 'a': 1}",
        "{'a': 1, 'b': 2}",
    ),
    "Optional with a value": ("def f(x: Optional[int]): return x == 3", "def g(): return 3", "3"),
    "Optional without": ("def f(x: Optional[List[int]]): return x is None", "def g(): return None", "None"),
    "int or None": ("def f(x: int | None): return x is None", "def g(): pass", "None"),
    "matrix": (
        "def f(m: List[List[int]]): return [*map(sum, m)] == [1, 0, 5]",
        "def g(): return [[1], [], [2, 3]]",
        None,
    ),
    "dict of lists of tuples": (
        "def f(d: Dict[str, List[Tuple[int, float]]]): return d['a'][1] == (2, 0.5)",
        "def g(): return {'a': [(1, 0.0), (2, 0.5)]}",
        "{'a': [(1, 0.0), (2, 0.5)]}",
    ),
    "dict by tuples": (
        "def f(d: Dict[Tuple[int, int], str]): return d[1, 2] + d[2, 1] == 'ab'",
        "def g(): return {(2, 1): 'b', (1, 2): 'a'}",
        "{(1, 2): 'a', (2, 1): 'b'}",
    ),
    "set of tuples": ("def f(s: Set[Tuple[int, int]]): return len(s) == 2", "def g(): return {(3, 4), (1, 2)}", None),
    "list of optional texts": (
        "def f(x: List[Optional[str]]): return x.count(None) == 2 and 'z' in x",
        "def g(): return [None, 'z', None]",
        "[None, 'z', None]",
    ),
    "quoted type": ("def f(x: 'List[int]'): return x == [7]", "def g(): return [7]", "[7]"),
    "empty list": ("def f(x: List[int]): return not x", "def g(): return []", "[]"),
    "empty dict": ("def f(x: Dict[int, int]): return x == {}", "def g(): return {}", "{}"),
    "empty set": ("def f(x: Set[int]): return x == set()", "def g(): return set()", "set()"),
    "empty text": ("def f(x: str): return x == ''", "def g(): return ''", "''"),
    # numbers
    "10**400": ("def f(x: int): return x == 10**400", "def g(): return 10**400", str(10**400)),
    "2**20000": ("def f(x: int): return x == 2**20000", "def g(): return 1 << 20000", hex(2**20000)),
    "a negative giant": ("def f(x: int): return -x == 7**9000", "def g(): return -(7**9000)", hex(-(7**9000))),
    "digits past the usual limit": (
        "def f(x: int): return str(x) == '7' * 6000",
        "def g(): return int('7' * 6000)",
        hex((10**6000 - 1) // 9 * 7),
    ),
    "2**53 + 1": ("def f(x: int): return x == 2**53 + 1", "def g(): return 2**53 + 1", "9007199254740993"),
    "a tenth": ("def f(x: float): return x * 3 != 0.3 and x == 0.1", "def g(): return 0.1", "0.1"),
    "the next float": (
        "import math\ndef f(x: float): return x == math.nextafter(1.0, 2.0)",
        "def g(): return 1 + 2.0**-52",
        "1.0000000000000002",
    ),
    "minus zero": (identity("float", "-0.0"), "def g(): return 0.0 * -1", "-0.0"),
    "minus zero in a list": (identity("List[float]", "[-0.0, 0.0]"), "def g(): return [-0.0, 0.0]", "[-0.0, 0.0]"),
    "the smallest float": ("def f(x: float): return x > 0 == x / 2", "def g(): return 5e-324", "5e-324"),
    "a denormal": ("def f(x: float): return 0 < x < 2.3e-308 * 0.5", "def g(): return 2.5e-310", "2.5e-310"),
    "the largest float": (
        "def f(x: float): return x * 2 > x and x * 2 == float('inf')",
        "def g(): return 1.7976931348623157e308",
        "1.7976931348623157e+308",
    ),
    "bits": (
        "def f(x: int): return x & -x == 64 and x.bit_count() == 3 and x >> 6 == 0b1011 and ~x < 0",
        "def g(): return (1 << 6) | (1 << 7) | 1 << 9",
        "704",
    ),
    "modular arithmetic": (
        "def f(x: int, p=10**9 + 7): return pow(x, 2, p) == 2 and 0 < x < p",
        "def g(p=10**9 + 7): return min(pow(2, (p + 1) // 4, p), p - pow(2, (p + 1) // 4, p))",
        None,
    ),
    "complex inside": (
        "def f(x: float): return abs(complex(3, x)) == 5.0 and (1j * 1j).real == -1",
        "def g(): return abs((3 + 4j).imag)",
        "4.0",
    ),
    # text
    "every plane": (
        "def f(s: str): return [ord(c) >> 16 for c in s] == [0, 0, 1, 2, 3, 14, 16]",
        "def g(): return ''.join(map(chr, (0x41, 0x6F22, 0x1F600, 0x20000, 0x30000, 0xE0100, 0x10FFFD)))",
        None,
    ),
    "lone surrogates": (identity("str", "chr(0xdfff) + chr(0xd800)"), "def g(): return '\\udfff\\ud800'", None),
    "combining marks": ("def f(s: str): return len(s) == 2 and s != 'é'", "def g(): return 'e\\u0301'", None),
    "controls and quotes": (
        "def f(s: str): return s == '\\0\\x1b[2J\\r\\n\\t\\x7f\\'\"\\\\'",
        "def g(): return '\\0\\x1b[2J\\r\\n\\t\\x7f\\'\"\\\\'",
        None,
    ),
    "case of sharp s": ("def f(s: str): return s.upper() == 'SS' and len(s) == 1", "def g(): return 'ß'", "'ß'"),
    "names in other scripts": ("def f(größe: int): return größe == 3", "def g():\n    π = 3\n    return π", "3"),
    # size and depth
    "a list 30 deep": (
        "def f(x: " + "List[" * 16 + "int" + "]" * 16 + "): return str(x).count('[') == 16",
        "def g():\n    x = 1\n    for _ in range(16): x = [x]\n    return x",
        "[" * 16 + "1" + "]" * 16,
    ),
    "a value 60 deep inside": (
        "def f(n: int):\n    x = []\n    for _ in range(60): x = [x]\n    return str(x).count('[') == n",
        "def g():\n    x = []\n    for _ in range(60): x = [x]\n    return repr(x).count(']')",
        "61",
    ),
    "9000 calls deep": (
        "def f(n: int):\n    def down(k): return k and 1 + down(k - 1)\n    return down(n) == 9000",
        "def down(k): return k and 1 + down(k - 1)\ndef g(): return down(9000)",
        "9000",
    ),
    "text near the cap": ("def f(s: str): return len(s) == 262000", "def g(): return 'x' * 262000", repr("x" * 262000)),
    "list near the cap": (
        "def f(x: List[int]): return len(x) == 65000 and sum(x) == 65000",
        "def g(): return [1] * 65000",
        str([1] * 65000),
    ),
    # programs
    "slow but fair": (f"def f(x: int):\n{BURN}    return x == 42", f"def g():\n{BURN}    return 42", "42"),
    "slow but fair in C": (
        "def f(x: int): return x == sum(range(3 * 10**6))",
        "def g(): return sum(range(3 * 10**6))",
        str(sum(range(3 * 10**6))),
    ),
    "much memory for a while": (
        "def f(x: int): return len(bytearray(60 * 1024**2)) == x",
        "def g(): return len(bytes(60 * 1024**2))",
        str(60 * 1024**2),
    ),
    "prints": (ANSWER, "def g():\n    print('wrong_answer', end='', flush=True)\n    return 42", "42"),
    "a printing puzzle": ("def f(x: int):\n    print(x)\n    return x == 42", "def g(): return 42", "42"),
    "generator": (
        ANSWER,
        "def g():\n    def squares():\n        yield from (n for n in [42])\n    return max(squares())",
        "42",
    ),
    "class": (
        ANSWER,
        "class Box:\n    unit = 6\n    def __init__(self, n): self.n = n\n    @property\n"
        "    def all(self): return self.n * self.unit\n"
        "    def __add__(self, other): return Box(self.n + other.n)\ndef g(): return (Box(3) + Box(4)).all",
        "42",
    ),
    "inheritance": (
        ANSWER,
        "class A:\n    def n(self): return 40\nclass B(A):\n    def n(self): return super().n() + 2\n"
        "def g(): return B().n()",
        "42",
    ),
    "decorator": (
        ANSWER,
        "def twice(h):\n    def inner(*a): return 2 * h(*a)\n    return inner\n@twice\ndef h(n): return n\n"
        "def g(): return h(21)",
        "42",
    ),
    "closure with nonlocal": (
        ANSWER,
        "def g():\n    n = 0\n    def step():\n        nonlocal n\n        n += 6\n        return n\n"
        "    return [step() for _ in range(7)][-1]",
        "42",
    ),
    "lru_cache": (
        "def f(x: int): return x == 832040",
        "from functools import lru_cache\n@lru_cache(None)\n"
        "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\n"
        "def g(): return fib(30)",
        "832040",
    ),
    "memo in a dict": (
        "def f(x: int): return x == 184756",
        "def g():\n    memo = {}\n    def paths(a, b):\n        if (a, b) not in memo:\n"
        "            memo[a, b] = 1 if 0 in (a, b) else paths(a - 1, b) + paths(a, b - 1)\n"
        "        return memo[a, b]\n    return paths(10, 10)",
        "184756",
    ),
    "memo in a default": (
        "def f(x: int): return x == 55",
        "def fib(n, memo={0: 0, 1: 1}):\n    if n not in memo: memo[n] = fib(n - 1) + fib(n - 2)\n    return memo[n]\n"
        "def g(): return fib(10)",
        "55",
    ),
    "helper and constants": (
        "LIMIT = 40\ndef over(x): return x > LIMIT\ndef f(x: int): return over(x) and x % 6 == 0",
        "STEP: int = 6\ndef multiples(): return range(0, 99, STEP)\n"
        "def g(): return next(n for n in multiples() if over(n))",
        "42",
    ),
    "defaults on both sides": (
        "def f(x: List[int], n=4, *, total=10): return len(x) == n and sum(x) == total",
        "def g(n=4, *, total=10): return [total - n + 1] + [1] * (n - 1)",
        "[7, 1, 1, 1]",
    ),
    "several functions in the puzzle": (
        "def digits(n): return [int(c) for c in str(n)]\ndef f(x: int): return sum(digits(x)) == 30\n"
        "def unused(y): return y",
        "def g(): return int('7' * 4 + '2')",
        "77772",
    ),
    "docstrings": (
        "def f(x: int):\n    '''Find 42.'''\n    return x == 42",
        "'''A solution.'''\ndef g():\n    \"\"\"It is 42.\"\"\"\n    return 42",
        "42",
    ),
    "a type alias": (
        "from typing import List\nRow = List[int]\ndef f(x: List[int]):\n    y: Row = x\n    return y == [4]",
        "def g() -> 'Row':\n    row: Row = [4]\n    return row",
        "[4]",
    ),
    "searching with f": (ANSWER, "def g():\n    n = 0\n    while not f(n): n += 1\n    return n", "42"),
    "searching with its old name": (
        "def sat(n: int, limit=50): return n * n > limit",
        "def sol(limit=50): return next(n for n in range(limit) if sat(n, limit))",
        "8",
    ),
    "exceptions": (
        ANSWER,
        "class Found(Exception):\n    pass\ndef g():\n    try:\n        try:\n            1 / 0\n"
        "        except ZeroDivisionError as e:\n"
        "            raise Found(42) from e\n    except Found as found:\n        return found.args[0]",
        "42",
    ),
    "finally": (
        "def f(x: List[int]):\n    try:\n        return x[2] == 3\n    finally:\n        x.clear()",
        "def g():\n    x = []\n    for n in (1, 2, 3):\n        try:\n            if n == 2: continue\n"
        "            x.append(n)\n"
        "        finally:\n            x.append(n)\n    return x[:2] + [3]",
        "[1, 1, 3]",
    ),
    "recursion caught": (
        "def f(x: bool): return x",
        "def g():\n    def down(): return down()\n    try:\n        down()\n    except RecursionError:\n"
        "        return True",
        "True",
    ),
    "itertools": (
        "def f(x: List[int]): return x == [0, 1, 3, 6]",
        "from itertools import accumulate, chain, islice, takewhile, count\n"
        "def g(): return [*islice(accumulate(chain([0], takewhile(lambda n: n < 9, count(1)))), 4)]",
        "[0, 1, 3, 6]",
    ),
    "formats": (
        "def f(s: str): return s == '00042|2a|4.20e+01|  42|42.0%|1,000|42'",
        "def g(n=42):\n    return '|'.join((f'{n:05d}', f'{n:x}', f'{n:.2e}', '{:>4}'.format(n), '%.1f%%' % n, "
        "f'{1000:,}', f'{n!r:{2}}'))",
        None,
    ),
    "match": (
        ANSWER,
        "def h(v):\n    match v:\n        case {'a': [int(n), *_]} if n > 1: return n\n"
        "        case (0 | 1, _): return 0\n"
        "        case _: return -1\ndef g(): return h({'a': [42, 1], 'b': 0}) + h((1, 2)) + h(3) + 1",
        "42",
    ),
    "walrus": (ANSWER, "def g(): return m if (m := max(n for n in range(43))) else 0", "42"),
    "star expressions": (
        "def f(x: List[int]): return x == [1, 2, 3, 4]",
        "def g():\n    first, *rest = range(1, 4)\n    def h(*a, **k): return [*a, *k.values()]\n"
        "    return h(first, *rest, **{'z': 4})",
        "[1, 2, 3, 4]",
    ),
    "a large comprehension": (
        "def f(x: int): return x == sum(a * b for a in range(200) for b in range(200) if a ^ b & 1)",
        "def g(): return sum(a * b for a in range(200) for b in range(200) if a ^ b & 1)",
        None,
    ),
    "sorting with keys": (
        "def f(x: List[str]): return x == ['b', 'Aa', 'cc', 'ddd']",
        "def g(): return sorted(['ddd', 'cc', 'b', 'Aa'], key=lambda s: (len(s), s.lower()))",
        "['b', 'Aa', 'cc', 'ddd']",
    ),
    "conditional expressions and slices": (
        "def f(s: str): return s[::-1] == 'cba' and s[1:-1] == 'b'",
        "def g(): return 'abcdef'[:3] if True else ''",
        "'abc'",
    ),
    "while and else": (
        ANSWER,
        "def g():\n    n = 100\n    while n > 42:\n        n -= 1\n    else:\n        return n",
        "42",
    ),
    "del and global": (
        ANSWER,
        "total = 0\ndef g():\n    global total\n    spare = [1]\n    del spare\n"
        "    for n in (40, 2): total += n\n    return total",
        "42",
    ),
    "context manager": (
        ANSWER,
        "class C:\n    def __enter__(self): return 42\n    def __exit__(self, *_): return True\ndef g():\n"
        "    with C() as n: return n",
        "42",
    ),
    "dataclass by hand": (ANSWER, "def g():\n    P = type('P', (), {'n': 42})\n    return P().n", "42"),
    "named tuple inside": (
        ANSWER,
        "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef g(): return P(40, 2).x + P(40, 2).y",
        "42",
    ),
    "random": ("def f(x: int): return 0 <= x < 5", "import random\ndef g(): return random.randrange(5)", None),
    "random with a seed": (
        "def f(x: int): return x == 17",
        "import random\ndef g(): return [n for n in [17] if random.Random(4).choice([1, 2])][0]",
        "17",
    ),
    "the answer is changed by f": (
        "def f(x: List[int]):\n    x.sort()\n    return x == [1, 2]",
        "def g(): return [2, 1]",
        "[2, 1]",
    ),
    "equal parts": (
        "def f(m: List[List[int]]): return m[0] == m[1] == [0]",
        "def g():\n    row = [0]\n    return [row, row]",
        "[[0], [0]]",
    ),
    "future import": ("from __future__ import annotations\n" + ANSWER, "def g(): return 42", "42"),
    "async inside": (
        ANSWER,
        "async def h(): return 42\ndef g():\n    try:\n        h().send(None)\n    except StopIteration as e:\n"
        "        return e.value",
        "42",
    ),
}

MODULES = {
    "math": ("math.isqrt(1764)", "42"),
    "itertools": ("len(list(itertools.combinations(range(9), 5))) // 3", "42"),
    "functools": ("functools.reduce(lambda a, b: a + b, range(9)) + 6", "42"),
    "collections": ("collections.deque([1, 42]).pop()", "42"),
    "heapq": ("heapq.nlargest(1, [42, 3])[0]", "42"),
    "bisect": ("bisect.bisect(range(99), 41)", "42"),
    "string": ("string.ascii_letters.index('Q')", "42"),
    "re": ("int(re.search(r'\\d+', 'a42b').group())", "42"),
    "operator": ("operator.mul(6, 7)", "42"),
    "typing": ("typing.cast(int, 42)", "42"),
    "copy": ("copy.deepcopy([[42]])[0][0]", "42"),
    "fractions": ("(fractions.Fraction(126, 3)).numerator", "42"),
    "statistics": ("statistics.median([1, 42, 99])", "42"),
}
HONEST |= {
    f"module {name}": (
        f"import {name}\ndef f(x: int): return x == {use}",
        f"import {name}\ndef g(): return {use}",
        answer,
    )
    for name, (use, answer) in MODULES.items()
}

REJECTED = {
    "wrong": (ANSWER, "def g(): return 41", Verdict.WRONG_ANSWER, "judge: f returned False"),
    "bool for int": (ANSWER, "def g(): return True", Verdict.WRONG_TYPE, "solve: True is not of type int"),
    "int for float": (
        identity("float", "1.0"),
        "def g(): return 1",
        Verdict.WRONG_TYPE,
        "solve: 1 is not of type float",
    ),
    "float for int": (ANSWER, "def g(): return 42.0", Verdict.WRONG_TYPE, "solve: 42.0 is not of type int"),
    "tuple for list": (
        "def f(x: List[int]): return sum(x) == 3",
        "def g(): return (1, 2)",
        Verdict.WRONG_TYPE,
        "solve: (1, 2) is not of type List[int]",
    ),
    "list for tuple": (
        "def f(x: Tuple[int, int]): return sum(x) == 3",
        "def g(): return [1, 2]",
        Verdict.WRONG_TYPE,
        "solve: [1, 2] is not of type Tuple[int, int]",
    ),
    "too long a tuple": (
        "def f(x: Tuple[int, int]): return x[0] == 1",
        "def g(): return 1, 2, 3",
        Verdict.WRONG_TYPE,
        "solve: (1, 2, 3) is not of type Tuple[int, int]",
    ),
    "frozen set for set": (
        "def f(x: Set[int]): return len(x) == 1",
        "def g(): return frozenset({1})",
        Verdict.WRONG_TYPE,
        "solve: frozenset({1}) is not of type Set[int]",
    ),
    "a text among numbers": (
        "def f(x: List[int]): return x[0] == 1",
        "def g(): return [1, '2']",
        Verdict.WRONG_TYPE,
        "solve: [1, '2'] is not of type List[int]",
    ),
    "None": (ANSWER, "def g(): return None", Verdict.WRONG_TYPE, "solve: None is not of type int"),
    "no return": (ANSWER, "def g(): 42", Verdict.WRONG_TYPE, "solve: None is not of type int"),
    "f returns one": ("def f(x: int): return 1", "def g(): return 1", Verdict.WRONG_ANSWER, "judge: f returned 1"),
    "f returns a list": (
        "def f(x: int): return [x]",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f returned [1]",
    ),
    "f returns a match": (
        "import re\ndef f(s: str): return re.match('a', s)",
        "def g(): return 'a'",
        Verdict.WRONG_ANSWER,
        "judge: f returned no bool: CodecError: Match is not plain data",
    ),
    "f returns nothing": ("def f(x: int): x == 1", "def g(): return 1", Verdict.WRONG_ANSWER, "judge: f returned None"),
    "f raises": (
        "def f(x: int): return 1 // x == 1",
        "def g(): return 0",
        Verdict.WRONG_ANSWER,
        "judge: f raised ZeroDivisionError: integer division or modulo by zero",
    ),
    "f asserts": (
        "def f(x: int):\n    assert x > 1, 'too small'\n    return True",
        "def g(): return 1",
        Verdict.WRONG_ANSWER,
        "judge: f raised AssertionError: too small",
    ),
    "g raises": (ANSWER, "def g(): return [][1]", Verdict.RUNTIME_ERROR, "solve: IndexError: list index out of range"),
    "g has a name too many": (
        ANSWER,
        "def g(): return answer",
        Verdict.RUNTIME_ERROR,
        "solve: NameError: name 'answer' is not defined",
    ),
    "g imports what is not there": (
        ANSWER,
        "import numpy\ndef g(): return numpy.int64(42)",
        Verdict.RUNTIME_ERROR,
        "solve: ImportError: module 'numpy' is not available; available are ",
    ),
    "g recurses without end": (
        ANSWER,
        "def g(): return g()",
        Verdict.RUNTIME_ERROR,
        "solve: RecursionError: maximum recursion depth exceeded",
    ),
    "g exits": (ANSWER, "def g(): raise SystemExit(42)", Verdict.RUNTIME_ERROR, "solve: SystemExit: 42"),
    "g asks for input": (ANSWER, "def g(): return int(input())", Verdict.RUNTIME_ERROR, "solve: RuntimeError: input()"),
    "syntax": (ANSWER, "def g(: return 42", Verdict.INVALID_SOLUTION, "syntax: line 1: invalid syntax"),
    "an open bracket": (ANSWER, "def g():\n    return (42", Verdict.INVALID_SOLUTION, "syntax: line 2: '(' was never"),
    "no function": (ANSWER, "y = 42", Verdict.INVALID_SOLUTION, "no_function: "),
    "another function": (ANSWER, "class g:\n    pass", Verdict.INVALID_SOLUTION, "no_function: "),
    "a required parameter": (ANSWER, "def g(n): return 42", Verdict.INVALID_SOLUTION, "required_parameter: "),
    "a statement": (ANSWER, "def g(): return 42\nreturn g()", Verdict.INVALID_SOLUTION, "statement: line 2: Return"),
    "asynchronous": (ANSWER, "async def g(): return 42", Verdict.INVALID_SOLUTION, "asynchronous: "),
    "too slow": (ANSWER, "def g():\n    while True: pass", Verdict.TIME_LIMIT, "solve: over 0.5 s of CPU time"),
    "too slow in C": (ANSWER, "def g(): return sum(iter(int, 1))", Verdict.TIME_LIMIT, "solve: over 0.5 s of CPU time"),
    "f too slow": (
        "def f(x: int):\n    while True: pass",
        "def g(): return 1",
        Verdict.TIME_LIMIT,
        "judge: over 0.5 s of CPU time",
    ),
    "too much memory": (ANSWER, "def g(): return [0] * 10**10", Verdict.MEMORY_LIMIT, "solve: out of memory"),
    "f takes too much memory": (
        "def f(x: int): return len([0] * 10**10) == x",
        "def g(): return 1",
        Verdict.MEMORY_LIMIT,
        "judge: out of memory",
    ),
    "over the cap": (
        "def f(s: str): return True",
        "def g(): return 'x' * 262143",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: the value takes 262145 bytes, over the limit of 262144",
    ),
    "too deep": (
        "def f(x: List[int]): return True",
        "def g():\n    x = []\n    for _ in range(70): x = [x]\n    return x",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: the value is nested deeper than 64",
    ),
    "not a number": (
        "def f(x: float): return x != x",
        "def g(): return float('nan')",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: nan is not a finite number",
    ),
    "a range": (
        "def f(x: List[int]): return True",
        "def g(): return range(3)",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: range is not plain data",
    ),
    "a named tuple": (
        "def f(x: Tuple[int, int]): return True",
        "from collections import namedtuple\ndef g(): return namedtuple('P', 'x y')(1, 2)",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: P is not plain data",
    ),
    "a counter": (
        "def f(x: Dict[str, int]): return True",
        "from collections import Counter\ndef g(): return Counter('aab')",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: Counter is not plain data",
    ),
    "a generator": (
        "def f(x: List[int]): return True",
        "def g():\n    yield 1",
        Verdict.UNANSWERABLE_VALUE,
        "solve: CodecError: generator is not plain data",
    ),
    "an untyped puzzle": ("def f(x): return True", "def g(): return 1", Verdict.INVALID_PUZZLE, "no_annotation: "),
    "a broken puzzle": ("def f(x: int) return True", "def g(): return 1", Verdict.INVALID_PUZZLE, "syntax: line 1: "),
    "a puzzle that does not load": (
        "N = [][0]\ndef f(x: int): return N is None",
        "def g(): return 1",
        Verdict.INVALID_PUZZLE,
        "judge: it does not load: IndexError: list index out of range",
    ),
}


def test_every_pure_module_is_used():
    assert set(MODULES) == set(PURE_MODULES)


@pytest.fixture(scope="module")
def honest(pool):
    """All at once, as they come in practice."""
    judgements = verify_texts(pool, [(puzzle, solution) for puzzle, solution, _ in HONEST.values()])
    return dict(zip(HONEST, judgements, strict=True))


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_pair_is_accepted_with_its_answer(honest, name):
    judgement, answer = honest[name], HONEST[name][2]
    assert (judgement.verdict, judgement.detail) == (Verdict.ACCEPTED, "")
    assert judgement.answer == (judgement.answer if answer is None else answer)


@pytest.fixture(scope="module")
def rejected(pool):
    judgements = verify_texts(pool, [(puzzle, solution) for puzzle, solution, *_ in REJECTED.values()])
    return dict(zip(REJECTED, judgements, strict=True))


@pytest.mark.parametrize("name", REJECTED)
def test_a_wrong_pair_is_rejected_for_what_it_is(rejected, name):
    _, _, verdict, detail = REJECTED[name]
    judgement = rejected[name]
    assert (judgement.verdict, judgement.detail[: len(detail)]) == (verdict, detail)


def test_an_honest_pair_is_accepted_beside_others_and_alone(pool, honest):
    for name in ("lru_cache", "set in any order", "9000 calls deep", "random", "module re"):
        puzzle, solution, _ = HONEST[name]
        (alone,) = verify_texts(pool, [(puzzle, solution)])
        assert (alone.verdict, alone.answer) == (honest[name].verdict, honest[name].answer), name


def test_many_candidates_of_one_puzzle_are_judged_as_each_alone(pool):
    """Right, wrong, slow and failing ones in one go."""
    solutions = ["return 42", "return 41", "while True: pass", "return 1 // 0", "return f(1)", "return max(range(43))"]
    solutions += [f"return {n}" for n in range(30, 50)]
    texts = [(ANSWER, f"def g():\n    {body}") for body in solutions]
    together = [(judgement.verdict, judgement.answer) for judgement in verify_texts(pool, texts)]
    alone = [(judgement.verdict, judgement.answer) for text in texts for judgement in verify_texts(pool, [text])]
    assert together == alone
    assert [verdict for verdict, _ in together].count(Verdict.ACCEPTED) == 3


def test_a_pair_of_surrogates_is_two_characters(pool):
    """Not the one character of another plane that JSON would read."""
    pair = ("def f(s: str): return len(s) == 2 and s[0] == chr(0xd800)", "def g(): return chr(0xd800) + chr(0xdfff)")
    (judgement,) = verify_texts(pool, [pair])
    assert (judgement.verdict, judgement.answer) == (Verdict.ACCEPTED, "'\\ud800\\udfff'")


def loops(count):
    """Three solutions that turn round so often."""
    return [(ANSWER, f"def g():\n    for _ in range({count + n}): pass\n    return 42") for n in range(3)]


def test_verdicts_are_the_same_on_an_idle_machine_and_with_four_busy_loops_beside_it(pool):
    texts = [(puzzle, solution) for puzzle, solution, *_ in (*HONEST.values(), *REJECTED.values())]
    texts += loops(4 * 10**6) + loops(10**9)
    idle = [(judgement.verdict, judgement.answer) for judgement in verify_texts(pool, texts)]
    neighbours = []
    try:
        neighbours += [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(4)]
        busy = [(judgement.verdict, judgement.answer) for judgement in verify_texts(pool, texts)]
        assert all(neighbour.poll() is None for neighbour in neighbours)
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    changed = [(text, before, after) for text, before, after in zip(texts, idle, busy, strict=True) if before != after]
    assert changed == []
    assert len(texts) >= 150
    assert sum(verdict == Verdict.TIME_LIMIT for verdict, _ in idle) >= 6
