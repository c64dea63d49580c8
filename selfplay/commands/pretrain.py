"""`selfplay pretrain`: make the embedded model, or one like it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError
from selfplay.commands.grammar import command, positive
from selfplay.commands.terminal import on_screen


def add_pretrain(commands: Any) -> None:
    """Declare `pretrain`."""
    parser = command(
        commands, "pretrain", _pretrain, "train the embedded model from pairs by rule", "pretrain --out model"
    )
    parser.add_argument("config", nargs="?", help="TOML file; default: the settings of the shipped model")
    parser.add_argument("--steps", type=positive, help="number of optimiser steps, instead of the config's")
    parser.add_argument("--out", default="embedded-model", help="folder for the new model")


def _pretrain(options: argparse.Namespace) -> int:
    from selfplay.config import RunConfig
    from selfplay.iteration.guarding import guard_of, guarded_sets
    from selfplay.settings import embedded_file
    from selfplay.training.pretrain import load_pretrain_config, pretrain

    folder = Path(options.out).absolute()
    if folder.exists() and not (
        (folder / "selfplay.json").is_file() or (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise InputError(f"--out {options.out}: expected a new folder or a model to replace, got something else")
    overrides = {} if options.steps is None else {"steps": options.steps}
    config = load_pretrain_config(options.config or embedded_file("pretrain.toml"), overrides)
    count = on_screen().counter(config.steps, "pretrain", "step")

    def progress(tokens: int, loss: float, learning_rate: float) -> None:
        count(1, f"loss {loss:.3f}")

    stats = pretrain(config, folder, lambda pool: guard_of(pool, guarded_sets(pool, RunConfig())), progress)
    print(
        f"{options.out}: {stats.steps} steps, {stats.tokens} tokens, loss {stats.last_loss:.3f}, {stats.seconds:.0f} s"
    )
    return 0
