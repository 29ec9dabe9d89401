"""When a run ends because of too many errors."""

import pytest

from jobs.limits import ErrorLimit
from jobs.parts import PartReport
from schemas.errors import RunError


def report(tried: int, failed: int, *, transient: int = 0) -> PartReport:
    errors = {"missing": failed} if failed else {}
    return PartReport("s", rows=tried, tried=tried, errors=errors, transient=transient)


def test_a_run_of_few_rows_is_judged_only_at_its_end():
    limit = ErrorLimit(0.05)

    limit.count(report(100, 100))

    with pytest.raises(RunError, match=r"100 of 100 rows .*error_fraction=0\.05 .*missing 100"):
        limit.check()


def test_a_run_ends_early_from_200_rows_on():
    limit = ErrorLimit(0.05)
    limit.count(report(190, 11))

    with pytest.raises(RunError, match="11 of 200"):
        limit.count(report(10, 0))


def test_a_fraction_that_is_reached_but_not_passed_is_allowed():
    limit = ErrorLimit(0.05)
    limit.count(report(200, 10))
    limit.check()


def test_a_run_that_goes_on_counts_lasting_errors_of_before_and_no_transient_ones():
    outage, damage = ErrorLimit(0.05), ErrorLimit(0.05)
    outage.go_on_from(report(100, 50, transient=50))
    damage.go_on_from(report(100, 50))

    outage.check()

    with pytest.raises(RunError, match="50 of 100"):
        damage.check()


def test_errors_that_were_there_before_the_run_are_not_counted():
    limit = ErrorLimit(0.05)
    known = PartReport("s", rows=9, tried=9, errors={"missing": 4}, repeated={"missing": 3})

    limit.count(known)

    with pytest.raises(RunError, match=r"1 of 6 rows .*: missing 1;"):
        limit.check()


def test_a_run_that_tried_nothing_is_within_every_limit():
    ErrorLimit(0.0).check()


def test_what_stopped_a_run_is_told_with_a_place_and_what_to_check():
    limit = ErrorLimit(0.05)
    refused = PartReport(
        "s",
        rows=512,
        tried=512,
        errors={"forbidden": 500, "missing": 12},
        failed={"fetch": 512},
        examples={"forbidden": "s3://photos/1.png: Access Denied", "missing": "s3://photos/2.png"},
    )
    with pytest.raises(
        RunError,
        match=r"forbidden 500, missing 12; such as 's3://photos/1\.png: Access Denied'; check",
    ):
        limit.count(refused)


def test_time_outs_of_an_operator_are_not_blamed_on_the_store():
    stage = {"fetch": ErrorLimit(0.05), "caption": ErrorLimit(0.05)}
    told = {}
    for name, limit in stage.items():
        with pytest.raises(RunError) as ended:
            limit.count(PartReport("s", 512, 512, errors={"timeout": 500}, failed={name: 500}))
        told[name] = str(ended.value)

    assert "when the store answers again" in told["fetch"]
    assert "the store" not in told["caption"]
