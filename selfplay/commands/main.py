"""The command line: it parses the options, runs the command, and turns errors into an exit status.

Exit status: 0 done, 1 the answer is no, 2 the input is wrong, 3 the sandbox or the machine failed, 130 interrupted.
Nothing here imports torch before a command needs it.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sqlite3
import sys
import traceback
from collections.abc import Sequence

from puzzles.foreign import shortened
from puzzles.puzzle import InputError
from sandbox.result import SandboxError
from selfplay.commands.archive import add_archive
from selfplay.commands.archive_looks import add_view
from selfplay.commands.benchmark import add_bench, add_compare
from selfplay.commands.doctor import add_doctor
from selfplay.commands.env import add_env
from selfplay.commands.experiments import add_ablate, add_reproduce
from selfplay.commands.grammar import Parser
from selfplay.commands.judge import add_judge
from selfplay.commands.log import Formatter
from selfplay.commands.pretrain import add_pretrain
from selfplay.commands.run import add_run
from selfplay.commands.runs import add_league, add_report, add_runs
from selfplay.commands.settings import add_settings
from selfplay.commands.show import add_propose, add_solve
from selfplay.commands.status_line import LINE
from selfplay.commands.verify import add_verify
from selfplay.run import ending, resources
from selfplay.text import printable

KEPT = "; what was finished is kept, and the same command continues"
COMMANDS = (
    add_run, add_settings, add_runs, add_report, add_view, add_league, add_reproduce, add_ablate, add_bench,
    add_compare, add_propose, add_solve, add_verify, add_judge, add_archive, add_pretrain, add_doctor, add_env,
)  # fmt: skip
"""Functions that declare a command each, in the order of `--help`."""


class _Version(argparse.Action):
    """Prints the version. It is looked up only then, because `--help` shall not wait for it."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from selfplay.run.sessions import environment

        print(f"selfplay {environment()['versions']['selfplay']}")
        parser.exit()


def grammar() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="selfplay",
        description="Self-play on programming puzzles: propose, solve, verify, archive, fine-tune, score.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and stop")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    If the command does not react to a signal within the grace period, the whole process ends. (Main thread only.)
    """
    if logging.lastResort is not None:  # it prints warnings where no log is written
        logging.lastResort.setFormatter(Formatter())
    options, unknown = grammar().parse_known_args(arguments)
    if unknown:
        options.parser.refuse(unknown)
    options.resumes &= not vars(options).get("forecast")  # nothing is kept of a forecast
    interrupted = f"selfplay: interrupted{KEPT if options.resumes else ''}"
    with ending.in_good_order(f"\n{interrupted}\n".encode()):
        try:
            return _command(options, interrupted)
        finally:
            LINE.end()


def _command(options: argparse.Namespace, interrupted: str) -> int:
    if sys.stdout is None:  # the caller has closed it
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not have all characters of a model
    try:
        status = _among_processes(options)
        sys.stdout.flush()  # a missing reader is handled below, but would be an error at exit
        return status
    except InputError as error:
        return _fail(error, 2)
    except (SandboxError, resources.DiskFull) as error:
        return _fail(error, 3)
    except KeyboardInterrupt:
        _say(f"\n{interrupted}")
        return ending.INTERRUPTED
    except BrokenPipeError:
        sys.stdout = None  # nobody reads, so nothing may be flushed at exit
        return _fail(f"nobody reads the output any more{KEPT}", 3) if options.resumes else 0
    except (OSError, sqlite3.DatabaseError, MemoryError, ImportError) as error:  # importing torch may fail too
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
            return _fail(f"{shortened(error.filename)}: this name is too long for the file system", 2)
        return _fail(_machine_error(error, options.resumes), 3)
    except Exception as error:  # noqa: BLE001  # a bug must not look like the answer no, which is 1
        if resources.is_full(error) or resources.OUT_OF_MEMORY.search(
            str(error)
        ):  # errors of native libraries are known by their text
            return _fail(_machine_error(error, options.resumes), 3)
        traceback.print_exc()
        return 3


def _among_processes(options: argparse.Namespace) -> int:
    """Run the command. Under torchrun the first process runs it, and the others only train with it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        return int(options.command(options))
    if not options.trains:
        raise InputError(
            "torchrun: only run, reproduce and ablate train in several processes: run this command without torchrun"
        )
    from selfplay.training import distributed
    from selfplay.training.finetune import join

    with distributed.joined() as leads:
        return int(options.command(options)) if leads else join()


def _fail(error: object, status: int) -> int:
    _say(f"selfplay: {printable(' '.join(str(error).split()))}")
    return status


def _say(line: str) -> None:
    """Print on standard error, if it still exists. If the terminal is gone, the exit status must still be right."""
    LINE.end()
    if sys.stderr is not None:
        try:
            print(line, file=sys.stderr, flush=True)
        except (OSError, ValueError):
            sys.stderr = None


def _machine_error(error: Exception, resumes: bool) -> str:
    if resources.is_full(error):
        return f"the disk is full: free some space{KEPT if resumes else ''}"
    if isinstance(error, ConnectionError) and error.errno is None:  # our own message about a server
        return f"{error}{KEPT if resumes else ''}"
    return f"the machine failed: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
