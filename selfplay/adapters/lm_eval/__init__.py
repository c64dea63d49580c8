"""The task folder for lm-evaluation-harness's `--include_path`: YAML files, and the functions that they name.

May import every room below it. Start reading in `harness_task.py`.
"""
