"""A few samples of a model, with their verdicts: proposals, or candidates for one puzzle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from puzzles.archive.formats import EMBEDDED_SETS, read_puzzles
from puzzles.parse import ParseFailure, Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle
from puzzles.verify import admit
from sandbox.pool import Pool
from selfplay.config import PromptConfig
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import Prompt, PromptFormat, propose_prompt
from selfplay.sampling.sampler import Sampler, SamplingSettings
from selfplay.sampling.shots import Pair, asked_format, prompt_for, solver_shots, training_pairs

BATCH = 10
"""Candidates sampled and judged at a time."""


def proposal_prompt(model: Sampler, pool: Pool, asked: PromptConfig, max_tokens: int) -> Prompt:
    """The prompt for a few proposals, with training puzzles as shots.

    Raises:
        InputError: It does not fit the model's context, or a template is not as its protocol needs it.
    """
    prompt_format, _ = asked_format(asked, model)
    shots = [puzzle for puzzle, _ in _shots(pool, asked, prompt_format, "propose")]
    return _fitting(model, propose_prompt(prompt_format, shots), max_tokens)


def candidate_prompt(model: Sampler, pool: Pool, puzzle: Puzzle, asked: PromptConfig, max_tokens: int) -> Prompt:
    """The prompt for a few candidates, with training pairs as shots.

    Raises:
        InputError: As for `proposal_prompt`.
    """
    prompt_format, _ = asked_format(asked, model)
    return _fitting(model, prompt_for(prompt_format, puzzle, _shots(pool, asked, prompt_format, "solve")), max_tokens)


def _shots(pool: Pool, asked: PromptConfig, prompt_format: PromptFormat, role: str) -> list[Pair]:
    return solver_shots(training_pairs(pool), asked.shots) if prompt_format.shows_shots(role) else []


def _fitting(model: Sampler, prompt: Prompt, max_tokens: int) -> Prompt:
    if not model.fits(prompt, max_tokens):
        raise InputError(f"--max-tokens {max_tokens}: prompt and tokens do not fit the model's context: give fewer")
    return prompt


def proposals(
    model: Sampler, pool: Pool, prompt: Prompt, count: int, temperature: float, max_tokens: int, seed: int
) -> Iterator[str]:
    """Each proposal as text, with its outcome."""
    settings = SamplingSettings(temperature, 1.0, max_tokens, count)
    (completions,) = model.sample([prompt], count, settings, [seed]).completions_P_K
    parsed = parse_puzzles(pool, [prompt.parsed_text(completion.text) for completion in completions])
    refusals = iter(admit(pool, [puzzle for puzzle in parsed if isinstance(puzzle, Puzzle)]))
    for completion, puzzle in zip(completions, parsed, strict=True):
        if isinstance(puzzle, ParseFailure):
            yield f"# refused: {puzzle}\n{prompt.header}{completion.text.rstrip()}\n"
        else:
            refusal = next(refusals)
            yield f"# {'admitted' if refusal is None else f'refused: {refusal}'}\n{puzzle.source}\n"


def candidates(
    model: Sampler, pool: Pool, puzzle: Puzzle, prompt: Prompt, count: int, temperature: float, max_tokens: int,
    seed: int,
) -> Iterator[str]:  # fmt: skip
    """The puzzle, then each candidate with its verdict, then the number of accepted ones."""
    yield f"{puzzle.source}\n"
    accepted = 0
    for start in range(0, count, BATCH):
        number = min(BATCH, count - start)
        settings = SamplingSettings(temperature, 1.0, max_tokens, number)
        (completions,) = model.sample([prompt], number, settings, [seed, start]).completions_P_K
        (judged,) = judge_texts(pool, [puzzle], [prompt], [[completion.text for completion in completions]])
        for completion, (candidate, judgement) in zip(completions, judged, strict=True):
            accepted += judgement.verdict == "accepted"
            body = candidate.source.partition("\n")[2] if candidate else completion.text.strip()
            yield f"{judgement.verdict:<18} {' ; '.join(line.strip() for line in body.splitlines())[:100]}"
    yield f"\n{accepted} of {count} accepted"


def one_puzzle(pool: Pool, file: str, name: str | None) -> Puzzle:
    """The puzzle of this name in a file, or the first one.

    Raises:
        InputError: There is none, or it is no puzzle.
    """
    if file not in EMBEDDED_SETS and not Path(file).exists():
        raise InputError(
            f"{file}: there is no such file: expected a .py file with one puzzle, a puzzle file, or "
            f"{', '.join(EMBEDDED_SETS)}"
        )
    raws = [raw for raw in read_puzzles(file) if name in (None, raw.name)]
    if not raws:
        raise InputError(f"{file}: there is no puzzle" + (f" named {name!r}" if name else ""))
    (puzzle,) = parse_puzzles(pool, [Text(raws[0].puzzle, raws[0].form)])
    if isinstance(puzzle, ParseFailure):
        raise InputError(f"{file}: {raws[0].name}: this is no puzzle: {puzzle}")
    return puzzle
