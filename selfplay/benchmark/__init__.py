"""One model on one puzzle set: its score, what it depends on, and stored results scored again.

May import `inspecting` and what stands below it. Start reading at `bench.py`.
"""
