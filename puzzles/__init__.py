"""Decides what is true: reads puzzles and solutions, gives verdicts, and guards the dev and held-out sets.

This package may import `sandbox`, but not `selfplay`. `puzzles.rules` makes puzzles by rule, `puzzles.archive` stores
them. Start reading in `verify.py`: it decides every verdict.
"""
