"""Makes puzzles by rule: single rules, a grammar, several statements, solutions that search, variations of puzzles.

This package may import `puzzles` and `sandbox`. Start reading in `families.py`: it draws pairs of a puzzle and a
solution from all rules.
"""
