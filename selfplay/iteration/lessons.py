"""What an iteration's texts teach, by the rules of a game: rewards, advantages and contrasts from the archive.

A text is learned in the tokens that were drawn. Of texts whose tokens were not kept (those of servers and of older
versions), what ended them is guessed (`prompts.encode_sampled`).

Three kinds of text have a reward, which counts in the means of their group, but are never learned, neither as good nor
as bad:

- texts cut at max_tokens, because they have no end (DAPO, arXiv:2503.14476, leaves them out too);
- texts that are held-out or in quarantine, because learning to avoid a guarded puzzle is learning about it;
- texts without an advantage.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from puzzles.archive.store import QUARANTINED, Archive, Chunk
from puzzles.puzzle import FAILED, Verdict, content_hash
from selfplay.iteration import propose, search, solve
from selfplay.sampling.chunks import drawn_tokens
from selfplay.sampling.prompts import Prompt, PromptFormat, own_part, propose_completion, solve_completion, was_cut
from selfplay.sampling.sampler import Drawn
from selfplay.sampling.shots import Pair, prompt_for
from selfplay.training.game import ROLES, Payoffs, advantages, keep_above_mean
from selfplay.training.select import Contrast, Example, Graded

TokensOf = Callable[[str], int]
"""The number of tokens of a text: `Sampler.tokens_of`."""
STAGES_OF = {"propose": (propose.STAGE,), "solve": solve.STAGES}
ASIDE = f"(SELECT p.id FROM puzzles p WHERE {QUARANTINED})"


@dataclass(frozen=True)
class Proposal:
    """One proposed text."""

    chunk: int
    position: int
    """Position of the text in the chunk's completions."""
    outcome: str
    """Outcome, as in the archive's table of proposals."""
    puzzle: str | None
    """Id of the puzzle; None if the text is no puzzle."""
    aside: bool
    """Whether the puzzle is too near to a guarded one or in quarantine. Its reward is then that of a refused one."""
    reward: float | None
    """The game's reward; None if the puzzle was admitted, but tried by too few candidates."""

    @property
    def right(self) -> bool:
        """Whether the text is a new, valid puzzle."""
        return self.outcome == "admitted" and not self.aside

    @property
    def pair(self) -> tuple[str, str] | None:
        """The pair to record as trained on, as in `select.Example`; None for a text that is not right."""
        return (self.puzzle, "") if self.right and self.puzzle else None


@dataclass(frozen=True)
class Attempt:
    """One candidate."""

    chunk: int
    position: int
    """Position of the text in the chunk's completions (`solve.text_at`)."""
    puzzle: str
    candidate: str | None
    """Hash of the normal form; None if the text is no program."""
    verdict: str
    aside: bool
    """Whether the puzzle is in quarantine."""
    reward: float | None
    """The game's reward; None if the puzzle is in quarantine: its verdicts are in doubt or must not be learned from."""

    @property
    def right(self) -> bool:
        """Whether the candidate is verified."""
        return self.verdict == Verdict.ACCEPTED and not self.aside

    @property
    def pair(self) -> tuple[str, str] | None:
        """The pair to record as trained on, as in `select.Example`; None for a text that is not right."""
        return (self.puzzle, self.candidate) if self.right and self.candidate else None


def proposals(archive: Archive, iteration: int, payoffs: Payoffs) -> Iterator[Proposal]:
    """Every proposal of an iteration with its reward, in the order of chunks and positions.

    The solve rate comes from the first candidates only. Further candidates depend on the outcome of the first.
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
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
    roles: Sequence[str] = ROLES,
    within: str = "prompt",
    by_deviation: bool = False,
) -> Iterator[Graded]:
    """Each text of an iteration that moves the model, as it was sampled, with its advantage.

    Args:
        archive: The archive, with all of the iteration's chunks judged.
        iteration: The iteration's number.
        payoffs: One of `game.GAMES`.
        prompt_format: How prompts are written.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: Gives the number of tokens of a text.
        roles: The roles whose texts are learned.
        within: The group of a reward: the texts of the same `prompt`, or all of the same `role`.
        by_deviation: Whether advantages are divided by the group's deviation (`game.advantages`).
    """
    for role in roles:
        paid = [item for item in _PAID[role](archive, iteration, payoffs) if item.reward is not None]
        asked = _asked(archive, iteration, role, prompt_format, shots)
        rewards = [item.reward for item in paid if item.reward is not None]
        groups = [role if within == "role" else _prompt(asked, item) for item in paid]
        moving = {
            (item.chunk, item.position): (float(advantage), item.pair)
            for item, advantage in zip(paid, advantages(rewards, groups, by_deviation), strict=True)
            if advantage and not item.aside
        }
        for place, prompt, written in _texts(archive, list(moving), asked, tokens_of):
            yield Graded(prompt, written.text, *moving[place], written.drawn)


def cloned(
    archive: Archive,
    iteration: int,
    payoffs: Payoffs,
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
    roles: Sequence[str] = ROLES,
) -> Iterator[Example]:
    """Each text of an iteration that filtered behaviour cloning keeps.

    It keeps the new, valid puzzles and the verified solutions whose reward is above the mean of their role
    (`game.keep_above_mean`). A line that ended a text is left out: the model learns to end there instead.

    The arguments are those of `graded`.
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
        asked = _asked(archive, iteration, role, prompt_format, shots)
        for place, prompt, written in _texts(archive, list(kept), asked, tokens_of):
            own = _own(prompt, written)
            yield Example(prompt, own.text, kept[place], own.drawn)


def searched(
    archive: Archive,
    iterations: Sequence[int],
    most_per_puzzle: int,
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
) -> Iterator[Example]:
    """The solutions that searches of these iterations found, as examples of solving.

    The arguments are those of `preferred`.
    """
    for puzzle, solution in search.found(archive, iterations, most_per_puzzle):
        completion = solve_completion(prompt_format.protocol, puzzle, solution)
        if completion is not None:
            yield Example(prompt_for(prompt_format, puzzle, shots), completion, (puzzle.id, solution.id))


def preferred(
    archive: Archive,
    iterations: Sequence[int],
    most_per_puzzle: int,
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
) -> Iterator[Contrast]:
    """Contrasts of an accepted and a failed text of the same puzzle and iteration, for DPO (arXiv:2305.18290).

    Candidates are distinct and come in the order of their hashes, which is as good as random. None is used again before
    all others of its side. A failed candidate is a program that no verdict has accepted.

    Args:
        archive: The archive, with these iterations judged.
        iterations: The iterations whose candidates are used. Only candidates of the same iteration are paired.
        most_per_puzzle: Most contrasts of a puzzle in an iteration.
        prompt_format: How prompts are written.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: Gives the number of tokens of a text.
    """
    for iteration in iterations:
        for tried in _tried(archive, iteration, prompt_format, shots, tokens_of):
            right, failed = list(tried.accepted.items()), list(tried.failed.values())
            for number in range(min(most_per_puzzle, max(len(right), len(failed))) if right and failed else 0):
                identifier, better = right[number % len(right)]
                worse, pair = failed[number % len(failed)], (tried.puzzle, identifier)
                yield Contrast(tried.prompt, better.text, worse.text, pair, (better.drawn, worse.drawn))


def against_itself(
    archive: Archive,
    iterations: Sequence[int],
    pairs: Sequence[Pair],
    failing_only: bool,
    most_per_puzzle: int,
    prompt_format: PromptFormat,
    shots: Sequence[Pair],
    tokens_of: TokensOf,
) -> Iterator[Contrast]:
    """Contrasts of a verified solution and a text of the model's for the same puzzle, for SPIN (arXiv:2401.01335).

    Args:
        archive: The archive, with these iterations judged.
        iterations: The iterations whose texts are used: the last one and, as in SPIN, the one before.
        pairs: The verified pairs to train on, from `Archive.choose`. Puzzles for which the model wrote no text are left
            out.
        failing_only: Whether the model's text must have failed, so that no verified solution is ever the worse side.
            Otherwise it may be any text, as in SPIN, except the verified solutions in `pairs`.
        most_per_puzzle: Most contrasts of a puzzle in an iteration.
        prompt_format: How prompts are written.
        shots: The fixed pairs of the solver's prompt.
        tokens_of: Gives the number of tokens of a text.
    """
    solutions: dict[str, dict[str, _Written]] = {}
    drawn = drawn_of_pairs(archive, pairs, prompt_format.protocol)
    for puzzle, solution in pairs:
        if (completion := solve_completion(prompt_format.protocol, puzzle, solution)) is not None:
            written = _Written(completion, drawn.get((puzzle.id, solution.id)))
            solutions.setdefault(puzzle.id, {})[solution.id] = written
    for iteration in iterations:
        for tried in _tried(archive, iteration, prompt_format, shots, tokens_of):
            real = solutions.get(tried.puzzle, {})
            better = list(real.items())
            any_text = _by_hash(tried.accepted | tried.failed | tried.others)
            wrong = tried.failed if failing_only else any_text
            worse = [text for identifier, text in wrong.items() if identifier not in real] if better else []
            for number, text in enumerate(worse[:most_per_puzzle]):
                identifier, right = better[number % len(better)]
                pair = (tried.puzzle, identifier)
                yield Contrast(tried.prompt, right.text, text.text, pair, (right.drawn, text.drawn))


def drawn_of_pairs(archive: Archive, pairs: Sequence[Pair], protocol: str) -> dict[tuple[str, str], Drawn]:
    """The tokens of the completions that teach these pairs, for those that the model wrote in just this form.

    Args:
        archive: The archive of the pairs.
        pairs: Puzzles with their solutions.
        protocol: The prompt protocol. Texts that were sampled with another one do not count.

    Returns:
        Tokens by the ids of a puzzle and its solution, and by those of a puzzle and an empty text for the puzzle's own.
    """
    wanted: dict[tuple[str, str], str | None] = {}
    for puzzle, solution in pairs:
        wanted[puzzle.id, solution.id] = solve_completion(protocol, puzzle, solution)
        wanted[puzzle.id, ""] = propose_completion(protocol, puzzle)
    places: dict[int, list[tuple[int, tuple[str, str]]]] = {}
    rows = archive.connection.execute(
        "SELECT r.chunk, r.position, r.puzzle, r.candidate FROM (SELECT chunk, position, puzzle, candidate"
        " FROM candidates UNION ALL SELECT chunk, position, puzzle, '' FROM proposals WHERE outcome = 'admitted') r"
        " JOIN chunks k ON k.id = r.chunk WHERE k.token_ids IS NOT NULL ORDER BY r.chunk, r.position"
    )
    for number, position, puzzle_id, candidate in rows:
        if wanted.get((puzzle_id, candidate)) is not None:
            places.setdefault(number, []).append((position, (puzzle_id, candidate)))
    found: dict[tuple[str, str], Drawn] = {}
    for number, asked in places.items():
        asked = [(position, ids) for position, ids in asked if ids not in found]
        found |= _as_wanted(archive, number, asked, wanted, protocol) if asked else {}
    return found


def _as_wanted(
    archive: Archive, number: int, asked: Sequence[tuple[int, tuple[str, str]]],
    wanted: Mapping[tuple[str, str], str | None], protocol: str,
) -> dict[tuple[str, str], Drawn]:  # fmt: skip
    """The tokens of those texts of a chunk that are the wanted completions."""
    chunk = archive.chunk(number)
    if chunk.settings["protocol"] != protocol:
        return {}
    drawn, found = drawn_tokens(archive, chunk), {}
    prompt = Prompt("", protocol == "chat", "")
    for position, ids in asked:
        # A proposal that continued a beginning is only a part of its puzzle's text.
        if chunk.stage == propose.STAGE and propose.begins(chunk.plan)[position // chunk.plan["copies"]]:
            continue
        text = _text(chunk, position)
        if ids not in found and text is not None and drawn[position].ended != "cut":
            own = _own(prompt, _Written(text, drawn[position]))
            if own.text == wanted[ids] and own.drawn:
                found[ids] = own.drawn
    return found


_Place = tuple[int, int]
"""A chunk's id and a position among its texts."""
_Asked = dict[int, tuple[list[Prompt], int]]
"""For each chunk: its prompts, and the number of texts per prompt."""


def _asked(archive: Archive, iteration: int, role: str, prompt_format: PromptFormat, shots: Sequence[Pair]) -> _Asked:
    def prompts(plan: Any) -> list[Prompt]:
        if role == "propose":
            return propose.prompts(archive, plan, prompt_format)
        return [prompt_for(prompt_format, archive.puzzle(identifier), shots) for identifier in plan["puzzles"]]

    stages = ", ".join(f"'{stage}'" for stage in STAGES_OF[role])
    plans = list(archive.plans(f"iteration = ? AND stage IN ({stages})", iteration))
    return {chunk: (prompts(plan), plan["copies"]) for chunk, plan in plans}


def _prompt(asked: _Asked, item: Proposal | Attempt) -> Prompt:
    prompts, copies = asked[item.chunk]
    return prompts[item.position // copies]


@dataclass(frozen=True)
class _Written:
    """A text of the model's, or one that it might have written."""

    text: str
    drawn: Drawn | None
    """Its tokens, if they are known. They may go on behind the text."""


def _own(prompt: Prompt, written: _Written) -> _Written:
    """The part of a text that is its function (`own_part`). Its tokens then go on behind it."""
    text, drawn = own_part(prompt, written.text), written.drawn
    if drawn and drawn.ended == "token" and text != written.text:
        drawn = replace(drawn, ended="line")
    return _Written(text, drawn)


def _texts(
    archive: Archive, places: Sequence[_Place], asked: _Asked, tokens_of: TokensOf
) -> Iterator[tuple[_Place, Prompt, _Written]]:
    """The texts at these places, chunk by chunk, without those cut at max_tokens."""
    for identifier, same in itertools.groupby(places, lambda place: place[0]):
        chunk, (prompts, copies) = archive.chunk(identifier), asked[identifier]
        drawn, most = drawn_tokens(archive, chunk), chunk.settings["max_tokens"]
        for place in same:
            prompt, text = prompts[place[1] // copies], _text(chunk, place[1])
            if text is None:
                continue
            known = drawn.get(place[1])
            if known.ended != "cut" if known else not was_cut(prompt, text, tokens_of(text), most):
                yield place, prompt, _Written(text, known)


def _text(chunk: Chunk, position: int) -> str | None:
    if chunk.stage != propose.STAGE:
        return solve.text_at(chunk, position)
    assert chunk.completions is not None
    return str(chunk.completions[position])


@dataclass(frozen=True)
class _Tried:
    """A puzzle's distinct texts of one iteration, keyed by the hash of the normal form, or of the text if it is no
    program.
    """

    puzzle: str
    prompt: Prompt
    accepted: dict[str, _Written]
    """Texts of verified solutions, in whichever iteration they were verified."""
    failed: dict[str, _Written]
    """Texts of programs with a verdict in `FAILED`. An `unstable` verdict near a limit is not among these."""
    others: dict[str, _Written]
    """All other texts."""


def _tried(
    archive: Archive, iteration: int, prompt_format: PromptFormat, shots: Sequence[Pair], tokens_of: TokensOf
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
    asked = _asked(archive, iteration, "solve", prompt_format, shots)
    for place, prompt, written in _texts(archive, list(by_place), asked, tokens_of):
        row = by_place[place]
        tried = found.setdefault(row["puzzle"], _Tried(row["puzzle"], prompt, {}, {}, {}))
        kind = tried.accepted if row["verified"] else tried.failed if row["verdict"] in FAILED else tried.others
        kind.setdefault(row["candidate"] or content_hash(written.text), written)
    for tried in found.values():
        yield _Tried(tried.puzzle, tried.prompt, *map(_by_hash, (tried.accepted, tried.failed, tried.others)))


def _by_hash(texts: dict[str, _Written]) -> dict[str, _Written]:
    """The texts in the order of their hashes, which is as good as random."""
    return dict(sorted(texts.items()))
