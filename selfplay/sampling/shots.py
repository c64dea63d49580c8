"""The solved pairs that a prompt shows before a puzzle."""

from __future__ import annotations

from collections.abc import Sequence

from puzzles.archive.formats import read_puzzles
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from sandbox.pool import Pool
from selfplay.config import PromptConfig
from selfplay.sampling.prompts import Prompt, PromptFormat, chosen_format, solve_prompt
from selfplay.sampling.sampler import Sampler

Pair = tuple[Puzzle, Candidate]


def solver_shots(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """The few fixed pairs that are shown before every puzzle: first the shortest pair of each answer type.

    They are fixed, as the ancestor's tutorial prefix is, so that scores compare models and not draws of shots.
    """
    by_length = sorted(pairs, key=lambda pair: (len(pair[0].source) + len(pair[1].source), pair[0].id))
    first_of_type: dict[str, Pair] = {}
    for pair in by_length:
        first_of_type.setdefault(pair[0].answer_type, pair)
    rest = [pair for pair in by_length if pair is not first_of_type[pair[0].answer_type]]
    return [*first_of_type.values(), *rest][:count]


def asked_format(config: PromptConfig, model: Sampler) -> tuple[PromptFormat, str]:
    """How a model is asked that may not have been trained here, and where its protocol comes from.

    Args:
        config: The settings. With the protocol `auto`, what they leave open is as the model was trained. One that was
            not trained here is asked in a chat if it has a template for that, else with few-shot prompts.
        model: The model.

    Raises:
        InputError: A template is not as the protocol needs it.
    """
    has_template = bool(getattr(getattr(model, "tokenizer", None), "chat_template", None))
    otherwise = "chat" if has_template else "few-shot"
    if config.protocol != "auto":
        came_from = "option"
    elif "protocol" in model.notes:
        came_from = "saved with the checkpoint"
    else:
        came_from = "the model has a chat template" if has_template else "default"
    return chosen_format(config, (), model.notes, otherwise), came_from


def prompt_for(prompt_format: str | PromptFormat, puzzle: Puzzle, shots: Sequence[Pair]) -> Prompt:
    """The solver's prompt. A puzzle's own solution is never among its shots."""
    return solve_prompt(prompt_format, puzzle, [shot for shot in shots if shot[0].id != puzzle.id])


def training_pairs(pool: Pool) -> list[Pair]:
    """The hand-written training pairs, for prompts with shots."""
    raws = read_puzzles("train")
    puzzles = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
    candidates = parse_candidates(pool, [Text(raw.solutions[0]) for raw in raws])
    return list(zip(puzzles, candidates, strict=True))  # type: ignore[arg-type]  # ours parse: tests/puzzles/test_sets.py
