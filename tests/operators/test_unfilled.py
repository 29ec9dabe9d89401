"""Nets without values, which a process has for the price of their shapes."""

import subprocess
import sys

import torch
from torch import nn

from operators.models.unfilled import unfilled

COMPILER = """
import sys
from PIL import Image
from operators.captioner import Captioner
from operators.matcher import Matcher
for model in ("embedded:captioner", "embedded:mplug-captioner"):
    Captioner(model).caption([Image.new("RGB", (64, 64))])
Matcher("embedded:matcher").match([Image.new("RGB", (64, 64))], ["a picture"])
print("torch._dynamo" in sys.modules)
"""


def test_a_net_is_built_without_values_and_with_all_its_shapes():
    with unfilled():
        built = nn.TransformerDecoderLayer(8, 2)
    plain = nn.TransformerDecoderLayer(8, 2)

    assert {name: value.shape for name, value in built.state_dict().items()} == {
        name: value.shape for name, value in plain.state_dict().items()
    }
    assert all(value.device == torch.device("meta") for value in built.state_dict().values())


def test_reading_and_asking_a_model_imports_no_compiler():
    done = subprocess.run(
        [sys.executable, "-c", COMPILER], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
