import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from reaching import MODULES, REPORT_FRAME

from puzzles.verify import truth_pool
from sandbox import child, codec, selfcheck
from sandbox.pool import PURE_MODULES, RUN_PROGRAM, Job, Pool, available_bytes
from sandbox.result import Limits, SandboxError, Status

LIMITS = Limits(cpu_seconds=0.4, wall_seconds=0.8)

SLOT = (
    MODULES
    + REPORT_FRAME
    + """
def forge(record, state=1, count=1, length=None, leave=True):
    slot, start = report_frame()["slot"], report_frame()["start"]
    words = (state, count, len(record) if length is None else length)
    forged = b"records\\0" + b"".join(word.to_bytes(4, "little") for word in words) + record
    slot[start : start + len(forged)] = forged
    if leave:
        modules["posix"]._exit(0)
"""
)


@pytest.fixture(scope="module")
def pool():
    with truth_pool(LIMITS, lanes=2) as pool:
        yield pool


@pytest.fixture(scope="module")
def lane():
    """One lane: its jobs run one after the other, forked from one zygote."""
    with truth_pool(LIMITS, lanes=1) as pool:
        yield pool


def job(body, *, before="", world=0, limits=LIMITS):
    """A program whose `g` has these lines."""
    source = before + "\ndef g():\n" + "\n".join("    " + line for line in body.splitlines())
    return Job(RUN_PROGRAM, child.program([source], "g", [b"[]"], limits.answer_bytes), world)


def one(pool, *arguments, **keywords):
    return next(pool.run([job(*arguments, **keywords)]))


def answer(pool, *arguments, **keywords):
    result = one(pool, *arguments, **keywords)
    assert result.status == Status.FINISHED, result
    assert result.records[0][:1] == child.VALUE, result
    return codec.decode(result.records[0][1:])


def descendants(pid):
    """Every process below one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    below, new = set(), {pid}
    while new:
        new = {process for process, parent in parents.items() if parent in new} - below
        below |= new
    return below


def outer_process(pool):
    return pool._lanes[0]._zygotes[RUN_PROGRAM, 0]._process.pid


def gone(pids, seconds=5.0):
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not left


# ---- what was verified ----


@pytest.fixture(scope="module")
def protections(pool):
    return selfcheck.check(pool)


@pytest.mark.parametrize("name", [*selfcheck.FORBIDDEN, *selfcheck.LIVE])
def test_the_sandbox_of_this_machine_holds(protections, name):
    assert protections.probes[name] in ("refused", "held")


def test_the_tier_is_a_where_every_layer_is_on_and_b_elsewhere(protections):
    expected = "A" if set(protections.layers.values()) == {"on"} else "B"
    assert (protections.tier, protections.failures()) == (expected, [])
    assert json.loads(json.dumps(protections.to_json()))["tier"] == expected


@pytest.mark.parametrize(("tier", "minimum", "refused"), [("A", "B", 0), ("B", "B", 0), ("B", "A", 1), ("D", "B", 1)])
def test_a_tier_below_the_minimum_is_refused(tier, minimum, refused):
    protections = selfcheck.Protections(tier, {"landlock": "refused: no such call"}, {}, {"fork": "ALLOWED"})
    with pytest.raises(SandboxError, match=r"landlock.*fork: ALLOWED") if refused else contextlib.nullcontext():
        selfcheck.require(protections, minimum)


# ---- limits ----


@pytest.mark.parametrize(
    "body",
    [
        "while True: pass",
        "return sum(1 for _ in iter(int, 1))",
        "return 3 ** (10 ** 9)",
        "return max(iter(int, 1))",
        "import re\nreturn re.match('(a+)+$', 'a' * 60 + 'b')",
        "class A:\n    def __index__(self):\n        while True: pass\nreturn [1][A()]",
        "try:\n    while True: pass\nexcept BaseException:\n    return 1",
        "class D:\n    def __del__(self):\n        while True: pass\nD()\nreturn 1",
        "class M(type):\n"
        "    def __getattribute__(c, n):\n"
        "        while True: pass\n"
        "class A(metaclass=M): pass\n"
        "return A()",
    ],
    ids=["loop", "in C", "power", "iterator", "regex", "index", "caught", "finalizer", "metaclass"],
)
def test_cpu_time_ends_a_busy_program(pool, body):
    result = one(pool, body)
    assert (result.status, result.records, result.detail) == (Status.CPU_LIMIT, (), "over 0.4 s of CPU time")
    assert 0.3 < result.cpu_seconds < 0.8


def test_a_lock_that_would_wait_for_ever_ends_the_child_at_once(pool):
    lock = "lock = modules['_thread'].allocate_lock()\nlock.acquire()\nlock.acquire()"
    result = one(pool, lock, before=MODULES)
    assert (result.status, result.records) == (Status.DIED, ())
    assert result.cpu_seconds < 0.1


@pytest.mark.parametrize(
    "module_and_call", ["time.sleep(9)", "select.select([], [], [], 9)", "signal.sigtimedwait([], 9)"]
)
def test_there_is_no_sleep(pool, module_and_call):
    result = one(
        pool, f"return modules['{module_and_call.split('.')[0]}'].{module_and_call.split('.')[1]}", before=MODULES
    )
    assert result.status == Status.FINISHED
    assert result.records[0].startswith((b"EPermissionError", b"EKeyError"))


@pytest.fixture(scope="module")
def small():
    """Little memory: to fill much takes time."""
    with Pool(limits=Limits(cpu_seconds=2, wall_seconds=4, memory_bytes=128 * 1024**2), lanes=1) as pool:
        yield pool


@pytest.mark.parametrize(
    "body",
    [
        "return len(bytearray(1 << 40))",
        "return 'a' * (1 << 33)",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        "x = 'a'\nwhile True: x += x",
        "return [0] * (1 << 33)",
        "return list(range(10 ** 8))",
        "return 1 << (1 << 40)",
    ],
    ids=["bytearray", "text", "list of arrays", "doubling", "list", "range", "integer"],
)
def test_memory_is_limited(small, body):
    result = one(small, body)
    assert (result.status, result.records) == (Status.FINISHED, (child.MEMORY,))


def test_memory_that_is_never_given_back_does_not_hide_the_report(small):
    result = one(small, "while True: KEPT.append(bytearray(1 << 16))", before="KEPT = []")
    assert (result.status, result.records) == (Status.FINISHED, (child.MEMORY,))


def test_an_answer_of_the_limit_passes_and_one_more_byte_does_not(pool):
    assert len(answer(pool, f"return 'a' * {LIMITS.answer_bytes - 2}")) == LIMITS.answer_bytes - 2
    assert one(pool, f"return 'a' * {LIMITS.answer_bytes - 1}").records == (
        b"UCodecError: the value takes 262145 bytes, over the limit of 262144",
    )


@pytest.mark.parametrize("part", ["[]", "'a' * 100000", "10 ** 30000"])
def test_an_aliasing_bomb_is_refused_quickly(pool, part):
    result = one(pool, f"x = {part}\nfor _ in range(50): x = [x, x]\nreturn x")
    assert result.records[0].startswith(b"UCodecError: the value is over the limit: too many parts")


@pytest.mark.slow
def test_no_program_is_ended_before_its_limit_however_busy_the_machine(pool):
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3)]
    try:
        results = [one(pool, "while True: pass") for _ in range(8)]
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert {result.status for result in results} == {Status.CPU_LIMIT}
    assert min(result.cpu_seconds for result in results) >= LIMITS.cpu_seconds


def test_recursion_reaches_the_limit_and_no_further(pool):
    before = "def down(n):\n    return 0 if n == 0 else 1 + down(n - 1)"
    assert answer(pool, "return down(9000)", before=before) == 9000
    assert one(pool, "return down(20000)", before=before).records[0].startswith(b"ERecursionError")


def test_recursion_with_the_limit_lifted_ends_the_child_alone(pool):
    before = MODULES + "class A:\n    def __getattr__(self, name):\n        return getattr(self, name + 'x')"
    bad = job("sys.setrecursionlimit(10 ** 9)\nreturn getattr(A(), 'y')", before=before)
    results = list(pool.run([bad, job("return 2")]))
    assert results[0].status in (Status.DIED, Status.CPU_LIMIT, Status.MEMORY_LIMIT, Status.FINISHED)
    assert not any(record.startswith(child.VALUE) for record in results[0].records)
    assert results[1].records == (b"V2",)


def test_output_is_swallowed_however_much(pool):
    assert answer(pool, "for _ in range(1000): print('accepted' * 1000, flush=True)\nreturn 1") == 1


def test_there_is_no_input(pool):
    assert one(pool, "return input()").records == (b"ERuntimeError: input(): lost sys.stdin",)


# ---- leaving ----


@pytest.mark.parametrize("exception", ["SystemExit(0)", "KeyboardInterrupt()", "GeneratorExit()", "BaseException(1)"])
def test_an_exception_is_what_the_program_raised(pool, exception):
    result = one(pool, f"raise {exception}")
    assert result.status == Status.FINISHED
    assert result.records[0].startswith(b"E" + exception.partition("(")[0].encode())


@pytest.mark.parametrize("code", [0, 1, 97])
def test_a_sneaky_exit_leaves_no_report_whatever_its_status(pool, code):
    result = one(pool, f"modules['posix']._exit({code})", before=MODULES)
    assert (result.status, result.records, result.detail) == (Status.DIED, (), f"it left with exit status {code}")


def test_a_crash_ends_the_child_alone(pool):
    crash = job("return modules['ctypes'].string_at(0)", before=MODULES)
    results = list(pool.run([job("return 1"), crash, job("return 2")]))
    assert [(result.status, result.records) for result in results] == [
        (Status.FINISHED, (b"V1",)),
        (Status.DIED, ()),
        (Status.FINISHED, (b"V2",)),
    ]
    assert results[1].detail == "it died on signal 11: Segmentation fault"


@pytest.mark.parametrize(
    "source",
    ["def g(:", "x = 1 / 0", "raise SystemExit", "import os", "(" * 300, "-" * 50_000 + "1", "\0", "def h(): pass"],
    ids=["syntax", "raises", "exits", "import", "brackets", "unary", "null byte", "no g"],
)
def test_a_program_that_does_not_load_says_so(pool, source):
    result = next(pool.run([Job(RUN_PROGRAM, child.program(["x = 1", source], "g", [b"[]"], 1000))]))
    assert result.status == Status.FINISHED
    assert result.records[0][:2] in (b"L1", b"M", b"EK")
    assert len(result.records) == 1


def test_an_exception_with_hostile_methods_is_described(pool):
    before = "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit"
    assert one(pool, "raise Bad", before=before).records == (b"EException: (it cannot be printed)",)


# ---- what a program can reach ----


def test_a_child_knows_no_environment_and_no_orders(pool):
    os.environ["SANDBOX_TEST_SECRET"] = "secret"
    try:
        with Pool(limits=LIMITS, lanes=1) as fresh:
            body = "return [dict(modules['os'].environ), len(sys.argv), len(sys.orig_argv)]"
            assert answer(fresh, body, before=MODULES) == [{}, 1, 1]
    finally:
        del os.environ["SANDBOX_TEST_SECRET"]


def test_a_child_has_no_open_files(pool):
    body = """
found = []
for number in range(64):
    try:
        modules["posix"].fstat(number)
        found.append(number)
    except OSError as error:
        found += [] if error.errno == 1 else [error.errno]
    try:
        modules["posix"].write(number, b"x")
        found.append(number)
    except OSError as error:
        found += [] if error.errno == 1 else [error.errno]
return found"""
    assert answer(pool, body, before=MODULES) == []


REFUSALS = (b"EPermissionError", b"Eitimer_error: [Errno 1]", b"ERuntimeError: lost")


@pytest.mark.parametrize(
    "call",
    [
        "modules['posix'].fork()",
        "modules['posix'].open('/', 0)",
        "modules['posix'].kill(1, 9)",
        "modules['posix'].kill(-1, 9)",
        "modules['posix'].getrandom(8)",
        "modules['posix'].pipe()",
        "modules['time'].time()",
        "modules['time'].perf_counter()",
        "modules['socket'].socket()",
        "modules['signal'].setitimer(2, 0)",
        "modules['signal'].pthread_sigmask(0, [27])",
        "modules['resource'].getrlimit(0)",
        "modules['random'].SystemRandom().random()",
        "open('/etc/passwd')",
    ],
)
def test_a_reached_module_opens_no_door(pool, call):
    assert one(pool, f"return {call}", before=MODULES).records[0].startswith(REFUSALS)


def test_the_date_is_the_same_for_ever():
    body = "import datetime\nreturn [str(datetime.datetime.now()) for _ in range(1000)]"
    with Pool(limits=LIMITS, lanes=1, modules=["datetime"]) as pool:
        assert set(answer(pool, body)) == {"1970-01-01 00:00:00"}


def test_a_thread_cannot_be_started(pool):
    result = one(pool, "return modules['_thread'].start_new_thread(print, ())", before=MODULES)
    assert result.records == (b"ERuntimeError: can't start new thread",)


def test_only_listed_modules_are_imported(pool):
    body = """
kept = []
for name in ("math", "collections.abc", "os", "sys", "time", "subprocess", "ctypes", "sandbox", "puzzles", "builtins"):
    try:
        __import__(name)
        kept.append(name)
    except ImportError:
        pass
return kept"""
    assert answer(pool, body) == ["math", "collections.abc"]


# ---- forging ----


@pytest.mark.parametrize(
    ("forgery", "status", "records"),
    [
        ("forge(b'Vtrue')", Status.FINISHED, (b"Vtrue",)),
        ("forge(b'', count=0)", Status.FINISHED, ()),
        ("forge(b'', count=2**32 - 1)", Status.DIED, ()),
        ("forge(b'x', length=2**32 - 1)", Status.DIED, ()),
        ("forge(b'V1', count=2, state=7)", Status.DIED, (b"V1", b"")),
        ("forge(b'V1', state=2)", Status.MEMORY_LIMIT, (b"V1",)),
        ("forge(b'a job that raises', state=3)", Status.DIED, ()),
        ("forge(b'', count=0, state=3)", Status.DIED, ()),
        ("forge(b'V2', leave=False)\nreturn 1", Status.FINISHED, (b"V1",)),
        ("forge(b'V2', count=9, leave=False)\nwhile True: pass", Status.CPU_LIMIT, (b"V2", *[b""] * 8)),
    ],
    ids=["answer", "nothing", "count", "length", "state", "memory", "failed", "failed empty", "overwritten", "loop"],
)
def test_a_forged_report_is_only_the_forgers_own(pool, forgery, status, records):
    results = list(pool.run([job("return 5"), job(forgery, before=SLOT), job("return 6")]))
    assert [(result.status, result.records) for result in results] == [
        (Status.FINISHED, (b"V5",)),
        (status, records),
        (Status.FINISHED, (b"V6",)),
    ]


def test_a_report_without_the_magic_is_none(pool):
    result = one(
        pool, "slot = report_frame()['slot']\nslot[:] = b'V' * len(slot)\nmodules['posix']._exit(0)", before=SLOT
    )
    assert (result.status, result.records) == (Status.DIED, ())


def test_records_over_the_slot_are_not_written(pool):
    payload = child.program(["def g():\n    return 'a' * 200000"], "g", [b"[]"] * 3, 250_000)
    result = next(pool.run([Job(RUN_PROGRAM, payload)]))
    assert (result.status, len(result.records)) == (Status.DIED, 1)
    assert result.detail == "the job raised OverflowError: the job's records exceed the slot"


def test_a_program_that_moves_the_writers_position_spoils_its_own_report_only(pool):
    patch = "modules['sandbox.codec'].encode = lambda value, limit: b'true'\nreturn 7"
    results = list(pool.run([job(patch, before=MODULES), job("return 7")]))
    assert [result.records for result in results] == [(b"Vtrue",), (b"V7",)]


# ---- from one job to the next ----


@pytest.mark.parametrize(
    "body",
    [
        "vars(modules['builtins'])['len'] = lambda x: 0\nreturn 0",
        "vars(modules['builtins'])['__import__'] = None\nreturn 0",
        "import math\nmath.gcd = lambda *a: 0\nreturn 0",
        "collections.Counter.most_common = lambda *a: []\nreturn 0",
        "modules['sandbox.codec'].encode = lambda *a: b'0'\nreturn 0",
        "modules['sandbox.child'].VALUE = b'X'\nreturn 0",
        "import random\nrandom.seed(1)\nreturn 0",
        "sys.setrecursionlimit(50)\nreturn 0",
        "modules.clear()\nreturn 0",
        "import re\nre.compile('a').__class__\nre._cache.clear()\nre.match = None\nreturn 0",
        "slot = report_frame()['slot']\nslot[:] = b'\\x07' * len(slot)\nreturn 0",
    ],
    ids=["builtins", "import", "math", "class", "codec", "harness", "random", "recursion", "modules", "re", "slot"],
)
def test_nothing_is_left_for_the_next_job(lane, body):
    probe = job(
        """
import math, random, re
slot = report_frame()["slot"]
return [
    len("abc"), math.gcd(4, 6), collections.Counter("aab").most_common(1), random.random(), sys.getrecursionlimit(),
    "json" in modules, re.match("a", "a") is not None, bytes(slot[4096:]).count(b"\\x07"),
]""",
        before=SLOT,
    )
    (clean,) = lane.run([probe])
    _, after = lane.run([job(body, before=SLOT), probe])
    assert clean.records[0][:1] == child.VALUE
    assert codec.decode(clean.records[0][1:])[0:3] == [3, 2, [("a", 2)]]
    assert (after.status, after.records) == (clean.status, clean.records)


def test_nothing_of_a_jobs_text_is_left_in_the_slot(lane):
    secret = job("x = 'MARKER-OF-THE-FIRST-JOB'\nreturn 'MARKER-OF-THE-FIRST-JOB' * 1000")
    look = job("return bytes(report_frame()['slot']).count(b'MARKER-OF-THE-' + b'FIRST-JOB')", before=SLOT)
    assert [result.records[0][-6:] for result in lane.run([secret, look])] == [b'T-JOB"', b"V0"]


# ---- the stream ----


def test_results_come_in_the_order_of_jobs(pool):
    jobs = [job(f"return sum(range({(37 * n) % 60} * 1000)) * 0 + {n}") for n in range(100)]
    assert [result.records for result in pool.run(jobs)] == [(b"V%d" % n,) for n in range(100)]


def test_a_slow_job_does_not_hold_up_the_others(pool):
    drawn = []

    def jobs():
        for n in range(30):
            drawn.append(n)
            yield job("while True: pass" if n == 0 else f"return {n}")

    results = pool.run(jobs())
    first = next(results)
    assert first.status == Status.CPU_LIMIT
    assert len(drawn) == 30
    assert [result.records for result in results] == [(b"V%d" % n,) for n in range(1, 30)]


def test_jobs_are_drawn_as_results_are_consumed(pool):
    drawn = []

    def jobs():
        for n in range(1000):
            drawn.append(n)
            yield job("return 1")

    results = pool.run(jobs())
    next(results)
    results.close()
    assert len(drawn) <= 64 + 2


def test_no_jobs_give_no_results(pool):
    assert list(pool.run([])) == []


def test_a_stream_abandoned_midway_leaves_the_pool_usable(pool):
    results = pool.run(job("while True: pass" if n % 2 else f"return {n}") for n in range(10))
    assert next(results).records == (b"V0",)
    results.close()
    assert [result.records for result in pool.run([job("return 1"), job("return 2")])] == [(b"V1",), (b"V2",)]


def test_a_source_that_raises_leaves_the_pool_usable(pool):
    def jobs():
        yield job("return 1")
        raise KeyError("the caller's own trouble")

    with pytest.raises(KeyError, match="own trouble"):
        list(pool.run(jobs()))
    assert answer(pool, "return 3") == 3


def test_a_consumer_may_take_longer_than_every_limit():
    limits = Limits(cpu_seconds=0.05, wall_seconds=0.05)
    with Pool(limits=limits, lanes=1) as pool:
        results = pool.run([job(f"return {n}") for n in range(3)])
        records = [next(results).records]
        zygote = outer_process(pool)
        time.sleep(14 * limits.wall_seconds + 0.2)
        records += [result.records for result in results]
        assert records == [(b"V0",), (b"V1",), (b"V2",)]
        assert outer_process(pool) == zygote, "a job was thrown away and run again"


def test_a_job_larger_than_the_slot_is_the_callers_error(pool):
    with pytest.raises(ValueError, match="exceeds the slot"):
        list(pool.run([Job(RUN_PROGRAM, b"x" * (child.request_bytes(LIMITS) + 1))]))
    assert answer(pool, "return 4") == 4


def test_a_job_for_a_function_that_was_not_given_is_the_callers_error(pool):
    with pytest.raises(ValueError, match=r"'sandbox.child:pack' is not among"):
        list(pool.run([Job("sandbox.child:pack", b"")]))


def test_a_payload_that_is_no_program_is_a_report_not_a_crash(pool):
    result = next(pool.run([Job(RUN_PROGRAM, b"\xff\xff\xff\xffnothing")]))
    assert (result.status, result.records) == (Status.DIED, ())
    assert result.detail.startswith("the job raised ")


@pytest.mark.parametrize("function", ["sandbox.child:no_such_function", "sandbox.no_such_module:job"])
def test_a_zygote_for_a_function_that_does_not_exist_does_not_start(function):
    with Pool([function], LIMITS, lanes=1) as pool, pytest.raises(SandboxError, match="no_such"):
        list(pool.run([Job(function, b"")]))


@pytest.mark.parametrize("keywords", [{"functions": ["absent.module:job"]}, {"modules": ["absent"]}], ids=str)
def test_a_pool_with_a_package_that_does_not_exist_is_not_made(keywords):
    with pytest.raises(ValueError, match="there is no module named 'absent'"):
        Pool(**keywords)


@pytest.mark.parametrize(
    "fields",
    [
        {"cpu_seconds": 0},
        {"memory_bytes": -1},
        {"memory_bytes": 1 << 60},
        {"cpu_seconds": 1e300},
        {"cpu_seconds": 2, "wall_seconds": 1},
        {"answer_bytes": 0},
    ],
    ids=str,
)
def test_impossible_limits_are_refused(fields):
    with pytest.raises(ValueError, match=r"must be from|is below cpu_seconds"):
        Limits(**fields)


# ---- worlds ----

FINGERPRINT = "import random\nreturn [[hash(str(n)) for n in range(9)], [random.random() for _ in range(3)]]"


def test_worlds_differ_in_hash_and_random_seed(pool):
    worlds = [answer(pool, FINGERPRINT, world=world) for world in (0, 1, 2)]
    assert len({str(hashes) for hashes, _ in worlds}) == 3
    assert len({str(draws) for _, draws in worlds}) == 3


def test_worlds_differ_in_the_low_bits_of_addresses_which_the_system_does_not_move(pool):
    body = "return [int(text[-4:-1], 16) for text in (str(lambda: 0), str(x for x in ()))]"
    worlds = [answer(pool, body, world=world) for world in (0, 1, 2)]
    for kind in zip(*worlds, strict=True):
        assert len(set(kind)) > 1


def test_worlds_are_the_same_for_the_same_seed_and_others_for_another(pool):
    mine = [answer(pool, FINGERPRINT, world=world) for world in (0, 1)]
    with truth_pool(LIMITS, lanes=1) as same:
        assert [answer(same, FINGERPRINT, world=world) for world in (0, 1)] == mine
    with truth_pool(LIMITS, lanes=1, seed=1) as other:
        assert [answer(other, FINGERPRINT, world=world) for world in (0, 1)] != mine


def test_every_job_of_a_world_starts_alike(lane):
    assert len({result.records for result in lane.run([job(FINGERPRINT)] * 3)}) == 1


# ---- failures of ours ----


def test_a_zygote_killed_from_outside_does_not_change_the_results():
    with truth_pool(LIMITS, lanes=1) as pool:
        assert answer(pool, "return 0") == 0

        def jobs():
            for n in range(9):
                if n in (3, 6):
                    os.kill(outer_process(pool), signal.SIGKILL)
                yield job(f"return {n}")

        assert [result.records for result in pool.run(jobs())] == [(b"V%d" % n,) for n in range(9)]


def test_a_child_killed_from_outside_is_run_again_and_not_judged():
    with Pool(limits=Limits(cpu_seconds=0.6, wall_seconds=2), lanes=1) as pool:
        assert answer(pool, "return 1") == 1
        zygote = outer_process(pool)
        family = descendants(zygote)
        killed = []

        def kill():
            while not killed:
                for pid in descendants(zygote) - family:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

        killer = threading.Thread(target=kill)
        killer.start()
        result = one(pool, "while True: pass")
        killer.join()
        assert (len(killed), result.status) == (1, Status.CPU_LIMIT)
        assert outer_process(pool) != zygote


def test_a_closed_pool_leaves_no_process_behind():
    before = descendants(os.getpid())
    pool = truth_pool(LIMITS, lanes=2)
    list(pool.run([job("return 1", world=world) for world in (0, 1, 2)] * 2))
    started = descendants(os.getpid()) - before
    assert len(started) >= 3
    pool.close()
    assert gone(started)


def test_an_abandoned_stream_leaves_no_busy_child_behind():
    before = descendants(os.getpid())
    pool = truth_pool(Limits(cpu_seconds=60, wall_seconds=60), lanes=2)
    results = pool.run([job("return 1"), job("while True: pass"), job("return 1")])
    next(results)
    time.sleep(0.1)
    started = descendants(os.getpid()) - before
    results.close()
    pool.close()
    assert gone(started)


# ---- a sandbox with a layer taken out ----


@pytest.fixture(scope="module")
def weakened(tmp_path_factory):
    """A package of modules that break the zygote that loads them."""
    folder = tmp_path_factory.mktemp("weakened")
    package = folder / "weakened"
    package.mkdir()
    (package / "__init__.py").write_text("")
    refuse = "from sandbox import confine\ndef refuse(*_):\n    raise OSError(1, 'not permitted')\n"
    done = "def job(payload):\n    yield payload\n"
    (package / "crowded.py").write_text(
        refuse + "confine._new_namespaces = confine._landlock_everything = refuse\n" + done
    )
    (package / "unsealed.py").write_text("from sandbox import confine\nconfine.seal = lambda: None\n" + done)
    (package / "unsealable.py").write_text(refuse + "confine.seal = refuse\n" + done)
    (package / "broken.py").write_text("raise RuntimeError('it breaks at import')")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("weakened", None)


def test_without_namespaces_and_landlock_the_tier_is_b_and_everything_holds(weakened):
    with Pool(limits=LIMITS, lanes=1, modules=["weakened.crowded"]) as pool:
        protections = selfcheck.check(pool)
        assert (protections.tier, protections.failures()) == ("B", [])
        assert protections.layers["namespaces"] == "refused: not permitted"
        selfcheck.require(protections, "B")
        with pytest.raises(SandboxError, match=r"reaches tier B.*namespaces"):
            selfcheck.require(protections, "A")


def test_without_namespaces_a_closed_pool_leaves_no_busy_child_behind_either(weakened):
    before = descendants(os.getpid())
    pool = Pool(limits=Limits(cpu_seconds=60, wall_seconds=60), lanes=1, modules=["weakened.crowded"])
    results = pool.run([job("return 1"), job("while True: pass")])
    next(results)
    started = set()
    while len(started) < 2:
        started = descendants(os.getpid()) - before
    time.sleep(0.1)
    results.close()
    pool.close()
    assert gone(started)


def test_without_the_seal_the_tier_is_d_and_the_loop_refuses(pool, weakened):
    if pool.layers.states["namespaces"] != "on":
        pytest.skip("the attacks of the self-check are tried for real: not outside an empty root")
    with Pool(limits=LIMITS, lanes=1, modules=["weakened.unsealed"]) as open_pool:
        protections = selfcheck.check(open_pool)
        assert protections.tier == "D"
        assert {"signal_handler: ALLOWED", "clock: ALLOWED", "os_randomness: ALLOWED"} <= set(protections.failures())
        with pytest.raises(SandboxError, match="reaches tier D"):
            selfcheck.require(protections, "B")


def test_a_child_that_cannot_be_sealed_runs_nothing_and_is_our_failure(weakened):
    failure = pytest.raises(SandboxError, match="could not be sealed, 3 times")
    with Pool(limits=LIMITS, lanes=1, modules=["weakened.unsealable"]) as pool, failure:
        one(pool, "return 1")


def test_a_job_module_that_breaks_at_import_is_our_failure(weakened):
    with (
        Pool(limits=LIMITS, lanes=1, modules=["weakened.broken"]) as pool,
        pytest.raises(SandboxError, match="it breaks at import"),
    ):
        one(pool, "return 1")


@pytest.mark.parametrize("doze", ["modules['time'].sleep(99)", "while True: modules['time'].sleep(0.2)"])
def test_a_child_that_sleeps_all_the_same_ends_at_the_wall_limit(weakened, doze):
    with Pool(limits=LIMITS, lanes=1, modules=[*PURE_MODULES, "weakened.unsealed"]) as pool:
        if pool.layers.states["namespaces"] != "on":
            pytest.skip("nothing runs unsealed outside an empty root")
        assert answer(pool, "return 1") == 1
        started = time.monotonic()
        result = one(pool, doze, before=MODULES)
    assert (result.status, result.records) == (Status.WALL_LIMIT, ())
    assert result.cpu_seconds < 0.1
    assert time.monotonic() - started < 3 * LIMITS.wall_seconds


def test_modules_may_be_added_to_what_programs_import():
    with Pool(limits=LIMITS, lanes=1, modules=["calendar"]) as pool:
        assert answer(pool, "import calendar\nreturn calendar.isleap(2024)") is True


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look at another process's descriptors")
def test_a_child_holds_no_descriptor_however_many_its_supervisor_has():
    held = [os.dup(0) for _ in range(80)]
    try:
        with Pool(limits=Limits(), lanes=1) as pool:
            assert answer(pool, "return 1") == 1
            zygotes = {outer_process(pool), *descendants(outer_process(pool))}
            open_files, over = [], threading.Event()

            def look():
                while not over.is_set():
                    for pid in descendants(outer_process(pool)) - zygotes:
                        with contextlib.suppress(OSError):
                            open_files.append(os.listdir(f"/proc/{pid}/fd"))

            watcher = threading.Thread(target=look)
            watcher.start()
            result = one(pool, "while True: pass", limits=Limits())
            over.set()
            watcher.join()
        assert result.status == Status.CPU_LIMIT
        # Not the first look, before it has closed them, nor the last, when it may be gone.
        assert open_files[len(open_files) // 2] == []
    finally:
        for descriptor in held:
            os.close(descriptor)


# ---- what the machine has, and what a pool takes of it ----


@pytest.fixture
def machine(monkeypatch):
    """Says what the files hold that tell of memory; a file that is not named is not there."""

    def says(**files):
        by_path = {
            "/proc/meminfo": files.get("meminfo"),
            "/sys/fs/cgroup/memory.max": files.get("limit"),
            "/sys/fs/cgroup/memory.stat": files.get("stat"),
        }

        def read_text(path, *_, **__):
            if by_path.get(str(path)) is None:
                raise FileNotFoundError(path)
            return by_path[str(path)]

        monkeypatch.setattr(Path, "read_text", read_text)

    return says


MEMINFO = "MemTotal:        9000 kB\nMemFree:         100 kB\nMemAvailable:    5000 kB\nHugePages_Total:       0\n"
STAT = "anon 1000000\nfile 7000000\nslab 5\n"


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({"meminfo": MEMINFO}, 5000 * 1024),
        ({"meminfo": MEMINFO, "limit": "max\n", "stat": STAT}, 5000 * 1024),
        ({"meminfo": MEMINFO, "limit": "99000000\n", "stat": STAT}, 5000 * 1024),
        ({"meminfo": MEMINFO, "limit": "3000000\n", "stat": STAT}, 2_000_000),
        ({"meminfo": MEMINFO, "limit": "3000000\n"}, 5000 * 1024),
        ({"meminfo": MEMINFO, "limit": "900000\n", "stat": STAT}, 0),
    ],
    ids=["no cgroup", "no limit", "a wide limit", "a tight limit", "no word of use", "over the limit"],
)
def test_the_memory_available_is_the_less_of_what_the_machine_has_and_the_cgroup_allows(machine, files, available):
    machine(**files)
    assert available_bytes() == available


def test_the_memory_available_is_what_a_limit_of_ones_own_leaves():
    code = (
        "import resource; from sandbox.pool import available_bytes\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30)); print(available_bytes())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(found.stdout) < 2**30


def test_the_memory_available_is_some_and_not_more_than_there_is(machine):
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < available_bytes() <= total
    machine()  # no file tells anything
    assert 0 < available_bytes() <= total


def test_a_pools_cpu_time_grows_by_what_its_children_take_and_stays_when_it_is_closed():
    tick = 1 / os.sysconf("SC_CLK_TCK")
    with truth_pool(LIMITS, lanes=2) as pool:
        assert pool.cpu_seconds() == 0
        list(pool.run([job("return 1")] * 2))
        before = pool.cpu_seconds()
        results = list(pool.run([job("while True: pass")] * 2))
        burnt, during = sum(result.cpu_seconds for result in results), pool.cpu_seconds()
        assert [result.status for result in results] == [Status.CPU_LIMIT] * 2
        assert burnt > 0.7
        # A zygote takes some itself, and nothing is counted twice.
        assert burnt - 4 * tick <= during - before < 1.5 * burnt
    assert during <= pool.cpu_seconds() < before + 1.5 * burnt
    closed = pool.cpu_seconds()
    pool.close()
    assert pool.cpu_seconds() == closed


def test_a_pools_cpu_time_does_not_fall_when_a_lane_begins_anew():
    with truth_pool(Limits(cpu_seconds=9, wall_seconds=9), lanes=1) as pool:
        results = pool.run([job("return sum(range(3_000_000))"), job("while True: pass")])
        assert next(results).status == Status.FINISHED
        before = pool.cpu_seconds()
        results.close()  # ends the lane's zygotes
        after = pool.cpu_seconds()
        assert 0 < before <= after
        assert answer(pool, "return 2") == 2
        assert pool.cpu_seconds() > after
