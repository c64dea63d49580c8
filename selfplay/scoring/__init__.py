"""What a score is: candidates judged on a puzzle set, pass@k with intervals, and the comparison of two models.

This room may import `config`, `text`, `run`, `sampling`, `training`, `puzzles` and `sandbox`.
Start reading in `evaluate.py`, which makes the scores, then `metrics.py`, which computes pass@k.
"""
