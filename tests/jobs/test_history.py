"""`tagline history`: what each commit says of itself."""

from deltalake import DeltaTable, write_deltalake

from jobs import compaction, history, restore
from jobs.commit import commit
from jobs.history import Note
from tests import plain_run as job

UPPER = {"upper": {"use": "upper", "text": "title"}}
SECOND = UPPER | {"again": {"use": "upper", "text": "upper"}}
NOTE = Note(
    "enrich",
    run="00000000-0000-4000-8000-000000000001",
    rows={"new": 8, "written": 8, "failed": 1},
    computed={"upper": 7},
    errors={"model": 1},
    seconds=2.5,
    limiting_stage="upper",
)


def committed(folder, count, operators=UPPER, note=NOTE):
    rows = [
        {"image_id": f"{n}", "uri": f"/nowhere/{n}", "title": "bad" if n == 3 else f"t{n}"}
        for n in range(count)
    ]
    config = job.config_of(job.write_manifest(folder / "m", rows), folder / "table", operators)
    planned = job.make_plan(config)
    job.run(planned, job.operators_of(config))
    commit(planned, note=note)
    return str(folder / "table")


def test_a_commit_keeps_the_summary_of_its_run_also_where_columns_were_added(tmp_path):
    committed(tmp_path, 8)
    committed(tmp_path, 9)
    table = committed(tmp_path, 9, SECOND)

    last, second, first = [one.note for one in history.run(table)]

    assert (first.files, second.files) == ({"added": 4, "removed": 0}, {"added": 1, "removed": 0})
    assert last.files == {"added": 5, "removed": 5}
    for note in (first, second, last):
        assert Note(**{**vars(note), "files": {}}) == NOTE
    assert [one.version for one in history.run(table, limit=2)] == [2, 1]


def test_each_version_is_a_line_for_people(tmp_path, tagline):
    table = committed(tmp_path, 8)
    committed(tmp_path, 9)
    compaction.run(table)
    restore.run(table, "0")
    write_deltalake(table, DeltaTable(table).to_pyarrow_table(), mode="overwrite")

    told = [line.split("Z  ")[1] for line in tagline("history", table).output.splitlines()]

    run = "2.5 s; limited by upper; run 00000000-0000-4000-8000-000000000001"
    assert told == [
        "write",
        "restore: as in version 0",
        "compact: 1 files added, 5 files removed",
        f"enrich: 8 new, failed: model 1; 1 files added; {run}",
        f"enrich: 8 new, failed: model 1; 4 files added; {run}",
    ]
    lines = tagline("history", table, "--json").lines
    assert [line["note"] and line["note"]["verb"] for line in lines] == [
        None,
        "restore",
        "compact",
        "enrich",
        "enrich",
    ]
    assert lines[1]["restored"] == 0


def test_a_note_of_another_program_is_no_note_of_ours():
    assert history._note(None) is None
    assert history._note("by hand") is None
    assert history._note('{"tagline": {"verb": "enrich", "later": 1}}') == Note("enrich")
