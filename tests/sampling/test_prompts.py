import pytest

from puzzles.archive.formats import read_puzzles
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle
from puzzles.verify import verify
from selfplay.sampling.prompts import (
    PROTOCOLS,
    Prompt,
    encode_completion,
    encode_prompt,
    encode_sampled,
    met_a_line,
    own_part,
    propose_completion,
    propose_prompt,
    solve_completion,
    solve_prompt,
    was_cut,
)

SPOKEN = ("plain", "few-shot")


def made(source: str, header: str = "def g():") -> Puzzle:
    return Puzzle(source, "int", header, "id", "skeleton", frozenset())


def solution(source: str) -> Candidate:
    return Candidate(source, "id")


SQUARE = made("def f(x: int, k=1764):\n    return x * x == k and x > 0", "def g(k=1764):")
ROOT = solution("def g(k=1764):\n    return int(k ** 0.5)")
TRIPLE = made("def f(x: int):\n    return 3 * x == 51")
THIRD = solution("def g():\n    return 17")
LETTERS = made("def f(s: str):\n    return s.count('a') == 4 and len(s) == 9")
AS = solution("def g():\n    return 'a' * 4 + 'b' * 5")


@pytest.fixture(scope="module")
def train(pool):
    raws = read_puzzles("train")
    puzzles = parse_puzzles(pool, [Text(raw.puzzle) for raw in raws])
    texts = [
        Text(raw.solutions[0], rename={puzzle.original_name: "f"}) for raw, puzzle in zip(raws, puzzles, strict=True)
    ]
    return list(zip(puzzles, parse_candidates(pool, texts), strict=True))


# ---- prompts, whole ----


def test_a_plain_solve_prompt_is_the_puzzle_and_the_header_of_its_solution():
    assert solve_prompt("plain", SQUARE) == Prompt(
        """def f(x: int, k=1764):
    return x * x == k and x > 0

def g(k=1764):""",
        chat=False,
        header="def g(k=1764):",
    )


def test_a_plain_prompt_shows_no_pairs():
    assert solve_prompt("plain", SQUARE, [(TRIPLE, THIRD)]) == solve_prompt("plain", SQUARE)
    assert propose_prompt("plain", [TRIPLE]) == propose_prompt("plain")


def test_a_few_shot_solve_prompt_shows_solved_pairs_first():
    assert solve_prompt("few-shot", SQUARE, [(TRIPLE, THIRD), (LETTERS, AS)]) == Prompt(
        """def f(x: int):
    return 3 * x == 51

def g():
    return 17


def f(s: str):
    return s.count('a') == 4 and len(s) == 9

def g():
    return 'a' * 4 + 'b' * 5


def f(x: int, k=1764):
    return x * x == k and x > 0

def g(k=1764):""",
        chat=False,
        header="def g(k=1764):",
    )


def test_a_few_shot_prompt_without_pairs_is_a_plain_one():
    assert solve_prompt("few-shot", SQUARE) == solve_prompt("plain", SQUARE)
    assert propose_prompt("few-shot") == propose_prompt("plain")


def test_a_chat_solve_prompt_is_the_request_and_the_puzzle_as_code():
    expected = Prompt(
        """Here is a Python function f. Write a Python function g, callable without arguments, that returns a value \
for which f(g()) is True. Reply with one Python code block that defines g and nothing else.

```python
def f(x: int, k=1764):
    return x * x == k and x > 0
```""",
        chat=True,
        header="",
    )
    assert solve_prompt("chat", SQUARE) == solve_prompt("chat", SQUARE, [(TRIPLE, THIRD)]) == expected


def test_a_plain_propose_prompt_is_the_beginning_of_a_puzzle():
    assert propose_prompt("plain") == Prompt("def f(", chat=False, header="def f(")


def test_a_begun_proposal_goes_on_from_its_beginning_and_is_parsed_with_it(pool):
    begun = "def f(x: int):\n    return x *"
    prompt = propose_prompt("plain", begun=begun)
    assert (prompt.text, prompt.header, prompt.chat) == (begun, begun, False)
    (puzzle,) = parse_puzzles(pool, [prompt.parsed_text(" 3 == 51\n\ndef g():\n    return 17")])
    assert puzzle.source == "def f(x: int):\n    return x * 3 == 51"


def test_a_few_shot_propose_prompt_shows_puzzles_first():
    assert propose_prompt("few-shot", [TRIPLE, LETTERS]) == Prompt(
        """def f(x: int):
    return 3 * x == 51


def f(s: str):
    return s.count('a') == 4 and len(s) == 9


def f(""",
        chat=False,
        header="def f(",
    )


CHAT_PROPOSAL = """Write a new programming puzzle: a Python function f that takes one answer, annotated with its type \
(int, float, str, List, Set, Dict, Tuple), and returns True only for right answers, which are hard to find and quick \
to check. Further parameters need defaults. No randomness, files or network. Reply with one Python code block that \
defines f and nothing else."""


def test_a_chat_propose_prompt_is_the_request():
    assert propose_prompt("chat") == Prompt(CHAT_PROPOSAL, chat=True, header="")


def test_a_chat_propose_prompt_asks_for_something_unlike_its_examples():
    examples = """ It should be unlike these examples:

```python
def f(x: int):
    return 3 * x == 51
```

```python
def f(s: str):
    return s.count('a') == 4 and len(s) == 9
```"""
    assert propose_prompt("chat", [TRIPLE, LETTERS]) == Prompt(CHAT_PROPOSAL + examples, chat=True, header="")


# ---- completions, whole ----


@pytest.mark.parametrize("protocol", SPOKEN)
def test_a_completion_goes_on_where_the_prompt_ended(protocol):
    assert solve_completion(protocol, SQUARE, ROOT) == "\n    return int(k ** 0.5)\n"
    assert propose_completion(protocol, SQUARE) == "x: int, k=1764):\n    return x * x == k and x > 0\n"


def test_a_chat_completion_is_the_program_as_code():
    assert solve_completion("chat", SQUARE, ROOT) == "```python\ndef g(k=1764):\n    return int(k ** 0.5)\n```"
    assert propose_completion("chat", TRIPLE) == "```python\ndef f(x: int):\n    return 3 * x == 51\n```"


def test_a_solution_without_parameters_can_follow_any_header():
    assert solve_completion("plain", SQUARE, solution("def g():\n    return 42")) == "\n    return 42\n"


def test_blank_lines_inside_a_body_stay():
    body = solution("def g():\n    def h():\n        return 4\n\n    return h()")
    assert solve_completion("plain", TRIPLE, body) == "\n    def h():\n        return 4\n\n    return h()\n"


UNFOLLOWABLE = {
    "a helper before g": "def h():\n    return 17\n\ndef g():\n    return h()",
    "a helper after g": "def g():\n    return h()\n\ndef h():\n    return 17",
    "an import": "import math\n\ndef g():\n    return math.isqrt(289)",
    "a constant": "N = 17\n\ndef g():\n    return N",
    "a decorator": "@functools.cache\ndef g():\n    return 17",
    "another header": "def g(n=17):\n    return n",
    "another default": "def g(k=1765):\n    return k",
    "an unindented line in a string": 'def g():\n    return len(f"""a\nb{1}""")',
    "no body": "def g():",
}


@pytest.mark.parametrize("protocol", SPOKEN)
@pytest.mark.parametrize("source", UNFOLLOWABLE.values(), ids=UNFOLLOWABLE)
def test_a_solution_that_cannot_follow_the_header_has_no_completion(protocol, source):
    assert solve_completion(protocol, SQUARE, solution(source)) is None


@pytest.mark.parametrize("source", UNFOLLOWABLE.values(), ids=UNFOLLOWABLE)
def test_a_chat_reply_has_room_for_every_solution(source):
    assert solve_completion("chat", SQUARE, solution(source)) == f"```python\n{source}\n```"


UNPROPOSABLE = {
    "a helper before f": "def h(x):\n    return x\n\ndef f(x: int):\n    return h(x) == 17",
    "a helper after f": "def f(x: int):\n    return h(x) == 17\n\ndef h(x):\n    return x",
    "a constant after f": "def f(x: int):\n    return x == N\nN = 17",
    "an import": "import math\n\ndef f(x: int):\n    return math.isqrt(x) == 17",
    "a decorator": "@functools.cache\ndef f(x: int):\n    return x == 17",
    "an unindented line in a string": 'def f(x: int):\n    return len(f"""a\nb{x}""") == 17',
}


@pytest.mark.parametrize("protocol", SPOKEN)
@pytest.mark.parametrize("source", UNPROPOSABLE.values(), ids=UNPROPOSABLE)
def test_a_puzzle_that_cannot_follow_the_header_has_no_completion(protocol, source):
    assert propose_completion(protocol, made(source)) is None


# ---- there and back ----


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_training_solution_that_renders_parses_back_to_itself(pool, train, protocol):
    rendered = [
        (puzzle, candidate, solve_prompt(protocol, puzzle).parsed_text(completion))
        for puzzle, candidate in train
        if (completion := solve_completion(protocol, puzzle, candidate)) is not None
    ]
    assert len(rendered) >= (len(train) if protocol == "chat" else 0.9 * len(train))
    back = parse_candidates(pool, [text for _, _, text in rendered])
    changed = [
        (puzzle, parsed) for (puzzle, candidate, _), parsed in zip(rendered, back, strict=True) if parsed != candidate
    ]
    # A solution without parameters takes on those of the header it follows, and holds as before.
    for puzzle, parsed in changed:
        assert protocol != "chat"
        assert parsed.source.startswith(puzzle.header)
    originals = {puzzle.id: candidate.source.removeprefix("def g():") for puzzle, candidate in train}
    assert all(parsed.source == puzzle.header + originals[puzzle.id] for puzzle, parsed in changed)
    assert {str(judgement.verdict) for judgement in verify(pool, changed)} <= {"accepted"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_training_puzzle_that_renders_parses_back_to_itself(pool, train, protocol):
    puzzles = [puzzle for puzzle, _ in train if propose_completion(protocol, puzzle) is not None]
    assert len(puzzles) >= (len(train) if protocol == "chat" else 0.75 * len(train))
    prompt = propose_prompt(protocol, puzzles[:2])
    back = parse_puzzles(pool, [prompt.parsed_text(propose_completion(protocol, puzzle)) for puzzle in puzzles])
    kept = ("source", "answer_type", "header", "id", "skeleton", "shingles", "imports")
    assert [[getattr(one, key) for key in kept] for one in back] == [
        [getattr(one, key) for key in kept] for one in puzzles
    ]


@pytest.mark.parametrize("protocol", SPOKEN)
def test_what_a_model_goes_on_with_after_its_completion_is_not_taken(pool, protocol):
    prompt = solve_prompt(protocol, SQUARE, [(TRIPLE, THIRD)])
    completion = solve_completion(protocol, SQUARE, ROOT)
    more = ["", "\n\ndef f(x: str):\n    return x", "# done\n", "print(g())\n", "```\nThat is it."]
    assert set(parse_candidates(pool, [prompt.parsed_text(completion + text) for text in more])) == set(
        parse_candidates(pool, [Text(ROOT.source)])
    )


def test_a_chat_reply_may_talk_around_its_code(pool):
    prompt = solve_prompt("chat", SQUARE)
    reply = f"Let me see.\n\n{solve_completion('chat', SQUARE, ROOT)}\n\nThis holds."
    assert parse_candidates(pool, [prompt.parsed_text(reply)]) == parse_candidates(pool, [Text(ROOT.source)])


# ---- tokens ----

BEGIN, END, USER, ASSISTANT, BORDER = 256, 257, 258, 259, 260
TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def byte_characters() -> dict[str, int]:
    """The byte-level alphabet, each character with its byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


@pytest.fixture(scope="module", params=[False, True], ids=["begins", "begins and ends"])
def tokenizer(request):
    """One token a byte, but one more for "):", which may span the border of prompt and completion."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    vocabulary = byte_characters() | {
        "<s>": BEGIN,
        "</s>": END,
        "<|user|>": USER,
        "<|assistant|>": ASSISTANT,
        ":Ċ": BORDER,
    }
    core = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [(":", "Ċ")]))
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>" if request.param else "<s> $A", special_tokens=[("<s>", BEGIN), ("</s>", END)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
    )


def test_a_plain_prompts_ids_are_the_tokenizers_beginning_and_the_text(tokenizer):
    prompt = solve_prompt("plain", made("def f(x: int): return x", "def g(ü=1):"))
    assert encode_prompt(tokenizer, prompt) == [BEGIN, *"def f(x: int): return x\n\ndef g(ü=1):".encode()]


def test_a_chat_prompts_ids_are_its_template_and_nothing_more(tokenizer):
    assert encode_prompt(tokenizer, Prompt("Hi, ü!", chat=True, header="")) == [
        USER,
        *"Hi, ü!".encode(),
        END,
        ASSISTANT,
    ]


def test_a_completions_ids_are_the_text_and_the_end(tokenizer):
    assert encode_completion(tokenizer, "\n    return 'ü'\n") == [*"\n    return 'ü'\n".encode(), END]
    assert encode_completion(tokenizer, "") == [END]


def test_no_token_spans_the_border_of_prompt_and_completion(tokenizer):
    prompt, completion = solve_prompt("plain", TRIPLE), solve_completion("plain", TRIPLE, THIRD)
    ids = encode_prompt(tokenizer, prompt) + encode_completion(tokenizer, completion)
    assert ids[ids.index(END) - len(completion) :] == [*completion.encode(), END]
    assert tokenizer.decode(ids[1:-1]) == prompt.text + completion
    together = tokenizer.encode(prompt.text + completion, add_special_tokens=False)
    assert together.count(BORDER) == ids.count(BORDER) + 1 == 2


# ---- what was sampled ----

ENDED = [
    ("\n    return 17\n", False),
    ("\n    return 17", False),
    ("\n    x = 17\n\n    return x\n\n", False),
    ("", False),
    ("\n    return 17\n\n\ndef", True),
    ("\n    return 17\n#", True),
    ("\nx", True),
]


@pytest.mark.parametrize(("text", "by_line"), ENDED)
def test_a_line_that_is_not_indented_ended_a_completion_or_the_end_token_did(text, by_line, tiny):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    prompt = solve_prompt("plain", TRIPLE)
    assert met_a_line(prompt, text) == by_line
    own = tokenizer.encode(text, add_special_tokens=False)
    assert encode_sampled(tokenizer, prompt, text) == own + [tokenizer.eos_token_id] * (not by_line)


@pytest.mark.parametrize(("text", "by_line"), ENDED)
def test_a_completions_own_part_is_what_the_parser_takes_and_no_line_ends_it(text, by_line, pool):
    prompt = solve_prompt("plain", TRIPLE)
    part = own_part(prompt, text)
    assert not met_a_line(prompt, part)
    whole, cut = parse_candidates(pool, [prompt.parsed_text(text), prompt.parsed_text(part)])
    assert whole == cut
    assert by_line or part == text


def test_a_chat_reply_ends_by_its_token_alone():
    prompt = solve_prompt("chat", TRIPLE)
    assert not met_a_line(prompt, "```python\ndef g():\n    return 17\n```")
    assert own_part(prompt, "```\nx\n```") == "```\nx\n```"


@pytest.mark.parametrize("tokens", [7, 8, 9])
def test_what_has_as_many_tokens_as_are_allowed_was_cut_unless_a_line_ended_it(tokens):
    prompt = solve_prompt("plain", TRIPLE)
    assert was_cut(prompt, "\n    return 17", tokens, 8) == (tokens >= 8)
    assert not was_cut(prompt, "\n    return 17\nx", tokens, 8)
