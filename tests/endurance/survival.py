"""What a run survives: crashes at chosen places, full disks, bare environments, broken files, and long runs.

    python tests/endurance/survival.py                          everything, in less than an hour on two cores
    python tests/endurance/survival.py --only crashes --points 1000 --seed 7 --folder survived

Every point is a run of its own: something happens to it, the same command goes on, and what it wrote is compared
with the run that nothing happened to: every table but for times, records, scores, weights to the bit, and the names
of its files. Results are kept in a folder line by line, so the harness itself may be stopped, and goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "shared")]  # a script's path begins with its own folder

import fuzz  # noqa: E402
import fuzz_inputs  # noqa: E402
import interrupted  # noqa: E402
import learned  # noqa: E402
import scripted_run  # noqa: E402
from interrupted import ENTRY, MEMORY, SNAPSHOT, Cut, Ended  # noqa: E402
from tiny_models import make_model  # noqa: E402

from puzzles.archive.store import Archive  # noqa: E402
from puzzles.verify import truth_pool  # noqa: E402
from sandbox import selfcheck  # noqa: E402
from selfplay.commands.main import KEPT  # noqa: E402
from selfplay.config import EvaluateConfig, ProposeConfig, SolveConfig  # noqa: E402
from selfplay.run.ending import INTERRUPTED  # noqa: E402
from selfplay.run.heartbeat import read_status  # noqa: E402
from selfplay.run.progress import Progress  # noqa: E402
from selfplay.run.rundir import append_line, read_lines  # noqa: E402
from selfplay.text import render  # noqa: E402

BRANCHING = "branching"
STAGES = {
    BRANCHING: "selfplay.iteration.beginning:branch",
    "importing": "selfplay.iteration.loop:import_training",
    "proposing": "selfplay.iteration.loop:propose_stage",
    "varying": "selfplay.iteration.loop:vary_stage",
    "solving": "selfplay.iteration.loop:solve_stage",
    "teaching": "selfplay.iteration.loop:teach_stage",
    "training": "selfplay.iteration.loop:train_stage",
    "scoring": "selfplay.iteration.loop:score_stage",
    "recording": "selfplay.iteration.loop:append_line",
}
WITHIN = {
    "a sampling step": "selfplay.sampling.decode:draw",
    "a batch of judging": "sandbox.pool:_Lane.start",
    "a forward pass": "selfplay.training.finetune:log_probabilities",
    "an optimiser step": "torch.nn.utils:clip_grad_norm_",
    "writing a pair": "puzzles.archive.store:Archive.add",
    "writing a puzzle": "puzzles.archive.store:Archive.add_puzzle",
    "writing a proposal": "puzzles.archive.store:Archive.add_proposal",
    "writing a candidate": "puzzles.archive.store:Archive.add_candidate",
    "writing what is trained on": "puzzles.archive.store:Archive.add_trained",
    "writing sampled texts": "puzzles.archive.store:Archive.set_completions",
    "writing a file": "os:fsync",
    "renaming a file": "os:rename",
}
KILL, TERM, INT, HUP = (int(number) for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
POWER_CUT, ANYWHERE, AGAIN = "power cut", "killed anywhere", "killed again and again"
ACTIONS: dict[str, int | str] = {
    "SIGKILL": KILL, "SIGTERM": TERM, "SIGINT": INT, "SIGHUP": HUP, "out of memory": MEMORY,
    "copied in the act": SNAPSHOT, POWER_CUT: KILL,
}  # fmt: skip
HEARD = ("SIGTERM", "SIGINT", "SIGHUP")
SHARES = {"SIGKILL": 8, POWER_CUT: 3, **dict.fromkeys(HEARD, 2), "copied in the act": 2, "out of memory": 2}
"""Of the points at chosen places."""
MORE = [
    "--set", "iterations=2", "--set", "vary.variations=8", "--set", "solve.further_puzzles=2",
    "--set", "solve.further_candidates=4",
]  # fmt: skip
ENDS_WITHIN_SECONDS = 10.0
LAST_WORDS = "selfplay: interrupted; what was finished is kept, and the same command continues\n"


def signals_are_ignored() -> bool:
    """As in a session that was begun in the background; what is begun there ignores them, too."""
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@dataclass(frozen=True)
class Point:
    """Where something happens to a run."""

    kind: str
    """A key of `ACTIONS`, or `ANYWHERE` or `AGAIN`."""
    stage: str = ""
    inner: str = ""
    nth: int = 0

    @property
    def where(self) -> str:
        return f"{self.stage}, {'before' if self.inner == ENTRY else self.inner}" if self.stage else "anywhere"

    @property
    def is_inside(self) -> bool:
        """Inside a write, a step of sampling, a batch of judging or a step of the optimiser."""
        return bool(self.stage) and self.inner != ENTRY


class Crashes:
    """Runs of a tiny model in processes that are cut off.

    Args:
        folder: Of this harness; what is there from an earlier session is used.
        seed: Of the choice of points.
        protections: Of the sandbox, checked once.
    """

    def __init__(self, folder: Path, seed: int, protections: Any) -> None:
        self.folder, self.seed, self.protections = folder, seed, protections
        self.server = interrupted.server()
        folder.mkdir(parents=True, exist_ok=True)
        model = folder / "model"
        if not model.exists():
            with tempfile.TemporaryDirectory() as random_model:
                learned.make_model(make_model("llama", Path(random_model) / "tiny"), model)
        if not (folder / "tiny.toml").exists():
            learned.make_files(folder, model)
        self.whole = folder / "whole" / "runs" / "tiny"
        self.begin = ["run", folder / "tiny.toml", *MORE]
        self.branch = ["run", "--from", f"{self.whole}@1", "--name", "tiny"]
        self.seconds, self.counts = self._counted("whole", self.begin)
        _, counts = self._counted("branch", self.branch)
        self.counts |= {place: number for place, number in counts.items() if place.startswith(BRANCHING)}

    def _counted(self, name: str, command: list[Any]) -> tuple[float, dict[str, int]]:
        """A run that nothing happens to: its seconds, and how often each function is called in each stage."""
        place, counts = self.folder / name, self.folder / f"{name}.json"
        started = time.monotonic()
        if not (place / "done").exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            ended = self.run(place, command, (interrupted.count_calls, STAGES, WITHIN, counts))
            assert ended.status == 0, ended.err
            (place / "done").write_text(str(time.monotonic() - started))
        return float((place / "done").read_text()), json.loads(counts.read_text())

    def run(
        self, place: Path, command: list[Any], prepare: tuple[Any, ...] = (),
        meanwhile: Callable[[int], object] = lambda pid: None,
    ) -> Ended:  # fmt: skip
        """A command in a process that is watched from outside."""
        return interrupted.run_command(self.server, place, self.protections, command, prepare, meanwhile)

    def points(self, number: int) -> list[Point]:
        """So many; all stages and all that happens within them in turn, and of their calls any."""
        drawn = random.Random(self.seed)
        kinds = [kind for kind, share in SHARES.items() for _ in range(share)]
        apart = [ANYWHERE] * (number // 10) + [AGAIN] * min(3, number // 20)
        places = sorted(self.counts)
        drawn.shuffle(places)
        drawn.shuffle(kinds)
        found: dict[Point, None] = {}
        for turn in range(50 * number):
            if len(found) == number - len(apart):
                break
            stage, _, inner = places[turn % len(places)].partition("/")
            nth = drawn.randint(1, self.counts[f"{stage}/{inner}"])
            found[Point(kinds[len(found) % len(kinds)], stage, inner, nth)] = None
        return [*found, *(Point(kind, nth=turn) for turn, kind in enumerate(apart))]

    def try_all(self, number: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
        """What came of the points, those of earlier sessions included."""
        results, points = self.folder / f"crashes-{self.seed}.jsonl", self.points(number)
        done = read_lines(results)
        for point in points[len(done) :]:
            result = {**vars(point), "where": point.where, "inside": point.is_inside, **self.try_one(point)}
            append_line(results, result)
            if result["wrong"]:
                say(f"{point.kind}, {point.where}, call {point.nth}: {'; '.join(result['wrong'])}")
        return read_lines(results)[:number]

    def try_one(self, point: Point) -> dict[str, Any]:
        """A run that this happens to, and that goes on."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place = Path(name)
            trial = _Trial(self, point, place)
            trial.happen()
            trial.go_on(place)
            return {
                "wrong": trial.wrong, "reached": trial.reached, "seconds": round(trial.seconds, 2),
                "ended": trial.ended,
            }  # fmt: skip


class _Trial:
    def __init__(self, crashes: Crashes, point: Point, place: Path) -> None:
        self.crashes, self.point, self.place = crashes, point, place
        self.command = crashes.branch if point.stage == BRANCHING else crashes.begin
        self.wrong: list[str] = []
        self.reached = True
        self.seconds = 0.0
        """From a signal to the end."""
        self.ended: list[int] = []
        self.run = place / "runs" / "tiny"

    def happen(self) -> None:
        """The point comes to pass."""
        kind, drawn = self.point.kind, random.Random(f"{self.crashes.seed} {self.point}")
        if kind == ANYWHERE:
            self._kill_after(drawn.uniform(0, self.crashes.seconds))
        elif kind == AGAIN:
            for _ in range(8):
                self._kill_after(drawn.uniform(0.3, 0.6) * self.crashes.seconds)
        else:
            self._cut(kind, drawn)

    def _kill_after(self, seconds: float) -> None:
        begun = time.monotonic()

        def kill(pid: int) -> None:
            if time.monotonic() - begun > seconds:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        ended = self.crashes.run(self.place, self.command, meanwhile=kill)
        self._expect(ended, (-signal.SIGKILL, 0))

    def _cut(self, kind: str, drawn: random.Random) -> None:
        stage, inner = STAGES[self.point.stage], WITHIN.get(self.point.inner, ENTRY)
        cut = Cut(stage, inner, self.point.nth, ACTIONS[kind])
        synced = self.place / "synced.jsonl"
        prepare = (install_noting_syncs, cut, synced) if kind == POWER_CUT else (interrupted.install, cut)
        ended = self.crashes.run(self.place, self.command, prepare, self._copy)
        expected = {
            "SIGKILL": (-signal.SIGKILL,), POWER_CUT: (-signal.SIGKILL,), **dict.fromkeys(HEARD, (INTERRUPTED,)),
            "copied in the act": (0,), "out of memory": (0, 2, 3, -signal.SIGABRT),
        }[kind]  # fmt: skip
        # A thread that only beats calls some functions as often as there is time, so a call may not come again.
        self.reached = (self.place / interrupted.HAPPENED).exists()
        self._expect(ended, expected if self.reached else (0,))
        if kind in HEARD and self.reached:
            self.seconds = ended.at - float((self.place / interrupted.HAPPENED).read_text())
            if not ended.err.endswith(LAST_WORDS):
                self.wrong.append(f"its last words were {ended.err[-100:]!r}")
            if self.seconds > ENDS_WITHIN_SECONDS:
                self.wrong.append(f"it took {self.seconds:.1f} s to end")
        if kind == POWER_CUT:
            cut_power(self.run, synced, drawn)

    def _copy(self, pid: int) -> None:
        if interrupted.state_of(pid) == "T":
            copy = self.place / "copy"
            if self.run.parent.exists() and not copy.exists():  # it may be too early for anything to copy
                shutil.copytree(self.run.parent, copy / "runs")
            os.kill(pid, signal.SIGCONT)

    def _expect(self, ended: Ended, statuses: tuple[int, ...]) -> None:
        self.ended.append(ended.status)
        if ended.status not in statuses:
            self.wrong.append(f"it ended with {ended.status}: {ended.err.strip()[-300:]}")
        if "Traceback" in ended.err:
            self.wrong.append(f"a traceback: {ended.err.strip()[-300:]}")
        if ended.left:
            self.wrong.append(f"processes were left: {ended.left}")
        if self.run.joinpath("archive.sqlite").exists():
            self._check_archive(self.run / "archive.sqlite")

    def _check_archive(self, archive: Path) -> None:
        """It opens and is whole."""
        connection = sqlite3.connect(archive)
        try:
            (found,) = connection.execute("PRAGMA integrity_check").fetchone()
            if found != "ok":
                self.wrong.append(f"the archive is not whole: {found}")
        finally:
            connection.close()

    def go_on(self, place: Path) -> None:
        """By the same command, to the same end."""
        for folder in (place, place / "copy"):
            if folder.exists():
                ended = self.crashes.run(folder, self.command)
                self._expect(ended, (0,))
                # With less memory fewer rows were sampled side by side, and chunks say so.
                but = r'\\?"batch_rows\\?": ?[0-9]+' if self.point.kind == "out of memory" else None
                for part in interrupted.differences(folder / "runs" / "tiny", self.crashes.whole, but):
                    self.wrong.append(f"other {part}")


def install_noting_syncs(cut: Cut, synced: Path) -> None:
    """In the process that power is cut off from: note how much of the archive's log is safe."""
    sync = Archive.sync

    def noting(self: Archive) -> None:
        sync(self)
        salt, size = log_of(Path(f"{self.path}-wal"))
        append_line(synced, {"salt": salt, "bytes": size})

    Archive.sync = noting  # type: ignore[method-assign]
    interrupted.install(cut)


def log_of(log: Path) -> tuple[str, int]:
    """Of SQLite's write-ahead log: its salt, and where its frames end that are not from before it was begun anew.

    https://sqlite.org/fileformat.html#the_write_ahead_log
    """
    content = log.read_bytes() if log.exists() else b""
    if len(content) < 32:
        return "", 0
    (page,), salt, end = struct.unpack(">I", content[8:12]), content[16:24], 32
    while content[end + 8 : end + 16] == salt:
        end += 24 + page
    return salt.hex(), end


def cut_power(run: Path, synced: Path, drawn: random.Random) -> None:
    """Take away what a power cut may: of SQLite's log what was not synchronised, and the heartbeat."""
    log = run / "archive.sqlite-wal"
    salt, size = log_of(log)
    if size:
        safe = [line["bytes"] for line in read_lines(synced) if line["salt"] == salt]
        os.truncate(log, drawn.randint(safe[-1] if safe else 0, size))
    (run / "archive.sqlite-shm").unlink(missing_ok=True)
    if (run / "status.json").exists():
        (run / "status.json").write_bytes(b"")


# ---- machines that are not as expected ----


def environments(folder: Path) -> dict[str, dict[str, Any]]:
    """How else a run may be begun: arguments of `subprocess.run`."""
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}"}

    def limited(kind: int, most: int) -> dict[str, Any]:
        return {"preexec_fn": lambda: resource.setrlimit(kind, (most, most))}

    return {
        "LC_ALL=C, no home, no terminal": {"env": {**bare, "LC_ALL": "C", "HOME": "/nonexistent"}},
        "a folder of spaces, accents and ideograms": {"cwd": folder / "a  folder, ação — 実験"},
        "one core": {"preexec_fn": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})},
        "64 open files": limited(resource.RLIMIT_NOFILE, 64),
        "6 GB of addresses": limited(resource.RLIMIT_AS, 6 * 2**30),
        "no output": {"preexec_fn": lambda: [os.close(number) for number in (0, 1, 2)]},
        "a /dev/shm of 64 KB": {"small_shm": True},
        "nobody reads its output": {"nobody_reads": True},
        "keys in the environment": {"env": {**os.environ, **bare, **KEYS}},
    }


KEYS = {"HF_TOKEN": "hf_secretsecret", "OPENAI_API_KEY": "sk-secretsecret", "WANDB_API_KEY": "secretsecret"}


def try_environments(
    crashes: Crashes, say: Callable[[str], None], titles: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The same run in each of them, or some."""
    results, known = [], environments(crashes.folder)
    for title in titles or known:
        options = known[title]
        with tempfile.TemporaryDirectory(dir=crashes.folder) as name:
            options = {"cwd": Path(name) / "run", "env": {**os.environ, "PYTHONPATH": f"{ROOT}"}, **options}
            place = options["cwd"] = Path(name) / options["cwd"].name
            place.mkdir()
            scratch = Path(name) / "tmp"
            scratch.mkdir()
            options["env"] = {**options["env"], "TMPDIR": str(scratch)}
            command = [sys.executable, "-m", "selfplay.commands.main", *map(str, crashes.begin)]
            if options.pop("small_shm", False):
                command = ["unshare", "-m", "sh", "-c", SMALL_SHM, *command]
            wrong = []
            if options.pop("nobody_reads", False):
                came = subprocess.run(["sh", "-c", NOBODY_READS, *command], text=True, capture_output=True, **options)
                if (came.stdout, came.stderr) != ("3\n", f"selfplay: nobody reads the output any more{KEPT}\n"):
                    wrong.append(f"without a reader it ended with {came.stdout}: {came.stderr[-300:]}")
            came = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, text=True, **options)
            wrong += [] if came.returncode == 0 else [f"it ended with {came.returncode}: {came.stderr[-300:]}"]
            run = place / "runs" / "tiny"
            if run.exists():
                wrong += [f"other {part}" for part in interrupted.differences(run, crashes.whole)]
                secrets = [file for file in run.rglob("*") if file.is_file() and b"secretsecret" in file.read_bytes()]
                wrong += [f"a key is in {file.name}" for file in secrets]
            if "secretsecret" in came.stdout + came.stderr:
                wrong.append("a key was printed")
            # torch makes a folder for what it might compile when it is imported.
            left = [file.name for file in scratch.iterdir() if not file.name.startswith("torchinductor")]
            wrong += [f"left in the folder for temporary files: {name}" for name in left]
        for what in wrong:
            say(f"{title}: {what}")
        results.append({"kind": title, "inside": False, "wrong": wrong})
    return results


NOBODY_READS = 'exec 3>&1; { "$0" "$@" 3>&-; echo $? >&3; } | :'
SMALL_SHM = 'mount -t tmpfs -o size=64k none /dev/shm && exec "$0" "$@"'


# ---- long runs ----


def resident_bytes(pid: int) -> int:
    """Of a process and all below it."""
    total = 0
    for each in (pid, *interrupted.descendants(pid)):
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{each}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def soak_candidates(folder: Path, candidates: int, say: Callable[[str], None]) -> list[str]:
    """So many candidates of the shipped model in one iteration: what is wrong with the memory of that."""
    place = folder / "soak"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    learned.make_files(place, Path("embedded"))
    settings = [
        "iterations=1", "propose.proposals=16", "vary.variations=0", "solve.further_puzzles=0", "finetune.max_steps=5",
        f"solve.candidates_per_puzzle={candidates // TRAINING_PUZZLES}", f"data.dev={place}/dev.jsonl",
        f"data.heldout={place}/heldout.jsonl",
    ]  # fmt: skip
    command = [sys.executable, "-m", "selfplay.commands.main", "run", *(f"--set={setting}" for setting in settings)]
    peaks: Counter[int] = Counter()
    status = place / "runs" / "embedded" / "status.json"
    with subprocess.Popen(
        command, cwd=place, env={**os.environ, "PYTHONPATH": f"{ROOT}"}, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None:
            now = read_status(status)
            if now and now.doing == "iteration 1: solve" and now.of:
                tenth = min(9, 10 * now.done // now.of)
                peaks[tenth] = max(peaks[tenth], resident_bytes(process.pid))
            time.sleep(0.2)
    with Archive(place / "runs" / "embedded" / "archive.sqlite", read_only=True) as archive:
        ((judged,),) = archive.query("SELECT count(*) FROM candidates")
    tenths = [peaks[tenth] / 2**20 for tenth in sorted(peaks)]
    say(f"{judged:,} candidates; MB resident at most in each tenth of them: {', '.join(f'{mb:.0f}' for mb in tenths)}")
    wrong = [] if process.returncode == 0 else [f"it ended with {process.returncode}"]
    if len(tenths) < 10 or max(tenths[5:]) > MAY_GROW * max(tenths[1:5]):
        wrong.append("memory grows with the candidates")
    return wrong


TRAINING_PUZZLES = 265
MAY_GROW = 1.1


class Forgetful(scripted_run.Backend):
    """It does not remember what it was trained on, as tests want it to."""

    def finetune(self, *arguments: Any) -> Any:
        """As the other does."""
        self.trainings.clear()
        return super().finetune(*arguments)


def soak_iterations(folder: Path, iterations: int, say: Callable[[str], None]) -> list[str]:
    """So many tiny iterations with a model that a script plays: what is wrong with memory, descriptors and time."""
    place = folder / "iterations"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    windows: list[tuple[float, float, int]] = []
    started = time.monotonic()

    def row(record: dict[str, Any]) -> None:
        nonlocal started
        if record["iteration"] % (iterations // 10) == 0 and record["iteration"]:
            now = time.monotonic()
            windows.append((now - started, resident_bytes(os.getpid()) / 2**20, len(os.listdir("/proc/self/fd"))))
            started = now

    config = scripted_run.config_of(
        scripted_run.puzzle_files(place), iterations=iterations, keep_checkpoints="best",
        propose=ProposeConfig(proposals=2, proposals_per_prompt=2), solve=SolveConfig(candidates_per_puzzle=1),
        evaluate=EvaluateConfig(samples_per_puzzle=1, k=(1,)),
    )  # fmt: skip
    with truth_pool(lanes=1) as pool:
        scripted_run.go(place / "run", config, pool, Forgetful(), Progress(row=row))
    seconds, megabytes, descriptors = zip(*windows, strict=True)
    each = [1000 * one / (iterations // 10) for one in seconds]
    say(
        f"{iterations:,} iterations, in tenths: ms each {', '.join(f'{ms:.0f}' for ms in each)}; "
        f"MB {', '.join(f'{mb:.0f}' for mb in megabytes)}; descriptors {', '.join(map(str, descriptors))}"
    )
    wrong = []
    if max(megabytes[5:]) > MAY_GROW * max(megabytes[:5]):
        wrong.append("memory grows with the iterations")
    if max(descriptors) > min(descriptors):
        wrong.append("descriptors are left open")
    return wrong


# ---- all of it ----


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Points tried, identical, lost."""
    rows = [["", "tried", "reached", "inside", "identical", "lost", "longest end [s]"]]
    for title, found in results.items():
        longest = max((result.get("seconds", 0) for result in found), default=0)
        right = sum(not result["wrong"] for result in found)
        inside, reached = (sum(result.get(what, True) for result in found) for what in ("inside", "reached"))
        counts = len(found), reached, inside, right, len(found) - right
        rows.append([title, *map(str, counts), f"{longest:.1f}" if longest else ""])
    return render(rows, right=[1, 2, 3, 4, 5, 6])


PARTS = ("crashes", "environments", "candidates", "iterations", "verifier", "inputs")


def hear_signals() -> None:
    """Take back that signals are ignored. `nohup`, and `&` in a script, make all processes below them deaf."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--points", type=int, default=200, help="of crashes")
    parser.add_argument("--candidates", type=int, default=100_000, help="of the soak")
    parser.add_argument("--iterations", type=int, default=2_000, help="of the long run")
    parser.add_argument("--fuzz-minutes", type=float, default=5.0, help="for each of the two fuzzers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("survival"), help="where results are kept")
    parser.add_argument("--only", action="append", choices=PARTS)
    arguments = parser.parse_args(given)
    hear_signals()
    folder, parts, wrong = arguments.folder.absolute(), arguments.only or PARTS, []
    started = time.monotonic()
    if {"crashes", "environments"} & {*parts}:
        with truth_pool(lanes=1) as pool:
            protections = selfcheck.check(pool)
        crashes = Crashes(folder, arguments.seed, protections)
        results: dict[str, list[dict[str, Any]]] = {}
        if "crashes" in parts:
            for result in crashes.try_all(arguments.points, print):
                results.setdefault(result["kind"], []).append(result)
        if "environments" in parts:
            results["another environment"] = try_environments(crashes, print)
        print(table({**results, "in all": [result for found in results.values() for result in found]}))
        wrong += [what for found in results.values() for result in found for what in result["wrong"]]
    if "candidates" in parts:
        wrong += soak_candidates(folder, arguments.candidates, print)
    if "iterations" in parts:
        wrong += soak_iterations(folder, arguments.iterations, print)
    if "verifier" in parts:
        violation = fuzz.fuzz(60 * arguments.fuzz_minutes, arguments.seed, folder).violation
        wrong += [violation] if violation else []
    if "inputs" in parts:
        findings = fuzz_inputs.fuzz_inputs(60 * arguments.fuzz_minutes, arguments.seed, folder, print).findings
        wrong += [finding.what for finding in findings]
    print(f"{(time.monotonic() - started) / 60:.0f} minutes; {len(wrong)} wrong")
    for what in wrong:
        print(f"  {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
