"""Hostile and defective puzzles: what stops each of them, and that it works where just that is switched off.

A puzzle is its own authority: it may accept whatever it likes. What it may not do is to be admitted
while it is trivial, to have another puzzle's answer accepted, to be accepted by anything but an
exact True, or to say yes in one world only.

Every attack stands in one table, named for the defence that stops it. Two tests read each table:
the product stops the attack, and the same text works against the weak version of that defence,
which is put together here from the product's own parts.
"""

import ast
import sys

import pytest
from reaching import MODULES, REPORT_FRAME

from puzzles import answer_type, verify
from puzzles.parse import PARSE_BATCH, ParseFailure, Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Puzzle, Verdict
from puzzles.verify import CONFIRM_WORLD, JUDGE_WORLD, admit, judge_answers, judge_once, truth_pool, verify_texts
from sandbox import child, codec, selfcheck
from sandbox.pool import PURE_MODULES, RUN_PROGRAM, Job, Pool
from sandbox.result import Limits, Status

LIMITS = Limits(cpu_seconds=0.4, wall_seconds=0.8, memory_bytes=256 * 1024**2)
TIGHT = Limits(cpu_seconds=0.1, wall_seconds=0.4, memory_bytes=256 * 1024**2)
LARGE = Limits(cpu_seconds=8, wall_seconds=8)

# Modules that programs reach although they cannot import them.
REACH = (
    MODULES
    + REPORT_FRAME
    + """
def forge(record, count=1):
    slot, start = report_frame()["slot"], report_frame()["start"]
    forged = len(record).to_bytes(4, "little") + record
    forged = b"records\\0" + b"".join(word.to_bytes(4, "little") for word in (1, count)) + forged * count
    slot[start : start + len(forged)] = forged
    modules["posix"]._exit(0)
"""
)


@pytest.fixture(scope="module")
def pool():
    with truth_pool(LIMITS, lanes=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def lane():
    """One lane has one zygote per world: its addresses are the same for every job of that world."""
    with truth_pool(LIMITS, lanes=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def tight():
    with truth_pool(TIGHT, lanes=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def large():
    with truth_pool(LARGE, lanes=1) as pool:
        yield pool


WEAK_JOBS = '''
import builtins
import typing

from sandbox import child, codec


def reused(payload):
    """A worker that keeps its programs, and judges one puzzle after the other."""
    loaded = {}
    blobs = child.unpack(payload)
    for source, answer in zip(blobs[::2], blobs[1::2]):
        try:
            if source not in loaded:
                loaded[source] = {**{name: getattr(typing, name) for name in typing.__all__}, "__builtins__": builtins}
                exec(source, loaded[source])
            yield b"V" + codec.encode(loaded[source]["f"](*codec.decode(answer)), 1000)
        except Exception as error:
            yield b"E" + repr(error).encode()
'''
UNSEALED = """
import resource
import uuid
from sandbox import confine

confine.seal = confine._landlock_everything = lambda: None
resource.setrlimit = lambda *_: None


def job(payload):
    yield payload
"""
CREDULOUS = """
from sandbox import child, codec

output, encode = [], codec.encode
child.Sink.write = lambda self, text: output.append(text) or len(text)
codec.encode = lambda value, limit: b"true" if "accepted" in "".join(output) else encode(value, limit)


def job(payload):
    yield payload
"""


@pytest.fixture(scope="module")
def weak_package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weak")
    package = folder / "weak_judges"
    package.mkdir()
    for name, text in {"__init__": "", "jobs": WEAK_JOBS, "unsealed": UNSEALED, "credulous": CREDULOUS}.items():
        (package / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    yield "weak_judges"
    sys.path.remove(str(folder))
    sys.modules.pop("weak_judges", None)


@pytest.fixture(scope="module")
def worker(weak_package):
    with Pool([PARSE_BATCH, f"{weak_package}.jobs:reused"], LIMITS, lanes=1) as pool:
        yield pool


def patched_pool(package, name, *modules):
    """A pool whose zygotes all load a module that patches the sandbox."""
    functions = [PARSE_BATCH, f"{package}.{name}:job"]
    return Pool(functions, LARGE, lanes=1, modules=[*PURE_MODULES, "random", *modules, f"{package}.{name}"])


@pytest.fixture(scope="module")
def unsealed(weak_package, pool):
    if selfcheck.check(pool).layers["namespaces"] != "on":
        pytest.skip("the attacks are tried for real: not outside an empty root")
    with patched_pool(weak_package, "unsealed", "time", "uuid") as unsealed:
        yield unsealed


@pytest.fixture(scope="module")
def credulous(weak_package):
    with patched_pool(weak_package, "credulous") as pool:
        yield pool


def puzzle(pool, text):
    (parsed,) = parse_puzzles(pool, [Text(text)])
    assert isinstance(parsed, Puzzle), parsed
    return parsed


def candidate(pool, text):
    (parsed,) = parse_candidates(pool, [Text(text)])
    return parsed


def unparsed(text, declared="int"):
    """The puzzle that a text would be if no rule were asked."""
    return Puzzle(text, declared, "def g():", "id", "skeleton", frozenset())


def encoded(value):
    return codec.encode(value, LIMITS.answer_bytes)


def says_yes(pool, asked, value):
    """Whether the judge accepts an answer, by all of its rules."""
    return judge_answers(pool, [(asked, encoded(value))])[0].verdict == Verdict.ACCEPTED


def table(cases):
    return {"argvalues": list(cases.values()), "ids": list(cases)}


# ---- admission: trivial answers ----

TRIVIAL = {
    "True": ("def f(x: int): return True", 0),
    "every integer": ("def f(x: int): return isinstance(x, int)", 0),
    "every list": ("def f(x: List[int]): return x == list(x)", []),
    "all but one": ("def f(x: int): return x != 12345", 0),
    "zero": ("def f(x: int): return not x", 0),
    "the negative one": ("def f(x: int, n=-1): return x == n", -1),
    "the default": ("def f(x: int, n=10): return x == n", 10),
    "a threshold": ("def f(x: int): return x > 50", 100),
    "zero as float": ("def f(x: float): return x * 7 == x", 0.0),
    "empty text": ("def f(s: str): return s == s.strip() and len(s) < 1", ""),
    "a blank": ("def f(s: str): return s != '' and s.isspace()", " "),
    "empty list": ("def f(x: List[int]): return all(a > 10**9 for a in x)", []),
    "a pair of equals": ("def f(x: List[str]): return len(x) == 2 and len(set(x)) == 1", ["", ""]),
    "one two three": ("def f(x: List[int]): return x == sorted(x) and len(x) == 3", [1, 2, 3]),
    "empty list in a list": ("def f(x: List[List[int]]): return sum(map(len, x)) == 0 and len(x) == 1", [[]]),
    "empty dict": ("def f(d: Dict[str, int]): return all(v > 1 for v in d.values())", {}),
    "empty set": ("def f(s: Set[int]): return s < {5}", set()),
    "None": ("def f(x: Optional[int]): return x is None", None),
    "tuple of zeros": ("def f(t: Tuple[int, int]): return t[0] == t[1]", (0, 0)),
    "f rebound": ("def f(x: int): return x == 777\nf = lambda x: True", 0),
    "f rebound to a class": (
        "def f(x: int): return x == 777\nclass f:\n    def __new__(cls, x): return True",
        0,
    ),
    "f rebound to an object": (
        "class Yes:\n    def __call__(self, x): return True\ndef f(x: int): return x == 777\nf = Yes()",
        0,
    ),
    "two definitions": ("def f(x: int): return x == 777\ndef f(x: int): return True", 0),
    "a decorator": ("def yes(_): return lambda x: True\n@yes\ndef f(x: int): return x == 777", 0),
    "a default with a side effect": (
        "def f(x: int, n=__builtins__.update(int=lambda *_: 777)): return int(x) == 777",
        0,
    ),
    "an annotation with a side effect": (
        "class List:\n"
        "    def __class_getitem__(cls, item):\n"
        "        globals()['wanted'] = []\n"
        "        return cls\n"
        "wanted = [777]\n"
        "def f(x: List[int]): return x == wanted",
        [],
    ),
    "a patched builtin": ("__builtins__['sum'] = lambda x: 777\ndef f(x: List[int]): return sum(x) == 777", []),
    "a patched codec": (
        REACH + "def f(x: int): modules['sandbox.codec'].encode = lambda *_: b'true'",
        0,
    ),
    "memory for the first": ("def f(x: int): return x != 0 or len(bytearray(1 << 40)) < 1", 1),
    "an exception for the first": ("def f(x: int): return x // x == 1", 1),
    "a forged report": (REACH + "def f(x: int): forge(b'Vtrue', count=1 if report_frame()['count'] else 6)", 0),
}


@pytest.mark.parametrize(("text", "answer"), **table(TRIVIAL))
def test_a_puzzle_that_accepts_a_trivial_answer_is_refused(pool, text, answer):
    (refusal,) = admit(pool, [puzzle(pool, text)])
    assert (refusal.reason, refusal.detail) == ("trivial", f"{codec.literal(answer)} is accepted")


@pytest.mark.parametrize(("text", "answer"), **table(TRIVIAL))
def test_it_is_admitted_and_solved_where_no_trivial_answer_is_tried(pool, monkeypatch, text, answer):
    asked = puzzle(pool, text)
    monkeypatch.setattr(answer_type, "trivial_answers", lambda _: [])
    assert admit(pool, [asked]) == [None]
    assert says_yes(pool, asked, answer)


# ---- admission: a report on every trivial answer ----

SILENT = {
    "hangs": "while True: pass",
    "hangs in C": "max(iter(int, 1))",
    "backtracks": "import re; re.match('(a+)+$', 'a' * 60 + 'b')",
    "leaves with status 0": "modules['posix']._exit(0)",
    "leaves with status 1": "modules['posix']._exit(1)",
    "crashes": "modules['ctypes'].string_at(0)",
    "forges no record": "forge(b'', count=0)",
    "forges one no": "forge(b'Vfalse', count=1)",
    "waits for ever": "lock = modules['_thread'].allocate_lock(); lock.acquire(); lock.acquire()",
}


def silent(body):
    """Trivial but for the first trivial answer, which never comes to a report."""
    return REACH + f"def f(x: int):\n    if x == 0:\n        {body}\n    return True"


def admitted_by_what_was_reported(pool, asked):
    """Admission without the rule that each world's report is whole: no accept among the records, no refusal."""
    answers = [encoded(answer) for answer in answer_type.trivial_answers(asked.answer_type)]
    calls = [b"[" + answer + b"]" for answer in answers]
    payload = child.program([asked.source], "f", calls, LIMITS.answer_bytes)
    (result,) = pool.run([Job(RUN_PROGRAM, payload, JUDGE_WORLD)])
    return b"Vtrue" not in result.records or result.status != Status.FINISHED


@pytest.mark.parametrize("body", **table(SILENT))
def test_a_puzzle_that_cuts_its_report_on_trivial_answers_short_is_refused(pool, body):
    (refusal,) = admit(pool, [puzzle(pool, silent(body))])
    assert refusal.reason == "too_slow"


@pytest.mark.parametrize("body", **table(SILENT))
def test_it_is_admitted_and_solved_where_only_what_was_reported_counts(pool, body):
    asked = puzzle(pool, silent(body))
    assert admitted_by_what_was_reported(pool, asked)
    assert says_yes(pool, asked, 1)


# ---- admission: what is imported, and what is asked for ----

STATIC = {
    "random": ("import random\ndef f(x: int): return x == 777 + random.getrandbits(1)", "import"),
    "from random": ("from random import random\ndef f(x: int): return x == 777 + (random() < 0.5)", "import"),
    "random inside f": ("def f(x: int):\n    import random\n    return x == 777 + random.getrandbits(1)", "import"),
    "a clock": ("import math, time\ndef f(x: int): return x == time.time()", "import"),
    "a clock by another name": ("import time as math\ndef f(x: int): return x == math.time()", "import"),
    "a universal identifier": ("from uuid import uuid4\ndef f(x: int): return x == uuid4()", "import"),
    "a bool": ("def f(x: bool): return x", "bool_answer"),
    "a quoted bool": ("def f(x: 'bool'): return not x", "bool_answer"),
}


@pytest.mark.parametrize(("text", "reason"), **table(STATIC))
def test_a_puzzle_that_is_not_pure_is_refused(pool, text, reason):
    (refusal,) = admit(pool, [puzzle(pool, text)])
    assert refusal.reason == reason


@pytest.mark.parametrize(("text", "reason"), **table(STATIC))
def test_it_is_admitted_where_the_pure_list_is_widened(unsealed, monkeypatch, text, reason):
    asked = puzzle(unsealed, text)
    monkeypatch.setattr(verify, "PURE_MODULES", (*PURE_MODULES, "random", "time", "uuid"))
    if reason == "bool_answer":
        monkeypatch.setattr(verify, "_static_refusal", lambda _: None)
        monkeypatch.setattr(answer_type, "trivial_answers", lambda _: [])
    assert admit(unsealed, [asked]) == [None]


@pytest.mark.parametrize("name", ["os", "time", "subprocess", "ctypes", "socket", "_io", "sandbox.codec", "puzzles"])
def test_an_impure_module_is_not_there_however_it_is_asked_for(pool, unsealed, name):
    """The second pool's list holds `time`: there the puzzle accepts."""
    asked = (
        f"def f(x: int):\n    try:\n        return bool(__import__('{name}'))\n    except ImportError:\n        pass"
    )
    assert not says_yes(pool, puzzle(pool, asked), 1)
    assert says_yes(unsealed, puzzle(unsealed, asked), 1) == (name == "time")


def test_a_module_that_is_asked_for_by_a_call_is_an_import_too(pool):
    (refusal,) = admit(pool, [puzzle(pool, "def f(x: int): return x == __import__('math').gcd(8000, 12000)")])
    assert (refusal.reason, refusal.detail[:26]) == ("import", "__import__ is not one of m")


def test_a_relative_import_loads_nothing(pool):
    (judgement,) = verify_texts(
        pool, [("from . import verify\ndef f(x: int): return bool(verify)", "def g(): return 1")]
    )
    assert judgement.verdict == Verdict.INVALID_PUZZLE
    (refusal,) = admit(pool, [puzzle(pool, "from . import verify\ndef f(x: int): return bool(verify)")])
    assert refusal.reason == "import"


# ---- admission: three worlds ----

WAVERING = {
    "hash of a text": "hash(str(n)) & 1",
    "order of a set": "list({'a', 'b', str(n)})[0] == 'a'",
    "a draw": "(r := cast.__globals__['sys'].modules['random']).Random(r.getstate()[1][1] + n).random() < 0.5",
    "an address": "id(int) // 4096 % (2 * n + 1009) & 1",
}


def salt(pool, text, answer, first, second, said=b"true"):
    """A number with which a puzzle says something of an answer in one world and something else in another."""
    for n in range(200):
        asked = [(puzzle(pool, text(n)), encoded(answer))]
        one, other = (judge_once(pool, asked, world)[0] for world in (first, second))
        assert one.tag == other.tag == child.VALUE, (one, other)
        if one.content == said != other.content:
            return n
    raise AssertionError("the worlds agree")


def wavering(expression):
    """Canonical texts, by a number, of a puzzle that rejects everything in one of two ways."""
    return lambda n: ast.unparse(ast.parse(f"def f(x: int, n={n}): return 0 if {expression} else None"))


def accepting(expression):
    """Texts, by a number, of a puzzle that accepts 777 where an expression of that number is true."""
    return lambda n: REACH + f"import random\ndef f(x: int, n={n}):\n    return x == 777 and bool({expression})"


@pytest.mark.parametrize("expression", **table(WAVERING))
def test_a_puzzle_on_whose_rejections_the_worlds_disagree_is_refused(lane, expression):
    n = salt(lane, wavering(expression), 0, JUDGE_WORLD, CONFIRM_WORLD, b"0")
    (refusal,) = admit(lane, [puzzle(lane, wavering(expression)(n))])
    assert refusal.reason == "unstable"


@pytest.mark.parametrize("expression", **table(WAVERING))
def test_it_is_admitted_where_one_world_is_asked(lane, monkeypatch, expression):
    n = salt(lane, wavering(expression), 0, JUDGE_WORLD, CONFIRM_WORLD, b"0")
    monkeypatch.setattr(verify, "WORLDS", (JUDGE_WORLD,))
    assert admit(lane, [puzzle(lane, wavering(expression)(n))]) == [None]


# ---- judging: an exact True and nothing else ----

TRUTHY = {
    "one": "return 1",
    "one as float": "return 1.0",
    "text": "return 'True'",
    "encoded true": "return b'true'",
    "list": "return [True]",
    "tuple": "return True,",
    "dict": "return {'verdict': True}",
    "ellipsis": "return ...",
    "not implemented": "return NotImplemented",
    "itself": "return f",
    "object": "return object()",
    "generator": "yield True",
    "empty generator": "return (n for n in ())",
    "lambda": "return lambda: True",
    "lying object": "return type('A', (), dict.fromkeys(['__bool__', '__eq__'], lambda *_: True))()",
    "integer of another class": "return type('bool', (int,), {})(1)",
    "exception": "return ValueError(True)",
    "class": "return bool",
    "coroutine": "async def yes(): return True\n    return yes()",
}


def truth(outcome):
    """The weak judge of truth instead of identity: an object that is not plain data counts as true."""
    if outcome.tag == child.VALUE:
        return bool(codec.decode(outcome.content))
    return outcome.tag == child.UNANSWERABLE


@pytest.mark.parametrize("body", **table(TRUTHY))
def test_what_is_merely_truthy_is_not_accepted(pool, body):
    (judgement,) = verify_texts(pool, [(f"def f(x: int):\n    {body}", "def g(): return 1")])
    assert judgement.verdict == Verdict.WRONG_ANSWER


@pytest.mark.parametrize("body", **table(TRUTHY))
def test_it_is_accepted_where_truth_counts(pool, body):
    (outcome,) = judge_once(pool, [(puzzle(pool, f"def f(x: int):\n    {body}"), b"1")], JUDGE_WORLD)
    assert truth(outcome)


# ---- judging: what is no evidence ----

EVIDENCE = {
    "an early exit": "modules['posix']._exit(0)",
    "an early exit after a no": "modules['posix']._exit(0 if x else 1)",
    "SystemExit": "raise SystemExit",
    "SystemExit(0)": "raise SystemExit(0)",
    "GeneratorExit": "raise type('SystemExit', (GeneratorExit,), {})",
    "an exception that says so": "raise Exception('accepted')",
    "an exception named so": "raise type('accepted', (Exception,), {})",
    "printing": "print('accepted')",
    "printing as JSON": 'print(\'{"verdict": "accepted"}\', flush=True)',
    "writing to the output": "sys.stdout.write('accepted')",
    "writing to the errors": "sys.stderr.write('accepted')",
}


def evidence(outcome):
    """The weak judge of exit statuses and exceptions."""
    return (
        outcome.detail.endswith("exit status 0") or b"SystemExit" in outcome.content or b"accepted" in outcome.content
    )


@pytest.mark.parametrize("body", **table(EVIDENCE))
def test_exits_and_exceptions_and_output_are_no_evidence(pool, body):
    (judgement,) = verify_texts(pool, [(REACH + f"def f(x: int):\n    {body}", "def g(): return 1")])
    assert judgement.verdict == Verdict.WRONG_ANSWER


@pytest.mark.parametrize("body", **table(EVIDENCE))
def test_they_are_where_they_are_believed(pool, credulous, body):
    asked = puzzle(pool, REACH + f"def f(x: int):\n    {body}")
    (outcome,) = judge_once(pool, [(asked, b"1")], JUDGE_WORLD)
    assert evidence(outcome) or says_yes(credulous, asked, 1)


# ---- parsing: the rules ----

MALFORMED = {
    "starred": ("def f(*x): return True", "no_parameter"),
    "answer and starred": ("def f(x: int, *rest): return True", "starred_parameter"),
    "starred keywords": ("def f(x: int, **rest): return True", "starred_parameter"),
    "no type": ("def f(x): return True", "no_annotation"),
    "any type": ("def f(x: Any): return True", "answer_type"),
    "object": ("def f(x: object): return True", "answer_type"),
    "a union": ("def f(x: int | str): return True", "answer_type"),
    "bytes": ("def f(x: bytes): return True", "answer_type"),
    "a type that is computed": ("def f(x: [int, str][0]): return True", "answer_type"),
    "a type that prints": ("def f(x: print('accepted') or int): return True", "answer_type"),
    "a type that is named while it is read": ("def f(x: (int := str)): return True", "answer_type"),
    "a type with a condition": ("n = 1\ndef f(x: int if n else str): return True", "answer_type"),
    "a quoted type that is code": ("def f(x: 'print(1)'): return True", "answer_type"),
    "a type of types": ("def f(x: " + "List[" * 40 + "int" + "]" * 40 + "): return True", "answer_type"),
    "lambda": ("f = lambda x: True", "no_function"),
    "callable class": ("class f:\n    def __new__(cls, x): return True", "no_function"),
    "callable object": ("class F:\n    def __call__(self, x): return True\nf = F()", "no_function"),
    "in globals": ("a = globals().__setitem__('f', lambda x: True)", "no_function"),
    "under a condition": ("if True:\n    def f(x: int): return True", "no_function"),
    "in a try": ("try:\n    def f(x: int): return True\nfinally:\n    pass", "no_function"),
    "in a loop": ("for n in range(1):\n    def f(x: int): return True", "no_function"),
    "exec": ("exec('def f(x: int): return True')", "no_function"),
}


@pytest.mark.parametrize(("text", "rule"), **table(MALFORMED))
def test_a_malformed_puzzle_is_refused_by_its_text(pool, text, rule):
    (failure,) = parse_puzzles(pool, [Text(text)])
    assert isinstance(failure, ParseFailure), failure
    assert failure.rule == rule
    assert verify_texts(pool, [(text, "def g(): return 1")])[0].verdict == Verdict.INVALID_PUZZLE


@pytest.mark.parametrize(("text", "rule"), **table(MALFORMED))
def test_it_accepts_everything_where_the_text_runs_as_it_is(pool, text, rule):
    assert says_yes(pool, unparsed(text), 1)


TOP_LEVEL = {
    "deleted": ("def f(x: int): return x == 7\ndef h(): pass\ndel h", ""),
    "a call": ("def f(x: int): return x == 7\nprint('accepted')", ""),
    "an exit": ("def f(x: int): return x == 7\nexit(0)", ""),
    "an assertion": ("assert False\ndef f(x: int): return x == 7", ""),
    "an augmented assignment": ("n = 6\nn += 1\ndef f(x: int): return x == n", "n = 6\nn += 1\n"),
    "a name while it is computed": ("(n := 7)\ndef f(x: int): return x == n", "(n := 7)\n"),
    "a loop": ("for n in range(8): pass\ndef f(x: int): return x == n", "for n in range(8):\n    pass\n"),
}


@pytest.mark.parametrize(("text", "kept"), **table(TOP_LEVEL))
def test_statements_of_the_top_level_that_a_puzzle_does_not_need_are_not_run(pool, text, kept):
    asked = puzzle(pool, text)
    assert asked.source.startswith(kept)
    assert ("n" if kept else "7") in asked.source
    assert not any(word in asked.source for word in ("del ", "print", "exit", "assert"))
    assert admit(pool, [asked]) == [None]
    judgements = verify_texts(pool, [(text, "def g(): return 7"), (text, "def g(): return 8")])
    assert [judgement.verdict for judgement in judgements] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER]


DEFECTIVE = {
    "no parameter": ("def f(): return True", "no_parameter"),
    "keyword-only": ("def f(*, x: int): return True", "no_parameter"),
    "a second required parameter": ("def f(x: int, y: int): return True", "required_parameter"),
    "a required keyword": ("def f(x: int, *, y): return True", "required_parameter"),
    "asynchronous": ("async def f(x: int): return True", "asynchronous"),
    "no code": ("", "no_function"),
    "a question": ("what is the answer?", "syntax"),
    "tabs and blanks": ("def f(x: int):\n\treturn True\n        return True", "syntax"),
    "a null byte": ("def f(x: int): return True\0", "syntax"),
}


@pytest.mark.parametrize(("text", "rule"), **table(DEFECTIVE))
def test_a_puzzle_that_cannot_be_asked_is_refused_by_its_text(pool, text, rule):
    (failure,) = parse_puzzles(pool, [Text(text)])
    assert failure.rule == rule
    assert judge_answers(pool, [(unparsed(text), b"1")])[0].verdict != Verdict.ACCEPTED


def test_a_type_is_read_from_the_text_and_not_from_what_a_name_means(pool):
    shadowed = "int = str\ndef f(x: int): return True"
    judgements = verify_texts(pool, [(shadowed, "def g(): return 1"), (shadowed, "def g(): return '1'")])
    assert [judgement.verdict for judgement in judgements] == [Verdict.ACCEPTED, Verdict.WRONG_TYPE]


@pytest.mark.parametrize(
    "text",
    [
        "def f(x: int, /): return x == 777",
        "def f(x: 'int', n=3, *, m=4): return x == 777",
        "def f(x: int = 5): return x == 777",
        "N: int = 777\ndef f(x: int): return x == N",
        "@(lambda function: function)\ndef f(x: int): return x == 777",
        "def f(x: int):\n    '''Accepts 777.'''\n    return x == 777",
    ],
    ids=["positional-only", "quoted type", "default", "constant", "decorator", "docstring"],
)
def test_an_unusual_but_sound_definition_is_a_puzzle(pool, text):
    assert admit(pool, [puzzle(pool, text)]) == [None]
    judgements = verify_texts(pool, [(text, "def g(): return 777"), (text, "def g(): return 776")])
    assert [judgement.verdict for judgement in judgements] == [Verdict.ACCEPTED, Verdict.WRONG_ANSWER]


# ---- parsing: bombs ----

BOMBS = {
    "signs": "def f(x: int): return " + "-" * 30_000 + "1",
    "negations": "def f(x: int): return " + "not " * 10_000 + "x",
    "attributes": "def f(x: int): return x" + ".a" * 20_000,
    "calls": "def f(x: int): return x" + "()" * 20_000,
    "items": "def f(x: int): return x" + "[0]" * 10_000,
    "sums": "def f(x: int): return x" + "+1" * 20_000,
    "conditions": "def f(x: int): return " + "1 if x else " * 4_000 + "2",
    "lambdas": "def f(x: int): return " + "lambda: " * 6_000 + "x",
}


@pytest.mark.parametrize("text", **table(BOMBS))
def test_a_text_that_exhausts_the_parser_is_refused(pool, text):
    (failure, _) = parse_puzzles(pool, [Text(text), Text("def f(x: int): return x == 777")])
    assert failure.rule == "too_complex"


@pytest.mark.parametrize("text", **table(BOMBS))
def test_it_breaks_whoever_parses_it_at_home(text):
    with pytest.raises((RecursionError, MemoryError)):
        ast.unparse(ast.parse(text))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("def f(x: int): return " + "(" * 5_000 + "1" + ")" * 5_000, "syntax"),
        ("def f(x: int): return x == " + "9" * 70_000, "too_long"),
        ("\n".join(" " * depth + "if x:" for depth in range(150)), "syntax"),
        ("def f(x: int): return x == '" + "a" * 70_000 + "'", "too_long"),
    ],
    ids=["brackets", "digits", "indentation", "text"],
)
def test_a_text_over_a_limit_of_the_language_or_ours_is_refused(pool, text, rule):
    (failure,) = parse_puzzles(pool, [Text(text)])
    assert failure.rule == rule


# ---- limits of a judge ----

GREEDY = {
    "time": ("def f(x: int):\n    for _ in range(3 * 10**7): pass\n    return True", Verdict.TIME_LIMIT),
    "time in C": ("def f(x: int): return sum(range(3 * 10**7)) > x", Verdict.TIME_LIMIT),
    "time at import": (
        "N = [0 for _ in range(2 * 10**7) if _ < 0]\ndef f(x: int): return N is not None",
        Verdict.INVALID_PUZZLE,
    ),
    "memory": ("def f(x: int): return len(bytearray(300 * 1024**2)) > x", Verdict.MEMORY_LIMIT),
    "memory at import": (
        "N = len(bytearray(300 * 1024**2))\ndef f(x: int): return N > 0",
        Verdict.INVALID_PUZZLE,
    ),
    "memory of a default": (
        "def f(x: int, n=bytearray(300 * 1024**2)): return True",
        Verdict.INVALID_PUZZLE,
    ),
}


@pytest.mark.parametrize(("text", "verdict"), **table(GREEDY))
def test_a_puzzle_that_takes_too_much_is_ended(tight, text, verdict):
    (judgement,) = verify_texts(tight, [(text, "def g(): return 1")])
    assert judgement.verdict == verdict


@pytest.mark.parametrize(("text", "verdict"), **table(GREEDY))
def test_it_accepts_where_it_may_take_more(large, text, verdict):
    assert says_yes(large, puzzle(large, text), 1)


# ---- one puzzle cannot decide about another ----

VICTIM = (
    "import math\nfrom collections import Counter\n"
    "def down(n): return n and down(n - 1)\n"
    "def f(x: int):\n"
    "    try:\n"
    "        down(300)\n"
    "        return math.gcd(x, 6) == 100 or Counter('aab')['a'] == 9 or any([]) or sum([]) == 7\n"
    "    except RecursionError:\n"
    "        return True"
)
POISON = {
    "builtins": "vars(modules['builtins'])['any'] = lambda _: True",
    "another builtin": "modules['builtins'].sum = lambda _: 7",
    "a module": "import math; math.gcd = lambda *_: 100",
    "a class": "collections.Counter.__getitem__ = lambda *_: 9",
    "the codec": "modules['sandbox.codec'].encode = lambda *_: b'true'",
    "the codec's parts": "modules['sandbox.codec']._lower = modules['sandbox.codec']._dump = lambda *_: 'true'; "
    "modules['sandbox.codec'].encode.__code__ = (lambda value, max_bytes: b'true').__code__",
    "the recursion limit": "sys.setrecursionlimit(200)",
    "a report for two": "forge(b'Vtrue', count=2)",
    "a hook on every call": "sys.setprofile(lambda *_: forge(b'Vtrue', count=2))",
    "a finalizer": "modules['math'].later = type('A', (), {'__del__': lambda _: forge(b'Vtrue', count=2)})(); "
    "del modules['math'].later",
}


def poisonous(body):
    return REACH + f"def f(x: int):\n    {body}\n    return False"


def judged_in_a_reused_process(worker, questions):
    payload = child.pack(
        [part for asked, answer in questions for part in (asked.source.encode(), b"[" + answer + b"]")]
    )
    (result,) = worker.run([Job(worker.functions[-1], payload)])
    return result.records


@pytest.mark.parametrize("body", **table(POISON))
def test_a_puzzle_does_not_change_what_another_says(pool, body):
    texts = [(poisonous(body), f"def g(): return {n}") for n in range(3)]
    texts = [pair for poisoned in texts for pair in (poisoned, (VICTIM, f"def g(): return {poisoned[1][-1]}"))]
    verdicts = [judgement.verdict for judgement in verify_texts(pool, texts)]
    assert verdicts[1::2] == [Verdict.WRONG_ANSWER] * 3


@pytest.mark.parametrize("body", **table(POISON))
def test_it_does_where_a_process_judges_both(worker, body):
    questions = [(puzzle(worker, poisonous(body)), b"1"), (puzzle(worker, VICTIM), b"1")]
    assert judged_in_a_reused_process(worker, questions)[1] == b"Vtrue"


@pytest.mark.parametrize("text", ["b'\\x1b[2J'", "b'a' * 300_000"], ids=["escape sequence", "length"])
def test_a_forged_failure_is_safe_to_print(pool, text):
    failed = REACH.replace("(1, count)", "(3, count)")
    judgements = verify_texts(
        pool,
        [
            (f"{failed}def f(x: int): forge({text})", "def g(): return 1"),
            ("def f(x: int): return x == 1", f"{failed}def g(): forge({text})"),
        ],
    )
    assert [judgement.verdict for judgement in judgements] == [Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR]
    for judgement in judgements:
        assert judgement.detail.isprintable()
        assert len(judgement.detail) < 500


# ---- one answer cannot decide about the next ----

COUNTING = {
    "mutable default": "def f(x: int, seen=[]):\n    seen.append(x)\n    return len(seen) > 1",
    "global": "seen = []\ndef f(x: int):\n    seen.append(x)\n    return len(seen) > 1",
    "global number": "n = 0\ndef f(x: int):\n    global n\n    n += 1\n    return n > 1",
    "function attribute": "def f(x: int):\n    f.n = getattr(f, 'n', 0) + 1\n    return f.n > 1",
    "class attribute": "class A:\n    n = 0\ndef f(x: int):\n    A.n += 1\n    return A.n > 1",
    "closure": (
        "def counter():\n    n = 0\n    def step():\n        nonlocal n\n        n += 1\n        return n\n"
        "    return step\n"
        "step = counter()\ndef f(x: int): return step() > 1"
    ),
    "generator": "import itertools\nsteps = itertools.count(1)\ndef f(x: int): return next(steps) > 1",
    "cache": (
        "import functools\n@functools.lru_cache\ndef h(x): return x\n"
        "def f(x: int):\n    h(x)\n    return h.cache_info().currsize > 1"
    ),
    "exhausted iterator": "left = iter([0])\ndef f(x: int): return next(left, 1) == 1",
    "rebinding itself": "def f(x: int):\n    global f\n    f = lambda x: True\n    return False",
    "a method of a module": (
        "import math\ndef f(x: int):\n    n = getattr(math, 'n', 0)\n    math.n = n + 1\n    return n > 0"
    ),
    "a patched function": (
        "import math\ndef f(x: int):\n    n = math.gcd(6, 4)\n    math.gcd = lambda *_: 3\n    return n == 3"
    ),
    "a class of a module": (
        "import collections\n"
        "def f(x: int):\n"
        "    n = hasattr(collections.Counter, 'n')\n"
        "    collections.Counter.n = 1\n"
        "    return n"
    ),
    "a module of its own": REACH + "def f(x: int):\n    n = 'n' in modules\n    modules['n'] = 1\n    return n",
    "the builtins": (
        REACH + "def f(x: int):\n    n = hasattr(modules['builtins'], 'n')\n    modules['builtins'].n = 1\n    return n"
    ),
    "the cache of re": (
        "import re\ndef f(x: int):\n"
        "    n = any('seen' in str(key) for key in re._cache)\n    re.compile('seen')\n    return n"
    ),
    "the state of random": (
        "import random\ndef f(x: int):\n"
        "    n = random.getstate() == random.Random(7).getstate()\n    random.seed(7)\n    return n"
    ),
    "the recursion limit": (
        REACH + "def f(x: int):\n    n = sys.getrecursionlimit() == 4321\n    sys.setrecursionlimit(4321)\n    return n"
    ),
    "the digit limit": (
        REACH + "def f(x: int):\n"
        "    n = sys.get_int_max_str_digits() == 4321\n    sys.set_int_max_str_digits(4321)\n    return n"
    ),
    "references": (
        REACH + "import math\ndef f(x: int):\n"
        "    n = sys.getrefcount(math.gcd)\n    modules['kept'] = modules.get('kept', []) + [math.gcd] * 1000\n"
        "    return n > 900"
    ),
    "live objects": (
        REACH + "def f(x: int):\n"
        "    n = len(modules['gc'].get_objects())\n    modules['kept'] = [[] for _ in range(50000)]\n"
        "    return n > 50000"
    ),
    "collector's counts": (
        REACH + "def f(x: int):\n"
        "    n = modules['gc'].get_threshold()\n    modules['gc'].set_threshold(77, 7, 7)\n    return n == (77, 7, 7)"
    ),
    "the cache of typing": (
        "def f(x: int):\n"
        "    mine = str(List[float(x)])\n"
        "    for y in range(90): str(List[y])\n"
        "    return mine == f'typing.List[{x}]'"
    ),
    "the cache of re, through a format": (
        "import re\ndef f(x: int):\n"
        "    n = 'seen' in '{0.__globals__[_cache]}'.format(re.match)\n    re.match('seen', '')\n    return n"
    ),
    "records so far, through a format": (
        "def f(x: int):\n"
        "    me = []\n"
        "    def read(text): yield text.format(me[-1])\n"
        "    for depth in range(3, 12):\n"
        "        frame = '{0.gi_frame' + '.f_back' * depth + '.f_locals'\n"
        "        me.append(read(frame + '[position]} ' + frame + '[start]}'))\n"
        "        try:\n"
        "            position, start = next(me[-1]).split()\n"
        "            return int(position) > int(start) + 16\n"
        "        except Exception: pass"
    ),
    "records so far": REACH + "def f(x: int):\n    return report_frame()['count'] > 0",
    "the slot": (
        REACH
        + "def f(x: int):\n    slot = report_frame()['slot']\n    n = slot[-1] == 7\n    slot[-1] = 7\n    return n"
    ),
    "interned text": (
        REACH + "def f(x: int):\n"
        "    n = modules['typing'].__dict__.get('n')\n    modules['typing'].n = True\n    return n is True"
    ),
}


@pytest.mark.parametrize("text", **table(COUNTING))
def test_a_puzzle_that_counts_its_calls_accepts_nothing(pool, text):
    judgements = verify_texts(pool, [(text, f"def g(): return {n}") for n in range(4)])
    assert {judgement.verdict for judgement in judgements} <= {Verdict.WRONG_ANSWER, Verdict.UNSTABLE}


@pytest.mark.parametrize("text", **table(COUNTING))
def test_it_accepts_the_second_answer_in_a_reused_process(worker, text):
    asked = puzzle(worker, text)
    assert judged_in_a_reused_process(worker, [(asked, b"1"), (asked, b"2")])[1] == b"Vtrue"


def test_an_answer_is_not_accepted_for_its_place_among_the_others(pool):
    """A child that judges them all says yes to all but the first."""
    asked = puzzle(pool, COUNTING["records so far"])
    calls = [b"[" + encoded(n) + b"]" for n in range(6)]
    (shared,) = pool.run([Job(RUN_PROGRAM, child.program([asked.source], "f", calls, 1000), JUDGE_WORLD)])
    assert shared.records == (b"Vfalse", *[b"Vtrue"] * 5)
    verdicts = {judgement.verdict for judgement in judge_answers(pool, [(asked, encoded(n)) for n in range(6)])}
    assert verdicts <= {Verdict.WRONG_ANSWER, Verdict.UNSTABLE}


# ---- puzzle and solution in league ----

LEAGUE = {
    "a default": ("def f(x: int, n=[]): return n == [x]", "def g():\n    f.__defaults__[0].append(7)\n    return 7"),
    "a global": ("open_ = []\ndef f(x: int): return open_ == [x]", "def g():\n    open_.append(7)\n    return 7"),
    "the code": ("def f(x: int): return x != x", "def g():\n    f.__code__ = (lambda x: True).__code__\n    return 7"),
    "the name": ("def f(x: int): return x != x", "def g():\n    globals()['f'] = lambda x: True\n    return 7"),
    "an attribute": ("def f(x: int): return hasattr(f, 'key')", "def g():\n    f.key = 1\n    return 7"),
    "a module": (
        "import math\ndef f(x: int): return math.gcd(x, 7) == 100",
        "import math\ndef g():\n    math.gcd = lambda *_: 100\n    return 7",
    ),
    "builtins": (
        "def f(x: int): return sum([x]) == x + 1",
        "def g():\n    __builtins__['sum'] = lambda _: 8\n    return 7",
    ),
    "a module of their own": (
        REACH + "def f(x: int): return 'key' in modules",
        REACH + "def g():\n    modules['key'] = 1\n    return 7",
    ),
    "the random state": (
        "import random\ndef f(x: int): return random.getstate() == random.Random(9).getstate()",
        "import random\ndef g():\n    random.seed(9)\n    return 7",
    ),
    "the recursion limit": (
        REACH + "def f(x: int): return sys.getrecursionlimit() == 4321",
        REACH + "def g():\n    sys.setrecursionlimit(4321)\n    return 7",
    ),
    "a lying answer": (
        "def f(x: int): return (x == 1) is (x == 2) is True",
        "class A:\n    def __eq__(self, _): return True\ndef g(): return A()",
    ),
    "the caller's name": (
        REACH + "def f(x: int): return 'g' in globals() and callable(globals()['g'])",
        "def g(): return 7",
    ),
}


@pytest.mark.parametrize(("text", "solution"), **table(LEAGUE))
def test_puzzle_and_solution_share_nothing_but_the_answer(pool, text, solution):
    (judgement,) = verify_texts(pool, [(text, solution)])
    assert judgement.verdict in (Verdict.WRONG_ANSWER, Verdict.UNANSWERABLE_VALUE)


@pytest.mark.parametrize(("text", "solution"), **table(LEAGUE))
def test_they_do_where_the_answer_is_judged_in_the_process_that_made_it(pool, text, solution):
    sources = [
        puzzle(pool, text).source,
        candidate(pool, solution).source,
        "def judged():\n    answer = g()\n    return f(answer)",
    ]
    payload = child.program(sources, "judged", [b"[]"], LIMITS.answer_bytes)
    (result,) = pool.run([Job(RUN_PROGRAM, payload)])
    assert result.records == (b"Vtrue",)


SECRETS = {
    "in a default": ("def f(x: int, key=777): return x == key", "def g(): return f.__defaults__[0]"),
    "in the code": ("def f(x: int): return x == 777", "def g(): return f.__code__.co_consts[1]"),
    "in a global": ("key = 777\ndef f(x: int): return x == key", "def g(): return key"),
    "in a docstring's place": (
        "key = '777'\ndef f(s: str): return s == key * 3",
        "def g(): return f.__globals__['key'] * 3",
    ),
}


@pytest.mark.parametrize(("text", "solution"), **table(SECRETS))
def test_an_answer_that_only_the_puzzles_text_tells_is_right_for_that_puzzle_alone(pool, text, solution):
    other = text.replace("777", "778")
    judgements = verify_texts(pool, [(text, solution), (other, solution), (other, "def g(): return 777")])
    assert [judgement.verdict for judgement in judgements][:2] == [Verdict.ACCEPTED] * 2
    assert judgements[2].verdict in (Verdict.WRONG_ANSWER, Verdict.WRONG_TYPE)
    assert judgements[0].answer != judgements[1].answer


# ---- the seal: what a puzzle could learn or do outside ----

OUTSIDE = {
    "forks": "pid = modules['posix'].fork()\n    if pid == 0: modules['posix']._exit(0)\n    return pid > 0",
    "starts a thread": "return modules['_thread'].start_new_thread(int, ()) > 0",
    "opens a socket": "import_ = modules['socket'].socket()\n    return import_.fileno() >= 0",
    "opens a socket pair": "return len(modules['socket'].socketpair()) == 2",
    "opens a folder": "return modules['posix'].open('/', 0) >= 0",
    "looks at a file": "return modules['posix'].stat('/').st_mode > 0",
    "makes a pipe": "return len(modules['posix'].pipe()) == 2",
    "makes a file in memory": "return modules['posix'].memfd_create('a') >= 0",
    "signals itself": "return modules['posix'].kill(modules['posix'].getpid(), 0) is None",
    "makes code": "return len(modules['mmap'].mmap(-1, 4096, prot=7)) == 4096",
    "asks for its process": "return modules['posix'].getpid() > 0",
    "asks for its parent": "return modules['posix'].getppid() >= 0",
    "asks for its thread": "return 0 < modules['_thread'].get_native_id() < 1 << 40",
    "reads the time": "return modules['time'].time() > 1",
    "reads the monotonic clock": "return modules['time'].monotonic() > 0",
    "reads the fine clock": "return modules['time'].perf_counter_ns() > 0",
    "reads its own time": "return modules['time'].process_time() >= 0",
    "reads the system's randomness": "return len(modules['posix'].urandom(8)) == 8",
    "draws from the system": "return 0 <= modules['random'].SystemRandom().random() < 1",
    "sleeps": "return modules['time'].sleep(0.01) is None",
    "names the machine": "return len(modules['posix'].uname().machine) > 0",
    "asks who it is": "return 0 <= modules['posix'].getuid() < 1 << 31",
    "handles signals": "return modules['_signal'].signal(10, 1) is not 5",
    "loads a library": "import_ = modules['ctypes'].CDLL(None).getpid\n    return import_() > 0",
}


def outside(body):
    return REACH + f"def f(x: int):\n    {body}"


@pytest.mark.parametrize("body", **table(OUTSIDE))
def test_a_puzzle_reaches_nothing_outside(pool, body):
    (judgement,) = verify_texts(pool, [(outside(body), "def g(): return 1")])
    assert judgement.verdict == Verdict.WRONG_ANSWER


@pytest.mark.parametrize("body", **table(OUTSIDE))
def test_it_does_where_the_child_is_not_sealed(unsealed, body):
    assert says_yes(unsealed, puzzle(unsealed, outside(body)), 1)


# ---- non-determinism: worlds ----

FEW = "{str(9 * n + k) for k in range(9)}"
PAGE = "// 4096 % (2 * n + 1009) & 1"
WORLDLY = {
    "hash of a text": "hash(str(n)) & 1",
    "hash of bytes": "hash(str(n).encode()) & 1",
    "hash of a tuple": "hash((n, 'a')) & 1",
    "hash of a frozen set": "hash(frozenset({'a', str(n)})) & 1",
    "order of a set": f"int(next(iter({FEW}))) & 1",
    "text of a set": f"int(repr({FEW}).split()[1][1:-2]) & 1",
    "a dict from a set": f"int(list(dict.fromkeys({FEW}))[0]) & 1",
    "popping": f"int({FEW}.pop()) & 1",
    "joining": f"int(''.join({FEW})) >> 3 & 1",
    "unpacking": f"int([*{FEW}][0]) & 1",
    "ties in a sort": f"int(min({FEW}, key=len)) & 1",
    "a draw": "random.random() < 0.5",
    "a shuffle": "random.sample(range(9), 9)[0] & 1",
    "a choice": "random.choice('ab') == 'a'",
    "an address": f"id(int) {PAGE}",
    "an address of a constant": f"id(None) {PAGE}",
    "an address in a text": f"int(repr(random.random.__self__).split('0x')[1][:-1], 16) {PAGE}",
    "an address of a function": f"int(repr(collections.namedtuple).split('0x')[1][:-1], 16) {PAGE}",
    "the default hash": f"hash(object) * 16 {PAGE}",
    "object.__hash__": f"object.__hash__(random) * 16 {PAGE}",
    "hash of None": f"hash(None) * 16 {PAGE}",
    "an address through ctypes": f"modules['ctypes'].addressof(modules['sandbox.confine']._FILTER) {PAGE}",
    "the thread's identity": f"modules['_thread'].get_ident() {PAGE}",
}


@pytest.mark.parametrize("expression", **table(WORLDLY))
def test_what_one_world_accepts_and_another_does_not_is_unstable(lane, expression):
    text = accepting(expression)
    n = salt(lane, text, 777, JUDGE_WORLD, CONFIRM_WORLD)
    (judgement,) = verify_texts(lane, [(text(n), "def g(): return 777")])
    assert judgement.verdict == Verdict.UNSTABLE
    assert judgement.detail.startswith("confirm: ")
    assert judgement.detail.endswith("wrong_answer: f returned False")


@pytest.mark.parametrize("expression", **table(WORLDLY))
def test_it_is_accepted_where_one_world_judges(lane, expression):
    text = accepting(expression)
    n = salt(lane, text, 777, JUDGE_WORLD, CONFIRM_WORLD)
    (outcome,) = judge_once(lane, [(puzzle(lane, text(n)), b"777")], JUDGE_WORLD)
    assert outcome.content == b"true"


@pytest.mark.parametrize("expression", **table(WORLDLY))
def test_what_only_the_solvers_world_accepts_is_wrong(lane, expression):
    verdicts = set()
    for n in range(20):
        text = accepting(expression)(n)
        (own,) = judge_once(lane, [(puzzle(lane, text), b"777")], JUDGE_WORLD)
        (judgement,) = verify_texts(lane, [(text, "def g():\n    assert f(777) is True\n    return 777")])
        if own.content == b"false" and judgement.verdict != Verdict.RUNTIME_ERROR:
            verdicts.add(judgement.verdict)
    assert verdicts == {Verdict.WRONG_ANSWER}


TOLD = {
    "an address": "id(int)",
    "the default hash": "hash(object)",
    "an address in a text": "int(repr(random.random.__self__).split('0x')[1][:-1], 16)",
    "hash of a text": "hash('a')",
    "a draw": "random.getrandbits(60)",
    "the thread": "modules['_thread'].get_ident()",
}


@pytest.mark.parametrize("expression", **table(TOLD))
def test_what_a_solution_reads_off_its_own_world_is_wrong(lane, expression):
    text = REACH + f"import random\ndef f(x: int):\n    return x == {expression}"
    (judgement,) = verify_texts(lane, [(text, f"{REACH}import random\ndef g():\n    return {expression}")])
    assert judgement.verdict == Verdict.WRONG_ANSWER


SHARED = {name: expression for name, expression in TOLD.items() if name != "a draw"}
"""What all programs of a world see. Each call draws numbers of its own."""


@pytest.mark.parametrize("expression", **table(SHARED))
def test_it_is_right_where_the_same_world_judges(lane, expression):
    text = REACH + f"import random\ndef f(x: int):\n    return x == {expression}"
    solve = child.program([f"{REACH}import random\ndef g(): return {expression}"], "g", [b"[]"], 1000)
    (told,) = lane.run([Job(RUN_PROGRAM, solve, 0)])
    (outcome,) = judge_once(lane, [(puzzle(lane, text), told.records[0][1:])], 0)
    assert outcome.content == b"true"


# ---- non-determinism: harmless uses ----

HARMLESS = {
    "hash of an integer": "hash(x) == x",
    "hash of a float": "hash(0.5) == 2**60",
    "a sorted set": "sorted({'b', 'a', str(x)}) == ['777', 'a', 'b']",
    "membership": "str(x) in {'777', 'a', 'b'} and 'c' not in {'a', 'b'}",
    "counting a set": "len({'a', 'b', 'a', str(x)}) == 3",
    "comparing sets": "{'a', 'b'} | {str(x)} == {str(x), 'b', 'a'}",
    "equal hashes": "hash('ab') == hash('a' + 'b')",
    "order of a dict": "list({'b': 1, 'a': 2, str(x): 3}) == ['b', 'a', '777']",
    "a seeded generator": "random.Random(5).random() == random.Random(5).random() and random.Random(5).random() < 0.63",
    "a seeded module": "(random.seed(3), random.randrange(1000))[1] == 243",
    "identity": "(lambda a: a is a)(object()) and id(x) == id(x)",
    "a sum over a set": "sum({x, 1, 2}) == 780",
    "the smallest of a set": "min({'b', 'a', str(x)}) == '777'",
    "text of a float": "repr(0.1 + 0.2) == '0.30000000000000004' and f'{x / 7:.3f}' == '111.000'",
    "text of a number": "repr([x, 1.5, 'a']) == \"[777, 1.5, 'a']\"",
    "a counter": "collections.Counter('abca').most_common(1) == [('a', 2)]",
    "a cache": "functools.lru_cache(lambda n: n * 2)(x) == 1554",
    "the flags": "sys.flags.hash_randomization == 1 and sys.hash_info.width == 64",
    "the environment": "dict(modules['os'].environ) == {}",
    "the recursion limit": "sys.getrecursionlimit() == 10000",
    "a default repr without its address": "repr(object()).startswith('<object object at 0x')",
}


@pytest.mark.parametrize("expression", **table(HARMLESS))
def test_a_harmless_use_is_accepted_in_every_world(lane, expression):
    text = REACH + f"import random, functools\ndef f(x: int):\n    return x == 777 and {expression}"
    (judgement,) = verify_texts(lane, [(text, "def g(): return 777")])
    assert (judgement.verdict, judgement.detail) == (Verdict.ACCEPTED, "")
    asked = puzzle(lane, text)
    for world in range(5):
        assert judge_once(lane, [(asked, b"777")], world)[0].content == b"true", world


@pytest.mark.parametrize("expression", [e for e in HARMLESS.values() if "random." not in e], ids=lambda e: e[:30])
def test_a_harmless_use_is_admitted(lane, expression):
    assert admit(
        lane, [puzzle(lane, REACH + f"import functools\ndef f(x: int): return x == 777 and {expression}")]
    ) == [None]
