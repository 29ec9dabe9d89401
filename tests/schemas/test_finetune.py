import pytest

from schemas.errors import ConfigError
from schemas.finetune import read_finetune_config

WHOLE = """
use: embedder
model: embedded:embedder
output: tuned
train: {path: rows.csv, columns: {text: caption}}
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "finetune.yaml"
    path.write_text(WHOLE)
    return path


def test_values_are_replaced_on_the_command_line(path):
    config = read_finetune_config(path, ["batch=7", "train.columns.text=title", "validation=v.csv"])
    assert config.batch == 7
    assert config.train.columns == {"text": ("title",)}
    assert config.validation is not None
    assert config.validation.path == "v.csv"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("bacth=3", "unknown key 'bacth'; did you mean 'batch'"),
        ("train.colums={}", "unknown key 'colums' in train; did you mean 'columns'"),
        ("batch=0", "batch is 0: input should be greater than or equal to 1"),
        ("use=embeder", "use is 'embeder': input should be 'captioner', 'entailment'"),
        ("metric=cider", "metric is 'cider'; embedder has 'recall'"),
        ("teacher=x", "teacher is for OFA's captioner and entailment"),
        ("premise=true", "premise is for entailment"),
        ("freeze_epochs=1", "freeze names nothing"),
        ("train.format=captions", "format 'captions' names no folder; see `images`"),
        ("train.columns={text: 5}", "train.columns.text is 5: it must be a list"),
        ("train.columns={uri: [a, b]}", "train: 'uri' has several columns; only a target may"),
        ("train.images=x", "format 'manifest' has a uri in each row; see `images`"),
    ],
)
def test_a_fault_is_told_with_what_is_allowed(path, override, told):
    with pytest.raises(ConfigError) as raised:
        read_finetune_config(path, [override])
    assert told in str(raised.value)


def test_all_faults_are_told_together(path):
    with pytest.raises(ConfigError) as raised:
        read_finetune_config(path, ["batch=0", "epoch=3"])
    assert len(str(raised.value).splitlines()) == 2


def test_epochs_and_steps_exclude_each_other(path):
    with pytest.raises(ConfigError, match="both given"):
        read_finetune_config(path, ["epochs=1", "steps=3"])


def test_only_an_embedder_is_published_with_changed_images(path):
    with pytest.raises(ConfigError, match="a matcher is published with images as they are"):
        read_finetune_config(path, ["use=matcher", "augment=published"])
