"""Runs untrusted Python: standard library only. Start reading at `sandbox.pool`."""
