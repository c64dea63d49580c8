"""Stores every puzzle, candidate and verified pair with its history, in one SQLite file, and reads it back.

This package may import `puzzles` and `sandbox`. Start reading in `store.py`: it holds the `Archive` class. The tables
are in `schema.py`.
"""
