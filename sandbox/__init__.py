"""Runs untrusted Python in sealed child processes and returns what each child reported, as bytes.

This package imports only the standard library, and knows nothing about puzzles: README.md shows how to use it for other
tasks, with a function's return values as data. Start reading in `pool.py`: its
docstring explains how the processes work together.
"""
