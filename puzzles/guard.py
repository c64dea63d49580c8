"""The guard of the dev and held-out puzzles: it refuses a puzzle that is one of them or too near to one, and says why.

A puzzle is compared at five levels, the cheapest first:

* `exact`: the canonical texts are equal. Layout, comments and docstrings do not count.
* `normal_form`: the puzzles differ only in names, in constants, or in the order of parts that can be moved.
* `near_duplicate`: the puzzles share most of their text, or a guarded puzzle stands inside a larger one.
* `behaviour`: both accept the same answers, among reference answers of guarded puzzles and many near-misses of them.
* `trace`: the puzzle computes most of the values that a guarded one computes, on the same answers (`tracing`). It may
  accept more answers, take its answer in another type, inside a container, shifted, negated or reversed, or waste time.

The texts alone decide the first three levels. The others need a solution of the guarded puzzle, and the sandbox.
`examine` computes them and remembers the result. A puzzle that met a limit on an answer has not said anything about it.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from puzzles import answer_type, similarity
from puzzles.foreign import TEXT, TEXTS, Shape, a_list, an_object
from puzzles.foreign import each as any_key
from puzzles.parse import Text, parse_candidates, parse_puzzles
from puzzles.probing import forms, in_turn, near_misses, telling_answers
from puzzles.puzzle import Candidate, Puzzle, Verdict, content_hash
from puzzles.tracing import HEAVIEST, Asked, Items, Report, reports
from puzzles.verify import encoded_answers, verify
from sandbox import codec
from sandbox.pool import Pool

LEVELS = ("exact", "normal_form", "near_duplicate", "behaviour", "trace")
GUARD_VERSION = 4
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
SAME_VALUES = 0.75
"""Least share of a guarded puzzle's values that a puzzle computes which counts as asking the same."""
SUSPECT_VALUES = 0.25
"""The same for a puzzle that also says the same of all answers, and computes OWN_VALUES on the guarded one's own."""
OWN_VALUES, OWN_VALUES_OF_FEW = 0.7, 0.9
"""Least share of the values on the guarded puzzle's own answers; the second one where the values elsewhere are few."""
MOST_SUSPECTS = 3
"""Most guarded puzzles that one puzzle is compared with closely."""
MOST_OWN = 2
"""Most of a guarded puzzle's own answers on which suspects are traced."""
MIN_WEIGHT = 8.0
"""Least weight per answer of the shared values."""
LONG_VALUE = 8
"""Letters and digits of a value beyond this number tell nothing more."""
TELLING = 5
"""Telling answers on which all puzzles of a type are traced."""
SHARED_REFERENCES = 4
"""Most reference answers on which all puzzles of a type are traced."""
MOST_SHARED_BYTES = 2000
FOREIGN_TELLING, FOREIGN_REFERENCES = 3, 3
"""How many telling answers and references of one type a puzzle of another type is traced on."""
MOST_FOREIGN = 24
"""Most answers of other types that a puzzle is traced on."""
READERS = {
    ("str", "int"): r"int\(X|map\(int, X|int\(''\.join",
    ("str", "float"): r"float\(X",
    ("str", "List"): r"X\.split|(?<!len\()list\(X|map\(int, X",
    ("str", "Tuple"): r"X\.split|tuple\(X",
    ("str", "Set"): r"X\.split",
    ("str", "Dict"): r"X\.split",
    ("float", "int"): r"int\(X|round\(X",
    ("List", "str"): r"join\(X",
    ("List", "int"): r"join\(X|join\(map\(str, X|join\(\(?str\(",
    ("List", "Tuple"): r"tuple\(X",
    ("List", "Set"): r"(?<!len\()set\(X",
    ("List", "Dict"): r"dict\(X",
    ("Tuple", "str"): r"join\(X",
    ("Tuple", "List"): r"list\(X|\[\*X",
    ("Tuple", "Set"): r"(?<!len\()set\(X",
    ("Tuple", "Dict"): r"dict\(X",
    ("Set", "List"): r"list\(X",
    ("Dict", "List"): r"list\(X",
}
"""What a puzzle must hold, to be asked about answers of another type: by its own type's name and the other's. X stands
for the first parameter of one of its functions."""
MEMBER_READERS = {"Tuple": "", "List": r"\[0\]|\[-1\]|,\)|next|pop", "Dict": r"\[['\"]"}
"""The same where its type has the other one as a member."""
MOST_FORM_BYTES = 10_000
MOST_KEYS = 8
CHILDREN = 4
"""Most children for one puzzle at a stage."""
ASKED_CPU_SECONDS = 0.1
"""CPU limit of each child at the first stage."""
SLOW_TRACED = 4
"""On so many answers a puzzle is traced that met the limit on all."""
LEAST_SETTLED = 8
"""Least number of answers that a suspect must have decided."""
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


@dataclass(frozen=True, eq=False)
class _Behaviour:
    """What a guarded puzzle does: which answers it accepts, and what it computes on some."""

    name: str
    kind: str
    """Type of its answer."""
    is_telling: bool
    """Whether the answers that it accepts are evidence enough on their own."""
    accepted: int
    """The reference answers of all guarded puzzles with its answer type that it accepts, as bits."""
    refused: int
    """Those that it refuses. What met a limit is in neither."""
    probes: list[bytes]
    """Further answers, encoded."""
    of_probes: list[bool]
    """Whether it accepts each of the further answers."""
    own: list[bytes]
    """Answers that it accepts, encoded."""
    traced: list[Items | None]
    """The values that it computes on each shared answer of its type, and then on its own answers."""


@dataclass(frozen=True)
class _Reading:
    """Shared answers of one type, as a puzzle of perhaps another type is asked them."""

    kind: str
    """The answers' own type."""
    places: list[int]
    """Places of the answers among the shared ones of that type."""
    answers: list[bytes]
    """The answers in the puzzle's type, encoded."""
    way: str
    """SAME_ANSWER, or the number of the form that the answers have in the puzzle's type."""


SAME_ANSWER = "same answer"
"""The way in which a puzzle reads an answer of its own type."""


@dataclass(frozen=True, eq=False)
class _Suspect:
    """A puzzle that computes much of what a guarded one computes, or accepts the same of the reference answers."""

    puzzle: Puzzle
    behaviour: _Behaviour
    way: str
    """How it reads the answers: SAME_ANSWER, the number of a form, or the name of a transformation."""
    share: float
    """Share of the guarded puzzle's values that it computes."""
    weight: float
    """Weight of these values for each answer."""
    accepts: bool = False
    """Whether it accepts an answer that the guarded one accepts."""
    agrees: bool = False
    """Whether it says the same of all reference answers."""

    def asked(self, shared: Mapping[str, Sequence[bytes]], answer_bytes: int) -> Asked:
        """What to ask it now: the guarded puzzle's own answers, and near-misses of them."""
        own = self.behaviour.own
        if self.way == SAME_ANSWER:
            return Asked(self.puzzle.source, own, said=self.behaviour.probes if self.agrees else ())
        if self.way.isdigit():
            keys = _keys(self.puzzle)
            made = [forms(codec.decode(answer), self.puzzle.answer_type, keys)[int(self.way) :] for answer in own]
            return Asked(self.puzzle.source, [codec.encode(each[0], answer_bytes) for each in made if each])
        traced = [*shared[self.behaviour.kind][:FOREIGN_TELLING], *own]
        return Asked(self.puzzle.source, traced, len(traced))

    def hit(self, report: Report) -> Hit | None:
        """The hit, if the answers to this confirm it."""
        behaviour = self.behaviour
        seen: Sequence[Items | None] = report.traced
        if self.way != SAME_ANSWER and not self.way.isdigit():
            seen = report.views.get(self.way, [])[FOREIGN_TELLING:]
        own_share = _share_of(behaviour.traced[-len(behaviour.own) :], seen)
        settled = sum(said is not None for said in report.said)
        detail = f"computes {self.share:.0%} of its values, {own_share:.0%} on its own answer"
        if self.agrees and settled >= min(len(report.said), LEAST_SETTLED) and _agree(report.said, behaviour.of_probes):
            if behaviour.is_telling:
                count = behaviour.accepted.bit_count() + behaviour.refused.bit_count() + settled
                return Hit("behaviour", behaviour.name, f"says the same of {count} answers")
            least = OWN_VALUES if self.weight >= MIN_WEIGHT / 2 else OWN_VALUES_OF_FEW
            return Hit("trace", behaviour.name, detail) if own_share >= least else None
        least = SAME_VALUES if self.way == SAME_ANSWER else OWN_VALUES_OF_FEW
        is_same = self.share >= SAME_VALUES and self.weight >= MIN_WEIGHT and own_share >= least
        return Hit("trace", behaviour.name, detail) if is_same else None


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
    _shared: dict[str, list[bytes]] = field(default_factory=dict, repr=False)
    """Answers of each type on which all puzzles of the type are traced."""
    _behaviours: dict[str, list[_Behaviour]] = field(default_factory=dict, repr=False)
    _values: dict[tuple[str, int], dict[int, tuple[float, list[_Behaviour]]]] = field(default_factory=dict, repr=False)
    """Weight of each value and who computes it, by type and place of the answer. Made when it is first needed."""
    _weights: dict[tuple[_Behaviour, int], float] = field(default_factory=dict, repr=False)
    """Weight of all that a guarded puzzle computes on a shared answer."""
    _forms_of: dict[tuple[str, str, tuple[str, ...]], list[_Reading]] = field(default_factory=dict, repr=False)
    """Readings of one type's shared answers in another type, with the keys of dicts."""
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
        """Number of guarded puzzles whose accepted answers alone are evidence enough."""
        return sum(behaviour.is_telling for behaviours in self._behaviours.values() for behaviour in behaviours)

    @property
    def traced(self) -> int:
        """Number of guarded puzzles that are also compared by the values that they compute."""
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
        """Verify solutions of guarded puzzles, and record which of many answers each solved puzzle accepts and what it
        computes.

        Args:
            pool: The sandbox.
            solutions: Solution texts by the puzzle's id. Solutions that are not accepted are ignored.
        """
        answers = _accepted_answers(pool, [(self.puzzles[key], texts) for key, texts in solutions.items()])
        learned = [(self.puzzles[key], own) for key, own in zip(solutions, answers, strict=True) if own]
        for puzzle, own in learned:
            self._references[puzzle.answer_type] = [*{*self._references.get(puzzle.answer_type, ()), *own}]
        for kind, references in self._references.items():
            references.sort(key=lambda answer: (len(answer), answer))  # answers that take long to judge come last
            self._shared[kind] = _shared_answers(pool, kind, references)
        probes = [_probes(pool, puzzle.answer_type, own) for puzzle, own in learned]
        asked = [
            Asked(puzzle.source, [*self._shared[kind], *own[:MOST_OWN]], said=[*self._references[kind], *near])
            for (puzzle, own), near in zip(learned, probes, strict=True)
            for kind in [puzzle.answer_type]
        ]
        for (puzzle, own), near, report in zip(learned, probes, self._reports(pool, asked), strict=True):
            self._learn(puzzle, own[:MOST_OWN], near, report)

    def _learn(self, puzzle: Puzzle, own: list[bytes], probes: Sequence[bytes], report: Report) -> None:
        kind = puzzle.answer_type
        references = self._references[kind]
        of_references, of_probes = report.said[: len(references)], report.said[len(references) :]
        held = [codec.decode(answer) for answer, said in zip(references, of_references, strict=True) if said]
        settled = {probe: said for probe, said in zip(probes, of_probes, strict=True) if said is not None}
        self._behaviours.setdefault(kind, []).append(
            _Behaviour(
                self.names[puzzle.id],
                kind,
                sum(map(_evidence, held)) >= MIN_EVIDENCE,
                *_bits(of_references),
                [*settled],
                [*settled.values()],
                own,
                report.traced,
            )
        )

    def learned(self) -> dict[str, Any]:
        """What `learn_behaviour` has found out, for JSON."""
        return {
            "references": {kind: _texts(answers) for kind, answers in self._references.items()},
            "shared": {kind: _texts(answers) for kind, answers in self._shared.items()},
            "behaviours": {kind: [_kept(each) for each in known] for kind, known in self._behaviours.items()},
        }

    def recall(self, learned: Mapping[str, Any]) -> None:
        """Take what `learned` of an equal guard has given, in place of `learn_behaviour`."""
        self._references = {kind: _answers(texts) for kind, texts in learned["references"].items()}
        self._shared = {kind: _answers(texts) for kind, texts in learned["shared"].items()}
        self._behaviours = {kind: [_recalled(each) for each in kept] for kind, kept in learned["behaviours"].items()}

    def behaving_alike(self, pool: Pool, puzzles: Sequence[Puzzle]) -> list[tuple[str, Hit]]:
        """A hit for every guarded puzzle that one of these puzzles behaves like, with that puzzle's id."""
        readings = [self._readings(puzzle) for puzzle in puzzles]
        asked = [self._asked(puzzle, each) for puzzle, each in zip(puzzles, readings, strict=True)]
        found = zip(puzzles, readings, self._reports(pool, asked), strict=True)
        suspects = [each for puzzle, reading, report in found for each in self._suspects(puzzle, reading, report)]
        return [(suspect.puzzle.id, hit) for suspect, hit in self._confirmed(pool, suspects)]

    def _suspects(self, puzzle: Puzzle, readings: Sequence[_Reading], report: Report) -> list[_Suspect]:
        """The guarded puzzles that a puzzle may be like, the likeliest first."""
        shares = self._shares(readings, report)
        found = [
            _Suspect(puzzle, behaviour, way, share, weight)
            for (behaviour, way), (share, weight) in shares.items()
            if way != SAME_ANSWER and share >= SAME_VALUES and weight >= MIN_WEIGHT
        ]
        said = iter(report.said)
        for kind in self._own_kinds(puzzle):
            outcomes = [*itertools.islice(said, len(self._references[kind]))]
            accepted, refused = _bits(outcomes)
            for behaviour in self._behaviours[kind]:
                if not behaviour.accepted & ~refused:
                    continue  # it refuses all that the guarded puzzle accepts
                share, weight = shares.get((behaviour, SAME_ANSWER), (0.0, 0.0))
                accepts = bool(accepted & behaviour.accepted)
                agrees = not (accepted & behaviour.refused or refused & behaviour.accepted)
                is_like = agrees and (share >= SUSPECT_VALUES or (behaviour.is_telling and accepts))
                if is_like or (share >= SAME_VALUES and weight >= MIN_WEIGHT):
                    found.append(_Suspect(puzzle, behaviour, SAME_ANSWER, share, weight, accepts, agrees))
        return sorted(found, key=lambda each: -each.share)[:MOST_SUSPECTS]

    def _confirmed(self, pool: Pool, suspects: Sequence[_Suspect]) -> Iterator[tuple[_Suspect, Hit]]:
        """The suspects that compute the same on the guarded puzzle's own answers too. They get ample time."""
        clear = [each for each in suspects if each.accepts and each.share >= SAME_VALUES and each.weight >= MIN_WEIGHT]
        for each in clear:
            yield each, Hit("trace", each.behaviour.name, f"computes {each.share:.0%} of its values")
        rest = [each for each in suspects if each not in clear]
        asked = [each.asked(self._shared, pool.limits.answer_bytes) for each in rest]
        for suspect, report in zip(rest, reports(pool, asked, CHILDREN, pool.limits.cpu_seconds), strict=True):
            hit = suspect.hit(report)
            if hit is not None:
                yield suspect, hit

    # ---- values ----

    def _own_kinds(self, puzzle: Puzzle) -> list[str]:
        return [kind for kind in self._behaviours if answer_type.takes(puzzle.answer_type, kind)]

    def _readings(self, puzzle: Puzzle) -> list[_Reading]:
        """The shared answers to trace a puzzle on: those of its own type, then some of other types in its type."""
        own = self._own_kinds(puzzle)
        readings = [_Reading(kind, [*range(len(self._shared[kind]))], self._shared[kind], SAME_ANSWER) for kind in own]
        keys = _keys(puzzle)
        others = sorted(self._behaviours.keys() - own, key=lambda kind: (-len(self._behaviours[kind]), kind))
        left, text = MOST_FOREIGN, _with_x(puzzle)
        for kind in others:
            if not _may_read(text, puzzle.answer_type, kind):
                continue
            for reading in self._foreign(kind, puzzle.answer_type, keys):
                if left > 0:
                    readings.append(reading)
                    left -= len(reading.answers)
        return readings

    def _foreign(self, kind: str, declared: str, keys: tuple[str, ...]) -> list[_Reading]:
        """The shared answers of one type in each form that they can have in another type."""
        known = (kind, declared, keys)
        if known not in self._forms_of:
            places = [*range(min(FOREIGN_TELLING, len(self._shared[kind])))]
            places += range(TELLING, min(TELLING + FOREIGN_REFERENCES, len(self._shared[kind])))
            made: dict[int, list[tuple[int, bytes]]] = defaultdict(list)
            for place in places:
                for number, form in enumerate(forms(codec.decode(self._shared[kind][place]), declared, keys)):
                    with contextlib.suppress(codec.CodecError):
                        made[number].append((place, codec.encode(form, MOST_FORM_BYTES)))
            self._forms_of[known] = [
                _Reading(kind, [place for place, _ in answers], [answer for _, answer in answers], str(number))
                for number, answers in made.items()
            ]
        return self._forms_of[known]

    def _asked(self, puzzle: Puzzle, readings: Sequence[_Reading]) -> Asked:
        own = self._own_kinds(puzzle)
        return Asked(
            puzzle.source,
            [answer for reading in readings for answer in reading.answers],
            min(FOREIGN_TELLING, len(readings[0].answers)) if own else 0,
            [answer for kind in own for answer in self._references[kind]],
            len(readings) == len(own) and not _TRANSFORMING.search(_with_x(puzzle)),
        )

    def _reports(self, pool: Pool, asked: Sequence[Asked]) -> list[Report]:
        """What puzzles do on their answers. If one is so slow that it shows no value, it gets more time for a few."""
        found = reports(pool, asked, CHILDREN, min(ASKED_CPU_SECONDS, pool.limits.cpu_seconds))
        silent = [i for i, report in enumerate(found) if report.traced and all(each is None for each in report.traced)]
        short = [replace(asked[index], traced=asked[index].traced[:SLOW_TRACED], said=()) for index in silent]
        for index, report in zip(silent, reports(pool, short, CHILDREN, pool.limits.cpu_seconds), strict=True):
            rest: list[Items | None] = [None] * (len(asked[index].traced) - len(report.traced))
            found[index] = replace(found[index], traced=report.traced + rest, views=report.views)
        return found

    def _shares(
        self, readings: Sequence[_Reading], report: Report
    ) -> dict[tuple[_Behaviour, str], tuple[float, float]]:
        """The share of each guarded puzzle's values that a puzzle computes too, with their weight for each answer, by
        the way in which it reads the answers.
        """
        if not self._values:
            self._index_values()
        traced = iter(report.traced)
        seen = [(reading.way, reading, [*itertools.islice(traced, len(reading.answers))]) for reading in readings]
        seen += [(view, readings[0], list(values)) for view, values in report.views.items()]
        best: dict[tuple[_Behaviour, str], tuple[float, float]] = {}
        for way, reading, items in seen:
            found: dict[_Behaviour, float] = defaultdict(float)
            known = [(place, each) for place, each in zip(reading.places, items, strict=False) if each is not None]
            for place, each in known:
                values = self._values[reading.kind, place]
                for value in each.keys() & values.keys():
                    weight, behaviours = values[value]
                    for behaviour in behaviours:
                        found[behaviour] += weight
            for behaviour, weight in found.items():
                whole = sum(self._weights.get((behaviour, place), 0.0) for place, _ in known)
                best[behaviour, way] = (weight / whole, weight / len(known))
        return best

    def _index_values(self) -> None:
        for kind, behaviours in self._behaviours.items():
            for place in range(len(self._shared[kind])):
                who: dict[int, list[_Behaviour]] = defaultdict(list)
                weights: dict[int, int] = {}
                for behaviour in behaviours:
                    for value, weight in (behaviour.traced[place] or {}).items():
                        who[value].append(behaviour)
                        weights[value] = weight
                values = {
                    value: (_value_weight(weights[value], len(those), len(behaviours)), those)
                    for value, those in who.items()
                }
                self._values[kind, place] = {value: each for value, each in values.items() if each[0] > 0}
                for told, those in self._values[kind, place].values():
                    for behaviour in those:
                        self._weights[behaviour, place] = self._weights.get((behaviour, place), 0.0) + told


def _may_read(text: str, declared: str, kind: str) -> bool:
    """Whether a text with X for its answer has what it takes to get an answer of another type out of its own."""
    name, arguments = answer_type.split(declared)
    if kind in arguments and (sign := MEMBER_READERS.get(name)) is not None:
        return re.search(sign, text) is not None
    sign = READERS.get((name, answer_type.split(kind)[0]))
    return sign is not None and re.search(sign, text) is not None


def _with_x(puzzle: Puzzle) -> str:
    """A puzzle's text with X for every name that its answer may have: those of every function's first parameter."""
    names = set(_FIRST_PARAMETER.findall(puzzle.source))
    return _WORD.sub(lambda found: "X" if found[0] in names else found[0], puzzle.source)


_WORD = re.compile(r"\w+")
_FIRST_PARAMETER = re.compile(r"def \w+\((\w+)")
_TRANSFORMING = re.compile(
    r"= X [-+] \w+$|\w\(X [-+] \w+[,)]|[-+][^\[\]]* for \w+ in X\b"  # it is shifted
    r"|= -X$|\w\(-X[,)]|[=(] ?X\[::-1\]|reversed\(X\b|swapcase",  # it is turned
    re.MULTILINE,
)
"""What a text with X for its answer holds, if it may shift, negate or reverse its answer before it asks about it."""
_KEY = re.compile(r"""\[['"](\w+)['"]""")
"""A text that a program uses as an index."""


def _keys(puzzle: Puzzle) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_KEY.findall(puzzle.source)))[:MOST_KEYS]


def _value_weight(weight: int, computed_by: int, of: int) -> float:
    """How much it tells that a puzzle computes a value: much if it is long, and if few guarded puzzles compute it."""
    is_pair, length = divmod(weight, HEAVIEST + 1)
    rarity = math.log((of + 1) / computed_by) / math.log(of + 1)
    return min(length, LONG_VALUE) * rarity * (1.5 if is_pair else 1)


def _share_of(known: Sequence[Items | None], found: Sequence[Items | None]) -> float:
    """The share of a guarded puzzle's values that are among those found, by their weights."""
    shared = whole = 0.0
    for one, other in zip(known, found, strict=False):
        for value, weight in (one or {}).items():
            told = _value_weight(weight, 1, 1)
            whole += told
            shared += told if value in (other or {}) else 0.0
    return shared / whole if whole else 0.0


def _bits(outcomes: Sequence[bool | None]) -> tuple[int, int]:
    """The places of what was accepted and of what was refused, as bits."""
    accepted = sum(1 << place for place, said in enumerate(outcomes) if said)
    return accepted, sum(1 << place for place, said in enumerate(outcomes) if said is False)


def _agree(one: Sequence[bool | None], other: Sequence[bool | None]) -> bool:
    """Whether two puzzles say the same of all answers that both decide. What met a limit is no difference."""
    return all(said == known for said, known in zip(one, other, strict=True) if None not in (said, known))


def _shared_answers(pool: Pool, kind: str, references: Sequence[bytes]) -> list[bytes]:
    """Encoded answers on which all puzzles of a type are traced: telling ones, then reference answers."""
    telling = (codec.encode(answer, pool.limits.answer_bytes) for answer in telling_answers(kind, TELLING))
    few = [answer for answer in references if len(answer) <= MOST_SHARED_BYTES]
    step = max(1, math.ceil(len(few) / SHARED_REFERENCES))
    return [*dict.fromkeys([*telling, *few[::step]])]


LEARNED: Shape = an_object(
    references=any_key(TEXTS), shared=any_key(TEXTS), behaviours=any_key(a_list(an_object(
        name=TEXT, kind=TEXT, is_telling={"type": "boolean"}, accepted=TEXT, refused=TEXT, probes=TEXTS,
        of_probes=a_list({"type": "boolean"}), own=TEXTS, traced=a_list({"type": ["array", "null"]}),
    ))),
)  # fmt: skip
"""JSON shape of what a guard has learned."""


def _texts(answers: Sequence[bytes]) -> list[str]:
    return [answer.decode("ascii") for answer in answers]


def _answers(texts: Sequence[str]) -> list[bytes]:
    return [text.encode("ascii") for text in texts]


def _kept(behaviour: _Behaviour) -> dict[str, Any]:
    """A behaviour for JSON. Bits are written in hexadecimal, because they make long integers."""
    return {
        **vars(behaviour), "accepted": f"{behaviour.accepted:x}", "refused": f"{behaviour.refused:x}",
        "probes": _texts(behaviour.probes), "own": _texts(behaviour.own),
        "traced": [None if items is None else [*items.items()] for items in behaviour.traced],
    }  # fmt: skip


def _recalled(kept: Mapping[str, Any]) -> _Behaviour:
    traced = [None if items is None else {int(value): int(times) for value, times in items} for items in kept["traced"]]
    bits = {name: int(kept[name], 16) for name in ("accepted", "refused")}
    answers = {name: _answers(kept[name]) for name in ("probes", "own")}
    return _Behaviour(**{**kept, **bits, **answers, "traced": traced})


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
    missed = in_turn(*map(near_misses, map(codec.decode, references)))
    probes: dict[bytes, None] = {}
    for value in itertools.chain(answer_type.trivial_answers(declared)[:8], missed):
        if len(probes) < MOST_PROBES and answer_type.matches(value, declared):
            with contextlib.suppress(codec.CodecError):
                probes[codec.encode(value, pool.limits.answer_bytes)] = None
    return list(probes)
