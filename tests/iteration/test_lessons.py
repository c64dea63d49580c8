"""What the texts of a small run teach; its model is a script that draws tokens of the shipped model."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from scripted_run import Backend, Model, config_of, go, puzzle_files

from puzzles.archive.store import Archive
from puzzles.parse import parse_candidates
from puzzles.puzzle import Candidate
from puzzles.verify import verify
from selfplay.config import PromptConfig, ProposeConfig, SolveConfig
from selfplay.iteration import lessons
from selfplay.iteration.training_set import few_shots
from selfplay.run.rundir import RunDir
from selfplay.sampling.prompts import (
    PromptFormat,
    encode_sampled,
    met_a_line,
    own_part,
    propose_prompt,
    solve_prompt,
    was_cut,
)
from selfplay.sampling.sampler import Completion, Sampled
from selfplay.settings import embedded_file
from selfplay.training.game import GAMES, advantages

MAX_TOKENS = 40
N = 6
TRIED = (
    "SELECT c.*, k.iteration, k.stage FROM candidates c JOIN chunks k ON k.id = c.chunk WHERE k.iteration = ?"
    " ORDER BY c.chunk, c.position"
)


def graded(*arguments, **options):
    return [(each.prompt, each.completion, each.advantage) for each in lessons.graded(*arguments, **options)]


def cloned(*arguments, **options):
    return [(each.prompt, each.completion) for each in lessons.cloned(*arguments, **options)]


def preferred(*arguments, **options):
    return [(each.prompt, each.better, each.worse) for each in lessons.preferred(*arguments, **options)]


def against_itself(*arguments, **options):
    return [(each.prompt, each.better, each.worse) for each in lessons.against_itself(*arguments, **options)]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_file("model"))


class Drawing(Model):
    """Its texts are those of the loop's scripted model, drawn token by token, each with one of the three ends."""

    def __init__(self, tokenizer, drawn):
        super().__init__("base", {})
        self.tokenizer, self.drawn = tokenizer, drawn

    def tokens_of(self, completion):
        return len(self.tokenizer.encode(completion, add_special_tokens=False))

    def sample(self, prompts, copies, settings, seed, progress=lambda done: None, numbers=None):
        sampled = super().sample(prompts, copies, settings, seed, progress, numbers)
        rng = np.random.default_rng([*seed, *(numbers or [])[:1], 1])
        rows = zip(prompts, sampled.completions_P_K, strict=True)
        return Sampled([[self._drawn(prompt, one.text, rng) for one in row] for prompt, row in rows], 0, 8)

    def _drawn(self, prompt, text, rng):
        encode = self.tokenizer.encode
        end = ("end", "line", "cut")[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        text = own_part(prompt, text)
        if end == "end":
            ids = [*encode(text, add_special_tokens=False), self.tokenizer.eos_token_id]
        elif end == "line":
            ids = [*encode(text, add_special_tokens=False), *encode("\n\ndef", add_special_tokens=False)]
        else:
            long = text.rstrip("\n") + f"\n    # {int(rng.integers(1000))}" + " and so on" * MAX_TOKENS
            ids = encode(long, add_special_tokens=False)[:MAX_TOKENS]
            if encode(self.tokenizer.decode(ids), add_special_tokens=False) != ids:
                return self._drawn(prompt, text, rng)
        kept = ids[:-1] if end == "end" else ids
        came = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        self.drawn[prompt.text, came].add((end, tuple(ids)))
        return Completion(came, len(ids), end != "cut")


class DrawingBackend(Backend):
    """All of its checkpoints write alike."""

    def __init__(self, tokenizer):
        super().__init__()
        self.tokenizer, self.drawn = tokenizer, defaultdict(set)

    def load(self, checkpoint, config):
        return Drawing(self.tokenizer, self.drawn)


@pytest.fixture(scope="module")
def played(pool, tokenizer, tmp_path_factory):
    """Two iterations: the archive's path, what was drawn, and the few pairs that were shown."""
    folder = tmp_path_factory.mktemp("played")
    backend = DrawingBackend(tokenizer)
    config = config_of(
        puzzle_files(folder),
        prompt=PromptConfig(protocol="few-shot", shots=2),
        propose=ProposeConfig(proposals=64, proposals_per_prompt=16, max_tokens=MAX_TOKENS),
        solve=SolveConfig(candidates_per_puzzle=N, further_puzzles=3, further_candidates=5, max_tokens=MAX_TOKENS),
    )
    go(folder / "run", config, pool, backend)
    return {"path": RunDir(folder / "run").archive, "drawn": backend.drawn, "config": config}


@pytest.fixture
def archive(played):
    with Archive(played["path"]) as archive:
        yield archive


@pytest.fixture
def shown(played, archive, tokenizer):
    """The arguments by which texts are rendered."""
    return {
        "prompt_format": PromptFormat("few-shot"),
        "shots": few_shots(archive, played["config"], PromptFormat("few-shot")),
        "tokens_of": Drawing(tokenizer, {}).tokens_of,
    }


# ---- what is paid ----


@pytest.mark.parametrize("name", GAMES)
def test_every_proposal_is_paid_by_what_its_first_candidates_came_to(archive, name):
    payoffs, kinds = GAMES[name], Counter()
    rows = archive.query(
        "SELECT r.* FROM proposals r JOIN chunks k ON k.id = r.chunk WHERE k.iteration = 2 AND k.stage = 'propose'"
        " ORDER BY r.chunk, r.position"
    )
    tried = archive.query(TRIED, 2)
    found = list(lessons.proposals(archive, 2, payoffs))
    assert [(one.chunk, one.position, one.outcome) for one in found] == [tuple(row)[:3] for row in rows]
    for one, row in zip(found, rows, strict=True):
        own = [c["verdict"] for c in tried if c["puzzle"] == row["puzzle"] and c["stage"] == "solve"]
        kinds[row["outcome"]] += 1
        expected = {"admitted": payoffs.proposal(own.count("accepted"), N), "duplicate": payoffs.duplicate}
        assert one.reward == expected.get(row["outcome"], payoffs.refused)
        assert one.aside == (row["outcome"] == "held_out")
    assert {"admitted", "duplicate", "held_out", "syntax", "trivial"} <= kinds.keys()


def test_every_candidate_is_paid_by_its_verdict_further_ones_too(archive):
    payoffs = GAMES["absolute-zero"]
    for iteration in (1, 2):
        rows = archive.query(TRIED, iteration)
        found = list(lessons.attempts(archive, iteration, payoffs))
        assert [(a.chunk, a.position, a.puzzle, a.candidate, a.verdict) for a in found] == [tuple(r)[:5] for r in rows]
        assert [a.reward for a in found] == [payoffs.candidate(row["verdict"]) for row in rows]
        assert {row["stage"] for row in rows} == {"solve", "further"}


def test_a_puzzle_that_nobody_tried_has_no_reward(archive):
    archive.connection.execute("BEGIN")
    try:
        puzzle = next(p for p in proposals_of(archive) if p.right)
        identifier = archive.query(
            "SELECT puzzle FROM proposals WHERE chunk = ? AND position = ?", puzzle.chunk, puzzle.position
        )[0][0]
        archive.connection.execute("DELETE FROM candidates WHERE puzzle = ?", (identifier,))
        (same,) = [p for p in proposals_of(archive) if (p.chunk, p.position) == (puzzle.chunk, puzzle.position)]
        assert same.reward is None
    finally:
        archive.connection.execute("ROLLBACK")


def proposals_of(archive):
    return list(lessons.proposals(archive, 1, GAMES["competitive"]))


# ---- what is learned of it ----


@pytest.mark.parametrize("iteration", [1, 2])
def test_graded_texts_come_to_the_very_tokens_that_were_drawn_and_none_of_them_was_cut(
    archive, played, shown, tokenizer, iteration
):
    ends = Counter()
    for prompt, text, _ in graded(archive, iteration, GAMES["absolute-zero"], **shown):
        ids = tuple(encode_sampled(tokenizer, prompt, text))
        drawn = played["drawn"][prompt.text, text]
        assert [ids] == [of for _, of in drawn]
        (end,) = {end for end, _ in drawn}
        assert (ids[-1] == tokenizer.eos_token_id) == (end == "end")
        ends[prompt.header == "def f(", end] += 1
    assert ends.keys() == {(role, end) for role in (False, True) for end in ("end", "line")}


@pytest.mark.parametrize(("within", "by_deviation"), [("prompt", False), ("prompt", True), ("role", True)])
def test_graded_advantages_are_those_of_all_rewards_cut_texts_and_held_out_ones_with_them(
    archive, shown, within, by_deviation
):
    payoffs = GAMES["absolute-zero"]
    paid = [one for one in lessons.proposals(archive, 2, payoffs) if one.reward is not None]
    chunks = {number: archive.chunk(number) for number in {one.chunk for one in paid}}
    shots = [tuple(chunks[one.chunk].plan["shots"][one.position // chunks[one.chunk].plan["copies"]]) for one in paid]
    groups = ["all"] * len(paid) if within == "role" else shots
    values = advantages([one.reward for one in paid], groups, by_deviation)
    expected = []
    for one, value in zip(paid, values, strict=True):
        text = chunks[one.chunk].completions[one.position]
        cut = was_cut(propose_prompt("few-shot"), text, shown["tokens_of"](text), MAX_TOKENS)
        if one.outcome != "held_out" and not cut and value:
            expected.append((text, pytest.approx(value)))
    found = graded(archive, 2, payoffs, **shown, roles=["propose"], within=within, by_deviation=by_deviation)
    assert [(text, value) for _, text, value in found] == expected
    assert len(expected) > 10


def test_graded_candidates_are_compared_with_those_of_the_same_puzzle(archive, shown):
    by_prompt = defaultdict(list)
    for prompt, text, advantage in graded(archive, 1, GAMES["learnability"], **shown, roles=["solve"]):
        by_prompt[prompt].append((text, advantage))
    assert len(by_prompt) > 3
    for own in by_prompt.values():
        assert len({advantage > 0 for _, advantage in own}) <= 2
        right = {advantage for _, advantage in own if advantage > 0}
        wrong = {advantage for _, advantage in own if advantage < 0}
        assert len(right) <= 1
        assert len(wrong) <= 1
        if right and wrong:  # 1 - p and -p
            assert max(right) - min(wrong) == pytest.approx(1)


def test_what_is_held_out_or_in_quarantine_is_never_learned_from_not_even_as_bad(archive, shown):
    held = [one for one in lessons.proposals(archive, 2, GAMES["absolute-zero"]) if one.outcome == "held_out"]
    texts = {archive.chunk(one.chunk).completions[one.position] for one in held}
    assert texts
    assert not texts & {text for _, text, _ in graded(archive, 2, GAMES["absolute-zero"], **shown)}
    archive.connection.execute("BEGIN")
    try:
        puzzle, solved = archive.query(
            "SELECT c.puzzle, p.source FROM candidates c JOIN chunks k ON k.id = c.chunk JOIN puzzles p"
            " ON p.id = c.puzzle WHERE k.iteration = 2 AND p.iteration = 2 AND c.verdict = 'accepted'"
            " AND EXISTS (SELECT 1 FROM candidates d WHERE d.puzzle = p.id AND d.verdict = 'wrong_answer') LIMIT 1"
        )[0]
        assert solved in prompts_learned(archive, shown)
        archive.connection.execute(
            "UPDATE candidates SET verdict = 'unstable', detail = 'confirm: worlds disagree'"
            " WHERE rowid = (SELECT rowid FROM candidates WHERE puzzle = ? AND verdict = 'wrong_answer' LIMIT 1)",
            (puzzle,),
        )
        assert solved not in prompts_learned(archive, shown)
        (own,) = [
            one
            for one in lessons.proposals(archive, 2, GAMES["competitive"])
            if one.aside and one.outcome == "admitted"
        ]
        assert own.reward == 0
        assert {one.reward for one in lessons.attempts(archive, 2, GAMES["competitive"]) if one.aside} == {None}
    finally:
        archive.connection.execute("ROLLBACK")


def prompts_learned(archive, shown) -> str:
    """All prompts of puzzles to solve that any way of learning takes up, in one text."""
    pairs = archive.choose(4)
    found = [prompt for prompt, *_ in graded(archive, 2, GAMES["competitive"], **shown, roles=["solve"])]
    found += [prompt for prompt, _ in cloned(archive, 2, GAMES["competitive"], **shown, roles=["solve"])]
    found += [prompt for prompt, *_ in preferred(archive, [2], 9, **shown)]
    found += [prompt for prompt, *_ in against_itself(archive, [2], pairs, False, 9, **shown)]
    return "\n".join(prompt.text for prompt in found)


def test_cloned_are_puzzles_above_the_mean_and_verified_solutions_with_their_end(archive, shown, pool):
    payoffs = GAMES["cooperative"]
    made = list(cloned(archive, 2, payoffs, **shown))
    rewards = [one.reward for one in lessons.proposals(archive, 2, payoffs)]
    above = [one for one in lessons.proposals(archive, 2, payoffs) if one.reward > sum(rewards) / len(rewards)]
    proposed = [text for prompt, text in made if prompt.header == "def f("]
    assert 0 < len(proposed) <= len(above)
    assert all(not met_a_line(prompt, text) and text.endswith("\n") for prompt, text in made)
    solved = [(prompt, text) for prompt, text in made if prompt.header != "def f("]
    sources = {row["source"]: row["id"] for row in archive.query("SELECT id, source FROM puzzles")}
    candidates = parse_candidates(pool, [prompt.parsed_text(text) for prompt, text in solved])
    asked = [sources[prompt.text.rpartition("\n\n\n")[2].rpartition("\n\n")[0]] for prompt, _ in solved]
    judged = verify(pool, [(archive.puzzle(i), c) for i, c in zip(asked, candidates, strict=True)])
    assert {str(judgement.verdict) for judgement in judged} == {"accepted"}


def test_a_valid_puzzle_that_everybody_solves_is_cloned_in_the_competitive_game_alone(archive, shown):
    archive.connection.execute("BEGIN")
    try:
        one = next(one for one in proposals_of(archive) if one.right and one.reward)
        text = archive.chunk(one.chunk).completions[one.position]
        archive.connection.execute(
            "UPDATE candidates SET verdict = 'accepted' WHERE puzzle = (SELECT puzzle FROM proposals WHERE chunk = ?"
            " AND position = ?)",
            (one.chunk, one.position),
        )
        kept = {
            name: own_part(propose_prompt("plain"), text)
            in [text for _, text in cloned(archive, 1, GAMES[name], **shown, roles=["propose"])]
            for name in ("competitive", "cooperative", "learnability", "balanced")
        }
        cut = was_cut(propose_prompt("plain"), text, shown["tokens_of"](text), MAX_TOKENS)
        assert kept == {"competitive": not cut, "cooperative": not cut, "learnability": False, "balanced": False}
    finally:
        archive.connection.execute("ROLLBACK")


# ---- contrasts ----


def sides(archive, pool, contrasts):
    """The verdicts of both texts of each contrast, judged again."""
    sources = {row["source"]: row["id"] for row in archive.query("SELECT id, source FROM puzzles")}
    found = []
    for prompt, *texts in contrasts:
        puzzle = archive.puzzle(sources[prompt.text.rpartition("\n\n\n")[2].rpartition("\n\n")[0]])
        candidates = parse_candidates(pool, [prompt.parsed_text(text) for text in texts])
        verdicts = [
            str(verify(pool, [(puzzle, candidate)])[0].verdict) if isinstance(candidate, Candidate) else "no program"
            for candidate in candidates
        ]
        found.append((puzzle.id, *verdicts))
    return found


@pytest.mark.parametrize("most", [1, 2, 100])
def test_of_preferred_pairs_one_is_right_and_one_wrong_and_there_are_at_most_so_many_of_a_puzzle(
    archive, shown, pool, most
):
    pairs = list(preferred(archive, [1], most, **shown))
    found = sides(archive, pool, pairs)
    assert {right for _, right, _ in found} == {"accepted"}
    assert not {"accepted", "no program"} & {wrong for *_, wrong in found}
    counted = Counter(puzzle for puzzle, *_ in found)
    assert max(counted.values()) <= most
    assert len(counted) > 3
    assert len({*pairs}) == len(pairs)


def test_iterations_are_paired_among_themselves(archive, shown):
    apart = [pair for iteration in (1, 2) for pair in preferred(archive, [iteration], 2, **shown)]
    assert list(preferred(archive, [1, 2], 2, **shown)) == apart
    assert list(preferred(archive, [], 2, **shown)) == []


@pytest.mark.slow
def test_the_model_against_itself_only_failing_texts_or_any_but_the_verified_ones(archive, shown, pool):
    pairs = archive.choose(2)
    real = {(solve_prompt("plain", puzzle).header, solution.source.partition("\n")[2]) for puzzle, solution in pairs}
    failing = list(against_itself(archive, [2], pairs, True, 3, **shown))
    assert {better for _, better, _ in sides(archive, pool, failing)} == {"accepted"}
    assert not {"accepted", "no program"} & {worse for *_, worse in sides(archive, pool, failing)}
    any_text = list(against_itself(archive, [2], pairs, False, 100, **shown))
    assert {"accepted", "no program", "wrong_answer"} & {worse for *_, worse in sides(archive, pool, any_text)}
    for prompt, better, worse in failing + any_text:
        assert (prompt.header, better.strip("\n")) in real
        assert better != worse
        assert better.startswith("\n")
        assert better.endswith("\n")


def test_a_text_that_is_verified_anywhere_is_never_the_failing_one(archive, shown):
    def worse():
        return {(prompt, text) for prompt, _, text in preferred(archive, [2], 100, **shown)}

    archive.connection.execute("BEGIN")
    try:
        prompt, text = sorted(worse(), key=str)[0]
        rows = archive.query(TRIED, 2)
        texts = {
            (row["chunk"], row["position"]): lessons._text(archive.chunk(row["chunk"]), row["position"]) for row in rows
        }
        (row, *_) = [
            row
            for row in rows
            if texts[row["chunk"], row["position"]] == text
            and archive.puzzle(row["puzzle"]).source in prompt.text.rpartition("\n\n\n")[2]
        ]
        archive.connection.execute(
            "INSERT INTO solutions SELECT NULL, ?, ?, source, answer, origin, 1, chunk, position, protections,"
            " cpu_seconds, judge_cpu_seconds, added_at, program, entry, puzzle_name FROM solutions LIMIT 1",
            (row["puzzle"], row["candidate"]),
        )
        assert (prompt, text) not in worse()
    finally:
        archive.connection.execute("ROLLBACK")


def test_the_same_archive_teaches_the_same(archive, shown):
    once, again = (
        [
            list(graded(archive, 2, GAMES["balanced"], **shown)),
            list(preferred(archive, [2], 2, **shown)),
            list(against_itself(archive, [1, 2], archive.choose(2), True, 2, **shown)),
        ]
        for _ in range(2)
    )
    assert once == again
    assert all(once)


def test_an_iteration_without_texts_teaches_nothing(archive, shown):
    assert list(graded(archive, 9, GAMES["balanced"], **shown)) == []
    assert list(cloned(archive, 9, GAMES["balanced"], **shown)) == []
    assert list(preferred(archive, [9], 2, **shown)) == []
    assert list(against_itself(archive, [9], archive.choose(2), True, 2, **shown)) == []
