"""A few samples of a model, with their verdicts: proposals, or candidates for one puzzle."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from puzzles.archive.formats import read_puzzles
from puzzles.parse import ParseFailure, Text, parse_puzzles
from puzzles.puzzle import InputError, Puzzle
from puzzles.verify import admit
from sandbox.pool import Pool
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import propose_prompt
from selfplay.sampling.sampler import Sampler, SamplingSettings
from selfplay.sampling.shots import prompt_for, solver_shots, training_pairs

BATCH = 10
"""Candidates sampled and judged at a time."""


def proposals(model: Sampler, pool: Pool, count: int, temperature: float, max_tokens: int, seed: int) -> Iterator[str]:
    """Each proposal as text, with its outcome."""
    protocol = str(model.notes.get("protocol", "few-shot"))
    shots = [] if protocol == "plain" else [puzzle for puzzle, _ in solver_shots(training_pairs(pool), 5)]
    prompt = propose_prompt(protocol, shots)
    if not model.fits(prompt, max_tokens):
        raise InputError(f"--max-tokens {max_tokens}: prompt and tokens do not fit the model's context: give fewer")
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
    load: Callable[[], Sampler],
    pool: Pool,
    file: str,
    name: str | None,
    count: int,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> Iterator[str]:
    """The puzzle, then each candidate with its verdict, then the number of accepted ones."""
    puzzle = _one_puzzle(pool, file, name)
    model = load()
    protocol = str(model.notes.get("protocol", "few-shot"))
    prompt = prompt_for(protocol, puzzle, solver_shots(training_pairs(pool), 5) if protocol == "few-shot" else [])
    if not model.fits(prompt, max_tokens):
        raise InputError(f"--max-tokens {max_tokens}: puzzle and tokens do not fit the model's context: give fewer")
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


def _one_puzzle(pool: Pool, file: str, name: str | None) -> Puzzle:
    raws = [raw for raw in read_puzzles(file) if name in (None, raw.name)]
    if not raws:
        raise InputError(f"{file}: there is no puzzle" + (f" named {name!r}" if name else ""))
    (puzzle,) = parse_puzzles(pool, [Text(raws[0].puzzle, raws[0].form)])
    if isinstance(puzzle, ParseFailure):
        raise InputError(f"{file}: {raws[0].name}: this is no puzzle: {puzzle}")
    return puzzle
