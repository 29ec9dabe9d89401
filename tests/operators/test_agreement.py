"""How far the models agree about an image."""

import numpy as np
import pyarrow as pa
import pytest

from operators.agreement import Agreement, labels_named, likeness, words
from schemas.enriched import TAGS_TYPE, agreement_schema
from schemas.errors import ConfigError


@pytest.fixture
def taxonomy(tmp_path):
    path = tmp_path / "taxonomy.yaml"
    path.write_text(
        "- {id: dog, en: dog, zh: 狗, synonyms: [hound]}\n"
        "- {id: berry, en: berry}\n- {id: red car, en: red car}\n"
    )
    return str(path)


def tags(*labels):
    return [{"label": label, "answer": "yes", "yes": 1.0, "similarity": 0.5} for label in labels]


def test_the_agreement_is_the_geometric_mean_of_what_is_known():
    operator = Agreement(entailment="holds", match="match")
    table = pa.table(
        {
            "holds_yes": pa.array([0.9, 0.9, None, None], pa.float32()),
            "match": pa.array([0.4, 0.0, 0.5, None], pa.float32()),
        }
    )
    found = operator(table)
    assert found.schema == agreement_schema("agreement")
    expected = [np.sqrt(0.36), np.sqrt(0.9 * 0.001), 0.5]
    assert found["agreement"].to_pylist()[:3] == pytest.approx(expected, rel=1e-5)
    assert found["agreement"].to_pylist()[3] is None


def test_labels_that_the_caption_names_must_be_among_the_tags(taxonomy):
    operator = Agreement(tags="tags", taxonomy=taxonomy)
    table = pa.table(
        {
            "caption": ["two dogs and a red car", "a hound", "a lynx", "a dog"],
            "tags": pa.array([tags("dog"), tags("dog", "berry"), tags("dog"), []], TAGS_TYPE),
        }
    )
    assert operator.reads == ("caption", "tags")
    found = operator(table)["agreement"].to_pylist()
    assert found == pytest.approx([0.5, 1.0, None, 0.001])


def test_two_captions_are_as_alike_as_their_words():
    operator = Agreement(other="brief")
    table = pa.table({"caption": ["a dog on grass", "a cat"], "brief": ["A dog.", "two dogs"]})
    assert operator(table)["agreement"].to_pylist() == pytest.approx([2 * 2 / 6, 0.001])
    assert likeness(words("一只狗"), words("一只猫")) == pytest.approx(2 / 3)
    assert np.isnan(likeness([], []))


def test_names_are_found_in_the_singular_and_the_plural():
    names = {("dog",): "dog", ("berry",): "berry", ("red", "car"): "car", ("bus",): "bus"}
    assert labels_named(words("Three dogs, berries and red cars"), names) == {"dog", "berry", "car"}
    assert labels_named(words("two buses"), names) == {"bus"}
    assert labels_named(words("a red dogcar"), names) == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to compare the caption with"),
        ({"tags": "tags"}, "tags and taxonomy belong together"),
        ({"match": "match", "taxonomy": "t.yaml"}, "tags and taxonomy belong together"),
    ],
)
def test_options_that_say_nothing_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Agreement(**options)


def test_the_key_changes_with_what_is_compared(taxonomy):
    keys = {
        Agreement(match="match").key,
        Agreement(match="other").key,
        Agreement(match="match", tags="tags", taxonomy=taxonomy).key,
        Agreement(match="match", upstream_keys={"match": "a" * 16}).key,
    }
    assert len(keys) == 4
