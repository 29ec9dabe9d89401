from functools import partial

import pytest

from operators import precision
from operators.captioner import Captioner
from operators.embedder import Embedder
from operators.entailment import Entailment
from operators.matcher import Matcher
from operators.precision import resolve

INTEL = "flags : fpu avx512f avx512_bf16 amx_bf16 amx_tile\n"
AMD = "flags : fpu avx512f avx512_bf16\n"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine one of the given processor and GPUs."""

    def become(processor: str, gpus: tuple[float, ...] = ()) -> None:
        path = tmp_path / "cpuinfo"
        path.write_text(processor)
        monkeypatch.setattr(precision, "PROCESSOR", path)
        monkeypatch.setattr(precision, "_gpus", lambda: gpus)

    return become


@pytest.mark.parametrize(
    ("processor", "gpus", "expected"),
    [
        (INTEL, (), "bfloat16"),
        (AMD, (), "float32"),
        (AMD, (9.0, 8.0), "bfloat16"),
        (INTEL, (9.0, 7.5), "float32"),  # the net runs on the GPU, and on this one slower
    ],
)
def test_auto_is_bfloat16_only_where_the_hardware_is_made_for_it(
    machine, processor, gpus, expected
):
    machine(processor, gpus)
    assert resolve("auto") == expected
    assert resolve("float16") == "float16"


@pytest.mark.parametrize(
    ("processor", "expected"), [(INTEL, "bfloat16"), (AMD, "float32")], ids=["amx", "no amx"]
)
def test_a_key_names_the_precision_that_auto_came_to(machine, processor, expected):
    machine(processor)
    for kind, model in [
        (Captioner, "embedded:captioner"),
        (partial(Entailment, hypothesis="caption"), "embedded:entailment"),
        (Embedder, "embedded:embedder"),
        (Matcher, "embedded:matcher"),
    ]:
        operator = kind(model, precision="auto")
        assert operator.description["precision"] == expected
        assert operator.key == kind(model, precision=expected).key
