import contextlib
import dataclasses
import json
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from places import ROOT
from scripted_run import (
    DEV,
    HELDOUT,
    TRAIN,
    Backend,
    Crash,
    archive_content,
    config_of,
    content,
    crashed_and_resumed,
    go,
    plans,
    puzzle_file,
    puzzle_files,
    same,
    watched,
    write,
)

from puzzles.archive.store import Archive
from puzzles.parse import Text, parse_puzzles
from puzzles.puzzle import InputError
from puzzles.verify import truth_pool
from selfplay.config import (
    BudgetConfig,
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PromptConfig,
    ProposeConfig,
    SandboxConfig,
    SolveConfig,
)
from selfplay.iteration import beginning, champion, solve
from selfplay.iteration.budget import BudgetSpent
from selfplay.iteration.champion import dev_counts, reigns
from selfplay.iteration.solve import worth_further
from selfplay.run import consent, resources
from selfplay.run.progress import Progress
from selfplay.run.rundir import RunDir, read_lines
from selfplay.sampling.sampler import Arithmetic
from selfplay.settings import load


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def whole(files, pool, tmp_path_factory):
    """Two iterations, never interrupted, and what happened on the way."""
    path = tmp_path_factory.mktemp("whole") / "run"
    backend = Backend()
    with watched() as seen:
        records = go(path, config_of(files), pool, backend)
        events = list(seen.events)
    return {"path": path, "records": records, "events": events, "backend": backend, "content": content(path)}


@pytest.fixture
def rows(whole):
    with Archive(RunDir(whole["path"]).archive) as archive:
        yield archive.query


class Overlapping(Backend):
    """Its models sample while judging goes on, now faster, now slower than it."""

    def load(self, checkpoint, config):
        model, delay = super().load(checkpoint, config), random.Random(5)
        sample = model.sample

        def slowly(*arguments):
            threads.add(threading.current_thread())
            time.sleep(delay.choice([0, 0, 0.05, 0.2]))
            return sample(*arguments)

        model.sample, model.overlap = slowly, True
        return model


threads: set[threading.Thread] = set()


def test_what_a_run_writes_does_not_depend_on_what_is_sampled_while_it_judges(whole, files, pool, tmp_path):
    go(tmp_path / "run", config_of(files), pool, Overlapping())
    assert content(tmp_path / "run") == whole["content"]
    assert len(threads) > 1, "chunks were sampled in another thread"


# ---- what a run writes ----


def test_a_run_is_a_folder_of_ordinary_files(whole):
    names = {name for name in whole["content"]["files"] if not name.startswith("archive.sqlite-")}
    assert names == {
        "archive.sqlite", "config.toml", "lock", "records.jsonl", "sessions.jsonl", "signatures.txt", "status.json",
        "checkpoints", "scores",
        *(f"checkpoints/iteration-00{i}" for i in (1, 2)),
        *(f"checkpoints/iteration-00{i}/{name}" for i in (1, 2) for name in ("selfplay.json", "weights")),
        *(f"scores/iteration-00{i}-{name}.jsonl" for i in (0, 1, 2) for name in ("dev", "heldout")),
    }  # fmt: skip


def test_there_is_a_record_of_the_untrained_model_and_of_each_iteration(whole):
    assert [record["iteration"] for record in whole["records"]] == [0, 1, 2]
    assert len({record["checkpoint"] for record in whole["records"]}) == 3
    untrained = whole["records"][0]
    assert [untrained[key] for key in ("proposed", "candidates", "trained_pairs")] == [0, 0, 0]
    assert untrained["training"] == {}
    assert all(record["training"] == {"steps": 7} for record in whole["records"][1:])
    assert all(set(record["times"]) >= {"sampling", "judging", "training", "scoring"} for record in whole["records"])
    assert whole["records"] == RunDir(whole["path"]).read_records()


@pytest.mark.parametrize("iteration", [1, 2])
def test_a_records_numbers_are_the_archives_rows(whole, rows, iteration):
    record = whole["records"][iteration]

    def count(sql, *values):
        return rows(sql, *values)[0][0]

    of_chunks = "chunk IN (SELECT id FROM chunks WHERE iteration = ?)"
    assert record["proposed"] == count(f"SELECT count(*) FROM proposals WHERE {of_chunks}", iteration) == 24
    assert record["admitted"] == count(
        "SELECT count(*) FROM puzzles WHERE origin = 'model' AND iteration = ?", iteration
    )
    outcomes = Counter(dict(rows(f"SELECT outcome, count(*) FROM proposals WHERE {of_chunks} GROUP BY 1", iteration)))
    assert (record["admitted"], record["held_out_refused"]) == (outcomes["admitted"], outcomes["held_out"])
    assert record["well_formed"] == 24 - outcomes["syntax"] - outcomes["no_annotation"]
    assert record["candidates"] == 4 * (len(TRAIN) + record["admitted"])
    assert record["candidates"] == count(f"SELECT count(*) FROM candidates WHERE {of_chunks}", iteration)
    accepted = f"SELECT count(*) FROM candidates WHERE verdict = 'accepted' AND {of_chunks}"
    assert record["accepted"] == count(accepted, iteration) > record["new_pairs"]
    of_model = "SELECT count(*) FROM solutions WHERE origin = 'model' AND iteration = ?"
    assert record["new_pairs"] == count(of_model, iteration) > 0
    assert record["pairs"] == count("SELECT count(*) FROM solutions WHERE iteration <= ?", iteration)
    assert record["trained_pairs"] == count("SELECT count(*) FROM trained WHERE iteration = ?", iteration)
    solved = "SELECT count(*) FROM puzzles p WHERE origin = 'model' AND iteration = ? AND EXISTS (" \
        "SELECT 1 FROM solutions WHERE puzzle = p.id)"  # fmt: skip
    assert record["solved"] == count(solved, iteration) > 0


def test_a_records_scores_are_those_of_the_stored_candidates(whole):
    for record in whole["records"]:
        for name, size in (("dev", len(DEV)), ("heldout", len(HELDOUT))):
            lines = read_lines(RunDir(whole["path"]).samples(record["iteration"], name))
            verdicts = [result["verdicts"] for line in lines for result in line["results"]]
            assert [len(row) for row in verdicts] == [4] * size
            assert record[name]["puzzles"] == size
            assert record[name]["verdicts"] == dict(Counter(v for row in verdicts for v in row))
            share = np.mean([row.count("accepted") / 4 for row in verdicts])
            assert record[name]["pass@1"][0] == pytest.approx(share)
            assert record[name]["pass@4"][0] == pytest.approx(np.mean(["accepted" in row for row in verdicts]))


def test_every_proposals_fate_is_recorded(whole, rows):
    outcomes = dict(rows("SELECT outcome, count(*) FROM proposals GROUP BY 1"))
    assert set(outcomes) == {
        "admitted", "duplicate", "held_out", "trivial", "syntax", "no_annotation", "bool_answer", "import",
    }  # fmt: skip
    assert sum(outcomes.values()) == 48
    assert {detail for (detail,) in rows("SELECT detail FROM proposals WHERE outcome = 'held_out'")} == {
        "normal_form: heldout/cube with other constants"
    }
    assert all(detail for (detail,) in rows("SELECT detail FROM proposals WHERE outcome IN ('syntax', 'import')"))


def test_a_proposal_repeated_in_one_chunk_is_admitted_once(files, pool, tmp_path):
    class Monotone(Backend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model._write = lambda prompt, rng: (
                "x: int):\n    return x * 31 == 9300\n" if prompt.header == "def f(" else ""
            )
            return model

    (_, record) = go(tmp_path / "run", config_of(files, iterations=1), pool, Monotone())
    assert (record["proposed"], record["well_formed"], record["admitted"]) == (24, 24, 1)


def test_a_proposed_puzzle_knows_its_text_and_the_puzzles_in_its_prompt(rows, whole):
    found = rows(
        "SELECT p.*, c.iteration AS of_iteration FROM puzzles p JOIN chunks c ON c.id = p.chunk"
        " WHERE p.origin = 'model'"
    )
    assert len(found) > 5
    with Archive(RunDir(whole["path"]).archive) as archive:
        for row in found:
            chunk = archive.chunk(row["chunk"])
            assert chunk.completions[row["position"]] == row["original"]
            assert json.loads(row["parents"]) == chunk.plan["shots"][row["position"] // chunk.plan["copies"]]
            assert len(json.loads(row["parents"])) == 2
            assert row["iteration"] == row["of_iteration"]


def test_all_proposals_may_go_on_from_beginnings(files, pool, tmp_path):
    config = config_of(files, iterations=1, propose=ProposeConfig(proposals=40, proposals_per_prompt=10, begun=1.0))
    go(tmp_path / "run", config, pool)
    found = plans(tmp_path / "run", 1)
    assert sum(plan["copies"] * len(plan["begins"]) for plan in found) == 40
    assert all(begin for plan in found for begin in plan["begins"])


def test_without_a_solved_puzzle_no_proposal_goes_on_from_one(files, pool, tmp_path):
    train = puzzle_file(tmp_path / "unsolved.jsonl", [(name, puzzle, None) for name, puzzle, _ in TRAIN])
    config = config_of(
        {**files, "train": train}, iterations=1, propose=ProposeConfig(proposals=40, proposals_per_prompt=10, begun=0.5)
    )
    go(tmp_path / "run", config, pool)
    assert [begin for plan in plans(tmp_path / "run", 1) for begin in plan["begins"]] == [None] * 4


@pytest.mark.slow
def test_a_share_of_the_proposals_goes_on_from_the_beginnings_of_solved_puzzles(files, pool, tmp_path):
    config = config_of(files, propose=ProposeConfig(proposals=40, proposals_per_prompt=10, begun=0.6))
    go(tmp_path / "run", config, pool)
    begun = admitted = 0
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        texts = {row["id"]: row["source"] for row in archive.query("SELECT id, source FROM puzzles")}
        for (number,) in archive.query("SELECT id FROM chunks WHERE stage = 'propose' AND iteration = 2"):
            chunk = archive.chunk(number)
            for place, begin in enumerate(chunk.plan["begins"]):
                begun += chunk.plan["copies"] if begin else 0
                if begin:
                    parent, length = begin
                    assert parent in archive.solved_ids(before_iteration=2)
                    beginning = texts[parent][:length]
                    assert re.match(r"def f\(\w+: (int|str|List\[int\])(?!\w|\[)", beginning)
                    assert not (beginning[-1] + texts[parent][length : length + 1]).isidentifier()
                    assert not beginning[-1].isspace()
                for row in archive.query("SELECT * FROM puzzles WHERE chunk = ?", number):
                    if begin and row["position"] // chunk.plan["copies"] == place:
                        assert json.loads(row["parents"]) == [*chunk.plan["shots"][place], parent]
                        (whole_puzzle,) = parse_puzzles(pool, [Text(beginning + row["original"], "continuation")])
                        assert whole_puzzle.id == row["id"]
                        admitted += 1
    assert begun == 24
    assert admitted
    resumed = tmp_path / "resumed"
    crashed_and_resumed(resumed, config, pool, 25)
    assert same(content(resumed), content(tmp_path / "run"))


@pytest.mark.slow
def test_more_candidates_are_sampled_where_the_first_let_most_be_hoped_for(files, pool, tmp_path):
    further = SolveConfig(candidates_per_puzzle=4, further_puzzles=3, further_candidates=5)
    config = config_of(files, solve=further, finetune=FinetuneConfig(solutions_per_puzzle=100))
    records = go(tmp_path / "run", config, pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        for iteration in (1, 2):
            first, more = (
                {
                    row["puzzle"]: (row["c"], row["n"])
                    for row in archive.query(
                        "SELECT puzzle, count(*) AS n, sum(verdict = 'accepted') AS c FROM candidates JOIN chunks c"
                        " ON c.id = chunk WHERE iteration = ? AND stage = ? GROUP BY 1",
                        iteration,
                        stage,
                    )
                }
                for stage in ("solve", "further")
            )
            assert {tried for _, tried in first.values()} == {4}
            assert {tried for _, tried in more.values()} == {5}
            assert len(more) == 3
            worth = {puzzle: worth_further(*counts) for puzzle, counts in first.items()}
            assert min(worth[puzzle] for puzzle in more) >= max(worth[puzzle] for puzzle in worth.keys() - more.keys())
            assert records[iteration]["candidates"] == 4 * len(first) + 5 * len(more)
            assert records[iteration]["cost"]["further"]["texts"] == 15
    assert same(crashed_and_resumed(tmp_path / "again", config, pool, 40) and content(tmp_path / "again"),
                content(tmp_path / "run"))  # fmt: skip


def test_what_more_candidates_are_worth_is_the_mean_over_the_posterior():
    rates = (np.arange(200_000) + 0.5) / 200_000
    for tried in (1, 4, 8):
        for accepted in range(tried + 1):
            density = rates ** (accepted - 0.5) * (1 - rates) ** (tried - accepted - 0.5)
            mean = (rates * (1 - rates) ** 2 * density).sum() / density.sum()
            assert worth_further(accepted, tried) == pytest.approx(mean, rel=5e-3)
    assert max(range(9), key=lambda accepted: worth_further(accepted, 8)) == 3


def test_nothing_held_out_is_in_the_archive(whole, rows):
    guarded = {
        result["puzzle"]
        for lines in whole["content"]["scores"].values()
        for line in lines
        for result in line["results"]
    }
    assert len(guarded) == len(DEV) + len(HELDOUT)
    assert not guarded & {identifier for (identifier,) in rows("SELECT id FROM puzzles")}


def test_puzzles_are_tried_again_each_iteration_and_chunks_tell_what_they_were_sampled_with(rows, whole):
    chunks = rows("SELECT * FROM chunks")
    assert {row["stage"] for row in chunks} == {"propose", "solve"}
    assert all(row["judged"] for row in chunks)
    of_base, of_first = (whole["records"][i]["checkpoint"] for i in (0, 1))
    assert {(row["iteration"], row["checkpoint"]) for row in chunks} == {(1, of_base), (2, of_first)}
    assert len({row["seed"] for row in chunks}) == len(chunks)
    for row in chunks:
        settings = json.loads(row["settings"])
        assert settings.keys() >= {"temperature", "top_p", "max_tokens", "batch_rows", "engine", "protocol"}


def test_the_pairs_trained_on_are_recorded_and_shown_as_in_sampling(whole, rows):
    for training, iteration in zip(whole["backend"].trainings, (1, 2), strict=True):
        trained = rows("SELECT puzzle, solution FROM trained WHERE iteration = ?", iteration)
        solving = [one for one in training["examples"] if one.prompt.header != "def f("]
        assert len(solving) == len(trained)
        assert training["start"] == "base"
        assert training["notes"]["protocol"] == "few-shot"
        assert training["notes"]["pairs"] == len(trained)
        guarded = [puzzle for _, puzzle, _ in DEV + HELDOUT]
        assert not any(puzzle in one.prompt.text for one in training["examples"] for puzzle in guarded)


def test_a_finished_run_given_again_does_nothing(whole, files, pool):
    before = whole["content"]
    rows_shown = []
    with watched() as seen:
        records = go(whole["path"], config_of(files), pool, progress=Progress(row=rows_shown.append))
        assert set(seen.events) == {"config", "load", "retire"}
    assert records == rows_shown == whole["records"]
    assert content(whole["path"]) == before


def test_two_runs_of_the_same_settings_write_the_same(whole, files, pool, tmp_path):
    go(tmp_path / "run", config_of(files), pool)
    assert same(content(tmp_path / "run"), whole["content"])


def test_another_seed_writes_something_else(whole, files, pool, tmp_path):
    records = go(tmp_path / "run", config_of(files, seed=5, iterations=1), pool)
    assert records[1]["checkpoint"] != whole["records"][1]["checkpoint"]


# ---- resuming ----


def places(events: list[str]) -> list[int]:
    """One crash for each kind of event, early, in the middle, or late in the run."""
    by_kind: dict[str, list[int]] = {}
    for place, event in enumerate(events):
        by_kind.setdefault(event, []).append(place)
    return sorted(found[len(found) * (turn % 3) // 3] for turn, found in enumerate(by_kind.values()))


@pytest.mark.slow
def test_a_run_that_stopped_anywhere_goes_on_to_the_same_end(whole, files, pool, tmp_path):
    chosen = places(whole["events"])
    assert len(chosen) >= 18
    for crash_at in chosen:
        event = whole["events"][crash_at]
        crashed_and_resumed(tmp_path / str(crash_at), config_of(files), pool, crash_at)
        assert same(content(tmp_path / str(crash_at)), whole["content"]), event


@pytest.mark.slow
def test_a_run_that_stops_again_and_again_comes_to_the_same_end(whole, files, pool, tmp_path):
    for session in range(1, 200):
        try:
            with watched(crash_at=4 + 7 * session % 40):
                go(tmp_path / "run", config_of(files), pool)
            break
        except Crash:
            continue
    assert 10 < session < 199
    assert same(content(tmp_path / "run"), whole["content"])


@pytest.mark.slow
def test_a_run_that_stopped_at_any_event_goes_on_to_the_same_end(whole, files, pool, tmp_path):
    for crash_at, event in enumerate(whole["events"]):
        crashed_and_resumed(tmp_path / str(crash_at), config_of(files), pool, crash_at)
        assert same(content(tmp_path / str(crash_at)), whole["content"]), (crash_at, event)


def killed_run(path: str, files: str, crash_at: str) -> None:
    """The body of the process that is killed."""
    with truth_pool(lanes=1) as pool, watched(int(crash_at), kill=True):
        go(Path(path), config_of(json.loads(files)), pool)


@pytest.mark.parametrize("event", ["commit", "half a line", "half a checkpoint", "add_candidate"])
def test_a_killed_run_goes_on_to_the_same_end(whole, files, pool, tmp_path, event):
    crash_at = [place for place, name in enumerate(whole["events"]) if name == event][-2]
    code = "import sys; sys.path[:0] = sys.argv[1].split(); import test_loop; test_loop.killed_run(*sys.argv[2:])"
    paths = f"{Path(__file__).parent} {ROOT / 'tests' / 'shared'}"
    arguments = [paths, str(tmp_path / "run"), json.dumps(files), str(crash_at)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    go(tmp_path / "run", config_of(files), pool)
    assert same(content(tmp_path / "run"), whole["content"])


def test_a_larger_number_of_iterations_extends_a_finished_run(whole, files, pool, tmp_path):
    go(tmp_path / "run", config_of(files, iterations=0), pool)
    assert [record["iteration"] for record in go(tmp_path / "run", config_of(files, iterations=1), pool)] == [0, 1]
    go(tmp_path / "run", config_of(files), pool)
    assert same(content(tmp_path / "run"), whole["content"])
    assert load(RunDir(tmp_path / "run").config).iterations == 2


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("seed", {"seed": 5}),
        ("batch_rows", {"batch_rows": 4}),
        ("solve.candidates_per_puzzle", {"solve": SolveConfig(candidates_per_puzzle=5)}),
        ("finetune.learning_rate", {"finetune": FinetuneConfig(learning_rate=1e-3)}),
        ("model.path", {"model": ModelConfig(path="another")}),
    ],
)
def test_other_settings_are_refused_by_name_and_change_nothing(whole, files, pool, key, changes):
    with pytest.raises(InputError, match=re.escape(key)) as caught:
        go(whole["path"], config_of(files, **changes), pool)
    assert str(whole["path"]) in str(caught.value)
    assert content(whole["path"]) == whole["content"]


def test_a_second_writer_is_refused(whole, files, pool):
    with RunDir(whole["path"]).lock(), pytest.raises(InputError, match="another process is writing"):
        go(whole["path"], config_of(files, iterations=9), pool)
    assert content(whole["path"]) == whole["content"]


# ---- what a run costs ----

STAGE_SECONDS = {"model_seconds", "model_cpu_seconds", "judging_seconds", "judging_cpu_seconds"}


class Costly(Backend):
    """Trainings that take a million seconds, and a machine of which the peak is known."""

    def __init__(self):
        super().__init__()
        self.prompt_words: Counter[str] = Counter()

    def load(self, checkpoint, config):
        model = super().load(checkpoint, config)
        model.arithmetic = Arithmetic(flops_per_token=10, peak_flops_per_second=1e9)
        sample = model.sample

        def counted(prompts, *arguments):
            stage = "propose" if prompts[0].header == "def f(" else "others"
            self.prompt_words[stage] += sum(len(prompt.text.split()) for prompt in prompts)
            return sample(prompts, *arguments)

        model.sample = counted
        return model

    def finetune(self, training, folder, *more):
        super().finetune(training, folder, *more)
        notes = json.loads((folder / "selfplay.json").read_text())
        notes["training"] = {
            "steps": 7, "sequences": 21, "tokens": 1234, "seconds": 1e6, "cpu_seconds": 2e6,
            "peak_flops_per_second": 3e9,
        }  # fmt: skip
        (folder / "selfplay.json").write_text(json.dumps(notes))


def words(texts) -> int:
    """Scripted models write a token per word."""
    return sum(len(text.split()) for text in texts)


def test_a_records_costs_are_those_counted_by_hand_in_archive_and_score_files(files, pool, tmp_path):
    backend, place = Costly(), RunDir(tmp_path / "run")
    untrained, record = go(place.path, config_of(files, iterations=1), pool, backend)
    cost = record["cost"]
    with Archive(place.archive) as archive:
        chunks = [archive.chunk(number) for (number,) in archive.query("SELECT id FROM chunks")]
    assert {chunk.stage for chunk in chunks} == {"propose", "solve"}
    proposed = [text for chunk in chunks if chunk.stage == "propose" for text in chunk.completions]
    solved = [text for chunk in chunks if chunk.stage == "solve" for row in chunk.completions for text in row]
    scored = {
        iteration: [
            text
            for name in ("dev", "heldout")
            for line in read_lines(place.samples(iteration, name))
            for result in line["results"]
            for text in result["texts"]
        ]
        for iteration in (0, 1)
    }
    counted = [(cost[stage]["texts"], cost[stage]["tokens"]) for stage in ("propose", "solve", "score")]
    assert counted == [(len(texts), words(texts)) for texts in (proposed, solved, scored[1])]
    assert (len(proposed), len(scored[1])) == (24, 20)
    assert {key: untrained["cost"]["score"][key] for key in ("texts", "tokens")} == {
        "texts": 20, "tokens": words(scored[0]),
    }  # fmt: skip
    assert set(untrained["cost"]) == {"score"}
    assert cost["propose"]["prompt_tokens"] == backend.prompt_words["propose"] > 0
    others = (cost["solve"], cost["score"], untrained["cost"]["score"])
    assert sum(one["prompt_tokens"] for one in others) == backend.prompt_words["others"]
    assert cost["train"] == {"texts": 21, "tokens": 1234, "prompt_tokens": 0, "flops": 3 * 1234 * 10}
    for stage in ("propose", "solve", "score"):
        assert cost[stage]["flops"] == 10 * (cost[stage]["tokens"] + cost[stage]["prompt_tokens"])


def test_a_records_times_have_all_seconds_of_every_stage(files, pool, tmp_path):
    for record in go(tmp_path / "run", config_of(files, iterations=1), pool, Costly()):
        stages, times = record["times"]["stages"], record["times"]
        assert set(stages) == set(record["cost"])
        assert all(set(seconds) == STAGE_SECONDS | {"peak_flops_per_second"} for seconds in stages.values())
        assert all(value >= 0 for seconds in stages.values() for value in seconds.values())
        sampled = [stages[stage] for stage in ("propose", "solve") if stage in stages]
        assert times["sampling"] == pytest.approx(sum(one["model_seconds"] for one in sampled), abs=0.02)
        assert times["judging"] == pytest.approx(sum(one["judging_seconds"] for one in sampled), abs=0.02)
        score = stages["score"]
        assert times["scoring"] == pytest.approx(score["model_seconds"] + score["judging_seconds"], abs=0.02)
        assert all(one["judging_seconds"] > 0 and one["judging_cpu_seconds"] > 0 for one in (*sampled, score))
        assert {one["peak_flops_per_second"] for one in (*sampled, score)} == {1_000_000_000}
    assert (times["training"], stages["train"]["model_seconds"], stages["train"]["model_cpu_seconds"]) == (
        1e6,
        1e6,
        2e6,
    )
    assert stages["train"]["peak_flops_per_second"] == 3_000_000_000
    assert record["training"] == {"steps": 7, "sequences": 21, "tokens": 1234}


def spent_by_step(whole) -> list[int]:
    """Tokens of each chunk, training and scoring of the whole run, in the order in which they were made."""
    place = RunDir(whole["path"])
    with Archive(place.archive) as archive:
        chunks = archive.query("SELECT iteration, tokens FROM chunks ORDER BY id")
    steps = []
    for iteration in range(3):
        # The scripted training has no tokens.
        steps += [row["tokens"] for row in chunks if row["iteration"] == iteration] + [0] * bool(iteration)
        for name in ("dev", "heldout"):
            results = [result for line in read_lines(place.samples(iteration, name)) for result in line["results"]]
            steps.append(sum(result["tokens"] for result in results))
    return steps


def bounded(files, **budget):
    return config_of(files, budget=BudgetConfig(**budget))


def apart_from_settings(content_: dict) -> dict:
    return {part: value for part, value in content_.items() if part != "config"}


@pytest.mark.slow
def test_a_budget_of_tokens_ends_a_run_before_each_step_and_a_larger_one_goes_on_to_the_same_end(
    whole, files, pool, tmp_path
):
    steps, path = spent_by_step(whole), tmp_path / "run"
    assert len(steps) >= 14
    done, stopped_in = 0, Counter()
    for place in range(len(steps)):
        budget = sum(steps[: place + 1])
        if steps[place] == 0 or place == len(steps) - 1:  # trainings are stopped before, and not by what they cost
            continue
        with watched() as seen, pytest.raises(BudgetSpent) as caught:
            go(path, bounded(files, tokens=budget), pool)
        stage = re.fullmatch(
            rf"budget\.tokens: {budget:,} of {budget:,} are spent, in iteration (\d)", str(caught.value)
        )
        assert stage, caught.value
        done += seen.events.count("sampled")
        assert done == sum(tokens > 0 for tokens in steps[: place + 1]), "not one step more, and none twice"
        stopped_in[int(stage[1])] += 1
        assert len(seen.events) > seen.events.count("load")
        if steps[place + 1] == 0:
            assert not RunDir(path).checkpoint(int(stage[1])).exists(), "it did not train"
    assert set(stopped_in) == {0, 1, 2}
    # The last step may begin, as there is a token left, and then nothing is left to be refused.
    for _ in range(2):
        records = go(path, bounded(files, tokens=sum(steps)), pool)
    assert same(apart_from_settings(content(path)), apart_from_settings(whole["content"]))
    assert [record["cost"] for record in records] == [record["cost"] for record in whole["records"]]
    assert load(RunDir(path).config).budget.tokens == sum(steps)


def test_a_budget_of_seconds_counts_all_sessions_and_keeps_what_was_finished(whole, files, pool, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(BudgetSpent, match=r"budget\.seconds: \d+\.\d of 1e-09 are spent, in iteration 0"):
        go(path, bounded(files, seconds=1e-9), pool, Costly())
    assert RunDir(path).samples(0, "dev").exists()
    assert not RunDir(path).samples(0, "heldout").exists()
    for _ in range(2):  # a session that is new does not begin with nothing spent
        backend = Costly()
        with pytest.raises(
            BudgetSpent, match=r"budget\.seconds: 1,000,\d{3}\.\d of 1,000,000\.0 are spent, in iteration 1"
        ):
            go(path, bounded(files, seconds=1e6), pool, backend)
        assert RunDir(path).checkpoint(1).exists()
        assert not RunDir(path).samples(1, "dev").exists()
    assert backend.trainings == []
    # An iteration that is recorded has been paid for as well.
    with pytest.raises(
        BudgetSpent, match=r"budget\.seconds: 2,000,\d{3}\.\d of 1,500,000\.0 are spent, in iteration 2"
    ):
        go(path, bounded(files, seconds=1.5e6), pool, Costly())
    assert not RunDir(path).samples(2, "dev").exists()
    go(path, bounded(files, seconds=1e7), pool, Costly())
    ended = content(path)
    assert same({"checkpoints": ended["checkpoints"]}, whole["content"])
    assert same({"archive": ended["archive"], "scores": ended["scores"]}, whole["content"])


def test_a_budget_that_is_enough_changes_nothing(whole, files, pool, tmp_path):
    go(tmp_path / "run", bounded(files, tokens=sum(spent_by_step(whole)) + 1, seconds=1e9), pool)
    assert same(apart_from_settings(content(tmp_path / "run")), apart_from_settings(whole["content"]))


@pytest.mark.slow
def test_a_budget_ends_a_run_that_samples_ahead_and_loses_none_of_what_was_finished(whole, files, pool, tmp_path):
    steps, path = spent_by_step(whole), tmp_path / "run"
    for budget in (sum(steps[:3]), sum(steps[:5])):  # in the middle of proposing and of solving
        with pytest.raises(BudgetSpent, match="in iteration 1"):
            go(path, bounded(files, tokens=budget), pool, Overlapping())
        with Archive(RunDir(path).archive) as archive:
            assert archive.query("SELECT sum(tokens) FROM chunks WHERE judged")[0][0] == budget - sum(steps[:2])
    go(path, config_of(files), pool, Overlapping())
    assert same(content(path), whole["content"])


# ---- settings ----


class Rigged(Backend):
    """The untrained model and iterations 1, 2, 3 answer the dev set with these chances."""

    chances = (0.0, 1.0, 0.0, 0.0)

    def load(self, checkpoint, config):
        model = super().load(checkpoint, config)
        chance = self.chances[model.notes.get("iteration", 0)]

        def rigged(prompt, rng):
            if "x + 8 == 20" in prompt.text.rpartition("def f(")[2]:
                return "\n    return 12\n" if rng.random() < chance else "\n    return 13\n"
            return write(prompt, rng)

        model._write = rigged
        return model


def checkpoints(path: Path) -> list[str]:
    return sorted(folder.name for folder in (path / "checkpoints").iterdir())


def best_of(files):
    return config_of(files, keep_checkpoints="best", iterations=3, solve=SolveConfig(candidates_per_puzzle=1))


def test_the_best_checkpoint_on_dev_and_the_last_are_kept(files, pool, tmp_path):
    go(tmp_path / "run", best_of(files), pool, Rigged())
    assert checkpoints(tmp_path / "run") == ["iteration-001", "iteration-003"]


@pytest.mark.slow
def test_an_iteration_does_not_look_at_all_that_went_before(files, pool, tmp_path, monkeypatch):
    """A run has thousands of them."""
    looked, place = Counter(), RunDir.checkpoint

    def watched_place(self, iteration):
        looked["checkpoint"] += 1
        return place(self, iteration)

    monkeypatch.setattr(RunDir, "checkpoint", watched_place)
    by_iteration = []
    config = dataclasses.replace(best_of(files), iterations=8)
    go(tmp_path / "run", config, pool, progress=Progress(row=lambda record: by_iteration.append(looked["checkpoint"])))
    assert len(set(np.diff(by_iteration)[3:])) == 1


@pytest.mark.slow
def test_a_crash_before_checkpoints_are_deleted_leaves_none_too_many(files, pool, tmp_path):
    with watched() as seen:
        go(tmp_path / "whole", best_of(files), pool, Rigged())
        last = max(place for place, event in enumerate(seen.events) if event == "retire")
    with watched(last), pytest.raises(Crash):
        go(tmp_path / "run", best_of(files), pool, Rigged())
    assert checkpoints(tmp_path / "run") == ["iteration-001", "iteration-002", "iteration-003"]
    go(tmp_path / "run", best_of(files), pool, Rigged())
    assert checkpoints(tmp_path / "run") == checkpoints(tmp_path / "whole") == ["iteration-001", "iteration-003"]


@pytest.mark.slow
def test_behind_the_gate_a_checkpoint_is_sampled_from_once_it_has_won(files, pool, tmp_path, monkeypatch):
    won = {(0, 1): False, (0, 2): True, (2, 3): False, (2, 4): False}
    monkeypatch.setattr(champion, "dev_counts", lambda rundir, iterations: tuple(iterations))
    monkeypatch.setattr(champion, "match", lambda pair, *_: SimpleNamespace(is_won=lambda: won[pair]))
    config = config_of(
        files, gate=True, iterations=4, finetune=FinetuneConfig(start="previous"), keep_checkpoints="best",
        solve=SolveConfig(candidates_per_puzzle=1),
    )  # fmt: skip
    backend = Backend()
    with watched(crash_at=150), contextlib.suppress(Crash):
        go(tmp_path / "run", config, pool, backend)
    records = go(tmp_path / "run", config, pool, backend)
    assert [record["reigns"] for record in records] == [0, 0, 2, 2, 2]
    hashes = [record["checkpoint"] for record in records]
    with Archive(tmp_path / "run" / "archive.sqlite") as archive:
        sampled = archive.query("SELECT DISTINCT iteration, checkpoint FROM chunks ORDER BY iteration")
        kept = RunDir(tmp_path / "run").checkpoint(2).is_dir()
    assert [tuple(row) for row in sampled] == [(1, hashes[0]), (2, hashes[0]), (3, hashes[2]), (4, hashes[2])]
    assert [Path(training["start"]).name for training in backend.trainings][-4:] == [
        "base", "base", "iteration-002", "iteration-002"
    ]  # fmt: skip
    assert kept


def test_a_branch_behind_the_gate_must_score_as_the_run_it_came_from(files, pool, tmp_path):
    go(tmp_path / "run", config_of(files, iterations=1), pool)
    beginning.branch(RunDir(tmp_path / "run"), 1, RunDir(tmp_path / "branch"))
    config = config_of(files, gate=True, iterations=2, evaluate=EvaluateConfig(samples_per_puzzle=9, k=(1,)))
    told = r"evaluate.samples_per_puzzle: expected \d+, as in the scores of .*branch, got 9: keep it"
    with pytest.raises(InputError, match=told):
        go(tmp_path / "branch", config, pool)
    slower = SandboxConfig(cpu_seconds=0.5)
    with pytest.raises(InputError, match=r"sandbox limits: expected .*, as in the scores of .*branch, got "):
        go(tmp_path / "branch", config_of(files, gate=True, sandbox=slower), pool)


@pytest.mark.parametrize("name", ["checkpoints/iteration-001/weights", "scores/iteration-001-dev.jsonl"])
@pytest.mark.parametrize("to", ["/dev/zero", "/etc/hostname"])
def test_a_branch_copies_nothing_that_is_not_a_file_of_the_run(files, pool, tmp_path, name, to):
    go(tmp_path / "run", config_of(files, iterations=1), pool)
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).symlink_to(to)
    with pytest.raises(InputError, match=f"{name}: expected an ordinary file"):
        beginning.branch(RunDir(tmp_path / "run"), 1, RunDir(tmp_path / "branch"))
    assert not (tmp_path / "branch").exists()


def test_a_run_that_was_begun_here_goes_on_by_its_own_settings(files, pool, tmp_path, monkeypatch):
    config = config_of(files, iterations=1)
    go(tmp_path / "run", config, pool)
    assert consent.acting(config), "its sets are files"
    assert consent.load(tmp_path / "run" / "config.toml").data == config.data
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(InputError, match=r"--allow-settings model\.path,data\.train"):
        consent.load(tmp_path / "run" / "config.toml")


def test_the_gate_asks_the_scores_of_dev(files, pool, tmp_path):
    config = config_of(files, gate=True, iterations=2)
    records = go(tmp_path / "run", config, pool)
    expected = reigns(dev_counts(RunDir(tmp_path / "run"), range(3)))
    assert [record["reigns"] for record in records] == expected


def test_going_on_from_the_previous_checkpoint_starts_each_training_there(files, pool, tmp_path):
    backend = Backend()
    config = config_of(files, finetune=FinetuneConfig(start="previous"), keep_checkpoints="best")
    go(tmp_path / "run", config, pool, backend)
    assert [one["start"] for one in backend.trainings] == ["base", str(RunDir(tmp_path / "run").checkpoint(1))]


def test_no_proposals_are_an_iteration_on_the_training_puzzles(files, pool, tmp_path):
    config = config_of(files, propose=ProposeConfig(proposals=0), iterations=1)
    _, record = go(tmp_path / "run", config, pool)
    assert [record[key] for key in ("proposed", "well_formed", "admitted", "solved")] == [0, 0, 0, 0]
    assert record["candidates"] == 4 * len(TRAIN)
    assert record["trained_pairs"] > 0


@pytest.mark.parametrize(
    ("which", "tried"), [("all", ("thirds", "unsolved")), ("unsolved", ("unsolved",)), ("none", ())]
)
def test_training_puzzles_are_tried_as_configured(files, pool, tmp_path, which, tried):
    config = config_of(files, propose=ProposeConfig(proposals=0), iterations=1)
    config = dataclasses.replace(config, solve=SolveConfig(candidates_per_puzzle=2, training_puzzles=which))
    go(tmp_path / "run", config, pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        names = {
            name for (name,) in archive.query("SELECT name FROM puzzles WHERE id IN (SELECT puzzle FROM candidates)")
        }
    assert names & {"thirds", "unsolved"} == set(tried)


def test_at_most_so_many_training_puzzles_are_tried_and_the_likeliest_teach_most(files, pool, tmp_path):
    config = config_of(files, propose=ProposeConfig(proposals=0), iterations=3)
    config = dataclasses.replace(config, solve=SolveConfig(candidates_per_puzzle=4, most_training=2))
    go(tmp_path / "run", config, pool)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        tried = archive.query(
            "SELECT c.iteration, count(DISTINCT k.puzzle) FROM candidates k JOIN chunks c ON c.id = k.chunk GROUP BY 1"
        )
        assert [tuple(row) for row in tried] == [(1, 2), (2, 2), (3, 2)]
        everything = solve.targets(archive, 4, dataclasses.replace(config, solve=SolveConfig()))
        drawn = Counter(
            puzzle
            for seed in range(200)
            for puzzle in solve.targets(archive, 4, dataclasses.replace(config, seed=seed))
        )
        counts = dict(archive.query("SELECT puzzle, sum(verdict = 'accepted') FROM candidates GROUP BY 1"))
        tries = dict(archive.query("SELECT puzzle, count(*) FROM candidates GROUP BY 1"))
    worth = {puzzle: solve.worth_further(counts.get(puzzle, 0), tries.get(puzzle, 0)) for puzzle in everything}
    assert sum(drawn.values()) == 400
    assert drawn[max(worth, key=worth.get)] > drawn[min(worth, key=worth.get)]


def test_a_run_may_learn_the_pairs_it_begins_with_before_the_first_proposal(files, pool, tmp_path):
    backend, config = Backend(), config_of(files, finetune=FinetuneConfig(first_steps=5), iterations=1)
    records = go(tmp_path / "run", config, pool, backend)
    rundir = RunDir(tmp_path / "run")
    first, second = backend.trainings
    assert first["start"] == "base"
    assert second["start"] == str(rundir.checkpoint(0))
    assert records[0]["checkpoint"] == backend.load(rundir.checkpoint(0), None).checkpoint
    assert records[0]["checkpoint"] != backend.load("base", None).checkpoint
    assert records[0]["trained_pairs"] == first["notes"]["pairs"] > 0
    assert records[0]["training"]["steps"] == 7
    with Archive(rundir.archive) as archive:
        (pairs,) = archive.query("SELECT count(*) FROM solutions WHERE iteration = 0")[0]
    assert records[0]["trained_pairs"] <= pairs


def test_without_references_only_the_models_own_solutions_are_trained_on(files, pool, tmp_path):
    config = config_of(files, data=DataConfig(**files, references=False), iterations=1)
    go(tmp_path / "run", config, pool)
    content_ = archive_content(RunDir(tmp_path / "run").archive)
    accepted = [row for row in content_["candidates"] if row["verdict"] == "accepted"]
    by_model = {(row["puzzle"], row["candidate"]) for row in accepted}
    trained = {(row["puzzle"], row["solution"]) for row in content_["trained"]}
    assert trained
    assert trained <= by_model


def test_nothing_to_train_on_is_an_input_error_that_says_what_to_raise(files, pool, tmp_path):
    class Wrong(Backend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model._write = lambda prompt, rng: "\n    return 7\n"
            return model

    config = config_of(files, data=DataConfig(**files, references=False), iterations=1)
    with pytest.raises(InputError, match=r"nothing to train on.*data\.references = true"):
        go(tmp_path / "run", config, pool, Wrong())


def test_the_protocol_is_the_checkpoints_own_unless_one_is_set(files, pool, tmp_path):
    class Chatty(Backend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model.notes = {"protocol": "chat", **model.notes}
            return model

    config = config_of(files, prompt=PromptConfig(), iterations=1)
    backend = Chatty()
    assert go(tmp_path / "run", config, pool, backend)[1]["protocol"] == "chat"
    assert all(one.prompt.chat for one in backend.trainings[0]["examples"])
    assert (
        go(tmp_path / "plain", config_of(files, prompt=PromptConfig("plain"), iterations=0), pool)[0]["protocol"]
        == "plain"
    )


class Narrow(Backend):
    """Its context holds so many characters."""

    room = 150

    def load(self, checkpoint, config):
        model = super().load(checkpoint, config)
        model.fits = lambda prompt, max_tokens: len(prompt.text) <= self.room
        return model


def test_a_proposers_prompt_has_as_many_puzzles_as_fit(files, pool, tmp_path):
    config = config_of(files, prompt=PromptConfig("few-shot", shots=4), iterations=1)
    go(tmp_path / "run", config, pool, Narrow())
    content_ = archive_content(RunDir(tmp_path / "run").archive)
    shown = [len(json.loads(row["parents"])) for row in content_["puzzles"] if row["origin"] == "model"]
    assert shown
    assert all(1 <= number <= 3 for number in shown)


def test_a_context_with_no_room_for_a_proposal_is_an_input_error(files, pool, tmp_path):
    backend = Narrow()
    backend.room = 3
    with pytest.raises(InputError, match=r"propose\.max_tokens"):
        go(tmp_path / "run", config_of(files), pool, backend)


# ---- without verdicts ----


def unverified(files, **changes):
    most, data = changes.pop("most", 8), changes.pop("kept", "accumulate")
    finetune = FinetuneConfig(verified=False, solutions_per_puzzle=most, data=data)
    return config_of(files, finetune=finetune, **changes)


def pairs_of_own_puzzles(rows, table: str) -> set[tuple[str, str]]:
    """Puzzle and solution, or candidate, of a run's archive."""
    column = {"trained": "solution", "solutions": "id", "candidates": "candidate"}[table]
    own = "puzzle IN (SELECT id FROM puzzles WHERE origin = 'model')"
    return {tuple(row) for row in rows(f"SELECT puzzle, {column} FROM {table} WHERE {own} AND {column} IS NOT NULL")}


def test_without_verdicts_wrong_answers_are_trained_on_and_with_them_they_are_not(whole, rows, files, pool, tmp_path):
    backend = Backend()
    go(tmp_path / "run", unverified(files), pool, backend)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        trained = pairs_of_own_puzzles(archive.query, "trained")
        verified = pairs_of_own_puzzles(archive.query, "solutions")
        assert trained == pairs_of_own_puzzles(archive.query, "candidates")
    assert verified < trained
    assert pairs_of_own_puzzles(rows, "trained") == pairs_of_own_puzzles(rows, "solutions")
    learned = [
        {example.completion for example in training["examples"]}
        for training in (whole["backend"].trainings[0], backend.trainings[0])
    ]
    assert ["\n    return 7\n" in completions for completions in learned] == [False, True]


def test_without_verdicts_the_shortest_distinct_candidates_of_a_puzzle_are_taken(files, pool, tmp_path):
    go(tmp_path / "run", unverified(files, most=2, iterations=1), pool)
    shortest: dict[str, dict[str, int]] = {}
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        of_own = "JOIN puzzles p ON p.id = k.puzzle WHERE p.origin = 'model' AND k.candidate IS NOT NULL"
        for row in archive.query(f"SELECT k.* FROM candidates k {of_own}"):
            texts = [text for texts in archive.chunk(row["chunk"]).completions for text in texts]
            shortest.setdefault(row["puzzle"], {})[row["candidate"]] = len(texts[row["position"]])
        trained = pairs_of_own_puzzles(archive.query, "trained")
    assert max(map(len, shortest.values())) > 2
    assert trained == {
        (puzzle, candidate)
        for puzzle, lengths in shortest.items()
        for candidate in sorted(lengths, key=lambda each: (lengths[each], each))[:2]
    }


@pytest.mark.slow
def test_without_verdicts_the_references_are_trained_on_as_configured_and_no_other_solution_of_theirs(
    files, pool, tmp_path
):
    trained = {}
    for references in (True, False):
        path = tmp_path / str(references)
        go(path, unverified(files, iterations=1, data=DataConfig(**files, references=references)), pool)
        with Archive(RunDir(path).archive) as archive:
            trained[references] = pairs_of_own_puzzles(archive.query, "trained")
            every = {tuple(row) for row in archive.query("SELECT puzzle, solution FROM trained")}
            given = {tuple(row) for row in archive.query("SELECT puzzle, id FROM solutions WHERE iteration = 0")}
            assert every == trained[references] | (given if references else set())
    assert trained[True] == trained[False]


@pytest.mark.slow
def test_replacing_without_verdicts_trains_on_what_the_last_iteration_wrote_alone(files, pool, tmp_path):
    learned = {}
    for kept in ("accumulate", "replace"):
        go(tmp_path / kept, unverified(files, kept=kept), pool)
        with Archive(RunDir(tmp_path / kept).archive) as archive:
            rows = archive.query(
                "SELECT t.iteration, p.iteration FROM trained t JOIN puzzles p ON p.id = t.puzzle"
                " WHERE p.origin = 'model'"
            )
        learned[kept] = {tuple(row) for row in rows}
    assert learned == {"accumulate": {(1, 1), (2, 1), (2, 2)}, "replace": {(1, 1), (2, 2)}}


@pytest.mark.parametrize("make", [config_of, unverified])
def test_a_puzzle_found_contaminated_is_trained_on_no_more(files, pool, tmp_path, make):
    go(tmp_path / "run", make(files, iterations=1), pool)
    place = RunDir(tmp_path / "run")
    with contextlib.closing(sqlite3.connect(place.archive)) as connection, connection:
        ((found,),) = connection.execute(
            "SELECT p.id FROM puzzles p JOIN trained t ON t.puzzle = p.id WHERE p.origin = 'model' ORDER BY 1 LIMIT 1"
        )
        hit = "VALUES (?, 'behaviour', 'heldout/cube', '', (SELECT value FROM marks WHERE name = 'guard'), 0)"
        connection.execute(f"INSERT INTO contamination {hit}", (found,))
    go(place.path, make(files), pool)
    with Archive(place.archive) as archive:
        assert {row[0] for row in archive.query("SELECT iteration FROM trained WHERE puzzle = ?", found)} == {1}


@pytest.mark.slow
def test_training_without_verdicts_that_stopped_goes_on_to_the_same_end(files, pool, tmp_path):
    config = unverified(files, iterations=1)
    with watched() as seen:
        go(tmp_path / "whole", config, pool)
        crash_at = seen.events.index("half a checkpoint")
    crashed_and_resumed(tmp_path / "run", config, pool, crash_at)
    assert same(content(tmp_path / "run"), content(tmp_path / "whole"))


# ---- training puzzles from elsewhere ----

ODD = '''
"""A module's docstring."""
from typing import *
import math

LIMIT = 500    # a constant


def helper ( n ):
    """Helps."""
    return math.isqrt( n ) \\
        == 23


def sat(answer : "int", k = 7, *, least: int = LIMIT) -> bool:
    """
    Which number?
    """
    # a comment
    return helper(answer) and answer % k == 2 and answer >= least
'''
ODD_SOLUTION = """
def sol(k=7, *, least=500):
    n = least
    while not sat(n):
        n += 1
    return n
"""


def imported(files, pool, tmp_path, train, **changes):
    config = config_of(files, data=DataConfig(**{**files, "train": str(train)}), iterations=1, **changes)
    records = go(tmp_path / "run", config, pool)
    return records, archive_content(RunDir(tmp_path / "run").archive)


def test_imported_puzzles_may_have_other_names_defaults_helpers_and_layout(files, pool, tmp_path):
    rows = [
        {"id": 1, "puzzle": ODD, "solutions": [ODD_SOLUTION, "def sol():\n    return 541"]},
        {"puzzle": "def sat(s: str):\n\treturn s.upper() == 'ABCABC'", "solution": "sol = lambda: 'abcabc'"},
        {
            "puzzle": "def check(xs: list[int], n=3):\n  return sorted(xs)==[4,5,6]",
            "solution": "def find(n=3): return [4, 5, 6]",
        },
        {"puzzle": "print('no puzzle')", "solution": "def g(): return 1"},
    ]  # fmt: skip
    (tmp_path / "odd.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    _, found = imported(files, pool, tmp_path, tmp_path / "odd.jsonl")
    puzzles = {row["name"]: row for row in found["puzzles"] if row["origin"] == "import"}
    assert [row["answer_type"] for row in puzzles.values()] == ["int", "str", "List[int]"]
    odd = puzzles["1"]
    assert odd["original"] == ODD
    assert odd["description"] == "Which number?"
    assert odd["header"] == "def g(k=7, least=LIMIT):"
    assert "def f(answer: int, k=7, *, least: int=LIMIT):" in odd["source"]
    references = [row for row in found["solutions"] if row["origin"] == "import"]
    assert Counter(row["puzzle"] for row in references)[odd["id"]] == 2
    assert {row["answer"] for row in references} == {"534", "541", "'abcabc'", "[4, 5, 6]"}
    assert {(row["what"], row["reason"]) for row in found["refusals"]} == {("puzzle", "no_function")}


@pytest.mark.slow
def test_an_archive_may_be_trained_on(whole, files, pool, tmp_path):
    for train in (whole["path"], RunDir(whole["path"]).archive):
        folder = tmp_path / train.name
        folder.mkdir()
        _, found = imported(files, pool, folder, train)
        before = whole["content"]["archive"]
        old = [row["id"] for row in found["puzzles"] if row["origin"] == "import"]
        assert old == [row["id"] for row in before["puzzles"]]
        references = {(row["puzzle"], row["id"]) for row in found["solutions"] if row["origin"] == "import"}
        assert references == {(row["puzzle"], row["id"]) for row in before["solutions"]}
    assert content(whole["path"])["archive"] == whole["content"]["archive"]


def test_a_guarded_puzzle_among_the_training_puzzles_is_refused(files, pool, tmp_path):
    train = puzzle_file(tmp_path / "train.jsonl", [TRAIN[0], ("copied", HELDOUT[0][1], "def g():\n    return 12")])
    _, found = imported(files, pool, tmp_path, train)
    assert {row["name"] for row in found["puzzles"] if row["origin"] == "import"} == {"thirds"}
    assert [(row["name"], row["reason"], row["detail"]) for row in found["refusals"]] == [
        ("copied", "held_out", "exact: heldout/cube")
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "there are none"),
        ('{"puzzle": "def f(x): return True"}', "expected training puzzles, none was accepted.*no_annotation"),
        ('{"solution": "def g(): return 1"}', "line 1: expected one of the keys 'puzzle'"),
        ("not JSON", "line 1: expected one JSON object"),
        (None, "No such file"),
    ],
)  # fmt: skip
def test_a_training_file_with_no_good_puzzle_is_an_input_error(files, pool, tmp_path, text, expected):
    train = tmp_path / "train.jsonl"
    if text is not None:
        train.write_text(text)
    with pytest.raises(InputError, match=f"train.jsonl.*{expected}"):
        imported(files, pool, tmp_path, train)


@pytest.mark.parametrize("name", ["dev", "heldout"])
@pytest.mark.parametrize("text", ["", '{"name": "odd", "puzzle": "def f(x): return True"}'])
def test_a_set_to_be_scored_must_hold_puzzles_and_nothing_else(files, pool, tmp_path, name, text):
    (tmp_path / "set.jsonl").write_text(text)
    config = config_of(files, data=DataConfig(**{**files, name: str(tmp_path / "set.jsonl")}))
    with pytest.raises(InputError, match=r"set\.jsonl: (odd: this is no puzzle|expected puzzles)"):
        go(tmp_path / "run", config, pool)


# ---- with a real model ----


@pytest.mark.parametrize(
    "shape",
    [
        "llama",
        "qwen2",
        pytest.param("gpt_neox", marks=pytest.mark.slow),
        pytest.param("gpt2", marks=pytest.mark.slow),
    ],
)
def test_a_run_with_a_real_model_repeats_itself_from_sampling_to_weights(tiny, files, pool, tmp_path, shape):
    from selfplay.training.finetune import TransformersBackend

    config = config_of(
        files,
        iterations=1,
        model=ModelConfig(path=str(tiny(shape)), device="cpu", threads=1),
        prompt=PromptConfig(),
        propose=ProposeConfig(proposals=8, proposals_per_prompt=4, max_tokens=12),
        solve=SolveConfig(candidates_per_puzzle=2, max_tokens=12),
        finetune=FinetuneConfig(epochs=1, batch_tokens=512, dtype="float32"),
        evaluate=EvaluateConfig(samples_per_puzzle=2, k=(1, 2), max_tokens=12),
    )
    for name in ("one", "two"):
        untrained, trained = go(tmp_path / name, config, pool, TransformersBackend())
        assert trained["protocol"] == ("chat" if shape == "qwen2" else "plain")
        assert trained["proposed"] == 8
        assert trained["training"]["steps"] > 0
        assert trained["checkpoint"] != untrained["checkpoint"]
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert same(one, two)
    weights = [tmp_path / name / "checkpoints" / "iteration-001" / "model.safetensors" for name in ("one", "two")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def used_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1024


def test_what_was_freed_between_what_is_kept_goes_back_to_the_system():
    blocks = [bytearray(100_000) for _ in range(3_000)]
    kept, full = blocks[::500] + blocks[-1:], used_mb()
    del blocks
    assert full - used_mb() < 150  # so it needs to be asked
    resources.give_memory_back()
    assert full - used_mb() > 200
    assert kept
