from random import Random

import numpy as np
import pytest
from PIL import Image

from operators.finetuning.augmentation import OPERATIONS, POLICY, augment, draw_crop
from tests import tiny


@pytest.fixture
def photograph():
    with Image.open(tiny.photographs()[0]) as image:
        return image.convert("RGB")


def test_a_seed_fixes_what_is_drawn(photograph):
    first, again, other = (np.asarray(augment(photograph, 56, Random(n))) for n in (1, 1, 2))
    assert first.shape == (56, 56, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_operation_of_the_policy_gives_an_image_of_the_same_size(photograph):
    for operation, _, level in {change for pair in POLICY for change in pair}:
        found = OPERATIONS[operation](photograph, level / 10, Random(0))
        assert (found.size, found.mode) == (photograph.size, "RGB"), operation


@pytest.mark.parametrize("size", [(640, 480), (30, 400), (1, 1)])
def test_a_crop_lies_within_the_image(size):
    for seed in range(50):
        left, top, right, bottom = draw_crop(size, Random(seed))
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]


def test_crops_keep_nearly_all_of_an_image():
    shares = []
    for seed in range(100):
        left, top, right, bottom = draw_crop((400, 400), Random(seed))
        shares.append((right - left) * (bottom - top) / 160_000)
    assert min(shares) > 0.85
    assert max(shares) <= 1.0
