"""A model behind HTTP as a sampler: one or several servers that speak OpenAI's protocol. They may be started here.

At most `endpoint.concurrent_requests` requests run side by side. What a reply counts as is said in `replies.py`. A
request that fails is sent again, after longer and longer pauses. A server that has died is restarted if it was started
here; otherwise the other servers do its work.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import httpx2 as httpx
import numpy as np

from puzzles.foreign import TEXT, a_list, an_object, expect, parse_json, shown
from puzzles.puzzle import InputError
from selfplay.config import EndpointConfig
from selfplay.sampling import replies
from selfplay.sampling.prompts import PROPOSAL_HEADER, Prompt, encode_prompt, propose_prompt
from selfplay.sampling.replies import NoAnswer, Reply, SeveralRefused
from selfplay.sampling.sampler import Completion, Sampled, SamplingSettings
from selfplay.sampling.serving import HOST, ManagedServer, ServerDied
from selfplay.sampling.tokens import encode_after, is_border
from selfplay.sampling.transfer import MOST_LISTED_BYTES, Unreadable, fetch, most_bytes

logger = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
"""Pauses between tries: twice as long each time, with some randomness."""
STOPS = ("\ndef ", "\nclass ", "\n#", "\nprint(")
"""Stop strings that follow a finished function. The protocol allows four. The parser cuts at any line that is not
indented."""
PROBE_TOKENS = 24
"""Token limit of the greedy texts that are compared with those of the weights."""
DRAWN_TOKENS = (64, 1024)
"""Token limits of the samples of which two must differ. The second is for prompts whose samples were all cut: by a
fixed opening, or while the model was thinking."""
PROBES = {
    False: [propose_prompt("plain", begun=f"def f({begun}") for begun in ("", "x: int", "s: str", "xs: List[int]")],
    True: [
        replace(asked, text=f"{asked.text}{wish}")
        for asked in (propose_prompt("chat"),)
        for wish in ("", " Its answer is an int.", " Its answer is a str.", " Its answer is a List[int].")
    ],
}
"""Prompts that check a server, by whether it is used as a chat."""
THOUGHT_MARK = re.compile(r"</?think(?:ing)?>|\s+")
"""What may stand around thoughts in a greedy text of the weights, and not in the fields of a reply."""
LEAST_THOUGHT = 10
"""Characters of thoughts by which a greedy text is known, though it begins with other marks than those."""
PROOF_ATTEMPTS = 3
"""Tries of a check. They are few, so that a server that is not there is reported soon."""
MOST_REVIVALS = 5
"""Restarts of one server within the iteration that it was started for."""
LOST = (httpx.HTTPError, httpx.InvalidURL)
"""Exceptions of the client for a failed connection."""

MOST_NAME = 200
"""Longest name of a model, in characters."""

_MODELS = an_object(data=a_list(an_object(id=TEXT), least=1))


class EndpointFailed(ConnectionError):
    """No server answers any more. Finished work is kept."""


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
        draws: Whether samples will differ: some will be asked for at a temperature above 0.
        is_bounded: Whether tokens are bounded by a budget, so that a server must tell them.

    Raises:
        InputError: A server does not say which model it has, does not sample, or has other weights.
    """

    arithmetic = None
    overlap = True

    def __init__(
        self, config: EndpointConfig, servers: Sequence[str | ManagedServer], checkpoint: str,
        notes: Mapping[str, Any] | None = None, greedy: Mapping[Prompt, str] | None = None, chats: bool = False,
        tokenizer: Any = None, context_tokens: int = 2**30, draws: bool = True, is_bounded: bool = False,
    ) -> None:  # fmt: skip
        self.config, self.checkpoint, self.notes = config, checkpoint, dict(notes or {})
        self.troubles: Counter[str] = Counter()
        """How often a request was sent again, by the kind of failure."""
        self._tokenizer, self._context_tokens = tokenizer, context_tokens
        self._headers = _headers(config)
        self._servers = [_Server(server) for server in servers]
        self._copies_per_request = config.candidates_per_request if config.send.n else 1
        self._refuses_several = self._is_undecided = self._tells_tokens = False
        self._draws, self._is_bounded = draws, is_bounded
        self._model, self._greedy, self._chats = config.model or self._named(), dict(greedy or {}), chats
        for server in self._servers:
            self.prove(server.url)

    @property
    def description(self) -> dict[str, Any]:
        """What else the samples depend on. It holds no key and no address.

        What is unusual has a key of its own: `proof` if there was none (`skipped`) or it showed nothing (`undecided`),
        `left_out` and `renamed` parameters, and `one_by_one` if the server refuses requests of several candidates.
        """
        names = asdict(self.config.send)
        proof = "skipped" if self.config.proof == "skip" else "undecided" if self._is_undecided else ""
        unusual = {
            "proof": proof,
            "left_out": [name for name, sent in names.items() if not sent],
            "renamed": {name: sent for name, sent in names.items() if sent not in ("", name)},
            "one_by_one": self._refuses_several,
        }
        elsewhere = {"device": "endpoint", "dtype": "as served", "threads": 0, "versions": {}}
        told = {key: value for key, value in unusual.items() if value}
        return {"engine": "endpoint", "served_model": self._model, **elsewhere, **told}

    def tokens_of(self, completion: str) -> int:
        """Number of tokens in a completion's text, without the end token; 0 if there is no tokenizer."""
        if self._tokenizer is None:
            return 0
        return len(encode_after(self._tokenizer, completion))

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
        progress: Callable[[int], object] = lambda done: None, numbers: Sequence[int] | None = None,
    ) -> Sampled:  # fmt: skip
        """`copies` completions of each prompt, in the prompts' order.

        A request's seed follows from the number of its first text or, without numbers, from its place. Whether a
        server uses the seed is up to the server.

        Raises:
            InputError: A server refuses a request for good.
            EndpointFailed: No server answers any more.
        """
        return asyncio.run(_Sampling(self, prompts, copies, settings, seed, progress, numbers).done())

    def asked(self, url: str, prompt: Prompt, settings: SamplingSettings, seed: int, copies: int = 1) -> dict[str, Any]:
        """A request to the server at `url`, as arguments of the client's `post`."""
        parameters: dict[str, Any] = {
            "max_tokens": settings.max_tokens, "temperature": settings.temperature, "top_p": settings.top_p,
            "seed": seed,
        }  # fmt: skip
        if copies > 1:
            parameters["n"] = copies
        if not prompt.chat:
            parameters["stop"] = STOPS
        names = asdict(self.config.send)
        body = {names[name]: value for name, value in parameters.items() if names[name]} | {"model": self._model}
        if prompt.chat:
            body["messages"] = [{"role": role, "content": text} for role, text in prompt.turns]
            return {"url": f"{url}/chat/completions", "json": body}
        return {"url": f"{url}/completions", "json": {**body, "prompt": prompt.text}}

    def read(self, reply: httpx.Response, prompt: Prompt, copies: int = 1, max_tokens: int | None = None) -> Reply:
        """The answer in a reply, as `replies.read` has it, with advice in the message of a refusal.

        Raises:
            NoAnswer: The reply is a failure.
            SeveralRefused: The candidates may be asked for one by one.
            InputError: The server refuses the request for good, or has told no tokens yet, though a budget bounds them.
        """
        try:
            is_told = bool(self.config.send.max_tokens)
            bounds = None if max_tokens is None else replies.bounds_of(prompt.whole, max_tokens, is_told)
            found = replies.read(reply, prompt.chat, copies, bounds)
        except InputError as error:
            raise InputError(f"{error}{self._advice(reply)}") from None
        untold = found.completions[0].tokens is None or (self.config.prompt_price and found.prompt_tokens is None)
        self._tells_tokens |= not untold
        if self._is_bounded and not self._tells_tokens:
            raise InputError(
                f"{reply.url}: expected counts of tokens under 'usage', which budget.tokens and budget.price need, "
                "got none: set them to 0, and bound the run by budget.seconds"
            )
        return found

    def _advice(self, reply: httpx.Response) -> str:
        """What to do about a refusal, to be put behind its message."""
        if reply.status_code in (401, 403):
            return f": check the key in ${self.config.key_variable}"
        said = replies.said(reply)
        names = [
            name
            for name, sent in asdict(self.config.send).items()
            if sent and re.search(rf"\b{re.escape(sent)}\b", said) and reply.status_code in (400, 422)
        ]
        if not names:
            return ""
        return (
            f": endpoint.send.{names[0]} (bench: --send {names[0]}=OTHER) renames it, or leaves it out if it is empty"
        )

    def ask_one_by_one(self) -> None:
        """Ask for one candidate in each request from now on, because a server grants no more."""
        if not self._refuses_several:
            logger.warning("candidates are asked for one by one: the server does not grant several in one request")
        self._copies_per_request, self._refuses_several = 1, True

    def prove(self, url: str) -> None:
        """Check that a server samples, and that it has the right weights. Nothing is checked with `endpoint.proof`.

        Raises:
            InputError: It does not sample, or has other weights.
            EndpointFailed: It does not answer.
        """
        if self.config.proof == "skip":
            return
        if self._copies_per_request > 1:
            self._prove_several(url)
        if self._draws:
            self._prove_that_it_draws(url)
        if self._greedy:
            self._prove_weights(url)

    def _prove_several(self, url: str) -> None:
        """See whether it grants several candidates in one request, before samples are planned."""
        drawing = SamplingSettings(1.0, 1.0, PROBE_TOKENS, 1)
        try:
            if len(self._one(url, PROBES[self._chats][0], drawing, 1, copies=2).completions) == 2:
                return
        except (SeveralRefused, EndpointFailed) as error:  # some servers say 500 to it
            logger.warning("%s: a request of two candidates was refused: %s", url, _told(error))
        self.ask_one_by_one()

    def _prove_that_it_draws(self, url: str) -> None:
        """See that two samples of some prompt differ, in what the model thinks or in what it says.

        Raises:
            InputError: Half of the prompts or more get the same whole text twice, and none gets two texts.
        """
        prompts, same = PROBES[self._chats], 0
        for max_tokens in DRAWN_TOKENS:
            drawing, cut = SamplingSettings(1.0, 1.0, max_tokens, 1), []
            for prompt in prompts:
                try:
                    one, other = (self._one(url, prompt, drawing, seed) for seed in (1, 2))
                except (InputError, EndpointFailed):
                    if max_tokens == DRAWN_TOKENS[0]:
                        raise
                    cut.append(prompt)  # so many tokens may be too many for it
                    continue
                if one.first != other.first:
                    return
                cut += [prompt] if one.may_go_on else []
            same, prompts = same + len(prompts) - len(cut), cut
        if 2 * same >= len(PROBES[self._chats]):
            raise InputError(
                f"{url}: expected different samples at temperature 1, got the same text twice for each of {same} "
                "prompts: use a server that samples (`transformers serve` samples only if the checkpoint's "
                "generation_config.json sets do_sample), or set endpoint.proof = 'skip' (bench: --proof skip)"
            )
        self._is_undecided = True
        logger.warning(
            "%s: its samples were cut before any two of them differed: the proof could not show that it samples", url
        )

    def _prove_weights(self, url: str) -> None:
        """See that it goes on greedily as the weights here do.

        Raises:
            InputError: It goes on otherwise for most prompts.
        """
        if not self.config.send.temperature:
            raise InputError(
                "endpoint.send.temperature: expected to send it, because the server must show by its greedy texts that "
                "it has the weights: or set endpoint.proof = 'skip'"
            )
        greedy = SamplingSettings(0.0, 1.0, PROBE_TOKENS, 1)
        found = {prompt: self._one(url, prompt, greedy, 0) for prompt in self._greedy}
        heard = {prompt: reply for prompt, reply in found.items() if any(reply.first) or not reply.may_go_on}
        others = [prompt for prompt, reply in heard.items() if not _goes_with(self._greedy[prompt], *reply.first)]
        if 2 * len(others) > len(heard):
            continued = shown("".join(found[others[0]].first))
            raise InputError(
                f"{url}: expected the weights {self.checkpoint}, which continue a prompt with "
                f"{self._greedy[others[0]]!r}, but it continues with {continued}: serve these weights, or "
                "set model.path = '' if only the server has its model"
            )
        if not heard:
            self._is_undecided = True
            logger.warning("%s: it hides what the model thinks: the proof could not show that it has the weights", url)

    def _one(self, url: str, prompt: Prompt, settings: SamplingSettings, seed: int, copies: int = 1) -> Reply:
        tries = min(PROOF_ATTEMPTS, self.config.attempts)
        for tried in range(tries):
            try:
                asked = self.asked(url, prompt, settings, seed, copies)
                most = most_bytes(settings.max_tokens, copies)
                reply = asyncio.run(self._at_once("POST", most=most, **asked))
                return self.read(reply, prompt, copies, settings.max_tokens)
            except (NoAnswer, Unreadable, TimeoutError, *LOST) as error:
                said = _told(error)
                time.sleep(_pause(tried))
        raise EndpointFailed(f"{url}: no answer in {tries} tries, the last failure: {said}")

    async def _at_once(self, method: str, url: str, most: int, **body: Any) -> httpx.Response:
        """Send one request. The time limit holds for the whole reply, also if it comes byte by byte."""
        async with (
            asyncio.timeout(self.config.request_seconds),
            self.client() as client,
        ):
            return await fetch(client, method, url, most, **body)

    def client(self, **options: Any) -> httpx.AsyncClient:
        """A client for the servers. Those that were started here are used without a proxy."""
        return httpx.AsyncClient(headers=self._headers, timeout=None, mounts={f"all://{HOST}": None}, **options)

    def _named(self) -> str:
        """The name that the first server gives its model."""
        url = f"{self._servers[0].url}/models"
        try:
            reply = asyncio.run(self._at_once("GET", url, MOST_LISTED_BYTES))
        except (Unreadable, TimeoutError, *LOST) as error:
            raise EndpointFailed(f"{url}: {_told(error)}") from None
        if reply.status_code != 200:
            raise InputError(
                f"{url}: {reply.status_code}: {replies.said(reply)}: set endpoint.model if it lists no models"
            )
        models = parse_json(reply.content, url, "a list of models")
        expect(models, _MODELS, url)
        name = str(models["data"][0]["id"])
        if not (name.isprintable() and 0 < len(name) <= MOST_NAME):  # it stands in requests, records and tables
            raise InputError(f"{url}: expected a model's name, got {shown(name)}: set endpoint.model")
        return name


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
        seed: Sequence[int], progress: Callable[[int], object], numbers: Sequence[int] | None,
    ) -> None:  # fmt: skip
        self.endpoint, self.config, self.prompts, self.settings = endpoint, endpoint.config, prompts, settings
        self.progress = progress
        self.waiting = deque(_requests(len(prompts), copies, endpoint._copies_per_request, seed, numbers))
        self.completions_P_K: list[list[Completion | None]] = [[None] * copies for _ in prompts]
        self.prompt_tokens = self.prompts_not_told = self.asked_again = 0

    async def done(self) -> Sampled:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=self.config.concurrent_requests)
        async with self.endpoint.client(limits=limits) as self.client:
            while self.waiting:
                living = [server for server in self.endpoint._servers if not server.failed]
                if not living:
                    raise EndpointFailed(self.endpoint._servers[-1].failed)
                share = -(-min(self.config.concurrent_requests, len(self.waiting)) // len(living))
                await _together([self._work(server) for server in living for _ in range(share)])
        completions_P_K = [[each for each in row if each is not None] for row in self.completions_P_K]
        sampled = Sampled(
            completions_P_K, self.prompt_tokens, self.settings.batch_rows, prompts_not_told=self.prompts_not_told,
            asked_again=self.asked_again,
        )  # fmt: skip
        if self.asked_again:
            logger.warning("%d requests were sent again; failures so far: %s", self.asked_again, self._troubles())
        if sampled.not_told:
            untold = ", ".join(f"{name.replace('_', ' ')} ({count})" for name, count in sampled.not_told.items())
            logger.warning("some replies did not tell all, which is recorded as not known: %s", untold)
        return sampled

    def _troubles(self) -> str:
        return ", ".join(f"{kind} ({count})" for kind, count in self.endpoint.troubles.most_common())

    async def _work(self, server: _Server) -> None:
        """Send waiting requests to the server, until none is left or the server fails."""
        while self.waiting and not server.failed:
            request = self.waiting.popleft()
            if request.copies > self.endpoint._copies_per_request:  # the server has refused such requests
                self.waiting.extendleft(reversed(request.rest(0)))
                continue
            try:
                found = await self._answer(server, request)
            except SeveralRefused:
                self.endpoint.ask_one_by_one()
                self.waiting.extendleft(reversed(request.rest(0)))
                continue
            except EndpointFailed as error:
                self.waiting.appendleft(request)
                if not server.failed:  # other requests meet the same failure
                    logger.warning("%s", error)
                server.failed = str(error)
                return
            done = len(found.completions)
            self.completions_P_K[request.prompt][request.first : request.first + done] = found.completions
            self.prompt_tokens += found.prompt_tokens or 0
            self.prompts_not_told += found.prompt_tokens is None
            if done < request.copies:  # the server ignores `n` without an error
                self.endpoint.ask_one_by_one()
                self.waiting += request.rest(done)
            self.progress(done)

    async def _answer(self, server: _Server, request: _Request) -> Reply:
        """The answer to a request, after at most `endpoint.attempts` tries.

        Raises:
            SeveralRefused: It may be split.
            InputError: The server refuses it for good.
            EndpointFailed: No try got an answer.
        """
        prompt = self.prompts[request.prompt]
        for tried in range(self.config.attempts):
            try:
                await server.revive(self.endpoint.prove)
                asked = self.endpoint.asked(server.url, prompt, self.settings, request.seed, request.copies)
                most = most_bytes(self.settings.max_tokens, request.copies)
                async with asyncio.timeout(self.config.request_seconds):
                    reply = await fetch(self.client, "POST", most=most, **asked)
                return self.endpoint.read(reply, prompt, request.copies, self.settings.max_tokens)
            except TimeoutError:
                trouble = NoAnswer("no answer in time", f"{self.config.request_seconds:g} s")
            except Unreadable as error:
                trouble = NoAnswer("unreadable answer", _told(error))
            except LOST as error:
                trouble = NoAnswer("connection lost", _told(error))
            except NoAnswer as error:
                trouble = error
            except ServerDied as error:
                raise EndpointFailed(str(error)) from None
            except InputError as error:
                raise InputError(f"{self._name(request)}: {error}") from None
            self.endpoint.troubles[trouble.kind] += 1
            if tried + 1 < self.config.attempts:
                self.asked_again += 1
                await asyncio.sleep(max(_pause(tried), min(trouble.wait_seconds, LONGEST_PAUSE_SECONDS)))
        raise EndpointFailed(
            f"{server.url}, {self._name(request)}: no answer in {self.config.attempts} tries, the last failure: "
            f"{trouble}"
        )

    def _name(self, request: _Request) -> str:
        """A request as messages name it: by its place, and the puzzle's first line, which comes last in a prompt."""
        lines = self.prompts[request.prompt].text.splitlines()
        header = next((line for line in reversed(lines) if line.startswith(PROPOSAL_HEADER)), lines[0])
        return f"candidate {request.first + 1} of prompt {request.prompt + 1}, {shown(header)}"


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all of them. When one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _requests(
    prompts: int, copies: int, most: int, seed: Sequence[int], numbers: Sequence[int] | None
) -> Iterator[_Request]:
    for prompt in range(prompts):
        if numbers is None:
            drawn = np.random.SeedSequence([*seed, prompt]).generate_state(copies).tolist()
        else:
            own = (np.random.SeedSequence([*seed, numbers[prompt] + k]) for k in range(copies))
            drawn = [int(each.generate_state(1)[0]) for each in own]
        seeds = [each // 2 for each in drawn]  # 31 bits, which servers accept
        for first in range(0, copies, most):
            yield _Request(prompt, first, min(most, copies - first), seeds)


def _pause(tried: int) -> float:
    """Seconds before the next try."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0**tried) * random.uniform(0.5, 1)


def _goes_with(expected: str, thoughts: str, text: str) -> bool:
    """Whether a greedy text of the weights goes with a reply.

    One begins with the other, because each engine has its own rules for where a function ends. A server may tell the
    thoughts apart, without the marks around them.
    """
    if not thoughts:
        return _begin_alike(expected, text)
    whole, thought, said = (THOUGHT_MARK.sub("", each) for each in (expected, thoughts, thoughts + text))
    if _begin_alike(whole, said):
        return True
    place = whole.find(thought[:LEAST_THOUGHT]) if len(thought) >= LEAST_THOUGHT else -1
    return place >= 0 and _begin_alike(whole[place:], thought)


def _begin_alike(one: str, other: str) -> bool:
    return one == other if not (one and other) else one.startswith(other) or other.startswith(one)


def _headers(config: EndpointConfig) -> dict[str, str]:
    """The request headers with the key. The key comes only from the environment, and is written nowhere."""
    key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"${config.key_variable}: expected a key of printable ASCII characters, it has others")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
