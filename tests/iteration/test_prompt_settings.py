"""A run whose prompts are settings: the same texts are sampled, learned and scored, and every record says which."""

import dataclasses
import json

import pytest
from scripted_run import Backend, config_of, content, crashed_and_resumed, go, puzzle_files, same, watched

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay.config import PromptConfig
from selfplay.experiments.reproduce import begin, reproduce
from selfplay.inspecting.story import story
from selfplay.iteration.training_set import known_shots
from selfplay.run.rundir import RunDir, read_lines
from selfplay.sampling.prompts import PromptFormat, kept_format
from selfplay.settings import load

SOLVE = "# Solve.\n{shots}# It returns {answer_type}.\n{puzzle}\n\n{header}"
PROPOSE = "# Puzzles.\n{shots}{header}"
PROMPT = PromptConfig("few-shot", shots=2, solve=SOLVE, propose=PROPOSE)
OWN = PromptFormat("few-shot", solve=SOLVE, propose=PROPOSE)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return puzzle_files(tmp_path_factory.mktemp("files"))


class Listening(Backend):
    """Notes every prompt that is sampled."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def load(self, checkpoint, config):
        model = super().load(checkpoint, config)
        write = model._write
        model._write = lambda prompt, rng: self.asked.append(prompt) or write(prompt, rng)
        return model


@pytest.fixture(scope="module")
def played(files, pool, tmp_path_factory):
    backend, path = Listening(), tmp_path_factory.mktemp("run") / "run"
    go(path, config_of(files, prompt=PROMPT, iterations=1), pool, backend)
    return path, backend


def chunks(path):
    with Archive(RunDir(path).archive) as archive:
        numbers = [number for (number,) in archive.query("SELECT id FROM chunks ORDER BY id")]
        return [archive.chunk(number) for number in numbers]


def test_what_is_sampled_scored_and_learned_is_one_rendering(played):
    _, backend = played
    solving = {prompt for prompt in backend.asked if prompt.header.startswith("def g(")}
    assert all(prompt.text.startswith("# Solve.\ndef f(") for prompt in solving)
    assert all("# It returns " in prompt.text for prompt in solving)
    assert all(prompt.text.startswith("# Puzzles.\n") for prompt in {*backend.asked} - solving)
    learned = {example.prompt for example in backend.trainings[0]["examples"]}
    assert {prompt for prompt in learned if prompt.header.startswith("def g(")} <= solving
    assert all(prompt.text.startswith(("# Solve.\n", "# Puzzles.\n")) for prompt in learned)


def test_every_record_has_the_hash_and_chunks_and_checkpoints_the_templates(played):
    path, backend = played
    rundir = RunDir(path)
    assert {record["prompt_format_hash"] for record in rundir.read_records()} == {OWN.hash}
    for name in ("dev", "heldout"):
        for line in read_lines(rundir.samples(1, name)):
            assert line["identity"]["prompt_format_hash"] == OWN.hash
    assert {kept_format(chunk.settings) for chunk in chunks(path)} == {OWN}
    assert {chunk.settings["prompt_format"]["hash"] for chunk in chunks(path)} == {OWN.hash}
    assert kept_format(backend.trainings[0]["notes"]) == OWN


def test_it_goes_on_with_its_templates_and_not_with_others(played, files, pool):
    path, _ = played
    before = content(path)
    changed = dataclasses.replace(PROMPT, solve="{shots}{puzzle}\n{header}")
    with pytest.raises(InputError, match=r"other settings: prompt\.solve \('# Solve.*… there, '\{shots\}.*' here\)"):
        go(path, config_of(files, prompt=changed, iterations=1), pool)
    assert same(content(path), before)
    with pytest.raises(InputError, match=r"other settings: prompt\.solve"):
        go(path, config_of(files, prompt=dataclasses.replace(PROMPT, solve=""), iterations=1), pool)
    assert go(path, load(RunDir(path).config), pool)[-1]["iteration"] == 1


def test_its_story_is_told_with_the_prompts_that_were_sent(played):
    path, backend = played
    asked = {prompt.whole for prompt in backend.asked}
    with Archive(RunDir(path).archive) as archive:
        (made, *_) = archive.puzzle_ids("p.origin = 'model' AND EXISTS (SELECT 1 FROM solutions WHERE puzzle = p.id)")
        told = story(archive, made, known_shots(archive))
    assert told.came["prompt"] in asked
    assert {solution["prompt"] for solution in told.solutions} <= asked


def test_it_comes_to_the_same_end_after_a_crash(files, pool, tmp_path):
    config = config_of(files, prompt=PROMPT, iterations=1)
    with watched() as seen:
        go(tmp_path / "whole", config, pool)
    crashed_and_resumed(tmp_path / "crashed", config, pool, len(seen.events) // 2)
    assert same(content(tmp_path / "crashed"), content(tmp_path / "whole"))


# ---- chats ----


def chatting(**changes):
    class Chatting(Listening):
        """Its model has learned in chats, with these changes to its notes."""

        def load(self, checkpoint, config):
            model = super().load(checkpoint, config)
            model.notes = {**changes, **model.notes}
            return model

    return Chatting()


def test_a_run_that_chats_shows_its_shots_as_turns_and_keeps_it(files, pool, tmp_path):
    backend, config = Listening(), config_of(files, prompt=PromptConfig("chat", shots=2), iterations=0)
    go(tmp_path / "run", config, pool, backend)
    assert {tuple(role for role, _ in prompt.turns) for prompt in backend.asked} == {
        ("user", "assistant") * 2 + ("user",)
    }
    assert load(RunDir(tmp_path / "run").config).prompt.shots_as_turns == "yes"


def test_a_run_that_began_before_there_were_turns_goes_on_without_them(files, pool, tmp_path):
    rundir, before = RunDir(tmp_path / "run"), PromptConfig("chat", shots=2, shots_as_turns="no")
    go(rundir.path, config_of(files, prompt=before, iterations=1), pool)
    older = rundir.config.read_text()
    for line in ('shots_as_turns = "no"\n', 'system = ""\n', 'propose = ""\n', 'solve = ""\n'):
        assert line in older
        older = older.replace(line, "")
    rundir.config.write_text(older)
    for name in ("dev", "heldout"):
        lines = read_lines(rundir.samples(0, name))
        for line in lines:
            del line["identity"]["prompt_format_hash"]
        rundir.samples(0, name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    records = rundir.read_records()
    records[0].pop("prompt_format_hash")
    rundir.records.write_text(json.dumps(records[0]) + "\n")
    backend = Listening()
    asked = PromptConfig("chat", shots=2)
    assert go(rundir.path, config_of(files, prompt=asked, iterations=2), pool, backend)[-1]["iteration"] == 2
    assert all(not prompt.before for prompt in backend.asked)
    assert load(rundir.config).prompt.shots_as_turns == "no"


def test_a_checkpoints_own_prompts_are_a_runs_unless_others_are_set(files, pool, tmp_path):
    trained = PromptFormat("chat", system="You write Python.", solve="{puzzle} g?", shots_as_turns=True)
    backend = chatting(protocol="chat", prompt_format=trained.to_json())
    go(tmp_path / "run", config_of(files, prompt=PromptConfig(shots=2), iterations=0), pool, backend)
    assert {prompt.before[0] for prompt in backend.asked} == {("system", "You write Python.")}
    assert all(prompt.text.endswith(" g?") for prompt in backend.asked)
    backend = chatting(protocol="chat", prompt_format=trained.to_json())
    go(tmp_path / "few", config_of(files, prompt=PromptConfig("few-shot", shots=2), iterations=0), pool, backend)
    assert not any(prompt.chat for prompt in backend.asked)


def test_a_system_turn_without_a_chat_is_refused_before_anything_is_written(files, pool, tmp_path):
    config = config_of(files, prompt=PromptConfig(system="You write Python."), iterations=0)
    with pytest.raises(
        InputError, match=r"prompt\.system: expected none with protocol few-shot: only a chat has turns"
    ):
        go(tmp_path / "run", config, pool)
    assert not RunDir(tmp_path / "run").config.exists()


def test_it_is_reproduced_without_a_difference(played, pool, tmp_path):
    there, again = RunDir(played[0]), RunDir(tmp_path / "again")
    last = begin(there, again, None)
    assert reproduce(there, again, last, Backend(), pool, {"tier": "A"}).is_identical
