"""`tagline calibrate` on tables whose truth is known: what it promises, and what it refuses."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from operators.acceptance import Acceptance
from schemas.enriched import ALTERNATIVES_TYPE, ERROR_TYPE, HYPOTHESES_TYPE, TAGS_TYPE
from tests import reviewed

ROWS = 3000
LABELS = ("yes", "no", "maybe")


@pytest.fixture
def run(tagline, tmp_path):
    """Calibrates a table with rows of gold, and gives the answer."""

    def run(table, gold, *arguments, name="gold.jsonl"):
        path = tmp_path / name
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(gold), path)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in gold))
        to = tmp_path / "thresholds.json"
        return tagline("calibrate", table, "--gold", path, "--to", to, *arguments)

    return run


class Simulated:
    """A table of answers of which it is known whether they are right.

    An answer of confidence p is right with chance p; keys and what they stand for are as `enrich`
    writes them.
    """

    def __init__(self, folder, rows=ROWS, seed=0):
        random = np.random.default_rng(seed)
        self.folder, self.random = folder, random
        self.ids = [f"image-{n}" for n in range(rows)]
        self.confidence = random.beta(6, 0.5, rows)
        self.answers = random.choice(LABELS, rows)
        self.is_right = random.random(rows) < self.confidence
        others = np.array([LABELS[(LABELS.index(answer) + 1) % 3] for answer in self.answers])
        self.truth = np.where(self.is_right, self.answers, others)
        rest = (1 - self.confidence) / 2
        told = {
            f"holds_{label}": np.where(self.answers == label, self.confidence, rest)
            for label in LABELS
        }
        judge = {"operator": "entailment", "options": {"hypothesis": "caption"}}
        self.keys = {
            "caption": reviewed.record(self.folder, {"operator": "captioner"}),
            "holds": reviewed.record(self.folder, judge),
        }
        captions = [f"caption {n}" for n in range(rows)]
        columns = {
            "image_id": self.ids,
            "uri": ["x.png"] * rows,
            "caption": captions,
            "caption_score": pa.array(np.log(self.confidence), pa.float32()),
            "caption_alternatives": pa.array([[]] * rows, ALTERNATIVES_TYPE),
            "holds": self.answers,
            **{name: pa.array(values, pa.float32()) for name, values in told.items()},
            "error": pa.nulls(rows, ERROR_TYPE),
            **{f"{name}_key": [key] * rows for name, key in self.keys.items()},
        }
        self.columns = columns
        self.write()

    def write(self, **columns):
        """Writes the table, with other columns where given."""
        table = pa.table({**self.columns, **columns})
        write_deltalake(str(self.folder), table, mode="overwrite", schema_mode="overwrite")

    def gold(self, count, **columns):
        """What people say of rows drawn at random."""
        chosen = self.random.choice(len(self.ids), count, replace=False)
        return [
            {"image_id": self.ids[n], "label": "holds", "truth": self.truth[n], **columns}
            for n in chosen
        ]


@pytest.fixture
def table(tmp_path):
    return Simulated(tmp_path / "table")


def test_what_is_accepted_is_as_precise_as_promised(run, table, tmp_path):
    (found,) = run(table.folder, table.gold(400), "--precision", "0.9", "--json").lines
    assert (found["precision"], found["confidence"], found["left_out"]) == (0.9, 0.95, {})
    assert list(found["columns"]) == ["holds"]
    holds = found["columns"]["holds"]
    assert holds["answers"] == 400
    (threshold,) = holds["thresholds"]
    is_accepted = table.confidence >= threshold["accept"] - 1e-6
    assert table.is_right[is_accepted].mean() >= 0.9
    assert holds["verdicts"]["accepted"] == is_accepted.sum() > ROWS / 2
    assert sum(holds["verdicts"].values()) == ROWS
    assert sum(one["count"] for one in holds["reliability"]) == 400
    assert holds["temperature"] == pytest.approx(1, abs=0.5)
    assert holds["seems_random"] is True
    operator = Acceptance(found["thresholds"], upstream_keys=dict.fromkeys(("holds",), "other"))
    assert operator.outdated == {"holds"}
    assert Acceptance(str(tmp_path / "thresholds.json")).reads[0] == "holds"


def test_what_is_surely_wrong_is_rejected(run, tmp_path):
    table = Simulated(tmp_path / "table")
    is_wrong = table.random.random(ROWS) < 0.5
    table.truth = np.where(is_wrong, "no", "yes")
    answers = np.full(ROWS, "yes")
    confidence = np.where(is_wrong, 0.1, 0.9) + table.random.random(ROWS) / 100
    columns = {"holds": answers, "holds_yes": pa.array(confidence, pa.float32())}
    table.write(**columns)
    (found,) = run(table.folder, table.gold(300), "--json").lines
    (threshold,) = found["columns"]["holds"]["thresholds"]
    assert threshold["reject"] < threshold["accept"]
    verdicts = found["columns"]["holds"]["verdicts"]
    assert verdicts["accepted"] == pytest.approx((~is_wrong).sum(), abs=ROWS / 50)
    assert verdicts["rejected"] == pytest.approx(is_wrong.sum(), abs=ROWS / 50)


def test_people_are_told_what_is_promised_and_how_to_use_it(run, table):
    answer = run(table.folder, table.gold(400), "--precision", "0.9")
    assert answer.code == 0
    assert re.search(r"accepted from 0\.\d+ on: at least 90\.0% are right, with", answer.output)
    assert "probability and truth differ by" in answer.output
    assert "accept: {use: acceptance, thresholds:" in answer.output


def test_gold_that_is_too_small_promises_nothing_and_says_how_much_more(run, table, tmp_path):
    gold = table.gold(30)
    answer = run(table.folder, gold)
    assert answer.code == 1
    (more,) = re.findall(r"about ([\d,]+) more are needed", answer.output)
    assert int(more.replace(",", "")) >= 30
    written = json.loads((tmp_path / "thresholds.json").read_text())
    (threshold,) = written["columns"]["holds"]["thresholds"]
    assert threshold == {"label": None, "accept": None, "reject": None}


def test_each_label_may_get_its_own_thresholds(run, table):
    (found,) = run(
        table.folder, table.gold(1500), "--precision", "0.9", "--per-label", "--json"
    ).lines
    thresholds = found["columns"]["holds"]["thresholds"]
    assert [one["label"] for one in thresholds] == ["maybe", "no", "yes"]
    assert all(one["accept"] is not None for one in thresholds)


def test_a_caption_is_judged_with_what_was_said_of_it(run, table, tmp_path):
    gold = [
        {"image_id": table.ids[n], "label": label, "truth": bool(table.is_right[n])}
        for n, label in ((n, ("caption", f"caption {n}")[n % 2]) for n in range(300))
    ]
    (found,) = run(table.folder, gold, "--precision", "0.8", "--json").lines
    assert found["columns"]["caption"]["answers"] == 300
    written = json.loads((tmp_path / "thresholds.json").read_text())["columns"]["caption"]
    assert written["signals"] == ["caption_score", "holds_yes"]
    assert written["keys"] == {
        "caption_score": table.keys["caption"],
        "holds_yes": table.keys["holds"],
    }


def test_hypotheses_are_labels_too(run, table):
    entries = [
        [
            {"text": "a dog", "label": "yes", "yes": 0.9, "no": 0.1, "maybe": 0.0},
            {"text": "a cat", "label": "no", "yes": 0.1, "no": 0.9, "maybe": 0.0},
        ]
    ] * ROWS
    table.write(claims=pa.array(entries, HYPOTHESES_TYPE))
    gold = [
        {
            "image_id": table.ids[n],
            "label": ("a dog", "a cat")[n % 2],
            "truth": ("yes", "no")[n % 2],
        }
        for n in range(100)
    ]
    (found,) = run(table.folder, gold, "--json").lines
    assert found["columns"]["claims"]["right"] == 100
    assert found["columns"]["claims"]["verdicts"]["accepted"] == 2 * ROWS


def test_tags_that_were_missed_tell_the_recall(run, table):
    given = [["dog"] if n % 2 else [] for n in range(ROWS)]
    tags = [
        [{"label": t, "answer": "yes", "yes": 0.9, "similarity": 0.3} for t in x] for x in given
    ]
    table.write(tags=pa.array(tags, TAGS_TYPE))
    gold = [{"image_id": table.ids[n], "label": "dog", "truth": "yes"} for n in range(200)]
    gold += [{"image_id": table.ids[200], "label": "dog", "truth": "no"}]
    gold += [{"image_id": table.ids[201], "label": "lynx", "truth": "yes"}]
    (found,) = run(table.folder, gold, "--json").lines
    column = found["columns"]["tags"]
    assert (column["answers"], column["right"], column["recall"]) == (100, 100, 0.5)
    assert sorted(found["left_out"].values()) == [1, 1, 100]
    assert "recall: 50.0% of the tags that people call true" in run(table.folder, gold).output


def test_the_label_that_a_person_saw_counts_while_the_table_says_it(run, table):
    gold = [
        {"image_id": table.ids[n], "label": answer, "truth": bool(table.is_right[n])}
        for n, answer in enumerate(table.answers[:200].tolist())
    ]
    (found,) = run(table.folder, gold, "--precision", "0.8", "--json", name="gold.parquet").lines
    assert found["columns"]["holds"]["right"] == int(table.is_right[:200].sum())
    gold = [{**row, "truth": str(row["truth"]).lower()} for row in gold]
    gold += [{"image_id": table.ids[300 + n], "label": "yes", "truth": "yes"} for n in range(60)]
    (found,) = run(table.folder, gold, "--precision", "0.8", "--json").lines
    said_yes = int((table.answers[300:360] == "yes").sum())
    assert found["columns"]["holds"]["answers"] == 200 + said_yes
    assert found["left_out"] == {"about a text that the table no longer has": 60 - said_yes}


def test_answers_that_no_longer_fit_are_left_out_and_counted(run, table):
    gold = table.gold(200, text=None)
    gold[0]["image_id"] = "elsewhere"
    gold[1]["label"] = "a lynx"
    gold[2]["text"] = "another caption"
    gold[3] = gold[4]
    (found,) = run(table.folder, gold, "--precision", "0.8", "--json").lines
    assert found["columns"]["holds"]["answers"] == 196
    assert sum(found["left_out"].values()) == 4
    assert len(found["left_out"]) == 4


def test_rows_with_an_error_or_of_another_version_do_not_count(run, table):
    error = {"stage": "holds", "code": "model", "message": "", "transient": False, "attempts": 1}
    errors = pa.array([error] * 100 + [None] * (ROWS - 100), ERROR_TYPE)
    keys = ["b" * 16] * 200 + [table.keys["holds"]] * (ROWS - 200)
    table.write(error=errors, holds_key=keys)
    gold = [
        {"image_id": table.ids[n], "label": "holds", "truth": table.truth[n]} for n in range(400)
    ]
    (found,) = run(table.folder, gold, "--precision", "0.8", "--json").lines
    assert found["columns"]["holds"]["answers"] == 200
    assert sum(found["columns"]["holds"]["verdicts"].values()) == ROWS - 200
    assert found["left_out"] == {"about images that the table has no answer for": 200}


def test_a_sample_that_was_chosen_is_warned_of(run, table):
    chosen = np.argsort(-table.confidence)[:300]
    gold = [{"image_id": table.ids[n], "label": "holds", "truth": table.truth[n]} for n in chosen]
    assert "were they drawn at random?" in run(table.folder, gold).output


def test_the_diagram_is_drawn(run, table, tmp_path):
    path = tmp_path / "figures" / "diagram.svg"
    run(table.folder, table.gold(200), "--diagram", path)
    text = path.read_text()
    assert text.startswith("<svg")
    assert text.count("<circle") == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: {"image_id": row["image_id"], "label": "holds"}, r"no column 'truth'"),
        (lambda row: {**row, "truth": "perhaps"}, r"truth is 'perhaps' in row 1; it may be yes"),
        (lambda row: {**row, "label": None}, r"'label' is None in row 1"),
        (lambda row: {**row, "label": "a lynx"}, r"no answer fits the table: 20 whose label names"),
        (lambda row: {**row, "image_id": "elsewhere"}, r"20 about images that the table has no"),
    ],
)
def test_gold_that_does_not_fit_is_refused(run, table, change, message):
    answer = run(table.folder, [change(row) for row in table.gold(20)], "--json")
    assert answer.code == 2
    assert answer.output == ""
    assert re.search(message, answer.errors), answer.errors


def test_two_truths_of_one_answer_are_refused(run, table):
    gold = table.gold(20)
    twice = [{**gold[0], "truth": label} for label in ("yes", "no")]
    answer = run(table.folder, [*gold[1:], *twice, {**gold[0], "truth": "maybe"}])
    assert answer.code == 2
    assert "is judged in two ways" in answer.errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "1"), "--precision is 1.0; it must lie between 0 and 1"),
        (("--confidence", "0"), "--confidence is 0.0; it must lie between 0 and 1"),
    ],
)
def test_promises_that_nobody_can_keep_are_refused(run, table, arguments, message):
    answer = run(table.folder, table.gold(20), *arguments)
    assert answer.code == 2
    assert message in answer.errors


def test_a_table_or_gold_that_is_not_there_is_told(tagline, table, tmp_path):
    answer = tagline("calibrate", tmp_path / "nowhere", "--gold", tmp_path / "gold.jsonl")
    assert (answer.code, answer.output) == (2, "")
    assert "no table; write one with `tagline enrich`" in answer.errors
    answer = tagline("calibrate", table.folder, "--gold", tmp_path / "gold.jsonl")
    assert answer.code == 2
    assert "gold.jsonl: no gold file, nothing is there" in answer.errors
