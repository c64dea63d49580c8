import threading
import time

import pytest

from selfplay.sampling import ahead


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


@pytest.mark.parametrize("overlap", [False, True, 3])
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


def test_several_works_go_on_at_the_same_time_and_their_results_keep_their_order():
    together, left = threading.Barrier(3), [0.03, 0.0, 0.01]

    def works():
        for number in range(9):
            yield lambda check, number=number: (together.wait(timeout=10), time.sleep(left[number % 3]), number)

    assert [number for *_, number in ahead.results(works(), overlap=3)] == list(range(9))


def test_of_several_works_one_counts_at_a_time():
    counting, counted, most = 0, [], []

    def count(done):
        nonlocal counting
        counting += 1
        most.append(counting)
        time.sleep(0.001)
        counting -= 1
        counted.append(done)

    def work(progress):
        for _ in range(20):
            progress(1)

    list(ahead.results((ahead.counted(work, count) for _ in range(4)), overlap=4))
    assert (len(counted), max(most)) == (80, 1)


def test_several_works_that_are_given_up_all_end():
    begun = threading.Barrier(4)

    def endless(check):
        begun.wait(timeout=10)
        while True:
            time.sleep(0.001)
            check()

    results = ahead.results(iter([lambda check: 0, endless, endless, endless]), overlap=3)
    assert next(results) == 0
    begun.wait(timeout=10)
    results.close()
    assert not any(thread.name.startswith("sampling") for thread in threading.enumerate())


@pytest.mark.parametrize("overlap", [False, True, 3])
def test_what_a_work_raises_comes_with_its_result(overlap):
    def works():
        yield lambda check: 0
        yield lambda check: 1 / 0

    results = ahead.results(works(), overlap)
    assert next(results) == 0
    with pytest.raises(ZeroDivisionError):
        next(results)
