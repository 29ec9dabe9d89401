import re
from random import Random

import pytest
import torch

from operators.embedded import mplug_files
from operators.embedded.curriculum import IGNORED
from operators.embedded.embedder_recipe import pixels_of
from operators.embedded.mplug_recipe import ALONE_FROM, ALONE_PARTS, MPlugRecipe, write_sentences
from operators.embedded.scenes import Group, Scene, Thing, describe, draw_scenes
from operators.models import checkpoint
from operators.models.mplug.reader import read_words
from operators.models.mplug.weights import load_captioner, load_matcher

CAT, CAR = 10, 33
SCENE = Scene(0, 0, (Group(CAT, None, 1), Group(CAR, 0, 1)), "left", ())


@pytest.fixture(scope="module")
def recipe():
    return MPlugRecipe(seed=5)


@pytest.fixture(scope="module")
def folders(recipe, tmp_path_factory):
    return recipe.export(recipe.module, tmp_path_factory.mktemp("model"))


def test_special_tokens_have_the_numbers_that_the_published_generation_has():
    pieces = mplug_files.vocabulary()
    assert [pieces[number] for number in (0, 100, 101, 102, 103)] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    assert len(set(pieces)) == len(pieces)


def test_training_reads_captions_as_the_operators_do(recipe, folders):
    words = read_words(folders[0], mplug_files.network("mplug-captioner"))
    for scene in draw_scenes(200, seed=81):
        ids, mask = recipe.encode([describe(scene)])
        assert ids[0].tolist() == words.encode(describe(scene), limit=25)
        assert mask.all()
        assert ids.shape[1] <= mplug_files.LONGEST


def test_any_english_word_has_pieces(folders):
    words = read_words(folders[1], mplug_files.network("matcher"))
    assert words.unknown not in words.encode("My zebra's umbrella, no. 42!", limit=40)


def test_what_is_written_is_what_was_trained(recipe, folders):
    captioner, matcher = load_captioner(folders[0]), load_matcher(folders[1])
    pixels = pixels_of(list(draw_scenes(2, seed=82)))
    ids, mask = recipe.encode(["a cat at night", "two dogs on the grass"])
    with torch.inference_mode():
        states = captioner.see(pixels)
        assert torch.allclose(states, matcher.see(pixels))
        trained = recipe.captioner.logits(recipe.captioner.see(pixels), ids)
        # half precision keeps eleven bits
        assert torch.allclose(captioner.logits(states, ids), trained, atol=2e-2)
        judged = matcher.match(states, matcher.read(ids, mask), mask)
        known = recipe.matcher.match(states, recipe.matcher.read(ids, mask), mask)
        assert torch.allclose(judged, known, atol=2e-2)


def test_the_files_are_small(folders):
    for folder in folders:
        assert checkpoint.read_json(folder / "configuration.json")["model"]["type"] == "mplug"
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 8_000_000


def test_one_of_an_images_sentences_is_true():
    random = Random(6)
    scenes = list(draw_scenes(300, seed=83))
    for number, scene in enumerate(scenes):
        sentences = write_sentences(random, scene, scenes[number - 1])
        assert [is_true(text, scene) for text in sentences] == [True, False, False]


def is_true(text, scene):
    """Says what a person with the scene before them would: written apart from the generator."""
    one_side = re.sub(
        r"^(.*) (to the right of|below) (.*?)((?: on| in| at) .*)?$",
        lambda found: " ".join(
            [
                found[3],
                {"below": "above"}.get(found[2], "to the left of"),
                found[1] + (found[4] or ""),
            ]
        ),
        text,
    )
    caption = describe(scene)
    return one_side == caption or (caption.startswith(f"{one_side} ") and is_whole(one_side, scene))


def is_whole(text, scene):
    return len(re.findall(r"\b(a|an|two|three)\b", text)) == len(scene.groups)


def test_nouns_are_labelled_with_what_the_picture_shows(recipe):
    ids, _ = recipe.encode(["a dog to the left of a red car on the grass"])
    labels = recipe.label_nouns(ids, [SCENE])[0]  # (K, T)
    assert labels[:, 2].tolist() == [0, IGNORED, IGNORED, IGNORED]
    assert labels[:, 9].tolist() == [CAR + 1, 1, 1, 2]
    assert labels[:, 1].tolist() == [IGNORED] * 4


def test_the_phrase_of_a_thing_is_labelled_with_what_the_picture_shows(recipe):
    scene = Scene(0, 0, SCENE.groups, "left", (Thing(0, 32, 96, 50, 0), Thing(1, 160, 96, 50, 0)))
    ids, _ = recipe.encode([describe(scene)])  # a cat to the left of a red car on the grass
    labels = recipe.label_phrases(ids, [scene])[0].T.tolist()
    assert labels[:3] == [[CAT + 1, 0, 1, 1, 0, 1]] * 3
    assert labels[3:6] == [[IGNORED] * 6] * 3
    assert labels[6:10] == [[CAR + 1, 1, 1, 2, 2, 1]] * 4
    assert labels[10:] == [[IGNORED] * 6] * 4


def test_a_step_teaches_every_weight(recipe):
    loss, figures = recipe.loss(first=96_000)
    loss.backward()
    assert set(figures) > {"caption", "match", "nouns", "similar"}
    untaught = [
        name
        for name, parameter in recipe.module.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert untaught == []
    recipe.module.zero_grad()


def test_at_last_captions_and_matches_are_learned_alone(recipe):
    loss, figures = recipe.loss(first=ALONE_FROM)
    loss.backward()
    assert set(figures) == {*ALONE_PARTS, "hits"}
    taught = {
        name.partition(".")[0]
        for name, parameter in recipe.module.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert taught == {"captioner", "matcher"}
    recipe.module.zero_grad()
