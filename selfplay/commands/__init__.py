"""The command line: it parses options, calls the packages below, and prints the results.

It may import everything, but imports torch only inside the functions that need it. Start reading at `main.py`. Each
command is declared beside the function that it calls.
"""
