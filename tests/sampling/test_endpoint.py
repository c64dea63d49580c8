"""Servers as samplers: a server here plays what real ones do, good and bad; one test asks a real one."""

import asyncio
import contextlib
import gzip
import importlib.util
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2 as httpx
import pytest
from interrupted import descendants, still_running
from scripted_run import puzzle_files

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from sandbox import selfcheck
from selfplay.commands.main import main
from selfplay.config import EndpointConfig, SendConfig
from selfplay.iteration.record_table import cost_table
from selfplay.run.rundir import RunDir
from selfplay.sampling import endpoint, serving
from selfplay.sampling.ahead import Abandoned
from selfplay.sampling.endpoint import Endpoint, EndpointFailed
from selfplay.sampling.prompts import Prompt
from selfplay.sampling.sampler import Completion, SamplingSettings
from selfplay.sampling.serving import ManagedServer, ServerDied

SETTINGS = SamplingSettings(temperature=0.8, top_p=0.9, max_tokens=20, batch_rows=4)
CUT, HANG = "cut", "hang"


def prompt(text, chat=False):
    return Prompt(text, chat, "" if chat else "def f(")


def answer(*texts, ends="stop", tokens=None):
    choices = [{"text": text, "finish_reason": ends, "index": place} for place, text in enumerate(texts)]
    usage = {"prompt_tokens": 7, "completion_tokens": 5 * len(texts) if tokens is None else tokens}
    return 200, {}, json.dumps({"choices": choices, "usage": usage}).encode()


def echo(body, number):
    """Texts that say what was asked."""
    return answer(*[f"{body['prompt']}/{body['seed']}/{copy}" for copy in range(body.get("n", 1))])


class Played:
    """A server that answers as a function says, given the body and the number of the request."""

    def __init__(self, play):
        self.bodies, self.paths, self.keys, self.most = [], [], [], 0
        self._now, self._lock, self._over = 0, threading.Lock(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                self.reply(200, {}, b'{"data": [{"id": "tiny"}]}')

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    outer.bodies.append(body)
                    outer.paths.append(self.path)
                    outer.keys.append(self.headers.get("authorization"))
                    outer._now += 1
                    outer.most = max(outer.most, outer._now)
                    number = len(outer.bodies)
                try:
                    played = play(body, number)
                    if played == HANG:
                        outer._over.wait(20)
                    elif played == CUT:
                        self.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{"choices": [')
                        self.close_connection = True
                    else:
                        self.reply(*played)
                finally:
                    with outer._lock:
                        outer._now -= 1

            def reply(self, status, headers, content):
                self.send_response(status)
                for name, value in {**headers, "content-length": len(content)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self._over.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def played():
    """Begins servers."""
    with contextlib.ExitStack() as stack:

        def begin(play=echo):
            server = Played(play)
            stack.callback(server.close)
            return server

        yield begin


PROVE = Endpoint.prove


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No long pauses, and no proofs but where they are what is tested."""
    monkeypatch.setattr(endpoint, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(Endpoint, "prove", lambda self, url: None)


def endpoint_of(*servers, **config):
    return Endpoint(EndpointConfig(**{"concurrent_requests": 4, **config}), [s.url for s in servers], "hash")


def texts(sampled):
    return [[completion.text for completion in row] for row in sampled.completions_P_K]


# ---- what is asked ----


def test_a_request_is_the_prompt_with_the_settings_and_a_seed_of_its_place(played):
    server = played()
    endpoint_of(server).sample([prompt("def f(")], 1, SETTINGS, [1, 2])
    (body,) = server.bodies
    seed = body.pop("seed")
    assert 0 <= seed < 2**31
    assert server.paths == ["/v1/completions"]
    assert body == {
        "model": "tiny", "prompt": "def f(", "max_tokens": 20, "temperature": 0.8, "top_p": 0.9,
        "stop": ["\ndef ", "\nclass ", "\n#", "\nprint("],
    }  # fmt: skip


def test_a_chat_is_asked_with_a_message_and_no_stops(played):
    reply = {"choices": [{"message": {"content": "```\nx\n```"}, "finish_reason": "length"}]}
    reply["usage"] = {"prompt_tokens": 3, "completion_tokens": 4}
    server = played(lambda body, number: (200, {}, json.dumps(reply).encode()))
    sampled = endpoint_of(server).sample([prompt("Write.", chat=True)], 1, SETTINGS, [1])
    assert sampled.completions_P_K == [[Completion("```\nx\n```", 4, finished=False)]]
    assert server.paths == ["/v1/chat/completions"]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Write."}]
    assert "stop" not in server.bodies[0]


def test_completions_come_in_the_order_of_the_prompts_with_seeds_of_their_own_that_are_the_same_again(played):
    server = played(lambda body, number: time.sleep(0.03 * (number % 3)) or echo(body, number))
    asked = [prompt(name) for name in "abc"]
    first, again = (endpoint_of(server).sample(asked, 3, SETTINGS, [4, 2]) for _ in range(2))
    assert texts(first) == texts(again)
    assert [[text[0] for text in row] for row in texts(first)] == [["a"] * 3, ["b"] * 3, ["c"] * 3]
    assert len({text.split("/")[1] for row in texts(first) for text in row}) == 9
    assert texts(first) != texts(endpoint_of(server).sample(asked, 3, SETTINGS, [4, 3]))


def test_several_candidates_are_asked_for_at_once(played):
    server = played()
    done = []
    sampled = endpoint_of(server, candidates_per_request=4).sample([prompt("a")], 10, SETTINGS, [1], done.append)
    assert sorted(body.get("n", 1) for body in server.bodies) == [2, 4, 4]
    assert sum(done) == len(sampled.completions_P_K[0]) == 10
    assert (sampled.tokens, sampled.prompt_tokens) == (50, 21)


@pytest.mark.parametrize(("ends", "finished"), [("stop", True), ("length", False), ("content_filter", False)])
def test_what_was_cut_counts_as_truncated(played, ends, finished):
    asked = endpoint_of(played(lambda body, number: answer("x", ends=ends)))
    (((completion,),)) = asked.sample([prompt("a")], 1, SETTINGS, [1]).completions_P_K
    assert completion == Completion("x", 5, finished)


def test_a_server_that_knows_nothing_of_several_is_asked_for_the_others_one_by_one(played):
    server = played(lambda body, number: answer(f"{body['seed']}"))
    asked = endpoint_of(server, candidates_per_request=4, concurrent_requests=1)
    sampled = asked.sample([prompt("a")], 8, SETTINGS, [1])
    assert len({*texts(sampled)[0]}) == 8
    again = asked.sample([prompt("a")], 8, SETTINGS, [1])
    assert texts(again) == texts(sampled)
    assert "n" not in server.bodies[-1]
    assert len(server.bodies) == 16


def test_no_more_requests_are_out_than_may_be(played):
    server = played(lambda body, number: time.sleep(0.02) or echo(body, number))
    endpoint_of(server, concurrent_requests=3).sample([prompt("a")], 12, SETTINGS, [1])
    assert server.most == 3


def test_several_servers_share_the_work(played):
    servers = [played(lambda body, number: time.sleep(0.02) or echo(body, number)) for _ in range(2)]
    sampled = endpoint_of(*servers).sample([prompt("a")], 12, SETTINGS, [1])
    assert len(texts(sampled)[0]) == 12
    assert all(len(server.bodies) >= 4 for server in servers)


def test_tokens_of_several_candidates_add_up_to_what_the_server_says(played):
    server = played(lambda body, number: answer("a", "b", "c", tokens=10))
    sampled = endpoint_of(server, candidates_per_request=3).sample([prompt("a")], 3, SETTINGS, [1])
    assert [each.tokens for each in sampled.completions_P_K[0]] == [4, 3, 3]


# ---- what counts as a sample ----


def sometimes(cut):
    """A chat model that is right in 13 of 20 replies; in the others it does what `cut` does."""

    def play(body, number):
        if number % 20 < 13:
            return thinking(body, "```python\ndef g():\n    return 37\n```")
        return cut(body)

    return play


CUTS = {
    "no key for the content": lambda body: choice({"message": {"role": "assistant", "reasoning": "I"}}, "length"),
    "no message": lambda body: choice({}, "length"),
    "a content of null": lambda body: thinking(body, None, "I think", "length"),
    "an empty content": lambda body: thinking(body, ""),
    "only parts of thoughts": lambda body: thinking(body, [{"type": "thinking", "thinking": "I"}], "", "max_tokens"),
    "a refusal": lambda body: choice({"message": {"content": None, "refusal": "No."}}, "content_filter"),
    "a call of a tool": lambda body: choice({"message": {"content": None, "tool_calls": []}}, "tool_calls"),
}


def choice(parts, ends):
    return 200, {}, json.dumps({"choices": [{**parts, "finish_reason": ends}]}).encode()


@pytest.mark.parametrize("what", CUTS)
def test_every_finished_reply_is_a_sample(played, what):
    server = played(sometimes(CUTS[what]))
    asked = endpoint_of(server)
    sampled = asked.sample([prompt("Write.", chat=True)], 100, SETTINGS, [1])
    assert len(server.bodies) == 100
    assert sum(bool(text) for text in texts(sampled)[0]) == 65
    assert (asked.troubles, sampled.asked_again) == ({}, 0)


def test_what_a_server_does_not_tell_is_counted(played, caplog):
    usage = {"prompt_tokens": 7, "completion_tokens": 5}

    def play(body, number):
        told = {"usage": usage} if number % 2 else {}
        return 200, {}, json.dumps({"choices": [{"text": "x", "finish_reason": None}], **told}).encode()

    sampled = endpoint_of(played(play), concurrent_requests=1).sample([prompt("a")], 4, SETTINGS, [1])
    assert [completion.tokens for completion in sampled.completions_P_K[0]] == [5, None, 5, None]
    assert (sampled.tokens, sampled.prompt_tokens) == (10, 14)
    assert sampled.not_told == {"tokens": 2, "prompt_tokens": 2, "ends": 4}
    assert "recorded as not known: tokens (2), prompt tokens (2), ends (4)" in caplog.text


def test_how_often_it_was_asked_again_is_told(played, caplog):
    server = played(lambda body, number: (503, {}, b"") if number in (2, 3) else echo(body, number))
    sampled = endpoint_of(server, concurrent_requests=1).sample([prompt("a")], 3, SETTINGS, [1])
    assert sampled.asked_again == 2
    assert "2 requests were sent again; failures so far: status 503 (2)" in caplog.text


# ---- what is sent ----


def test_parameters_are_renamed_or_left_out_and_this_is_recorded(played):
    server = played(lambda body, number: answer("x"))
    send = SendConfig(max_tokens="max_completion_tokens", seed="", temperature="", top_p="", stop="")
    asked = endpoint_of(server, send=send)
    asked.sample([prompt("a")], 1, SETTINGS, [1])
    assert server.bodies == [{"model": "tiny", "prompt": "a", "max_completion_tokens": 20}]
    assert asked.description["left_out"] == ["temperature", "top_p", "seed", "stop"]
    assert asked.description["renamed"] == {"max_tokens": "max_completion_tokens"}


def test_a_usual_server_is_described_as_ever(played):
    assert endpoint_of(played()).description == {
        "engine": "endpoint", "served_model": "tiny", "device": "endpoint", "dtype": "as served", "threads": 0,
        "versions": {},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "max_tokens"),
        ("`temperature` and `top_p` cannot both be specified", "temperature"),
        ("[{'loc': ['body', 'seed'], 'msg': 'Extra inputs are not permitted'}]", "seed"),
    ],
)
def test_a_parameter_that_is_refused_is_told_with_the_setting_that_helps(played, said, advice):
    server = played(lambda body, number: (422, {}, json.dumps({"detail": said}).encode()))
    with pytest.raises(InputError, match=rf"endpoint\.send\.{advice} \(bench: --send {advice}=OTHER\) renames it"):
        endpoint_of(server).sample([prompt("a")], 1, SETTINGS, [1])


def refusing_several(status):
    def play(body, number):
        several = body.get("n", 1) > 1
        return (status, {}, b'{"error": {"message": "only one choice is allowed"}}') if several else echo(body, number)

    return play


@pytest.mark.parametrize("status", [400, 404, 422])
def test_a_server_that_refuses_several_is_asked_one_by_one(played, status):
    server = played(refusing_several(status))
    asked = endpoint_of(server, candidates_per_request=4, concurrent_requests=1)
    sampled = asked.sample([prompt("a"), prompt("b")], 8, SETTINGS, [1])
    assert [text[0] for row in texts(sampled) for text in row] == ["a"] * 8 + ["b"] * 8
    assert len({text for row in texts(sampled) for text in row}) == 16
    assert sum("n" in body for body in server.bodies) == 1
    assert asked.description["one_by_one"]


@pytest.mark.parametrize("status", [400, 500])
def test_the_proof_shows_whether_several_are_refused(played, proved, status):
    server = played(refusing_several(status))
    asked = proof_of(server, chats=False, candidates_per_request=4)
    assert asked.description["one_by_one"]
    assert "one_by_one" not in proof_of(played(), chats=False, candidates_per_request=4).description


def test_what_is_refused_one_by_one_too_is_wrong_input(played):
    server = played(lambda body, number: (400, {}, b"no such model"))
    with pytest.raises(InputError, match="400: no such model"):
        endpoint_of(server, candidates_per_request=4).sample([prompt("a")], 8, SETTINGS, [1])


def test_several_are_not_asked_for_where_n_is_left_out(played):
    server = played()
    asked = endpoint_of(server, candidates_per_request=4, send=SendConfig(n=""))
    assert len(texts(asked.sample([prompt("a")], 3, SETTINGS, [1]))[0]) == len(server.bodies) == 3


# ---- the key ----


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(played, monkeypatch, caplog):
    monkeypatch.setenv("THE_KEY", "sk-secret")
    server = played()
    asked = endpoint_of(server, key_variable="THE_KEY")
    with caplog.at_level(logging.DEBUG):
        asked.sample([prompt("a")], 1, SETTINGS, [1])
    assert server.keys == ["Bearer sk-secret"]
    assert "sk-secret" not in caplog.text + str(asked.description)


def test_a_key_that_is_not_taken_is_wrong_input_and_not_shown(played, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = played(lambda body, number: (401, {}, b'{"error": {"message": "no such key"}}'))
    with pytest.raises(InputError, match=r"401: no such key: check the key in \$OPENAI_API_KEY") as raised:
        endpoint_of(server).sample([prompt("a")], 1, SETTINGS, [1])
    assert "sk-secret" not in str(raised.value)


@pytest.mark.parametrize("status", [400, 401, 503])
def test_a_key_that_a_server_tells_back_is_not_told_on(played, monkeypatch, status):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server = played(lambda body, number: (status, {}, b'{"error": {"message": "no such key: Bearer sk-secret"}}'))
    with pytest.raises((InputError, EndpointFailed), match=r"no such key: Bearer \(the key\)") as raised:
        endpoint_of(server, attempts=1).sample([prompt("a")], 1, SETTINGS, [1])
    assert "sk-secret" not in str(raised.value)


def test_a_key_with_a_new_line_behind_it_is_the_key(played, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " sk-secret\r\n")
    server = played()
    endpoint_of(server).sample([prompt("a")], 1, SETTINGS, [1])
    assert server.keys == ["Bearer sk-secret"]


@pytest.mark.parametrize("key", ["sk-\nsecret", "sk-sécret", "sk-\x00secret"])
def test_a_key_that_can_be_none_is_wrong_input_and_not_shown(monkeypatch, key):
    with contextlib.suppress(ValueError):  # the environment itself takes no null
        monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setattr(endpoint.os, "environ", {"OPENAI_API_KEY": key})
    with pytest.raises(
        InputError, match=r"\$OPENAI_API_KEY: expected a key of printable ASCII characters, it has others"
    ) as raised:
        Endpoint(EndpointConfig(), ["http://127.0.0.1:9/v1"], "hash")
    assert "secret" not in str(raised.value)


# ---- what goes wrong ----

BAD = {
    "too many requests": ((429, {"retry-after": "0.01"}, b"slow down"), "status 429"),
    "broken for a moment": ((500, {}, b"oops"), "status 500"),
    "html instead of JSON": ((200, {}, b"<html>busy</html>"), "malformed answer"),
    "another shape": ((200, {}, b'{"choices": []}'), "malformed answer"),
    "a text that is a number": ((200, {}, answer(7)[2]), "malformed answer"),
    "an error in place of an answer": ((200, {}, b'{"error": "upstream"}'), "an error in place of an answer"),
    "given up by the server": ((200, {}, answer("half", ends="abort")[2]), "broken off"),
    "a refusal that is nested too deep": ((500, {}, b"[" * 50_000), "status 500"),
    "cut off in the middle": (CUT, "connection lost"),
    "no answer at all": (HANG, "no answer in time"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_answer_is_asked_again_and_never_scored(played, what):
    bad, kind = BAD[what]
    server = played(lambda body, number: bad if number <= 2 else echo(body, number))
    asked = endpoint_of(server, concurrent_requests=1, request_seconds=2 if bad == HANG else 20)
    sampled = asked.sample([prompt("a")], 2, SETTINGS, [1])
    assert [text[:2] for text in texts(sampled)[0]] == ["a/", "a/"]
    assert asked.troubles == {kind: 2}
    assert server.bodies[0] == server.bodies[1] == server.bodies[2]


@pytest.mark.parametrize("what", BAD)
def test_a_server_that_never_answers_ends_it(played, what):
    server = played(lambda body, number: BAD[what][0])
    asked = endpoint_of(server, attempts=2, request_seconds=0.2 if BAD[what][0] == HANG else 20, model="tiny")
    named = r"candidate [12] of prompt 1, 'def f\(x: int\):'"
    with pytest.raises(EndpointFailed, match=f"{named}: no answer in 2 tries, the last failure: {BAD[what][1]}"):
        asked.sample([prompt("def f(x: int):\n    return x > 7\n\ndef g():")], 2, SETTINGS, [1])


def test_a_server_is_given_the_time_it_asks_for(played):
    server = played(lambda body, number: (429, {"retry-after": "0.4"}, b"") if number == 1 else echo(body, number))
    started = time.monotonic()
    endpoint_of(server).sample([prompt("a")], 1, SETTINGS, [1])
    assert time.monotonic() - started >= 0.4


def test_the_others_do_the_work_of_a_server_that_fails(played, caplog):
    broken, whole = played(lambda body, number: (503, {}, b"")), played()
    asked = endpoint_of(broken, whole, attempts=2)
    assert len(texts(asked.sample([prompt("a")], 9, SETTINGS, [1]))[0]) == 9
    assert caplog.text.count("no answer in 2 tries") == 1
    before = len(broken.bodies)
    asked.sample([prompt("a")], 9, SETTINGS, [2])
    assert len(broken.bodies) == before


def test_what_a_server_refuses_is_wrong_input_with_its_words(played):
    server = played(lambda body, number: (400, {}, b'{"error": {"message": "too long:\\n9 tokens"}}'))
    with pytest.raises(InputError, match=r"candidate [123] of prompt 1, 'a': .* 400: too long: 9 tokens$"):
        endpoint_of(server).sample([prompt("a")], 3, SETTINGS, [1])


def test_work_that_nobody_waits_for_is_given_up(played):
    server = played(lambda body, number: time.sleep(0.01) or echo(body, number))

    def progress(done):
        raise Abandoned

    with pytest.raises(Abandoned):
        endpoint_of(server).sample([prompt("a")], 400, SETTINGS, [1], progress)
    assert len(server.bodies) < 20


@pytest.mark.parametrize("url", ["http://[::1/v1", "https://☃.example/v1", "http://"])
def test_an_address_that_is_none_is_said(url):
    with pytest.raises(EndpointFailed):
        Endpoint(EndpointConfig(request_seconds=2), [url], "hash")


def test_a_server_that_says_a_byte_now_and_then_has_no_longer_to_prove_itself(played, proved, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, args=(listening,), daemon=True).start()
        started = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with pytest.raises(EndpointFailed, match="no answer in 1 tries, the last failure: TimeoutError"):
            Endpoint(EndpointConfig(model="m", attempts=1, request_seconds=0.5), [url], "hash")
    assert time.monotonic() - started < 10


def drip(listening):
    with contextlib.suppress(OSError):
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n")
            while True:
                connection.sendall(b" ")
                time.sleep(0.05)


def test_nobody_there_is_said(tmp_path):
    with pytest.raises(EndpointFailed, match=r"http://127.0.0.1:9/v1/models: .*refused|failed"):
        Endpoint(EndpointConfig(), ["http://127.0.0.1:9/v1"], "hash")


# ---- proofs ----


@pytest.fixture
def proved(monkeypatch):
    monkeypatch.setattr(Endpoint, "prove", PROVE)


def served(body, weights="abc"):
    """Greedily these weights go on with themselves, and with the seed where they draw."""
    return answer(weights if body["temperature"] == 0 else f"{weights}{body['seed']}")


def with_weights(*servers, expected="abc"):
    greedy = dict.fromkeys(endpoint.PROBES[False], expected)
    return Endpoint(EndpointConfig(), [server.url for server in servers], "the hash", greedy=greedy)


def test_a_server_that_draws_and_has_the_weights_is_taken(played, proved):
    server = played(lambda body, number: served(body))
    with_weights(server)
    assert [body["temperature"] for body in server.bodies] == [1.0] * 2 + [0.0] * 4
    assert {body["prompt"] for body in server.bodies} == {each.text for each in endpoint.PROBES[False]}


def test_a_server_that_stops_a_little_later_has_the_weights_all_the_same(played, proved):
    with_weights(played(lambda body, number: served(body, "abc\n\ndef")))


def test_a_server_that_gives_the_same_text_twice_is_refused(played, proved):
    server = played(lambda body, number: answer("abc"))
    with pytest.raises(InputError, match="got the same text twice for each of 4 prompts: use a server that samples"):
        with_weights(server)


OTHERS = "expected the weights the hash, which continue a prompt with 'abc', but it continues with 'abx'"


def test_a_server_with_other_weights_is_refused_and_each_is_asked(played, proved):
    right, stale = played(lambda body, number: served(body)), played(lambda body, number: served(body, "abx"))
    with pytest.raises(InputError, match=f"{stale.url}: {OTHERS}"):
        with_weights(right, stale)


def test_a_server_that_says_nothing_greedily_has_not_the_weights(played, proved):
    server = played(lambda body, number: served(body, "") if body["temperature"] == 0 else served(body))
    with pytest.raises(InputError, match=r"expected the weights the hash, .* but it continues with ''"):
        with_weights(server)


def test_greedy_texts_may_differ_once_by_rounding(played, proved):
    odd = endpoint.PROBES[False][1].text
    with_weights(played(lambda body, number: served(body, "abx" if body["prompt"] == odd else "abc")))


def thinking(body, content, reasoning="", ends="stop"):
    reply = {"choices": [{"message": {"content": content, "reasoning": reasoning}, "finish_reason": ends}]}
    return 200, {}, json.dumps(reply).encode()


def proof_of(server, chats=True, greedy=(), **config):
    return Endpoint(EndpointConfig(**config), [server.url], "the hash", chats=chats, greedy=dict(greedy))


@pytest.mark.parametrize("reasoning", ["I think {}", "", "Hmm."])
def test_a_model_that_thinks_first_is_given_the_tokens_to_say_something(played, proved, reasoning):
    def play(body, number):
        if body["max_tokens"] < 500:
            return thinking(body, None, reasoning.format(number), "length")
        return thinking(body, f"text {number}", reasoning.format(number))

    server = played(play)
    assert "proof" not in proof_of(server).description
    assert len(server.bodies) == (2 if "{}" in reasoning else 10)


def test_so_is_one_that_always_begins_in_the_same_way(played, proved):
    def play(body, number):
        return answer(("from typing import List\n" * 99 + str(number))[: body["max_tokens"] * 4], ends="length")

    server = played(play)
    assert "proof" not in proof_of(server, chats=False).description


def test_one_prompt_of_several_with_two_texts_is_enough(played, proved):
    odd = endpoint.PROBES[True][-1].text
    server = played(lambda body, number: thinking(body, str(number) * (body["messages"][0]["content"] == odd)))
    assert "proof" not in proof_of(server).description


@pytest.mark.parametrize("ends", ["length", None])
def test_texts_that_are_cut_before_they_differ_show_nothing_which_is_recorded(played, proved, ends, caplog):
    server = played(lambda body, number: thinking(body, "def f(" * (ends == "length"), "", ends))
    assert proof_of(server).description["proof"] == "undecided"
    assert "the proof could not show that it samples" in caplog.text


def test_a_server_without_room_for_many_tokens_is_not_refused_for_it(played, proved):
    def play(body, number):
        return (400, {}, b"max_tokens is too large") if body["max_tokens"] > 64 else answer("x", ends="length")

    assert proof_of(played(play), chats=False).description["proof"] == "undecided"


def test_a_hosted_model_that_says_the_same_each_time_is_used_without_a_proof_which_is_recorded(played, proved):
    server = played(lambda body, number: thinking(body, "the same"))
    with pytest.raises(InputError, match=r"for each of 4 prompts: .* or set endpoint\.proof = 'skip'"):
        proof_of(server)
    server.bodies.clear()
    assert proof_of(server, proof="skip").description["proof"] == "skipped"
    assert server.bodies == []


def test_nothing_need_differ_where_nothing_is_drawn(played, proved):
    server = played(lambda body, number: thinking(body, "the same"))
    Endpoint(EndpointConfig(), [server.url], "the hash", chats=True, draws=False)
    assert server.bodies == []


THOUGHT = "<think>\nOkay, so 37 * 37"


@pytest.mark.parametrize(
    ("expected", "content", "reasoning", "ends"),
    [
        (THOUGHT, None, "Okay, so 37 * 37", "length"), (THOUGHT, "", "\nOkay, so", "length"),
        ("Okay.\n</think>\n\n```python", "```python", "Okay.", "length"),
        ("analysisOkay, so 37 * 37", None, "Okay, so 37 * 37 is", "length"),
        ("analysisOkay, so 37 * 37", None, "Okay, so 37 *", "length"), (THOUGHT, None, "", "length"),
    ],
)  # fmt: skip
def test_greedy_thoughts_are_compared_with_those_of_the_weights(played, proved, expected, content, reasoning, ends):
    def play(body, number):
        told = thinking(body, content, reasoning, ends)
        return told if body["temperature"] == 0 else thinking(body, str(number))

    proof_of(played(play), greedy=dict.fromkeys(endpoint.PROBES[True], expected))


def test_other_thoughts_are_those_of_other_weights(played, proved):
    server = played(lambda body, number: thinking(body, None, f"Well, {number}", "length"))
    with pytest.raises(InputError, match="expected the weights the hash"):
        proof_of(server, greedy=dict.fromkeys(endpoint.PROBES[True], THOUGHT))


def test_weights_cannot_be_proved_without_a_temperature(played, proved):
    server = played(lambda body, number: thinking(body, str(number)))
    with pytest.raises(InputError, match=r"endpoint\.send\.temperature: expected to send it"):
        proof_of(server, greedy={endpoint.PROBES[True][0]: "x"}, send=SendConfig(temperature=""))


def test_a_server_that_is_begun_again_is_asked_for_proof_again(command, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Endpoint, "prove", lambda self, url: asked.append(url))
    server = ManagedServer(command, "weights", tmp_path / "log.txt", 10)
    proving = Endpoint(EndpointConfig(), [server], "hash")
    os.killpg(server._process.pid, signal.SIGKILL)
    proving.sample([prompt("a")], 2, SETTINGS, [1])
    proving.close()
    assert len({*asked}) == len(asked) == 2


# ---- servers that are begun here ----

SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.reply({"data": [{"id": sys.argv[1]}]})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        import time; time.sleep(0.05)
        self.reply({"choices": [{"text": str(body["seed"]), "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    def reply(self, value):
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


@pytest.fixture
def command(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "POLL_SECONDS", 0.05)
    (tmp_path / "server.py").write_text(SERVER)
    return f"{sys.executable} {tmp_path}/server.py {{checkpoint}} {{port}}"


def test_a_server_is_begun_on_a_checkpoint_and_ended_with_its_group(command, tmp_path):
    server = ManagedServer(command, "the weights", tmp_path / "log.txt", 10)
    below = {server._process.pid, *descendants(server._process.pid)}
    asked = Endpoint(EndpointConfig(), [server], "hash")
    assert asked.description["served_model"] == "the weights"
    assert len(texts(asked.sample([prompt("a")], 3, SETTINGS, [1]))[0]) == 3
    asked.close()
    assert still_running(below) == []
    assert not server.lives


def test_a_server_of_this_machine_is_asked_without_a_proxy(command, tmp_path, monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    with contextlib.closing(ManagedServer(command, "weights", tmp_path / "log.txt", 10)) as server:
        asked = Endpoint(EndpointConfig(attempts=1), [server], "hash")
        assert len(texts(asked.sample([prompt("a")], 3, SETTINGS, [1]))[0]) == 3


def test_a_server_that_is_killed_in_the_middle_of_a_request_is_begun_again(command, tmp_path, caplog):
    server = ManagedServer(command, "weights", tmp_path / "log.txt", 10)
    asked = Endpoint(EndpointConfig(concurrent_requests=4), [server], "hash")
    expected = asked.sample([prompt("a")], 40, SETTINGS, [1])
    (process,) = [pid for pid in descendants(server._process.pid) if cmdline(pid).startswith(sys.executable.encode())]
    sampled = asked.sample([prompt("a")], 40, SETTINGS, [1], lambda done: kill_once(process))
    asked.close()
    assert sampled == expected
    assert caplog.text.count("the server died and is restarted") == 1


def kill_once(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def cmdline(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_server_that_dies_each_time_ends_it(command, tmp_path, monkeypatch):
    monkeypatch.setattr(endpoint, "MOST_REVIVALS", 0)
    server = ManagedServer(command, "weights", tmp_path / "log.txt", 10)
    asked = Endpoint(EndpointConfig(), [server], "hash")
    os.killpg(server._process.pid, signal.SIGKILL)
    with pytest.raises(EndpointFailed, match="the server died"):
        asked.sample([prompt("a")], 40, SETTINGS, [1])
    asked.close()


@pytest.mark.parametrize(
    ("serve", "error", "words"),
    [
        ("no-such-program {checkpoint} {port}", InputError, "there is no program 'no-such-program' here"),
        ("vllm serve {checkpoint}", InputError, "expected {checkpoint} and {port} in the command"),
        ("vllm serve {checkpoint} {prot}", InputError, "expected a command with {checkpoint} and {port}"),
        ("vllm 'serve {checkpoint} {port}", InputError, "No closing quotation"),
        (f"{sys.executable} -c 'raise SystemExit(\"no GPU\")' {{checkpoint}} {{port}}", ServerDied,
         "the server ended with 1"),
        ("sleep 30 {checkpoint} {port}", ServerDied, "the server ended with 1"),
        (f"{sys.executable} -c input() {{checkpoint}} {{port}}", ServerDied, "EOFError"),
        (f"{sys.executable} -c 'import time; time.sleep(30)' {{checkpoint}} {{port}}", ServerDied, "in time"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_begin_is_told_with_its_last_words(tmp_path, monkeypatch, serve, error, words):
    monkeypatch.setattr(serving, "POLL_SECONDS", 0.05)
    before = descendants(os.getpid())
    with pytest.raises(error) as raised:
        ManagedServer(serve, "weights", tmp_path / "log.txt", 0.5 if words == "in time" else 10)
    assert words in str(raised.value)
    assert still_running(descendants(os.getpid()) - before) == []


def test_a_server_goes_with_who_has_begun_it_however_that_ends(command, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from selfplay.sampling.serving import ManagedServer\n"
        f"server = ManagedServer({command!r}, 'weights', Path({str(tmp_path)!r}) / 'log.txt', 10)\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        below = descendants(process.pid)
        assert any(b"server.py" in cmdline(pid) for pid in below)
        process.kill()
    assert still_running(below) == []


# ---- runs ----

WRITTEN = [
    "def f(x: int):\n    return x * 31 == 31 * {}",
    "def f(s: str):\n    return s == 'b' * {}",
]


def chatting(body, number):
    """A model that proposes two kinds of puzzles and solves one of them."""
    asked = body["messages"][-1]["content"]
    seed = body["seed"]
    if asked.startswith("Write a new"):
        text = WRITTEN[seed % 2].format(seed % 89 + 11)
    else:
        right = re.search(r"31 \* (\d+)", asked)
        text = f"def g():\n    return {right[1] if right else 7}"
    reply = {"choices": [{"message": {"content": f"```python\n{text}\n```"}, "finish_reason": "stop"}]}
    return 200, {}, json.dumps({**reply, "usage": {"prompt_tokens": 100, "completion_tokens": 10}}).encode()


@pytest.fixture
def here(tmp_path, monkeypatch, protections):
    """A folder to run in, with a sandbox that was checked before."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selfcheck, "check", lambda pool: protections)
    return tmp_path


def chat_run(server, folder, *more):
    files = puzzle_files(folder)
    settings = {
        "iterations": 2, "model.path": "", "endpoint.model": "gpt-x", "prompt.protocol": "chat",
        "endpoint.urls": f'["{server.url}"]', "finetune.objective": "none", "propose.proposals": 24,
        "propose.proposals_per_prompt": 8, "propose.begun": 0, "vary.variations": 0, "solve.further_puzzles": 0,
        "solve.candidates_per_puzzle": 2, "evaluate.samples_per_puzzle": 2, "evaluate.k": "[1, 2]",
        **{f"data.{name}": file for name, file in files.items()},
    }  # fmt: skip
    return main(["run", "--name", "served", *(f"--set={key}={value}" for key, value in settings.items()), *more])


def test_a_run_without_weights_proposes_solves_verifies_and_archives(played, proved, here, capsys):
    server = played(chatting)
    assert chat_run(server, here) == 0
    run = RunDir(Path("runs/served"))
    records = run.read_records()
    assert [record["checkpoint"] for record in records] == ["served gpt-x"] * 3
    assert records[2]["admitted"] > 0
    assert records[2]["solved"] > 0
    assert records[1]["cost"]["propose"]["tokens"] == 240
    assert {path.split("/")[-2] for path in server.paths} == {"chat"}
    assert not (run.path / "checkpoints").exists()
    asked = len(server.bodies)
    assert chat_run(server, here) == 0
    assert len(server.bodies) - asked <= 2  # its proof
    assert server.url not in run.log.read_text() + json.dumps(records)


def test_what_servers_may_cost_is_bounded(played, proved, here, capsys):
    prices = ["--set=endpoint.prompt_price=1000", "--set=endpoint.completion_price=10000", "--set=budget.price=3"]
    assert chat_run(played(chatting), here, *prices) == 0
    assert re.search(r"budget.price: [\d.]+ of 3.0 are spent, in iteration 1", capsys.readouterr().out)


def benched(server, folder, *more):
    (folder / "set.jsonl").write_text(
        json.dumps({"puzzle": "def f(x: int):\n    return x * x == 1369", "solution": "def g():\n    return 37"})
    )
    settings = ["--puzzles=set.jsonl", "--protocol=chat", "--samples=40", "--k=1", "--out=out"]
    return main(["bench", "m", "--url", server.url, *settings, *more])


@pytest.mark.parametrize("what", CUTS)
def test_a_benchmark_counts_all_finished_replies(played, here, what, capsys):
    assert benched(played(sometimes(CUTS[what])), here) == 0
    own = json.loads(Path("out/results.json").read_text())["selfplay"]
    assert own["per_puzzle"].popitem()[1] == [40, 26]
    assert own["scores"]["pass@1"]["value"] == 26 / 40


def test_a_benchmark_sends_what_the_server_takes_and_says_so(played, proved, here, capsys):
    def play(body, number):
        if {"max_tokens", "temperature", "seed"} & set(body):
            return 400, {}, b"unsupported parameter"
        return thinking(body, "```python\ndef g():\n    return 37\n```")

    sent = ["--send=max_tokens=max_completion_tokens", "--send=temperature=", "--send=seed="]
    assert benched(played(play), here, *sent) == 2
    assert "or set endpoint.proof = 'skip' (bench: --proof skip)" in capsys.readouterr().err
    assert benched(played(play), here, "--proof=skip", *sent) == 0
    said = capsys.readouterr().out
    assert "not sent to the server: temperature, seed" in said
    assert "sent under another name: max_tokens as max_completion_tokens" in said
    assert "the proof that the server samples, and with the right weights: skipped" in said


@pytest.mark.parametrize(
    ("send", "words"),
    [
        ("seed", "--send: expected NAME=OTHER, such as max_tokens=max_completion_tokens or seed=, got 'seed'"),
        ("sead=", "--send: unknown key 'sead'; did you mean 'seed'?"),
        ("seed=prompt", "--send: expected a name of its own for each parameter, got 'prompt'"),
    ],
)
def test_what_cannot_be_sent_is_wrong_input(played, here, capsys, send, words):
    assert benched(played(), here, f"--send={send}") == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("play", "status", "words"),
    [
        ((200, {}, b'data: {"choices": []}\n\ndata: [DONE]\n\n'), 3, "got a stream of events"),
        ((307, {"location": "http://there/v1"}, b""), 2, "got a redirect to http://there/v1: give that address"),
        ((200, {}, b'{"error": {"code": 402, "message": "pay first"}}'), 2, "402: pay first"),
    ],
)
def test_streams_and_redirects_are_refused_in_a_line(played, proved, here, capsys, play, status, words):
    assert benched(played(lambda body, number: play), here) == status
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfplay: ")]
    assert words in line


def without_usage(body, number):
    status, headers, content = chatting(body, number)
    told = json.loads(content)
    return status, headers, json.dumps({"choices": told["choices"]}).encode()


@pytest.mark.slow
def test_a_run_records_what_servers_do_not_tell(played, proved, here):
    server = played(without_usage)
    assert chat_run(server, here, "--set=endpoint.send.top_p=", "--set=endpoint.proof=skip") == 0
    run = RunDir(Path("runs/served"))
    record = run.read_records()[1]
    assert record["cost"]["propose"] == {"texts": 24, "tokens": 0, "prompt_tokens": 0, "untold_texts": 24}
    assert record["dev"]["not_told"]["tokens"] == record["dev"]["puzzles"] * 2
    assert (record["sampler"]["left_out"], record["sampler"]["proof"]) == (["top_p"], "skipped")
    with Archive(run.archive) as archive:
        (settings,) = archive.query("SELECT settings FROM chunks WHERE iteration = 1 AND stage = 'propose'")[0]
    assert json.loads(settings)["not_told"] == {"tokens": 24, "prompt_tokens": 24}
    assert json.loads(settings)["left_out"] == ["top_p"]
    assert " 0+ " in cost_table(run.read_records())


def test_a_price_cannot_be_bounded_by_a_server_that_tells_no_tokens(played, proved, here, capsys):
    prices = ["--set=endpoint.prompt_price=1", "--set=endpoint.completion_price=1", "--set=budget.price=3"]
    assert chat_run(played(without_usage), here, *prices) == 2
    assert "which budget.tokens and budget.price need, got none" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_with_the_parameters_that_it_began_with(played, proved, here, capsys):
    server = played(chatting)
    assert chat_run(server, here, "--set=endpoint.send.top_p=") == 0
    assert chat_run(server, here) == 2
    assert "endpoint.send.top_p ('' there, 'top_p' here)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_leaves_in_the_middle_of_a_run_loses_nothing(played, proved, here, capsys):
    leaving = played(lambda body, number: chatting(body, number) if number < 60 else (503, {}, b""))
    assert chat_run(leaving, here, "--set=endpoint.attempts=2") == 3
    assert "no answer in 2 tries, the last failure: status 503; what was finished is kept" in capsys.readouterr().err
    assert chat_run(played(chatting), here) == 0
    assert len(RunDir(Path("runs/served")).read_records()) == 3


def test_servers_that_have_one_model_cannot_be_given_what_is_trained(here, capsys):
    assert main(["run", '--set=endpoint.urls=["http://127.0.0.1:9/v1"]']) == 2
    assert "expected finetune.objective = 'none' with it" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("fastapi") is None, reason="needs transformers[serving]")
def test_transformers_own_server_serves_each_iterations_checkpoint(here, proved, capsys):
    files = puzzle_files(here)
    program = Path(sys.executable).with_name("transformers")
    settings = {
        "iterations": 2, "endpoint.serve": f"{program} serve {{checkpoint}} --port {{port}} --device cpu",
        "endpoint.concurrent_requests": 2, "propose.proposals": 8, "vary.variations": 0, "finetune.max_steps": 2,
        "solve.further_puzzles": 0, "solve.candidates_per_puzzle": 2, "evaluate.samples_per_puzzle": 2,
        "evaluate.k": "[1, 2]", **{f"data.{name}": file for name, file in files.items()},
    }  # fmt: skip
    below = descendants(os.getpid())
    killed = threading.Timer(20, kill_a_server)
    killed.start()
    assert main(["run", *(f"--set={key}={value}" for key, value in settings.items())]) == 0
    killed.join()
    records = RunDir(Path("runs/embedded")).read_records()
    assert len({record["checkpoint"] for record in records}) == 3
    assert records[2]["candidates"] > 0
    assert still_running(descendants(os.getpid()) - below) == []


def kill_a_server():
    for pid in descendants(os.getpid()):
        if b"--port" in cmdline(pid) and cmdline(pid).startswith(sys.executable.encode()):
            os.kill(pid, signal.SIGKILL)


# ---- a server that may say anything ----


HUGE = (200, {}, b'{"choices": [{"text": "' + b"a" * 20_000_000 + b'"}]}')
PACKED = (200, {"content-encoding": "gzip"}, gzip.compress(b" " * 50_000_000))


@pytest.mark.parametrize(("said", "told"), [(HUGE, "larger than 8,"), (PACKED, "larger than expected when unpacked")])
def test_a_reply_that_is_too_large_is_a_failure_and_the_next_one_a_sample(played, said, told):
    server = played(lambda body, number: said if number == 1 else echo(body, number))
    asked = Endpoint(EndpointConfig((server.url,), model="m", attempts=3), [server.url], "hash")
    sampled = asked.sample([prompt("def f(")], 1, SETTINGS, [0])
    assert sampled.completions_P_K[0][0].text.startswith("def f(/")
    assert sampled.asked_again == 1
    assert asked.troubles == {"unreadable answer": 1}
    alone = Endpoint(EndpointConfig((server.url,), model="m", attempts=1), [played(lambda *_: said).url], "hash")
    with pytest.raises(EndpointFailed, match=f"unreadable answer: {told}"):
        alone.sample([prompt("def f(")], 1, SETTINGS, [0])


def test_a_reply_that_comes_byte_by_byte_ends_with_its_time(played, monkeypatch):
    async def drip():
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    def client(self, **options):
        transport = httpx.MockTransport(lambda request: httpx.Response(200, content=drip()))
        return httpx.AsyncClient(transport=transport)

    monkeypatch.setattr(Endpoint, "client", client)
    config = EndpointConfig(("http://here/v1",), model="m", attempts=2, request_seconds=0.1)
    with pytest.raises(EndpointFailed, match=r"no answer in time: 0\.1 s"):
        Endpoint(config, ["http://here/v1"], "hash").sample([prompt("def f(")], 1, SETTINGS, [0])


@pytest.mark.parametrize("name", ["m\x1b[31mEVIL", "", "a" * 201, "\ud800", "a\nb", "a\0b"])
def test_a_model_is_not_called_what_a_terminal_or_a_request_cannot_hold(name, monkeypatch):
    async def listed():
        yield json.dumps({"data": [{"id": name}]}).encode()

    def client(self, **options):
        return httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=listed())))

    monkeypatch.setattr(Endpoint, "client", client)
    with pytest.raises(InputError, match=r"expected a model's name, got .*: set endpoint\.model"):
        Endpoint(EndpointConfig(("http://here/v1",)), ["http://here/v1"], "hash")


def test_a_key_that_a_server_repeats_is_in_no_sample(played, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret-of-some-length")
    server = played(lambda body, number: answer("sk-a-secret-of-some-length"))
    config = EndpointConfig((server.url,), model="m")
    sampled = Endpoint(config, [server.url], "hash").sample([prompt("def f(")], 1, SETTINGS, [0])
    assert server.keys == ["Bearer sk-a-secret-of-some-length"]
    assert sampled.completions_P_K[0][0].text == "(the key)"


@pytest.mark.parametrize(("sent", "is_answer"), [(b"HTTP/1.1 200 OK\r\n\r\n", True), (b"X", False), (b"", False)])
def test_whether_a_server_answers_is_known_in_time_whatever_it_drips(sent, is_answer):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip():
            with contextlib.suppress(OSError):
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(sent)
                    while not is_answer:
                        connection.sendall(sent)
                        time.sleep(0.02)

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1/models"
        assert serving.answers(url, seconds=5 if is_answer else 0.3) == is_answer
    assert thread.daemon
