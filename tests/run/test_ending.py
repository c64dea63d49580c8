import os
import signal
import subprocess
import sys
import time

import pytest

from selfplay.run import ending

BUSY = """
import hashlib, os, signal, sys, threading, time
from selfplay.run import ending

def waits():
    time.sleep(60)

def computes():  # one call that the main thread does not come back from
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)

def loses_it():
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass

ending.GRACE_SECONDS = 1.0
ending.last_acts.append(lambda: os.write(1, b"last act\\n"))
try:
    with ending.in_good_order(b"last words\\n"):
        print("ready", flush=True)
        globals()[sys.argv[1]]()
except KeyboardInterrupt:
    print("in good order", flush=True)
    sys.exit(ending.INTERRUPTED)
"""


def signalled(what, *numbers, ignored=()):
    """Signals to a process that does that; its exit status, output, errors, and seconds from the first signal on."""

    def prepare():
        for number in ending.SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    with subprocess.Popen(
        [sys.executable, "-c", BUSY, what],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        started = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.1)
        out, err = process.communicate(timeout=20)
    return process.returncode, out, err, time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_in_good_order(number):
    if number == signal.SIGINT and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        pytest.skip("this session ignores SIGINT")
    status, out, err, seconds = signalled("waits", number)
    assert (status, out, err) == (130, "in good order\n", "")
    assert seconds < 1


@pytest.mark.parametrize("what", ["computes", "loses_it"])
def test_a_command_that_does_not_hear_a_signal_ends_when_its_grace_is_over(what):
    status, out, err, seconds = signalled(what, signal.SIGTERM)
    assert (status, out, err) == (130, "last act\n", "last words\n")
    assert 1 <= seconds < 5


def test_a_second_signal_ends_it_at_once():
    status, out, err, seconds = signalled("computes", signal.SIGTERM, signal.SIGTERM)
    assert (status, out, err) == (130, "last act\n", "last words\n")
    assert seconds < 1


def test_a_signal_after_the_end_changes_no_exit_status():
    code = BUSY.replace('print("in good order", flush=True)', "os.kill(os.getpid(), signal.SIGTERM)")
    with subprocess.Popen([sys.executable, "-c", code, "waits"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 130


def test_it_ends_though_nobody_can_hear_its_last_words():
    code = BUSY.replace('print("ready"', 'os.close(2), print("ready"')
    with subprocess.Popen([sys.executable, "-c", code, "computes"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 130


def test_a_signal_that_is_ignored_stays_ignored():
    status, out, err, seconds = signalled("computes", signal.SIGHUP, signal.SIGTERM, ignored=(signal.SIGHUP,))
    assert (status, out, err) == (130, "last act\n", "last words\n")
    assert seconds >= 1  # the grace of the second one: had the first counted, the second would have ended it at once


def test_afterwards_signals_do_what_they_did():
    before = [signal.getsignal(number) for number in ending.SIGNALS]
    waker = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(waker)
    descriptors = len(os.listdir("/proc/self/fd"))
    with ending.in_good_order(b""):
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in ending.SIGNALS] == before
    assert signal.set_wakeup_fd(waker) == waker
    while len(os.listdir("/proc/self/fd")) > descriptors:  # the thread closes its end when it is woken
        time.sleep(0.01)
