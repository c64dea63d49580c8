"""A chat as a model's own template writes it, whatever the template does."""

import time
from datetime import datetime

import pytest
from tiny_models import TEMPLATE, make_tokenizer

from puzzles.puzzle import InputError
from selfplay.sampling.chat import CHAT_TIME, chat_text, clock_of
from selfplay.sampling.prompts import Prompt, encode_prompt

USER = "{% for message in messages %}<|user|>{{ message.content }}<|end|>{% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("qwen2")


@pytest.fixture
def written(tokenizer):
    """What a template makes of a message."""

    def write(template, content="Hello", *reply):
        tokenizer.chat_template = template
        return chat_text(tokenizer, [("user", content), *(("assistant", text) for text in reply)])

    return write


def test_a_usual_template_writes_what_the_library_writes(written, tokenizer):
    messages = [{"role": "user", "content": "Hello"}]
    assert written(TEMPLATE) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    messages.append({"role": "assistant", "content": "Yes."})
    assert written(TEMPLATE, "Hello", "Yes.") == tokenizer.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages[0].role != 'user' %}{{ raise_exception('a user comes first') }}{% endif %}" + TEMPLATE,
        "{% for m in messages if m.role == 'system' %}{{ raise_exception('no system') }}{% endfor %}" + TEMPLATE,
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}" + TEMPLATE,
    ],
    ids=["user first", "no system", "alternating"],
)
def test_a_template_that_is_strict_about_roles_takes_our_chats(written, template):
    assert written(template) == written(TEMPLATE)
    assert written(template, "Hello", "Yes.") == written(TEMPLATE, "Hello", "Yes.")


def test_a_template_that_wants_parts_gets_parts(written):
    template = "{% for m in messages %}{% for p in m.content %}<|user|>{{ p['text'] }}{% endfor %}{% endfor %}"
    assert written(template) == "<|user|>Hello"


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('tools are needed') }}", "tools are needed"),
        ("{% if not tools %}{{ raise_exception('one\\n\\ntwo') }}{% endif %}" + USER, "one"),
        ("{{ raise_exception('') }}", "TemplateError"),
        ("{{ 1 // 0 }}" + USER, "integer division or modulo by zero"),
        ("{{ messages[7].content }}", "has no element 7"),
        ("{{ nothing.at.all }}", "is undefined"),
        ("{{ ''.__class__.__mro__ }}" + USER, "unsafe"),
    ],
)
def test_a_template_that_fails_is_one_line_with_a_way_out(written, template, said):
    with pytest.raises(InputError) as error:
        written(template)
    assert str(error.value).startswith("protocol chat: this model's chat template fails: ")
    assert str(error.value).endswith(": choose plain or few-shot")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m", "{{ m | nofilter }}", "{% endfor %}", "{% if %}"])
def test_a_template_that_does_not_compile_is_one_line(written, template):
    with pytest.raises(InputError, match=r"chat template fails: [^\n]+: choose plain or few-shot$"):
        written(template)


@pytest.mark.parametrize("template", ["Hi", USER.replace("message.content", "message.role"), "{{ messages | length }}"])
def test_a_template_that_drops_the_message_is_one_line(written, template):
    with pytest.raises(InputError, match="drops our message: choose plain or few-shot"):
        written(template)


def test_a_template_that_writes_another_text_each_time_is_one_line(written):
    with pytest.raises(InputError, match="writes another text each time"):
        written("{{ range(10 ** 5) | random }}" + USER)


def test_a_template_that_trims_the_message_is_no_fault(written):
    assert written(USER.replace("message.content", "message.content | trim"), "  Hello\n") == "<|user|>Hello<|end|>"


# ---- the clock ----


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}", "2026-01-01 12:00:00"),
        ("{{ strftime_now('%d %b %Y') }}", "01 Jan 2026"),
        ("{{ strftime_now('%A, %B %-d at %-I %p') }}", "Thursday, January 1 at 12 PM"),
        ("{{ strftime_now(format='100%% %F %T') }}", "100% 2026-01-01 12:00:00"),
        ("{{ strftime_now('%s') }}", "1767268800"),
        ("{{ strftime_now('%f %j %Z') }}", "000000 001 UTC"),
        ("{{ strftime_now('50%') }}", "50%"),
        ("{{ strftime_now('%Y')|int + 1 }}", "2027"),
        ("{% if strftime_now is defined %}{% set day = strftime_now('%d') %}{% endif %}{{ day }}", "01"),
        ("{% macro today() %}[{{ strftime_now('%y') }}]{% endmacro %}{{ today() }}", "[26]"),
        ("{{ 'morning' if strftime_now('%H')|int < 12 else 'day' }}", "day"),
        ("\n  {% if true %}{{ strftime_now('%m') }}{% endif %}", "\n01"),
    ],
)
def test_the_clock_of_a_template_stands_still(written, template, expected):
    assert written(template + USER) == expected + "<|user|>Hello<|end|>"


@pytest.mark.parametrize("sign", "aAbBcdDeFfgGHhIjklmMnpPrRStTuUVwWxXyYzZ")
def test_every_sign_is_that_of_pythons_clock(written, sign):
    assert written(f"{{{{ strftime_now('[%{sign}]') }}}}{USER}").partition("]")[0] == CHAT_TIME.strftime(f"[%{sign}")


def test_the_time_zone_and_the_time_of_this_machine_do_not_matter(written, tokenizer, monkeypatch):
    template = "{{ strftime_now('%c %s %z') }}" + USER
    before = written(template)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", datetime(1999, 1, 1))
    assert written(template + "{# again #}") == before
    monkeypatch.undo()
    time.tzset()


def test_the_time_is_told_for_templates_that_read_the_clock_alone(tokenizer):
    tokenizer.chat_template = TEMPLATE
    assert clock_of(tokenizer) is None
    tokenizer.chat_template = "{{ strftime_now('%Y') }}" + TEMPLATE
    assert clock_of(tokenizer) == "2026-01-01T12:00:00+00:00"
    tokenizer.chat_template = None
    assert clock_of(tokenizer) is None


def test_a_template_is_chosen_out_of_several(tokenizer):
    tokenizer.chat_template = {"default": TEMPLATE, "tool_use": "{{ raise_exception('tools') }}"}
    several = encode_prompt(tokenizer, Prompt("Hello", True, ""))
    tokenizer.chat_template = TEMPLATE
    assert several == encode_prompt(tokenizer, Prompt("Hello", True, ""))
