"""What a program in the sandbox reaches although it cannot import it, for attacks that begin there."""

MODULES = """
import collections
sys = collections.namedtuple.__globals__["_sys"]
modules = sys.modules
"""
"""Every loaded module."""
REPORT_FRAME = """
def report_frame():
    frame = sys._getframe()
    while frame.f_code.co_name != "_report":
        frame = frame.f_back
    return frame.f_locals
"""
"""The local variables of the harness's function that reports results, in a program that begins with `MODULES`."""
