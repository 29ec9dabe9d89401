import pytest

from operators.finetuning.schedules import rate, warm_up_steps


def test_the_cosine_begins_and_ends_at_nothing():
    rates = [rate("cosine", step, steps=8, warmup=2) for step in range(9)]
    expected = [0.0, 0.5, 1.0, 0.933013, 0.75, 0.5, 0.25, 0.066987, 0.0]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_the_polynomial_begins_above_nothing_and_falls_in_a_line():
    rates = [rate("polynomial", step, steps=6, warmup=2) for step in range(7)]
    assert rates == pytest.approx([0.5, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_the_constant_only_warms_up():
    assert [rate("constant", step, steps=9, warmup=2) for step in range(4)] == [0, 0.5, 1, 1]


@pytest.mark.parametrize(("warmup", "expected"), [(0.25, 2), (0.01, 0), (0.0, 0), (3, 3), (1, 1)])
def test_a_warm_up_is_a_share_or_a_number_of_steps(warmup, expected):
    assert warm_up_steps(8, warmup) == expected
