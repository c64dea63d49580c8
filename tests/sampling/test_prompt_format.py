"""Templates of prompts as settings: what they may hold, and the prompts that they write, whole."""

import dataclasses
from types import SimpleNamespace

import pytest
from tiny_models import TEMPLATE, make_tokenizer

from puzzles.puzzle import Candidate, InputError, Puzzle
from selfplay.config import PromptConfig
from selfplay.sampling.prompts import (
    OWN,
    PROTOCOLS,
    Prompt,
    PromptFormat,
    chosen_format,
    encode_prompt,
    kept_format,
    prompt_text,
    propose_prompt,
    solve_prompt,
)
from selfplay.sampling.shots import asked_format
from selfplay.settings import load
from selfplay.templates import FIELDS, check_templates

SQUARE = Puzzle(
    "def f(x: int, k={1: 1764}):\n    return x * x == k[1]", "int", "def g(k={1: 1764}):", "id", "s", frozenset()
)
TRIPLE = Puzzle("def f(x: int):\n    return 3 * x == 51", "int", "def g():", "3", "s", frozenset())
THIRD = Candidate("def g():\n    return 17", "c")
PURE = (
    "math, itertools, functools, collections, heapq, bisect, string, re, operator, typing, copy, fractions, statistics"
)


# ---- what a template may hold ----

SOLVE = "expected a text with fields out of {answer_type}, {header}, {modules}, {puzzle}, {shots}"
SOLVE_PLAIN = "expected a text with fields out of {answer_type}, {header}, {modules}, {puzzle}"
WRONG = {
    "unknown": ("auto", {"solve": "{puzle}"}, f"prompt.solve: {SOLVE}, got {{puzle}}; did you mean {{puzzle}}?"),
    "like none": ("auto", {"solve": "{puzzle}{qqq}"}, f"prompt.solve: {SOLVE}, got {{qqq}}"),
    "nameless": ("auto", {"solve": "{puzzle}{}"}, f"prompt.solve: {SOLVE}, got {{}}"),
    "an attribute": (
        "auto", {"solve": "{puzzle.source}"},
        f"prompt.solve: {SOLVE}, got {{puzzle.source}}; did you mean {{puzzle}}?",
    ),
    "missing": (
        "auto", {"solve": "Solve it."},
        f"prompt.solve: {SOLVE}, among them {{puzzle}}, which is missing in 'Solve it.'",
    ),
    "opened": (
        "auto", {"solve": "{puzzle} {"},
        f"prompt.solve: {SOLVE}, got '{{puzzle}} {{': Single '{{' encountered in format string: "
        "double a brace that is text",
    ),
    "closed": (
        "auto", {"system": "}"},
        "prompt.system: expected a text with fields out of {modules}, got '}': "
        "Single '}' encountered in format string: double a brace that is text",
    ),
    "converted": (
        "auto", {"solve": "{puzzle!r}"},
        f"prompt.solve: {SOLVE}, got more than a name in {{puzzle}}; only {{shots:TEXT}} has a text",
    ),
    "a text before another field": (
        "auto", {"solve": "{puzzle:Solve}"},
        f"prompt.solve: {SOLVE}, got more than a name in {{puzzle}}; only {{shots:TEXT}} has a text",
    ),
    "a field in a field": (
        "auto", {"solve": "{puzzle}{shots:{header}}"},
        f"prompt.solve: {SOLVE}, got more than a name in {{shots}}; only {{shots:TEXT}} has a text",
    ),
    "a file": (
        "auto", {"solve": "@solve.txt"},
        f"prompt.solve: {SOLVE}, got '@solve.txt': only the command line names a file, with --set",
    ),
    "plain with shots": ("plain", {"solve": "{shots}{puzzle}{header}"}, f"prompt.solve: {SOLVE_PLAIN}, got {{shots}}"),
    "a chat that begins": (
        "chat", {"propose": "{header}"},
        "prompt.propose: expected a text with fields out of {modules}, {shots}, got {header}",
    ),
    "few-shot without shots": (
        "few-shot", {"solve": "{puzzle}{header}"},
        f"prompt.solve: {SOLVE}, among them {{shots}}, which is missing in '{{puzzle}}{{header}}'",
    ),
    "more behind the header": (
        "plain", {"solve": "{puzzle}{header} "},
        f"prompt.solve: {SOLVE_PLAIN}, and {{header}} as its end with protocol plain, because the model goes on from "
        "there, got '{puzzle}{header} '",
    ),
    "no header": (
        "plain", {"propose": "Write."},
        "prompt.propose: expected a text with fields out of {header}, {modules}, and {header} as its end with protocol "
        "plain, because the model goes on from there, got 'Write.'",
    ),
    "a system without a chat": (
        "few-shot", {"system": "Be brief."},
        "prompt.system: expected none with protocol few-shot: only a chat has turns",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_template_that_cannot_be_filled_is_one_line_in_settings_and_in_a_format(case, tmp_path):
    protocol, given, said = WRONG[case]
    with pytest.raises(InputError) as caught:
        check_templates(protocol, dict.fromkeys(FIELDS, "") | given, False)
    assert str(caught.value) == said
    file = tmp_path / "run.toml"
    ((key, template),) = given.items()
    file.write_text(f"[prompt]\nprotocol = '{protocol}'\n{key} = '{template}'")
    with pytest.raises(InputError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: {said}"
    if protocol != "auto":
        with pytest.raises(InputError) as caught:
            PromptFormat(protocol, **given)
        assert str(caught.value) == said


@pytest.mark.parametrize("protocol", ["plain", "few-shot"])
def test_only_a_chat_has_shots_as_turns(protocol):
    with pytest.raises(InputError, match=f"prompt.shots_as_turns: expected none with protocol {protocol}: only a chat"):
        PromptFormat(protocol, shots_as_turns=True)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_protocols_own_templates_are_allowed_and_are_what_an_empty_one_means(protocol):
    assert PromptFormat(protocol, **OWN[protocol]) == PromptFormat(protocol)


def test_the_command_line_may_name_a_file_and_a_settings_file_may_not(tmp_path):
    (tmp_path / "solve.txt").write_text("Solve\n{puzzle}\n")
    config = load(None, ["prompt.protocol=chat", f"prompt.solve=@{tmp_path / 'solve.txt'}"])
    assert config.prompt.solve == "Solve\n{puzzle}"
    with pytest.raises(InputError, match=r"nosuch\.txt: No such file or directory: expected a text"):
        load(None, ["prompt.system=@nosuch.txt"])
    (tmp_path / "bytes").write_bytes(b"\xff{puzzle}")
    with pytest.raises(InputError, match="bytes: expected a text in UTF-8"):
        load(None, [f"prompt.solve=@{tmp_path / 'bytes'}"])


# ---- the prompts, whole ----


def test_a_chats_shots_are_turns_in_which_each_is_asked_for_like_the_last_one():
    own = PromptFormat("chat", "Import {modules} only.", "", "A {answer_type}:\n{puzzle}\n{{ }} {header}", True)
    shown = "A int:\ndef f(x: int):\n    return 3 * x == 51\n{ } def g():"
    asked = "A int:\ndef f(x: int, k={1: 1764}):\n    return x * x == k[1]\n{ } def g(k={1: 1764}):"
    prompt = solve_prompt(own, SQUARE, [(TRIPLE, THIRD)])
    reply = "```python\ndef g():\n    return 17\n```"
    before = (("system", f"Import {PURE} only."), ("user", shown), ("assistant", reply))
    assert prompt == Prompt(asked, chat=True, header="", before=before)
    assert prompt.turns == (*before, ("user", asked))
    assert (
        prompt.whole == f"[system]\nImport {PURE} only.\n\n[user]\n{shown}\n\n[assistant]\n{reply}\n\n[user]\n{asked}"
    )


def test_proposals_as_turns_are_asked_for_by_the_same_words_each_time():
    own = PromptFormat("chat", propose="A puzzle{shots: unlike these:\n\n}.", shots_as_turns=True)
    assert propose_prompt(own, [TRIPLE, SQUARE]).turns == (
        ("user", "A puzzle."), ("assistant", f"```python\n{TRIPLE.source}\n```"),
        ("user", "A puzzle."), ("assistant", f"```python\n{SQUARE.source}\n```"), ("user", "A puzzle."),
    )  # fmt: skip


def test_the_text_before_shots_is_left_out_where_there_are_none():
    own = PromptFormat("chat", propose="A puzzle{shots: unlike these:\n\n}.", solve="{shots:As here:\n}{puzzle}")
    assert propose_prompt(own).text == "A puzzle."
    assert propose_prompt(own, [TRIPLE]).text == f"A puzzle unlike these:\n\n```python\n{TRIPLE.source}\n```."
    assert solve_prompt(own, TRIPLE).text == TRIPLE.source
    assert solve_prompt(own, SQUARE, [(TRIPLE, THIRD)]).text == (
        f"As here:\n```python\n{TRIPLE.source}\n```\n\n```python\n{THIRD.source}\n```{SQUARE.source}"
    )


def test_a_few_shot_template_may_have_words_around_its_parts():
    own = PromptFormat("few-shot", solve="# {modules}\n{shots}# {answer_type}\n{puzzle}\n{header}", modules=("numpy",))
    assert solve_prompt(own, SQUARE, [(TRIPLE, THIRD)]) == Prompt(
        f"# {PURE}, numpy\n{TRIPLE.source}\n\n{THIRD.source}\n\n\n# int\n{SQUARE.source}\n{SQUARE.header}",
        chat=False, header=SQUARE.header,
    )  # fmt: skip


def test_a_puzzle_may_import_the_pure_modules_only_whatever_solutions_may():
    own = PromptFormat("plain", propose="# {modules}\n{header}", modules=("numpy",))
    assert propose_prompt(own, begun="def f(x") == Prompt(f"# {PURE}\ndef f(x", chat=False, header="def f(x")


@pytest.mark.parametrize(
    ("own", "roles"),
    [
        (PromptFormat("plain"), ()), (PromptFormat("few-shot"), ("propose", "solve")),
        (PromptFormat("chat"), ("propose",)), (PromptFormat("chat", propose="A puzzle."), ()),
        (PromptFormat("chat", solve="{shots}{puzzle}"), ("propose", "solve")),
        (PromptFormat("chat", propose="A puzzle.", shots_as_turns=True), ("propose", "solve")),
    ],
    ids=["plain", "few-shot", "chat", "chat without", "chat with", "turns"],
)  # fmt: skip
def test_shots_are_chosen_for_the_roles_whose_prompts_show_them(own, roles):
    assert [role for role in ("propose", "solve") if own.shows_shots(role)] == [*roles]
    shown = {"propose": propose_prompt(own, [TRIPLE]), "solve": solve_prompt(own, SQUARE, [(TRIPLE, THIRD)])}
    assert [role for role, prompt in shown.items() if "3 * x == 51" in prompt.whole] == [*roles]


# ---- which format is taken, and what is kept of it ----

CUSTOM = PromptFormat("chat", "You write Python.", "A puzzle.", "{puzzle} {modules}", True, ("numpy",))


@pytest.mark.parametrize("own", [*map(PromptFormat, PROTOCOLS), CUSTOM], ids=[*PROTOCOLS, "custom"])
def test_a_format_comes_back_from_what_is_kept_of_it(own):
    assert kept_format({"protocol": own.protocol, "prompt_format": own.to_json()}) == own


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_an_older_version_kept_is_a_protocol_without_turns(protocol):
    assert kept_format({"protocol": protocol}) == PromptFormat(protocol, shots_as_turns=False)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"protocol": "sonnet"}, "protocol: expected plain or few-shot or chat, got 'sonnet'"),
        ({}, "protocol: expected a text, got None"),
        ({"prompt_format": 3}, "prompt_format: expected an object, got 3"),
        ({"prompt_format": CUSTOM.to_json() | {"system": 3}}, "expected a text under 'system', got 3"),
        ({"prompt_format": CUSTOM.to_json() | {"solve": "{x.__class__}"}}, r"prompt\.solve: .*, got \{x\.__class__\}"),
    ],
    ids=["protocol", "nothing", "number", "part", "template"],
)
def test_a_strangers_record_is_checked_before_it_writes_a_prompt(record, said):
    with pytest.raises(InputError, match=said):
        kept_format(record)


@pytest.mark.parametrize(
    "change", [{"system": "x"}, {"propose": "x"}, {"solve": "{puzzle}"}, {"shots_as_turns": False}]
)
def test_the_hash_is_another_for_each_other_part(change):
    assert dataclasses.replace(CUSTOM, **change).hash != CUSTOM.hash == dataclasses.replace(CUSTOM).hash


TRAINED = {"protocol": "chat", "prompt_format": CUSTOM.to_json()}
CHOICES = {
    "nothing is known": (PromptConfig(), {}, PromptFormat("few-shot")),
    "trained here": (PromptConfig(), TRAINED, CUSTOM),
    "trained by an older version": (PromptConfig(), {"protocol": "chat"}, PromptFormat("chat")),
    "a template is set": (
        PromptConfig(solve="{puzzle}"), TRAINED, dataclasses.replace(CUSTOM, solve="{puzzle}"),
    ),
    "turns are off": (
        PromptConfig(shots_as_turns="no"), TRAINED, dataclasses.replace(CUSTOM, shots_as_turns=False),
    ),
    "another protocol": (PromptConfig("plain"), TRAINED, PromptFormat("plain")),
    "the same protocol": (PromptConfig("chat"), TRAINED, PromptFormat("chat", shots_as_turns=True)),
    "the same protocol without turns": (PromptConfig("chat", shots_as_turns="no"), TRAINED, PromptFormat("chat")),
}  # fmt: skip


@pytest.mark.parametrize("case", CHOICES)
def test_settings_go_before_what_a_checkpoint_was_saved_with_and_a_set_protocol_before_all_of_it(case):
    config, notes, chosen = CHOICES[case]
    assert chosen_format(config, (), notes) == chosen


def test_modules_are_kept_where_a_template_names_them():
    assert chosen_format(PromptConfig("chat"), ("numpy",), {}).modules == ()
    assert chosen_format(PromptConfig("chat", system="{modules}"), ("numpy",), {}).modules == ("numpy",)


@pytest.mark.parametrize(
    ("protocol", "template", "notes", "chosen", "why"),
    [
        ("auto", TEMPLATE, {}, PromptFormat("chat", shots_as_turns=True), "the model has a chat template"),
        ("auto", None, {}, PromptFormat("few-shot"), "default"),
        ("auto", TEMPLATE, TRAINED, CUSTOM, "saved with the checkpoint"),
        ("auto", TEMPLATE, {"protocol": "plain"}, PromptFormat("plain"), "saved with the checkpoint"),
        ("plain", TEMPLATE, TRAINED, PromptFormat("plain"), "option"),
    ],
    ids=["chats", "does not", "trained", "trained before", "option"],
)
def test_a_model_is_asked_in_a_chat_if_it_can_and_was_not_trained_here(protocol, template, notes, chosen, why):
    model = SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template), notes=notes)
    assert asked_format(PromptConfig(protocol), model) == (chosen, why)


def test_an_unknown_protocol_is_told_with_the_known_ones():
    with pytest.raises(InputError, match=r"^prompt\.protocol: expected one of plain, few-shot, chat, got 'sonnet'$"):
        solve_prompt("sonnet", TRIPLE)


# ---- what a model reads ----

NO_SYSTEM = "{% for m in messages if m.role == 'system' %}{{ raise_exception('no system') }}{% endfor %}" + TEMPLATE
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE
)
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('a system first') }}{% endif %}" + TEMPLATE
DROPS_SYSTEM = TEMPLATE.replace("in messages", "in messages if message.role != 'system'")
PARTS = "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p['text'] }}{% endfor %}{% endfor %}"
CHAT = (("system", "You write."), ("user", "a"), ("assistant", "b"), ("user", "c"))
JOINED = (("user", "You write.\n\na"), ("assistant", "b"), ("user", "c"))


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("qwen2")


@pytest.mark.parametrize(
    ("template", "turns"),
    [(TEMPLATE, CHAT), (NEEDS_SYSTEM, CHAT), (NO_SYSTEM, JOINED), (ALTERNATING, JOINED), (DROPS_SYSTEM, JOINED)],
    ids=["usual", "needs one", "refuses one", "alternating", "drops one"],
)
def test_the_system_turn_goes_before_the_first_message_where_a_template_has_none(tokenizer, template, turns):
    tokenizer.chat_template = template
    prompt = Prompt("c", chat=True, header="", before=CHAT[:-1])
    messages = [{"role": role, "content": text} for role, text in turns]
    asked = {"tokenize": False, "add_generation_prompt": True}
    written = tokenizer.apply_chat_template(messages, **asked)
    assert prompt_text(tokenizer, prompt) == written
    assert encode_prompt(tokenizer, prompt) == tokenizer.encode(written, add_special_tokens=False)


def test_a_template_that_needs_a_system_turn_is_one_line_that_names_the_setting(tokenizer):
    tokenizer.chat_template = NEEDS_SYSTEM
    with pytest.raises(InputError) as caught:
        prompt_text(tokenizer, Prompt("c", chat=True, header=""))
    assert str(caught.value) == (
        "protocol chat: this model's chat template fails: a system first: give prompt.system, or choose plain or "
        "few-shot"
    )


def test_turns_are_parts_where_a_template_wants_parts(tokenizer):
    tokenizer.chat_template = PARTS
    prompt = Prompt("c", chat=True, header="", before=CHAT[:-1])
    assert prompt_text(tokenizer, prompt) == "<system>You write.<user>a<assistant>b<user>c"


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_a_template_that_drops_a_shot_is_refused(tokenizer, role):
    kept = f"in messages if message == messages[-1] or message.role != '{role}'"
    tokenizer.chat_template = TEMPLATE.replace("in messages", kept)
    prompt = Prompt("c", chat=True, header="", before=(("user", "first"), ("assistant", "second")))
    with pytest.raises(InputError, match="drops our message: choose plain or few-shot"):
        prompt_text(tokenizer, prompt)


def test_names_of_control_tokens_in_any_turn_are_text(tokenizer):
    tokenizer.chat_template = TEMPLATE
    name = tokenizer.eos_token
    plain = Prompt("c x", chat=True, header="", before=(("system", "s x"), ("user", "a x"), ("assistant", "b x")))
    named = Prompt(
        f"c {name}", chat=True, header="",
        before=(("system", f"s {name}"), ("user", f"a {name}"), ("assistant", f"b {name}")),
    )  # fmt: skip
    ends = [encode_prompt(tokenizer, prompt).count(tokenizer.eos_token_id) for prompt in (plain, named)]
    assert ends[0] == ends[1]


def test_a_prompt_that_is_no_chat_is_read_as_it_is(tokenizer):
    assert prompt_text(tokenizer, Prompt("def f(", chat=False, header="def f(")) == "def f("
