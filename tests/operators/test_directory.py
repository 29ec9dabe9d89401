import json

import pytest

from operators.models.directory import identify
from schemas.errors import ModelError


@pytest.mark.parametrize("kind", ["ofa", "mplug"])
def test_a_modelscope_directory_without_configuration_json_is_told_so(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "d_model": 32}))

    with pytest.raises(
        ModelError, match=rf"model_type '{kind}', but the configuration\.json .* is m"
    ):
        identify(tmp_path)


@pytest.mark.parametrize("kind", ["bert", None, []])
def test_a_config_json_of_another_model_is_told_what_there_may_be(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))

    with pytest.raises(ModelError, match=r"model_type is .*; a Hugging Face directory may be of"):
        identify(tmp_path)
