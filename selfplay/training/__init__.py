"""Lessons to weights: which pairs become lessons, what they lower, and the training loop.

This room may import `config`, `text`, `run`, `sampling`, `puzzles` and `sandbox`.
Start reading in `select.py`, which makes the lessons, then `finetune.py`, which learns them.
"""
