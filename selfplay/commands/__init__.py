"""The command line: parse, wire, call, and print.

May import everything, but imports torch only inside the functions that need it. Start reading at `main.py`; each
command is declared beside the function that it calls.
"""
