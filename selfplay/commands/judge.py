"""`selfplay judge`: verdicts for trainers and harnesses, as a service."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puzzles.puzzle import InputError
from selfplay.commands.grammar import add_limits, add_worlds, command, natural, sandbox_of
from selfplay.commands.terminal import tell

if TYPE_CHECKING:
    from selfplay.judge.places import Place

LEAST_TOKEN_CHARACTERS = 16


def add_judge(commands: Any) -> None:
    """Declare `judge`."""
    parser = command(commands, "judge", _judge, "serve verdicts to trainers and harnesses", "judge --port 8090")
    usual = str(_usual_socket()).replace("%", "%%")
    parser.add_argument("--socket", metavar="PATH", help=f"Unix socket to listen at (default: {usual})")
    parser.add_argument("--port", type=natural, help="listen at a port of 127.0.0.1 instead; 0 takes a free one")
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="with --port: another address of this machine. Whoever reaches it needs the token in the environment "
        "variable SELFPLAY_JUDGE_TOKEN; nothing is encrypted on its way",
    )  # fmt: skip
    parser.add_argument(
        "--module", action="append", help="module that programs may import beside the pure ones; may be repeated"
    )
    parser.add_argument(
        "--until-closed", action="store_true", help="end when standard input ends, as for a program that started it"
    )
    add_limits(parser)
    add_worlds(parser)


def _judge(options: argparse.Namespace) -> int:
    from puzzles.archive.worlds import drawn
    from selfplay.judge import service
    from selfplay.judge.batching import Batcher

    place, token = _place(options), os.environ.get("SELFPLAY_JUDGE_TOKEN") or None
    if token is not None and len(token) < LEAST_TOKEN_CHARACTERS:
        raise InputError(f"SELFPLAY_JUDGE_TOKEN: expected at least {LEAST_TOKEN_CHARACTERS} characters")
    if token is None and service.is_open_to_others(place):
        raise InputError(
            f"--host {place.host}: others can reach this address: set SELFPLAY_JUDGE_TOKEN here and for the callers"
        )
    sandbox, seed = sandbox_of(options, options.module or ()), drawn() if options.worlds is None else options.worlds
    listening = service.listen(place)
    try:
        batcher = Batcher(sandbox, seed)
        about = service.about(batcher.protections, sandbox.limits(), sandbox.modules)
        shown = place if place.socket else type(place)(host=place.host, port=listening.getsockname()[1])

        def ready() -> None:
            tell(f"{shown} (Ctrl-C ends it)")
            if options.worlds is None and not options.until_closed:
                tell(f"judges in worlds of a new seed; for the same again: --worlds {seed}", sys.stderr)

        service.run(batcher, listening, token, about, ready, options.until_closed)
    finally:
        listening.close()
        if place.socket:
            Path(place.socket).unlink(missing_ok=True)
    return 0


def _place(options: argparse.Namespace) -> Place:
    from selfplay.judge.places import Place, place_of

    if options.port is None:
        if options.host != "127.0.0.1":
            raise InputError("--host: expected --port beside it")
        return place_of(os.path.abspath(options.socket or _own_folder(_usual_socket())))
    if options.socket:
        raise InputError("--socket and --port: expected one of the two")
    return Place(host=options.host, port=options.port)


def _usual_socket() -> Path:
    """The socket of a service that nobody gave a place."""
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp"
    return Path(base, f"selfplay-{os.geteuid()}", "judge.sock")


def _own_folder(path: Path) -> Path:
    """The same path. Its folder exists, and only this user can open it.

    Raises:
        InputError: The folder belongs to somebody else, or cannot be made.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InputError(f"{folder}: {os.strerror(error.errno or 0)}: name another place with --socket") from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise InputError(f"{folder}: expected a folder that only you can open: name another place with --socket")
    return path
