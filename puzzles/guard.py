"""The guard around held-out puzzles: what is one of them, or too near to one, is refused and said so.

A puzzle is compared at four levels, the cheapest first:

* `exact`: the same canonical text; layout, comments and docstrings do not count.
* `normal_form`: the same but for names, constants, or the order of what can be moved.
* `near_duplicate`: most of the text is shared, or a guarded puzzle stands inside a larger one.
* `behaviour`: the same answers are accepted, among a guarded puzzle's reference answers and many
  near-misses of them. It needs a solution of the guarded puzzle, and the sandbox.

The first three are known from the texts alone. The fourth is computed by `examine` and remembered.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from puzzles import answer_type, similarity
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle, Verdict, content_hash
from puzzles.verify import accepts, encoded_answers, verify
from sandbox import codec
from sandbox.pool import Pool

LEVELS = ("exact", "normal_form", "near_duplicate", "behaviour")
GUARD_VERSION = 3
"""Raised when a level finds more than before, so that archives are examined anew."""

NEAR_DUPLICATE = 0.75
"""Jaccard similarity of shingles from which two puzzles count as near-duplicates; 0.7 to 0.85 is
usual for code (SelfCodeAlign uses 0.7 on 5-grams of text). Two puzzles of the hand-written sets
share 0.63 at most, one of them and one of P3 0.49, a guarded one and one of a single rule 0.69."""
CONTAINED = 0.85
"""Share of a guarded puzzle's shingles from which it stands inside another; 0.83 at most among the same."""
MIN_SHINGLES = 8
"""Shorter puzzles are compared by the other levels only: they share most shingles by chance."""
MIN_CONTAINED_SHINGLES = 32
"""Shorter guarded puzzles may well stand inside others by chance."""
MIN_EVIDENCE = 4
"""Letters and digits in the distinct reference answers that a puzzle accepts from which agreement tells
something: that two puzzles have the answer 10 says nothing. With 4, 245 of the 402 puzzles of the dev and
held-out sets have enough, for the others' answers are short; none of P3's and the training set's agrees
with one, and of 32,000 by rule five do: three are the guarded puzzle in other words, two have its answer
of four digits by chance. With 3 it is 304 puzzles, and 23 by rule."""
FLAG_EVIDENCE = 1 / 3
"""Of a truth value, or of none at all: three tell as little as a digit."""
QUARTERS = 4
"""A float of so many parts counts as the number of parts: 12.25 is one of few that people write."""
MOST_CHANGES = 24
"""Near-misses of one member of a reference answer; with 6, those of a pair were all of the wrong length."""
KINDS_OF_CHARACTERS = "aeo1 "
"""What a text's characters are changed to as well: a count of vowels is told from one of a single letter."""
MOST_STEPS = 128
"""How far from an integer its near-misses go: a puzzle about a remainder accepts one in so many."""
MOST_PROBES = 320
"""Answers that a guarded puzzle and one that accepts its reference answers must agree on, at most."""


@dataclass(frozen=True)
class Hit:
    """Which guarded puzzle another one is too near to, and how it was found."""

    level: str
    """One of LEVELS."""
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.name} {self.detail}".rstrip()


@dataclass(frozen=True)
class _Behaviour:
    """What a guarded puzzle says of answers; a proposal that says the same of all is the same puzzle."""

    name: str
    of_references: list[bool]
    """Of the reference answers of all guarded puzzles of its answer type."""
    probes: list[bytes]
    of_probes: list[bool]


@dataclass
class Guard:
    """The held-out and dev puzzles that must never be trained on, nor shown to a model that is scored on them."""

    puzzles: dict[str, Puzzle] = field(default_factory=dict, repr=False)
    """By id."""
    names: dict[str, str] = field(default_factory=dict, repr=False)
    """What a refusal calls a guarded puzzle, by its id."""
    _forms: dict[str, Hit] = field(default_factory=dict, repr=False)
    _rare: dict[int, list[str]] = field(default_factory=dict, repr=False)
    _references: dict[str, list[bytes]] = field(default_factory=dict, repr=False)
    _behaviours: dict[str, list[_Behaviour]] = field(default_factory=dict, repr=False)
    _remembered: dict[str, Hit] = field(default_factory=dict, repr=False)
    _conditions: dict[str, list[tuple[frozenset[str], str]]] = field(default_factory=dict, repr=False)
    """What the guarded puzzles ask, by one of their clauses; made when a rule's text is first compared."""

    @classmethod
    def of(cls, named_puzzles: Iterable[tuple[str, Puzzle]]) -> Guard:
        """Guard these puzzles at the levels that need no sandbox."""
        guard = cls()
        for name, puzzle in named_puzzles:
            guard.names.setdefault(puzzle.id, name)
            guard.puzzles.setdefault(puzzle.id, puzzle)
            forms = {
                puzzle.source: Hit("exact", name),
                puzzle.id: Hit("normal_form", name, "with other names"),
                puzzle.skeleton: Hit("normal_form", name, "with other constants"),
                puzzle.unordered: Hit("normal_form", name, "re-ordered"),
            }
            for form, hit in forms.items():
                guard._forms.setdefault(form, hit)
        guard._forms.pop("", None)  # the form of a puzzle that comes without it
        guard._index_rare_shingles()
        return guard

    def _index_rare_shingles(self) -> None:
        """What a near-duplicate cannot lack altogether: so many of a guarded puzzle's shingles, the rarest."""
        frequency = Counter(shingle for puzzle in self.puzzles.values() for shingle in puzzle.shingles)
        for identifier, puzzle in self.puzzles.items():
            rarest = sorted(puzzle.shingles, key=lambda shingle: (frequency[shingle], shingle))
            for shingle in rarest[: int(len(rarest) * (1 - min(NEAR_DUPLICATE, CONTAINED))) + 1]:
                self._rare.setdefault(shingle, []).append(identifier)

    @property
    def identity(self) -> str:
        """Content hash of what is guarded and how; an archive says by it which guard it was kept by."""
        answers = sorted(answer.hex() for answers in self._references.values() for answer in answers)
        return content_hash(repr((GUARD_VERSION, sorted(self.puzzles), answers)))

    @property
    def behaviours(self) -> int:
        """How many guarded puzzles are compared by behaviour too."""
        return sum(map(len, self._behaviours.values()))

    def hit(self, puzzle: Puzzle) -> Hit | None:
        """Which guarded puzzle this one is too near to: by its text, or as an earlier `examine` found."""
        return (
            self._forms.get(puzzle.source)
            or self._forms.get(puzzle.id)
            or self._forms.get(puzzle.skeleton)
            or self._forms.get(puzzle.unordered)
            or self._near(puzzle.shingles)
            or self._remembered.get(puzzle.id)
        )

    def hit_of_rule(self, text: str) -> Hit | None:
        """As `hit`, of a text that a rule of ours wrote, and stricter: what asks all that a guarded puzzle does is one.

        Its forms are made in this process, a model's never are.
        """
        tree = ast.parse(text)
        unordered = content_hash(similarity.order_free_form(tree, constants=False))
        return (
            self._forms.get(unordered)
            or self._asking_more(similarity.clause_forms(tree))
            or self._near(similarity.shingles(similarity.order_free_form(tree)))
        )

    def _asking_more(self, clauses: frozenset[str]) -> Hit | None:
        if not self._conditions:
            for identifier, puzzle in self.puzzles.items():
                if asked := similarity.clause_forms(ast.parse(puzzle.source)):
                    self._conditions.setdefault(min(asked), []).append((asked, self.names[identifier]))
        for clause in sorted(clauses & self._conditions.keys()):
            for asked, name in self._conditions[clause]:
                if asked <= clauses:
                    return Hit("near_duplicate", name, "asks all that it does")
        return None

    def _near(self, shingles: frozenset[int]) -> Hit | None:
        if len(shingles) < MIN_SHINGLES:
            return None
        for identifier in sorted({name for shingle in self._rare.keys() & shingles for name in self._rare[shingle]}):
            guarded, name = self.puzzles[identifier].shingles, self.names[identifier]
            shared = len(guarded & shingles)
            if shared >= NEAR_DUPLICATE * (len(guarded) + len(shingles) - shared):
                return Hit("near_duplicate", name, f"shares {shared} of {len(guarded | shingles)} shingles")
            if shared >= CONTAINED * len(guarded) and len(guarded) >= MIN_CONTAINED_SHINGLES:
                return Hit("near_duplicate", name, "stands inside it")
        return None

    def examine(self, pool: Pool, puzzles: Sequence[Puzzle]) -> dict[str, Hit]:
        """Compare puzzles at all levels, and remember what is found, so that `hit` knows it.

        Puzzles out of an archive may be given: what the archive did not keep of them is made again.

        Returns:
            What each puzzle that is too near to a guarded one was found by, by its id.
        """
        whole = _whole(pool, puzzles)
        by_text = {puzzle.id: hit for puzzle in whole if (hit := self.hit(puzzle))}
        rest = list({puzzle.id: puzzle for puzzle in whole if puzzle.id not in by_text}.values())
        found = dict(by_text)
        for identifier, hit in self.behaving_alike(pool, rest):
            found.setdefault(identifier, hit)
        self.remember(found)
        return found

    def remember(self, hits: Mapping[str, Hit]) -> None:
        """Have `hit` say so of puzzles with these ids."""
        self._remembered.update(hits)

    # ---- behaviour ----

    def learn_behaviour(self, pool: Pool, solutions: Mapping[str, Sequence[str]]) -> None:
        """Verify solutions of guarded puzzles, and ask each solved puzzle what it says of many answers.

        Args:
            pool: The sandbox.
            solutions: Texts by the puzzle's id; those that are not accepted teach nothing.
        """
        answers = _accepted_answers(pool, [(self.puzzles[key], texts) for key, texts in solutions.items()])
        learned = [(self.puzzles[key], own) for key, own in zip(solutions, answers, strict=True) if own]
        for puzzle, own in learned:
            self._references[puzzle.answer_type] = [*{*self._references.get(puzzle.answer_type, ()), *own}]
        for references in self._references.values():
            references.sort(key=lambda answer: (len(answer), answer))  # what takes long to judge comes last
        probes = [_probes(pool, puzzle.answer_type, own) for puzzle, own in learned]
        of_references = accepts(pool, [(puzzle, self._references[puzzle.answer_type]) for puzzle, _ in learned])
        of_probes = accepts(pool, [(puzzle, asked) for (puzzle, _), asked in zip(learned, probes, strict=True)])
        for (puzzle, _), said, asked, outcomes in zip(learned, of_references, probes, of_probes, strict=True):
            references = self._references[puzzle.answer_type]
            held = [codec.decode(answer) for answer, outcome in zip(references, said, strict=True) if outcome]
            settled = {probe: outcome for probe, outcome in zip(asked, outcomes, strict=True) if outcome is not None}
            if sum(map(_evidence, held)) >= MIN_EVIDENCE:
                of_all = [bool(outcome) for outcome in said]
                behaviour = _Behaviour(self.names[puzzle.id], of_all, [*settled], [*settled.values()])
                self._behaviours.setdefault(puzzle.answer_type, []).append(behaviour)

    def behaving_alike(self, pool: Pool, puzzles: Sequence[Puzzle]) -> list[tuple[str, Hit]]:
        """Every guarded puzzle that one of these behaves like, with its id."""
        asked = [puzzle for puzzle in puzzles if puzzle.answer_type in self._behaviours]
        said = accepts(pool, [(puzzle, self._references[puzzle.answer_type]) for puzzle in asked])
        suspects = [
            (puzzle, behaviour)
            for puzzle, outcomes in zip(asked, said, strict=True)
            for behaviour in self._behaviours[puzzle.answer_type]
            if [bool(outcome) for outcome in outcomes] == behaviour.of_references
        ]
        said = accepts(pool, [(puzzle, behaviour.probes) for puzzle, behaviour in suspects])
        hits: list[tuple[str, Hit]] = []
        for (puzzle, behaviour), outcomes in zip(suspects, said, strict=True):
            if [bool(outcome) for outcome in outcomes] == behaviour.of_probes:
                count = len(behaviour.of_references) + len(behaviour.probes)
                hits.append((puzzle.id, Hit("behaviour", behaviour.name, f"says the same of {count} answers")))
        return hits


def _whole(pool: Pool, puzzles: Sequence[Puzzle]) -> list[Puzzle]:
    """The puzzles with all their forms; an archive keeps no shingles."""
    wanting = [puzzle for puzzle in puzzles if not puzzle.shingles]
    parsed = parse_puzzles(pool, [Text(puzzle.source) for puzzle in wanting])
    made = {old.id: new for old, new in zip(wanting, parsed, strict=True) if isinstance(new, Puzzle)}
    return [made.get(puzzle.id, puzzle) for puzzle in puzzles]


def _accepted_answers(pool: Pool, solved: Sequence[tuple[Puzzle, Sequence[str]]]) -> list[list[bytes]]:
    """For each puzzle the distinct answers, encoded, of those of its solutions that hold."""
    texts = [(puzzle, Text(text, rename={puzzle.original_name: "f"})) for puzzle, texts in solved for text in texts]
    candidates = parse_candidates(pool, [text for _, text in texts])
    pairs = [(puzzle, c) for (puzzle, _), c in zip(texts, candidates, strict=True) if isinstance(c, Candidate)]
    judged = zip(pairs, verify(pool, pairs), strict=True)
    held = [pair for pair, judgement in judged if judgement.verdict == Verdict.ACCEPTED]
    answers: dict[str, dict[bytes, None]] = {}
    for (puzzle, _), answer in zip(held, encoded_answers(pool, held), strict=True):
        if answer is not None:
            answers.setdefault(puzzle.id, {})[answer] = None
    return [list(answers.get(puzzle.id, {})) for puzzle, _ in solved]


def _evidence(value: Any) -> float:
    """How much it tells that two puzzles accept this: its letters and digits, and all characters of a text."""
    if type(value) is bool or value is None:
        return FLAG_EVIDENCE
    if type(value) is str:
        return len(value)
    if type(value) is dict:
        return sum(map(_evidence, value.items()))
    if type(value) not in (int, float):
        return sum(map(_evidence, value))
    spelled = [codec.literal(value)]
    if type(value) is float and (value * QUARTERS).is_integer():
        spelled.append(str(int(value * QUARTERS)))
    return min(sum(character.isalnum() for character in text) for text in spelled)


def _probes(pool: Pool, declared: str, references: Sequence[bytes]) -> list[bytes]:
    """Near-misses of the reference answers in turn, and trivial answers; distinct, of the type, and not too many."""
    missed = _in_turn(*map(near_misses, map(codec.decode, references)))
    probes: dict[bytes, None] = {}
    for value in itertools.chain(answer_type.trivial_answers(declared)[:8], missed):
        if len(probes) < MOST_PROBES and answer_type.matches(value, declared):
            with contextlib.suppress(codec.CodecError):
                probes[codec.encode(value, pool.limits.answer_bytes)] = None
    return list(probes)


def near_misses(value: Any) -> Iterator[Any]:
    """Values a little different from a plain one; not all need be of its type."""
    if type(value) is bool:
        yield not value
    elif type(value) is float:
        yield from (value + 1, value - 1, -value, 2 * value, value + 0.1, value - 0.1, value / 2)
    elif type(value) is int:
        yield from (value + 1, value - 1, -value, 2 * value, value // 2)
        if 10 <= abs(value) < codec.EXACT_INT:
            digits = _edited(list(str(abs(value))), lambda digit: [str((int(digit) + step) % 10) for step in (1, 9, 5)])
            yield from (int("".join(changed)) for changed in digits if changed)
        yield from (value + sign * step for step in range(2, MOST_STEPS) for sign in (1, -1))
    elif type(value) is str:
        yield from map("".join, _edited(list(value), _near_characters))
    elif type(value) in (list, tuple):
        yield from map(type(value), _edited(list(value), near_misses))
        yield from map(type(value), _same_sum(list(value)))
    elif type(value) is set:
        members = sorted(value, key=codec.literal)
        yield from map(set, _edited(members, near_misses))
        yield from map(set, _same_sum(members))
    elif type(value) is dict:
        yield from map(dict, _edited(list(value.items()), _near_items))
        yield from (dict(zip(value, changed, strict=True)) for changed in _same_sum(list(value.values())))


def _near_characters(character: str) -> list[str]:
    return [chr(ord(character) ^ 1), character.swapcase(), *KINDS_OF_CHARACTERS]


def _near_items(item: tuple[Any, Any]) -> Iterator[tuple[Any, Any]]:
    key, value = item
    return _in_turn(((key, other) for other in near_misses(value)), ((other, value) for other in near_misses(key)))


def _same_sum(members: list[Any]) -> Iterator[list[Any]]:
    """One member more by what another is less: a total is what many puzzles ask for."""
    numbers = [place for place, member in enumerate(members) if type(member) in (int, float)]
    for first, second in itertools.islice(itertools.permutations(numbers, 2), MOST_CHANGES):
        changed = list(members)
        changed[first] += 1
        changed[second] -= 1
        yield changed


def _edited(members: list[Any], near: Callable[[Any], Iterable[Any]]) -> Iterator[list[Any]]:
    """Members left out, repeated, moved, and changed at four places; in turn, for of a member few are asked."""
    moved = [members[:-1], members[1:], members[::-1], members + members[:1], members[1:] + members[:1]]
    moved += [members[1:2] + members[:1] + members[2:], members[-1:] + members[1:-1] + members[:1]]
    places = sorted({0, 1, len(members) // 2, len(members) - 1} & set(range(len(members))))
    return _in_turn(moved, *(_changed(members, place, near) for place in places))


def _changed(members: list[Any], place: int, near: Callable[[Any], Iterable[Any]]) -> Iterator[list[Any]]:
    for other in itertools.islice(near(members[place]), MOST_CHANGES):
        yield [*members[:place], other, *members[place + 1 :]]


def _in_turn(*sources: Iterable[Any]) -> Iterator[Any]:
    """The first of each, the second of each, and so on, until all have ended."""
    ended = object()
    return (value for row in itertools.zip_longest(*sources, fillvalue=ended) for value in row if value is not ended)
