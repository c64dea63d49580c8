"""The stages of an iteration before its training: propose, vary, solve, search.

Each stage plans its chunks first. Then it samples and judges the chunks that are not finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from puzzles.archive.store import Chunk
from selfplay.iteration import outlook, propose, ranker, search, solve, vary
from selfplay.iteration.budget import check_budget
from selfplay.iteration.state import Run
from selfplay.run.shard import SHARE_OF, PartDone, Planned
from selfplay.sampling import ahead
from selfplay.sampling.chunks import ChunkSamples, Sampling
from selfplay.sampling.sampler import Sampler


@dataclass(frozen=True)
class _Stage:
    """How the chunks of a stage are planned, sampled and judged."""

    name: str
    shown: str
    """Its name for people."""
    asked: str
    """Key of a chunk's plan with one entry per prompt."""
    unit: str
    """What the progress bar counts."""
    plan: Callable[[Sampler], object]
    sampling: Callable[[Chunk, Sampler], Sampling]
    judge: Callable[[Chunk], object]


def propose_stage(run: Run, iteration: int) -> None:
    """Sample new puzzles, and admit or refuse each."""
    archive, config, prompt_format, pool = run.archive, run.config, run.prompt_format, run.pool
    stage = _Stage(
        propose.STAGE, outlook.PROPOSE, "shots", "proposal",
        plan=lambda sampler: propose.plan(
            archive, iteration, config, prompt_format, sampler, pool, run.minute(iteration, propose.STAGE)
        ),
        sampling=lambda chunk, sampler: propose.sampling(archive, chunk, sampler, prompt_format),
        judge=lambda chunk: propose.judge(archive, chunk, pool, prompt_format),
    )  # fmt: skip
    _work_through(run, iteration, stage)


def vary_stage(run: Run, iteration: int) -> None:
    """Make new puzzles from the archive's own. Nothing is sampled, so every part of a sharded run does all of it."""
    _by_rule(run, iteration, vary, outlook.VARY, "variations", bool(run.config.vary.variations))


def search_stage(run: Run, iteration: int) -> None:
    """Try programs that solved other puzzles on those that the iteration could not solve. Nothing is sampled."""
    _by_rule(run, iteration, search, outlook.SEARCH, "programs", run.config.searches)


def _by_rule(run: Run, iteration: int, module: Any, shown: str, asked: str, is_wanted: bool) -> None:
    """Plan, make and judge the texts of a stage without a model: `module` has the functions for this.

    `asked` is the key of a chunk's plan with one entry per text.
    """
    if not is_wanted:
        return
    archive, name = run.archive, module.STAGE
    outlook.begin(run, iteration, shown)
    if not archive.planned(iteration, name):
        checkpoint = run.models.sampler(run.reigning).checkpoint
        module.plan(archive, iteration, run.config, checkpoint, run.minute(iteration, name))
    chunks = [archive.chunk(identifier) for identifier in archive.unjudged(iteration, name)]
    texts = sum(len(chunk.plan[asked]) for chunk in chunks)
    count = run.progress.counter(texts, f"iteration {iteration}: {name}", "text")
    for chunk in chunks:
        check_budget(run, iteration)
        if chunk.completions is None:
            samples = module.make(archive, chunk, run.pool)
            with archive.transaction():
                archive.set_completions(chunk.id, **vars(samples))
        module.judge(archive, archive.chunk(chunk.id), run.pool, run.protections)
        count(len(chunk.plan[asked]))


def solve_stage(run: Run, iteration: int) -> None:
    """Sample and judge candidates for each puzzle, then more candidates for the puzzles where they are worth most."""
    _try(run, iteration, solve.STAGE, lambda: _targets(run, iteration))
    if further := run.config.solve.further_puzzles:
        _try(run, iteration, solve.FURTHER, lambda: solve.promising(run.archive, iteration, further))


def _targets(run: Run, iteration: int) -> list[str]:
    """Ids of the puzzles to try. With `solve.most_proposed`, only the best-ranked proposals are among them."""
    archive, config = run.archive, run.config.solve
    targets = solve.targets(archive, iteration, run.config)
    if not config.most_proposed:
        return targets
    of_model = {*archive.puzzle_ids("p.origin = 'model' AND p.iteration = ?", iteration)}
    proposed = [identifier for identifier in targets if identifier in of_model]
    left = of_model - {*ranker.best(archive, run.pool, iteration, proposed, config.most_proposed)}
    return [identifier for identifier in targets if identifier not in left]


def _try(run: Run, iteration: int, name: str, choose: Callable[[], list[str]]) -> None:
    archive, config, prompt_format, shots = run.archive, run.config, run.prompt_format, run.shots
    stage = _Stage(
        name, outlook.FURTHER if name == solve.FURTHER else outlook.SOLVE, "puzzles", "candidate",
        plan=lambda sampler: solve.plan(
            archive, iteration, choose(), config, prompt_format, sampler, name, run.minute(iteration, name)
        ),
        sampling=lambda chunk, sampler: solve.sampling(archive, chunk, sampler, prompt_format, shots),
        judge=lambda chunk: solve.judge(archive, chunk, run.pool, prompt_format, shots, run.protections),
    )  # fmt: skip
    _work_through(run, iteration, stage)


def _work_through(run: Run, iteration: int, stage: _Stage) -> None:
    """Plan a stage's chunks, then sample and judge those that are not finished.

    Raises:
        PartDone: This part of a sharded run is done, but chunks of other parts are missing.
        Planned: The run only plans, and this stage has chunks to do.
    """
    archive = run.archive
    outlook.begin(run, iteration, stage.shown)
    if not archive.planned(iteration, stage.name):
        stage.plan(run.models.sampler(run.reigning))
    if run.only_plans and (left := len(archive.unjudged(iteration, stage.name))):
        raise Planned(
            f"iteration {iteration}, {stage.name}: {left:,} chunk{'s are' if left > 1 else ' is'} planned: "
            "do them in parts with --shard I/N, then merge the parts"
        )
    chunks = [archive.chunk(identifier) for identifier in _own(run, iteration, stage.name)]
    texts = sum(len(chunk.plan[stage.asked]) * chunk.plan["copies"] for chunk in chunks)
    count = run.progress.counter(texts, f"iteration {iteration}: {stage.name}", stage.unit)
    unsampled = [chunk for chunk in chunks if chunk.completions is None]
    sampler = run.models.sampler(run.reigning) if unsampled else None

    def works() -> Iterator[ahead.Work[ChunkSamples]]:
        for chunk in unsampled:
            assert sampler is not None
            yield ahead.counted(stage.sampling(chunk, sampler), count)

    with closing(ahead.results(works(), sampler.overlap if sampler else 0)) as sampled:
        for chunk in chunks:
            check_budget(run, iteration)
            if chunk.completions is None:
                run.progress.note("")
                samples = next(sampled)
                with archive.transaction():
                    archive.set_completions(chunk.id, **vars(samples))
            run.progress.note("judging")
            stage.judge(archive.chunk(chunk.id))
    if run.part is None:
        return
    if (left := len(archive.unjudged(iteration, stage.name))) or archive.mark(SHARE_OF) == stage.name:
        raise PartDone(f"iteration {iteration}, {stage.name}: this part is done; other parts have {left} chunks left")


def _own(run: Run, iteration: int, stage: str) -> Sequence[int]:
    """Ids of the unfinished chunks of a stage that this process does."""
    unjudged = run.archive.unjudged(iteration, stage)
    if run.part is None:
        return unjudged
    planned = run.archive.query(
        "SELECT id FROM chunks WHERE iteration = ? AND stage = ? ORDER BY number", iteration, stage
    )
    own = {identifier for (identifier,) in run.part.share(planned)}
    return [identifier for identifier in unjudged if identifier in own]
