"""Prompt to text: how puzzles are shown to a model, and the engines that sample completions.

This room may import `config`, `text`, `run`, `puzzles` and `sandbox`.
Start reading in `sampler.py`, the interface of every engine, then `prompts.py`.
"""
