"""The puzzles of `selfplay-puzzles` as a taskset of verifiers v1."""

from selfplay.adapters.verifiers_taskset import PuzzleTaskset

__all__ = ["PuzzleTaskset"]
