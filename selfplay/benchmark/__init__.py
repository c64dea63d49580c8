"""Benchmarks: one model scored on one puzzle set, with the conditions of the score, and stored results scored again.

It may import `inspecting` and the packages below that. Start reading at `bench.py`.
"""
