import dataclasses
import itertools
import json
import random
import re

import pytest
import torch
from safetensors.torch import load_file

from puzzles.guard import Guard
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import InputError
from puzzles.rules import families
from puzzles.verify import truth_pool
from selfplay.config import FinetuneConfig, ModelConfig, RunConfig
from selfplay.iteration.guarding import guarded_sets
from selfplay.sampling.cost import without_times
from selfplay.sampling.model import LanguageModel
from selfplay.sampling.prompts import (
    PROPOSAL_HEADER,
    encode_completion,
    encode_prompt,
    propose_completion,
    propose_prompt,
    solve_completion,
    solve_prompt,
)
from selfplay.sampling.sampler import SamplingSettings
from selfplay.settings import embedded_file
from selfplay.training import pretrain as pretrain_module
from selfplay.training.pretrain import (
    END,
    MuonAndAdamW,
    PretrainConfig,
    card,
    check_families,
    load_pretrain_config,
    make_network,
    make_tokenizer,
    pair_text,
    pretrain,
    rules_hash,
    training_steps,
)

SMALL = PretrainConfig(
    vocabulary=320, layers=1, width=16, heads=2, feedforward=32, context_tokens=256, tokenizer_pairs=300, steps=3,
    batch_tokens=1024, warmup_steps=2, threads=1, families=("linear_equation", "letter_count"),
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_buckets():
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_module, "BUCKET_PAIRS", 100)
        patch.setattr(pretrain_module, "CHECKED_PER_FAMILY", 15)
        yield


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(dataclasses.replace(SMALL, families=()))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model of three steps, and what was told on the way."""
    folder = tmp_path_factory.mktemp("pretrained") / "model"
    seen: list[tuple[int, float]] = []
    stats = pretrain(SMALL, folder, lambda pool: Guard(), lambda tokens, loss, rate: seen.append((tokens, loss)))
    return folder, stats, seen


# ---- the whole ----


@pytest.mark.slow
def test_a_model_is_made_again_to_the_bit(made, tmp_path):
    folder, stats, _ = made
    torch.manual_seed(99)  # what came before does not matter
    again = pretrain(SMALL, tmp_path / "again", lambda pool: Guard())
    assert without_times(vars(again)) == without_times(vars(stats))
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.slow
def test_another_seed_makes_another_model(made, tmp_path):
    pretrain(dataclasses.replace(SMALL, seed=1), tmp_path / "other", lambda pool: Guard())
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (made[0] / "model.safetensors").read_bytes()


def test_a_model_that_was_made_loads_and_samples_and_says_what_it_was_made_of(made):
    folder, stats, seen = made
    model = LanguageModel(folder, ModelConfig(device="cpu", threads=1))
    assert model.context_tokens == SMALL.context_tokens
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert model.notes["protocol"] == "plain"
    assert model.notes["config"] == json.loads(json.dumps(dataclasses.asdict(SMALL)))
    assert model.notes["parameters"] == sum(weight.numel() for weight in model.network.parameters())
    assert model.notes["training"] == dataclasses.asdict(stats)
    assert stats.steps == len(seen) == 3
    assert stats.tokens == sum(tokens for tokens, _ in seen) <= 3 * SMALL.batch_tokens
    (row,) = model.sample([propose_prompt("plain")], 4, SamplingSettings(1.0, 1.0, 10, 4), [1]).completions_P_K
    assert len(row) == 4


def test_its_card_says_what_it_was_made_of(made):
    folder, stats, _ = made
    notes = json.loads((folder / "selfplay.json").read_text("utf-8"))
    notes["training"] = {**notes["training"], "last_loss": 1.25, "seconds": 90.0}
    _, _, table = card(notes).partition("| --- | --- |\n")
    assert table.partition("\n\n")[0] == "\n".join([
        f"| parameters | {notes['parameters']:,}, kept in bfloat16 |",
        "| shape | Llama, 1 layers, width 16, 2 heads, 256 tokens of context |",
        "| tokenizer | byte-level BPE of 320; numbers and quoted text are single characters |",
        "| data | rule-based pairs of puzzles.rules: linear_equation, letter_count; those near a dev or held-out "
        "puzzle are left out |",
        f"| training | 3 steps, {stats.sequences} pairs, {stats.tokens:,} tokens |",
        "| last loss | 1.250 per learned token |",
        "| time | 2 minutes on a CPU, 1 threads |",
        "| seed | 0 |",
        f"| rules | hash `{notes['rules']}` of what is left of the first 2,000 pairs |",
    ])  # fmt: skip
    assert "# A small model of programming puzzles" in (folder / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_the_shipped_model_is_of_the_shipped_settings_and_of_the_rules_as_they_are():
    notes = json.loads((embedded_file("model") / "selfplay.json").read_text("utf-8"))
    config = load_pretrain_config(embedded_file("pretrain.toml"))
    assert notes["config"] == json.loads(json.dumps(dataclasses.asdict(config)))
    with truth_pool() as pool:
        sets = guarded_sets(pool, RunConfig())
    guard = Guard.of((item.name, item.puzzle) for items in sets.values() for item in items)
    assert notes["rules"] == rules_hash(config, guard)
    assert (embedded_file("model") / "README.md").read_text("utf-8").endswith(card(notes))
    size = sum(file.stat().st_size for file in embedded_file("model").iterdir())
    assert (notes["parameters"] <= 5_000_000, size <= 12_000_000) == (True, True)


@pytest.mark.slow
def test_the_loss_begins_at_chance_and_falls(tmp_path):
    config = dataclasses.replace(SMALL, steps=30, learning_rate=2e-2)
    stats = pretrain(config, tmp_path / "model", lambda pool: Guard())
    assert 5 < stats.first_loss < 6.5  # ln 320 is 5.8
    assert stats.last_loss < 0.8 * stats.first_loss


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, when it compiles
def test_a_minute_of_the_shipped_model_learns_and_repeats_itself(tmp_path):
    config = load_pretrain_config(embedded_file("pretrain.toml"), {"steps": 40, "threads": 2})
    one, two = (pretrain(config, tmp_path / name, lambda pool: Guard()) for name in ("one", "two"))
    assert one.last_loss == two.last_loss < 0.6 * one.first_loss
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


# ---- the tokenizer ----

UNICODE = "naïve 🙂 Ωmega \u2028 日本語 \x00\x7f \r\n\t\v e\u0301 \U0010ffff"
ODD_TEXTS = [
    "", " ", "\n", "   \n\n   \n", "x" * 300, UNICODE, "a  b", " a", "a ", "def f(x):\n\treturn 1", "don't . , !",
    "<|END|> < | end | >", "0123456789 3.14e-10 x1y2",
]  # fmt: skip


@pytest.mark.parametrize("text", ODD_TEXTS)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_random_unicode_survives_the_tokenizer(tokenizer):
    rng = random.Random(0)
    for _ in range(300):
        points = [
            rng.choice((rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))) for _ in range(20)
        ]
        text = "".join(map(chr, points))
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_digits_are_tokens_of_their_own(tokenizer):
    shown = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    assert [text for text in shown if re.search(r"\d", text) and len(text) > 1] == []
    ids = tokenizer.encode("x == 90210", add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in ids[-5:]] == list("90210")


def test_a_line_break_and_its_indentation_are_one_token(tokenizer):
    ids = tokenizer.encode("def f(x: int):\n    return x", add_special_tokens=False)
    assert "\n    " in [tokenizer.decode([token]) for token in ids]


def test_the_tokenizer_has_the_size_asked_for_and_one_special_token(tokenizer):
    assert len(tokenizer) == SMALL.vocabulary
    assert tokenizer.all_special_tokens == [END]
    assert tokenizer.eos_token == tokenizer.pad_token == END


def test_a_tokenizer_that_was_saved_and_loaded_splits_texts_as_before(made):
    loaded = LanguageModel(made[0], ModelConfig(device="cpu", threads=1)).tokenizer
    fresh = make_tokenizer(SMALL)
    for text in [*ODD_TEXTS, *(pair_text(pair) for pair in families.generate(5, 40))]:
        ids = fresh.encode(text, add_special_tokens=False)
        assert loaded.encode(text, add_special_tokens=False) == ids
        assert loaded.decode(ids, clean_up_tokenization_spaces=False) == text


# ---- what it learns from ----


def test_a_pair_is_read_as_prompt_and_completion_are_in_use(pool, tokenizer):
    pairs = list(families.generate(11, 120))
    puzzles = parse_puzzles(pool, [Text(pair.puzzle) for pair in pairs])
    solutions = parse_candidates(pool, [Text(pair.solution) for pair in pairs])
    for pair, puzzle, solution in zip(pairs, puzzles, solutions, strict=True):
        assert puzzle.source == pair.puzzle
        ids = [*tokenizer.encode(pair_text(pair), add_special_tokens=False), tokenizer.eos_token_id]
        prompt, completion = solve_prompt("plain", puzzle), solve_completion("plain", puzzle, solution)
        assert completion is not None
        assert encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion) == ids
        if puzzle.source.startswith(PROPOSAL_HEADER):
            proposal = encode_prompt(tokenizer, propose_prompt("plain"))
            proposal += encode_completion(tokenizer, propose_completion("plain", puzzle))[:-2]
            assert ids[: len(proposal)] == proposal


def test_of_a_share_of_pairs_the_solution_alone_is_learned(tokenizer):
    config = dataclasses.replace(SMALL, solve_only=0.6)
    shown = [one for batch in itertools.islice(training_steps(config, tokenizer, Guard()), 20) for one in batch]
    solutions_only = [one for one in shown if not one.loss_mask_T[0]]
    assert 0.5 < len(solutions_only) / len(shown) < 0.7
    for one in shown:
        begin = one.loss_mask_T.index(True)
        assert all(one.loss_mask_T[begin:])
        before, learned = (tokenizer.decode(ids) for ids in (one.input_ids_T[:begin], one.input_ids_T[begin:]))
        assert re.fullmatch(r"(?s)|.*def f\(.*\n\ndef g\(.*\):", before)
        assert learned.startswith("\n    " if before else "def ")


def test_batches_are_bounded_and_the_seeds(tokenizer):
    first = list(itertools.islice(training_steps(SMALL, tokenizer, Guard()), 12))
    for batch in first:
        assert max(len(one.input_ids_T) for one in batch) * len(batch) <= SMALL.batch_tokens
        for one in batch:
            assert one.input_ids_T[-1] == tokenizer.eos_token_id
            assert tokenizer.decode(one.input_ids_T).startswith("def ")
    assert list(itertools.islice(training_steps(SMALL, tokenizer, Guard()), 12)) == first
    assert next(training_steps(dataclasses.replace(SMALL, seed=1), tokenizer, Guard())) != first[0]


def test_pairs_are_new_in_each_bucket(tokenizer):
    texts = [
        one.input_ids_T for batch in itertools.islice(training_steps(SMALL, tokenizer, Guard()), 20) for one in batch
    ]  # fmt: skip
    assert len(texts) > 150
    assert len(set(texts)) > 0.95 * len(texts)


def test_a_pair_near_a_guarded_puzzle_is_left_out(pool, tokenizer):
    def shown(guard):
        batches = itertools.islice(training_steps(SMALL, tokenizer, guard), 30)
        return {tokenizer.decode(one.input_ids_T).rpartition("\n\n")[0] for batch in batches for one in batch}

    asked = next(text for text in sorted(shown(Guard())) if len(text) > 60)
    (puzzle,) = parse_puzzles(pool, [Text(asked)])
    guard = Guard.of([("heldout/secret", puzzle)])
    left = parse_puzzles(pool, [Text(text) for text in sorted(shown(guard))])
    assert len(left) > 100
    assert puzzle.skeleton not in {other.skeleton for other in left}


@pytest.mark.parametrize("text", ["'kobamu'[x] == 'a'", "s.replace('len', 'sum') == 'sum of'"])
def test_what_stands_in_quotes_is_read_letter_by_letter(tokenizer, text):
    tokens = [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]
    inside = [part for place, part in enumerate(text.split("'")) if place % 2]
    for letter in "".join(inside):
        assert letter in tokens or not letter.isalpha()
    assert not any(token in tokens for token in ("kobamu", "len", "sum", " of", "of"))


def test_muon_changes_the_matrices_inside_and_adamw_the_rest(tokenizer):
    network = make_network(SMALL, tokenizer)
    optimizer = MuonAndAdamW(network, FinetuneConfig(learning_rate=1e-2), torch.device("cpu"))
    muon, adamw = (
        {id(p) for group in each.param_groups for p in group["params"]} for each in optimizer._both
    )  # fmt: skip
    named = dict(network.named_parameters())
    assert {name for name, p in named.items() if id(p) in adamw} == {
        name for name in named if "norm" in name or "embed" in name
    }
    assert muon | adamw == {id(p) for p in named.values()}
    assert not muon & adamw
    before = {name: p.detach().clone() for name, p in named.items()}
    network(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert [name for name, p in named.items() if torch.equal(p, before[name])] == []
    assert all(p.grad is None for p in named.values())


def test_random_weights_are_the_seeds(tokenizer):
    one, two, other = (
        make_network(dataclasses.replace(SMALL, seed=seed), tokenizer).state_dict() for seed in (0, 0, 1)
    )  # fmt: skip
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


# ---- what is refused ----


@pytest.mark.parametrize("family", SMALL.families)
def test_a_family_that_imitates_a_guarded_puzzle_is_refused(pool, family, tmp_path):
    def guard(pool):
        (puzzle,) = parse_puzzles(pool, [Text(next(families.generate(123, 1, [family])).puzzle)])
        return Guard.of([("heldout/secret", puzzle)])

    with pytest.raises(InputError, match=f"family {family} imitates a guarded puzzle: .*heldout/secret"):
        pretrain(SMALL, tmp_path / "model", guard)
    assert not list(tmp_path.iterdir())


def test_a_composed_family_may_meet_a_guarded_puzzle_now_and_then_but_not_often(pool, monkeypatch):
    near, far = "def f(x: int):\n    return x * {} == {}", "def f(x: int):\n    return x + {} == {} and x < 5000"
    (puzzle,) = parse_puzzles(pool, [Text(near.format(3, 51))])
    guard = Guard.of([("heldout/secret", puzzle)])
    monkeypatch.setitem(families.FAMILIES, "composed_odd", None)
    monkeypatch.setattr(families, "COMPOSED", {"composed_odd"})
    config = dataclasses.replace(SMALL, families=("composed_odd",))

    def family(share):
        def drawn(rng):
            a, b = rng.randint(200, 900), rng.randint(200, 900)
            shape, right = (near, a * b) if rng.random() < share else (far, a + b)
            return shape.format(a, right), f"def g():\n    return {b}"

        return drawn

    families.FAMILIES["composed_odd"] = family(0.02)
    check_families(config, pool, guard)
    families.FAMILIES["composed_odd"] = family(0.5)
    with pytest.raises(InputError, match=r"family composed_odd imitates a guarded puzzle: .*heldout/secret"):
        check_families(config, pool, guard)


def test_families_far_from_the_guarded_puzzles_pass(pool):
    (puzzle,) = parse_puzzles(pool, [Text("def f(t: Tuple[int, int]):\n    return t[0] ** 3 - t[1] ** 2 == 4")])
    check_families(SMALL, pool, Guard.of([("heldout/far", puzzle)]))


NOT_ACCEPTED = "expected an accepted pair, got"


@pytest.mark.parametrize(
    ("puzzle", "solution", "expected"),
    [
        ("def f(x: int):\n    return x == 500", "def g():\n    return 501", f"{NOT_ACCEPTED} wrong_answer"),
        ("def f(x: int):\n    return x == 500", "def g():\n    return (", f"{NOT_ACCEPTED} invalid_solution"),
        ("def f(x):\n    return x == 500", "def g():\n    return 500", f"{NOT_ACCEPTED} invalid_puzzle no_annotation"),
        ("def f(x: int):\n    return x > 5", "def g():\n    return 7", r"not admitted \(trivial"),
    ],
)
def test_a_family_that_is_wrong_or_not_fit_for_training_is_refused(pool, monkeypatch, puzzle, solution, expected):
    monkeypatch.setattr(families, "SEARCH_SHARE", 0)  # what is no pair cannot be searched for
    monkeypatch.setitem(families.FAMILIES, "bad", lambda rng: (f"{puzzle} and {rng.random()} < 1", solution))
    config = dataclasses.replace(SMALL, families=("linear_equation", "bad"))
    with pytest.raises(InputError, match=rf"family bad: {expected}"):
        check_families(config, pool, Guard())


def test_without_a_compiler_what_is_to_be_compiled_is_refused_at_start(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"compile = true: found no C\+\+ compiler \(g\+\+ or clang\+\+\)"):
        pretrain(dataclasses.replace(SMALL, compile=True), tmp_path / "model", lambda pool: Guard())


# ---- settings ----


def test_the_shipped_settings_load():
    config = load_pretrain_config(embedded_file("pretrain.toml"))
    assert config.families == ()
    assert config.steps > 100


def test_settings_are_read_and_overridden(tmp_path):
    (tmp_path / "own.toml").write_text('steps = 7\nfamilies = ["digit_sum"]\n')
    config = load_pretrain_config(tmp_path / "own.toml", {"seed": 5})
    assert (config.steps, config.families, config.seed) == (7, ("digit_sum",), 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stepps = 7", "unknown key 'stepps'"),
        ("steps = 'many'", "expected an integer under 'steps'"),
        ('families = ["linear_equation", "alchemy"]', "unknown families alchemy"),
        ("steps = ", "expected TOML, "),
        (None, "No such file or directory: expected a TOML file"),
    ],
)
def test_settings_that_are_wrong_are_named(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "own.toml").write_text(text)
    with pytest.raises(InputError, match=rf"own\.toml: {expected}"):
        load_pretrain_config(tmp_path / "own.toml")
