"""Stored candidates scored again without a model: with other errata, or with new verdicts of this sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puzzles.archive.formats import EMBEDDED_SETS
from puzzles.foreign import shown
from puzzles.puzzle import InputError
from sandbox.pool import Pool
from selfplay.benchmark.sets import scored_set
from selfplay.config import EvaluateConfig
from selfplay.run.consent import usual_or_less
from selfplay.run.rundir import SCORED_SETS, RunDir
from selfplay.sampling.cost import judging_watch
from selfplay.sampling.prompts import kept_format
from selfplay.sampling.shots import prompt_for
from selfplay.scoring import results
from selfplay.scoring.evaluate import SetScores, judge_surely, read_chunks, summarize
from selfplay.scoring.tables import score_cell
from selfplay.text import interval, markdown


def stored(places: Sequence[Path]) -> list[Path]:
    """The folders among `places` that hold results of a benchmark or a run."""
    return [place for place in places if (place / results.RESULTS).is_file() or is_run(place)]


def is_run(folder: Path) -> bool:
    """Whether the folder is that of a run."""
    return RunDir(folder).config.is_file()


def check_named(folder: Path, puzzles: str) -> None:
    """Check that the set of a benchmark may be read to judge its candidates again.

    `results.json` may be somebody else's, so no file is read because it stands there.

    Args:
        folder: A folder with `results.json`.
        puzzles: The file that the user names.

    Raises:
        InputError: The set is another file, and no embedded one.
    """
    path = results.read(folder)["selfplay"]["set"]["path"]
    if path not in (*EMBEDDED_SETS, puzzles):
        raise InputError(f"{folder}: its candidates are of {shown(path)}: name this file yourself: --puzzles FILE")


def limit_of(folder: Path) -> float | None:
    """The CPU limit that a benchmark's candidates were judged with, in seconds; None if it is above the usual one."""
    return usual_or_less(results.read(folder)["selfplay"]["limits"]["cpu_seconds"])


def rescore(
    folder: Path,
    errata: Mapping[str, str] | None,
    ks: Sequence[int] | None = None,
    sandbox: tuple[Pool, dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Score a benchmark's candidates again, and write its files again.

    Args:
        folder: A folder with `results.json` and `samples.jsonl.gz`.
        errata: Puzzles to leave out: the reason of each by id. None keeps the stored ones.
        ks: The k of pass@k; None keeps the stored ones.
        sandbox: A pool and its protections, to judge the stored texts again; None keeps the stored verdicts.

    Returns:
        The content of `results.json` before and after.

    Raises:
        InputError: The folder holds no results, or the set has changed.
    """
    results.read(folder)
    with RunDir(folder).lock():
        before = results.read(folder)
        lines = results.unpack(folder)
        if not lines:
            raise InputError(f"{folder}: expected {results.SAMPLES} beside {results.RESULTS}, to score it again")
        there = {count.puzzle: count.samples for count in results.puzzle_counts(lines)}
        scored = {puzzle: samples for puzzle, (samples, _) in before["selfplay"]["per_puzzle"].items()}
        if different := sorted(puzzle for puzzle in {*there, *scored} if there.get(puzzle) != scored.get(puzzle)):
            puzzle = different[0]
            found = f"got {there.get(puzzle, 0)} of puzzle {shown(puzzle)}"
            raise InputError(f"{folder / results.SAMPLES}: expected {scored.get(puzzle, 0)} candidates, {found}")
        left_out = before["selfplay"]["errata"] if errata is None else errata
        return before, _rescored(folder, before["selfplay"], lines, left_out, ks, sandbox)


def _rescored(
    folder: Path,
    own: Mapping[str, Any],
    lines: list[results.Line],
    errata: Mapping[str, str],
    ks: Sequence[int] | None,
    sandbox: tuple[Pool, dict[str, Any]] | None,
) -> dict[str, Any]:
    facts = {key: value for key, value in own.items() if key in results.FACTS}
    if ks is not None:
        _check_tries(folder, ks, facts["settings"]["samples_per_puzzle"])
        facts["settings"] = {**facts["settings"], "k": list(ks)}
    if sandbox is not None:
        facts |= _judge_again(*sandbox, facts, lines, folder / results.SAMPLES)
        results.pack(folder, lines)
    after = results.document(facts, lines, errata)
    results.write(folder, after, lines)
    return after


def _check_tries(folder: Path, ks: Sequence[int], samples: int) -> None:
    if max(ks) > samples:
        raise InputError(f"{folder}: pass@{max(ks)} needs at least {max(ks)} candidates per puzzle, got {samples}")


def _judge_again(
    pool: Pool, protections: dict[str, Any], facts: Mapping[str, Any], lines: Sequence[results.Line], file: Path
) -> dict[str, Any]:
    """Put this sandbox's verdicts into the lines, and return the facts that change with them."""
    chosen = scored_set(pool, facts["set"]["path"], facts["set"]["private"], facts["set"].get("limit"))
    if chosen.facts["hash"] != facts["set"]["hash"]:
        raise InputError(f"{chosen.path}: expected the set that was scored, but its puzzles have changed")
    puzzles = {item.puzzle.id: item.puzzle for item in chosen.named}
    if unknown := {result["puzzle"] for line in lines for result in line["results"]} - {*puzzles}:
        raise InputError(
            f"{file}: expected candidates for the puzzles of {chosen.path}, got some for {shown(min(unknown))}"
        )
    for line in lines:
        asked = [result for result in line["results"] if result["texts"]]
        group = [puzzles[result["puzzle"]] for result in asked]
        prompts = [prompt_for(kept_format(facts), puzzle, []) for puzzle in group]
        watch = judging_watch(pool)
        judged_P_K, machine = judge_surely(pool, group, prompts, [result["texts"] for result in asked])
        line["times"] |= {
            "judging_seconds": watch.seconds(), "judging_cpu_seconds": watch.cpu_seconds(), **machine
        }  # fmt: skip
        line["identity"]["limits"] = asdict(pool.limits)
        for result, judged_K in zip(asked, judged_P_K, strict=True):
            result["verdicts"] = [str(judgement.verdict) for _, judgement in judged_K]
            result["details"] = [judgement.detail for _, judgement in judged_K]
    return {"set": chosen.facts, "sandbox": protections, "limits": asdict(pool.limits), "worlds": pool.seed}


def rescored_run(
    folder: Path, errata: Mapping[str, str], ks: Sequence[int] | None = None
) -> list[tuple[int, str, dict[str, Any], SetScores]]:
    """The scores of every iteration: number, set, recorded scores and new scores. Nothing is written."""
    rundir, scores = RunDir(folder), []
    for record in rundir.read_records():
        for name in (name for name in SCORED_SETS if name in record):
            number, recorded = record["iteration"], record[name]
            # A branch may score with other n and k than its parent, so each record has its own.
            tries = ks or [int(key[5:]) for key in recorded if key.startswith("pass@")]
            _check_tries(folder, tries, recorded["samples_per_puzzle"])
            config = EvaluateConfig(samples_per_puzzle=recorded["samples_per_puzzle"], k=tuple(tries))
            lines = read_chunks(samples := rundir.samples(number, name))
            if not lines or any(line["identity"]["samples_per_puzzle"] != config.samples_per_puzzle for line in lines):
                raise InputError(
                    f"{samples}: expected {config.samples_per_puzzle} candidates of each puzzle, as in records.jsonl"
                )
            scores.append((number, name, recorded, summarize(lines, config, errata)))
    return scores


def rescored_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """A benchmark's scores before and after, and the puzzles that are now left out."""
    rows = [
        [name, score_cell(before["scores"][name]) if name in before["scores"] else "-", score_cell(score)]
        for name, score in after["scores"].items()
    ]
    left_out = [f"left out: {puzzle}: {reason}" for puzzle, reason in after["errata"].items()]
    return "\n".join([markdown([after["model"]["path"], "before", "after"], rows), *left_out])


def rescored_run_table(scores: Sequence[tuple[int, str, dict[str, Any], Any]]) -> str:
    """A run's recorded scores beside the new ones."""
    rows = [
        [str(number), name, k, interval(recorded[k]) if k in recorded else "-", interval(score)]
        for number, name, recorded, again in scores
        for k, score in again.pass_at.items()
    ]
    return markdown(["iteration", "set", "", "recorded", "again"], rows)
