"""What an iteration's texts teach, by the rules of a game: rewards, advantages and contrasts from the archive.

A text is learned as it was sampled (`prompts.encode_sampled`). Three kinds have a reward, which counts in the means
that others are compared with, but are never learned, neither as good nor as bad:

- what met max_tokens, for it has no end (DAPO, arXiv:2503.14476, leaves it out too);
- what is held-out or in quarantine: learning to avoid a guarded puzzle is learning of it;
- what has no advantage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from puzzles.archive.store import QUARANTINED, Archive, Chunk
from puzzles.puzzle import FAILED, Verdict, content_hash
from selfplay.iteration import propose, solve
from selfplay.sampling.prompts import Prompt, own_part, solve_completion, was_cut
from selfplay.sampling.shots import Pair, prompt_for
from selfplay.training.game import ROLES, Payoffs, advantages, keep_above_mean
from selfplay.training.select import Contrast, Example, Graded

TokensOf = Callable[[str], int]
"""How many tokens a text has: `Sampler.tokens_of`."""
STAGES_OF = {"propose": (propose.STAGE,), "solve": solve.STAGES}
ASIDE = f"(SELECT p.id FROM puzzles p WHERE {QUARANTINED})"


@dataclass(frozen=True)
class Proposal:
    """One proposed text."""

    chunk: int
    position: int
    """Of its text in the chunk's completions."""
    outcome: str
    """As in the archive's table of proposals."""
    puzzle: str | None
    """Its id; None if it is no puzzle."""
    aside: bool
    """Whether it is too near to a guarded puzzle, or its puzzle in quarantine: it is paid as refused."""
    reward: float | None
    """None: admitted, but tried by too few candidates."""

    @property
    def right(self) -> bool:
        """Whether it is a new, valid puzzle."""
        return self.outcome == "admitted" and not self.aside

    @property
    def pair(self) -> tuple[str, str] | None:
        """What is learned of it, as `select.Example` has it."""
        return (self.puzzle, "") if self.right and self.puzzle else None


@dataclass(frozen=True)
class Attempt:
    """One candidate."""

    chunk: int
    position: int
    """Of its text in the chunk's completions (`solve.text_at`)."""
    puzzle: str
    candidate: str | None
    """Hash of its normal form; None if it is no program."""
    verdict: str
    aside: bool
    """Whether its puzzle is in quarantine."""
    reward: float | None
    """None with a puzzle in quarantine: its judge cannot be believed, or must not be learned from."""

    @property
    def right(self) -> bool:
        """Whether it is verified."""
        return self.verdict == Verdict.ACCEPTED and not self.aside

    @property
    def pair(self) -> tuple[str, str] | None:
        """What is learned of it, as `select.Example` has it."""
        return (self.puzzle, self.candidate) if self.right and self.candidate else None


def proposals(archive: Archive, iteration: int, payoffs: Payoffs) -> Iterator[Proposal]:
    """Every proposal of an iteration with its reward, in the order of chunks and positions.

    The solve rate is that of the first candidates: further ones go to a puzzle for what came of the first.
    """
    rows = archive.connection.execute(
        "SELECT r.chunk, r.position, r.outcome, r.puzzle, t.accepted, coalesce(t.tried, 0) AS tried,"
        f" r.outcome = 'held_out' OR r.puzzle IS NOT NULL AND r.puzzle IN {ASIDE} AS aside"
        " FROM chunks k JOIN proposals r ON r.chunk = k.id LEFT JOIN ("
        "  SELECT c.puzzle, sum(c.verdict = 'accepted') AS accepted, count(*) AS tried"
        "  FROM chunks k JOIN candidates c ON c.chunk = k.id WHERE k.iteration = ? AND k.stage = ? GROUP BY 1"
        ") t ON t.puzzle = r.puzzle WHERE k.iteration = ? AND k.stage = ? ORDER BY r.chunk, r.position",
        (iteration, solve.STAGE, iteration, propose.STAGE),
    )
    for chunk, position, outcome, puzzle, accepted, tried, aside in rows:
        if outcome == "duplicate" and not aside:
            reward: float | None = payoffs.duplicate
        elif outcome == "admitted" and not aside:
            reward = payoffs.proposal(accepted, tried)
        else:
            reward = payoffs.refused
        yield Proposal(chunk, position, outcome, puzzle, bool(aside), reward)


def attempts(archive: Archive, iteration: int, payoffs: Payoffs) -> Iterator[Attempt]:
    """Every candidate of an iteration with its reward, in the order of chunks and positions."""
    rows = archive.connection.execute(
        f"SELECT c.chunk, c.position, c.puzzle, c.candidate, c.verdict, c.puzzle IN {ASIDE}"
        " FROM chunks k JOIN candidates c ON c.chunk = k.id"
        f" WHERE k.iteration = ? AND k.stage IN {solve.STAGES} ORDER BY c.chunk, c.position",
        (iteration,),
    )
    for chunk, position, puzzle, candidate, verdict, aside in rows:
        reward = None if aside else payoffs.candidate(verdict)
        yield Attempt(chunk, position, puzzle, candidate, verdict, bool(aside), reward)


_PAID: dict[str, Callable[[Archive, int, Payoffs], Iterator[Proposal] | Iterator[Attempt]]] = {
    "propose": proposals, "solve": attempts,
}  # fmt: skip


def graded(
    archive: Archive,
    iteration: int,
    payoffs: Payoffs,
    protocol: str,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
    roles: Sequence[str] = ROLES,
    within: str = "prompt",
    by_deviation: bool = False,
) -> Iterator[Graded]:
    """Each text of an iteration that moves the model, as it was sampled, with its advantage.

    Args:
        archive: Where all of the iteration's chunks are judged.
        iteration: Its number.
        payoffs: One of `game.GAMES`.
        protocol: As in sampling.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: How many tokens a text has.
        roles: Whose texts.
        within: What a reward is compared with: those of the same `prompt`, or all of the same `role`.
        by_deviation: As of `game.advantages`.
    """
    for role in roles:
        paid = [item for item in _PAID[role](archive, iteration, payoffs) if item.reward is not None]
        asked = _asked(archive, iteration, role, protocol, shots)
        rewards = [item.reward for item in paid if item.reward is not None]
        groups = [role if within == "role" else _prompt(asked, item) for item in paid]
        moving = {
            (item.chunk, item.position): (float(advantage), item.pair)
            for item, advantage in zip(paid, advantages(rewards, groups, by_deviation), strict=True)
            if advantage and not item.aside
        }
        for place, prompt, text in _texts(archive, list(moving), asked, tokens_of):
            yield Graded(prompt, text, *moving[place])


def cloned(
    archive: Archive,
    iteration: int,
    payoffs: Payoffs,
    protocol: str,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
    roles: Sequence[str] = ROLES,
) -> Iterator[Example]:
    """Each text of an iteration that filtered behaviour cloning keeps.

    Of new, valid puzzles and verified solutions those above the mean of their role (`game.keep_above_mean`). A line
    that ended one is left out of it, as its end is learned in its place.

    Args: As of `graded`.
    """
    for role in roles:
        paid = [item for item in _PAID[role](archive, iteration, payoffs) if item.reward is not None]
        scores = [item.reward for item in paid if item.reward is not None]
        right = [item.right for item in paid]
        above = keep_above_mean(scores, right if payoffs.keeps_valid_zeros else None)
        kept = {
            (item.chunk, item.position): item.pair
            for item, keep in zip(paid, above, strict=True)
            if keep and item.right
        }
        asked = _asked(archive, iteration, role, protocol, shots)
        for place, prompt, text in _texts(archive, list(kept), asked, tokens_of):
            yield Example(prompt, own_part(prompt, text), kept[place])


def preferred(
    archive: Archive,
    iterations: Sequence[int],
    most_per_puzzle: int,
    protocol: str,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
) -> Iterator[Contrast]:
    """An accepted text beside a failed one of the same puzzle and iteration, for DPO (arXiv:2305.18290).

    Distinct candidates by their hash, which is as good as by chance; none is used again before all of its side are. A
    failed one is a program, and none that any verdict accepted.

    Args:
        archive: Where these iterations are judged.
        iterations: Whose candidates; each one's are paired among themselves.
        most_per_puzzle: Pairs of a puzzle in an iteration, at most.
        protocol: As in sampling.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: How many tokens a text has.
    """
    for iteration in iterations:
        for tried in _tried(archive, iteration, protocol, shots, tokens_of):
            right, failed = list(tried.accepted.items()), list(tried.failed.values())
            for number in range(min(most_per_puzzle, max(len(right), len(failed))) if right and failed else 0):
                identifier, text = right[number % len(right)]
                yield Contrast(tried.prompt, text, failed[number % len(failed)], (tried.puzzle, identifier))


def against_itself(
    archive: Archive,
    iterations: Sequence[int],
    pairs: Sequence[Pair],
    failing_only: bool,
    most_per_puzzle: int,
    protocol: str,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
) -> Iterator[Contrast]:
    """A verified solution beside a text that the model wrote for the same puzzle, for SPIN (arXiv:2401.01335).

    Args:
        archive: Where these iterations are judged.
        iterations: Whose texts: the opponent's last, and as SPIN has it the one's before.
        pairs: The verified ones to train on, as `Archive.choose` has them; puzzles without a text are left out.
        failing_only: Whether the text is one that failed, so that no verified solution is ever the worse; else it may
            be any, as SPIN's, but not one of the verified ones in `pairs`.
        most_per_puzzle: Of a puzzle in an iteration, at most.
        protocol: As in sampling.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: How many tokens a text has.
    """
    solutions: dict[str, dict[str, str]] = {}
    for puzzle, solution in pairs:
        if (completion := solve_completion(protocol, puzzle, solution)) is not None:
            solutions.setdefault(puzzle.id, {})[solution.id] = completion
    for iteration in iterations:
        for tried in _tried(archive, iteration, protocol, shots, tokens_of):
            real = solutions.get(tried.puzzle, {})
            better = list(real.items())
            any_text = _by_hash(tried.accepted | tried.failed | tried.others)
            written = tried.failed if failing_only else any_text
            worse = [text for identifier, text in written.items() if identifier not in real] if better else []
            for number, text in enumerate(worse[:most_per_puzzle]):
                identifier, right = better[number % len(better)]
                yield Contrast(tried.prompt, right, text, (tried.puzzle, identifier))


_Place = tuple[int, int]
"""A chunk, and a position among its texts."""
_Asked = dict[int, tuple[list[Prompt], int]]
"""By chunk: its prompts, and how many texts of each."""


def _asked(archive: Archive, iteration: int, role: str, protocol: str, shots: Sequence[Pair]) -> _Asked:
    def prompts(plan: Any) -> list[Prompt]:
        if role == "propose":
            return propose.prompts(archive, plan, protocol)
        return [prompt_for(protocol, archive.puzzle(identifier), shots) for identifier in plan["puzzles"]]

    stages = ", ".join(f"'{stage}'" for stage in STAGES_OF[role])
    plans = list(archive.plans(f"iteration = ? AND stage IN ({stages})", iteration))
    return {chunk: (prompts(plan), plan["copies"]) for chunk, plan in plans}


def _prompt(asked: _Asked, item: Proposal | Attempt) -> Prompt:
    prompts, copies = asked[item.chunk]
    return prompts[item.position // copies]


def _texts(
    archive: Archive, places: Sequence[_Place], asked: _Asked, tokens_of: TokensOf
) -> Iterator[tuple[_Place, Prompt, str]]:
    """The texts at these places, chunk after chunk, without those that met max_tokens."""
    for identifier, same in itertools.groupby(places, lambda place: place[0]):
        chunk, (prompts, copies) = archive.chunk(identifier), asked[identifier]
        for place in same:
            prompt, text = prompts[place[1] // copies], _text(chunk, place[1])
            if text is not None and not was_cut(prompt, text, tokens_of(text), chunk.settings["max_tokens"]):
                yield place, prompt, text


def _text(chunk: Chunk, position: int) -> str | None:
    if chunk.stage != propose.STAGE:
        return solve.text_at(chunk, position)
    assert chunk.completions is not None
    return str(chunk.completions[position])


@dataclass(frozen=True)
class _Tried:
    """A puzzle's distinct texts of one iteration, by hash of their normal form, or of the text if it is no program."""

    puzzle: str
    prompt: Prompt
    accepted: dict[str, str]
    """Verified, whenever that was."""
    failed: dict[str, str]
    """Programs; what ran out of a limit only near to it is none of them."""
    others: dict[str, str]


def _tried(
    archive: Archive, iteration: int, protocol: str, shots: Sequence[Pair], tokens_of: TokensOf
) -> Iterator[_Tried]:
    rows = archive.query(
        "SELECT c.chunk, c.position, c.puzzle, c.candidate, c.verdict,"
        " EXISTS (SELECT 1 FROM solutions s WHERE s.puzzle = c.puzzle AND s.id = c.candidate) AS verified"
        " FROM chunks k JOIN candidates c ON c.chunk = k.id"
        f" WHERE k.iteration = ? AND k.stage IN {solve.STAGES} AND c.puzzle NOT IN {ASIDE}"
        " ORDER BY c.chunk, c.position",
        iteration,
    )
    by_place = {(row["chunk"], row["position"]): row for row in rows}
    found: dict[str, _Tried] = {}
    asked = _asked(archive, iteration, "solve", protocol, shots)
    for place, prompt, text in _texts(archive, list(by_place), asked, tokens_of):
        row = by_place[place]
        tried = found.setdefault(row["puzzle"], _Tried(row["puzzle"], prompt, {}, {}, {}))
        kind = tried.accepted if row["verified"] else tried.failed if row["verdict"] in FAILED else tried.others
        kind.setdefault(row["candidate"] or content_hash(text), text)
    for tried in found.values():
        yield _Tried(tried.puzzle, tried.prompt, *map(_by_hash, (tried.accepted, tried.failed, tried.others)))


def _by_hash(texts: dict[str, str]) -> dict[str, str]:
    """In an order as good as by chance."""
    return dict(sorted(texts.items()))
