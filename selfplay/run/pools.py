"""The sandbox that a run's settings ask for, before and after it has proved itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from puzzles.conjuncts import SPLIT
from puzzles.puzzle import InputError
from puzzles.rules.porting import PORT
from puzzles.rules.variation import VARY
from puzzles.verify import truth_pool
from sandbox import selfcheck
from sandbox.pool import Pool
from selfplay.config import SandboxConfig


def unproven_pool(config: SandboxConfig, seed: int) -> Pool:
    """A sandbox that has not proved itself yet.

    Raises:
        InputError: There is no module of that name.
    """
    limits = config.limits()
    try:
        return truth_pool(limits, config.lanes or None, seed, config.modules, [VARY, PORT, SPLIT])
    except ValueError as error:
        raise InputError(f"sandbox.modules: {error}") from None


@contextlib.contextmanager
def proven_pool(config: SandboxConfig, seed: int) -> Iterator[tuple[Pool, dict[str, Any]]]:
    """A sandbox that has proved itself, and the proof."""
    with unproven_pool(config, seed) as pool:
        protections = selfcheck.check(pool)
        selfcheck.require(protections, config.minimum_tier)
        yield pool, protections.to_json()
