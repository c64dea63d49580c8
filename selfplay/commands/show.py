"""`selfplay propose` and `selfplay solve`: show a few samples of a model with their verdicts."""

from __future__ import annotations

import argparse
from typing import Any

from selfplay.commands.grammar import add_model_options, command, positive
from selfplay.text import printable


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


def _propose(options: argparse.Namespace) -> int:
    from puzzles.archive.worlds import drawn
    from selfplay.config import ModelConfig, SandboxConfig
    from selfplay.inspecting.samples import proposals
    from selfplay.run.pools import proven_pool
    from selfplay.sampling.model import LanguageModel

    model = LanguageModel(options.model, ModelConfig(options.model))
    with proven_pool(SandboxConfig(), drawn()) as (pool, _):
        for text in proposals(model, pool, options.count, options.temperature, options.max_tokens, options.seed):
            print(printable(text), flush=True)
    return 0


def add_solve(commands: Any) -> None:
    """Declare `solve`."""
    parser = command(
        commands,
        "solve",
        _solve,
        "sample candidates for one puzzle from a model and show their verdicts",
        "solve puzzle.py",
    )
    parser.add_argument("file", help="a .py file with one puzzle, or a puzzle file")
    parser.add_argument("--puzzle", help="name of the puzzle in a puzzle file; default: the first one")
    add_model_options(parser, "--candidates", 20, 0.8)
    parser.add_argument("--max-tokens", type=positive, default=150, help="most tokens of one candidate")


def _solve(options: argparse.Namespace) -> int:
    from puzzles.archive.worlds import drawn
    from selfplay.config import ModelConfig, SandboxConfig
    from selfplay.inspecting.samples import candidates
    from selfplay.run.pools import proven_pool
    from selfplay.sampling.model import LanguageModel

    with proven_pool(SandboxConfig(), drawn()) as (pool, _):
        lines = candidates(
            lambda: LanguageModel(options.model, ModelConfig(options.model)), pool, options.file, options.puzzle,
            options.candidates, options.temperature, options.max_tokens, options.seed,
        )  # fmt: skip
        for line in lines:
            print(printable(line), flush=True)
    return 0
