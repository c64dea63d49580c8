"""The status line: what it says of a step, its rate, and the time that is left."""

import io
import re

import pytest

from selfplay.commands.status_line import Line, clock
from selfplay.run.progress import Later


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def time():
    """The seconds that the line's clock shows, in a list of one."""
    return [0.0]


@pytest.fixture
def line(time):
    return Line(lambda: time[0])


STEP = "iteration 1 of 3 · solve (3 of 6)"


def test_durations_are_written_as_a_clock_shows_them():
    assert [clock(seconds) for seconds in (0.4, 6, 59.6, 750, 3723)] == ["0:00", "0:06", "1:00", "12:30", "1:02:03"]


def test_a_step_says_for_how_long_it_goes_on(line, time):
    line.step("loading the model")
    time[0] = 12
    assert line.text(80) == "loading the model · 0:12"


def test_a_counter_has_a_rate_and_the_time_left_of_its_stage_and_of_the_run(line, time):
    line.step(STEP, Later(60.0))
    count = line.counter(1000, "ignored in a step", "candidate")
    assert line.text(120) == f"{STEP} · 0 of 1,000 · 0:00"
    count(0)
    time[0] = 10
    count(200)
    assert line.text(120) == f"{STEP} · 200 of 1,000 · 20 candidates/s · 0:40 left · run 1:40"
    line.note("judging")
    assert line.text(120) == f"{STEP} · 200 of 1,000 · judging · 20 candidates/s · 0:40 left · run 1:40"


def test_what_is_not_known_of_a_run_makes_its_time_a_least_one(line, time):
    line.step(STEP, Later(60.0, is_all=False))
    time[0] = 5
    assert line.text(120) == f"{STEP} · 0:05 · run over 1:00"


def test_work_of_an_earlier_session_is_no_rate(line, time):
    count = line.counter(1000, "bench embedded", "candidate")
    count(900)
    time[0] = 10
    assert line.text(120) == "bench embedded · 900 of 1,000 · 0:10"
    count(20)
    assert line.text(120) == "bench embedded · 920 of 1,000 · 2.0 candidates/s · 0:40 left"


def test_a_slow_rate_is_seconds_for_each(line, time):
    count = line.counter(10, "fine-tune", "step")
    count(0)
    time[0] = 20
    count(4)
    assert line.text(120) == "fine-tune · 4 of 10 · 5.0 s per step · 0:30 left"


def test_the_line_fits_the_terminal(line, time):
    line.step(STEP, Later(60.0))
    count = line.counter(1000, "", "candidate")
    count(0)
    time[0] = 10
    count(200)
    assert line.text(80) == f"{STEP} · 20% · 20 candidates/s · 0:40 left · run 1:40"
    assert line.text(75) == f"{STEP} · 20% · 20/s · 0:40 left · run 1:40"
    assert line.text(62) == f"{STEP} · 20% · 0:40 left · run 1:40"
    assert line.text(20) == STEP[:20]


def test_a_hostile_name_moves_no_cursor(line):
    line.step("bench \x1b[2Jname\nmore")
    assert line.text(80) == "bench \\x1b[2Jname\\nmore · 0:00"


def test_the_line_is_drawn_on_a_terminal_hidden_while_others_print_and_removed_at_the_end(line, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    line.step("loading")
    with line.hidden():
        terminal.write("a row\n")
    line.end()
    assert [part.strip() for part in re.split("[\r\n]", terminal.getvalue()) if part.strip()] == [
        "loading · 0:00", "a row", "loading · 0:00",
    ]  # fmt: skip
    assert terminal.getvalue().endswith("\r" + " " * len("loading · 0:00") + "\r"), "removed"


def test_nothing_is_drawn_where_there_is_no_terminal(line, capsys):
    line.step("loading")
    count = line.counter(2, "loading", "text")
    count(2)
    line.end()
    assert capsys.readouterr() == ("", "")


def test_a_terminal_that_is_gone_ends_nothing(line, monkeypatch):
    class Gone(Terminal):
        def write(self, text):
            raise OSError

    monkeypatch.setattr("sys.stderr", Gone())
    line.step("loading")
    line.step("going on")
    line.end()


def test_a_counter_outside_of_a_step_ends_with_its_last_unit(line, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    line.counter(3, "import", "puzzle")(3)
    assert terminal.getvalue().endswith(" \r"), "removed"
    assert line._bar is None
