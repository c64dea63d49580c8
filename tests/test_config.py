import dataclasses
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from puzzles.puzzle import InputError
from selfplay import config as config_module
from selfplay.config import (
    DataConfig,
    EndpointConfig,
    EvaluateConfig,
    FinetuneConfig,
    ModelConfig,
    PromptConfig,
    ProposeConfig,
    RunConfig,
    SandboxConfig,
    SendConfig,
    SolveConfig,
    flatten,
)
from selfplay.experiments.ablate import load_ablation
from selfplay.settings import build, differences, embedded_file, load, to_toml

SHIPPED = sorted([*ROOT.glob("runs/*.toml"), *ROOT.glob("selfplay/embedded/*.toml")])
ABLATIONS = [path for path in SHIPPED if "arms" in tomllib.loads(path.read_text("utf-8"))]


@pytest.fixture
def write(tmp_path):
    def write_(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, "utf-8")
        return path

    return write_


def message(call, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    return str(caught.value)


# ---- files ----


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_config_loads(path):
    if path.name.startswith("pretrain"):
        from selfplay.training.pretrain import PretrainConfig, load_pretrain_config

        assert isinstance(load_pretrain_config(path), PretrainConfig)
    elif path in ABLATIONS:
        assert load_ablation(path).control
    else:
        assert isinstance(load(path), RunConfig)


def test_no_config_is_the_embedded_one():
    path = embedded_file("run.toml")
    if not path.exists():
        pytest.skip("the embedded settings are not there")
    assert load(None) == load(path)


def test_an_empty_file_is_the_defaults(write):
    assert load(write("")) == RunConfig()


def test_settings_are_read_from_their_tables(write):
    config = load(write('iterations = 7\n[solve]\ntemperature = 0.5\n[evaluate]\nk = [1, 5]\n[model]\npath = "here"'))
    assert config == RunConfig(
        iterations=7,
        solve=SolveConfig(temperature=0.5),
        evaluate=EvaluateConfig(k=(1, 5)),
        model=ModelConfig(path="here"),
    )


def test_a_whole_number_does_for_a_number_and_becomes_one(write):
    temperature = load(write("[solve]\ntemperature = 1")).solve.temperature
    assert (type(temperature), temperature) == (float, 1.0)


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "missing.toml"
    assert message(load, path) == f"{path}: No such file or directory: expected a TOML file"


def test_a_directory_is_no_config(tmp_path):
    assert message(load, tmp_path) == f"{tmp_path}: Is a directory: expected a TOML file"


def test_a_file_that_is_not_toml_is_named_with_the_place(write):
    path = write("iterations = 3\n[solve\n")
    assert message(load, path).startswith(f"{path}: expected TOML, ")
    assert "line 2" in message(load, path)


def test_a_file_that_is_not_text_is_named(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b'a = "\xff"')
    assert message(load, path) == f"{path}: it is not UTF-8 text: expected a TOML file"


# ---- unknown keys ----


@pytest.mark.parametrize(
    ("text", "unknown", "known"),
    [
        ("iteration = 3", "iteration", "iterations"),
        ("keep_checkpoint = 'all'", "keep_checkpoint", "keep_checkpoints"),
        ("[evalute]\nk = [1]", "evalute", "evaluate"),
        ("[solve]\ntemprature = 1.0", "solve.temprature", "solve.temperature"),
        ("[solve]\nmax_token = 1", "solve.max_token", "solve.max_tokens"),
        ("[finetune]\nlr_rate = 1.0", "finetune.lr_rate", "finetune.learning_rate"),
        ("[solve]\nproposals = 3", "solve.proposals", "propose.proposals"),
        ("[solve]\nsamples_per_puzzle = 3", "solve.samples_per_puzzle", "evaluate.samples_per_puzzle"),
        ("[model]\nlearning_rate = 1.0", "model.learning_rate", "finetune.learning_rate"),
        ("candidates_per_puzzle = 3", "candidates_per_puzzle", "solve.candidates_per_puzzle"),
        ("cpu_seconds = 3", "cpu_seconds", "sandbox.cpu_seconds"),
    ],
)
def test_an_unknown_key_stops_with_the_nearest_known_one(write, text, unknown, known):
    path = write(text)
    assert message(load, path) == f"{path}: unknown key {unknown!r}; did you mean {known!r}?"


def test_a_key_like_no_other_stops_with_those_of_its_table(write):
    text = message(load, write("xyzzy = 3"))
    assert "unknown key 'xyzzy'; known keys here: iterations, seed" in text
    assert "evaluate" in text
    text = message(load, write("[vary]\nqqqqqqqqqq = 3"))
    assert text.endswith("unknown key 'vary.qqqqqqqqqq'; known keys here: variations, ways")


# ---- wrong values ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iterations = 'three'", "expected an integer under 'iterations', got 'three'"),
        ("iterations = 3.0", "expected an integer under 'iterations', got 3.0"),
        ("iterations = true", "expected an integer under 'iterations', got True"),
        ("iterations = [3]", "expected an integer under 'iterations', got [3]"),
        ("tensorboard = 1", "expected true or false under 'tensorboard', got 1"),
        ("solve = 3", "expected a table under 'solve', got 3"),
        ("[solve]\ntemperature = '1'", "expected a number under 'solve.temperature', got '1'"),
        ("[solve]\ntemperature = false", "expected a number under 'solve.temperature', got False"),
        ("[solve]\ntemperature = nan", "expected a number under 'solve.temperature', got nan"),
        ("[solve]\ntemperature = inf", "expected a number under 'solve.temperature', got inf"),
        ("[model]\npath = 3", "expected a string under 'model.path', got 3"),
        ("[evaluate]\nk = 1", "expected a list such as [1, 10] under 'evaluate.k', got 1"),
        ("[evaluate]\nk = ['1']", "expected an integer under 'evaluate.k', got '1'"),
        ("[finetune]\nroles = 'solve'", "expected a list such as [\"a\", \"b\"] under 'finetune.roles', got 'solve'"),
        ("[iterations]\na = 3", "expected an integer under 'iterations', got {'a': 3}"),
    ],
)
def test_a_value_of_the_wrong_type_stops_with_what_was_expected(write, text, expected):
    path = write(text)
    assert message(load, path) == f"{path}: {expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iterations = -1", "iterations: expected 0 or more, got -1"),
        ("batch_rows = -1", "batch_rows: expected 0 or more, got -1"),
        ("keep_checkpoints = 'some'", "keep_checkpoints: expected one of all, best, got 'some'"),
        ("[solve]\ntop_p = 1.5", "solve.top_p: expected at most 1, got 1.5"),
        ("[solve]\ntop_p = 0.0", "solve.top_p: expected a number above 0, got 0.0"),
        (
            "[solve]\ntraining_puzzles = 'some'",
            "solve.training_puzzles: expected one of all, unsolved, none, got 'some'",
        ),
        (
            "[prompt]\nprotocol = 'fewshot'",
            "prompt.protocol: expected one of auto, plain, few-shot, chat, got 'fewshot'",
        ),
        ("[sandbox]\nminimum_tier = 'C'", "sandbox.minimum_tier: expected one of A, B, D, got 'C'"),
        ("[sandbox]\nwall_seconds = 0.5", "sandbox.wall_seconds: expected at least cpu_seconds (1.0), got 0.5"),
        ("[sandbox]\nmemory_mb = 0", "sandbox.memory_mb: expected a number above 0, got 0"),
        ("[vary]\nways = ['tie']", "vary.ways: expected some of hindsight, ease, join, nest, got ['tie']"),
        ("[vary]\nways = []", "vary.ways: expected some of hindsight, ease, join, nest, got []"),
        (
            "[vary]\nvariations = 9\n[finetune]\nverified = false",
            "vary.variations: expected 0 with finetune.verified = false (it relies on verdicts), got 9",
        ),
        (
            "[solve]\nfurther_puzzles = 9\n[finetune]\nverified = false",
            "solve.further_puzzles: expected 0 with finetune.verified = false (it relies on verdicts), got 9",
        ),
        ("[propose]\nstrategy = 'niche'", "propose.strategy: expected one of uniform, niches, got 'niche'"),
        (
            "[collapse]\naction = 'wait'",
            "collapse.action: expected one of continue, stop, rollback, rebalance, got 'wait'",
        ),
        (
            "[propose]\nstrategy = 'niches'\n[finetune]\nverified = false",
            "propose.strategy: expected uniform with finetune.verified = false (it relies on verdicts), got niches",
        ),
        (
            "[propose]\nbegun = 0.5\n[finetune]\nverified = false",
            "propose.begun: expected 0 with finetune.verified = false (it relies on verdicts), got 0.5",
        ),
        (
            "[finetune]\nmost_solved = 0.9\nverified = false",
            "finetune.most_solved: expected 1.0 with finetune.verified = false (it relies on verdicts), got 0.9",
        ),
        ("[finetune]\nstart = 'last'", "finetune.start: expected one of base, previous, got 'last'"),
        (
            "[finetune]\nroles = ['solve', 'judge']",
            "finetune.roles: expected propose, solve or both, got ['solve', 'judge']",
        ),
        (
            "[finetune]\nobjective = 'ppo'",
            "finetune.objective: expected one of none, sft, filtered, spin, dpo, grpo, got 'ppo'",
        ),
        (
            "[finetune]\nobjective = 'spin'\nstart = 'previous'\nroles = ['propose']",
            "finetune.roles: expected solve among them with finetune.objective = 'spin'",
        ),
        (
            "[finetune]\nobjective = 'dpo'\nverified = false",
            "finetune.objective: expected sft with finetune.verified = false (it relies on verdicts), got dpo",
        ),
        (
            "[solve]\ncandidates_per_puzzle = 1\n[finetune]\nobjective = 'grpo'\nstart = 'previous'",
            "solve.candidates_per_puzzle: expected at least 2 with finetune.game = 'learnability', got 1",
        ),
        (
            "[endpoint]\nurls = ['http://x']\nserve = 'x'",
            "endpoint.urls: expected none beside endpoint.serve, which begins servers of its own",
        ),
        (
            "[endpoint]\nurls = ['localhost:80']\n[finetune]\nobjective = 'none'",
            "endpoint.urls: expected http://… or https://…, got 'localhost:80'",
        ),
        (
            "[endpoint]\nurls = ['http://x:99999/v1']\n[finetune]\nobjective = 'none'",
            "endpoint.urls: expected http://… or https://…, got 'http://x:99999/v1'",
        ),
        (
            "[endpoint]\nurls = ['https://me:secret@x/v1']\n[finetune]\nobjective = 'none'",
            "endpoint.urls: expected an address such as http://x/v1 without a name, password or query: "
            "the key is taken from the variable endpoint.key_variable, by default $OPENAI_API_KEY",
        ),
        ("[endpoint]\nproof = 'no'", "endpoint.proof: expected one of ask, skip, got 'no'"),
        (
            "[endpoint.send]\ntop_p = 'temperature'",
            "endpoint.send: expected a name of its own for each parameter, got 'temperature'",
        ),
        (
            "[endpoint.send]\nseed = 'prompt'",
            "endpoint.send: expected a name of its own for each parameter, got 'prompt'",
        ),
        ("[endpoint.send]\nsead = ''", "unknown key 'endpoint.send.sead'; did you mean 'endpoint.send.seed'?"),
        (
            "[budget]\nprice = 3",
            "budget.price: expected endpoint.prompt_price or endpoint.completion_price with it",
        ),
        (
            "[finetune]\nobjective = 'grpo'",
            "finetune.start: expected previous with finetune.objective = 'grpo': it compares with the model that "
            "sampled, which is where the training begins",
        ),
        (
            "[finetune]\nobjective = 'grpo'\nstart = 'previous'\n[collapse]\naction = 'rollback'",
            "collapse.action: expected no rollback with finetune.objective = 'grpo': it learns from the iteration's "
            "own texts, beside the model that sampled them",
        ),
        (
            "[finetune]\nobjective = 'dpo'\nbalance = 'niches'",
            "finetune.balance, collapse.action: only the verified pairs of sft are evened over niches",
        ),
        (
            "[collapse]\naction = 'stop'\n[finetune]\nobjective = 'none'",
            "collapse.action: expected continue with finetune.objective = 'none': nothing is learned",
        ),
        ("[finetune]\nbeta = []", "finetune.beta: expected at least one number, got []"),
        ("[finetune]\nbeta = [0.1, 0.0]", "finetune.beta: expected numbers above 0, got 0.0"),
        ("[finetune]\nclip_ratio = 0.0", "finetune.clip_ratio: expected a number above 0, got 0.0"),
        ("[finetune]\nclip_ratio = 1.5", "finetune.clip_ratio: expected at most 1, got 1.5"),
        ("[finetune]\nmost_fall = -1.0", "finetune.most_fall: expected 0 or more, got -1.0"),
        ("[finetune]\ndtype = 'int8'", "finetune.dtype: expected one of auto, float32, bfloat16, got 'int8'"),
        ("[model]\ndtype = 'fp16'", "model.dtype: expected one of auto, float32, bfloat16, float16, got 'fp16'"),
        (
            "[evaluate]\nsamples_per_puzzle = 10",
            "evaluate.k: pass@100 needs as many samples per puzzle, evaluate.samples_per_puzzle is 10",
        ),
        ("[evaluate]\nk = [0, 1]", "evaluate.k: expected numbers above 0, got 0"),
        ("[evaluate]\nk = [-1]", "evaluate.k: expected numbers above 0, got -1"),
    ],
)
def test_a_value_out_of_range_stops_with_what_was_expected(write, text, expected):
    path = write(text)
    assert message(load, path) == f"{path}: {expected}"


def test_no_k_at_all_is_out_of_range(write):
    assert "run.toml: evaluate.k: " in message(load, write("[evaluate]\nk = []"))


@pytest.mark.parametrize("key", sorted(config_module.MAY_BE_ZERO))
def test_some_settings_may_be_zero(write, key):
    assert flatten(load(write(""), [f"{key}=0"]))[key] == 0


def test_choices_ranges_and_changeable_keys_name_settings_that_exist():
    named = {*config_module.CHOICES, *config_module.MAY_BE_ZERO, *config_module.MAY_CHANGE}
    assert named <= set(flatten(RunConfig()))


def test_a_config_made_in_code_is_checked_too():
    assert "expected 0 or more" in message(lambda: RunConfig(iterations=-3))


def test_betas_are_by_iteration_and_the_last_holds_on():
    config = FinetuneConfig(beta=(0.1, 0.2, 5.0))
    assert [config.beta_of(iteration) for iteration in range(1, 6)] == [0.1, 0.2, 5.0, 5.0, 5.0]


# ---- --set ----


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("iterations=5", "iterations", 5),
        (" iterations = 5", "iterations", 5),
        ("tensorboard=true", "tensorboard", True),
        ("solve.temperature=0.25", "solve.temperature", 0.25),
        ("solve.temperature=1", "solve.temperature", 1.0),
        ("finetune.learning_rate=1e-4", "finetune.learning_rate", 1e-4),
        ("evaluate.k=[1, 3]", "evaluate.k", (1, 3)),
        ('finetune.roles=["solve"]', "finetune.roles", ("solve",)),
        ("prompt.protocol=few-shot", "prompt.protocol", "few-shot"),
        ('prompt.protocol="few-shot"', "prompt.protocol", "few-shot"),
        ("model.path=/tmp/a=b.c", "model.path", "/tmp/a=b.c"),
        ("model.path=org/Model-1.5B", "model.path", "org/Model-1.5B"),
        ("model.path=with space", "model.path", "with space"),
        ("data.train=", "data.train", ""),
    ],
)
def test_an_override_sets_its_key(write, override, key, value):
    changed = {k: v for k, v in flatten(load(write(""), [override])).items() if v != flatten(RunConfig())[k]}
    assert changed == {key: value}


def test_overrides_win_over_the_file_and_the_last_one_over_all(write):
    path = write("iterations = 3\n[solve]\ntemperature = 0.5\ntop_p = 0.5")
    config = load(path, ["solve.temperature=0.6", "solve.temperature=0.7"])
    assert (config.iterations, config.solve.temperature, config.solve.top_p) == (3, 0.7, 0.5)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("iterations", "--set iterations: expected key=value, such as solve.temperature=0.7"),
        ("=3", "--set =3: expected key=value, such as solve.temperature=0.7"),
        ("seed.a=3", "--set seed.a=3: 'seed' is a value, not a table"),
    ],
)
def test_an_override_that_is_none_is_refused(write, override, expected):
    assert message(load, write("seed = 1"), [override]) == expected


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("solve.temprature=3", "unknown key 'solve.temprature'; did you mean 'solve.temperature'?"),
        ("iterations=many", "expected an integer under 'iterations', got 'many'"),
        ("solve=3", "expected a table under 'solve', got 3"),
    ],
)
def test_an_override_is_checked_as_the_file_is(write, override, expected):
    assert message(load, write(""), [override]).endswith(expected)


# ---- writing back ----

CONFIGS = [
    RunConfig(),
    RunConfig(
        iterations=0,
        seed=2**63,
        chunk_texts=1,
        batch_rows=2,
        heldout_every=4,
        keep_checkpoints="best",
        tensorboard=True,
        model=ModelConfig("some/where", "cuda:1", "float16", 3),
        prompt=PromptConfig("chat", 0),
        data=DataConfig("a.jsonl", "b.jsonl", "c.jsonl", False),
        propose=ProposeConfig(
            proposals=0, proposals_per_prompt=1, begun=1.0, temperature=1e-7, top_p=0.1, max_tokens=1
        ),
        solve=SolveConfig(
            candidates_per_puzzle=1,
            further_puzzles=7,
            further_candidates=9,
            training_puzzles="none",
            temperature=123456.75,
            top_p=1e-3,
            max_tokens=2,
        ),
        sandbox=SandboxConfig(0.1, 0.2, 64, 1, 100, 2, "D", ("random", "numpy")),
        finetune=FinetuneConfig(
            "previous", 1, False, True, 0.5, ("solve",), 1e22, 5, 1e-5, 6, 0, 0.0, 1.5, "bfloat16", 7, True, 8, 0.5
        ),
        evaluate=EvaluateConfig(temperature=0.5, top_p=0.5, max_tokens=9, samples_per_puzzle=3, k=(1, 2, 3)),
    ),
    RunConfig(finetune=FinetuneConfig(verified=False)),
    RunConfig(finetune=FinetuneConfig(objective="dpo", beta=(0.5, 1e3), clip_ratio=0.9, most_fall=12.5)),
    RunConfig(model=ModelConfig(path="ünï—文字 🧩")),
    RunConfig(model=ModelConfig(path="quotes \" ' ''' \"\"\" and \\ backslash \\n \\u0041")),
    RunConfig(model=ModelConfig(path="line\nbreak\ttab\r\x00\x1b\x7f\x85\u2028 end")),
    RunConfig(model=ModelConfig(path=""), sandbox=SandboxConfig(modules=("[a]", "b = 1", "#"))),
]


@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_written_and_read_is_the_same(write, config):
    assert load(write(to_toml(config))) == config


@pytest.mark.parametrize(
    "path",
    [path for path in SHIPPED if not path.name.startswith("pretrain") and path not in ABLATIONS],
    ids=lambda path: path.name,
)
def test_a_shipped_config_written_and_read_is_the_same(write, path):
    config = load(path)
    assert load(write(to_toml(config))) == config


def dotted(table, prefix=""):
    for name, value in table.items():
        yield from dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]


def test_what_is_written_names_every_setting():
    written = tomllib.loads(to_toml(RunConfig()))
    assert flatten(build(RunConfig, written, "here")) == flatten(RunConfig())
    assert set(dotted(written)) == set(flatten(RunConfig()))


def test_a_table_inside_a_table_is_written_and_read():
    config = RunConfig(endpoint=EndpointConfig(send=SendConfig(seed="", max_tokens="max_completion_tokens")))
    written = to_toml(config)
    assert '[endpoint.send]\nmax_tokens = "max_completion_tokens"' in written
    assert build(RunConfig, tomllib.loads(written), "here") == config


# ---- comparing ----


def test_a_config_from_before_a_setting_loads_and_does_not_differ(tmp_path):
    written = tomllib.loads(to_toml(RunConfig()))
    del written["endpoint"]["send"], written["endpoint"]["proof"]
    assert differences(build(RunConfig, written, "here"), RunConfig()) == []


def test_a_proof_may_change_between_sessions_and_what_is_sent_may_not():
    assert differences(RunConfig(), RunConfig(endpoint=EndpointConfig(proof="skip"))) == []
    other = RunConfig(endpoint=EndpointConfig(send=SendConfig(seed="")))
    assert differences(RunConfig(), other) == ["endpoint.send.seed ('seed' there, '' here)"]


def test_a_config_does_not_differ_from_itself():
    assert differences(RunConfig(), RunConfig()) == []


def test_differences_name_the_settings_and_both_values():
    other = RunConfig(seed=1, solve=SolveConfig(temperature=0.5))
    assert differences(RunConfig(), other) == [
        "seed (0 there, 1 here)",
        "solve.temperature (0.9 there, 0.5 here)",
    ]


def test_settings_that_may_change_between_sessions_make_no_difference():
    thrifty = FinetuneConfig(micro_batch_tokens=512, checkpointing=True)
    other = RunConfig(iterations=9, keep_checkpoints="best", tensorboard=True, finetune=thrifty)
    assert differences(RunConfig(), other) == []
    assert differences(RunConfig(), RunConfig(finetune=FinetuneConfig(lora_rank=4))) != []


def test_sandbox_settings_become_limits_in_the_sandboxs_units():
    limits = SandboxConfig(cpu_seconds=2.0, wall_seconds=3.0, memory_mb=64, answer_kb=2, recursion_limit=99).limits()
    assert dataclasses.astuple(limits) == (2.0, 3.0, 64 * 1024**2, 2048, 99)


# ---- what is hardly TOML ----


@pytest.mark.parametrize("text", ["seed = 1" + "0" * 5000, "seed = " + "[" * 5000 + "]" * 5000, "seed = \x00"])
def test_a_file_that_tomls_reader_gives_up_on_is_named(write, text):
    path = write(text)
    assert message(load, path).startswith(f"{path}: expected TOML, ")
    assert len(message(load, path)) < 500


def test_a_mark_of_the_byte_order_is_no_part_of_a_file(write):
    assert load(write("\ufeffseed = 3")).seed == 3


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.train=\udcff", r"expected a string of UTF-8 under 'data.train', got '\udcff'"),
        (
            "solve.temperature=" + "9" * 400,
            "expected at most 64 bits under 'solve.temperature', got an integer of many digits",
        ),
        ("seed=18446744073709551616", "expected at most 64 bits under 'seed', got an integer of many digits"),
        ("seed=" + "[" * 5000, "expected an integer under 'seed', got '[[["),
        ("seed=" + "9" * 5000, "expected an integer under 'seed', got '999"),
        ("evaluate.k=[]", "evaluate.k: expected at least one number, got []"),
    ],
)
def test_an_override_that_no_file_could_hold_is_refused_in_a_line_of_few_words(write, override, expected):
    text = message(load, write(""), [override])
    assert expected in text
    assert len(text) < 300


def test_an_unknown_key_of_any_length_is_shown_by_its_beginning(write):
    assert "unknown key 'xxx" in message(load, write("x" * 5000 + " = 1"))
    assert len(message(load, write("x" * 5000 + " = 1"))) < 2000
