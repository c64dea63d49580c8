"""`selfplay archive …`: the actions on archives."""

from __future__ import annotations

from typing import Any

from selfplay.commands.archive_checks import add_contamination, add_diff, add_replay, add_reverify
from selfplay.commands.archive_exchange import add_export, add_import, add_merge
from selfplay.commands.archive_looks import add_list, add_refused, add_show, add_stats, add_why

ACTIONS = (
    add_import, add_stats, add_list, add_refused, add_show, add_why, add_replay, add_reverify, add_contamination,
    add_diff, add_merge, add_export,
)  # fmt: skip
"""Functions that declare an action each, in the order of `--help`."""


def add_archive(commands: Any) -> None:
    """Declare `archive` and its actions."""
    archive = commands.add_parser("archive", help="inspect, check, fill and export archives")
    actions = archive.add_subparsers(title="actions", metavar="ACTION", required=True)
    for add in ACTIONS:
        add(actions)
