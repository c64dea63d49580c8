"""`selfplay propose` and `selfplay solve`: show a few samples of a model with their verdicts."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from selfplay.commands.grammar import add_model_options, add_prompt_options, command, positive, prompt_of
from selfplay.text import printable

if TYPE_CHECKING:
    from selfplay.sampling.model import LanguageModel
    from selfplay.sampling.prompts import Prompt


def add_propose(commands: Any) -> None:
    """Declare `propose`."""
    parser = command(
        commands,
        "propose",
        _propose,
        "sample a few puzzles from a model and show whether they are admitted",
        "propose --count 5",
    )
    add_model_options(parser, "--count", 10, 0.9)
    parser.add_argument("--max-tokens", type=positive, default=200, help="most tokens of one proposal")
    _add_prompt(parser, "propose")


def _propose(options: argparse.Namespace) -> int:
    from puzzles.archive.worlds import drawn
    from selfplay.config import ModelConfig, SandboxConfig
    from selfplay.inspecting.samples import proposal_prompt, proposals
    from selfplay.run.pools import proven_pool
    from selfplay.sampling.model import LanguageModel

    asked = prompt_of(options, "propose")
    model = LanguageModel(options.model, ModelConfig(options.model))
    with proven_pool(SandboxConfig(), drawn()) as (pool, _):
        prompt = proposal_prompt(model, pool, asked, options.max_tokens)
        how = (options.count, options.temperature, options.max_tokens, options.seed)
        _print(_shown(options, model, prompt) or proposals(model, pool, prompt, *how))
    return 0


def _add_prompt(parser: argparse.ArgumentParser, role: str) -> None:
    add_prompt_options(parser, role)
    parser.add_argument(
        "--show-prompt", action="store_true", help="print the whole prompt as the model reads it, and stop"
    )


def _shown(options: argparse.Namespace, model: LanguageModel, prompt: Prompt) -> list[str]:
    """The prompt alone, if `--show-prompt` asks for it."""
    from selfplay.sampling.prompts import prompt_text

    return [prompt_text(model.tokenizer, prompt)] if options.show_prompt else []


def _print(texts: Iterable[str]) -> None:
    for text in texts:
        print(printable(text), flush=True)


def add_solve(commands: Any) -> None:
    """Declare `solve`."""
    parser = command(
        commands,
        "solve",
        _solve,
        "sample candidates for one puzzle from a model and show their verdicts",
        "solve dev --candidates 5",
    )
    parser.add_argument("file", help="a .py file with one puzzle, a puzzle file, or `train`, `dev` or `heldout`")
    parser.add_argument("--puzzle", help="name of the puzzle in a puzzle file; default: the first one")
    add_model_options(parser, "--candidates", 20, 0.8)
    parser.add_argument("--max-tokens", type=positive, default=150, help="most tokens of one candidate")
    _add_prompt(parser, "solve")


def _solve(options: argparse.Namespace) -> int:
    from puzzles.archive.worlds import drawn
    from selfplay.config import ModelConfig, SandboxConfig
    from selfplay.inspecting.samples import candidate_prompt, candidates, one_puzzle
    from selfplay.run.pools import proven_pool
    from selfplay.sampling.model import LanguageModel

    asked = prompt_of(options, "solve")
    with proven_pool(SandboxConfig(), drawn()) as (pool, _):
        puzzle = one_puzzle(pool, options.file, options.puzzle)
        model = LanguageModel(options.model, ModelConfig(options.model))
        prompt = candidate_prompt(model, pool, puzzle, asked, options.max_tokens)
        how = (options.candidates, options.temperature, options.max_tokens, options.seed)
        _print(_shown(options, model, prompt) or candidates(model, pool, puzzle, prompt, *how))
    return 0
