import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from scripted_sampler import ScriptedSampler

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import InputError, Judgement, Verdict
from puzzles.verify import truth_pool, verify
from sandbox import child
from sandbox.pool import RUN_PROGRAM, Job
from sandbox.result import Limits, SandboxError, Status
from selfplay.benchmark.bench import BenchConfig, bench
from selfplay.config import EvaluateConfig, ModelConfig, PromptConfig
from selfplay.run.progress import Progress
from selfplay.run.rundir import read_lines
from selfplay.sampling.chunks import texts_in_a_minute
from selfplay.sampling.judging import judge_texts
from selfplay.sampling.prompts import PromptFormat, solve_prompt
from selfplay.scoring import evaluate as evaluate_module
from selfplay.scoring.evaluate import PROMPT_TOO_LONG, Questions, evaluate, judge_surely, summarize
from selfplay.scoring.results import unpack
from selfplay.scoring.sets import NamedPuzzle

PLAIN = PromptFormat("plain")
CONFIG = EvaluateConfig(samples_per_puzzle=4, k=(1, 2, 4), max_tokens=20)
TEXTS = [
    "def f(x: int):\n    return 3 * x == 51",
    "def f(x: int, k=1764):\n    return x * x == k and x > 0",
    "def f(s: str):\n    return s.count('a') == 4 and len(s) == 9",
    "def f(n: int):\n    return n % 37 == 5 and n > 500",
    "def f(xs: List[int]):\n    return sum(xs) == 9 and len(set(xs)) == 3",
]
SHOT = ("def f(x: int):\n    return x + 8 == 20", "def g():\n    return 12")
ANSWERS = {"51": "17", "k=1764": "42", "'a'": "'aaaabbbbb'", "37": "523", "xs": "[2, 3, 4]"}


@pytest.fixture(scope="module")
def puzzles(pool):
    parsed = parse_puzzles(pool, [Text(text) for text in TEXTS])
    return [NamedPuzzle(f"number {place}", puzzle) for place, puzzle in enumerate(parsed)]


@pytest.fixture(scope="module")
def shots(pool):
    return [(*parse_puzzles(pool, [Text(SHOT[0])]), *parse_candidates(pool, [Text(SHOT[1])]))]


def right(prompt) -> str:
    last = prompt.text.rpartition("def f(")[2]
    return next(answer for mark, answer in ANSWERS.items() if mark in last)


def by_chance(prompt, rng) -> str:
    """A right answer, a wrong one, one of the wrong type, no program, or one that does not end by itself."""
    body = rng.choice([f"return {right(prompt)}", "return 7", "return None", "return (", "return 1 / 0"])
    return f"\n    {body}\n"


class Scripted(ScriptedSampler):
    def __init__(self, write=by_chance, too_long: str | None = None, checkpoint: str = "scripted"):
        super().__init__(write)
        self.checkpoint, self.too_long, self.calls = checkpoint, too_long, 0

    def fits(self, prompt, max_tokens):
        return self.too_long is None or self.too_long not in prompt.text

    def sample(self, prompts, copies, settings, seed, *more):
        self.calls += 1
        return super().sample(prompts, copies, settings, seed, *more)


def score(
    pool, puzzles, file, sampler=None, config=CONFIG, shots=(), written=PLAIN, seed=(3,), rows=8, chunk=8, pace=None,
    **more
):  # fmt: skip
    asked = Questions(puzzles, written, shots, config, seed, rows, chunk, pace)
    return evaluate(sampler or Scripted(), pool, asked, file, **more)


def without_times(file):
    return [{key: value for key, value in line.items() if key != "times"} for line in read_lines(file)]


# ---- numbers ----


def test_scores_are_those_counted_by_hand(pool, puzzles, tmp_path):
    per_puzzle = [4, 2, 1, 0]
    turns: dict[str, int] = {}

    def write(prompt, rng):
        turn = turns[prompt.text] = turns.get(prompt.text, 0) + 1
        place = next(i for i, named in enumerate(puzzles) if named.puzzle.source in prompt.text)
        return f"\n    return {right(prompt) if turn <= per_puzzle[place] else 7}\n"

    scores = score(pool, puzzles[:4], tmp_path / "samples", Scripted(write))
    assert scores.pass_at["pass@1"].value == pytest.approx((4 + 2 + 1 + 0) / 16)
    # 1 - C(n - c, 2) / C(n, 2): 1, 1 - 1/6, 1 - 3/6, 0
    assert scores.pass_at["pass@2"].value == pytest.approx((1 + 5 / 6 + 1 / 2 + 0) / 4)
    assert scores.pass_at["pass@4"].value == pytest.approx(3 / 4)
    assert (scores.puzzles, scores.samples_per_puzzle, scores.solved, scores.truncated) == (4, 4, 3, 0)
    # 7 is of the wrong type where a text is asked for.
    assert scores.verdicts == {"accepted": 7, "wrong_answer": 6, "wrong_type": 3}
    assert scores.cost.tokens == 16 * 2
    for interval in scores.pass_at.values():
        assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_scores_come_as_a_record_keeps_them(pool, puzzles, tmp_path):
    content = score(pool, puzzles, tmp_path / "samples").to_json()
    assert json.loads(json.dumps(content)) == content
    assert [*content] == [
        "puzzles", "samples_per_puzzle", "pass@1", "pass@2", "pass@4", "solved", "verdicts", "truncated", "tokens",
    ]  # fmt: skip
    assert len(content["pass@1"]) == 3


def test_a_file_is_scored_again_without_a_model(pool, puzzles, tmp_path):
    scores = score(pool, puzzles, tmp_path / "samples")
    assert summarize(read_lines(tmp_path / "samples"), CONFIG, {}) == scores


# ---- n never shrinks ----


def test_texts_that_are_no_programs_are_wrong_candidates(pool, puzzles, tmp_path):
    scores = score(pool, puzzles, tmp_path / "samples", Scripted(lambda prompt, rng: "return (("))
    assert scores.verdicts == {"invalid_solution": 20}
    assert scores.pass_at["pass@4"].value == 0
    for line in read_lines(tmp_path / "samples"):
        for result in line["results"]:
            assert len(result["texts"]) == len(result["verdicts"]) == len(result["details"]) == 4


def test_a_prompt_that_does_not_fit_is_n_wrong_candidates(pool, puzzles, tmp_path):
    sampler = Scripted(lambda prompt, rng: f"\n    return {right(prompt)}\n", too_long="k=1764")
    scores = score(pool, puzzles, tmp_path / "samples", sampler)
    assert scores.verdicts == {"accepted": 16, PROMPT_TOO_LONG: 4}
    assert (scores.puzzles, scores.solved) == (5, 4)
    assert scores.pass_at["pass@1"].value == scores.pass_at["pass@4"].value == pytest.approx(4 / 5)


def test_a_set_of_which_nothing_fits_scores_zero(pool, puzzles, tmp_path):
    sampler = Scripted(too_long="def f(")
    scores = score(pool, puzzles, tmp_path / "samples", sampler)
    assert scores.verdicts == {PROMPT_TOO_LONG: 20}
    assert scores.pass_at["pass@1"].value == 0
    assert sampler.calls == 0


def test_equal_candidates_all_count(pool, puzzles, tmp_path):
    scores = score(pool, puzzles, tmp_path / "samples", Scripted(lambda prompt, rng: f"\n    return {right(prompt)}\n"))
    assert scores.verdicts == {"accepted": 20}


def test_every_candidate_is_kept_with_its_verdict(pool, puzzles, tmp_path):
    score(pool, puzzles, tmp_path / "samples")
    lines = read_lines(tmp_path / "samples")
    assert [result["name"] for line in lines for result in line["results"]] == [named.name for named in puzzles]
    for line in lines:
        for result in line["results"]:
            for text, verdict in zip(result["texts"], result["verdicts"], strict=True):
                wanted = {"7": "wrong", "None": "wrong_type", "(": "invalid_solution", "1 / 0": "runtime_error"}
                assert verdict.startswith(wanted.get(text.strip().removeprefix("return "), "accepted"))


# ---- prompts ----


def test_shots_stand_before_the_puzzle_unless_the_protocol_is_plain(pool, puzzles, shots, tmp_path):
    seen = []

    def write(prompt, rng):
        seen.append(prompt.text)
        return by_chance(prompt, rng)

    score(pool, puzzles, tmp_path / "plain", Scripted(write), shots=shots)
    assert not any("x + 8" in text for text in seen)
    seen.clear()
    score(pool, puzzles, tmp_path / "few-shot", Scripted(write), shots=shots, written=PromptFormat("few-shot"))
    assert all(text.startswith(SHOT[0]) for text in seen)


# ---- chunks ----


def judged(file):
    """Every candidate in order, with its verdict."""
    results = [result for line in read_lines(file) for result in line["results"]]
    return [
        (one["name"], text, verdict)
        for one in results
        for text, verdict in zip(one["texts"] or [""] * 4, one["verdicts"], strict=True)
    ]


@pytest.mark.parametrize("too_long", [None, "k=1764"])
def test_candidates_do_not_depend_on_how_many_are_a_minute(pool, puzzles, tmp_path, too_long):
    for minute in (20, 1, 8, 999):
        score(pool, puzzles, tmp_path / f"{minute}", Scripted(too_long=too_long), chunk=0, pace=minute)
        assert judged(tmp_path / f"{minute}") == judged(tmp_path / "20")
        assert len(read_lines(tmp_path / f"{minute}")) == math.ceil(5 / max(1, minute // 4))
    found = judged(tmp_path / "20")
    assert len({text for _, text, _ in found}) > 3


def test_a_file_of_chunks_of_a_set_size_is_gone_on_with_by_the_minute(pool, puzzles, tmp_path):
    """As one that an older version has begun."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    score(pool, puzzles, whole)
    before = whole.read_bytes().splitlines(keepends=True)[0]
    cut.write_bytes(before)
    score(pool, puzzles, cut, chunk=0, pace=4)
    assert cut.read_bytes().startswith(before)
    assert [len(line["results"]) for line in read_lines(cut)] == [2, 1, 1, 1]
    done = whole.read_bytes()
    score(pool, puzzles, whole, sampler := Scripted(), chunk=0)
    assert (sampler.calls, whole.read_bytes()) == (0, done)


@pytest.mark.parametrize(
    ("texts", "seconds", "expected"),
    [
        (64, 14.0, 1024),
        (64, 0.3, 4096),
        (64, 0.0, 4096),
        (0, 0.0, 4096),
        (64, 3600, 1024),
        (2047, 60, 1024),
        (2049, 60, 4096),
    ],
)
def test_a_chunk_is_about_a_minute_of_work_and_never_few_texts(texts, seconds, expected):
    assert texts_in_a_minute(texts, seconds) == expected


def test_without_a_size_the_first_chunk_is_small_and_its_recorded_rate_cuts_the_rest(
    pool, puzzles, tmp_path, monkeypatch
):
    monkeypatch.setattr("selfplay.scoring.evaluate.FEWEST_CHUNK_TEXTS", 4)
    monkeypatch.setattr("selfplay.sampling.chunks.FEWEST_CHUNK_TEXTS", 4)
    score(pool, puzzles, tmp_path / "known", chunk=0, pace=999)
    for seconds, sizes in ((60.0, [1, 1, 1, 1, 1]), (0.1, [1, 4])):
        monkeypatch.setattr("selfplay.sampling.cost.Watch.seconds", lambda _, spent=seconds: spent / 2)
        score(pool, puzzles, tmp_path / "paced", chunk=0)
        assert [len(line["results"]) for line in read_lines(tmp_path / "paced")] == sizes
        assert judged(tmp_path / "paced") == judged(tmp_path / "known")
        whole = without_times(tmp_path / "paced")
        # Whoever goes on later, however fast, cuts as the first chunk says.
        monkeypatch.setattr("selfplay.sampling.cost.Watch.seconds", lambda _: 7.0)
        for kept in range(1, len(sizes)):
            lines = (tmp_path / "paced").read_bytes().splitlines(keepends=True)
            (tmp_path / "paced").write_bytes(b"".join(lines[:kept]))
            score(pool, puzzles, tmp_path / "paced", chunk=0)
            assert without_times(tmp_path / "paced") == whole
        (tmp_path / "paced").unlink()


# ---- resuming ----


def test_chunks_are_lines(pool, puzzles, tmp_path):
    sampler = Scripted()
    score(pool, puzzles, tmp_path / "samples", sampler)
    assert sampler.calls == len(read_lines(tmp_path / "samples")) == 3


def test_progress_tells_all_candidates_once_whether_sampled_stored_or_not_asked_for(pool, puzzles, tmp_path):
    told: list[int] = []
    score(pool, puzzles, tmp_path / "samples", Scripted(too_long="k=1764"), progress=told.append)
    assert sum(told) == 20
    score(pool, puzzles, tmp_path / "samples", Scripted(too_long="k=1764"), progress=told.append)
    assert sum(told) == 40


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
@pytest.mark.parametrize("torn", ["", '{"identity": {"chu'])
def test_a_file_that_was_cut_off_is_completed_to_the_same(pool, puzzles, tmp_path, kept, torn):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    scores = score(pool, puzzles, whole)
    cut.write_bytes(b"".join(whole.read_bytes().splitlines(keepends=True)[:kept]) + torn.encode())
    sampler = Scripted()
    again = score(pool, puzzles, cut, sampler)
    assert sampler.calls == 3 - kept
    assert without_times(cut) == without_times(whole)
    assert again.to_json() == scores.to_json()


def test_a_finished_file_is_not_sampled_again(pool, puzzles, tmp_path):
    score(pool, puzzles, tmp_path / "samples")
    before = (tmp_path / "samples").read_bytes()
    sampler = Scripted()
    score(pool, puzzles, tmp_path / "samples", sampler)
    assert sampler.calls == 0
    assert (tmp_path / "samples").read_bytes() == before


def test_a_file_of_a_version_that_did_not_keep_formats_is_gone_on_with_by_the_hash_of_its_prompts(
    pool, puzzles, tmp_path
):
    score(pool, puzzles, tmp_path / "samples")
    lines = read_lines(tmp_path / "samples")
    for line in lines:
        del line["identity"]["prompt_format_hash"]
    (tmp_path / "samples").write_text(json.dumps(lines[0]) + "\n")
    sampler = Scripted()
    score(pool, puzzles, tmp_path / "samples", sampler)
    assert sampler.calls == len(lines) - 1
    other = PromptFormat("plain", solve="# Solve.\n{puzzle}\n\n{header}")
    (tmp_path / "samples").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(InputError, match=r"another prompts .*move it away"):
        score(pool, puzzles, tmp_path / "samples", written=other)


OTHERS = {
    "checkpoint": {"sampler": Scripted(checkpoint="another")},
    "protocol": {"written": PromptFormat("few-shot")},
    "prompt_format_hash": {"written": PromptFormat("plain", solve="# Solve.\n{puzzle}\n\n{header}")},
    "seed": {"seed": (4,)},
    "settings": {"config": dataclasses.replace(CONFIG, temperature=0.5)},
    "settings, rows": {"rows": 9},
    "samples_per_puzzle": {"config": dataclasses.replace(CONFIG, samples_per_puzzle=5)},
}


@pytest.mark.parametrize("key", OTHERS)
def test_results_of_another_model_or_other_settings_are_refused_by_name(pool, puzzles, tmp_path, key):
    score(pool, puzzles, tmp_path / "samples")
    before = (tmp_path / "samples").read_bytes()
    with pytest.raises(InputError, match=f"another {key.partition(',')[0]} .*move it away") as caught:
        score(pool, puzzles, tmp_path / "samples", **OTHERS[key])
    assert str(tmp_path / "samples") in str(caught.value)
    assert (tmp_path / "samples").read_bytes() == before


def test_results_of_other_shots_or_puzzles_are_refused(pool, puzzles, shots, tmp_path):
    score(pool, puzzles, tmp_path / "samples")
    with pytest.raises(InputError, match="another shots"):
        score(pool, puzzles, tmp_path / "samples", shots=shots)
    with pytest.raises(InputError, match="another puzzles"):
        score(pool, puzzles[::-1], tmp_path / "samples")


def test_results_of_a_larger_set_are_refused(pool, puzzles, tmp_path):
    score(pool, puzzles, tmp_path / "samples")
    with pytest.raises(InputError, match="more puzzles"):
        score(pool, puzzles[:4], tmp_path / "samples")


def test_another_k_is_another_look_at_the_same_samples(pool, puzzles, tmp_path):
    score(pool, puzzles, tmp_path / "samples")
    sampler = Scripted()
    scores = score(pool, puzzles, tmp_path / "samples", sampler, dataclasses.replace(CONFIG, k=(3,)))
    assert [*scores.pass_at] == ["pass@3"]
    assert sampler.calls == 0


def test_a_chunk_has_at_least_one_puzzle(pool, puzzles, tmp_path):
    score(pool, puzzles, tmp_path / "samples", chunk=1)
    assert len(read_lines(tmp_path / "samples")) == 5


class Overlapping(Scripted):
    """Samples while judging goes on, now faster, now slower than it."""

    overlap = True

    def __init__(self):
        super().__init__()
        self.delays, self.threads = random.Random(7), set()

    def sample(self, *arguments):
        self.threads.add(threading.current_thread())
        time.sleep(self.delays.choice([0, 0, 0.02, 0.1]))
        return super().sample(*arguments)


def test_a_file_does_not_depend_on_what_is_sampled_while_it_is_judged(pool, puzzles, tmp_path):
    one, other, sampler = tmp_path / "one", tmp_path / "other", Overlapping()
    scores, told = score(pool, puzzles, one, chunk=4), []
    again = score(pool, puzzles, other, sampler, chunk=4, progress=told.append)
    assert sampler.calls == len(read_lines(other)) == 5
    assert threading.main_thread() not in sampler.threads
    assert without_times(other) == without_times(one)
    assert again.to_json() == scores.to_json()
    assert sum(told) == 20
    # And cut off in the middle.
    other.write_bytes(b"".join(other.read_bytes().splitlines(keepends=True)[:2]))
    score(pool, puzzles, other, sampler, chunk=4)
    assert sampler.calls == 5 + 3
    assert without_times(other) == without_times(one)


class Roomy(Scripted):
    """Finds so many rows right, and has so many in the end."""

    def __init__(self, rows, left=None):
        super().__init__()
        self.rows, self.left, self.asked = rows, left or rows, []

    def batch_rows(self, max_tokens):
        return self.rows

    def sample(self, prompts, copies, settings, *more):
        self.asked.append(settings.batch_rows)
        sampled = super().sample(prompts, copies, settings, *more)
        return dataclasses.replace(sampled, batch_rows=min(self.left, settings.batch_rows))


def test_without_rows_the_samplers_are_taken_and_kept_by_who_goes_on(pool, puzzles, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    score(pool, puzzles, whole, first := Roomy(64), rows=0)
    assert first.asked == [64] * 3
    cut.write_bytes(whole.read_bytes().splitlines(keepends=True)[0])
    score(pool, puzzles, cut, second := Roomy(16, left=64), rows=0)
    assert second.asked == [64] * 2
    assert without_times(cut) == without_times(whole)
    # Rows that are asked for are no choice of the sampler's.
    score(pool, puzzles, tmp_path / "asked", third := Roomy(64), rows=5)
    assert third.asked == [5] * 3


def test_a_chunk_tells_its_rows_and_prompt_tokens(pool, puzzles, tmp_path):
    file = tmp_path / "samples"
    scores = score(pool, puzzles, file, Roomy(64, left=4), rows=0)
    lines = read_lines(file)
    assert [line["batch_rows"] for line in lines] == [4] * 3
    assert [line["identity"]["settings"]["batch_rows"] for line in lines] == [64] * 3
    groups = [puzzles[:2], puzzles[2:4], puzzles[4:]]
    lengths = [sum(len(solve_prompt("plain", named.puzzle).text.split()) for named in group) for group in groups]
    assert [line["prompt_tokens"] for line in lines] == lengths
    assert scores.cost.prompt_tokens == sum(lengths)
    assert all(set(line["times"]) >= SECONDS for line in lines)
    seconds = [sum(line["times"][name] for line in lines) for name in sorted(SECONDS)]
    cost = scores.cost
    assert seconds == pytest.approx(
        [cost.judging_cpu_seconds, cost.judging_seconds, cost.model_cpu_seconds, cost.model_seconds]
    )


SECONDS = {"sampling_seconds", "sampling_cpu_seconds", "judging_seconds", "judging_cpu_seconds"}


def test_a_file_of_an_older_version_costs_what_it_tells(pool, puzzles, tmp_path):
    score(pool, puzzles, tmp_path / "samples")
    lines = read_lines(tmp_path / "samples")
    for line in lines:
        del line["prompt_tokens"], line["batch_rows"]
        line["times"] = {"sampling_seconds": 2.0, "judging_seconds": 4.0}
    cost = summarize(lines, CONFIG, {}).cost
    assert (cost.texts, cost.tokens, cost.prompt_tokens) == (
        20,
        sum(r["tokens"] for w in lines for r in w["results"]),
        0,
    )
    assert (cost.model_seconds, cost.judging_seconds) == (6.0, 12.0)
    assert (cost.model_cpu_seconds, cost.judging_cpu_seconds) == (0.0, 0.0)


# ---- what the machine did is not the model's ----


@pytest.fixture
def judging(pool, puzzles):
    """`judge_surely` on two puzzles with given texts; its judgements and its counts."""

    def judge(texts_P_K):
        asked = puzzles[:2]
        prompts = [solve_prompt("plain", named.puzzle) for named in asked]
        return judge_surely(pool, [named.puzzle for named in asked], prompts, texts_P_K)

    return judge


ANSWERED = [["\n    return 17\n", "\n    return 7\n"], ["\n    return 42\n", "\n    return ("]]
VERDICTS = [["accepted", "wrong_answer"], ["accepted", "invalid_solution"]]


def verdicts_of(judged_P_K):
    return [[str(judgement.verdict) for _, judgement in row] for row in judged_P_K]


def failing(function, times):
    """A function that fails as the sandbox does, so many times, and then does what it did."""
    left = [times]

    def call(*arguments):
        if left[0]:
            left[0] -= 1
            raise SandboxError("the zygote died")
        return function(*arguments)

    return call


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_a_failure_of_the_sandbox_is_tried_again_and_counted(judging, monkeypatch, failures):
    monkeypatch.setattr(evaluate_module, "judge_texts", failing(judge_texts, failures))
    judged_P_K, machine = judging(ANSWERED)
    assert verdicts_of(judged_P_K) == VERDICTS
    assert machine == {"retried": failures, "judged_again": 0, "changed": 0}


def test_a_pool_whose_run_fails_is_tried_again(pool, judging, monkeypatch):
    monkeypatch.setattr(type(pool), "run", failing(type(pool).run, 2))
    judged_P_K, machine = judging(ANSWERED)
    assert verdicts_of(judged_P_K) == VERDICTS
    assert machine["retried"] == 2


def test_a_sandbox_that_fails_three_times_is_an_error_and_nothing_is_written(pool, puzzles, tmp_path, monkeypatch):
    score(pool, puzzles[:2], tmp_path / "before", chunk=8)
    monkeypatch.setattr(evaluate_module, "judge_texts", failing(judge_texts, 3))
    with pytest.raises(SandboxError, match="the zygote died"):
        score(pool, puzzles, tmp_path / "samples")
    assert not (tmp_path / "samples").exists()
    score(pool, puzzles, tmp_path / "samples")
    assert without_times(tmp_path / "samples")[0] == without_times(tmp_path / "before")[0]


def test_what_was_tried_again_stands_beside_the_times(pool, puzzles, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_module, "judge_texts", failing(judge_texts, 2))
    score(pool, puzzles, tmp_path / "samples")
    assert [line["times"]["retried"] for line in read_lines(tmp_path / "samples")] == [2, 0, 0]


@pytest.fixture
def disturbed(monkeypatch):
    """Candidates that returned `marked` are said to have been asleep for so long; whom `verify` saw."""

    def disturb(waited_seconds, marked="7", then=None):
        seen = []

        def first(pool, asked, prompts, texts_P_K):
            return [
                [
                    (candidate, Judgement(Verdict.TIME_LIMIT, waited_seconds=waited_seconds))
                    if candidate and f"return {marked}" in candidate.source
                    else (candidate, judgement)
                    for candidate, judgement in row
                ]
                for row in judge_texts(pool, asked, prompts, texts_P_K)
            ]

        def again(pool, pairs):
            seen.append([(puzzle.id, candidate.source) for puzzle, candidate in pairs])
            return verify(pool, pairs) if then is None else [Judgement(then) for _ in pairs]

        monkeypatch.setattr(evaluate_module, "judge_texts", first)
        monkeypatch.setattr(evaluate_module, "verify", again)
        return seen

    return disturb


def test_a_candidate_taken_to_be_asleep_is_judged_again_alone_once(judging, disturbed, puzzles):
    seen = disturbed(0.5)
    seven, right = "\n    return 7\n", "\n    return 17\n"
    judged_P_K, machine = judging([[seven, right, seven], [seven, seven, "\n    return (", seven]])
    assert verdicts_of(judged_P_K) == [
        ["wrong_answer", "accepted", "wrong_answer"],
        ["wrong_answer", "wrong_answer", "invalid_solution", "wrong_answer"],
    ]
    assert machine == {"retried": 0, "judged_again": 2, "changed": 2}
    headers = ["def g():", "def g(k=1764):"]
    assert seen == [
        [(named.puzzle.id, f"{header}\n    return 7")] for named, header in zip(puzzles[:2], headers, strict=True)
    ]


def test_the_second_verdict_counts_even_when_it_is_the_limit_again(judging, disturbed):
    seen = disturbed(0.5, then=Verdict.TIME_LIMIT)
    judged_P_K, machine = judging(ANSWERED)
    assert verdicts_of(judged_P_K) == [["accepted", "time_limit"], VERDICTS[1]]
    assert machine == {"retried": 0, "judged_again": 1, "changed": 0}
    assert judged_P_K[0][1][1].waited_seconds == 0, "it is the second judgement"
    assert len(seen) == 1


def test_a_limit_of_cpu_time_is_not_doubted(judging, disturbed):
    seen = disturbed(0.0)
    judged_P_K, machine = judging(ANSWERED)
    assert verdicts_of(judged_P_K) == [["accepted", "time_limit"], VERDICTS[1]]
    assert (seen, machine) == ([], {"retried": 0, "judged_again": 0, "changed": 0})


def test_a_sandbox_that_fails_while_judging_again_is_tried_again(judging, disturbed, monkeypatch):
    disturbed(0.5)
    monkeypatch.setattr(evaluate_module, "verify", failing(evaluate_module.verify, 1))
    judged_P_K, machine = judging(ANSWERED)
    assert verdicts_of(judged_P_K) == VERDICTS
    assert machine == {"retried": 1, "judged_again": 1, "changed": 1}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are chosen as Linux does")
def test_an_endless_candidate_beside_busy_neighbours_is_ended_by_its_own_cpu_time(puzzles):
    cores = os.sched_getaffinity(0)
    neighbours = []
    try:
        os.sched_setaffinity(0, {min(cores)})  # one core for all that is started from here
        neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        with truth_pool(Limits(cpu_seconds=0.3, wall_seconds=20), lanes=1) as pool:
            (candidate,) = parse_candidates(pool, [Text("def g():\n    while True: pass")])
            (judgement,) = verify(pool, [(puzzles[0].puzzle, candidate)])
            (result,) = pool.run(
                [Job(RUN_PROGRAM, child.program(["def g():\n    while True: pass"], "g", [b"[]"], 100))]
            )
    finally:
        os.sched_setaffinity(0, cores)
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()
    assert judgement.verdict == Verdict.TIME_LIMIT
    assert judgement.waited_seconds == 0
    assert result.status == Status.CPU_LIMIT
    assert result.wall_seconds > result.cpu_seconds > 0.2


# ---- errata ----


def test_puzzles_known_to_be_wrong_are_left_out_of_the_scores(pool, puzzles, tmp_path, monkeypatch):
    wrong = puzzles[1].puzzle.id
    monkeypatch.setattr(evaluate_module, "read_errata", lambda: {wrong: "it has no answer"})
    scores = score(pool, puzzles, tmp_path / "samples", Scripted(lambda prompt, rng: f"\n    return {right(prompt)}\n"))
    # They have cost what they cost.
    assert (scores.puzzles, scores.solved, scores.verdicts, scores.cost.texts) == (
        4,
        4,
        {"accepted": 16},
        20,
    )
    lines = read_lines(tmp_path / "samples")
    assert sum(len(result["texts"]) for line in lines for result in line["results"]) == 20, (
        "they are sampled all the same"
    )
    assert summarize(lines, CONFIG, {}).puzzles == 5


# ---- bench ----


@pytest.fixture(scope="module")
def puzzle_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "own.jsonl"
    file.write_text("".join(json.dumps({"name": f"p{i}", "puzzle": text}) + "\n" for i, text in enumerate(TEXTS)))
    return file


def benched(tiny, pool, puzzle_file, folder, shape="llama", **changes):
    model = ModelConfig(path=str(tiny(shape)), device="cpu", threads=1)
    options = {
        "puzzles": str(puzzle_file),
        "prompt": PromptConfig(shots=2),
        "seeds": (1,),
        "batch_rows": 16,
        "evaluate": CONFIG,
    } | changes
    return bench(model, BenchConfig(**options), folder, pool, {"tier": "A"}, Progress())


def samples(folder):
    """The chunks in a benchmark's folder without their times."""
    return [{key: value for key, value in line.items() if key != "times"} for line in unpack(folder)]


def test_a_benchmark_writes_results_and_samples_and_repeats_itself(tiny, pool, puzzle_file, tmp_path):
    first = benched(tiny, pool, puzzle_file, tmp_path / "first")
    assert json.loads((tmp_path / "first" / "results.json").read_text()) == json.loads(json.dumps(first))
    own = first["selfplay"]
    assert own["set"]["puzzles"] == len(own["per_puzzle"]) == 5
    assert sum(own["verdicts"].values()) == 20
    assert (own["protocol"], own["protocol_from"], own["shots"]) == ("plain", "saved with the checkpoint", [])
    assert own["sandbox"] == {"tier": "A"}
    assert own["versions"].keys() == {"torch", "transformers", "python"}
    second = benched(tiny, pool, puzzle_file, tmp_path / "second")
    assert second["results"] == first["results"]
    assert samples(tmp_path / "first") == samples(tmp_path / "second")


def test_a_benchmark_with_other_settings_does_not_mix_with_what_is_there(tiny, pool, puzzle_file, tmp_path):
    benched(tiny, pool, puzzle_file, tmp_path)
    with pytest.raises(InputError, match="another seed"):
        benched(tiny, pool, puzzle_file, tmp_path, seeds=(2,))


def test_seeds_draw_other_samples(tiny, pool, puzzle_file, tmp_path):
    benched(tiny, pool, puzzle_file, tmp_path, seeds=(1, 2))
    first, second = samples(tmp_path)
    assert [line["identity"]["seed"] for line in (first, second)] == [[1], [2]]
    assert [r["texts"] for r in first["results"]] != [r["texts"] for r in second["results"]]
    benched(tiny, pool, puzzle_file, tmp_path / "alone", seeds=(2,))
    assert samples(tmp_path / "alone") == [second], "a seed draws the same whatever stands beside it"


def test_models_with_and_without_a_chat_template_are_scored_by_their_own_protocol(tiny, pool, puzzle_file, tmp_path):
    for shape, protocol in (("qwen2", "chat"), ("llama", "plain")):
        own = benched(tiny, pool, puzzle_file, tmp_path / shape, shape)["selfplay"]
        assert (own["protocol"], own["protocol_from"]) == (protocol, "saved with the checkpoint")
        assert sum(own["verdicts"].values()) == 20
        assert "prompt_too_long" not in own["verdicts"]
