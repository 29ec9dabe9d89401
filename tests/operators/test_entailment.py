"""Judgements; goldens are of ModelScope's visual-entailment pipeline on the same checkpoints."""

import json
import pickle
import shutil

import pyarrow as pa
import pytest
import torch
from PIL import Image

from operators.base import apply
from operators.entailment import Entailment
from operators.models.ofa.answers import Question, clean
from schemas.errors import ConfigError, ModelError, RowFaults
from tests import tiny

TEXTS = ["there are two birds.", "the cup is empty", "A well-lit street at night?"]


@pytest.fixture(scope="module")
def photographs():
    return {path.name: Image.open(path) for path in tiny.photographs()}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A directory whose images are small, so that tests that compare with no golden are fast."""
    return directory(tmp_path_factory.mktemp("models") / "small", patch_image_size=96)


@pytest.fixture(scope="module")
def checker(small):
    return Entailment(small, hypothesis="caption")


def rows(captions, **columns) -> pa.Table:
    files = [path.read_bytes() for path in tiny.photographs()[: len(captions)]]
    given = {"image_encoded": pa.array(files, pa.large_binary())}
    given["caption"] = pa.array(captions, pa.string())
    return pa.table(given | {name: pa.array(v, pa.string()) for name, v in columns.items()})


def directory(folder, answers=None, **model):
    shutil.copytree(tiny.checkpoint("ofa_entailment_mini"), folder)
    path = folder / "configuration.json"
    configuration = json.loads(path.read_text())
    configuration["model"] |= model
    path.write_text(json.dumps(configuration))
    if answers:
        (folder / "ans2label.json").write_text(json.dumps({a: i for i, a in enumerate(answers)}))
    return folder


@pytest.mark.parametrize(
    "recipe", ["ofa_entailment_mini", pytest.param("ofa_entailment_tiny", marks=pytest.mark.slow)]
)
def test_judgements_are_those_of_the_published_pipeline(recipe, photographs):
    golden = json.loads((tiny.DATA / "golden" / f"{recipe}.json").read_text())
    checker = Entailment(tiny.checkpoint(recipe), hypothesis="caption")
    assert sum("text2" in row for row in golden) == 3
    names = list(photographs)
    questions = [Question(names.index(r["image"]), r["text"], r.get("text2")) for r in golden]
    found = checker._loaded().judge(list(photographs.values()), questions)
    for probabilities, row in zip(found.tolist(), golden, strict=True):
        assert checker.answers[probabilities.index(max(probabilities))] == row["label"]
        assert max(probabilities) == pytest.approx(row["probability"], abs=1e-4)
        assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_a_table_gets_one_judgement_a_row(checker, photographs):
    table = checker(rows(TEXTS))
    assert table.schema == checker.writes
    for number, (image, text) in enumerate(zip(photographs.values(), TEXTS, strict=False)):
        [[expected]] = checker.judge([image], [text])
        found = table.slice(number, 1).to_pylist()[0]
        assert found["entailment"] == expected.label
        assert found["entailment_maybe"] == pytest.approx(expected.maybe, abs=1e-5)


def test_fixed_hypotheses_give_a_list_in_their_order(small, photographs):
    checker = Entailment(small, name="checks", hypotheses=[*TEXTS, TEXTS[0]])
    table = checker(rows(["", ""]).select(["image_encoded"]))
    assert table.schema == checker.writes
    judged = checker.judge(list(photographs.values())[:2], [*TEXTS, TEXTS[0]])
    for entries, judgements in zip(table["checks"].to_pylist(), judged, strict=True):
        assert [entry["text"] for entry in entries] == [*TEXTS, TEXTS[0]]
        assert [entry["label"] for entry in entries] == [j.label for j in judgements]
        assert entries[0]["yes"] == pytest.approx(entries[3]["yes"], abs=1e-5)


def test_the_resnet_sees_each_image_once(checker, photographs, monkeypatch):
    net = checker._loaded().reader.net
    seen = []
    see = net.encode_image_features
    monkeypatch.setattr(
        net, "encode_image_features", lambda pixels: seen.append(len(pixels)) or see(pixels)
    )
    checker.judge(list(photographs.values())[:2], TEXTS)
    assert sum(seen) == 2


def test_a_premise_column_changes_the_question(small, checker):
    premised = Entailment(small, hypothesis="caption", premise="title")
    assert premised.reads == ("image_encoded", "caption", "title")
    with_premise = premised(rows(TEXTS[:1], title=["a person is outside"]))
    without = checker(rows(TEXTS[:1]))
    difference = with_premise["entailment_yes"][0].as_py() - without["entailment_yes"][0].as_py()
    assert abs(difference) > 1e-5


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_judgements_do_not_depend_on_batch_size(checker, batch):
    texts = ["a", "a dog", "two dogs and a red car on the grass", "it rains", "x " * 30, "no"]
    whole = checker(rows(texts)).to_pylist()
    parts = [
        row
        for start in range(0, len(texts), batch)
        for row in checker(rows(texts).slice(start, batch)).to_pylist()
    ]
    for one, other in zip(parts, whole, strict=True):
        assert one["entailment"] == other["entailment"]
        assert one["entailment_yes"] == pytest.approx(other["entailment_yes"], abs=1e-4)


def test_a_null_text_is_a_fault_of_its_row_and_its_neighbours_are_judged(checker):
    done = apply(checker, rows(["a dog", None, "a cat"]))
    assert [label is None for label in done["entailment"].to_pylist()] == [False, True, False]
    error = done["error"][1].as_py()
    assert error["code"] == "model"
    assert "'caption' is None" in error["message"]


def test_a_text_without_words_is_a_fault_of_its_row(checker, photographs):
    """The published pipeline judges it, and says yes; the second door does so still."""
    done = apply(checker, rows(["a dog", "", " ..."]))
    assert [error and error["code"] for error in done["error"].to_pylist()] == [
        None,
        *["model"] * 2,
    ]
    assert "'caption' is ' ...'" in done["error"][2].as_py()["message"]
    assert checker.judge(list(photographs.values())[:1], [""])[0][0].label in ("yes", "no", "maybe")


def test_a_text_with_more_tokens_than_positions_is_a_fault_of_its_row(tmp_path):
    checker = Entailment(
        directory(tmp_path / "model", patch_image_size=96, max_src_length=2000),
        hypothesis="caption",
    )
    with pytest.raises(RowFaults) as caught:
        checker(rows(["a dog", "word " * 1500]))
    assert list(caught.value.faults) == [1]
    assert "tokens too long" in caught.value.faults[1].message


def test_a_long_text_is_cut_as_published(checker):
    long = " ".join(f"word{number}" for number in range(400))
    cut = " ".join(long.split()[:256])
    first, second = checker(rows([long])), checker(rows([cut]))
    assert first.equals(second)


def test_probabilities_that_are_not_finite_are_faults_of_their_rows(tmp_path):
    folder = directory(tmp_path / "model", patch_image_size=96)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights["decoder.layer_norm.bias"] = weights["decoder.layer_norm.bias"] * torch.nan
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(RowFaults) as caught:
        Entailment(folder, hypothesis="caption")(rows(["a dog"]))
    assert caught.value.faults[0].code == "model"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Well-lit street/market?", "a well lit street market?"),
        ("...!?#Hello.", "hello."),
        ("<person>  rides \t a bike \n", "person rides a bike"),
        ("one two three four", "one two three"),
        ("", ""),
    ],
)
def test_a_hypothesis_is_cleaned_as_published(text, expected):
    assert clean(text, longest=5 if "person" in text or "street" in text else 3) == expected


def test_answers_may_come_in_any_order(tmp_path, checker):
    other = Entailment(
        directory(tmp_path / "model", answers=["maybe", "yes", "no"], patch_image_size=96),
        hypothesis="caption",
    )
    first, second = checker(rows(TEXTS)).to_pylist(), other(rows(TEXTS)).to_pylist()
    for one, two in zip(first, second, strict=True):
        assert two["entailment"] == one["entailment"]
        assert two["entailment_no"] == pytest.approx(one["entailment_no"], abs=1e-6)


@pytest.mark.parametrize("prompt", ["{", "{x}", "{0.a}", "{:>99}", "{} {} {}", 5])
def test_a_prompt_that_cannot_be_filled_in_is_named(tmp_path, prompt):
    with pytest.raises(ModelError, match=r"configuration\.json: 'prompt' is "):
        Entailment(directory(tmp_path / "model", prompt=prompt), hypothesis="caption")


def test_a_prompt_for_a_premise_asks_for_one(tmp_path):
    checker = Entailment(directory(tmp_path / "model", prompt="{} {{so}} {}?"), hypothesis="x")
    image = Image.new("RGB", (8, 8))

    assert checker.judge([image], ["a dog"], premise="a cat")
    with pytest.raises(ModelError, match=r"'prompt' in .*\.json is .* asks for a premise"):
        checker.judge([image], ["a dog"])


def test_other_answers_than_yes_no_and_maybe_are_refused(tmp_path):
    folder = directory(tmp_path / "model", answers=["entailment", "contradiction"])
    with pytest.raises(ModelError, match=r"'entailment', 'contradiction', but 'yes'"):
        Entailment(folder, hypothesis="caption")


def test_a_directory_of_another_task_is_refused():
    with pytest.raises(ModelError, match="image-captioning"):
        Entailment(tiny.checkpoint("ofa_caption_mini"), hypothesis="caption")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either `hypothesis`"),
        ({"hypothesis": "caption", "hypotheses": ["a dog"]}, "give either `hypothesis`"),
        ({"hypotheses": []}, r"hypotheses is \[\]"),
        ({"hypotheses": "a dog"}, "hypotheses is 'a dog'"),
        ({"hypotheses": ["a dog", 3]}, "must be a list of sentences"),
        ({"hypothesis": ""}, "must name a column"),
        ({"hypothesis": "caption", "precision": "int4"}, "it may be 'float32'"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Entailment(tiny.checkpoint("ofa_entailment_mini"), **options)


def test_the_key_follows_the_hypothesis_and_the_captioner_that_wrote_it(small, checker):
    keys = {
        checker.key,
        Entailment(small, hypothesis="title").key,
        Entailment(small, hypothesis="caption", premise="title").key,
        Entailment(small, hypothesis="caption", upstream_keys={"caption": "0123"}).key,
        Entailment(small, hypotheses=["a dog"]).key,
    }
    assert len(keys) == 5
    assert Entailment(small, name="other", hypothesis="caption").key == checker.key


def test_an_entailment_checker_is_pickled_without_its_weights(checker):
    checker.load()
    pickled = pickle.dumps(checker)
    assert len(pickled) < 10_000
    assert pickle.loads(pickled).key == checker.key
