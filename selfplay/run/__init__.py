"""A run's folder on disk: its files, its status, its sessions, its parts, and the memory and disk that it needs.

This room may import `config`, `text`, `puzzles` and `sandbox`.
Start reading in `rundir.py`, which names every file of a run.
"""
