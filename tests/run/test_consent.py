"""Settings of a run's folder act only if this user began the run on this machine, or says so."""

import json
import os
import shutil
import stat

import pytest

from puzzles.archive.store import Archive
from puzzles.puzzle import InputError
from selfplay import settings
from selfplay.commands.main import main
from selfplay.run import consent, user_state
from selfplay.run.consent import HARMLESS, SIGNATURES, acting, load, sign
from selfplay.run.rundir import RunDir
from selfplay.settings import to_toml

ACTING = {
    "model.path": "/elsewhere/model", "data.train": "/elsewhere/train.jsonl", "data.dev": "../dev.jsonl",
    "data.heldout": "/dev/zero", "executor": "ray", "track": "wandb", "ray.address": "10.0.0.1:6379",
    "endpoint.serve": "sh -c 'id > served' {checkpoint} {port}", "endpoint.urls": ["http://127.0.0.1:18555/v1"],
    "endpoint.key_variable": "AWS_SECRET_ACCESS_KEY", "sandbox.modules": ["evil"], "sandbox.minimum_tier": "D",
    "sandbox.cpu_seconds": 1e9, "sandbox.wall_seconds": 1e9, "sandbox.memory_mb": 10**9, "sandbox.answer_kb": 10**9,
    "sandbox.recursion_limit": 10**9, "sandbox.lanes": 10**6,
}  # fmt: skip
"""A value of each setting that acts."""
WITH = {
    "endpoint.urls": ["finetune.objective=none"],
    "sandbox.cpu_seconds": ["sandbox.wall_seconds=1e9"],
}
"""What must be set beside."""


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """A user without a key yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def setting(key, value):
    return f"{key}={json.dumps(value)}"


def made(path, *overrides):
    """A run's folder with these settings, and a first session."""
    path.mkdir(parents=True)
    rundir = RunDir(path)
    rundir.config.write_text(to_toml(settings.load(None, overrides)))
    rundir.sessions.write_text(json.dumps({"began": "2026-01-01T00:00:00+00:00", "host": path.name}) + "\n")
    return rundir


def begun(path, *overrides):
    """The same, begun by this user."""
    rundir = made(path, *overrides)
    assert sign(rundir, settings.load(rundir.config)) == ""
    return rundir


def refusal(*arguments):
    with pytest.raises(InputError) as caught:
        load(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", HARMLESS)
def test_each_setting_that_acts_is_refused_by_name_with_the_flag_that_allows_it(tmp_path, key):
    overrides = [setting(key, ACTING[key]), *WITH.get(key, [])]
    rundir = made(tmp_path / "strange", *overrides)
    said = refusal(rundir.config)
    assert f"{key} = " in said
    assert "--allow-settings " in said
    named = said.partition("--allow-settings ")[2].split()[0].split(",")
    assert key in named
    assert load(rundir.config, (), named) == settings.load(rundir.config)
    assert load(rundir.config, [setting(each, ACTING[each]) for each in named]) == settings.load(rundir.config)


def test_the_default_run_and_any_number_of_it_ask_for_nothing(tmp_path):
    assert acting(load(None)) == {}
    rundir = made(tmp_path / "strange", "solve.candidates_per_puzzle=7", "sandbox.cpu_seconds=2", "data.train=none")
    assert load(rundir.config).solve.candidates_per_puzzle == 7
    assert sign(rundir, settings.load(rundir.config)) == ""


def test_none_is_a_file_where_it_is_a_set_that_is_scored(tmp_path):
    rundir = made(tmp_path / "strange", "data.dev=none", "data.heldout=none")
    assert [*acting(settings.load(rundir.config))] == ["data.dev", "data.heldout"]


def test_a_run_that_this_user_began_goes_on_by_itself_wherever_it_is_moved_or_copied(tmp_path):
    rundir = begun(tmp_path / "mine", "model.path=/elsewhere/model")
    shutil.copytree(rundir.path, tmp_path / "other" / "copy")
    rundir.path.rename(tmp_path / "moved")
    for place in (tmp_path / "moved", tmp_path / "other" / "copy"):
        assert load(place / "config.toml").model.path == "/elsewhere/model"


def test_the_secret_key_is_for_this_user_only_and_no_file_of_the_run_holds_it(tmp_path):
    rundir = begun(tmp_path / "mine", "model.path=/elsewhere/model")
    key = tmp_path / "state" / "selfplay" / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert [file.name for file in key.parent.iterdir()] == ["key"]
    held = b"".join(file.read_bytes() for file in rundir.path.iterdir())
    assert key.read_bytes() not in held
    assert key.read_bytes().hex().encode() not in held


def test_a_signature_fits_no_other_run_and_no_other_settings(tmp_path):
    mine = begun(tmp_path / "mine", "model.path=/elsewhere/model")
    other = made(tmp_path / "other", "model.path=/elsewhere/model")
    shutil.copy(mine.path / SIGNATURES, other.path)
    assert "model.path = '/elsewhere/model'" in refusal(other.config)
    mine.config.write_text(to_toml(settings.load(None, ["model.path=/elsewhere/model", "endpoint.serve=sh"])))
    assert "endpoint.serve = 'sh'" in refusal(mine.config)


def test_a_run_of_another_user_or_machine_is_refused_until_this_one_goes_on_with_it(tmp_path, monkeypatch):
    rundir = begun(tmp_path / "run", "model.path=/elsewhere/model")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    refusal(rundir.config)
    config = load(rundir.config, (), ["model.path"])
    assert sign(rundir, config) == ""
    assert load(rundir.config) == config
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert load(rundir.config) == config, "the first user's signature stays"


@pytest.mark.parametrize("forged", ["", "0" * 64, "\n" * 100_000, "\0" * 64, "é" * 64, "key\n"])
def test_a_forged_signature_is_none(tmp_path, forged):
    begun(tmp_path / "mine", "model.path=/a")
    rundir = made(tmp_path / "strange", "model.path=/elsewhere/model")
    (rundir.path / SIGNATURES).write_text(forged)
    refusal(rundir.config)


@pytest.mark.parametrize("kind", ["readable by others", "too short", "link", "folder", "fifo"])
def test_a_key_that_is_not_secret_signs_nothing(tmp_path, kind):
    rundir = begun(tmp_path / "mine", "model.path=/elsewhere/model")
    key = tmp_path / "state" / "selfplay" / "key"
    content = key.read_bytes()
    if kind == "readable by others":
        key.chmod(0o640)
    elif kind == "too short":
        key.write_bytes(content[:-1])
    else:
        key.unlink()
        if kind == "link":
            (tmp_path / "content").write_bytes(content)
            (tmp_path / "content").chmod(0o600)
            key.symlink_to(tmp_path / "content")
        elif kind == "folder":
            key.mkdir()
        else:
            os.mkfifo(key)
    refusal(rundir.config)
    assert user_state.signature(b"x", make_key=True) is None


def test_without_a_home_a_run_is_told_that_it_will_not_be_known_again(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    rundir = made(tmp_path / "mine", "model.path=/elsewhere/model")
    said = sign(rundir, settings.load(rundir.config))
    assert said.endswith("needs --allow-settings model.path")
    assert "\n" not in said
    assert refusal(rundir.config).endswith("--set KEY=VALUE gives your own instead)")
    assert load(rundir.config, (), ["model.path"]).model.path == "/elsewhere/model"


def test_a_settings_file_that_the_user_names_is_the_users_own_but_names_only_keys_of_servers(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[model]\npath = '/elsewhere/model'\n[endpoint]\nkey_variable = 'MY_API_KEY'\n")
    assert load(file).endpoint.key_variable == "MY_API_KEY"
    file.write_text("[endpoint]\nkey_variable = 'AWS_SECRET_ACCESS_KEY'\n")
    assert refusal(file).endswith("add --set endpoint.key_variable=AWS_SECRET_ACCESS_KEY")
    given = "endpoint.key_variable=AWS_SECRET_ACCESS_KEY"
    assert load(file, [given]).endpoint.key_variable == "AWS_SECRET_ACCESS_KEY"


def test_a_link_to_a_runs_settings_is_a_runs_settings(tmp_path):
    rundir = made(tmp_path / "strange", "model.path=/elsewhere/model")
    (tmp_path / "mine.toml").symlink_to(rundir.config)
    refusal(tmp_path / "mine.toml")


def test_a_setting_that_cannot_act_cannot_be_allowed(tmp_path):
    rundir = made(tmp_path / "strange")
    assert refusal(rundir.config, (), ["seed"]).startswith("--allow-settings: expected some of model.path, ")


@pytest.mark.parametrize("key", [key for key in HARMLESS if not key.startswith("sandbox.")])
def test_what_only_judges_asks_only_about_the_sandbox(tmp_path, key):
    rundir = made(tmp_path / "strange", setting(key, ACTING[key]), *WITH.get(key, []))
    consent.load_part(rundir.config, "sandbox.")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "runs/strange/config.toml"], ["run", "--from", "strange", "--name", "new"],
        ["run", "runs/strange/config.toml", "--shard", "1/2"], ["run", "runs/strange/config.toml", "--forecast"],
        ["reproduce", "strange"], ["archive", "replay", "strange", "3f"], ["archive", "reverify", "strange"],
    ],
    ids=lambda command: " ".join(command),
)  # fmt: skip
def test_no_command_lets_a_strangers_settings_act(tmp_path, capsys, command):
    strange = tmp_path / "runs" / "strange"
    rundir = made(
        strange, setting("endpoint.serve", f"touch {tmp_path}/served {{checkpoint}} {{port}}"),
        setting("sandbox.modules", ["evil"]), setting("sandbox.minimum_tier", "D"),
    )  # fmt: skip
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')")
    Archive(rundir.archive, create=True).close()
    before = sorted(tmp_path.rglob("*"))
    assert main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "sandbox.modules = ('evil',)" in said
    assert "sandbox.minimum_tier = 'D'" in said
    assert ("endpoint.serve = " in said) == ("reverify" not in command)
    assert not (tmp_path / "served").exists()
    assert not (tmp_path / "imported").exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_ablation_lets_no_base_act_that_is_a_strangers_run(tmp_path):
    from selfplay.experiments.ablate import load_ablation

    made(tmp_path / "strange", "model.path=/elsewhere/model")
    file = tmp_path / "strange" / "ablation.toml"
    file.write_text(
        'run = "config.toml"\nseeds = [0]\ncontrol = "a"\nsettings = []\n[arms]\na = ["seed=1"]\nb = ["iterations=1"]\n'
    )
    with pytest.raises(InputError, match=r"model\.path = '/elsewhere/model'"):
        load_ablation(file)
