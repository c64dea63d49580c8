"""A model behind HTTP as a sampler: one or several servers that speak OpenAI's protocol. They may be started here.

At most `endpoint.concurrent_requests` requests run side by side. A request that fails for the moment is sent again,
after longer and longer pauses. A malformed reply never counts as an answer. A server that has died is restarted if it
was started here; otherwise the other servers do its work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx
import numpy as np

from puzzles.foreign import NATURAL, TEXT, a_list, an_object, expect, parse_json, shortened
from puzzles.puzzle import InputError
from selfplay.config import EndpointConfig
from selfplay.sampling.prompts import Prompt, encode_prompt, propose_prompt
from selfplay.sampling.sampler import Completion, Sampled, SamplingSettings
from selfplay.sampling.serving import HOST, ManagedServer, ServerDied
from selfplay.sampling.tokens import is_border

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""Pauses between tries: twice as long each time, with some randomness."""
STOPS = ("\ndef ", "\nclass ", "\n#", "\nprint(")
"""Stop strings that follow a finished function. The protocol allows four. The parser cuts at any line that is not
indented."""
PROBE_TOKENS = 24
PROBES = {
    chats: [propose_prompt("chat" if chats else "plain", begun=f"def f({begun}") for begun in begins]
    for chats, begins in ((False, ("", "x: int", "s: str", "xs: List[int]")), (True, ("",)))
}
"""Prompts that check a server, by whether it is used as a chat."""
PROOF_ATTEMPTS = 3
"""Tries of a check. They are few, so that a server that is not there is reported soon."""
MOST_REVIVALS = 5
"""Restarts of one server within the iteration that it was started for."""
BROKEN_OFF = ("abort", "cancelled", "error")
"""Finish reasons of texts that the server gave up."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Status codes after which another try may succeed: too many requests; or a server that is busy, broken or still
loading."""

LOST = (httpx.HTTPError, httpx.InvalidURL)
"""Exceptions of the client for a failed connection."""

_USAGE = an_object(prompt_tokens=NATURAL, completion_tokens=NATURAL)
_OF_TEXT = an_object(text=TEXT, finish_reason=TEXT)
_OF_CHAT = an_object(message=an_object(content={"type": ["string", "null"]}), finish_reason=TEXT)
_MODELS = an_object(data=a_list(an_object(id=TEXT), least=1))


class EndpointFailed(ConnectionError):
    """No server answers any more. Finished work is kept."""


class NoAnswer(Exception):
    """A reply that is not an answer, or a temporary refusal."""

    def __init__(self, kind: str, said: str = "", wait_seconds: float = 0.0) -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind, self.wait_seconds = kind, wait_seconds


@dataclass(frozen=True)
class _Request:
    prompt: int
    """Index of the prompt."""
    first: int
    """Index of its first copy among the prompt's copies."""
    copies: int
    seeds: list[int]
    """Seeds of all copies of the prompt."""

    @property
    def seed(self) -> int:
        return self.seeds[self.first]

    def rest(self, done: int) -> list[_Request]:
        """One request for each copy after the first `done`."""
        return [_Request(self.prompt, self.first + place, 1, self.seeds) for place in range(done, self.copies)]


class Endpoint:
    """Samples from servers. Implements `sampler.Sampler`.

    Args:
        config: How the servers are used.
        servers: URLs of servers that run by themselves, or servers that were started here.
        checkpoint: Hash of the servers' weights, or a stand-in where it cannot be known.
        notes: Notes that were saved beside the weights.
        greedy: Greedy completions of these weights after some prompts; empty where they are not known.
        chats: Whether the servers are used as a chat.
        tokenizer: The model's tokenizer, if it is here. Then prompts that do not fit `context_tokens` are not sent.
        context_tokens: The model's context length.

    Raises:
        InputError: A server does not say which model it has, does not sample, or has other weights.
    """

    arithmetic = None
    overlap = True

    def __init__(
        self, config: EndpointConfig, servers: Sequence[str | ManagedServer], checkpoint: str,
        notes: Mapping[str, Any] | None = None, greedy: Mapping[Prompt, str] | None = None, chats: bool = False,
        tokenizer: Any = None, context_tokens: int = 2**30,
    ) -> None:  # fmt: skip
        self.config, self.checkpoint, self.notes = config, checkpoint, dict(notes or {})
        self.troubles: Counter[str] = Counter()
        """How often a request was sent again, by the kind of failure."""
        self._tokenizer, self._context_tokens = tokenizer, context_tokens
        self._headers = _headers(config)
        self._servers = [_Server(server) for server in servers]
        self._copies_per_request = config.candidates_per_request
        self._model, self._greedy, self._chats = config.model or self._named(), dict(greedy or {}), chats
        for server in self._servers:
            self.prove(server.url)

    @property
    def description(self) -> dict[str, Any]:
        """What else the samples depend on. It holds no key and no address."""
        elsewhere = {"device": "endpoint", "dtype": "as served", "threads": 0, "versions": {}}
        return {"engine": "endpoint", "served_model": self._model, **elsewhere}

    def tokens_of(self, completion: str) -> int:
        """Number of tokens in a completion's text, without the end token; 0 if there is no tokenizer."""
        if self._tokenizer is None:
            return 0
        return len(self._tokenizer.encode(completion, add_special_tokens=False))

    def is_border(self, text: str, place: int) -> bool:
        """Whether no token spans this place of a text, so that it can be cut there. True if there is no tokenizer."""
        return self._tokenizer is None or is_border(self._tokenizer, text, place)

    def batch_rows(self, max_tokens: int) -> int:
        """Number of requests at the same time."""
        return self.config.concurrent_requests

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the context. Always true without a tokenizer: the server must decide."""
        if self._tokenizer is None:
            return True
        return len(encode_prompt(self._tokenizer, prompt)) + max_tokens <= self._context_tokens

    def close(self) -> None:
        """End the servers that were started here."""
        for server in self._servers:
            server.close()

    def sample(
        self, prompts: Sequence[Prompt], copies: int, settings: SamplingSettings, seed: Sequence[int],
        progress: Callable[[int], object] = lambda done: None,
    ) -> Sampled:  # fmt: skip
        """`copies` completions of each prompt, in the prompts' order.

        A request's seed follows from its place. Whether a server uses the seed is up to the server.

        Raises:
            InputError: A server refuses a request for good.
            EndpointFailed: No server answers any more.
        """
        return asyncio.run(_Sampling(self, prompts, copies, settings, seed, progress).done())

    def asked(self, url: str, prompt: Prompt, settings: SamplingSettings, seed: int, copies: int = 1) -> dict[str, Any]:
        """A request to the server at `url`, as arguments of the client's `post`."""
        body = {
            "model": self._model, "max_tokens": settings.max_tokens, "temperature": settings.temperature,
            "top_p": settings.top_p, "seed": seed,
        }  # fmt: skip
        if copies > 1:
            body["n"] = copies
        if prompt.chat:
            body["messages"] = [{"role": "user", "content": prompt.text}]
            return {"url": f"{url}/chat/completions", "json": body}
        return {"url": f"{url}/completions", "json": {**body, "prompt": prompt.text, "stop": STOPS}}

    def read(self, reply: httpx.Response, prompt: Prompt, copies: int = 1) -> tuple[list[Completion], int]:
        """The completions in a reply, at most `copies`, and the number of prompt tokens.

        Raises:
            NoAnswer: The reply is malformed, or the server refuses for the moment.
            InputError: The server refuses the request for good.
        """
        if reply.status_code in PASSING:
            raise NoAnswer(f"status {reply.status_code}", _said(reply), _seconds(reply.headers.get("retry-after", "")))
        if reply.status_code in (401, 403):
            variable = self.config.key_variable
            raise InputError(f"{reply.url}: {reply.status_code}: {_said(reply)}: check the key in ${variable}")
        if reply.status_code != 200:
            raise InputError(f"{reply.url}: {reply.status_code}: {_said(reply)}")
        shape = an_object(choices=a_list(_OF_CHAT if prompt.chat else _OF_TEXT, least=1), usage=_USAGE)
        try:
            answer = parse_json(reply.content, str(reply.url), "an answer")
            expect(answer, shape, str(reply.url))
        except InputError as error:
            raise NoAnswer("malformed answer", str(error)) from None
        choices, usage = answer["choices"][:copies], answer["usage"]
        ends = [choice["finish_reason"] for choice in choices]
        if broken_off := [end for end in ends if end in BROKEN_OFF]:
            raise NoAnswer("broken off", broken_off[0])
        texts = [choice["message"]["content"] or "" if prompt.chat else choice["text"] for choice in choices]
        share, rest = divmod(usage["completion_tokens"], len(choices))  # the reply has one number for all of them
        completions = [
            Completion(text, share + (place < rest), finished=end not in ("length", "content_filter"))
            for place, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        return completions, usage["prompt_tokens"]

    def prove(self, url: str) -> None:
        """Check that a server samples, and that it has the right weights.

        Raises:
            InputError: It does not sample, or has other weights.
            EndpointFailed: It does not answer.
        """
        drawing = SamplingSettings(1.0, 1.0, PROBE_TOKENS, 1)
        drawn = [[self._one(url, prompt, drawing, seed) for seed in (1, 2)] for prompt in PROBES[self._chats]]
        if all(one == other for one, other in drawn):
            raise InputError(
                f"{url}: expected different samples at temperature 1, got the same text twice for each of {len(drawn)} "
                "prompts: use a server that samples (`transformers serve` samples only if the checkpoint's "
                "generation_config.json sets do_sample)"
            )
        greedy = SamplingSettings(0.0, 1.0, PROBE_TOKENS, 1)
        found = {prompt: self._one(url, prompt, greedy, 0) for prompt in self._greedy}
        others = [prompt for prompt, text in self._greedy.items() if not _goes_with(text, found[prompt])]
        if 2 * len(others) > len(found):
            raise InputError(
                f"{url}: expected the weights {self.checkpoint}, which continue a prompt with "
                f"{self._greedy[others[0]]!r}, but it continues with {found[others[0]]!r}: serve these weights, or set "
                "model.path = '' if only the server has its model"
            )

    def _one(self, url: str, prompt: Prompt, settings: SamplingSettings, seed: int) -> str:
        tries = min(PROOF_ATTEMPTS, self.config.attempts)
        for tried in range(tries):
            try:
                asked = self.asked(url, prompt, settings, seed)
                reply = asyncio.run(self._at_once("POST", **asked))
                return self.read(reply, prompt)[0][0].text
            except (NoAnswer, TimeoutError, *LOST) as error:
                said = _told(error)
                time.sleep(_pause(tried))
        raise EndpointFailed(f"{url}: no answer in {tries} tries, the last failure: {said}")

    async def _at_once(self, method: str, url: str, **body: Any) -> httpx.Response:
        """Send one request. The time limit holds for the whole reply, also if it comes byte by byte."""
        async with (
            asyncio.timeout(self.config.request_seconds),
            self.client() as client,
        ):
            return await client.request(method, url, **body)

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client for the servers. Those that were started here are used without a proxy."""
        return httpx.AsyncClient(headers=self._headers, timeout=None, mounts={f"all://{HOST}": None}, **options)

    def _named(self) -> str:
        """The name that the first server gives its model."""
        url = f"{self._servers[0].url}/models"
        try:
            reply = asyncio.run(self._at_once("GET", url))
        except (TimeoutError, *LOST) as error:
            raise EndpointFailed(f"{url}: {_told(error)}") from None
        if reply.status_code != 200:
            raise InputError(f"{url}: {reply.status_code}: {_said(reply)}: set endpoint.model if it lists no models")
        models = parse_json(reply.content, url, "a list of models")
        expect(models, _MODELS, url)
        return str(models["data"][0]["id"])


class _Server:
    def __init__(self, server: str | ManagedServer) -> None:
        self._server = server
        self._begun_again, self._reviving = 0, threading.Lock()
        self.failed = ""
        """Why it is not used any more."""

    @property
    def url(self) -> str:
        return self._server.rstrip("/") if isinstance(self._server, str) else self._server.url

    def close(self) -> None:
        if isinstance(self._server, ManagedServer):
            self._server.close()

    async def revive(self, prove: Callable[[str], object]) -> None:
        """Restart and check the server if it was started here and has died.

        Raises:
            ServerDied: It does not start again, or has died too often.
        """
        if isinstance(self._server, ManagedServer) and not self._server.lives:
            await asyncio.to_thread(self._begin_again, self._server, prove)

    def _begin_again(self, server: ManagedServer, prove: Callable[[str], object]) -> None:
        with self._reviving:
            if server.lives:  # another request has restarted it
                return
            self._begun_again += 1
            if self._begun_again > MOST_REVIVALS:
                raise ServerDied(f"{server.url}: the server died {self._begun_again} times")
            logger.warning("%s: the server died and is restarted", server.url)
            server.start()
            prove(server.url)


class _Sampling:
    """One call of `Endpoint.sample`."""

    def __init__(
        self, endpoint: Endpoint, prompts: Sequence[Prompt], copies: int, settings: SamplingSettings,
        seed: Sequence[int], progress: Callable[[int], object],
    ) -> None:  # fmt: skip
        self.endpoint, self.config, self.prompts, self.settings = endpoint, endpoint.config, prompts, settings
        self.progress = progress
        self.waiting = deque(_requests(len(prompts), copies, endpoint._copies_per_request, seed))
        self.completions_P_K: list[list[Completion | None]] = [[None] * copies for _ in prompts]
        self.prompt_tokens = 0

    async def done(self) -> Sampled:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.config.concurrent_requests)
        async with self.endpoint.client(limits=limits) as self.client:
            while self.waiting:
                living = [server for server in self.endpoint._servers if not server.failed]
                if not living:
                    raise EndpointFailed(self.endpoint._servers[-1].failed)
                share = -(-min(self.config.concurrent_requests, len(self.waiting)) // len(living))
                await _together([self._work(server) for server in living for _ in range(share)])
        return Sampled(
            [[each for each in row if each is not None] for row in self.completions_P_K],
            self.prompt_tokens, self.settings.batch_rows,
        )  # fmt: skip

    async def _work(self, server: _Server) -> None:
        """Send waiting requests to the server, until none is left or the server fails."""
        while self.waiting and not server.failed:
            request = self.waiting.popleft()
            try:
                found, read = await self._answer(server, request)
            except EndpointFailed as error:
                self.waiting.appendleft(request)
                if not server.failed:  # other requests meet the same failure
                    logger.warning("%s", error)
                server.failed = str(error)
                return
            self.completions_P_K[request.prompt][request.first : request.first + len(found)] = found
            self.prompt_tokens += read
            if len(found) < request.copies:  # the server ignores `n` without an error
                self.endpoint._copies_per_request = 1
                self.waiting += request.rest(len(found))
            self.progress(len(found))

    async def _answer(self, server: _Server, request: _Request) -> tuple[list[Completion], int]:
        """The answer to a request, after at most `endpoint.attempts` tries.

        Raises:
            EndpointFailed: No try got an answer.
        """
        prompt = self.prompts[request.prompt]
        for tried in range(self.config.attempts):
            try:
                await server.revive(self.endpoint.prove)
                async with asyncio.timeout(self.config.request_seconds):
                    asked = self.endpoint.asked(server.url, prompt, self.settings, request.seed, request.copies)
                    reply = await self.client.post(**asked)
                return self.endpoint.read(reply, prompt, request.copies)
            except TimeoutError:
                trouble = NoAnswer("no answer in time", f"{self.config.request_seconds:g} s")
            except LOST as error:
                trouble = NoAnswer("connection lost", _told(error))
            except NoAnswer as error:
                trouble = error
            except ServerDied as error:
                raise EndpointFailed(str(error)) from None
            self.endpoint.troubles[trouble.kind] += 1
            if tried + 1 < self.config.attempts:
                await asyncio.sleep(max(_pause(tried), min(trouble.wait_seconds, LONGEST_PAUSE_SECONDS)))
        raise EndpointFailed(f"{server.url}: no answer in {self.config.attempts} tries, the last failure: {trouble}")


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all of them. When one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _requests(prompts: int, copies: int, most: int, seed: Sequence[int]) -> Iterator[_Request]:
    for prompt in range(prompts):
        drawn = np.random.SeedSequence([*seed, prompt]).generate_state(copies) // 2  # 31 bits, which servers accept
        for first in range(0, copies, most):
            yield _Request(prompt, first, min(most, copies - first), drawn.tolist())


def _pause(tried: int) -> float:
    """Seconds before the next try."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**tried) * random.uniform(0.5, 1)


def _goes_with(one: str, other: str) -> bool:
    """Whether one greedy text begins with the other. Each engine has its own rules for where a function ends."""
    if not (one and other):
        return one == other
    return one.startswith(other) or other.startswith(one)


def _headers(config: EndpointConfig) -> dict[str, str]:
    """The request headers with the key. The key comes only from the environment, and is written nowhere."""
    key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"${config.key_variable}: expected a key of printable ASCII characters, it has others")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _said(reply: httpx.Response) -> str:
    """The message of a refusal, in one line. If the message repeats the key, the key is replaced."""
    try:
        body = parse_json(reply.content, str(reply.url))
        error = body.get("error", body)
        said = error.get("message", error) if isinstance(error, dict) else error
    except (InputError, AttributeError):
        said = reply.content.decode("utf-8", "replace")
    key = reply.request.headers.get("authorization", "").removeprefix("Bearer ")
    return shortened(" ".join((str(said).replace(key, "(the key)") if key else str(said)).split()))


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _seconds(text: str) -> float:
    """Seconds of a Retry-After header that is a number; 0 for anything else, such as a date, which is rare."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
