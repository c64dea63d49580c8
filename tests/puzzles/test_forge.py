"""Forged accepts, and candidates that change the verdicts of others.

Every attack is one text with two tests: the judge of the house rejects it, and a judge with one
rule less (`weak`) falls for it.
"""

import mmap
import random

import pytest
import weak
from reaching import MODULES

from puzzles.parse import PARSE_BATCH
from puzzles.puzzle import Verdict
from puzzles.verify import truth_pool, verify_texts
from sandbox import child
from sandbox.pool import Job, Pool
from sandbox.result import Limits

LIMITS = Limits(cpu_seconds=0.4, wall_seconds=0.8)

ACCEPTED, WRONG, RAISED = Verdict.ACCEPTED, Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR
NO_DATA, NO_TYPE, NO_PROGRAM = Verdict.UNANSWERABLE_VALUE, Verdict.WRONG_TYPE, Verdict.INVALID_SOLUTION
TIME, MEMORY = Verdict.TIME_LIMIT, Verdict.MEMORY_LIMIT


@pytest.fixture(scope="module")
def pool():
    with truth_pool(LIMITS, lanes=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def weak_pool():
    with Pool([f"weak:{judge}" for judge in weak.SEALED], LIMITS, lanes=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def unsealed_pool():
    with Pool(["weak.unsealed:same_process", "weak.unsealed:descriptor"], LIMITS, lanes=1) as pool:
        if {pool.layers.states.get(layer) for layer in ("namespaces", "empty_root")} != {"on"}:
            pytest.skip("an attack without the seal is tried in an empty root only")
        yield pool


def weakly(pool, judge, puzzle, candidates):
    """What a weak judge says of each candidate: whether it is accepted."""
    blobs = [text.encode("utf-8", "surrogatepass") for text in (puzzle, *candidates)]
    module, _, name = judge.rpartition(".")
    (result,) = pool.run([Job(f"{'.'.join(filter(None, ('weak', module)))}:{name}", child.pack(blobs))])
    if judge == "silence":
        return [b"rejected" not in result.records]
    said = [record == b"accepted" for record in result.records[: len(candidates)]]
    return said + [False] * (len(candidates) - len(said))


def verdicts(pool, puzzle, candidates):
    return [judgement.verdict for judgement in verify_texts(pool, [(puzzle, text) for text in candidates])]


LIES = "\n".join(f"    def {name}(self, *_): return True" for name in ("__eq__", "__ne__", "__lt__", "__gt__"))
YES = "lambda *_, **__: True"

# Whoever judges, under one of these names it says so.
VERDICT_NAMES = ("_judge", "_is_true", "_call", "_verdict", "judge_answers", "check", "verify")
TAKE_OVER = f"""
def take_over(space):
    for name in {VERDICT_NAMES}:
        if name in space: space[name] = {YES}
"""

# No answer of the declared type solves these.
NEVER = "def f(x: int): return x != x"
NEVER_STR = "def f(s: str): return len(s) > 3 and s == ''"
NEVER_LIST = "def f(x: List[int]): return len(x) == 3 and x == []"
NEVER_GCD = "import math\ndef f(x: int): return math.gcd(x, 7) == 100"
# Its lists set off the garbage collector.
LATE_GCD = "import math\ndef f(x: int):\n    waste = [[n] for n in range(20000)]\n    return math.gcd(x, 7) == 100"
TWO_FACES = "def f(x: int): return x == 1 and x == 2"
LIMIT = "LIMIT = 1\ndef f(x: int): return x == LIMIT == 2"
NOT_INT = "def f(x: Optional[int]): return x is not None and not isinstance(x, int)"

PATCH_GCD = "modules['math'].gcd = lambda *_: 100"
FORGE = (
    MODULES
    + """
def report():
    frame = sys._getframe()
    while "slot" not in frame.f_locals: frame = frame.f_back
    return frame.f_locals["slot"], frame.f_locals["start"]

def forge(*records):
    slot, start = report()
    words = [(1).to_bytes(4, "little"), len(records).to_bytes(4, "little")]
    for record in records: words += [len(record).to_bytes(4, "little"), record]
    forged = b"records\\0" + b"".join(words)
    slot[start : start + len(forged)] = forged
    modules["posix"]._exit(0)
"""
)

FORGERIES = {
    "objects": {
        "a proxy that equals everything": (TWO_FACES, f"class A:\n{LIES}\ndef g(): return A()", NO_DATA),
        "an int that differs from itself": (NEVER, f"class A(int):\n{LIES}\ndef g(): return A(1)", NO_DATA),
        "an int that calls itself int": (
            NEVER,
            f"class A(int):\n{LIES}\nA.__name__ = A.__qualname__ = 'int'\ndef g(): return A(1)",
            NO_DATA,
        ),
        "a list that counts its lengths": (
            "def f(x: List[int]): return len(x) == 1 and len(x) == 2",
            "class A(list):\n    def __len__(self):\n        self.append(1)\n        return list.__len__(self)\n"
            "def g(): return A()",
            NO_DATA,
        ),
        "a full list that is false": (
            "def f(x: List[int]): return not x and len(x) == 3",
            "class A(list):\n    def __bool__(self): return False\ndef g(): return A([1, 2, 3])",
            NO_DATA,
        ),
        "a text with another hash": (
            "def f(s: str): return s == 'a' and s not in {'a'}",
            "class A(str):\n    def __hash__(self): return 1\ndef g(): return A('a')",
            NO_DATA,
        ),
        "an empty list that contains": (
            "def f(x: List[int]): return 5 in x and x.count(5) == 0",
            "class A(list):\n    def __contains__(self, _): return True\ndef g(): return A()",
            NO_DATA,
        ),
        "a list that is another the second time": (
            "def f(x: List[int]): return sum(x) == 3 and max(x) == 100",
            "class A(list):\n    def __iter__(self):\n        self.append(1)\n"
            "        return iter([3] if len(self) == 1 else [100])\ndef g(): return A()",
            NO_DATA,
        ),
        "an index that is no number": (
            "def f(x: int): return [1, 2][x] == 2 and x not in (1, -1)",
            "class A:\n    def __index__(self): return 1\ndef g(): return A()",
            NO_DATA,
        ),
        "a class property that says int": (
            "def f(x: int): return isinstance(x, int) and x + 1 == x",
            "class A:\n    __class__ = int\n    def __add__(self, _): return self\ndef g(): return A()",
            NO_DATA,
        ),
        "a metaclass that equals int": (
            "def f(x: int): return type(x) == int and x + 1 == x",
            "class M(type):\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\n"
            "class A(metaclass=M):\n    def __add__(self, _): return self\ndef g(): return A()",
            NO_DATA,
        ),
        "an abc that adopts a liar": (
            "import collections.abc\ndef f(x: int): return isinstance(x, collections.abc.Sized)",
            "import collections.abc\nclass A: pass\ndef g():\n    collections.abc.Sized.register(A)\n    return A()",
            NO_DATA,
        ),
        "a float that multiplies as it likes": (
            "def f(x: float): return x * 0 == 1",
            "class A(float):\n    def __mul__(self, _): return 1\ndef g(): return A(1)",
            NO_DATA,
        ),
        "an empty set with a member": (
            "def f(s: Set[int]): return len(s) == 0 and 1 in s",
            "class A(set):\n    def __contains__(self, _): return True\ndef g(): return A()",
            NO_DATA,
        ),
        "a dict that makes up its items": (
            "def f(d: Dict[str, int]): return not d and d['a'] == 1",
            "import collections\ndef g(): return collections.defaultdict(lambda: 1)",
            NO_DATA,
        ),
        "a dict that answers in a loop": (
            "def f(d: Dict[str, int]): return d['a'] != d['a']",
            "class A(dict):\n    n = 0\n    def __missing__(self, _):\n        self.n += 1\n        return self.n\n"
            "def g(): return A()",
            NO_DATA,
        ),
        "a text that starts with all": (
            "def f(s: str): return s.startswith('ab') and len(s) == 0",
            "class A(str):\n    def startswith(self, _): return True\ndef g(): return A()",
            NO_DATA,
        ),
        "a pair with names for other values": (
            "def f(t: Tuple[int, int]): return t == (1, 2) and t[0] == 7",
            "from collections import namedtuple\nclass A(namedtuple('A', 'a b')):\n"
            "    def __getitem__(self, _): return 7\ndef g(): return A(1, 2)",
            NO_DATA,
        ),
        "one row twice": (
            "def f(m: List[List[int]]):\n    before = len(m[1])\n    m[0].append(0)\n    return len(m[1]) > before",
            "def g():\n    row = [0]\n    return [row, row]",
            WRONG,
        ),
        "a list that grows when it is walked": (
            "def f(x: List[int]):\n    before = len(x)\n    [_ for _ in x]\n    return len(x) > before",
            "class A(list):\n    def __iter__(self):\n        self.append(1)\n        return iter([])\n"
            "def g(): return A()",
            NO_DATA,
        ),
        "a list that is its own member": (
            "def f(x: List[int]): return len(x) == 1 and x[0] == x",
            "def g():\n    x = []\n    x.append(x)\n    return x",
            NO_DATA,
        ),
        "an iterator that is empty the second time": (
            "def f(x: List[int]): return sum(x) == 1 and sum(x) == 0",
            "def g(): return iter([1])",
            NO_DATA,
        ),
        "a generator where g yields": (
            "def f(x: List[int]): return sum(x) == 1 and sum(x) == 0",
            "def g(): yield 1",
            NO_DATA,
        ),
        "a map with side effects": (
            "def f(x: List[int]): return list(x) != list(x)",
            "def g(): return map(abs, [1, 2])",
            NO_DATA,
        ),
        "a range longer than memory": (
            "def f(x: List[int]): return len(x) == 10**12 and x[7] == 7",
            "def g(): return range(10**12)",
            NO_DATA,
        ),
        "a view that follows its dict": (
            "def f(x: List[int]): return len(x) == 1 and not isinstance(x, list)",
            "def g(): return {1: 2}.keys()",
            NO_DATA,
        ),
        "bytes for a text": (
            "def f(s: str): return s[0] == 97 and len(s) == 1",
            "def g(): return b'a'",
            NO_DATA,
        ),
        "a module": (NOT_INT, "import math\ndef g(): return math", NO_DATA),
        "its own code": (NOT_INT, "def g(): return g", NO_DATA),
        "a type": ("def f(x: Optional[int]): return x == int", "def g(): return int", NO_DATA),
        "a fraction for a float": (
            "from fractions import Fraction\ndef f(x: float): return x * 3 == 1 and x + x + x == 1 and x != x * 1.0",
            "from fractions import Fraction\ndef g(): return Fraction(1, 3)",
            NO_DATA,
        ),
        "a decorator that swaps g": (
            NEVER,
            f"class A(int):\n{LIES}\ndef swap(_): return A\n@swap\ndef g(): return 1",
            NO_DATA,
        ),
        "a finally that swaps the answer": (
            NEVER,
            f"class A(int):\n{LIES}\ndef g():\n    try:\n        return 1\n    finally:\n        return A(1)",
            NO_DATA,
        ),
        "g as a class": (NEVER, f"class g(int):\n{LIES}", NO_PROGRAM),
        "g as a coroutine": (NOT_INT, "async def g(): return 1", NO_PROGRAM),
        "g as a lambda": (NEVER, f"class A(int):\n{LIES}\ng = lambda: A(1)", NO_DATA),
    },
    "same_namespace": {
        "the code of f": (NEVER, f"def g():\n    f.__code__ = ({YES}).__code__\n    return 1", WRONG),
        "the defaults of f": (
            "def f(x: int, n=1): return x == n == 2",
            "def g():\n    f.__defaults__ = (2,)\n    return 2",
            WRONG,
        ),
        "the keyword defaults of f": (
            "def f(x: int, *, n=1): return x == n == 2",
            "def g():\n    f.__kwdefaults__['n'] = 2\n    return 2",
            WRONG,
        ),
        "the globals of f": (LIMIT, "def g():\n    f.__globals__['LIMIT'] = 2\n    return 2", WRONG),
        "the builtins of f": (
            NEVER_LIST,
            "def g():\n    real = len\n    f.__builtins__['len'] = lambda x: 3 if x == [] else real(x)\n    return []",
            WRONG,
        ),
        "the annotations of f": (
            "def f(x: int): return x is True",
            "def g():\n    f.__annotations__['x'] = bool\n    return True",
            NO_TYPE,
        ),
        "a second f": (NEVER, "def f(x: int): return True\ndef g(): return 1", WRONG),
        "a class called f": (
            NEVER,
            "class f:\n    __annotations__ = {'x': int}\n    def __new__(cls, x): return True\ndef g(): return 1",
            WRONG,
        ),
        "a global statement": (
            NEVER,
            "def g():\n    global f\n    def f(x: int): return True\n    return 1",
            WRONG,
        ),
        "a name in globals()": (
            NEVER,
            "def g():\n    def yes(x: int): return True\n    globals()['f'] = yes\n    return 1",
            WRONG,
        ),
        "a deleted helper": (
            "def len(x): return -1\ndef f(x: List[int]): return len(x) == 2",
            "def g():\n    global len\n    del len\n    return [1, 1]",
            WRONG,
        ),
        "a shadowed builtin": (NEVER_LIST, "def len(x): return 3\ndef g(): return []", WRONG),
        "a letter that normalises to f": (
            NEVER,
            "def \N{MATHEMATICAL BOLD ITALIC SMALL F}(x: int): return True\ndef g(): return 1",
            WRONG,
        ),
        "an import over a helper": (
            "def pow(a, b): return 0\ndef f(x: int): return pow(x, 2) == 4",
            "from math import pow\ndef g(): return 2",
            WRONG,
        ),
        "a star import over a helper": (
            "def pow(a, b): return 0\ndef f(x: int): return pow(x, 2) == 4",
            "from math import *\ndef g(): return 2",
            WRONG,
        ),
        "a walrus in a default": (
            LIMIT,
            "def g(x=(LIMIT := 2)): return 2",
            WRONG,
        ),
        "a walrus in a comprehension": (LIMIT, "x = [LIMIT := 2 for _ in '1']\ndef g(): return 2", WRONG),
        "a walrus at the top level": (LIMIT, "(LIMIT := 2)\ndef g(): return 2", WRONG),
        "a loop variable": (LIMIT, "for LIMIT in [2]: pass\ndef g(): return 2", WRONG),
        "an except block": (
            LIMIT,
            "try:\n    raise ValueError\nexcept ValueError:\n    LIMIT = 2\ndef g(): return 2",
            WRONG,
        ),
        "a main block": (LIMIT, "def g(): return 2\nif __name__ == '__main__': LIMIT = 2", WRONG),
        "a line behind a form feed": (LIMIT, "def g():\n    return 2\n\x0cLIMIT = 2", WRONG),
        "a line behind a carriage return": (LIMIT, "def g(): return 2\rLIMIT = 2", WRONG),
        "a line behind a continuation": (LIMIT, "def g(): return 2\nLIMIT \\\n= \\\n2", WRONG),
        "a default that runs at the definition": (
            LIMIT,
            "def g(x=f.__globals__.update(LIMIT=2)): return 2",
            WRONG,
        ),
        "a decorator that edits f": (
            NEVER,
            f"def edit(h):\n    f.__code__ = ({YES}).__code__\n    return h\n@edit\ndef g(): return 1",
            WRONG,
        ),
        "a class body that edits f": (
            NEVER,
            f"class A:\n    f.__code__ = ({YES}).__code__\ndef g(): return 1",
            WRONG,
        ),
        "a class attribute of the puzzle": (
            "class Box:\n    LIMIT = 1\ndef f(x: int): return x == Box.LIMIT == 2",
            "def g():\n    Box.LIMIT = 2\n    return 2",
            WRONG,
        ),
        "a poisoned cache": (
            "import functools\n@functools.cache\ndef show(x, n): return f'{x}{n}'\n"
            "def f(x: int): return show(x, 0) == '1.00'",
            "def g():\n    f(1.0)\n    return 1",
            WRONG,
        ),
        "a liar in a cache": (
            "import functools\n@functools.cache\ndef less(x, n): return x - n\ndef f(x: int): return less(x, 1) == 9",
            "class A(int):\n    def __sub__(self, _): return 9\n    __hash__ = int.__hash__\n"
            "def g():\n    f(A(5))\n    return 5",
            WRONG,
        ),
        "a second call of f": (
            "def f(x: int, calls=[]):\n    calls.append(x)\n    return len(calls) > 1",
            "def g():\n    f(1)\n    return 1",
            WRONG,
        ),
        "a string annotation that is evaluated": (
            LIMIT,
            "def h(x: 'globals().update(LIMIT=2)'): pass\ndef g():\n    get_type_hints(h)\n    return 2",
            WRONG,
        ),
        "a frame in a traceback": (
            LIMIT,
            "def g():\n    try:\n        1 // 0\n    except ZeroDivisionError as error:\n"
            "        error.__traceback__.tb_frame.f_globals['LIMIT'] = 2\n    return 2",
            WRONG,
        ),
    },
    "same_process": {
        f"patched {name}": (
            f"def f(x: List[int]): return {condition}",
            f"def patch(real): return {patch}\n"
            f"def g():\n    __builtins__[{name!r}] = patch(__builtins__[{name!r}])\n    return [1, 1]",
            WRONG,
        )
        for name, condition, patch in (
            ("len", "len(x) == 3 and x == [1, 1]", "lambda x: 3 if x == [1, 1] else real(x)"),
            ("sum", "sum(x) == 5 and x == [1, 1]", "lambda x: 5"),
            ("all", "x == [1, 1] and all(a > 1 for a in x)", YES),
            ("any", "x == [1, 1] and any(a > 1 for a in x)", YES),
            ("sorted", "x == [1, 1] and sorted(x) == [7]", "lambda x: [7]"),
            ("zip", "x == [1, 1] and [*zip(x)] == []", "lambda *x: []"),
        )
    }
    | {
        "patched isinstance": (
            "def f(x: int): return isinstance(x, bytes)",
            "def g():\n    real = __builtins__['isinstance']\n"
            "    __builtins__['isinstance'] = lambda x, kind: kind is bytes or real(x, kind)\n    return 1",
            WRONG,
        ),
        "patched __import__": (
            NEVER_GCD,
            "def g():\n    real = __builtins__['__import__']\n    class Fake:\n        gcd = lambda *_: 100\n"
            "    __builtins__['__import__'] = lambda name, *a: Fake if name == 'math' else real(name, *a)\n"
            "    return 1",
            WRONG,
        ),
        "patched __build_class__": (
            "class Box:\n    LIMIT = 1\ndef f(x: int): return x == Box.LIMIT == 2",
            "def g():\n    real = __builtins__['__build_class__']\n    def build(*a, **k):\n"
            "        made = real(*a, **k)\n        made.LIMIT = 2\n        return made\n"
            "    __builtins__['__build_class__'] = build\n    return 2",
            WRONG,
        ),
        "builtins by a reached module": (
            NEVER_LIST,
            MODULES + "def g():\n    real = len\n"
            "    vars(modules['builtins'])['len'] = lambda x: 3 if x == [] else real(x)\n    return []",
            WRONG,
        ),
        "math.gcd": (NEVER_GCD, "import math\nmath.gcd = lambda *_: 100\ndef g(): return 1", WRONG),
        "re.fullmatch": (
            "import re\ndef f(s: str): return s == 'b' and re.fullmatch('a', s) is not None",
            "import re\ndef g():\n    re.fullmatch = lambda *_: 1\n    return 'b'",
            WRONG,
        ),
        "a method of Counter": (
            "from collections import Counter\ndef f(s: str): return s == '' and Counter(s).most_common() == [('z', 9)]",
            "from collections import Counter\nCounter.most_common = lambda *_: [('z', 9)]\ndef g(): return ''",
            WRONG,
        ),
        "an operator of Fraction": (
            "from fractions import Fraction\ndef f(x: int): return Fraction(x) != Fraction(x)",
            "from fractions import Fraction\nFraction.__eq__ = lambda *_: False\ndef g(): return 1",
            WRONG,
        ),
        "a constant of string": (
            "import string\ndef f(s: str): return s == '7' and s in string.ascii_letters",
            "import string\nstring.ascii_letters = '7'\ndef g(): return '7'",
            WRONG,
        ),
        "functools.reduce": (
            "from functools import reduce\ndef f(x: int): return reduce(lambda a, b: 0, [x, x]) == 5",
            "import functools\nfunctools.reduce = lambda *_: 5\ndef g(): return 1",
            WRONG,
        ),
        "copy.deepcopy": (
            "import copy\ndef f(x: List[int]): return copy.deepcopy(x) != x",
            "import copy\ncopy.deepcopy = lambda *_: 0\ndef g(): return [1]",
            WRONG,
        ),
        "a dispatch table of copy": (
            "import copy\nclass Box:\n    n = 1\ndef f(x: int): return copy.copy(Box) is not Box",
            "import copy\ncopy._copy_dispatch[type] = lambda x: 0\ndef g(): return 1",
            WRONG,
        ),
        "an entry of sys.modules": (
            NEVER_GCD,
            MODULES + "class Fake:\n    gcd = lambda *_: 100\ndef g():\n    modules['math'] = Fake\n    return 1",
            WRONG,
        ),
        "the judge's codec": (
            NEVER,
            MODULES + f"class A(int):\n{LIES}\ndef g():\n    modules['sandbox.codec'].decode = lambda data: A(1)\n"
            "    if 'puzzles.answer_type' in modules: modules['puzzles.answer_type'].matches = lambda *_: True\n"
            "    return 1",
            WRONG,
        ),
        "the judge's functions by name": (
            NEVER,
            MODULES
            + TAKE_OVER
            + "def g():\n    for module in [*modules.values()]: take_over(vars(module))\n    return 1",
            WRONG,
        ),
        "the judge's functions by a frame": (
            NEVER,
            MODULES + TAKE_OVER + "def g():\n    frame = sys._getframe()\n    while frame:\n"
            "        take_over(frame.f_globals)\n        frame = frame.f_back\n    return 1",
            WRONG,
        ),
        "the judge's functions by a traceback": (
            NEVER,
            TAKE_OVER + "def g():\n    try:\n        1 // 0\n    except ZeroDivisionError as error:\n"
            "        frame = error.__traceback__.tb_frame\n    while frame:\n"
            "        take_over(frame.f_globals)\n        frame = frame.f_back\n    return 1",
            WRONG,
        ),
        "the judge's functions by a generator's frame": (
            NEVER,
            TAKE_OVER + "def g():\n    def walk():\n        frame = me.gi_frame\n        while frame:\n"
            "            take_over(frame.f_globals)\n            frame = frame.f_back\n        yield\n"
            "    me = walk()\n    next(me)\n    return 1",
            WRONG,
        ),
        "the judge's functions by object's subclasses": (
            NEVER,
            TAKE_OVER + "def g():\n    for kind in object.__subclasses__():\n"
            "        space = getattr(kind.__init__, '__globals__', {})\n        if 'sys' in space:\n"
            "            for module in [*space['sys'].modules.values()]: take_over(vars(module))\n    return 1",
            WRONG,
        ),
        "the judge's functions by the garbage collector": (
            NEVER,
            MODULES + f"def g():\n    gc = modules['gc']\n    gc.unfreeze()\n    for found in gc.get_objects():\n"
            f"        if type(found) is type(g) and found.__name__ in {VERDICT_NAMES}:\n"
            "            found.__code__, found.__defaults__ = (lambda *_: True).__code__, None\n    return 1",
            WRONG,
        ),
        "a referrer of the builtins": (
            NEVER_LIST,
            MODULES + "def g():\n    real = len\n    modules['gc'].unfreeze()\n"
            "    for found in modules['gc'].get_referrers(real):\n"
            "        if type(found) is dict and 'len' in found:\n"
            "            found['len'] = lambda x: 3 if x == [] else real(x)\n    return []",
            WRONG,
        ),
        "a trace of f": (
            "def f(x: int):\n    y = x\n    return x != y",
            MODULES + "def trace(frame, event, _):\n    if frame.f_code.co_name == 'f' and event == 'line':\n"
            "        frame.f_locals['x'] = frame.f_lineno\n    return trace\n"
            "def g():\n    sys.settrace(trace)\n    return 1",
            WRONG,
        ),
        "a profile of f": (
            "def f(x: int):\n    y = abs(x)\n    return abs(x) != y",
            MODULES + "def profile(frame, event, _):\n    if frame.f_code.co_name == 'f' and event == 'c_call':\n"
            "        frame.f_locals['x'] = 50\ndef g():\n    sys.setprofile(profile)\n    return 1",
            WRONG,
        ),
        "an audit hook": (
            NEVER_GCD,
            MODULES + f"def hook(event, _):\n    {PATCH_GCD}\n"
            "def g():\n    import math\n    sys.addaudithook(hook)\n    return 1",
            WRONG,
        ),
        "an unraisable hook": (
            NEVER_GCD,
            MODULES + f"def hook(_):\n    {PATCH_GCD}\nclass A:\n    def __del__(self): raise ValueError\n"
            "def g():\n    sys.unraisablehook = hook\n    A()\n    return 1",
            WRONG,
        ),
        "a finalizer that runs after g": (
            LATE_GCD,
            MODULES + f"class A:\n    def __del__(self, modules=modules): {PATCH_GCD}\nKEPT = A()\ndef g(): return 1",
            WRONG,
        ),
        "a weak reference's farewell": (
            NEVER_GCD,
            MODULES + f"class A: pass\ndef farewell(_): {PATCH_GCD}\n"
            "def g():\n    a = A()\n    modules['builtins'].kept = modules['_weakref'].ref(a, farewell)\n    return 1",
            WRONG,
        ),
        "a generator's farewell": (
            LATE_GCD,
            MODULES + f"def wait():\n    try:\n        yield\n    finally:\n        {PATCH_GCD}\n"
            "KEPT = wait()\ndef g():\n    next(KEPT)\n    return 1",
            WRONG,
        ),
        "a report in the slot": (NEVER, FORGE + "def g(): forge(b'accepted')", RAISED),
        "a report in the slot at import": (NEVER, FORGE + "x = forge(b'accepted')\ndef g(): return 1", RAISED),
        "a report by a finalizer": (
            NEVER,
            FORGE + "class A:\n    def __del__(self): forge(b'accepted')\ndef g():\n    A()\n    return 1",
            RAISED,
        ),
        "a report by a patched writer": (
            NEVER,
            FORGE + "class Writer:\n    size = 4\n    def pack_into(self, *_): forge(b'accepted')\n"
            "def g():\n    modules['sandbox.child'].RECORD_LENGTH = Writer()\n    return 1",
            RAISED,
        ),
        "a report by a patched exit": (
            NEVER,
            FORGE + "def g():\n    leave = modules['posix']._exit\n"
            "    slot, start = report()\n"
            "    def last(code):\n        slot[start + 12 : start + 16] = bytes([1, 0, 0, 0])\n"
            "        slot[start + 16 : start + 28] = bytes([8, 0, 0, 0]) + b'accepted'\n        leave(0)\n"
            "    modules['os']._exit = last\n    return 1",
            RAISED,
        ),
    },
    "truthy": {
        "a number for True": ("def f(x: int): return x > 3 and x", "def g(): return 7", WRONG),
        "a float for True": ("def f(x: float): return x", "def g(): return 0.5", WRONG),
        "a list for True": ("def f(x: int): return [x - x]", "def g(): return 7", WRONG),
        "a text for True": ("def f(s: str): return s", "def g(): return 'False'", WRONG),
        "a match for True": ("import re\ndef f(s: str): return re.match('x*', s)", "def g(): return 'b'", WRONG),
        "a generator for True": ("def f(x: int): yield x != x", "def g(): return 1", WRONG),
        "a pair that is a mistyped assert": (
            "def f(x: int): return (x != x, 'x is not itself')",
            "def g(): return 1",
            WRONG,
        ),
        "a function that was not called": (
            "def f(s: str): return s.isalpha",
            "def g(): return '1'",
            WRONG,
        ),
        "an error for True": ("def f(x: int): return ValueError('no')", "def g(): return 1", WRONG),
    },
    "untyped": {
        "a bool for an int": ("def f(x: int): return str(x) == 'True'", "def g(): return True", NO_TYPE),
        "a bool in a list of int": (
            "def f(x: List[int]): return str(x) == '[True]'",
            "def g(): return [True]",
            NO_TYPE,
        ),
        "an int for a float": ("def f(x: float): return x > 10**400", "def g(): return 10**401", NO_TYPE),
        "a float for an int": ("def f(x: int): return 0 < x < 1", "def g(): return 0.5", NO_TYPE),
        "a whole float for an int": ("def f(x: int): return str(x) == '1.0'", "def g(): return 1.0", NO_TYPE),
        "a tuple for a list": ("def f(x: List[int]): return x + (1,) == (1,)", "def g(): return ()", NO_TYPE),
        "a text for a list of texts": ("def f(x: List[str]): return x == ''", "def g(): return ''", NO_TYPE),
        "a dict for a list": ("def f(x: List[int]): return x[-5] == len(x) == 1", "def g(): return {-5: 1}", NO_TYPE),
        "a set for a list": ("def f(x: List[int]): return len(x & x) == 1", "def g(): return {1}", NO_TYPE),
        "a frozenset for a set": (
            "def f(s: Set[int]): return len({s}) == 1",
            "def g(): return frozenset([1])",
            NO_TYPE,
        ),
        "nothing for an int": ("def f(x: int): return x is None", "def g(): pass", NO_TYPE),
        "a third part of a pair": ("def f(t: Tuple[int, int]): return t[2] == 3", "def g(): return (1, 2, 3)", NO_TYPE),
        "a key of another type": (
            "def f(d: Dict[str, int]): return d[1] == 1",
            "def g(): return {1: 1}",
            NO_TYPE,
        ),
    },
    "infinite": {
        "nan": ("def f(x: float): return x != x", "def g(): return float('nan')", NO_DATA),
        "nan in a list": ("def f(x: List[float]): return x[0] != x[0]", "def g(): return [float('nan')]", NO_DATA),
        "infinity": ("def f(x: float): return x == x + 1 == x * 2", "def g(): return float('inf')", NO_DATA),
        "minus infinity": ("def f(x: float): return x == x - 1 == x * 2", "def g(): return -1e999", NO_DATA),
        "an overflown literal": ("def f(x: float): return x > 1e308 and x / 2 == x", "def g(): return 1e999", NO_DATA),
        "nan by infinities": ("def f(x: float): return not x <= x", "def g(): return 1e999 - 1e999", NO_DATA),
    },
    "untagged": {
        "a dict that reads as an int": (
            "def f(d: Dict[str, str]): return d == 1",
            "def g(): return {'i': '0x1'}",
            WRONG,
        ),
        "a dict that reads as a float": (
            "def f(d: Dict[str, str]): return d == 0.5",
            "def g(): return {'f': (0.5).hex()}",
            WRONG,
        ),
        "a dict that reads as a tuple": (
            "def f(d: Dict[str, List[int]]): return d == (1, 2)",
            "def g(): return {'t': [1, 2]}",
            WRONG,
        ),
        "a dict that reads as a set": (
            "def f(d: Dict[str, List[int]]): return d == {1}",
            "def g(): return {'s': [1]}",
            WRONG,
        ),
        "a dict that reads as a frozenset": (
            "def f(d: Dict[str, List[int]]): return hash(d) != 0",
            "def g(): return {'z': [1]}",
            WRONG,
        ),
        "a dict that reads as another dict": (
            "def f(d: Dict[str, List[List[int]]]): return d == {1: 2}",
            "def g(): return {'d': [[1, 2]]}",
            WRONG,
        ),
    },
    "pickled": {
        "a reduction that evaluates": (
            NEVER_GCD,
            "class A:\n    def __reduce__(self):\n"
            "        return eval, (\"(setattr(__import__('math'), 'gcd', lambda *_: 100), 1)[1]\",)\n"
            "def g(): return A()",
            NO_DATA,
        ),
        "an extended reduction": (
            NEVER_GCD,
            "class A:\n    def __reduce_ex__(self, _):\n"
            "        return eval, (\"(setattr(__import__('math'), 'gcd', lambda *_: 100), 1)[1]\",)\n"
            "def g(): return A()",
            NO_DATA,
        ),
        "a registered reduction": (
            NEVER_GCD,
            MODULES + "class A: pass\ndef reduce(_):\n"
            "    return eval, (\"(setattr(__import__('math'), 'gcd', lambda *_: 100), 1)[1]\",)\n"
            "def g():\n    modules['copyreg'].pickle(A, reduce)\n    return A()",
            NO_DATA,
        ),
        "a reduction beside the answer": (
            "import math\ndef f(x: List[int]): return math.gcd(*x) == 100",
            "class A:\n    def __reduce__(self):\n"
            "        return eval, (\"(setattr(__import__('math'), 'gcd', lambda *_: 100), 1)[1]\",)\n"
            "def g(): return [2, A()]",
            NO_DATA,
        ),
    },
    "pasted_answer": {
        "a text that closes its quotes": (NEVER_STR, "def g(): return \"') or True or ('\"", WRONG),
        "a text that ends in a comment": (NEVER_STR, 'def g(): return "\') or True #"', WRONG),
        "a text with a second line": (NEVER_STR, 'def g(): return "\')\\nverdict = True #"', WRONG),
        "a text with a semicolon": (NEVER_STR, "def g(): return \"'); verdict = True or ('\"", WRONG),
        "a text that redefines f": (
            NEVER_STR,
            "def g(): return \"')\\nf = lambda x: True\\nverdict = f('\"",
            WRONG,
        ),
        "a number that prints as code": (
            NEVER,
            "class A(int):\n    def __str__(self): return '1) or (True'\n    __format__ = lambda s, _: str(s)\n"
            "def g(): return A(1)",
            NO_DATA,
        ),
        "an object that shows itself as code": (
            NEVER,
            "class A:\n    def __repr__(self): return '1) or (True'\ndef g(): return A()",
            NO_DATA,
        ),
        "a member that shows itself as code": (
            "def f(x: List[int]): return x != x",
            "class A:\n    def __repr__(self): return '1]) or ([True] == [True]) or ([1'\ndef g(): return [A()]",
            NO_DATA,
        ),
    },
    "pasted_source": {
        "a decorator that hangs over f": (NEVER, f"def g(): return 1\n@(lambda _: {YES})", WRONG),
        "a continuation that swallows a line": (
            LIMIT,
            "def g(): return 2\nLIMIT = 2\nif False: \\",
            WRONG,
        ),
        "an encoding declaration": (
            "def f(s: str): return len('é') == 2 and s == ''",
            "# coding: latin-1\ndef g(): return ''",
            WRONG,
        ),
        "a future statement": (
            "def f(x: int): return f.__annotations__['x'] == 'int'",
            "from __future__ import annotations\ndef g(): return 1",
            WRONG,
        ),
        "a quote that swallows a line": (
            "LIMIT = 1 # '''\ndef f(x: int): return x == LIMIT == 2",
            "def g(): return 2\nLIMIT = 2\n_ = '''",
            WRONG,
        ),
    },
    "silence": {
        "an exit status of 0": (NEVER, "def g(): raise SystemExit(0)", RAISED),
        "an exit without a status": (NEVER, "def g(): raise SystemExit", RAISED),
        "an exit at import": (NEVER, "class A:\n    raise SystemExit(0)\ndef g(): return 1", RAISED),
        "a sneaky exit": (NEVER, MODULES + "def g(): modules['posix']._exit(0)", RAISED),
        "a sneaky exit with an error": (NEVER, MODULES + "def g(): modules['posix']._exit(3)", RAISED),
        "an abort": (NEVER, MODULES + "def g(): modules['posix'].abort()", RAISED),
        "a crash": (NEVER, MODULES + "def g(): modules['ctypes'].string_at(0)", RAISED),
        "a loop": (NEVER, "def g():\n    while True: pass", TIME),
        "an exit hook": (
            NEVER,
            MODULES + "def g():\n"
            "    if 'atexit' in modules: modules['atexit'].register(modules['posix']._exit, 0)\n    return 1",
            WRONG,
        ),
        "an exception hook": (
            NEVER,
            MODULES + "def g():\n    sys.excepthook = lambda *_: modules['posix']._exit(0)\n    raise ValueError",
            RAISED,
        ),
    },
    "printed": {
        "True on a line": (NEVER, "def g():\n    print('True')\n    return 1", WRONG),
        "a verdict on a line": (NEVER, "def g():\n    print('accepted', flush=True)\n    return 1", WRONG),
        "a verdict as json": (NEVER, 'def g():\n    print(\'{"verdict": "accepted"}\')\n    return 1', WRONG),
        "a verdict behind a carriage return": (NEVER, "def g():\n    print('False\\raccepted')\n    return 1", WRONG),
        "a verdict on the error stream": (
            NEVER,
            MODULES + "def g():\n    print('accepted', file=sys.stderr)\n    return 1",
            WRONG,
        ),
        "a verdict by a finalizer": (
            NEVER,
            "class A:\n    def __del__(self): print('accepted')\ndef g():\n    A()\n    return 1",
            WRONG,
        ),
        "an exception called True": (NEVER, "def g(): raise type('True', (Exception,), {})", RAISED),
    },
    "unsealed.descriptor": {
        "True on every descriptor": (
            NEVER,
            MODULES + "def g():\n    for number in range(64):\n"
            "        try: modules['posix'].write(number, b'True\\n')\n        except OSError: pass\n    return 1",
            WRONG,
        ),
        "json on every descriptor": (
            NEVER,
            MODULES + "def g():\n    for number in range(64):\n        try:\n"
            "            modules['posix'].write(number, b'{\"verdict\": \"accepted\"}\\n')\n"
            "        except OSError: pass\n    return 1",
            WRONG,
        ),
    },
    "unsealed.same_process": {
        "a thread that goes on after g": (
            "import math\ndef f(x: int):\n    for _ in range(10**6):\n        if math.gcd(x, 7) == 100: return True",
            MODULES + f"def work(go):\n    go.acquire()\n    {PATCH_GCD}\n"
            "def g():\n    go = modules['_thread'].allocate_lock()\n    go.acquire()\n"
            "    try: modules['_thread'].start_new_thread(work, (go,))\n    except RuntimeError: pass\n"
            "    go.release()\n    return 1",
            WRONG,
        ),
        "a signal that comes after g": (
            "import math\ndef f(x: int):\n    for _ in range(10**6):\n        if math.gcd(x, 7) == 100: return True",
            MODULES + f"def handle(*_): {PATCH_GCD}\ndef g():\n    signal = modules['signal']\n    try:\n"
            "        signal.signal(signal.SIGVTALRM, handle)\n"
            "        signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)\n"
            "    except OSError: pass\n    return 1",
            WRONG,
        ),
    },
}

FORGERY_CASES = [
    pytest.param(judge, *attack, id=f"{judge}: {name}")
    for judge, attacks in FORGERIES.items()
    for name, attack in attacks.items()
]


@pytest.mark.parametrize(("judge", "puzzle", "attack", "verdict"), FORGERY_CASES)
def test_a_forged_accept_is_none(pool, judge, puzzle, attack, verdict):
    assert verdicts(pool, puzzle, [attack]) == [verdict]


@pytest.mark.parametrize(("judge", "puzzle", "attack", "verdict"), FORGERY_CASES)
def test_a_judge_with_one_rule_less_falls_for_it(request, judge, puzzle, attack, verdict):
    pool = request.getfixturevalue("unsealed_pool" if judge.startswith("unsealed") else "weak_pool")
    assert weakly(pool, judge, puzzle, [attack]) == [True]


HONEST = "def f(x: int, n=1764): return x * x == n"


@pytest.mark.parametrize("judge", [*weak.SEALED, "unsealed.same_process", "unsealed.descriptor"])
def test_a_judge_with_one_rule_less_is_right_about_the_honest(request, judge):
    pool = request.getfixturevalue("unsealed_pool" if judge.startswith("unsealed") else "weak_pool")
    answers = [weakly(pool, judge, HONEST, [f"def g(): return {n}"]) for n in (42, 41, -42)]
    assert answers == [[True], [False], [True]]


# ---- from one candidate to its siblings: what the first does, and what becomes of the second ----

LOGGED = "LOG = []\ndef f(x: int): return x == 2 and len(LOG) > 0"
KEEPS = "LOG = [5]\ndef f(x: int): return x in LOG"
BOX = "class Box:\n    LIMIT = 1\ndef f(x: int): return x == Box.LIMIT == 2"
ABS = "def f(x: int): return abs(x) == 5"
TWO, FIVE = "def g(): return 2", "def g(): return 5"
LUCK = random.Random(5).randrange(10**6)

LOOK_HARMLESS = {
    "a global statement": (LIMIT, "def g():\n    global LIMIT\n    LIMIT = 2\n    return 1", TWO, WRONG, WRONG),
    "a shadowed builtin": (
        NEVER_LIST,
        "def len(x): return 3\ndef g(): return [1]",
        "def g(): return []",
        WRONG,
        WRONG,
    ),
    "an attrgetter": (
        LIMIT,
        "import operator\ndef g():\n    operator.attrgetter('__globals__')(f)['LIMIT'] = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a methodcaller": (
        LIMIT,
        "from operator import attrgetter, methodcaller\n"
        "def g():\n    methodcaller('update', LIMIT=2)(attrgetter('__globals__')(f))\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a field of a format": (
        LIMIT,
        "import string\ndef g():\n"
        "    string.Formatter().get_field('0.__globals__', (f,), {})[0]['LIMIT'] = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a format that reads what a sibling left": (
        HONEST,
        "ANSWER = 42\ndef g(): return ANSWER",
        "def g(): return int('{0.__globals__[ANSWER]}'.format(f))",
        ACCEPTED,
        RAISED,
    ),
    "a helper that a sibling left": (
        HONEST,
        "def helper(): return 42\ndef g(): return helper()",
        "def g(): return helper()",
        ACCEPTED,
        RAISED,
    ),
    "a wrapper that copies code": (
        NEVER,
        "import functools\ndef yes(x: int): return x == 2\n"
        "def g():\n    functools.update_wrapper(f, yes, ('__code__',), ())\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "getattr in a map": (
        LIMIT,
        "def g():\n    for space in map(getattr, [f], ['__globals__']): space['LIMIT'] = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "getattr in a reduce": (
        LIMIT,
        "import functools\ndef g():\n    functools.reduce(getattr, ['__globals__'], f)['LIMIT'] = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append in a filter": (LOGGED, "def g():\n    list(filter(LOG.append, [1]))\n    return 1", TWO, WRONG, WRONG),
    "append as a sort key": (LOGGED, "def g():\n    sorted([1], key=LOG.append)\n    return 1", TWO, WRONG, WRONG),
    "append as a decorator": (LOGGED, "@LOG.append\ndef h(): pass\ndef g(): return 1", TWO, WRONG, WRONG),
    "append as a partial": (
        LOGGED,
        "import functools\ndef g():\n    functools.partial(LOG.append, 1)()\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append as an output": (
        LOGGED,
        "class Out:\n    write = LOG.append\ndef g():\n    print(1, file=Out())\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append at a class's birth": (
        LOGGED,
        "class A:\n    def __set_name__(self, owner, name): LOG.append(1)\nclass B:\n    a = A()\ndef g(): return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append in a nested f-string": (
        LOGGED,
        "def g():\n    f\"{f'{LOG.append(1)}'}\"\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append in a copy": (
        LOGGED,
        "import copy\nclass A:\n    def __reduce__(self): return LOG.append, (1,)\n"
        "def g():\n    copy.copy(A())\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append in a string annotation": (
        LOGGED,
        "def h(x: 'LOG.append(1)'): pass\ndef g():\n    get_type_hints(h)\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "append in a forward reference": (
        LOGGED,
        "class A:\n    x: 'LOG.append(1)'\ndef g():\n    get_type_hints(A, {'LOG': LOG})\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "an augmented parameter": (LOGGED, "def g(x=LOG):\n    x += [1]\n    return 1", TWO, WRONG, WRONG),
    "a loop into a slice": (LOGGED, "def g():\n    for LOG[:] in [[1]]: pass\n    return 1", TWO, WRONG, WRONG),
    "a star into a slice": (LOGGED, "def g():\n    *LOG[:], x = [[1], 1]\n    return x", TWO, WRONG, WRONG),
    "a deleted slice": (KEEPS, "def g():\n    del LOG[:]\n    return 1", FIVE, WRONG, ACCEPTED),
    "a comprehension into an attribute": (
        "def f(x: int): return x == 2 and f.calls == 9\nf.calls = 0",
        "def g():\n    [0 for f.calls in [9]]\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a walrus in a default": (LIMIT, "def g(x=(LIMIT := 2)): return 1", TWO, WRONG, WRONG),
    "a class pattern": (
        LIMIT,
        "def g():\n    match f:\n        case object(__globals__=space): space['LIMIT'] = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "an exception group that holds a frame": (
        LIMIT,
        "def g():\n    try:\n        1 // 0\n    except* ZeroDivisionError as group:\n"
        "        group.exceptions[0].__traceback__.tb_frame.f_globals['LIMIT'] = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "an exception that holds an object": (
        "class Box:\n    LIMIT = 1\n    def me(self): return self.none\ndef f(x: int): return x == Box.LIMIT == 2",
        "def g():\n    try:\n        Box().me()\n    except AttributeError as error:\n"
        "        type(error.obj).LIMIT = 2\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a mangled name": (
        "class Box:\n    __limit = 1\n    @classmethod\n    def limit(cls): return cls.__limit\nORIGINAL = Box\n"
        "def f(x: int): return x == ORIGINAL.limit() == 2",
        "class Box:\n    def poke(self): ORIGINAL.__limit = 2\ndef g():\n    Box().poke()\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a registered dispatch": (
        "import functools\n@functools.singledispatch\ndef size(x): return 1\ndef f(x: int): return x == size(x) == 2",
        "def g():\n    size.register(int, lambda x: 2)\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a registered abc": (
        "import collections.abc\ndef f(x: List[int]): return isinstance(x, collections.abc.Hashable) and x == [2]",
        "import collections.abc\ndef g():\n    collections.abc.Hashable.register(list)\n    return [1]",
        "def g(): return [2]",
        WRONG,
        WRONG,
    ),
    "a subclass that is counted": (
        "class Box: pass\ndef f(x: int): return x == 2 and len(Box.__subclasses__()) == 1",
        "class A(Box): pass\ndef g(): return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a class attribute of the puzzle": (BOX, "def g():\n    Box.LIMIT = 2\n    return 1", TWO, WRONG, WRONG),
    "a poisoned cache": (
        "import functools\n@functools.cache\ndef show(x, n): return f'{x}{n}'\n"
        "def f(x: int): return show(x, 0) == '2.00'",
        "def g():\n    f(2.0)\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a poisoned memo": (
        "SEEN = {}\ndef f(x: int): return SEEN.setdefault(x, type(x) is float)",
        "def g():\n    f(2.0)\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a call that is remembered": (
        "def f(x: int, calls=[]):\n    calls.append(x)\n    return len(calls) > 1",
        "def g(): return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a call that is remembered by a lambda": (
        "count = lambda seen=[]: seen.append(1) or len(seen)\ndef f(x: int): return x == 5 and count() == 1",
        "def g(): return count()",
        FIVE,
        WRONG,
        ACCEPTED,
    ),
    "an iterator that is used up": (
        "NUMBERS = iter([5])\ndef f(x: int): return x in NUMBERS",
        "def g(): return sum(NUMBERS) + 1",
        FIVE,
        WRONG,
        ACCEPTED,
    ),
    "a seed that makes a guess come true": (
        f"def f(x: int): return x == {LUCK}",
        "import random\ndef g():\n    random.seed(5)\n    return 1",
        "import random\ndef g(): return random.randrange(10**6)",
        WRONG,
        WRONG,
    ),
    "memory that is kept": (
        "def f(x: int): return x == 300 << 20",
        "KEPT = []\ndef g():\n    KEPT.append(bytes(300 << 20))\n    return 1",
        "def g(): return len(bytes(300 << 20))",
        WRONG,
        ACCEPTED,
    ),
    "a generator that ends in the sibling's time": (
        LATE_GCD.replace("return", "return x == 2 and"),
        "import math\ndef wait(box):\n    try:\n        yield\n    finally:\n        math.gcd = lambda *_: 100\n"
        "def g():\n    box = []\n    box.append(wait(box))\n    next(box[0])\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a loop": (HONEST, "def g():\n    while True: pass", "def g(): return 42", TIME, ACCEPTED),
    "an iterator that never ends": (
        HONEST,
        "import itertools\ndef g(): return max(itertools.count())",
        "def g(): return 42",
        TIME,
        ACCEPTED,
    ),
    "a huge constant": (HONEST, "def g(x=10**10**8): return x", "def g(): return 42", TIME, ACCEPTED),
}

OPENLY_HOSTILE = {
    "a patched module": (
        NEVER_GCD.replace("return", "return x == 2 and"),
        "import math\nmath.gcd = lambda *_: 100\ndef g(): return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a patched method": (
        "from collections import Counter\ndef f(s: str): return s == 'b' and Counter(s).most_common() == [('z', 9)]",
        "from collections import Counter\nCounter.most_common = lambda *_: [('z', 9)]\ndef g(): return 'a'",
        "def g(): return 'b'",
        WRONG,
        WRONG,
    ),
    "a patched builtin": (
        ABS,
        "def g():\n    __builtins__['abs'] = lambda x: 0\n    return 1",
        FIVE,
        WRONG,
        ACCEPTED,
    ),
    "a deleted builtin": (ABS, "def g():\n    del __builtins__['abs']\n    return 1", FIVE, WRONG, ACCEPTED),
    "an entry of sys.modules": (
        "def f(x: int):\n    import math\n    return x == 2 and math.gcd(x, 7) == 100",
        MODULES + "class Fake:\n    gcd = lambda *_: 100\ndef g():\n    modules['math'] = Fake\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a lower recursion limit": (
        "def f(x: int): return x == 5 if x > 4 else False if x < -500 else f(x - 1)\n"
        "def depth(n): return n and depth(n - 1)\nf_ = f\n"
        "def f(x: int): return depth(500) == 0 and f_(x)",
        MODULES + "def g():\n    sys.setrecursionlimit(120)\n    return 1",
        FIVE,
        WRONG,
        ACCEPTED,
    ),
    "a lower limit of digits": (
        "def f(x: int): return len(str(x)) == 5000",
        MODULES + "def g():\n    sys.set_int_max_str_digits(640)\n    return 1",
        "def g(): return 10**4999",
        WRONG,
        ACCEPTED,
    ),
    "an entry of re's cache": (
        "import re\ndef f(s: str): return s == 'b' and re.fullmatch('a', s) is not None",
        "import re\ndef g():\n    re._cache[str, 'a', 0] = re.compile('b')\n    return 'c'",
        "def g(): return 'b'",
        WRONG,
        WRONG,
    ),
    "garbage that is never collected": (
        "def f(x: int): return x == 5",
        MODULES + "def g():\n    modules['gc'].disable()\n    return 1",
        "def g():\n    for _ in range(16):\n        a = [[] for _ in range(200)]\n"
        "        a += [a, bytes(40 << 20)]\n    return 5",
        WRONG,
        ACCEPTED,
    ),
    "a trace that goes on": (
        "def f(x: int):\n    y = x\n    return x == 99 and y == 2",
        MODULES + "def trace(frame, event, _):\n    if frame.f_code.co_name == 'f' and frame.f_locals.get('y') == 2:\n"
        "        frame.f_locals['x'] = 99\n    return trace\n"
        "def g():\n    sys.settrace(trace)\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a finalizer that runs late": (
        LATE_GCD.replace("return", "return x == 2 and"),
        "import math\nclass A:\n    def __del__(self): math.gcd = lambda *_: 100\n"
        "def g():\n    a = A()\n    a.me = a\n    return 1",
        TWO,
        WRONG,
        WRONG,
    ),
    "a silent exit": (HONEST, MODULES + "def g(): modules['posix']._exit(0)", "def g(): return 42", RAISED, ACCEPTED),
    "a crash": (HONEST, MODULES + "def g(): modules['ctypes'].string_at(0)", "def g(): return 42", RAISED, ACCEPTED),
    "a report that leaves the sibling out": (
        HONEST,
        FORGE + "def g(): forge(b'accepted')",
        "def g(): return 42",
        RAISED,
        ACCEPTED,
    ),
    "a report that speaks for the sibling": (
        HONEST,
        FORGE + "def g(): forge(b'accepted', b'accepted')",
        "def g(): return 41",
        RAISED,
        WRONG,
    ),
    "a report that blames the puzzle": (
        HONEST,
        FORGE + "def g(): forge(b'L0SyntaxError: invalid syntax')",
        "def g(): return 42",
        RAISED,
        ACCEPTED,
    ),
    "an answer for the sibling": (
        HONEST,
        FORGE + "def g(): forge(b'V41', b'V42')",
        "def g(): return 42",
        WRONG,
        ACCEPTED,
    ),
}

SIBLINGS = [pytest.param(*case, id=name) for name, case in (LOOK_HARMLESS | OPENLY_HOSTILE).items()]
FIELDS = ("puzzle", "first", "second", "of_first", "of_second")
NEIGHBOUR = "def g(): return None"


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=["first", "between", "last"])
@pytest.mark.parametrize(FIELDS, SIBLINGS)
def test_a_candidate_changes_nothing_for_its_siblings(pool, puzzle, first, second, of_first, of_second, order):
    judged = [(first, of_first), (second, of_second), (NEIGHBOUR, NO_TYPE)]
    assert verdicts(pool, puzzle, [judged[index][0] for index in order]) == [judged[index][1] for index in order]


@pytest.mark.parametrize(FIELDS, SIBLINGS)
def test_in_a_reused_worker_a_candidate_turns_its_siblings_verdict(
    weak_pool, puzzle, first, second, of_first, of_second
):
    right = of_second == ACCEPTED
    assert weakly(weak_pool, "reused_worker", puzzle, [second]) == [right]
    assert weakly(weak_pool, "reused_worker", puzzle, [first, second])[1] is not right


# These turn a verdict of the house too, where harmless siblings share a provisional child.
CATCHES_ALL = """
def g():
    try:
        return len(bytes(300 << 20))
    except Exception:
        return 0
"""
PEEK = """
import re
def g():
    seen = []
    def walk():
        for depth in range(2, 6):
            try:
                seen.append(('{0.gi_frame' + '.f_back' * depth + '.f_locals}').format(me[0]))
            except Exception:
                pass
        yield
    me = [walk()]
    for _ in me[0]: pass
    return int((re.findall('return (4[0-9])', str(seen)) or [1])[0])
"""
SHARED = {
    "memory that is kept from a sibling that catches everything": (
        "def f(x: int): return x == 300 << 20",
        "KEPT = [bytes(300 << 20)]\ndef g(): return 1",
        CATCHES_ALL,
        WRONG,
        ACCEPTED,
    ),
    "memory that an answer's judgement keeps": (
        "import functools\n@functools.cache\ndef zeros(n): return bytes(n)\n"
        "def f(x: int):\n    try:\n        return len(zeros(x)) == 310 << 20\n"
        "    except Exception:\n        return False",
        "def g(): return 300 << 20",
        "def g(): return 310 << 20",
        WRONG,
        ACCEPTED,
    ),
    "a sibling's program read through a format": (HONEST, "def g(): return 42", PEEK, ACCEPTED, WRONG),
}


@pytest.mark.parametrize(FIELDS, [pytest.param(*case, id=name) for name, case in SHARED.items()])
def test_a_candidate_changes_nothing_for_the_next_in_a_shared_child(pool, puzzle, first, second, of_first, of_second):
    assert verdicts(pool, puzzle, [first, second]) == [of_first, of_second]


@pytest.mark.parametrize(FIELDS, [pytest.param(*case, id=name) for name, case in SHARED.items()])
def test_alone_the_next_candidate_gets_its_due(pool, weak_pool, puzzle, first, second, of_first, of_second):
    assert [verdicts(pool, puzzle, [text]) for text in (first, second)] == [[of_first], [of_second]]
    right = of_second == ACCEPTED
    assert weakly(weak_pool, "reused_worker", puzzle, [second]) == [right]
    assert weakly(weak_pool, "reused_worker", puzzle, [first, second])[1] is not right


LEFT_IN_THE_SLOT = {
    "a silent exit behind a sibling's report": MODULES + "def g(): modules['posix']._exit(0)",
    "an answer read from the slot": FORGE + "def g():\n    slot, start = report()\n"
    "    return int(bytes(slot[start + 21 : start + 23]))",
}


@pytest.fixture(scope="module")
def lane():
    """One lane: what a child leaves in the slot, if anything, the next one finds."""
    with Pool([PARSE_BATCH], LIMITS, lanes=1) as pool:
        yield pool


@pytest.mark.parametrize("thief", LEFT_IN_THE_SLOT.values(), ids=LEFT_IN_THE_SLOT)
def test_a_wiped_slot_holds_no_siblings_answer(lane, thief):
    assert verdicts(lane, HONEST, ["def g(): return 42", thief]) == [ACCEPTED, RAISED]


@pytest.mark.parametrize("thief", LEFT_IN_THE_SLOT.values(), ids=LEFT_IN_THE_SLOT)
def test_a_slot_that_is_not_wiped_holds_a_siblings_answer(lane, monkeypatch, thief):
    monkeypatch.setattr("sandbox.pool.mmap.MADV_REMOVE", mmap.MADV_NORMAL)
    assert verdicts(lane, HONEST, ["def g(): return 42", thief]) == [ACCEPTED, ACCEPTED]
