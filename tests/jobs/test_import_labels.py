"""`tagline import-labels`: what people said in Label Studio is what calibrate and finetune get."""

import json

import pyarrow.parquet as pq
import pytest

from jobs.training_rows import read_splits
from schemas.finetune import FinetuneConfig
from tests.reviewed import HYPOTHESES, Reviewed


@pytest.fixture
def table(tmp_path):
    return Reviewed(tmp_path / "job")


@pytest.fixture
def tasks(tagline, table, tmp_path):
    """Tasks as Label Studio exports them when nobody has answered yet."""
    tagline("export", table.path, "--to", "labelstudio", "--out", tmp_path / "out")
    made = json.loads((tmp_path / "out" / "tasks.json").read_text())
    return {
        task["data"]["image_id"]: {"id": n, **task, "annotations": [], "project": 1}
        for n, task in enumerate(made, 1)
    }


@pytest.fixture
def bring(tagline, tasks, tmp_path):
    """Imports the tasks; gives what was answered, and the rows."""

    def bring(purpose="calibrate"):
        path = tmp_path / "export.json"
        path.write_text(json.dumps(list(tasks.values())))
        to = tmp_path / f"{purpose}.parquet"
        answer = tagline("import-labels", path, "--to", to, "--for", purpose, "--json")
        assert answer.code == 0, answer.errors
        return answer.lines[0], pq.read_table(to).to_pylist()

    return bring


def annotation(person=1, *, cancelled=False, at=0, **said):
    """An annotation as Label Studio's JSON export has it.

    Source: https://labelstud.io/guide/task_format
    """
    kinds = {name: "textarea" if name == "caption" else "choices" for name in said}
    result = [
        {
            "id": f"r{n}",
            "from_name": name,
            "to_name": "image",
            "type": kinds[name],
            "origin": "manual",
            "value": {"text" if kinds[name] == "textarea" else "choices": [value]},
        }
        for n, (name, value) in enumerate(said.items())
    ]
    return {
        "id": 1000 + at,
        "completed_by": person,
        "was_cancelled": cancelled,
        "ground_truth": False,
        "created_at": f"2026-03-09T22:16:{at:02d}.728353Z",
        "updated_at": f"2026-03-09T22:16:{at:02d}.728378Z",
        "lead_time": 4.288,
        "result": result,
    }


def answer_all(tasks, table):
    """People see the truth: what the table says is right but where it is wrong by construction."""
    for name, task in tasks.items():
        n = table.ids.index(name)
        wrong = table.is_wrong[n]
        said = {"caption_is": "wrong" if wrong else "right", "caption": table.truth[n]}
        said |= {"holds": "no" if wrong else "yes", "claims_0": "maybe"}
        said |= {"match": "no" if wrong else "yes", "tags_0": "no" if wrong else "yes"}
        task["annotations"].append(annotation(**said))


def test_answers_become_gold(tasks, table, bring):
    answer_all(tasks, table)
    told, rows = bring()
    assert (told["rows"], told["tasks"], told["unanswered"], told["skipped"]) == (50, 10, 0, 0)
    by_label = {label: [] for label in ("caption", "holds", "match", HYPOTHESES[0])}
    for row in rows:
        n = table.ids.index(row["image_id"])
        if row["label"] in by_label:
            by_label[row["label"]].append((n, row["truth"], row["text"]))
        else:
            assert row["label"] == table.captions[n].split()[-1]
            assert (row["truth"], row["text"]) == ("no" if table.is_wrong[n] else "yes", None)
    for n, truth, text in by_label["caption"]:
        assert (truth, text) == ("false" if table.is_wrong[n] else "true", table.captions[n])
    for n, truth, text in by_label["holds"]:
        assert (truth, text) == ("no" if table.is_wrong[n] else "yes", table.captions[n])
    assert [said[:2] for said in by_label["match"]] == [said[:2] for said in by_label["holds"]]
    assert all(said[1:] == ("maybe", None) for said in by_label[HYPOTHESES[0]])


def test_calibrate_takes_what_was_brought_back(tagline, table, tasks, bring, tmp_path):
    answer_all(tasks, table)
    bring()
    arguments = ("--precision", "0.5", "--confidence", "0.5", "--json")
    gold, to = tmp_path / "calibrate.parquet", tmp_path / "thresholds.json"
    answer = tagline("calibrate", table.path, "--gold", gold, "--to", to, *arguments)
    assert answer.code == 0, answer.errors
    (found,) = answer.lines
    columns = found["columns"]
    assert (columns["caption"]["answers"], columns["caption"]["right"]) == (10, 8)
    assert (columns["holds"]["answers"], columns["holds"]["right"]) == (10, 10)
    assert (columns["claims"]["answers"], columns["claims"]["right"]) == (10, 0)
    assert (columns["match"]["answers"], columns["match"]["right"]) == (10, 8)
    assert (columns["tags"]["answers"], columns["tags"]["right"]) == (10, 8)
    assert found["left_out"] == {}


def test_finetune_takes_corrected_captions_and_labels(table, tasks, bring, tmp_path):
    answer_all(tasks, table)
    told, rows = bring("captioner")
    assert told["rows"] == 10
    said = {row["image_id"]: row["caption"] for row in rows}
    assert said == dict(zip(table.ids[:10], table.truth[:10], strict=True))
    _, pairs = bring("entailment")
    assert {(row["hypothesis"], row["label"]) for row in pairs} >= {(HYPOTHESES[0], "maybe")}
    for use in ("captioner", "entailment"):
        made = {"use": use, "model": "embedded:captioner", "output": "x"}
        train = {"train": {"path": str(tmp_path / f"{use}.parquet")}}
        allow = {"allow": {"roots": [str(table.folder)]}}
        split = read_splits(FinetuneConfig.model_validate({**made, **train, **allow}))["train"]
        assert split.table.num_rows == len(rows if use == "captioner" else pairs)
        assert all(split.policy.place(uri).kind == "file" for uri in split.table["uri"].to_pylist())


def test_a_caption_that_is_called_wrong_and_not_corrected_is_not_learned(tasks, bring):
    first, second, third = list(tasks.values())[:3]
    first["annotations"] = [annotation(caption_is="wrong", caption=first["data"]["caption_text"])]
    second["annotations"] = [annotation(caption_is="right")]
    third["annotations"] = [annotation(caption="something better")]
    _, rows = bring("captioner")
    assert {row["caption"] for row in rows} == {
        second["data"]["caption_text"],
        "something better",
    }
    _, rows = bring()
    assert [row["truth"] for row in rows] == ["false", "true"]


def test_skipped_tasks_are_no_answers(tasks, bring):
    first, second = list(tasks.values())[:2]
    first["annotations"] = [annotation(cancelled=True, holds="yes")]
    second["annotations"] = [annotation(holds="yes"), annotation(2, cancelled=True)]
    told, rows = bring()
    assert [row["image_id"] for row in rows] == [second["data"]["image_id"]]
    assert (told["unanswered"], told["skipped"]) == (9, 2)


def test_people_who_agree_count_once_and_others_are_listed(tasks, bring):
    first, second = list(tasks.values())[:2]
    first["annotations"] = [annotation(n, holds="yes") for n in range(3)]
    second["annotations"] = [
        annotation(1, holds="yes", caption_is="right"),
        annotation(2, holds="no", caption_is="right"),
        annotation({"id": 3, "email": "a@example.com"}, holds="yes", caption_is="right"),
    ]
    told, rows = bring()
    image = second["data"]["image_id"]
    assert [(row["image_id"], row["label"]) for row in rows] == [
        (first["data"]["image_id"], "holds"),
        (image, "caption"),
    ]
    assert told["disagreements"] == [
        {"image_id": image, "label": "holds", "answers": {"yes": 2, "no": 1}}
    ]


def test_of_one_persons_answers_the_last_counts(tasks, bring):
    first = next(iter(tasks.values()))
    first["annotations"] = [annotation(at=9, holds="no"), annotation(at=3, holds="yes")]
    told, rows = bring()
    assert [row["truth"] for row in rows] == ["no"]
    assert told["disagreements"] == []


def test_people_are_told_of_disagreements(tagline, tasks, tmp_path):
    first, second = list(tasks.values())[:2]
    first["annotations"] = [annotation(holds="yes")]
    second["annotations"] = [annotation(1, holds="yes"), annotation(2, holds="no")]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(list(tasks.values())))
    answer = tagline("import-labels", path, "--to", tmp_path / "gold.parquet")
    assert "1 rows for calibrate" in answer.output
    assert f"people disagree: image {second['data']['image_id']!r}, holds:" in answer.output


def changed(change):
    """The export with one answer, after a change of its first task."""

    def make(tasks):
        first = next(iter(tasks.values()))
        first["annotations"] = [annotation(holds="yes")]
        change(first)
        return json.dumps(list(tasks.values()))

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: "{", "Invalid JSON"),
        (lambda _: '{"tasks": []}', "Input should be a valid array"),
        (lambda _: '[{"image": "x.png", "holds": "yes"}]', "not JSON_MIN"),
        (lambda tasks: json.dumps(list(tasks.values())), "10 tasks, 10 without an answer"),
        (changed(lambda task: task.update(annotations=[annotation(holds="perhaps")])), "'perhaps'"),
        (
            changed(lambda task: task.update(annotations="none")),
            "task 1: annotations: Input should be a valid array",
        ),
        (
            changed(lambda task: task["data"]["questions"].update(holds="yes")),
            "task 1: data.questions.holds: Input should be",
        ),
        (
            changed(lambda task: task["annotations"][0]["result"][0].update(value=[])),
            "task 1: annotations.0.result.0.value: Input should be an object",
        ),
        (
            changed(
                lambda task: task["annotations"][0]["result"][0].update(
                    value={"choices": ["yes", "no"]}
                )
            ),
            "has several answers to one question",
        ),
    ],
)
def test_exports_that_are_none_are_refused(tagline, tasks, tmp_path, make, message):
    path = tmp_path / "export.json"
    path.write_text(make(tasks))
    answer = tagline("import-labels", path, "--to", tmp_path / "gold.parquet", "--json")
    assert (answer.code, answer.output) == (2, "")
    assert message in answer.errors
    assert not (tmp_path / "gold.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("none.json", "--to", "gold.parquet"), "no such file"),
        (("none.json", "--to", "gold.csv"), "give a name that ends in .parquet"),
        (("none.json", "--to", "x.parquet", "--for", "captoner"), "'captoner' is not one of"),
    ],
)
def test_arguments_that_cannot_be_are_refused(tagline, arguments, message):
    answer = tagline("import-labels", *arguments)
    assert answer.code == 2
    assert message in answer.errors
