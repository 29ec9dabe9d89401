"""Which rows with an error are computed again, and which are settled."""

from jobs.plan import Selection

DIGEST = {"digest": {"use": "digest"}}
UPPER = {"upper": {"use": "upper", "text": "title"}}


def test_an_error_is_settled(enrich, rows):
    rows[3]["title"] = "bad"
    _, _, table = enrich(rows)
    assert table[3]["error"]["stage"] == "upper"
    assert table[3]["digest"]

    made, _, _ = enrich(rows)

    assert made.is_empty
    assert made.counts.settled == 1


def test_an_error_is_computed_again_when_its_text_changes(enrich, rows):
    rows[3]["title"] = "bad"
    enrich(rows)
    rows[3]["title"] = "good"

    made, ledger, table = enrich(rows)

    assert (made.counts.changed, made.counts.retry) == (1, 0)
    assert ledger.computed == {"digest": 0, "upper": 1}
    assert table[3]["error"] is None
    assert table[3]["upper"] == "GOOD"


def test_an_error_is_computed_again_when_the_operator_that_failed_changes(enrich, rows):
    rows[3]["title"] = "bad"
    enrich(rows)

    made, _, table = enrich(rows, DIGEST | {"upper": {**UPPER["upper"], "version": 2}})
    assert made.counts.changed == 20
    assert table[3]["error"]["attempts"] == 1

    assert enrich(rows, DIGEST | {"upper": {**UPPER["upper"], "version": 2}})[0].is_empty


def test_an_error_is_computed_again_when_an_operator_before_it_changes(enrich, rows):
    rows[3]["title"] = "bad"
    enrich(rows)

    _, ledger, _ = enrich(rows, {"digest": {"use": "digest", "version": 2}} | UPPER)

    assert ledger.computed == {"digest": 20, "upper": 1}


def test_an_error_stays_when_an_operator_after_it_changes(enrich, rows):
    rows[3]["title"] = "bad"
    enrich(rows, UPPER | DIGEST)

    made, ledger, table = enrich(rows, UPPER | {"digest": {"use": "digest", "version": 2}})

    assert ledger.computed == {"upper": 0, "digest": 19}
    assert made.counts.settled == 1
    assert table[3]["error"]["attempts"] == 1


def test_an_error_of_an_operator_that_is_gone_is_mended(enrich, rows):
    rows[3]["title"] = "bad"
    enrich(rows)

    _, _, table = enrich(rows, DIGEST)

    assert table[3]["error"] is None


def test_a_transient_error_is_tried_until_its_attempts_are_used(enrich, rows):
    operators = {"digest": {"use": "digest", "fails_on": b"image 3", "transient": True}} | UPPER
    attempts = []
    for _ in range(4):
        made, _, table = enrich(rows[:5], operators, limits={"attempts": 3})
        attempts.append((made.counts.new, made.counts.retry, table[3]["error"]["attempts"]))

    assert attempts == [(5, 0, 1), (0, 1, 2), (0, 1, 3), (0, 0, 3)]


def test_retry_takes_errors_and_nothing_else(enrich, rows):
    rows[3]["title"] = "bad"
    operators = {"digest": {"use": "digest", "fails_on": b"image 7", "transient": True}} | UPPER
    enrich(rows[:15], operators)

    made, ledger, table = enrich(rows, operators, Selection(retry="errors"))
    assert (made.counts.new, made.counts.changed, made.counts.retry) == (0, 0, 2)
    assert [table[n]["error"]["attempts"] for n in (3, 7)] == [2, 2]
    assert len(table) == 15

    made, ledger, table = enrich(rows, operators, Selection(retry="transient"))
    assert made.counts.retry == 1
    assert ledger.computed == {"digest": 1, "upper": 0}
    assert [table[n]["error"]["attempts"] for n in (3, 7)] == [2, 3]


def test_a_retry_of_some_does_not_settle_the_others(enrich, rows):
    rows[3]["title"] = "bad"
    first = {"digest": {"use": "digest", "fails_on": b"image 7", "transient": True}}
    enrich(rows, first | UPPER)
    changed = first | {"upper": {**UPPER["upper"], "version": 2}}
    enrich(rows, changed, Selection(retry="transient"))

    _, _, table = enrich(rows, changed)

    assert all(row["upper_key"] == table[0]["upper_key"] for row in table if not row["error"])
    assert enrich(rows, changed)[0].is_empty


def test_an_error_stays_counted_when_its_row_is_only_written_again(enrich, rows):
    rows[2]["title"] = "bad"
    for row in rows:
        row["note"] = "first"
    enrich(rows, UPPER)
    rows[2]["note"] = "second"

    made, ledger, table = enrich(rows, UPPER)

    assert (made.counts.changed, made.counts.settled) == (1, 1)
    assert table[2]["note"] == "second"
    assert table[2]["error"]["code"] == "model"
    assert not any(ledger.computed.values())
