"""`tagline search`: what is found by text, image and words, in which order, and what is refused."""

import pyarrow as pa
import pytest

from jobs import index
from jobs.image_index import FUSION, ImageIndex, fused
from operators.base import apply
from operators.embedded.scenes import describe, describe_in_chinese, draw, draw_scenes
from operators.embedder import Embedder
from tests.enriched_tables import EnrichedTable, unit_vectors

SCENES = 12
CAPTIONS = ["a red apple", "红色的苹果", "two dogs run", "it's a cat", "绿色的汽车", "a blue car"]


@pytest.fixture
def indexed(tmp_path):
    """The folder of an index of captions with random vectors."""
    table = EnrichedTable(tmp_path / "table", CAPTIONS)
    index.run(str(table.folder), str(tmp_path / "index"))
    return tmp_path / "index"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Drawn scenes, embedded by the model that ships with tagline, indexed; captions in turn."""
    folder = tmp_path_factory.mktemp("scenes")
    drawn = list(draw_scenes(SCENES, 3))
    (folder / "pictures").mkdir()
    for n, scene in enumerate(drawn):
        draw(scene).save(folder / f"pictures/{n}.png")
    encoded = [(folder / f"pictures/{n}.png").read_bytes() for n in range(SCENES)]
    embedder = Embedder("embedded:embedder")
    done = apply(embedder, pa.table({"image_encoded": pa.array(encoded, pa.large_binary())}))
    captions = [(describe, describe_in_chinese)[n % 2](scene) for n, scene in enumerate(drawn)]
    table = EnrichedTable(
        folder / "table", captions, done["embedding"].to_pylist(), embedder.description
    )
    assert table.key == embedder.key
    index.run(str(table.folder), str(folder / "index"))
    return folder, drawn, captions


def ids(answer):
    assert answer.code == 0, answer.errors
    return [line["image_id"] for line in answer.lines]


def test_a_text_in_either_language_finds_its_scene(tagline, scenes):
    folder, drawn, _ = scenes
    for text in (describe(drawn[4]), describe_in_chinese(drawn[4])):
        hits = tagline("search", folder / "index", text, "--limit", 5, "--json").lines
        assert hits[0]["image_id"] == "image-4"
        assert len(hits) == 5
        assert [hit["score"] for hit in hits] == sorted((h["score"] for h in hits), reverse=True)
        assert -1 <= hits[0]["similarity"] <= 1
        assert {"uri", "caption", "entailment", "tags", "enriched_at"} <= set(hits[0])


def test_an_image_finds_itself_first(tagline, scenes):
    folder, _, _ = scenes
    (first, *_) = tagline(
        "search", folder / "index", "--image", folder / "pictures/5.png", "--json"
    ).lines
    assert first["image_id"] == "image-5"
    assert first["score"] == pytest.approx(1, abs=1e-5)  # float32, summed in two orders
    assert first["similarity"] == pytest.approx(1, abs=1e-5)


def test_words_find_captions_without_a_model(tagline, indexed):
    assert ids(tagline("search", indexed, "苹果", "--words", "--json")) == ["image-1"]
    assert ids(tagline("search", indexed, "apples", "--words", "--json")) == ["image-0"]
    assert ids(tagline("search", indexed, "DOG", "--words", "--json")) == ["image-2"]
    (hit,) = tagline("search", indexed, "汽车", "--words", "--json").lines
    assert (hit["similarity"], hit["caption"]) == (None, "绿色的汽车")


def test_tags_are_words_too(tagline, indexed):
    assert set(ids(tagline("search", indexed, "动物", "--words", "--json"))) == {"image-2"}
    assert len(ids(tagline("search", indexed, "fruit", "--words", "--json"))) == 3


def test_nothing_found_is_no_error(tagline, indexed):
    for text in ("zebra", "!!!"):
        answer = tagline("search", indexed, text, "--words", "--json")
        assert (answer.code, answer.output) == (0, "")


def test_a_condition_holds_for_all_hits(tagline, scenes, indexed):
    folder, _, _ = scenes
    hits = tagline("search", folder / "index", "a dog", "--where", "entailment = 'no'", "--json")
    assert set(ids(hits)) == {f"image-{n}" for n in range(SCENES) if n % 3 == 1}
    where = "array_has(tags, 'fruit') AND caption_score < 0"
    hits = tagline("search", indexed, "fruit", "--words", "--where", where, "--json")
    assert len(ids(hits)) == 3


@pytest.mark.parametrize("where", ["entailed = 'yes'", "entailment =", "entailment + 1", "caption"])
def test_a_broken_condition_is_told_with_the_columns(tagline, indexed, where):
    answer = tagline("search", indexed, "x", "--words", "--where", where)
    assert (answer.code, answer.output) == (2, "")
    assert f"--where {where!r} is not a condition on this index" in answer.errors
    assert "over image_id, uri, caption," in answer.errors
    assert "tagline_" not in answer.errors.partition("over image_id")[2]


def test_rankings_are_fused_by_reciprocal_rank(indexed):
    opened = ImageIndex(str(indexed))
    near = opened.nearest(unit_vectors(1, seed=4)[0], limit=3)
    named = opened.with_words("apple 苹果 dogs", limit=3)
    ranks = {hit.image_id: 1 / (FUSION + rank) for rank, hit in enumerate(near, 1)}
    for rank, hit in enumerate(named, 1):
        ranks[hit.image_id] = ranks.get(hit.image_id, 0) + 1 / (FUSION + rank)
    both = fused([near, named])
    assert {hit.image_id: hit.score for hit in both} == pytest.approx(ranks)
    assert both == sorted(both, key=lambda hit: -hit.score)
    assert all(hit.similarity == pytest.approx(hit.score) for hit in near)


def test_a_text_lifts_images_with_all_of_its_words_only(indexed):
    opened = ImageIndex(str(indexed))
    vector = unit_vectors(6)[3]
    near = [hit.image_id for hit in opened.nearest(vector, limit=6)]
    assert near[0] == "image-3"
    lifted = opened.hybrid("the red apples", vector, limit=6)
    assert lifted[0].image_id == "image-0"
    assert lifted[0].similarity == pytest.approx(float(unit_vectors(6)[0] @ vector), abs=1e-6)
    for text in ("green apple", "绿色的苹果", "?"):
        assert [hit.image_id for hit in opened.hybrid(text, vector, limit=6)] == near


def test_a_matcher_puts_hits_in_order_again(tagline, scenes):
    folder, drawn, _ = scenes
    command = ("search", folder / "index", describe(drawn[3]), "--rerank", "matcher", "--json")
    answer = tagline(*command)
    assert answer.code == 2
    assert "name one with --matcher" in answer.errors
    given = ("--matcher", "embedded:matcher", "--images", folder, "--limit", 3)
    hits = tagline(*command, *given).lines
    assert hits[0]["image_id"] == "image-3"
    assert hits[0]["score"] > 0.9 > hits[2]["score"]


def test_an_image_that_the_matcher_cannot_read_comes_last(tagline, scenes, tmp_path):
    folder, drawn, _ = scenes
    (tmp_path / "pictures").mkdir()
    for n in (1, 3):
        name = f"pictures/{n}.png"
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    given = ("--matcher", "embedded:matcher", "--images", tmp_path, "--json")
    answer = tagline("search", folder / "index", describe(drawn[3]), "--rerank", "matcher", *given)
    assert answer.code == 1
    assert answer.lines[0]["image_id"] == "image-3"
    assert [line.get("score") is None for line in answer.lines] == [False] * 2 + [True] * 8
    assert answer.lines[-1]["error"]["code"] == "missing"


def test_an_index_of_another_embedder_is_refused(tagline, tmp_path, scenes):
    table = EnrichedTable(tmp_path / "table", CAPTIONS, model="embedded:embedder")
    index.run(str(table.folder), str(tmp_path / "index"))
    answer = tagline("search", tmp_path / "index", "a dog")
    assert (answer.code, answer.output) == (2, "")
    assert f"made by the embedder {table.key} (weights {'b' * 12}…), but" in answer.errors
    assert "give the model that they were made by with --model" in answer.errors


def test_a_model_that_is_not_where_it_was_can_be_named(tagline, tmp_path, scenes):
    _, _, captions = scenes
    embedder = Embedder("embedded:embedder")
    vectors = embedder.embed_texts(captions)
    where = str(tmp_path / "moved")
    table = EnrichedTable(tmp_path / "table", captions, vectors, embedder.description, where)
    index.run(str(table.folder), str(tmp_path / "index"))
    answer = tagline("search", tmp_path / "index", "a dog")
    assert answer.code == 2
    assert "say with --model where the model is now" in answer.errors
    found = tagline("search", tmp_path / "index", captions[2], "--model", "embedded:embedder")
    assert found.output.splitlines()[0].split()[1] == "image-2"


def test_an_index_that_does_not_know_its_model_says_so(tagline, indexed):
    answer = tagline("search", indexed, "a dog")
    assert answer.code == 2
    assert "give its directory with --model, or search by --words" in answer.errors


def test_an_image_that_cannot_be_read_is_a_failed_row(tagline, scenes, tmp_path):
    folder, _, _ = scenes
    answer = tagline("search", folder / "index", "--image", tmp_path / "none.png", "--json")
    assert answer.code == 1
    (line,) = answer.lines
    assert line["image"] == str(tmp_path / "none.png")
    assert line["error"]["code"] == "missing"
    assert (
        "none.png  missing"
        in tagline("search", folder / "index", "--image", tmp_path / "none.png").output
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "search needs a text, or --image FILE"),
        (("\udcff", "--words"), "is not UTF-8"),
        (("a", "--words", "--where", "CAST(caption AS INT) > 1"), "is not a condition on this"),
        (("a", "--image", "b.png"), "takes a text or --image, not both"),
        (("  ",), "the text is '  '; give words to look for"),
        (("--image", "b.png", "--words"), "--words needs a text to look for"),
        (("--image", "b.png", "--rerank", "matcher"), "--rerank needs a text to look for"),
        (("a", "--words", "--matcher", "m"), "--matcher is only for --rerank matcher"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(tagline, indexed, arguments, message):
    answer = tagline("search", indexed, *arguments)
    assert (answer.code, answer.output) == (2, "")
    assert message in answer.errors


def test_a_folder_without_an_index_is_told(tagline, tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", "s3://bucket/index"):
        answer = tagline("search", place, "a dog", "--words")
        assert answer.code == 2
        assert "index" in answer.errors
    (tmp_path / "index").mkdir()
    (tmp_path / "index/tagline.json").write_text('{"format": 2}')
    answer = tagline("search", tmp_path / "index", "a dog", "--words")
    assert answer.code == 2
    assert "run `tagline index` again" in answer.errors
