"""A chunk is about a minute of work by a recorded rate, and where work is cut changes nothing in what a run writes."""

import dataclasses

import pytest
from scripted_run import Backend, Crash, config_of, content, crashed_and_resumed, go, puzzle_files, same, watched

from puzzles.archive.merging import merge
from puzzles.archive.store import Archive
from selfplay.config import ModelConfig, ProposeConfig, SolveConfig, VaryConfig
from selfplay.experiments.reproduce import begin, reproduce
from selfplay.iteration.parts import run_part
from selfplay.run.rundir import RunDir, read_lines
from selfplay.run.shard import Part

SMALL = 4
"""Texts of the first chunk, and of all chunks of a slow machine, here."""
SLOW, FAST = 30.0, 0.001
"""Seconds that sampling or judging a chunk takes, whatever its size."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("selfplay.scoring.evaluate.FEWEST_CHUNK_TEXTS", SMALL)
    monkeypatch.setattr("selfplay.sampling.chunks.FEWEST_CHUNK_TEXTS", SMALL)


@pytest.fixture
def machine(monkeypatch):
    """Sets how fast the machine seems to be."""

    def is_now(seconds):
        monkeypatch.setattr("selfplay.sampling.cost.Watch.seconds", lambda _: seconds)

    return is_now


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return config_of(
        puzzle_files(tmp_path_factory.mktemp("sets")), chunk_texts=0, vary=VaryConfig(10),
        model=ModelConfig(path="base", threads=1),
        propose=ProposeConfig(proposals=27, proposals_per_prompt=8, begun=0.3),
        solve=SolveConfig(candidates_per_puzzle=3, further_puzzles=3, further_candidates=5),
    )  # fmt: skip


@pytest.fixture(scope="module")
def slow(config, pool, tmp_path_factory):
    """The folder of a run on a slow machine."""
    folder = tmp_path_factory.mktemp("slow") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("selfplay.scoring.evaluate.FEWEST_CHUNK_TEXTS", SMALL)
        patch.setattr("selfplay.sampling.chunks.FEWEST_CHUNK_TEXTS", SMALL)
        patch.setattr("selfplay.sampling.cost.Watch.seconds", lambda _: SLOW)
        go(folder, config, pool)
    return folder


def sizes(folder):
    """Number of chunks by stage, and the sizes that their plans record."""
    with Archive(RunDir(folder).archive) as archive:
        rows = archive.query(
            "SELECT stage, count(*), group_concat(DISTINCT settings ->> 'chunk_texts') FROM chunks"
            " WHERE iteration = 1 GROUP BY 1"
        )
    return {stage: (count, recorded) for stage, count, recorded in rows}


def story(folder):
    """What a run came to, in order, without the places where it was cut."""
    place, found = RunDir(folder), {}
    with Archive(place.archive) as archive:
        of = "JOIN chunks k ON k.id = t.chunk ORDER BY k.id, t.position"
        found["proposals"] = archive.query(
            f"SELECT k.iteration, k.stage, outcome, detail, puzzle FROM proposals t {of}"
        )
        found["candidates"] = archive.query(
            f"SELECT k.iteration, k.stage, puzzle, candidate, verdict, answer FROM candidates t {of}"
        )
        found["puzzles"] = archive.query("SELECT id, source, original, parents, iteration FROM puzzles ORDER BY number")
        found["solutions"] = archive.query("SELECT puzzle, id, source, iteration FROM solutions ORDER BY number")
        chunks = [archive.chunk(number) for (number,) in archive.query("SELECT id FROM chunks ORDER BY id")]
    found["texts"] = [
        (chunk.iteration, chunk.stage, text)
        for chunk in chunks
        for row in chunk.completions
        for text in ([row] if isinstance(row, str) else row)
    ]
    found["scores"] = [
        (file.name, result)
        for file in sorted((folder / "scores").iterdir())
        for line in read_lines(file)
        for result in line["results"]
    ]
    found["checkpoints"] = [(folder / f"checkpoints/iteration-00{n}/weights").read_text() for n in (1, 2)]
    return {name: [tuple(row) for row in rows] for name, rows in found.items()}


def test_two_rates_give_other_chunks_and_the_same_texts_verdicts_and_weights(slow, config, pool, tmp_path, machine):
    machine(FAST)
    go(tmp_path / "fast", config, pool)
    # 27 proposals: 19 of three drawn prompts (8, 8, 3) and 8 of one beginning; each part of at most 4 of one prompt.
    assert sizes(slow)["propose"] == (2 + 2 + 1 + 2, "4")
    assert sizes(tmp_path / "fast")["propose"] == (3, "4096")
    assert sizes(slow)["solve"][0] > 3 * sizes(tmp_path / "fast")["solve"][0] == 3
    assert {recorded for _, recorded in sizes(slow).values()} == {"4", None}  # nothing is sampled to vary
    one, other = story(slow), story(tmp_path / "fast")
    for name in one:
        assert one[name] == other[name], name
    assert len(one["texts"]) > 150


@pytest.mark.parametrize(
    "crash_at", [160, *(pytest.param(place, marks=pytest.mark.slow) for place in (25, 90, 250, 400, 600))]
)
def test_a_killed_run_goes_on_to_the_same_archive_records_and_scores(slow, config, pool, tmp_path, machine, crash_at):
    machine(SLOW)
    crashed_and_resumed(tmp_path / "run", config, pool, crash_at)
    assert same(content(tmp_path / "run"), content(slow))


def test_whoever_goes_on_faster_keeps_the_chunks_that_are_planned(slow, config, pool, tmp_path, machine):
    machine(SLOW)
    with watched() as seen:
        go(tmp_path / "whole", dataclasses.replace(config, iterations=1), pool)
    planned = seen.events.index("add_proposal")  # the first chunk of the first iteration is being judged
    with watched(planned), pytest.raises(Crash):
        go(tmp_path / "run", dataclasses.replace(config, iterations=1), pool)
    machine(FAST)
    go(tmp_path / "run", dataclasses.replace(config, iterations=1), pool)
    assert sizes(tmp_path / "run") == sizes(slow)


def test_a_run_is_reproduced_in_its_own_chunks_on_a_faster_machine(slow, config, pool, tmp_path, machine):
    machine(FAST)
    there, here = RunDir(slow), RunDir(tmp_path / "again")
    done = reproduce(there, here, begin(there, here), Backend(), pool, {"tier": "A"})
    assert done.is_identical
    assert sizes(here.path) == sizes(slow)


def test_parts_on_machines_of_other_speeds_make_the_same_plan(slow, config, pool, tmp_path, machine):
    one = dataclasses.replace(config, iterations=1)
    machine(SLOW)
    go(tmp_path / "run", dataclasses.replace(config, iterations=0), pool)
    for _ in ("propose", "solve", "further"):
        owns = []
        for number, seconds in ((1, SLOW), (2, FAST), (3, 1.0)):
            machine(seconds)
            owns.append(RunDir(tmp_path / f"run-{number}-of-3"))
            run_part(RunDir(tmp_path / "run"), owns[-1], Part(number, 3), one, Backend(), pool, {"tier": "A"})
        with Archive(RunDir(tmp_path / "run").archive) as into:
            for own in owns:
                with Archive(own.archive) as other:
                    merge(into, other)
    machine(SLOW)
    go(tmp_path / "run", one, pool)
    go(tmp_path / "whole", one, pool)
    assert content(tmp_path / "run")["archive"] == content(tmp_path / "whole")["archive"]
    assert content(tmp_path / "run")["records"] == content(tmp_path / "whole")["records"]
