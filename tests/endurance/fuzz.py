"""Fuzzes the verifier: `python tests/endurance/fuzz.py --minutes 60 [--seed N]`.

Edited pairs, texts and answers of random bytes, and programs that write random bytes over their own
report go through the verifier in rounds. After each round nothing may have been raised, every
verdict is a known one, what has no solution is not accepted, and the supervisor is as it was: the
same zygotes with no process left below them, as many descriptors, no more memory. Some of what was
accepted is judged again in a fresh pool.

Exit status 1 on a violation; its smallest reproduction is in the file that the output names.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]

from reaching import MODULES, REPORT_FRAME  # noqa: E402

from puzzles.parse import Text, parse_puzzles  # noqa: E402  # a script's path begins with its own folder
from puzzles.puzzle import Judgement, Puzzle, Verdict  # noqa: E402
from puzzles.verify import judge_answers, truth_pool, verify_texts  # noqa: E402
from sandbox import codec  # noqa: E402
from sandbox.pool import Pool  # noqa: E402
from sandbox.result import Limits  # noqa: E402

LIMITS = Limits(cpu_seconds=0.25, wall_seconds=1, memory_bytes=128 * 1024**2, answer_bytes=16 * 1024)
ROUND = 48
RECHECK_EVERY = 25
"""Rounds between two fresh pools."""
WARM_UP_ROUNDS = 40
RSS_MAY_GROW = 48 * 1024**2

NEVER = "def f(x: int):\n    return x != x"
SLOT = (
    MODULES
    + REPORT_FRAME
    + """
def write(at, text):
    slot, start = report_frame()["slot"], report_frame()["start"]
    data = bytes.fromhex(text)[: len(slot) - start - at]
    slot[start + at : start + at + len(data)] = data
"""
)
LEAVE = ("modules['posix']._exit(0)", "return 1", "raise SystemExit(0)", "return True", "while True: pass")

Item = tuple[str, str]
"""Two texts: puzzle and solution, or puzzle and an encoded answer as latin-1."""


@dataclass
class Violation(Exception):
    """What the verifier must not do, and the items that made it."""

    what: str
    kind: str
    items: list[Item]

    def __str__(self) -> str:
        return self.what


@dataclass
class Summary:
    """What was tried and what came of it."""

    rounds: int = 0
    rechecked: int = 0
    verdicts: dict[str, Counter[str]] = field(default_factory=dict)
    violation: str = ""
    reproduction: Path | None = None
    peak_growth: int = 0
    """Of the supervisor's resident memory after the warm-up, in bytes."""

    @property
    def judged(self) -> int:
        return sum(sum(counts.values()) for counts in self.verdicts.values())

    def table(self) -> str:
        names = [verdict.value for verdict in Verdict]
        lines = [f"{'':10}" + "".join(f"{name:>19}" for name in names)]
        for kind, counts in self.verdicts.items():
            lines.append(f"{kind:10}" + "".join(f"{counts[name]:>19,}" for name in names))
        return "\n".join(lines)


# ---- what is tried ----


class Source:
    """Items of each kind, from one random generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        rows = [json.loads(line) for line in (ROOT / "puzzles" / "train.jsonl").read_text("utf-8").splitlines()]
        self.pairs: list[Item] = [(row["puzzle"], row["solution"]) for row in rows]
        self.answers: list[tuple[str, bytes]] = []
        """Puzzles and their right answers, once they are known."""
        self.tokens = [token for pair in self.pairs for text in pair for token in tokens(text)]
        self.kinds: dict[str, Callable[[], Item]] = {
            "edited": self.edited,
            "bytes": self.bytes_,
            "answers": self.answer,
            "slots": self.slot,
            "puzzles": self.slot_puzzle,
        }

    def items(self, kind: str) -> list[Item]:
        return [self.kinds[kind]() for _ in range(ROUND)]

    def edited(self) -> Item:
        """A known pair with a few edits, more often in the solution."""
        puzzle, solution = self.random.choice(self.pairs)
        if self.random.random() < 0.4:
            puzzle = self.edit(puzzle)
        if self.random.random() < 0.7:
            solution = self.edit(solution)
        return puzzle, solution

    def edit(self, text: str) -> str:
        parts = tokens(text)
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 8))):
            at, other = (self.random.randrange(len(parts) or 1) for _ in range(2))
            match self.random.randrange(7):
                case 0:
                    del parts[at : at + 1]
                case 1:
                    parts[at:at] = parts[at : at + self.random.choice((1, 1, 5, 40))]
                case 2 if parts:
                    parts[at], parts[other] = parts[other], parts[at]
                case 3:
                    parts[at : at + 1] = [self.random.choice(self.tokens)]
                case 4:
                    donor = tokens(self.random.choice(self.random.choice(self.pairs)))
                    cut = self.random.randrange(len(donor))
                    parts[at:other] = donor[cut : cut + 12]
                case 5:
                    parts[at : at + 1] = [self.literal()]
                case _:
                    parts = [self.literal() if re.fullmatch(r"\d+", part) else part for part in parts]
        return "".join(parts)

    def literal(self) -> str:
        pick = self.random
        return pick.choice(
            (
                str(pick.choice((0, 1, -1, 2**31, 2**63, 10**30, pick.randrange(1000)))),
                repr(pick.uniform(-1e9, 1e9)),
                repr(self.text(pick.randrange(9))),
                pick.choice(("None", "True", "[]", "()", "{}", "set()", "''", "1e999", "10**10**8", "x", "f", "g")),
            )
        )

    def text(self, length: int) -> str:
        """Of all planes, surrogates included."""
        planes = (0x80, 0x100, 0xE000, 0x110000)
        return "".join(chr(self.random.randrange(self.random.choice(planes))) for _ in range(length))

    def noise(self) -> str:
        length = self.random.choice((0, 1, 5, 60, 900))
        if self.random.random() < 0.5:
            return self.random.randbytes(length).decode("latin-1")
        return self.text(length)

    def bytes_(self) -> Item:
        """Noise in the place of the puzzle, of the solution, or in the midst of either."""
        puzzle, solution = self.random.choice(self.pairs)
        texts = [puzzle, solution]
        which = self.random.randrange(2)
        at = self.random.randrange(len(texts[which]))
        keep = self.random.random() < 0.5
        texts[which] = texts[which][:at] + self.noise() + texts[which][at:] if keep else self.noise()
        return texts[0], texts[1]

    def answer(self) -> Item:
        """A known puzzle, and bytes that encode an answer, nearly encode one, or are noise."""
        puzzle, _ = self.random.choice(self.pairs)
        values = (7, -1, 2**70, 0.5, "ab", [1, [2]], (1, "a"), {1, 2}, {"a": [1]}, None, True, self.text(5), [[]] * 20)
        encoded = bytearray(codec.encode(self.random.choice(values), 10_000))
        if self.answers and self.random.random() < 0.6:
            puzzle, right = self.random.choice(self.answers)
            encoded = bytearray(right)
        for _ in range(self.random.randrange(4)):
            at = self.random.randrange(len(encoded) or 1)
            piece = self.random.choice(
                (b"", b"[", b"]", b'"', b"{", b",", b"\\", b"1e9", b"NaN", bytes([at % 256]) * 9)
            )
            encoded[at : at + self.random.randrange(3)] = piece
        if self.random.random() < 0.2:
            encoded = bytearray(self.random.randbytes(self.random.choice((0, 1, 30, 3000))))
        return puzzle, encoded.decode("latin-1")

    def writes(self) -> str:
        """Lines that write over the report: noise, or a header that claims too much or too little."""
        lines = []
        for _ in range(self.random.choice((1, 1, 2, 4))):
            pick = self.random
            at = pick.choice((0, 0, 0, 8, 12, 16, 20, pick.randrange(20_000)))
            data = pick.randbytes(pick.choice((1, 4, 40, 4000)))
            if at == 0 and pick.random() < 0.8:
                words = [pick.choice((0, 1, 2, 3, 4, 2**31, 2**32 - 1, pick.randrange(2**32))) for _ in range(3)]
                words[2] = pick.choice((words[2], 1, 5, 4000))
                record = pick.choice((b"Vtrue", b"V1", b"L0", b"M", b"E", b"U", b"R", b"", pick.randbytes(9)))
                data = b"records\0" + b"".join(word.to_bytes(4, "little") for word in words) + record + data
            lines.append(f"    write({at}, '{data.hex()}')")
        return "\n".join(lines)

    def slot(self) -> Item:
        """A candidate for a puzzle without a solution."""
        return NEVER, f"{SLOT}def g():\n{self.writes()}\n    {self.random.choice(LEAVE)}"

    def slot_puzzle(self) -> Item:
        """The judge's own report: a puzzle may accept what it likes, and break nothing."""
        return f"{SLOT}def f(x: int):\n{self.writes()}\n    {self.random.choice(LEAVE)}", "def g(): return 1"


def tokens(text: str) -> list[str]:
    return re.findall(r"\w+|\s+|[^\w\s]", text)


# ---- what is checked ----


def below(pid: int) -> set[int]:
    """Every process below one."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    new = {pid}
    while new:
        new = {process for process, parent in parents.items() if parent in new} - found
        found |= new
    return found


def zygotes(pool: Pool) -> set[int]:
    return {zygote._process.pid for lane in pool._lanes for zygote in lane._zygotes.values()}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def judge(pool: Pool, kind: str, items: Sequence[Item]) -> list[Judgement]:
    if kind != "answers":
        return verify_texts(pool, items)
    asked = parse_puzzles(pool, [Text(puzzle) for puzzle, _ in items])
    for item, puzzle in zip(items, asked, strict=True):
        if not isinstance(puzzle, Puzzle):
            raise Violation(f"a puzzle of the shipped ones does not parse: {puzzle}", kind, [item])
    return judge_answers(
        pool, [(puzzle, answer.encode("latin-1")) for puzzle, (_, answer) in zip(asked, items, strict=True)]
    )


def wrong_with(kind: str, items: Sequence[Item], judgements: Sequence[Judgement]) -> str:
    if len(judgements) != len(items):
        return f"{len(judgements)} judgements of {len(items)} pairs"
    for item, judgement in zip(items, judgements, strict=True):
        if not isinstance(judgement.verdict, Verdict):
            return f"an unknown verdict: {judgement.verdict!r}"
        if judgement.verdict == Verdict.ACCEPTED and item[0] == NEVER:
            return "a puzzle without a solution was solved"
        if not judgement.detail.isprintable():
            return f"a detail that cannot be printed: {judgement.detail!r}"
    return ""


class Fuzzer:
    """One pool, its rounds and its checks."""

    def __init__(self, seed: int, lanes: int = 2) -> None:
        self.seed = seed
        self.source = Source(seed)
        self.summary = Summary(verdicts={kind: Counter() for kind in self.source.kinds})
        self.accepted: list[tuple[str, Item]] = []
        self.pool = truth_pool(LIMITS, lanes=lanes, seed=seed)
        self.others = below(os.getpid())
        self._warm_up()

    def close(self) -> None:
        self.pool.close()

    def _warm_up(self) -> None:
        """Until every zygote that any round needs has been started in both lanes."""
        count = 12 * len(self.pool._lanes)
        many = [(f"def f(x: int): return x % {n} == 1", "def g(): return 1") for n in range(2, count)]
        pairs = self.source.pairs[: 2 * count]
        for _ in range(2):
            judgements = verify_texts(self.pool, [*pairs, *many])
            verify_texts(self.pool, [(many[n % 9][0], f"def g(): return {n}") for n in range(2 * count)])
        self.source.answers = [
            (puzzle, codec.encode(ast.literal_eval(judgement.answer), LIMITS.answer_bytes))
            for (puzzle, _), judgement in zip(pairs, judgements, strict=False)
            if judgement.verdict == Verdict.ACCEPTED and judgement.answer not in (None, "set()")
        ]
        self.zygotes, self.descriptors, self.resident = zygotes(self.pool), descriptors(), 0

    def round(self, kind: str) -> None:
        items = self.source.items(kind)
        try:
            judgements = judge(self.pool, kind, items)
        except Exception as error:  # whatever the supervisor raises is the finding
            raise Violation(f"{type(error).__name__}: {error}", kind, items) from error
        what = wrong_with(kind, items, judgements) or self.disorder()
        if what:
            raise Violation(what, kind, items)
        self.summary.rounds += 1
        self.summary.verdicts[kind].update(judgement.verdict.value for judgement in judgements)
        self.accepted += [
            (kind, item)
            for item, judgement in zip(items, judgements, strict=True)
            if judgement.verdict == Verdict.ACCEPTED and judgement.cpu_seconds < LIMITS.cpu_seconds / 3
        ]
        if self.summary.rounds % RECHECK_EVERY == 0:
            self.recheck()

    def disorder(self) -> str:
        """What of this process is not as it was before the round."""
        now = zygotes(self.pool)
        if not self.zygotes <= now:
            return f"zygotes were restarted: {sorted(self.zygotes - now)} ended, {sorted(now - self.zygotes)} are new"
        if now != self.zygotes:  # the first job of its kind in its lane
            self.zygotes, self.descriptors = now, descriptors()
        for _ in range(100):
            left = below(os.getpid()) - self.others - now
            inner = {pid: below(pid) for pid in now}
            if left == set().union(*inner.values()) and all(len(family) <= 1 for family in inner.values()):
                break
            time.sleep(0.02)
        else:
            return f"processes are left: {sorted(left)}"
        if descriptors() != self.descriptors:
            return f"{descriptors()} open descriptors instead of {self.descriptors}"
        if self.summary.rounds == WARM_UP_ROUNDS:
            self.resident = resident()
        growth = resident() - self.resident if self.resident else 0
        self.summary.peak_growth = max(self.summary.peak_growth, growth)
        return f"the supervisor grew by {growth:,} bytes" if growth > RSS_MAY_GROW else ""

    def recheck(self) -> None:
        """Accepted is accepted again, in zygotes that have seen nothing else; a limit is the machine's matter."""
        again = self.source.random.sample(self.accepted, min(12, len(self.accepted)))
        self.accepted.clear()
        for kind in self.source.kinds:
            items = [item for item_kind, item in again if item_kind == kind]
            if not items:
                continue
            with truth_pool(LIMITS, lanes=1, seed=self.seed) as fresh:
                judgements = judge(fresh, kind, items)
            for item, judgement in zip(items, judgements, strict=True):
                if judgement.verdict not in (Verdict.ACCEPTED, Verdict.TIME_LIMIT):
                    raise Violation(
                        f"accepted, and in a fresh pool {judgement.verdict}: {judgement.detail}", kind, [item]
                    )
            self.summary.rechecked += len(items)


def smallest(violation: Violation, seed: int, tries: int = 40) -> list[Item]:
    """The fewest items that still do it, each part tried in a fuzzer of its own; all, where no part does."""

    def fails(items: Sequence[Item]) -> bool:
        fuzzer = Fuzzer(seed, lanes=1)
        try:
            judgements = judge(fuzzer.pool, violation.kind, items)
            return bool(wrong_with(violation.kind, items, judgements) or fuzzer.disorder())
        except Exception:  # noqa: BLE001  # whatever is raised is the finding
            return True
        finally:
            fuzzer.close()

    items, size = list(violation.items), len(violation.items) // 2
    while size and tries > 0:
        for start in range(0, len(items), size):
            part = items[start : start + size]
            tries -= 1
            if tries >= 0 and len(part) < len(items) and fails(part):
                items, size = part, len(part)
                break
        size //= 2
    return items


def fuzz(seconds: float, seed: int, folder: Path, say: Callable[[str], None] = print) -> Summary:
    """Rounds until the time is over or something is wrong; a line per minute."""
    fuzzer = Fuzzer(seed)
    started = said = time.monotonic()
    try:
        kinds = list(fuzzer.source.kinds)
        # On a busy machine, too, each kind has its turn.
        while (now := time.monotonic()) - started < seconds or fuzzer.summary.rounds < len(kinds):
            fuzzer.round(kinds[fuzzer.summary.rounds % len(kinds)])
            if now - said >= 60:
                said = now
                summary = fuzzer.summary
                accepted = sum(counts["accepted"] for counts in summary.verdicts.values())
                say(
                    f"{(now - started) / 60:4.0f} min  {summary.rounds:,} rounds  {summary.judged:,} judged  "
                    f"{accepted:,} accepted  {summary.rechecked:,} again  {descriptors()} descriptors  "
                    f"{resident() / 2**20:.0f} MiB"
                )
    except Violation as violation:
        summary = fuzzer.summary
        fuzzer.close()
        summary.violation = violation.what
        summary.reproduction = folder / f"fuzz-{seed}-{summary.rounds}.json"
        found = {"what": violation.what, "kind": violation.kind, "seed": seed, "items": smallest(violation, seed)}
        summary.reproduction.write_text(json.dumps(found, indent=1))
        say(f"VIOLATION after {summary.rounds:,} rounds: {violation.what}\nreproduction: {summary.reproduction}")
    finally:
        fuzzer.close()
    summary = fuzzer.summary
    say(summary.table())
    say(
        f"{summary.judged:,} judged in {summary.rounds:,} rounds, {summary.rechecked:,} accepted ones again; "
        f"memory grew by {summary.peak_growth / 2**20:.1f} MiB at most; seed {seed}"
    )
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--folder", type=Path, default=Path("."), help="where a reproduction is written")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
    return 1 if fuzz(60 * arguments.minutes, seed, arguments.folder).violation else 0


if __name__ == "__main__":
    sys.exit(main())
