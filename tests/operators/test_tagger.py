"""Labels of a taxonomy are shortlisted by their vectors and confirmed by looking at the image."""

import io

import numpy as np
import pyarrow as pa
import pytest

from operators.embedded.scenes import draw, draw_scenes
from operators.embedder import Embedder
from operators.entailment import Entailment
from operators.tagger import Tagger, label_vectors
from schemas.calibration import CalibratedColumn, Calibration, Thresholds
from schemas.enriched import tags_schema
from schemas.errors import ConfigError, RowFaults
from schemas.taxonomy import read_taxonomy

TAXONOMY = """
- {id: animal, en: animal, hypothesis: there is a rocket and a guitar}
- {id: dog, en: dog, zh: 狗, parent: animal}
- {id: cat, en: cat, zh: 猫, parent: animal}
- {id: car, en: car, zh: 汽车}
- {id: night, en: at night, hypothesis: it is night}
- {id: tree, en: tree}
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def taxonomy(tmp_path):
    path = tmp_path / "taxonomy.yaml"
    path.write_text(TAXONOMY, encoding="utf-8")
    return str(path)


@pytest.fixture
def build(taxonomy):
    def build(**options):
        given = {"embedder": "embedded:embedder", "taxonomy": taxonomy, **options}
        return Tagger("embedded:entailment", **given)

    return build


@pytest.fixture(scope="module")
def table():
    """Twelve scenes and their vectors."""
    pictures = [draw(scene) for scene in draw_scenes(12, 4)]
    encoded = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, "PNG")
        encoded.append(file.getvalue())
    vectors = Embedder("embedded:embedder").embed(pictures)
    return pa.table(
        {
            "image_encoded": pa.array(encoded, pa.large_binary()),
            "embedding": pa.array(vectors.tolist(), pa.list_(pa.float32())),
        }
    )


def test_a_label_holds_where_the_entailment_checker_says_so(build, table, taxonomy):
    tagger = build()
    found = tagger(table)
    assert found.schema == tags_schema("tags")
    checker = Entailment("embedded:entailment", hypotheses=["x"])
    labels = read_taxonomy(taxonomy).labels
    pictures = [draw(scene) for scene in draw_scenes(12, 4)]
    judged = checker.judge(pictures, [label.sentence for label in labels])
    for tags, row in zip(found["tags"].to_pylist(), judged, strict=True):
        expected = {label.id for label, one in zip(labels, row, strict=True) if one.label == "yes"}
        expected |= {"animal"} if expected & {"dog", "cat"} else set()
        assert {tag["label"] for tag in tags} == expected
        surest = [tag["yes"] for tag in tags]
        assert surest == sorted(surest, reverse=True)
    assert sum(map(len, found["tags"].to_pylist())) > 3


def test_only_the_shortlist_is_looked_at(build, table, taxonomy):
    tagger = build(shortlist=2)
    vectors = label_vectors(tagger.embedder, read_taxonomy(taxonomy), ("{}",))
    near = np.argsort(-np.array(table["embedding"].to_pylist()) @ vectors.T, axis=1)[:, :2]
    ids = [label.id for label in read_taxonomy(taxonomy).labels]
    asked = []
    judge = tagger.checker.judge_each
    tagger.checker.judge_each = lambda images, told: (asked.extend(told), judge(images, told))[1]
    tags = tagger(table)["tags"].to_pylist()
    assert [len(some) for some in asked] == [2] * 12
    for row, some in zip(near.tolist(), tags, strict=True):
        allowed = {ids[at] for at in row}
        allowed |= {"animal"} if allowed & {"dog", "cat"} else set()
        assert {tag["label"] for tag in some} <= allowed


def test_tags_do_not_depend_on_the_batch(build, table):
    tagger = build()
    whole = tagger(table)["tags"].to_pylist()
    alone = [tagger(table.slice(row, 1))["tags"].to_pylist()[0] for row in range(3)]
    for one, other in zip(whole, alone, strict=False):
        assert [tag["label"] for tag in one] == [tag["label"] for tag in other]
        assert [tag["yes"] for tag in one] == pytest.approx([tag["yes"] for tag in other], abs=1e-4)


def test_labels_are_embedded_once_and_their_names_averaged(build, taxonomy, monkeypatch):
    tagger = build(prompts=["{}", "a {}"])
    tagger.load()
    told = Embedder("embedded:embedder").embed_texts(["dog", "a dog", "狗", "a 狗"])
    mean = told.mean(axis=0)
    assert tagger._vectors[1] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    monkeypatch.setattr(Embedder, "embed_texts", None)
    again = build(prompts=["{}", "a {}"])
    again.load()
    assert (again._vectors == tagger._vectors).all()


def test_calibrated_thresholds_decide_what_holds(build, table, tmp_path):
    def thresholds(*given):
        column = CalibratedColumn(
            kind="tags", signals=("tags",), temperature=1, shift=0, thresholds=given
        )
        calibration = Calibration(
            precision=0.9, confidence=0.9, table="t", version=0, columns={"tags": column}
        )
        path = tmp_path / "thresholds.json"
        path.write_text(calibration.model_dump_json())
        return str(path)

    everything = build(thresholds=thresholds(Thresholds(accept=0.0)))
    assert all(len(tags) == 6 for tags in everything(table)["tags"].to_pylist())
    given = (Thresholds(accept=1.1), Thresholds(label="night", accept=0.0))
    only = build(thresholds=thresholds(*given))
    assert {tag["label"] for tags in only(table)["tags"].to_pylist() for tag in tags} == {"night"}
    assert only.key != everything.key != build().key


def test_a_vector_that_is_missing_is_told_by_row(build, table):
    vectors = [*table["embedding"].to_pylist()[:10], None, [1.0]]
    column = pa.array(vectors, pa.list_(pa.float32()))
    with pytest.raises(RowFaults) as raised:
        build()(table.set_column(1, "embedding", column))
    assert sorted(raised.value.faults) == [10, 11]
    assert "is null in this row; a vector of 128 is needed" in raised.value.faults[10].message


def test_vectors_of_another_embedder_are_refused(build):
    same = Embedder("embedded:embedder").key
    build(upstream_keys={"embedding": same})
    build(upstream_keys={"embedding": Embedder("embedded:embedder", rounding="none").key},
          embedder={"model": "embedded:embedder", "rounding": "none"})  # fmt: skip
    with pytest.raises(ConfigError, match="'embedding' is of another embedder"):
        build(upstream_keys={"embedding": "0" * 16})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortlist": 0}, "shortlist is 0; it must be a whole number"),
        ({"prompts": ["a photo"]}, r"prompts is \['a photo'\]; it must be a list of texts"),
        ({"prompts": "{}"}, "prompts is '{}'"),
        ({"embedder": {"modle": "x"}}, "embedder is {'modle': 'x'}; it must be a model"),
    ],
)
def test_options_that_cannot_be_are_refused(build, options, message):
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_the_key_changes_with_the_taxonomy(build, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text(TAXONOMY.replace("zh: 猫", "zh: 小猫"), encoding="utf-8")
    assert build().key == build().key
    assert len({build().key, build(taxonomy=str(other)).key, build(shortlist=3).key}) == 3
