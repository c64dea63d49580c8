"""The service and its client, in processes of their own: right verdicts for all callers, or a clear error for one."""

import asyncio
import contextlib
import copy
import http.client
import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from places import ROOT

from puzzles.puzzle import InputError, Verdict
from selfplay import judge
from selfplay.commands.main import main
from selfplay.config import SandboxConfig
from selfplay.judge import Judge, JudgeError, Pair, client, places
from selfplay.judge.service import DRAIN_SECONDS

PUZZLE = "def f(x: int):\n    return x * x == 1369"
RIGHT, WRONG = "def g():\n    return 37", "def g():\n    return 36"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Service:
    """`selfplay judge` in a process."""

    def __init__(self, *options, **variables):
        command = [sys.executable, "-m", "selfplay", "judge", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=ENVIRONMENT | variables, stdin=subprocess.DEVNULL, **pipes)
        self.address = self.process.stdout.readline().partition(" (")[0]

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.communicate(timeout=60)
        return self.process.returncode


@contextlib.contextmanager
def serving(*options, **variables):
    service = Service(*options, **variables)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            service.end()
        service.process.stdout.close()
        service.process.stderr.close()


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="judge-") as folder:  # the path of a socket has at most 107 bytes
        yield Path(folder)


@pytest.fixture(scope="module")
def service(folder):
    with serving("--socket", str(folder / "judge.sock")) as service:
        yield service


@pytest.fixture
def calling(service):
    with Judge(service.address) as calling:
        yield calling


def connected(service):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(service.address)
    return connection


def asked(service, body=b"", method="POST", path="/verify", **headers):
    """Status, headers and lines of a reply to a request written by hand."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connected(service)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        reply = connection.getresponse()
        return reply.status, dict(reply.getheaders()), [json.loads(line) for line in reply.read().splitlines()]


def line(solution=RIGHT, **more):
    return json.dumps({"puzzle": PUZZLE, "solution": solution, **more}).encode() + b"\n"


# ---- verdicts ----


def test_the_service_answers_as_verify_prints(service, tmp_path, capsys):
    pairs = [
        {"id": "a", "puzzle": PUZZLE, "solution": RIGHT}, {"id": [1, None], "puzzle": PUZZLE, "solution": WRONG},
        {"puzzle": PUZZLE, "solution": "I think\n```python\ndef g():\n    return 37\nprint(g())\n```"},
        {"name": "named", "puzzle": PUZZLE, "solution": "no program"}, {"puzzle": "none", "solution": RIGHT},
        {"puzzle": PUZZLE, "solution": "def g():\n    return '37'"}, {"puzzle": PUZZLE, "solution": "def g(): 1 / 0"},
    ]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    assert main(["verify", str(tmp_path / "pairs.jsonl"), "--worlds", "7"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    status, _, answered = asked(service, (tmp_path / "pairs.jsonl").read_bytes())
    assert status == 200
    assert [line["id"] for line in printed] == ["a", [1, None], 3, "named", 5, 6, 7]
    assert answered == [{**line, "cpu_ms": answer["cpu_ms"]} for line, answer in zip(printed, answered, strict=True)]


def test_a_client_gives_verdicts_in_order(calling):
    found = calling.verify([(PUZZLE, RIGHT), (PUZZLE, WRONG), {"puzzle": PUZZLE, "solution": RIGHT}])
    assert [(each.id, each.verdict, each.answer) for each in found] == [
        (0, Verdict.ACCEPTED, "37"), (1, Verdict.WRONG_ANSWER, "36"), (2, Verdict.ACCEPTED, "37"),
    ]  # fmt: skip


def test_many_pairs_of_one_call_keep_their_places(calling):
    found = calling.verify([(f"def f(x: int):\n    return x == {n % 7}", f"def g(): return {n}") for n in range(600)])
    assert [each.id for each in found if each.accepted] == list(range(7))


def test_a_continuation_is_read_as_one(calling):
    going_on = RIGHT + "\n\ndef f(x: str):\n    return True"
    assert calling.verify([Pair(PUZZLE, going_on, "continuation")])[0].accepted


def test_the_share_of_conjuncts_is_told_to_who_asks(calling):
    puzzle = "def f(x: int):\n    return x > 3 and x == 8"
    found = calling.verify([Pair(puzzle, "def g(): return 5", conjuncts=True), (puzzle, "def g(): return 5")])
    assert [each.conjuncts for each in found] == [0.5, None]


def test_an_event_loop_goes_on_while_it_waits(calling):
    async def both():
        ticks = []

        async def tick():
            while True:
                ticks.append(1)
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        found = await calling.averify([("def f(x: int): return x == 12", "def g(): return 12")])
        ticking.cancel()
        return found, len(ticks)

    found, ticks = asyncio.run(both())
    assert found[0].accepted
    assert ticks > 10


def test_threads_that_call_at_once_get_their_own_verdicts(calling):
    found = {}

    def call(number):
        found[number] = calling.verdict(f"def f(x: int): return x == {number % 10}", f"def g(): return {number}")

    threads = [threading.Thread(target=call, args=[number]) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(number for number, each in found.items() if each.accepted) == list(range(10))
    assert len(found) == 64


def accepted_in(calling, queue):
    queue.put(calling.verdict(PUZZLE, RIGHT).accepted)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_another_process_may_use_the_same_client(calling, method):
    assert calling.verdict(PUZZLE, RIGHT).accepted  # it has threads and connections by now
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=accepted_in, args=[calling, queue])
    process.start()
    assert queue.get(timeout=60)
    process.join()
    assert calling.verdict(PUZZLE, WRONG).verdict == Verdict.WRONG_ANSWER


def test_a_list_of_verdicts_is_a_table(calling):
    pandas = pytest.importorskip("pandas", reason="the table needs pandas")
    frame = pandas.DataFrame(calling.verify([(PUZZLE, RIGHT), (PUZZLE, WRONG)]))
    assert list(frame["verdict"]) == ["accepted", "wrong_answer"]
    assert list(frame.columns[:5]) == ["id", "verdict", "detail", "answer", "cpu_ms"]


# ---- input that is wrong ----


@pytest.mark.parametrize("given", [None, "text", (PUZZLE,), (PUZZLE, None), (1, 2), 5])
def test_what_is_no_pair_is_refused_before_anything_is_sent(given):
    with Judge("/nowhere/judge.sock") as calling, pytest.raises(InputError, match="expected a puzzle's text"):
        calling.verify([given])


def test_what_was_given_in_place_of_a_text_is_named():
    with Judge("/nowhere/judge.sock") as calling, pytest.raises(InputError, match=r"got tuple of str, NoneType$"):
        calling.verify([(PUZZLE, None)])


def test_a_mapping_without_a_solution_is_refused():
    with Judge("/nowhere/judge.sock") as calling, pytest.raises(InputError, match=r"a pair: .*solution"):
        calling.verify([{"puzzle": PUZZLE}])


@pytest.mark.parametrize(
    "address", ["judge", "https://judge:80", "http://judge", "http://judge:80/verify", "http://[:1"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(InputError, match="expected the path of a socket or http://HOST:PORT"):
        Judge(address)


def test_limits_beside_an_address_are_refused():
    with pytest.raises(InputError, match="has limits of its own"):
        Judge("/nowhere/judge.sock", sandbox=SandboxConfig())


def test_no_service_at_the_address_is_said_at_once(tmp_path):
    with Judge("/nowhere/judge.sock") as calling, pytest.raises(JudgeError, match=r"there is no service.*nothing was"):
        calling.verdict(PUZZLE, RIGHT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with (
        Judge(f"http://127.0.0.1:{port}") as calling,
        pytest.raises(JudgeError, match="start one with `selfplay judge`"),
    ):
        calling.verdict(PUZZLE, RIGHT)


def test_a_service_of_another_version_is_an_error(service, calling, monkeypatch):
    monkeypatch.setattr(client, "version", lambda: "99.0")
    with pytest.raises(JudgeError, match=f"has version {places.version()}, this is version 99.0"):
        calling.verdict(PUZZLE, RIGHT)
    status, _, (told,) = asked(service, line(), **{places.VERSION_HEADER: "99.0"})
    assert status == 409
    assert "the client has version 99.0" in told["error"]


def stranger(answer):
    """A server at a free port that is no judge: it gives one answer."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return listening


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "what answers there is no judge"),
        (b"HTTP/1.1 200 OK\r\nSelfplay-Version: %s\r\nContent-Length: 2\r\n\r\nhi", "an answer that is none"),
        (b"HTTP/1.1 200 OK\r\nSelfplay-Version: %s\r\nContent-Length: 0\r\n\r\n", "0 answers to 1 questions"),
        (b'HTTP/1.1 200 OK\r\nSelfplay-Version: %s\r\nContent-Length: 22\r\n\r\n{"verdict":"accepted"}', "is none"),
        (b'HTTP/1.1 200 OK\r\nSelfplay-Version: %s\r\nContent-Length: 16\r\n\r\n{"verdict":"yes"', "that is none"),
        (b"HTTP/1.1 418 I\r\nSelfplay-Version: %s\r\nContent-Length: 15\r\n\r\n" b'{"error":"tea"}', "refused.*tea"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_no_verdict(answer, told):
    content = answer.replace(b"%s", places.version().encode())
    with (
        stranger(content) as listening,
        Judge(f"http://127.0.0.1:{listening.getsockname()[1]}") as calling,
        pytest.raises(JudgeError, match=told),
    ):
        calling.verdict(PUZZLE, RIGHT)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "line 1: expected an object"),
        (line() + b'{"puzzle": 5, "solution": ""}', "line 2: expected a text under 'puzzle', got 5"),
        (line(form="poem"), "line 1: expected program or continuation or chat under 'form', got 'poem'"),
        (b"[" * 100_000, "line 1: expected an object"),
        (b'"\xff"', "line 1: expected an object"),
        (b"\n\n", "got none"),
        (b"", "got none"),
    ],
    ids=["broken", "number", "form", "deep", "bytes", "empty lines", "nothing"],
)
def test_a_body_with_anything_wrong_is_refused_whole(service, body, told):
    before = asked(service, method="GET", path="/")[2][0]["judged"]
    status, _, (answer,) = asked(service, body)
    assert status == 400
    assert told in answer["error"]
    assert asked(service, method="GET", path="/")[2][0]["judged"] == before


def test_texts_of_ten_megabytes_have_a_verdict_and_hold_up_nobody(calling):
    found = calling.verify([("x" * 10**7, RIGHT), (PUZZLE, "x" * 10**7), (PUZZLE, RIGHT)])
    assert [each.verdict for each in found] == [Verdict.INVALID_PUZZLE, Verdict.INVALID_SOLUTION, Verdict.ACCEPTED]
    assert "too_long" in found[0].detail


def test_what_is_too_much_for_a_request_is_said_before_it_is_sent(calling):
    with pytest.raises(JudgeError, match=r"pair 1 is too large to be sent .* nothing was scored"):
        calling.verify([(PUZZLE, RIGHT), (PUZZLE, "x" * 40_000_000)])
    assert calling.verdict(PUZZLE, RIGHT).accepted


def test_a_larger_request_is_refused_and_the_reply_is_seen(service):
    status, _, (answer,) = asked(service, b"x" * (33 * 1024**2))
    assert status == 413
    assert "expected at most 33,554,432 bytes" in answer["error"]


def test_more_pairs_than_a_request_may_have_are_refused(service):
    assert asked(service, b"".join(line(id=n) for n in range(10_001)))[0] == 413


# ---- callers ----


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "127.0.0.1:8090"}, 200),
        ({"Host": "[::1]:8090"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
    ids=lambda each: str(each),
)
def test_only_callers_of_this_machine_are_answered(service, headers, status):
    found, _, lines = asked(service, line(), **headers)
    assert found == status
    assert ("verdict" in lines[0]) == (status == 200)


@pytest.mark.parametrize("path", ["/", "/verify/", "/verify?x", "/other"])
def test_another_address_is_refused(service, path):
    assert asked(service, line(), path=path)[0] == 404


def test_the_service_says_what_it_is(service):
    status, headers, (state,) = asked(service, method="GET", path="/")
    assert status == 200
    assert headers[places.VERSION_HEADER] == state["version"] == places.version()
    assert (state["service"], state["tier"] in ("A", "B"), state["limits"]["cpu_seconds"]) == (
        "selfplay judge",
        True,
        1,
    )


def test_a_large_body_may_wait_for_a_sign(service):
    with connected(service) as caller:
        body = line()
        caller.sendall(
            b"POST /verify HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        assert caller.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(body)
        assert caller.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("share", [0, 1, 30, 10_000], ids=["head", "one", "half", "whole"])
def test_a_caller_who_goes_away_disturbs_nobody(service, calling, share):
    body = line(f"def g():\n    return {share}")
    with connected(service) as caller:
        caller.sendall(
            b"POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:share]
        )
    assert calling.verdict(PUZZLE, RIGHT).accepted


@pytest.fixture
def many_files():
    """This process may open more than a thousand files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], min(before[1], 4096)), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_thousand_callers_at_once_are_all_answered(service, many_files):
    numbers = range(1000)
    callers = [connected(service) for _ in numbers]
    for number, caller in zip(numbers, callers, strict=True):
        body = json.dumps({"puzzle": "def f(x: int): return x == 3", "solution": f"g = {number % 9}"}).encode()
        caller.sendall(b"POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    for number, caller in zip(numbers, callers, strict=True):
        with caller:
            reply = caller.recv(4096)
        assert reply.startswith(b"HTTP/1.1 200 OK")
        assert (b'"accepted"' in reply) == (number % 9 == 3)


# ---- the life of a service ----


def test_a_service_that_was_killed_and_begun_again_is_found_again(folder):
    place = str(folder / "again.sock")
    with Judge(place) as calling:
        with serving("--socket", place) as first:
            assert calling.verdict(PUZZLE, RIGHT).accepted
            assert first.end(signal.SIGKILL) == -signal.SIGKILL
        with serving("--socket", place):  # the socket of the killed one was left behind
            assert calling.verdict(PUZZLE, WRONG).verdict == Verdict.WRONG_ANSWER


def test_a_service_that_never_comes_back_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 1.0)
    place = str(folder / "gone.sock")
    with serving("--socket", place) as service, Judge(place) as calling:
        assert calling.verdict(PUZZLE, RIGHT).accepted
        assert service.end() == 0
        with pytest.raises(JudgeError, match=r"there is no service.* nothing was scored"):
            calling.verdict(PUZZLE, WRONG)


def test_sigterm_ends_the_service_when_what_it_took_is_answered(folder):
    with (
        serving("--socket", str(folder / "drained.sock"), "--cpu-seconds", "2") as service,
        connected(service) as caller,
    ):
        body = line("def g():\n    n = 0\n    while n < 10 ** 6:\n        n += 1\n    return 37")
        caller.sendall(b"POST /verify HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        while not asked(service, method="GET", path="/")[2][0]["undecided"]:
            threading.Event().wait(0.05)
        begun = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - begun < DRAIN_SECONDS  # the caller's connection is still open, but has its answer
        assert b'"accepted"' in caller.recv(4096)
        assert not os.path.exists(service.address)


def test_a_service_that_ends_says_nothing_of_callers_who_are_still_connected(folder):
    with (
        serving("--socket", str(folder / "left.sock"), "--worlds", "7") as service,
        connected(service) as idle,
        connected(service) as begun,
    ):
        begun.sendall(b"POST /verify HTTP/1.1\r\n")
        assert asked(service, line())[0] == 200
        service.process.terminate()
        assert service.process.communicate(timeout=60) == ("", "")
        assert service.process.returncode == 0
        assert (idle.recv(1), begun.recv(1)) == (b"", b"")


@pytest.mark.parametrize("variable", ["XDG_RUNTIME_DIR", "TMPDIR"])
def test_the_usual_socket_is_the_one_that_the_help_names(folder, variable, monkeypatch, capsys):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setenv(variable, str(folder))
    usual = folder / f"selfplay-{os.geteuid()}" / "judge.sock"
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["judge", "--help"])
    assert f"(default: {usual})" in capsys.readouterr().out
    environment = {"XDG_RUNTIME_DIR": "", variable: str(folder)}
    with serving(**environment) as service:
        assert service.address == str(usual)
        assert usual.parent.stat().st_mode & 0o777 == 0o700


def test_a_usual_socket_in_a_folder_that_others_can_open_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / f"selfplay-{os.geteuid()}").mkdir(mode=0o755)
    assert main(["judge"]) == 2
    assert "expected a folder that only you can open" in capsys.readouterr().err
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert main(["judge"]) == 2
    assert "No such file or directory: name another place with --socket" in capsys.readouterr().err


def test_a_second_service_does_not_take_the_place_of_the_first(service, capsys):
    assert main(["judge", "--socket", service.address]) == 2
    assert "a judge serves there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--host", "0.0.0.0"], "--host: expected --port beside it"),
        (["--host", "0.0.0.0", "--port", "0"], "others can reach this address: set SELFPLAY_JUDGE_TOKEN"),
        (["--socket", "a", "--port", "0"], "--socket and --port: expected one of the two"),
        (["--port", "70000"], "--port 70000: expected at most 65535"),
        (["--socket", "/" + "a" * 120], "at most 107 bytes"),
        (["--socket", "/nowhere/judge.sock"], "cannot listen there (No such file or directory)"),
        (["--socket", "/etc/passwd"], "something else is there"),
        (["--port", "0", "--module", "nonesuch"], "no module named 'nonesuch'"),
    ],
)
def test_a_service_that_cannot_be_is_refused_in_one_line(arguments, told, capsys):
    assert main(["judge", *arguments]) == 2
    (only,) = capsys.readouterr().err.splitlines()
    assert told in only


def test_others_need_the_token(folder):
    token = "correct horse battery staple"
    with serving("--port", "0", "--host", "0.0.0.0", SELFPLAY_JUDGE_TOKEN=token) as service:
        address = service.address.replace("0.0.0.0", "127.0.0.1")
        with Judge(address, token=token) as calling:
            assert calling.verdict(PUZZLE, RIGHT).accepted
        for wrong in (None, "another", token[:-1]):
            with Judge(address, token=wrong) as calling, pytest.raises(JudgeError, match="expected the token"):
                calling.verdict(PUZZLE, RIGHT)


def test_a_client_starts_a_service_and_ends_it(monkeypatch):
    monkeypatch.delenv(places.ADDRESS_VARIABLE, raising=False)
    with Judge(sandbox=SandboxConfig(cpu_seconds=0.5, modules=("json",))) as calling:
        assert calling.verdict(PUZZLE, "import json\ndef g():\n    return json.loads('37')").accepted
        assert copy.copy(calling).address == calling.address  # as it is pickled
        process = calling._own._process
        process.kill()
        process.wait()
        assert calling.verdict(PUZZLE, WRONG).verdict == Verdict.WRONG_ANSWER  # by another one
        process, place = calling._own._process, calling.address
    assert process.returncode == 0
    assert not os.path.exists(os.path.dirname(place))


def test_a_service_that_cannot_start_says_why(monkeypatch):
    monkeypatch.delenv(places.ADDRESS_VARIABLE, raising=False)
    with (
        Judge(sandbox=SandboxConfig(modules=("nonesuch",))) as calling,
        pytest.raises(JudgeError, match=r"ended with status 2: .*no module named 'nonesuch'"),
    ):
        calling.verdict(PUZZLE, RIGHT)


def test_a_service_ends_with_the_process_that_started_it(monkeypatch):
    code = f"from selfplay import judge\nprint(judge.verify([({PUZZLE!r}, {RIGHT!r})])[0].verdict)\n"
    code += "print(judge.client._Usual.judge.address, flush=True)\nimport os\nos._exit(0)\n"
    environment = {name: value for name, value in ENVIRONMENT.items() if name != places.ADDRESS_VARIABLE}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    verdict, place = done.stdout.split()
    assert verdict == "accepted"
    for _ in range(600):
        if not os.path.exists(place):
            break
        threading.Event().wait(0.1)
    assert not os.path.exists(place)


def test_verify_of_the_module_uses_the_service_of_the_environment(service, monkeypatch):
    monkeypatch.setenv(places.ADDRESS_VARIABLE, service.address)
    monkeypatch.setattr(client._Usual, "judge", None)
    assert judge.verify([(PUZZLE, RIGHT)])[0].accepted
    assert client._Usual.judge.address == service.address
    client._Usual.judge.close()
