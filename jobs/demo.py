"""Runs the main job on 64 drawn scenes that ship with the project, and shows what came out.

`tagline demo`. The scenes were never trained on. Each comes with its true caption and with a claim
whose label is known, so everything printed can be checked by eye: two captioners' sentences beside
the true one, how well the matcher finds that the first fits its picture, the entailment checker's
label beside the true one, and for searches in English and Chinese the true caption of the picture
that was found. Beside the table it leaves a report to look at.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.embedded.hypotheses import write_hypotheses
from operators.embedded.scenes import describe, describe_in_chinese, draw, draw_scenes
from schemas.enriched import IMAGE_ID, URI
from schemas.errors import RunError

INPUT = Path(__file__).parents[1] / "operators" / "embedded" / "demo"
SEED = 64
SCENES = 64
SHOWN = 6  # rows printed
LEAST_MATCH = 0.5  # of a caption that fits
SEARCHES = (22, 14, 25, 19)  # scenes searched for by their captions: English, Chinese, English, …


@dataclass(frozen=True)
class Row:
    """One scene: what the models said, and what is true."""

    image_id: str
    caption: str | None
    mplug_caption: str | None
    match: float | None
    true_caption: str
    claim: str
    label: str | None
    true_label: str


@dataclass(frozen=True)
class Search:
    """One search: the scene found first, and what it shows."""

    query: str
    image_id: str
    true_caption: str
    is_right: bool


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Args:
        table: where it lies.
        rows: scenes in it.
        captions_right: captions equal to the true one, word for word.
        mplug_captions_right: those of the second captioner.
        matches_right: scenes whose caption the matcher judges as the true one does.
        labels_right: labels equal to the true one.
        shown: the first rows.
        searches: in English and in Chinese.
        report: a page that shows the table.
    """

    table: str
    rows: int
    captions_right: int
    mplug_captions_right: int
    matches_right: int
    labels_right: int
    shown: tuple[Row, ...]
    searches: tuple[Search, ...]
    report: str = ""


def run(to: Path = Path("demo")) -> Demo:
    """Enriches the shipped scenes into a table under `to` and compares it with the truth.

    Raises:
        TaglineError: as `jobs.enrich.run` does.
    """
    from jobs import enrich, report

    table = to / "table"
    enrich.run(job_config(table))
    page = report.run(str(table), str(to / "report.html"), images=str(INPUT))
    rows = read_rows(table)
    told = [told_of(row) for row in rows]
    return Demo(
        table=str(table),
        rows=len(rows),
        captions_right=sum(row.caption == row.true_caption for row in told),
        mplug_captions_right=sum(row.mplug_caption == row.true_caption for row in told),
        matches_right=sum(is_match_right(row) for row in told),
        labels_right=sum(row.label == row.true_label for row in told),
        shown=tuple(told[:SHOWN]),
        searches=search(rows),
        report=page.out,
    )


def job_config(table: Path) -> Any:
    """The job: the embedded models over the shipped manifest."""
    from operators.catalog import check_document

    return check_document(document(table))


def document(table: Path) -> dict[str, Any]:
    """The job's config as YAML would give it."""
    return {
        "manifest": str(INPUT / "manifest.parquet"),
        "table": str(table),
        "operators": {
            "caption": {"use": "captioner", "model": "embedded:captioner"},
            "mplug_caption": {"use": "captioner", "model": "embedded:mplug-captioner"},
            "match": {"use": "matcher", "model": "embedded:matcher", "text": "caption"},
            "entailment": {
                "use": "entailment",
                "model": "embedded:entailment",
                "hypothesis": "claim",
            },
            "embedding": {"use": "embedder", "model": "embedded:embedder"},
        },
    }


def read_rows(table: Path) -> list[dict[str, Any]]:
    """Reads the table, in the order of the image ids.

    Raises:
        RunError: a scene is missing or carries an error.
    """
    from deltalake import DeltaTable

    columns = DeltaTable(str(table)).to_pyarrow_table()
    rows: list[dict[str, Any]] = columns.sort_by(IMAGE_ID).to_pylist()
    broken = [row for row in rows if row["error"] is not None]
    if broken or len(rows) != SCENES:
        first = f"; {broken[0][IMAGE_ID]}: {broken[0]['error']}" if broken else ""
        raise RunError(
            f"{table}: {len(rows)} rows, {len(broken)} with an error, where {SCENES} scenes "
            f"were enriched{first}; remove the folder and run the demo again"
        )
    return rows


def told_of(row: dict[str, Any]) -> Row:
    """Puts what was said of a scene beside what is true."""
    return Row(
        image_id=row[IMAGE_ID],
        caption=row["caption"],
        mplug_caption=row["mplug_caption"],
        match=row["match"],
        true_caption=row["true_caption"],
        claim=row["claim"],
        label=row["entailment"],
        true_label=row["true_label"],
    )


def is_match_right(row: Row) -> bool:
    """Whether the matcher holds a caption for fitting exactly where it is the true one."""
    fits = row.match is not None and row.match >= LEAST_MATCH
    return fits == (row.caption == row.true_caption)


def search(rows: list[dict[str, Any]]) -> tuple[Search, ...]:
    """Finds the nearest picture to some captions, English and Chinese, by the table's vectors."""
    from operators.embedder import Embedder

    truths = [rows[number] for number in SEARCHES]
    columns = ("true_caption", "true_caption_zh") * len(truths)
    queries = [row[column] for row, column in zip(truths, columns, strict=False)]
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    nearest = (Embedder("embedded:embedder").embed_texts(queries) @ vectors.T).argmax(axis=1)
    found = [rows[int(number)] for number in nearest]
    return tuple(
        Search(query, row[IMAGE_ID], row["true_caption"], row[IMAGE_ID] == truth[IMAGE_ID])
        for query, row, truth in zip(queries, found, truths, strict=True)
    )


def show(demo: Demo) -> None:
    """Prints a demo for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True)
    captions = Table("image", "caption", "match", "mPLUG's caption", "true caption")
    labels = Table("image", "claim", "label", "true label")
    for row in demo.shown:
        match = "" if row.match is None else f"{row.match:.2f}"
        captions.add_row(row.image_id, row.caption, match, row.mplug_caption, row.true_caption)
        labels.add_row(row.image_id, row.claim, row.label, row.true_label)
    searches = Table("search", "found", "its true caption", "right")
    for hit in demo.searches:
        searches.add_row(hit.query, hit.image_id, hit.true_caption, "yes" if hit.is_right else "no")
    console.print(captions, labels, searches)
    console.print(
        f"Captions right word for word: {demo.captions_right} of {demo.rows}; mPLUG's: "
        f"{demo.mplug_captions_right}; judged rightly by the matcher: {demo.matches_right}; "
        f"labels right: {demo.labels_right}."
    )
    console.print(f"The table lies at {demo.table}, a report of it at {demo.report}")
    console.print("A page that answers about pictures: tagline serve infra/examples/serve.yaml")


def draw_input(folder: Path = INPUT) -> None:
    """Draws what ships: the scenes, their manifest with true captions, and a claim about each."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    for index, scene in enumerate(draw_scenes(SCENES, SEED)):
        claim, label = write_hypotheses(scene, SEED, index)[index % 3]
        uri = f"pictures/scene-{index:02d}.png"
        draw(scene).save(folder / uri, optimize=True)
        rows.append(
            {
                IMAGE_ID: f"scene-{index:02d}",
                URI: uri,
                "true_caption": describe(scene),
                "true_caption_zh": describe_in_chinese(scene),
                "claim": claim,
                "true_label": label,
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), folder / "manifest.parquet")


def to_json(demo: Demo) -> str:
    """One JSON document."""
    from dataclasses import asdict

    return json.dumps(asdict(demo), ensure_ascii=False)


if __name__ == "__main__":
    from jobs.cli import main

    main(["demo"])
