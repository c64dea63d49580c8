"""`selfplay pretrain`: make the embedded model, or another like it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from puzzles.puzzle import InputError
from selfplay.commands.grammar import command, positive
from selfplay.commands.terminal import bars


def add_pretrain(commands: Any) -> None:
    """Declare `pretrain`."""
    parser = command(commands, "pretrain", _pretrain, "make the embedded model", "pretrain --out model")
    parser.add_argument("config", nargs="?", help="TOML file; by default the one the shipped model was made with")
    parser.add_argument("--steps", type=positive, help="instead of the config's")
    parser.add_argument("--out", default="embedded-model", help="folder to write")


def _pretrain(options: argparse.Namespace) -> int:
    from selfplay.config import RunConfig
    from selfplay.iteration.guarding import guard_of, guarded_sets
    from selfplay.settings import embedded_file
    from selfplay.training.pretrain import load_pretrain_config, pretrain

    folder = Path(options.out).absolute()
    if folder.exists() and not (
        (folder / "selfplay.json").is_file() or (folder.is_dir() and not any(folder.iterdir()))
    ):
        raise InputError(f"--out {options.out}: expected a new folder or a model to replace, there is something else")
    overrides = {} if options.steps is None else {"steps": options.steps}
    config = load_pretrain_config(options.config or embedded_file("pretrain.toml"), overrides)
    count = bars().counter(config.steps, "pretrain", "step")

    def progress(tokens: int, loss: float) -> None:
        count(1, f"loss {loss:.3f}")

    stats = pretrain(config, folder, lambda pool: guard_of(pool, guarded_sets(pool, RunConfig())), progress)
    print(
        f"{options.out}: {stats.steps} steps, {stats.tokens} tokens, loss {stats.last_loss:.3f}, {stats.seconds:.0f} s"
    )
    return 0
