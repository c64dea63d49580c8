"""Runs untrusted Python in sealed child processes and returns what each child reported, as bytes.

This package imports only the standard library, and knows nothing about puzzles. Start reading in `pool.py`: its
docstring explains how the processes work together.
"""
