"""Lessons of a small run whose model draws its texts in other tokens than its tokenizer's own."""

import contextlib
import sqlite3
from collections import Counter, defaultdict
from functools import partial

import numpy as np
import pytest
from archives import SINCE_SCHEMA_5
from families import tokenizer_of
from scripted_run import Backend, Model, archive_content, config_of, go, puzzle_files

from puzzles.archive.merging import merge
from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.config import FinetuneConfig, PromptConfig, ProposeConfig, SolveConfig
from selfplay.iteration import lessons, propose
from selfplay.iteration.training_set import few_shots
from selfplay.run.rundir import RunDir
from selfplay.sampling.chunks import drawn_tokens
from selfplay.sampling.prompts import PromptFormat, own_part
from selfplay.sampling.sampler import Completion, Drawn, Sampled
from selfplay.sampling.tokens import encode_text, is_border
from selfplay.settings import embedded_file
from selfplay.training.finetune import tokenize_lesson
from selfplay.training.game import GAMES
from selfplay.training.select import Contrast, Example

MAX_TOKENS = 120


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded_file("model"))


class Odd(Model):
    """Its texts are those of the loop's scripted model. Half of them are drawn letter by letter."""

    def __init__(self, tokenizer, drawn, tells):
        super().__init__("base", {})
        self.tokenizer, self.drawn, self.tells = tokenizer, drawn, tells

    def tokens_of(self, completion):
        raise AssertionError("the tokens are known")

    def sample(self, prompts, copies, settings, seed, progress=lambda done: None, numbers=None):
        sampled = super().sample(prompts, copies, settings, seed, progress, numbers)
        rng = np.random.default_rng([*seed, *(numbers or [])[:1], 1])
        rows = zip(prompts, sampled.completions_P_K, strict=True)
        return Sampled([[self._drawn(prompt, one.text, rng) for one in row] for prompt, row in rows], 0, 8)

    def _drawn(self, prompt, text, rng):
        text, ended = own_part(prompt, text), ("token", "line", "cut")[int(rng.choice(3, p=[0.6, 0.25, 0.15]))]
        text += {"token": "", "line": "\n\ndef", "cut": ""}[ended]
        pieces = list(text) if rng.random() < 0.5 else [text]
        ids = [token for piece in pieces for token in self.tokenizer.encode(piece, add_special_tokens=False)]
        ids += [self.tokenizer.eos_token_id] * (ended == "token")
        drawn = Drawn(tuple(ids), ended)
        self.drawn[prompt.text, text].add(drawn)
        return Completion(text, len(ids), ended != "cut", drawn if self.tells else None)


class OddBackend(Backend):
    def __init__(self, tokenizer, tells=True):
        super().__init__()
        self.tokenizer, self.drawn, self.tells = tokenizer, defaultdict(set), tells

    def load(self, checkpoint, config):
        return Odd(self.tokenizer, self.drawn, self.tells)


def config(folder, **changes):
    return config_of(
        puzzle_files(folder), prompt=PromptConfig(protocol="few-shot", shots=2),
        propose=ProposeConfig(proposals=48, proposals_per_prompt=16, max_tokens=MAX_TOKENS, begun=0.3),
        solve=SolveConfig(candidates_per_puzzle=6, max_tokens=MAX_TOKENS), **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def played(pool, tokenizer, tmp_path_factory):
    """The archive's path after two iterations, what was drawn, the settings, and what `sft` was given."""
    folder, backend = tmp_path_factory.mktemp("played"), OddBackend(tokenizer)
    own = config(folder, finetune=FinetuneConfig(objective="sft"))
    go(folder / "run", own, pool, backend)
    return RunDir(folder / "run").archive, backend.drawn, own, backend.trainings[-1]["examples"]


@pytest.fixture
def archive(played):
    with Archive(played[0]) as archive:
        yield archive


@pytest.fixture
def shown(played, archive):
    def tokens_of(text):
        raise AssertionError("the tokens are known")

    shots = few_shots(archive, played[2], PromptFormat("few-shot"))
    return {"prompt_format": PromptFormat("few-shot"), "shots": shots, "tokens_of": tokens_of}


def learned(tokens):
    return tuple(token for token, own in zip(tokens.input_ids_T, tokens.loss_mask_T, strict=True) if own)


def test_the_archive_keeps_the_tokens_of_every_text(archive, played):
    ends = Counter()
    for (number,) in archive.query("SELECT id FROM chunks WHERE stage != 'vary'"):
        chunk = archive.chunk(number)
        drawn = drawn_tokens(archive, chunk)
        texts = {position: lessons._text(chunk, position) for position in drawn}
        assert None not in texts.values()
        assert len(drawn) == sum(len(row) if isinstance(row, list) else 1 for row in chunk.completions)
        known = {text: set() for text in texts.values()}
        for (_, text), of in played[1].items():
            known.get(text, set()).update(of)
        assert all(one in known[texts[position]] for position, one in drawn.items())
        ends.update(one.ended for one in drawn.values())
    assert ends.keys() == {"token", "line", "cut"}


def test_graded_texts_are_learned_in_the_tokens_that_were_drawn_and_none_that_was_cut(
    archive, played, shown, tokenizer
):
    odd = 0
    for lesson in lessons.graded(archive, 2, GAMES["absolute-zero"], **shown):
        assert lesson.drawn in played[1][lesson.prompt.text, lesson.completion]
        assert lesson.drawn.ended != "cut"
        ids = learned(tokenize_lesson(tokenizer, lesson))
        assert ids == lesson.drawn.ids
        own = tokenizer.encode(lesson.completion, add_special_tokens=False)
        odd += list(ids[: len(own)]) != own
    assert odd > 10


def test_cloned_texts_are_learned_in_the_tokens_that_were_drawn_and_each_has_an_end(archive, shown, tokenizer):
    cut = 0
    for lesson in lessons.cloned(archive, 2, GAMES["cooperative"], **shown):
        ids = learned(tokenize_lesson(tokenizer, lesson))
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]) == lesson.completion
        assert ids[:-1] == lesson.drawn.ids[: len(ids) - 1]
        cut += lesson.drawn.ended == "line"
    assert cut > 3


def test_both_sides_of_contrasts_are_learned_in_the_tokens_that_were_drawn(archive, played, shown, tokenizer):
    pairs = archive.choose(4)
    of_dpo = list(lessons.preferred(archive, [1, 2], 4, **shown))
    of_spin = list(lessons.against_itself(archive, [1, 2], pairs, False, 4, **shown))
    assert of_dpo
    assert of_spin
    assert all(None not in lesson.drawn for lesson in of_dpo)
    assert any(lesson.drawn[0] for lesson in of_spin)
    for lesson in (*of_dpo, *of_spin):
        assert isinstance(lesson, Contrast)
        tokens = tokenize_lesson(tokenizer, lesson)
        assert learned(tokens.worse) == lesson.drawn[1].ids
        if lesson.drawn[0] and (lesson.drawn[0].ended == "token" or lesson in of_dpo):
            assert learned(tokens.better) == lesson.drawn[0].ids
        elif lesson.drawn[0]:
            assert learned(tokens.better)[-1] == tokenizer.eos_token_id


def test_a_pair_that_the_model_wrote_is_taught_in_the_tokens_that_it_drew(played, tokenizer):
    by_kind = Counter()
    for lesson in played[3]:
        assert isinstance(lesson, Example)
        role = "propose" if lesson.prompt.header == "def f(" else "solve"
        by_kind[role, lesson.drawn is not None] += 1
        ids = learned(tokenize_lesson(tokenizer, lesson))
        assert tokenizer.decode(ids[:-1]) == lesson.completion
        assert ids[-1] == tokenizer.eos_token_id
        if lesson.drawn:
            drawn = {one for (_, text), of in played[1].items() if text.startswith(lesson.completion) for one in of}
            assert lesson.drawn in drawn
            assert ids[:-1] == lesson.drawn.ids[: len(ids) - 1]
    assert by_kind["solve", True] > 5
    assert by_kind["propose", True] > 3
    assert by_kind["solve", False]  # references, and texts that the archive keeps in another form
    assert by_kind["propose", False]  # also what continued a beginning


@pytest.mark.parametrize("family", ["llama2", "qwen2", "gpt_neox"])
def test_a_beginning_is_cut_where_no_token_spans_the_place(archive, family):
    tokenizer, anywhere, moved = tokenizer_of(family), lambda text, place: True, 0
    for number, parent in enumerate([*archive.solved_ids()] * 5):
        begin, drawn = (
            propose._beginning(archive, parent, np.random.default_rng(number), border)
            for border in (partial(is_border, tokenizer), anywhere)
        )
        source = archive.puzzle(parent).source
        before = encode_text(tokenizer, source[: begin[1]])
        assert encode_text(tokenizer, source)[: len(before)] == before
        moved += begin != drawn
        assert propose._beginning(archive, parent, np.random.default_rng(number), lambda text, place: False) is None
    assert moved or family == "gpt_neox"  # whose tokens end where words do


def test_without_tokens_everything_is_learned_as_before(pool, tokenizer, tmp_path, played):
    class Guessing(OddBackend):
        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model.tokens_of = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
            return model

    backend = Guessing(tokenizer, tells=False)
    go(tmp_path / "run", config(tmp_path, finetune=FinetuneConfig(objective="sft")), pool, backend)
    with Archive(RunDir(tmp_path / "run").archive) as archive:
        assert archive.query("SELECT count(*) FROM chunks WHERE token_ids IS NOT NULL")[0][0] == 0
        shots = few_shots(archive, played[2], PromptFormat("few-shot"))
        own = {
            "prompt_format": PromptFormat("few-shot"),
            "shots": shots,
            "tokens_of": backend.load("base", None).tokens_of,
        }
        made = list(lessons.graded(archive, 2, GAMES["absolute-zero"], **own))
    assert made
    assert {lesson.drawn for lesson in (*made, *backend.trainings[-1]["examples"])} == {None}
    assert backend.trainings[-1]["examples"] == played[3]


def test_a_merged_archive_has_the_tokens_of_its_chunks(archive, tmp_path):
    with Archive(tmp_path / "merged.sqlite", create=True) as into:
        merge(into, archive)
    assert archive_content(tmp_path / "merged.sqlite")["chunks"] == archive_content(archive.path)["chunks"]


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({"ids": [[1]], "ended": ["token"]}, "expected those of"),
        ({"ids": [[1]], "ended": []}, "expected as many ends as texts, got 0"),
        ({"ids": [[1.5]], "ended": ["cut"]}, "expected integers from 0 as tokens"),
        ({"ids": [[1]], "ended": ["soon"]}, "expected token or line or cut"),
        ([], "expected an object"),
    ],
)
def test_damaged_tokens_are_one_clear_line(archive, kept, told):
    from puzzles.archive.store import _compress

    archive.connection.execute("BEGIN")
    try:
        archive.connection.execute("UPDATE chunks SET token_ids = ? WHERE id = 1", (_compress(kept),))
        with pytest.raises(InputError, match=rf"chunk 1, token_ids.*{told}"):
            drawn_tokens(archive, archive.chunk(1))
        archive.connection.execute("UPDATE chunks SET token_ids = x'00' WHERE id = 1")
        with pytest.raises(InputError, match="chunk 1, token_ids: expected compressed JSON"):
            drawn_tokens(archive, archive.chunk(1))
    finally:
        archive.connection.execute("ROLLBACK")


def test_an_archive_of_the_version_before_is_upgraded_and_has_no_tokens(archive, tmp_path):
    path = tmp_path / "archive.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as copy:
        archive.connection.backup(copy)
        copy.execute("ALTER TABLE chunks DROP COLUMN token_ids")
        for table, column in SINCE_SCHEMA_5:
            copy.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        copy.execute("PRAGMA user_version = 3")
        copy.commit()
        before = list(copy.iterdump())
    with Archive(path) as upgraded:
        assert drawn_tokens(upgraded, upgraded.chunk(1)) == {}
        upgraded.check()
        assert lessons.drawn_of_pairs(upgraded, upgraded.choose(4), "few-shot") == {}
    with contextlib.closing(sqlite3.connect(tmp_path / "archive.schema-3.sqlite")) as backup:
        assert list(backup.iterdump()) == before
    rows = archive_content(archive.path)
    lost = {"token_ids": None}, {"program": "", "entry": "f"}, {"program": "", "entry": "g", "puzzle_name": "f"}
    for table, values in zip(("chunks", "puzzles", "solutions"), lost, strict=True):
        rows[table] = [{**row, **values} for row in rows[table]]
    assert archive_content(path) == rows
