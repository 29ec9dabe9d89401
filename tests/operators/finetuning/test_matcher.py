import json
from functools import cache

import numpy as np
import pytest
import torch

from operators.finetuning.matcher import MatcherTrainee, Queue
from operators.finetuning.mplug_captioner import MPlugCaptionerTrainee
from operators.finetuning.trainee import Step, set_training
from operators.images import decode
from operators.matcher import Matcher
from operators.models import checkpoint
from tests import mplug, tiny

EXACT = 5e-5  # float32 in another order of summation
WRONG = torch.tensor([1, 0])  # of two pairs: each other's


@cache
def golden(name):
    return json.loads((tiny.DATA / "golden" / f"{name}.json").read_text())


def photographs(files):
    by_name = {path.name: path for path in tiny.photographs()}
    return [decode(by_name[file].read_bytes()) for file in files]


def prepared(kind, name):
    trainee = kind(tiny.checkpoint(name))
    set_training(trainee.net, is_on=False)  # without dropout
    return trainee


def gradient_norms(trainee, names):
    parameters = dict(trainee.net.named_parameters())
    return {name: float(parameters[name].grad.norm()) for name in names}


def matching_batch(trainee, known):
    rows = [{"text": text} for text in known["texts"]]
    return trainee.collate(photographs(known["images"]), rows, known["index"])


def test_the_caption_loss_equals_modelscope():
    known = golden("mplug_caption_tiny")
    training = known["training"]
    trainee = prepared(MPlugCaptionerTrainee, "mplug_caption_tiny")
    rows = [{"caption": caption} for caption in training["captions"]]
    images = photographs([image["file"] for image in known["images"]])
    figures = trainee.learn([trainee.collate(images, rows, range(len(rows)))], Step())
    assert figures["loss"] == pytest.approx(training["loss"], abs=EXACT)
    norms = gradient_norms(trainee, training["grad_norms"])
    assert norms == pytest.approx(training["grad_norms"], rel=1e-4)


@pytest.mark.parametrize("number", [0, 1])
def test_contrast_and_match_equal_modelscope(number):
    known = golden("mplug_retrieval_mini")["training"][number]
    trainee = prepared(MatcherTrainee, "mplug_retrieval_mini")
    set_training(trainee.followers, is_on=False)
    batch = matching_batch(trainee, known)
    with torch.no_grad():
        images, texts = (
            trainee.model.see(batch["pixels"]),
            trainee.model.read(batch["ids"], batch["mask"]),
        )
        logits = trainee.pair_logits(images, texts, batch["mask"], WRONG, WRONG)
    np.testing.assert_allclose(logits.numpy(), known["itm_logits"], atol=EXACT)
    figures = trainee.learn([batch], Step())
    expected = {"loss": known["loss"], "contrast": known["itc"], "match": known["itm"]}
    assert figures == pytest.approx(expected, abs=EXACT)
    assert gradient_norms(trainee, known["grad_norms"]) == pytest.approx(
        known["grad_norms"], rel=1e-4
    )
    assert trainee.queue.place == known["queue_ptr"]
    assert trainee.queue.numbers[:4].tolist() == known["idx_queue"]
    for vectors, first in (("images", "image_queue_first"), ("texts", "text_queue_first")):
        found = getattr(trainee.queue, vectors)[0, :8].numpy()
        np.testing.assert_allclose(found, known[first], atol=EXACT)


def test_with_connected_layers_all_but_the_negatives_equal_modelscope():
    """There ModelScope changes the image states in place before it draws negatives of them."""
    known = golden("mplug_retrieval_tiny")["training"][0]
    trainee = prepared(MatcherTrainee, "mplug_retrieval_tiny")
    set_training(trainee.followers, is_on=False)
    batch = matching_batch(trainee, known)
    with torch.no_grad():
        images, texts = (
            trainee.model.see(batch["pixels"]),
            trainee.model.read(batch["ids"], batch["mask"]),
        )
        logits = trainee.pair_logits(images, texts, batch["mask"], WRONG, WRONG)
    np.testing.assert_allclose(logits.numpy()[:2], known["itm_logits"][:2], atol=EXACT)
    figures = trainee.learn([batch], Step())
    assert figures["contrast"] == pytest.approx(known["itc"], abs=EXACT)


def test_a_queue_overwrites_its_oldest():
    queue = Queue(torch.zeros(3, 1), torch.zeros(3, 1), torch.full((3,), -100))
    for number in range(4):
        vector = torch.full((1, 1), float(number))
        queue.put(vector, -vector, torch.tensor([number]))
    assert queue.numbers.tolist() == [3, 1, 2]
    assert queue.images.flatten().tolist() == [3.0, 1.0, 2.0]
    assert queue.texts.flatten().tolist() == [-3.0, -1.0, -2.0]
    assert queue.place == 1


@pytest.fixture
def small(tmp_path):
    return mplug.write(tmp_path / "model", mplug.MATCHING)


def small_batch(trainee, numbers):
    rows = [{"text": text} for text in ("a cat", "a cup .", "cat ?")[: len(numbers)]]
    return trainee.collate(photographs(["chelsea.jpg", "coffee.jpg", "clock.png"]), rows, numbers)


def test_what_was_remembered_goes_on_the_same(small):
    trainee = MatcherTrainee(small)
    trainee.learn([small_batch(trainee, [0, 1, 2])], Step(seed=1))
    other = MatcherTrainee(small)
    other.remember(trainee.memory())
    after = [
        each.learn([small_batch(each, [0, 1, 2])], Step(seed=2))["loss"]
        for each in (trainee, other)
    ]
    assert after[0] == after[1]


def test_a_batch_of_one_image_learns_contrast_alone(small):
    trainee = MatcherTrainee(small)
    figures = trainee.learn([small_batch(trainee, [5, 5, 5])], Step())
    assert figures["match"] == 0.0
    assert figures["contrast"] > 0.0


def test_what_is_written_is_what_the_operator_reads(small, tmp_path):
    trainee = MatcherTrainee(small)
    trainee.write(tmp_path / "same")
    images = photographs(["chelsea.jpg"])
    assert Matcher(tmp_path / "same").match(images, ["a cat"]) == Matcher(small).match(
        images, ["a cat"]
    )


def test_what_a_file_holds_beside_the_net_is_kept_and_copies_are_updated(tmp_path):
    source = tiny.checkpoint("mplug_retrieval_tiny")
    trainee = MatcherTrainee(source)
    with torch.no_grad():
        trainee.model.itm_head.bias.fill_(7.0)
        trainee.followers["text_proj"].bias.fill_(5.0)
    trainee.write(tmp_path / "tuned")
    before = checkpoint.load_state_dict(source)
    after = checkpoint.load_state_dict(tmp_path / "tuned")
    cleaned = {name.replace("model.", "") for name in before}
    assert set(after) == cleaned
    assert after["itm_head.bias"].tolist() == [7.0, 7.0]
    assert set(after["text_proj_m.bias"].tolist()) == {5.0}
