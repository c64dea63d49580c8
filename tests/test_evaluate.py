import dataclasses
import json

import pytest

from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import InputError
from puzzles.verify import truth_pool
from selfplay.bench import bench
from selfplay.config import EvaluateConfig, ModelConfig
from selfplay.evaluate import PROMPT_TOO_LONG, NamedPuzzle, evaluate, summarize
from selfplay.loop import Progress
from selfplay.rundir import read_lines
from selfplay.sampler import ScriptedSampler

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
def pool():
    with truth_pool(lanes=2) as pool:
        yield pool


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
    pool, puzzles, file, sampler=None, config=CONFIG, shots=(), protocol="plain", seed=(3,), rows=8, chunk=8, **more
):
    return evaluate(sampler or Scripted(), pool, puzzles, protocol, shots, config, seed, rows, chunk, file, **more)


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
    assert scores.tokens == 16 * 2
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
    score(pool, puzzles, tmp_path / "few-shot", Scripted(write), shots=shots, protocol="few-shot")
    assert all(text.startswith(SHOT[0]) for text in seen)


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


OTHERS = {
    "checkpoint": {"sampler": Scripted(checkpoint="another")},
    "protocol": {"protocol": "few-shot"},
    "seed": {"seed": (4,)},
    "settings": {"config": dataclasses.replace(CONFIG, temperature=0.5)},
    "settings, rows": {"rows": 9},
    "samples_per_puzzle": {"config": dataclasses.replace(CONFIG, samples_per_puzzle=5)},
    "puzzles": {"chunk": 4},
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


# ---- bench ----


@pytest.fixture(scope="module")
def puzzle_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("bench") / "own.jsonl"
    file.write_text("".join(json.dumps({"name": f"p{i}", "puzzle": text}) + "\n" for i, text in enumerate(TEXTS)))
    return file


def benched(tiny, pool, puzzle_file, folder, **changes):
    model = ModelConfig(path=str(tiny()), device="cpu", threads=1)
    options = {"protocol": "auto", "shots": 2, "seed": 1, "batch_rows": 16} | changes
    return bench(
        model, str(puzzle_file), options["protocol"], options["shots"], CONFIG, options["seed"], options["batch_rows"],
        folder, pool, {"tier": "A"}, Progress(),
    )  # fmt: skip


def test_a_benchmark_writes_results_and_samples_and_repeats_itself(tiny, pool, puzzle_file, tmp_path):
    first = benched(tiny, pool, puzzle_file, tmp_path / "first")
    assert json.loads((tmp_path / "first" / "results.json").read_text()) == json.loads(json.dumps(first))
    assert first["results"][str(puzzle_file)]["puzzles"] == 5
    assert sum(first["results"][str(puzzle_file)]["verdicts"].values()) == 20
    assert first["config"]["protocol"] == "plain"
    assert first["config"]["shots"] == []
    assert first["sandbox"] == {"tier": "A"}
    second = benched(tiny, pool, puzzle_file, tmp_path / "second")
    assert second["results"] == first["results"]
    assert without_times(tmp_path / "first" / "samples.jsonl") == without_times(tmp_path / "second" / "samples.jsonl")


def test_a_benchmark_with_other_settings_does_not_mix_with_what_is_there(tiny, pool, puzzle_file, tmp_path):
    benched(tiny, pool, puzzle_file, tmp_path)
    with pytest.raises(InputError, match="another seed"):
        benched(tiny, pool, puzzle_file, tmp_path, seed=2)
