import threading
import time

import pytest

from selfplay import ahead


def slow_works(count, log, seconds=0.01):
    def work_of(number):
        def work(check):
            log.append(f"begin {number}")
            time.sleep(seconds)
            check()
            return number

        return work

    for number in range(count):
        log.append(f"draw {number}")
        yield work_of(number)


@pytest.mark.parametrize("overlap", [False, True])
def test_results_come_in_order_whichever_is_slower(overlap):
    for count in (0, 1, 5):
        assert list(ahead.results(slow_works(count, []), overlap)) == list(range(count))


def test_without_overlap_a_work_begins_when_its_result_is_asked_for():
    log: list[str] = []
    results = ahead.results(slow_works(3, log), overlap=False)
    assert next(results) == 0
    assert log == ["draw 0", "begin 0"]


def test_with_overlap_the_next_work_goes_on_while_a_result_is_used():
    begun = threading.Event()

    def works():
        yield lambda check: 0
        yield lambda check: begun.set() or 1

    results = ahead.results(works(), overlap=True)
    assert next(results) == 0
    assert begun.wait(timeout=10)
    assert list(results) == [1]


def test_works_are_drawn_two_ahead_at_most_in_the_thread_that_asks():
    log: list[str] = []
    threads = set()

    def works():
        for work in slow_works(9, log):
            threads.add(threading.current_thread())
            yield work

    results = ahead.results(works(), overlap=True)
    for number in range(5):
        assert next(results) == number
        assert sum(entry.startswith("draw") for entry in log) <= number + 3
    results.close()
    assert threads == {threading.current_thread()}


def test_a_work_whose_result_is_given_up_ends_at_its_next_check():
    begun = threading.Event()

    def works():
        yield lambda check: 0
        yield endless

    def endless(check):
        begun.set()
        while True:
            time.sleep(0.001)
            check()

    results = ahead.results(works(), overlap=True)
    assert next(results) == 0
    assert begun.wait(timeout=10)
    results.close()
    assert not any(thread.name.startswith("sampling") for thread in threading.enumerate())


@pytest.mark.parametrize("overlap", [False, True])
def test_what_a_work_raises_comes_with_its_result(overlap):
    def works():
        yield lambda check: 0
        yield lambda check: 1 / 0

    results = ahead.results(works(), overlap)
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        next(results)
