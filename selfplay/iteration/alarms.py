"""Whether a run's puzzles collapse, and what the run then does."""

from __future__ import annotations

import logging
from typing import Any

from selfplay.iteration import collapse, goals
from selfplay.iteration.state import Run

logger = logging.getLogger(__name__)


class Collapsed(Exception):
    """The run's puzzles have collapsed, and the run ends here. Everything that was finished is kept."""


def measures(run: Run, iteration: int) -> dict[str, Any]:
    """Measures of the iteration's puzzles. All of its verdicts must be in the archive."""
    if iteration not in run.measured:
        found = collapse.measure(run.archive, run.pool, iteration, run.config.seed)
        if landed := goals.landed(run.archive, run.pool, iteration):
            found["goals"] = landed
        # Only iteration 1 and the last one are needed. Memory must not grow over thousands of iterations.
        run.measured = {**{key: value for key, value in run.measured.items() if key == 1}, iteration: found}
    return run.measured[iteration]


def alarms(run: Run, iteration: int) -> list[str]:
    """The signs that the iteration's puzzles become fewer or more alike, one line each."""
    if not iteration:
        return []
    return collapse.alarms([measures(run, 1), measures(run, iteration)], run.config.collapse)


def answer(run: Run, iteration: int) -> str:
    """What to do about the iteration's alarms: a value of `collapse.action`, or "" if there are none.

    Raises:
        Collapsed: There are alarms and `collapse.action` is `stop`.
    """
    action = run.config.collapse.action
    if not (found := alarms(run, iteration)):
        return ""
    for line in found:
        logger.warning("iteration %d: %s", iteration, line)
    if action == "stop":
        raise Collapsed(f"iteration {iteration}: {'; '.join(found)}; set collapse.action to go on")
    return action
