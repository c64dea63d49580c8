"""The puzzles of `selfplay-puzzles` as a taskset of verifiers v1."""

from selfplay.adapters.verifiers_taskset import PuzzleEnv, PuzzleTaskset

__all__ = ["PuzzleEnv", "PuzzleTaskset"]
