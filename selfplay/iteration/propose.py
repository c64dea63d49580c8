"""The proposer: it is shown a few puzzles and writes new ones. Each is admitted, or refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from puzzles.archive.store import AddStatus, Archive, Chunk, Provenance
from puzzles.features import Niche
from puzzles.parse import ParseFailure, parse_puzzles
from puzzles.puzzle import InputError, Puzzle
from puzzles.verify import Refusal, admit, truth_pool
from sandbox.pool import Pool
from selfplay.config import RunConfig
from selfplay.iteration.goals import Goals
from selfplay.run.shard import known_elsewhere
from selfplay.sampling.chunks import (
    ChunkSamples,
    Sampling,
    chunk_seed,
    first_number,
    planned_seed,
    planned_settings,
    recorded_settings,
)
from selfplay.sampling.cost import Watch, judging_watch
from selfplay.sampling.prompts import PROPOSAL_HEADER, Prompt, PromptFormat, propose_prompt
from selfplay.sampling.sampler import Sampler, numbered, settings_of
from selfplay.sampling.streams import Stream

STAGE = "propose"
BEGUN_COPIES = 8
"""Most proposals that continue the same beginning."""
WORD_BORDER = re.compile(r"(?<=\w)(?=\W)|(?<=[^\w\s])(?=\s)|(?<=[^\w\s])(?=\w)")
"""Where a text may be cut: not inside a word, and not between a space and the token after it."""


def check_strategy(config: RunConfig, prompt_format: PromptFormat) -> None:
    """Check that proposals use solved puzzles at all, if these are to be chosen by niche.

    Raises:
        InputError: With this format no solved puzzle is shown and none is continued.
    """
    protocol = prompt_format.protocol
    shows = prompt_format.shows_shots("propose") and config.prompt.shots
    begins = protocol != "chat" and config.propose.begun
    if config.propose.strategy == "niches" and not shows and not begins:
        wanted = "prompt.shots" if protocol == "chat" else "propose.begun"
        raise InputError(
            "propose.strategy: 'niches' chooses the puzzles that a prompt shows or a proposal continues, and with "
            f"the {protocol} prompt there are none: set {wanted} above 0"
        )


def plan(
    archive: Archive, iteration: int, config: RunConfig, prompt_format: PromptFormat, sampler: Sampler,
    pool: Pool | None = None, minute: int = 0,
) -> None:  # fmt: skip
    """Plan the iteration's proposal chunks: the puzzles in each prompt, and the seed of each chunk.

    Args:
        archive: The run's archive.
        iteration: From 1.
        config: The run's settings.
        prompt_format: How prompts are written.
        sampler: The sampler of the model that proposes.
        pool: A sandbox that describes puzzles, for niches. Without it one is started for this step.
        minute: Texts of a chunk if `config.chunk_texts` is 0.

    Raises:
        InputError: Even a prompt without puzzles leaves no room for a proposal in the model's context.
    """
    if not sampler.fits(propose_prompt(prompt_format), config.propose.max_tokens):
        raise InputError(f"propose.max_tokens: {config.propose.max_tokens} tokens do not fit the model's context")
    parents = archive.solved_ids(before_iteration=iteration)
    rng = np.random.default_rng([config.seed, iteration, Stream.PROPOSAL_PROMPTS])
    shots = min(config.prompt.shots, len(parents)) if prompt_format.shows_shots("propose") else 0

    goals = _goals(archive, config, parents, pool) if config.propose.strategy == "niches" and parents else None

    def drawn(begun: bool) -> _Asked:
        goal = goals.goal(rng) if goals and (shots or begun) else None
        if goals and goal:
            shown = goals.parents(goal, shots, rng)
        else:
            shown = [parents[i] for i in rng.choice(len(parents), shots, replace=False)]
        fitting = _fitting(archive, sampler, config, prompt_format, shown)
        if not begun:
            return _Asked(fitting, None, goal)
        parent = goals.parents(goal, 1, rng)[0] if goals and goal else parents[int(rng.integers(len(parents)))]
        return _Asked(fitting, _beginning(archive, parent, rng, sampler.is_border), goal)

    own, texts = config.propose, config.chunk_texts or minute
    copies = min(own.proposals_per_prompt, config.chunk_texts or own.proposals_per_prompt)
    begun = round(own.proposals * own.begun) if parents and prompt_format.protocol != "chat" else 0
    grids = _grids(own.proposals - begun, copies, lambda: drawn(False))
    grids += _grids(begun, min(copies, BEGUN_COPIES), lambda: drawn(True))
    settings = recorded_settings(settings_of(own, config.batch_rows, sampler), sampler, prompt_format, minute)
    first = 0
    with archive.transaction():
        for number, (part, each) in enumerate(part for grid in grids for part in _cut(*grid, texts)):
            content = _content(part, each) | ({} if config.chunk_texts else {"first": first})
            seed = chunk_seed(config, iteration, Stream.PROPOSALS, number)
            archive.plan_chunk(iteration, STAGE, number, sampler.checkpoint, seed, settings, content)
            first += len(part) * each


@dataclass(frozen=True)
class _Asked:
    """The parts of a prompt: puzzles to show, a beginning to continue, and the goal niche that both were drawn for."""

    shots: list[str]
    begin: list[Any] | None
    goal: Niche | None


def _grids(texts: int, copies: int, draw: Callable[[], _Asked]) -> list[tuple[list[_Asked], int]]:
    """Prompts with the copies of each, `texts` in all: `copies` of each drawn prompt, and fewer of the last one."""
    full, rest = divmod(texts, copies)
    return [([draw() for _ in range(full)], copies), ([draw()] if rest else [], rest)]


def _cut(prompts: Sequence[_Asked], copies: int, texts: int) -> Iterator[tuple[Sequence[_Asked], int]]:
    """Cut a grid, in order, into parts of at most so many texts. A prompt with more copies is in several parts."""
    if copies > texts:
        yield from (([asked], min(texts, copies - done)) for asked in prompts for done in range(0, copies, texts))
    elif prompts:
        per_part = texts // copies
        yield from ((prompts[start : start + per_part], copies) for start in range(0, len(prompts), per_part))


def _content(part: Sequence[_Asked], copies: int) -> dict[str, Any]:
    content = {"shots": [asked.shots for asked in part], "begins": [asked.begin for asked in part], "copies": copies}
    goals = [asked.goal and str(asked.goal) for asked in part]
    return {**content, "goals": goals} if any(goals) else content


def _goals(archive: Archive, config: RunConfig, solved: Sequence[str], pool: Pool | None) -> Goals:
    if pool:
        return Goals.of(archive, pool, solved)
    with truth_pool(config.sandbox.limits(), config.sandbox.lanes or None) as own:
        return Goals.of(archive, own, solved)


def _beginning(
    archive: Archive, parent: str, rng: np.random.Generator, is_border: Callable[[str, int], bool]
) -> list[Any] | None:
    """A solved puzzle's id, and how many of its first characters are given to the model: to the answer's type, or more.

    The proposals then vary as the archive does, in answer types and in conditions. Where a token spans the drawn place,
    the text is cut before it, or else behind it. None if the puzzle has no such place, or helpers before `f`.
    """
    puzzle = archive.puzzle(parent)
    source = puzzle.source
    if not source.startswith(PROPOSAL_HEADER):
        return None
    typed = source.index(":") + len(f": {puzzle.answer_type}")
    cuts = [match.start() for match in WORD_BORDER.finditer(source, typed)]
    usable = cuts[: len(cuts) // 2 + 1]
    drawn = int(rng.integers(len(usable)))
    nearest = [*usable[drawn::-1], *usable[drawn + 1 :]]
    place = next((place for place in nearest if is_border(source, place)), None)
    return None if place is None else [parent, place]


def asked_puzzles(plan: dict[str, Any]) -> set[str]:
    """Ids of the puzzles that the prompts of a planned chunk show or continue."""
    begun = [begin[0] for begin in begins(plan) if begin]
    return {*begun, *(puzzle for shots in plan["shots"] for puzzle in shots)}


def begins(plan: dict[str, Any]) -> list[Any]:
    """The beginning of each prompt, or None. The plans of older runs have no beginnings."""
    return plan.get("begins") or [None] * len(plan["shots"])


def prompts(archive: Archive, plan: dict[str, Any], prompt_format: PromptFormat) -> list[Prompt]:
    """The prompts of a planned chunk."""
    made = []
    for shots, begin in zip(plan["shots"], begins(plan), strict=True):
        begun = archive.puzzle(begin[0]).source[: begin[1]] if begin else PROPOSAL_HEADER
        made.append(propose_prompt(prompt_format, [archive.puzzle(identifier) for identifier in shots], begun))
    return made


def _fitting(
    archive: Archive, sampler: Sampler, config: RunConfig, prompt_format: PromptFormat, drawn: list[str]
) -> list[str]:
    """The first of the drawn puzzles: as many as leave room for a proposal in the model's context."""
    puzzles = [archive.puzzle(identifier) for identifier in drawn]
    while puzzles and not sampler.fits(propose_prompt(prompt_format, puzzles), config.propose.max_tokens):
        puzzles.pop()
    return drawn[: len(puzzles)]


def sampling(archive: Archive, chunk: Chunk, sampler: Sampler, prompt_format: PromptFormat) -> Sampling:
    """The sampling of a planned chunk, as work that does not touch the archive once it has begun."""
    planned = prompts(archive, chunk.plan, prompt_format)
    copies = chunk.plan["copies"]
    # Equal prompts are sampled as one, so that batches are full. With the plain protocol all prompts are equal.
    distinct = list(dict.fromkeys(planned))
    asked, each = (distinct, copies * len(planned)) if len(distinct) == 1 else (planned, copies)

    def work(progress: Callable[[int], object]) -> ChunkSamples:
        watch = Watch()
        numbers = numbered(len(asked), each, first_number(chunk))
        sampled = sampler.sample(asked, each, planned_settings(chunk), planned_seed(chunk), progress, numbers)
        texts = [completion.text for row in sampled.completions_P_K for completion in row]
        return ChunkSamples.of(texts, sampled, watch)

    return work


def judge(archive: Archive, chunk: Chunk, pool: Pool, prompt_format: PromptFormat) -> None:
    """Parse and admit a sampled chunk's proposals, and add the admitted puzzles that pass the archive's guard."""
    assert chunk.completions is not None
    watch = judging_watch(pool)
    asked = [prompt for prompt in prompts(archive, chunk.plan, prompt_format) for _ in range(chunk.plan["copies"])]
    parsed = parse_puzzles(pool, [p.parsed_text(text) for p, text in zip(asked, chunk.completions, strict=True)])
    refusals = admission(archive, pool, parsed)
    with archive.transaction():
        for position, puzzle in enumerate(parsed):
            outcome, detail = _outcome(archive, chunk, position, puzzle, refusals)
            identifier = puzzle.id if isinstance(puzzle, Puzzle) else None
            archive.add_proposal(chunk.id, position, outcome, detail, identifier)
        archive.set_judged(chunk.id, watch.seconds(), watch.cpu_seconds())


def admission(archive: Archive, pool: Pool, parsed: Sequence[Puzzle | ParseFailure]) -> dict[str, Refusal | None]:
    """For each puzzle that is new to the archive: its refusal, or None if it is admitted.

    The guard then examines the admitted ones at every level, and remembers its hits.
    """
    known = {*archive.puzzle_ids(), *known_elsewhere(archive)}
    fresh: dict[str, Puzzle] = {}
    for puzzle in parsed:
        if isinstance(puzzle, Puzzle) and puzzle.id not in known and archive.guard.hit(puzzle) is None:
            fresh.setdefault(puzzle.id, puzzle)
    refusals = dict(zip(fresh, admit(pool, list(fresh.values())), strict=True))
    archive.guard.examine(pool, [puzzle for puzzle in fresh.values() if refusals[puzzle.id] is None])
    return refusals


def _outcome(
    archive: Archive,
    chunk: Chunk,
    position: int,
    puzzle: Puzzle | ParseFailure,
    refusals: dict[str, Refusal | None],
) -> tuple[str, str]:
    if isinstance(puzzle, ParseFailure):
        return puzzle.rule, puzzle.detail
    refusal = refusals.get(puzzle.id)
    if refusal is not None:
        return refusal.reason, refusal.detail
    assert chunk.completions is not None
    place = position // chunk.plan["copies"]
    begin = begins(chunk.plan)[place]
    parents = (*chunk.plan["shots"][place], *(begin[:1] if begin else ()))
    original = chunk.completions[position]
    provenance = Provenance("model", chunk.iteration, chunk.id, position, parents, original=original)
    status = archive.add_puzzle(puzzle, provenance)
    if status is AddStatus.HELD_OUT:
        return "held_out", archive.guard_reason or ""
    return ("admitted" if status else "duplicate"), ""
