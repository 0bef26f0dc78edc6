"""When a run evaluates and saves by itself."""

import itertools

import pytest

from nlp_ssl.runs.saving import is_due


@pytest.mark.parametrize("total", [1, 3, 10, 11, 57, 1000])
def test_a_known_number_of_steps_is_cut_into_parts(total):
    last, due = 0, []
    for step in range(1, total + 1):
        if is_due(step, None, total, 10, last):
            last = step
            due.append(step)
    assert len(due) == min(10, total)
    assert due == [step for step in range(1, total + 1) if is_due(step, None, total, 10)]
    assert due[-1] == total


def test_an_estimate_that_grows_meets_no_part_twice():
    # of a run on a GPU: the estimate grew just behind seven of its evaluations, which were done again
    estimates = [(6, 17), (87, 216), (90, 223), (172, 430), (177, 443), (360, 513), (371, 529), (464, 579), (478, 597)]
    estimates += [(554, 615), (571, 634), (654, 654)]
    last, due, total = 0, [], 10
    for until, total in estimates:
        for step in range(last + 1, until + 1):
            if is_due(step, None, total, 10, last):
                last = step
                due.append(step)
    assert all(later - before > 0.5 * before / 10 for before, later in itertools.pairwise(due))
    assert not {90, 177, 371, 478, 571} & set(due)


def test_an_interval_that_was_given_is_kept():
    assert [step for step in range(1, 31) if is_due(step, 7, 1000, 10, step - 1)] == [7, 14, 21, 28]
