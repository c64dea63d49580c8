"""The guard of the dev and held-out puzzles: it refuses a puzzle that is one of them or too near to one, and says why.

A puzzle is compared at four levels, the cheapest first:

* `exact`: the canonical texts are equal. Layout, comments and docstrings do not count.
* `normal_form`: the puzzles differ only in names, in constants, or in the order of parts that can be moved.
* `near_duplicate`: the puzzles share most of their text, or a guarded puzzle stands inside a larger one.
* `behaviour`: both accept the same answers, among reference answers of guarded puzzles and many near-misses of them.
  This needs a solution of the guarded puzzle, and the sandbox.

The texts alone decide the first three levels. `examine` computes the fourth and remembers the result.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from puzzles import answer_type, similarity
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.puzzle import Candidate, Puzzle, Verdict, content_hash
from puzzles.verify import accepts, encoded_answers, verify
from sandbox import codec
from sandbox.pool import Pool

LEVELS = ("exact", "normal_form", "near_duplicate", "behaviour")
GUARD_VERSION = 3
"""Version of the guard. It is increased when a level finds more than before, so that archives are examined again."""

NEAR_DUPLICATE = 0.75
"""Least Jaccard similarity of the shingles of near-duplicates. 0.7 to 0.85 is usual for code (SelfCodeAlign uses 0.7 on
5-grams of text). The largest similarity seen is 0.63 between two hand-written puzzles, 0.49 between a
hand-written one and one of P3, and 0.69 between a guarded one and one of a single rule."""
CONTAINED = 0.85
"""Least share of a guarded puzzle's shingles in another puzzle that counts as containing it. The largest share seen
among the same puzzles is 0.83."""
MIN_SHINGLES = 8
"""Least number of shingles of a puzzle that is compared by them. Shorter puzzles share most shingles by chance, so only
the other levels compare them."""
MIN_CONTAINED_SHINGLES = 32
"""Least number of shingles of a guarded puzzle that can count as contained. Shorter ones may stand inside others by
chance."""
MIN_EVIDENCE = 4
"""Least evidence for a match by behaviour: the number of letters and digits in the distinct reference answers that a
puzzle accepts. Two puzzles with the answer 10 need not be alike. With 4, 245 of the 402 dev and held-out puzzles have
enough evidence; the answers of the others are too short. No puzzle of P3 or the training set then matches one of them.
Of 32,000 puzzles by rule five match: three are the guarded puzzle in other words, two share its answer of four digits
by chance. With 3, 304 puzzles have enough evidence, and 23 puzzles by rule match."""
FLAG_EVIDENCE = 1 / 3
"""Evidence of a truth value or None: three of them count as one digit."""
QUARTERS = 4
"""Parts of a unit. A float that is a whole number of quarters counts only as many digits as that number has, because
people write few other floats: 12.25 counts as 49."""
MOST_CHANGES = 24
"""Most near-misses of one member of a reference answer. With 6, a pair had only near-misses of the wrong length."""
KINDS_OF_CHARACTERS = "aeo1 "
"""Characters that also replace a text's characters in near-misses. They tell a count of vowels from a count of one
letter."""
MOST_STEPS = 128
"""Near-misses of an integer stay within this distance. It is large, because a puzzle about a remainder accepts only
every n-th integer, with n the modulus."""
MOST_PROBES = 320
"""Most answers beside the reference answers on which a guarded puzzle and a similar one must agree."""


@dataclass(frozen=True)
class Hit:
    """The guarded puzzle that another puzzle is too near to, and how this was found."""

    level: str
    """Level at which it was found, one of LEVELS."""
    name: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.name} {self.detail}".rstrip()


@dataclass(frozen=True)
class _Behaviour:
    """Which answers a guarded puzzle accepts. A proposal that accepts exactly these counts as the same puzzle."""

    name: str
    of_references: list[bool]
    """Whether it accepts each reference answer of all guarded puzzles with its answer type."""
    probes: list[bytes]
    """Further answers, encoded."""
    of_probes: list[bool]
    """Whether it accepts each of the further answers."""


@dataclass
class Guard:
    """The dev and held-out puzzles. They must never be trained on, nor shown to a model that is scored on them."""

    puzzles: dict[str, Puzzle] = field(default_factory=dict, repr=False)
    """Guarded puzzles by id."""
    names: dict[str, str] = field(default_factory=dict, repr=False)
    """Names of guarded puzzles in refusals, by id."""
    _forms: dict[str, Hit] = field(default_factory=dict, repr=False)
    _rare: dict[int, list[str]] = field(default_factory=dict, repr=False)
    _references: dict[str, list[bytes]] = field(default_factory=dict, repr=False)
    _behaviours: dict[str, list[_Behaviour]] = field(default_factory=dict, repr=False)
    _remembered: dict[str, Hit] = field(default_factory=dict, repr=False)
    _conditions: dict[str, list[tuple[frozenset[str], str]]] = field(default_factory=dict, repr=False)
    """Clauses and names of the guarded puzzles, by one clause of each. Made when a rule's text is first compared."""

    @classmethod
    def of(cls, named_puzzles: Iterable[tuple[str, Puzzle]]) -> Guard:
        """A guard of these puzzles, at the levels that need no sandbox."""
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
        guard._forms.pop("", None)  # the unordered form of a puzzle that was made without it
        guard._index_rare_shingles()
        return guard

    def anew(self) -> Guard:
        """The same guard, without the hits that it remembers."""
        return replace(self, _remembered={})

    def _index_rare_shingles(self) -> None:
        """Index the rarest shingles of each guarded puzzle: so many that a near-duplicate must share one of them."""
        frequency = Counter(shingle for puzzle in self.puzzles.values() for shingle in puzzle.shingles)
        for identifier, puzzle in self.puzzles.items():
            rarest = sorted(puzzle.shingles, key=lambda shingle: (frequency[shingle], shingle))
            for shingle in rarest[: int(len(rarest) * (1 - min(NEAR_DUPLICATE, CONTAINED))) + 1]:
                self._rare.setdefault(shingle, []).append(identifier)

    @property
    def identity(self) -> str:
        """Content hash of the guarded puzzles and the guard's version. An archive stores it to name its guard."""
        answers = sorted(answer.hex() for answers in self._references.values() for answer in answers)
        return content_hash(repr((GUARD_VERSION, sorted(self.puzzles), answers)))

    @property
    def behaviours(self) -> int:
        """Number of guarded puzzles that are also compared by behaviour."""
        return sum(map(len, self._behaviours.values()))

    def hit(self, puzzle: Puzzle) -> Hit | None:
        """The guarded puzzle that this one is too near to, by its text or an earlier `examine`, if there is one."""
        return (
            self._forms.get(puzzle.source)
            or self._forms.get(puzzle.id)
            or self._forms.get(puzzle.skeleton)
            or self._forms.get(puzzle.unordered)
            or self._near(puzzle.shingles)
            or self._remembered.get(puzzle.id)
        )

    def hit_of_rule(self, text: str) -> Hit | None:
        """Like `hit`, but stricter, for a text that a rule of this project wrote.

        A puzzle that asks everything that a guarded one asks is a hit too. The forms of the text are made in this
        process, which never happens with a model's text.
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
        """Compare puzzles at all levels, and remember every hit, so that `hit` reports it later.

        Puzzles from an archive are allowed: the forms that an archive does not keep are made again.

        Returns:
            The hit of each puzzle that is too near to a guarded one, by the puzzle's id.
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
        """Make `hit` report these hits for the puzzles with these ids."""
        self._remembered.update(hits)

    # ---- behaviour ----

    def learn_behaviour(self, pool: Pool, solutions: Mapping[str, Sequence[str]]) -> None:
        """Verify solutions of guarded puzzles, and record which of many answers each solved puzzle accepts.

        Args:
            pool: The sandbox.
            solutions: Solution texts by the puzzle's id. Solutions that are not accepted are ignored.
        """
        answers = _accepted_answers(pool, [(self.puzzles[key], texts) for key, texts in solutions.items()])
        learned = [(self.puzzles[key], own) for key, own in zip(solutions, answers, strict=True) if own]
        for puzzle, own in learned:
            self._references[puzzle.answer_type] = [*{*self._references.get(puzzle.answer_type, ()), *own}]
        for references in self._references.values():
            references.sort(key=lambda answer: (len(answer), answer))  # answers that take long to judge come last
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
        """A hit for every guarded puzzle that one of these puzzles behaves like, with that puzzle's id."""
        asked = [(p, kind) for p in puzzles for kind in self._behaviours if answer_type.takes(p.answer_type, kind)]
        said = accepts(pool, [(puzzle, self._references[kind]) for puzzle, kind in asked])
        suspects = [
            (puzzle, behaviour)
            for (puzzle, kind), outcomes in zip(asked, said, strict=True)
            for behaviour in self._behaviours[kind]
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
    """The puzzles with all their forms. Those from an archive have no shingles, so they are parsed again."""
    wanting = [puzzle for puzzle in puzzles if not puzzle.shingles]
    parsed = parse_puzzles(pool, [Text(puzzle.source) for puzzle in wanting])
    made = {old.id: new for old, new in zip(wanting, parsed, strict=True) if isinstance(new, Puzzle)}
    return [made.get(puzzle.id, puzzle) for puzzle in puzzles]


def _accepted_answers(pool: Pool, solved: Sequence[tuple[Puzzle, Sequence[str]]]) -> list[list[bytes]]:
    """The distinct encoded answers of each puzzle's accepted solutions, in the order of the puzzles."""
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
    """Evidence that two puzzles are alike if both accept this value: its letters and digits, and every character of a
    text.
    """
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
    """At most MOST_PROBES distinct answers of the declared type: trivial ones, then near-misses of each reference in
    turn.
    """
    missed = _in_turn(*map(near_misses, map(codec.decode, references)))
    probes: dict[bytes, None] = {}
    for value in itertools.chain(answer_type.trivial_answers(declared)[:8], missed):
        if len(probes) < MOST_PROBES and answer_type.matches(value, declared):
            with contextlib.suppress(codec.CodecError):
                probes[codec.encode(value, pool.limits.answer_bytes)] = None
    return list(probes)


def near_misses(value: Any) -> Iterator[Any]:
    """Values that differ a little from a plain value; not all have its type."""
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
    """Lists with the same sum, where one number is larger by 1 and another smaller: many puzzles ask for a total."""
    numbers = [place for place, member in enumerate(members) if type(member) in (int, float)]
    for first, second in itertools.islice(itertools.permutations(numbers, 2), MOST_CHANGES):
        changed = list(members)
        changed[first] += 1
        changed[second] -= 1
        yield changed


def _edited(members: list[Any], near: Callable[[Any], Iterable[Any]]) -> Iterator[list[Any]]:
    """Lists with members left out, repeated or moved, or with one of four members changed.

    The kinds of change take turns, because only the first few lists are used where this one is itself a member.
    """
    moved = [members[:-1], members[1:], members[::-1], members + members[:1], members[1:] + members[:1]]
    moved += [members[1:2] + members[:1] + members[2:], members[-1:] + members[1:-1] + members[:1]]
    places = sorted({0, 1, len(members) // 2, len(members) - 1} & set(range(len(members))))
    return _in_turn(moved, *(_changed(members, place, near) for place in places))


def _changed(members: list[Any], place: int, near: Callable[[Any], Iterable[Any]]) -> Iterator[list[Any]]:
    for other in itertools.islice(near(members[place]), MOST_CHANGES):
        yield [*members[:place], other, *members[place + 1 :]]


def _in_turn(*sources: Iterable[Any]) -> Iterator[Any]:
    """The first value of each source, then the second of each, and so on, until all sources have ended."""
    ended = object()
    return (value for row in itertools.zip_longest(*sources, fillvalue=ended) for value in row if value is not ended)
