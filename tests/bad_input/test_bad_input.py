"""What is wrong is refused, in the kit's own words; nothing of it is accepted, and nothing ends raw."""

import pytest

from tests.bad_input.table import ROOMS, fault

CASES = [pytest.param(case, id=f"{room}: {case.given}") for room, cases in ROOMS.items() for case in cases]


@pytest.mark.parametrize("case", CASES)
def test_refused(case):
    assert fault(case) == ""


def test_there_are_at_least_300_different_ones():
    assert len({case.given for cases in ROOMS.values() for case in cases}) >= 300
