"""A model behind HTTP as a sampler: servers that speak OpenAI's protocol, one or several, or started here.

Requests go out side by side, so many at a time. What fails for a moment is asked again, with longer and longer pauses;
what is no answer is never taken for one. A server that has died is begun again if it was begun here, and else the
others do its work.
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

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""Between tries: twice as long each time, but for chance."""
STOPS = ("\ndef ", "\nclass ", "\n#", "\nprint(")
"""There a function has ended; four are what the protocol allows. The parser cuts at any line that is not indented."""
PROBE_TOKENS = 24
PROBES = {
    chats: [propose_prompt("chat" if chats else "plain", begun=f"def f({begun}") for begun in begins]
    for chats, begins in ((False, ("", "x: int", "s: str", "xs: List[int]")), (True, ("",)))
}
"""What a server is asked for proof, by whether it chats."""
PROOF_ATTEMPTS = 3
"""A server that is not there is told at once."""
MOST_REVIVALS = 5
"""Of one server within the iteration that it was begun for."""
BROKEN_OFF = ("abort", "cancelled", "error")
"""Ends of texts whose server gave them up."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)
"""Refusals that another try may not meet: too many requests, a server that is busy, broken, or still loading."""

LOST = (httpx.HTTPError, httpx.InvalidURL)
"""What the client raises of a connection."""

_USAGE = an_object(prompt_tokens=NATURAL, completion_tokens=NATURAL)
_OF_TEXT = an_object(text=TEXT, finish_reason=TEXT)
_OF_CHAT = an_object(message=an_object(content={"type": ["string", "null"]}), finish_reason=TEXT)
_MODELS = an_object(data=a_list(an_object(id=TEXT), least=1))


class EndpointFailed(ConnectionError):
    """No server gives answers any more; what was finished is kept."""


class NoAnswer(Exception):
    """What came back for the moment, or instead of an answer."""

    def __init__(self, kind: str, said: str = "", wait_seconds: float = 0.0) -> None:
        super().__init__(f"{kind}: {said}" if said else kind)
        self.kind, self.wait_seconds = kind, wait_seconds


@dataclass(frozen=True)
class _Request:
    prompt: int
    """Its place among the prompts."""
    first: int
    """Of the copies, the place of its first."""
    copies: int
    seeds: list[int]
    """Of all copies of the prompt."""

    @property
    def seed(self) -> int:
        return self.seeds[self.first]

    def rest(self, done: int) -> list[_Request]:
        """One for each of its copies but the first ones."""
        return [_Request(self.prompt, self.first + place, 1, self.seeds) for place in range(done, self.copies)]


class Endpoint:
    """Samples from servers; implements `sampler.Sampler`.

    Args:
        config: How they are asked.
        servers: URLs of servers that run by themselves, or servers that were started here.
        checkpoint: Hash of the weights that they have, or what stands for them where nobody can know.
        notes: What was saved beside the weights.
        greedy: What these weights go on with after some prompts, greedily; nothing where nobody knows.
        chats: Whether it is asked as a chat.
        tokenizer: Of the model, if it is here: what does not fit `context_tokens` is not asked then.
        context_tokens: Of the model.

    Raises:
        InputError: A server does not say which model it has, does not draw, or has other weights.
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
        """What came instead of answers and was asked again, by kind."""
        self._tokenizer, self._context_tokens = tokenizer, context_tokens
        self._headers = _headers(config)
        self._servers = [_Server(server) for server in servers]
        self._copies_per_request = config.candidates_per_request
        self._model, self._greedy, self._chats = config.model or self._named(), dict(greedy or {}), chats
        for server in self._servers:
            self.prove(server.url)

    @property
    def description(self) -> dict[str, Any]:
        """What else samples depend on; no key and no address is in it."""
        elsewhere = {"device": "endpoint", "dtype": "as served", "threads": 0, "versions": {}}
        return {"engine": "endpoint", "served_model": self._model, **elsewhere}

    def tokens_of(self, completion: str) -> int:
        """How many tokens a completion's text comes to, without its end; 0 where there is no tokenizer to tell."""
        if self._tokenizer is None:
            return 0
        return len(self._tokenizer.encode(completion, add_special_tokens=False))

    def batch_rows(self, max_tokens: int) -> int:
        """Requests at the same time."""
        return self.config.concurrent_requests

    def fits(self, prompt: Prompt, max_tokens: int) -> bool:
        """Whether prompt and completion fit the context; without a tokenizer the server has to say."""
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

        A request's seed is fixed by its place; whether a server goes by it is its affair.

        Raises:
            InputError: A server refuses what it is asked.
            EndpointFailed: None of them gives answers any more.
        """
        return asyncio.run(_Sampling(self, prompts, copies, settings, seed, progress).done())

    def asked(self, url: str, prompt: Prompt, settings: SamplingSettings, seed: int, copies: int = 1) -> dict[str, Any]:
        """A request to the server at `url`, as the client's `post` takes it."""
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
        """The completions of a reply, at most so many, and the tokens of the prompt.

        Raises:
            NoAnswer: It is none, or none now.
            InputError: The server refuses what it is asked.
        """
        if reply.status_code in PASSING:
            raise NoAnswer(f"status {reply.status_code}", _said(reply), _seconds(reply.headers.get("retry-after", "")))
        if reply.status_code in (401, 403):
            variable = self.config.key_variable
            raise InputError(f"{reply.url}: {reply.status_code}: {_said(reply)}: is the key in ${variable} right?")
        if reply.status_code != 200:
            raise InputError(f"{reply.url}: {reply.status_code}: {_said(reply)}")
        shape = an_object(choices=a_list(_OF_CHAT if prompt.chat else _OF_TEXT, least=1), usage=_USAGE)
        try:
            answer = parse_json(reply.content, str(reply.url), "an answer")
            expect(answer, shape, str(reply.url))
        except InputError as error:
            raise NoAnswer("no answer of the protocol", str(error)) from None
        choices, usage = answer["choices"][:copies], answer["usage"]
        ends = [choice["finish_reason"] for choice in choices]
        if broken_off := [end for end in ends if end in BROKEN_OFF]:
            raise NoAnswer("broken off", broken_off[0])
        texts = [choice["message"]["content"] or "" if prompt.chat else choice["text"] for choice in choices]
        share, rest = divmod(usage["completion_tokens"], len(choices))  # one number for all of them
        completions = [
            Completion(text, share + (place < rest), finished=end not in ("length", "content_filter"))
            for place, (text, end) in enumerate(zip(texts, ends, strict=True))
        ]
        return completions, usage["prompt_tokens"]

    def prove(self, url: str) -> None:
        """Ask a server for proof that it draws, and that it has the weights it should have.

        Raises:
            InputError: It does not draw, or has others.
            EndpointFailed: It gives no answer.
        """
        drawing = SamplingSettings(1.0, 1.0, PROBE_TOKENS, 1)
        drawn = [[self._one(url, prompt, drawing, seed) for seed in (1, 2)] for prompt in PROBES[self._chats]]
        if all(one == other for one, other in drawn):
            raise InputError(
                f"{url}: two samples at temperature 1 are the same text, with each of {len(drawn)} prompts: it does "
                "not draw (`transformers serve` does where a checkpoint's generation_config.json says do_sample)"
            )
        greedy = SamplingSettings(0.0, 1.0, PROBE_TOKENS, 1)
        found = {prompt: self._one(url, prompt, greedy, 0) for prompt in self._greedy}
        others = [prompt for prompt, text in self._greedy.items() if not _goes_with(text, found[prompt])]
        if 2 * len(others) > len(found):
            raise InputError(
                f"{url}: it has other weights than {self.checkpoint}: it goes on with {found[others[0]]!r}, they with "
                f"{self._greedy[others[0]]!r}; set model.path = '' where nobody else has them"
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
        raise EndpointFailed(f"{url}: no answer at {tries} tries, at last {said}")

    async def _at_once(self, method: str, url: str, **body: Any) -> httpx.Response:
        """One request; a server that says a byte now and then has no longer, either."""
        async with (
            asyncio.timeout(self.config.request_seconds),
            self.client() as client,
        ):
            return await client.request(method, url, **body)

    def client(self, **options: Any) -> httpx.AsyncClient:
        """Of the servers; those that were begun here are asked without a proxy."""
        return httpx.AsyncClient(headers=self._headers, timeout=None, mounts={f"all://{HOST}": None}, **options)

    def _named(self) -> str:
        """What the first server calls its model."""
        url = f"{self._servers[0].url}/models"
        try:
            reply = asyncio.run(self._at_once("GET", url))
        except (TimeoutError, *LOST) as error:
            raise EndpointFailed(f"{url}: {_told(error)}") from None
        if reply.status_code != 200:
            raise InputError(f"{url}: {reply.status_code}: {_said(reply)}: give endpoint.model, if it lists none")
        models = parse_json(reply.content, url, "a list of models")
        expect(models, _MODELS, url)
        return str(models["data"][0]["id"])


class _Server:
    def __init__(self, server: str | ManagedServer) -> None:
        self._server = server
        self._begun_again, self._reviving = 0, threading.Lock()
        self.failed = ""
        """Why it is not asked any more."""

    @property
    def url(self) -> str:
        return self._server.rstrip("/") if isinstance(self._server, str) else self._server.url

    def close(self) -> None:
        if isinstance(self._server, ManagedServer):
            self._server.close()

    async def revive(self, prove: Callable[[str], object]) -> None:
        """Begin it again, and have it proved, if it was begun here and has died, and not too often.

        Raises:
            ServerDied: It does not come back.
        """
        if isinstance(self._server, ManagedServer) and not self._server.lives:
            await asyncio.to_thread(self._begin_again, self._server, prove)

    def _begin_again(self, server: ManagedServer, prove: Callable[[str], object]) -> None:
        with self._reviving:
            if server.lives:  # another request saw to it
                return
            self._begun_again += 1
            if self._begun_again > MOST_REVIVALS:
                raise ServerDied(f"{server.url}: the server died {self._begun_again} times")
            logger.warning("%s: the server died: it is begun again", server.url)
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
        """Ask for what waits, until nothing does or the server fails."""
        while self.waiting and not server.failed:
            request = self.waiting.popleft()
            try:
                found, read = await self._answer(server, request)
            except EndpointFailed as error:
                self.waiting.appendleft(request)
                if not server.failed:  # other requests find the same
                    logger.warning("%s", error)
                server.failed = str(error)
                return
            self.completions_P_K[request.prompt][request.first : request.first + len(found)] = found
            self.prompt_tokens += read
            if len(found) < request.copies:  # it does not know of several, and says nothing
                self.endpoint._copies_per_request = 1
                self.waiting += request.rest(len(found))
            self.progress(len(found))

    async def _answer(self, server: _Server, request: _Request) -> tuple[list[Completion], int]:
        """At one of so many tries.

        Raises:
            EndpointFailed: At none of them.
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
        raise EndpointFailed(f"{server.url}: no answer at {self.config.attempts} tries, at last {trouble}")


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """All of them; when one fails, the others are given up."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _requests(prompts: int, copies: int, most: int, seed: Sequence[int]) -> Iterator[_Request]:
    for prompt in range(prompts):
        drawn = np.random.SeedSequence([*seed, prompt]).generate_state(copies) // 2  # 31 bits, as servers take them
        for first in range(0, copies, most):
            yield _Request(prompt, first, min(most, copies - first), drawn.tolist())


def _pause(tried: int) -> float:
    """Seconds before the next try."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**tried) * random.uniform(0.5, 1)


def _goes_with(one: str, other: str) -> bool:
    """Whether two greedy texts are the same as far as both go: they stop at a function's end by rules of their own."""
    if not (one and other):
        return one == other
    return one.startswith(other) or other.startswith(one)


def _headers(config: EndpointConfig) -> dict[str, str]:
    """The key comes from the environment alone, and goes nowhere else."""
    key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"${config.key_variable}: expected a key of letters, digits and signs, it has something else")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _said(reply: httpx.Response) -> str:
    """The message of a refusal, in one line; a key that is told back is not told on."""
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
    """Of a header Retry-After that is a number; dates are rare."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
