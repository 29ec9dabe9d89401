"""Taxonomies: what a label says, and what is refused."""

import pytest

from schemas.errors import ConfigError
from schemas.taxonomy import read_taxonomy, there_is


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "taxonomy.yaml"
        path.write_text(text, encoding="utf-8")
        return read_taxonomy(path)

    return read


def test_a_label_has_names_a_sentence_and_ancestors(read):
    taxonomy = read("""
- {id: animal, en: animal, zh: 动物}
- {id: dog, en: dog, zh: 狗, synonyms: [hound], parent: animal}
- {id: night, hypothesis: it is night}
- {id: puppy, en: puppy, parent: dog}
""")
    assert [label.id for label in taxonomy.labels] == ["animal", "dog", "night", "puppy"]
    assert taxonomy.labels[1].names == ("dog", "狗", "hound")
    assert taxonomy.labels[2].names == ("night",)
    assert [label.sentence for label in taxonomy.labels] == [
        "there is an animal",
        "there is a dog",
        "it is night",
        "there is a puppy",
    ]
    assert list(taxonomy.ancestors(3)) == [1, 0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("red car", "there is a red car"),
        ("apple", "there is an apple"),
        ("two dogs", "there are two dogs"),
        ("3 cats", "there are 3 cats"),
        ("a red car", "there is a red car"),
    ],
)
def test_a_name_becomes_a_sentence(name, sentence):
    assert there_is(name) == sentence


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a taxonomy is a list of labels"),
        ("[dog]", r"label 1 is 'dog'; it must be a mapping"),
        ("- {en: dog}", "label 1: id is missing"),
        ("- {id: '', en: dog}", "label 1: id is empty"),
        ("- {id: ' ', en: dog}", "label 1: id is empty"),
        ("- {id: dog, en: ' '}", "label 1: en is empty"),
        ("- {id: dog, zh: 狗}", r"label 1 \('dog'\) has neither an English name"),
        ("- {id: dog, en: dog, pluralof: x}", "label 1: unknown key 'pluralof'; known are"),
        ("- {id: dog, en: dog}\n- {id: dog, en: hound}", "id 'dog' is given 2 times"),
        ("- {id: dog, en: dog, parent: animl}\n- {id: animal, en: x}", "did you mean 'animal'"),
        ("- {id: a, en: a, parent: b}\n- {id: b, en: b, parent: a}", "'a' is its own ancestor"),
        ("- {id: a, en: a, parent: b}\n- {id: b, en: b, parent: b}", "'b' is its own ancestor"),
        ("- {id: 5, en: dog}", "label 1: id is 5: input should be a valid string"),
        ("{labels: [", "not YAML"),
    ],
)
def test_what_is_no_taxonomy_is_refused(read, text, message):
    with pytest.raises(ConfigError, match=message):
        read(text)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        read_taxonomy(tmp_path / "nowhere.yaml")


def test_twenty_thousand_labels_are_read_and_more_are_refused(read):
    lines = [f"- {{id: label-{n}, en: thing {n}}}" for n in range(20_000)]
    assert len(read("\n".join(lines)).labels) == 20_000
    with pytest.raises(ConfigError, match="20,001 labels; at most 20,000"):
        read("\n".join([*lines, "- {id: one, en: more}"]))
