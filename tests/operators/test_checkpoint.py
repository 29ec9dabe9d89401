import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import s3fs
import torch
from aiohttp import ClientPayloadError
from safetensors.torch import save_file

from operators.models import checkpoint, pickled
from operators.models.directory import identify
from schemas.errors import ModelError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGLINE_CACHE", str(tmp_path / "cache"))


def small_directory(folder: Path) -> Path:
    folder.mkdir()
    (folder / "configuration.json").write_text('{"task": "image-captioning"}')
    torch.save({"weight": torch.arange(6.0).view(2, 3)}, folder / "pytorch_model.bin")
    return folder


def test_a_local_directory_is_taken_as_it_is(tmp_path):
    assert checkpoint.resolve(tmp_path) == tmp_path
    assert checkpoint.resolve(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "model", ["no/such/directory", "/nowhere", "", "embedded:poet", "embedded:"]
)
def test_a_model_that_is_nowhere_is_named(model):
    with pytest.raises(ModelError, match="model '") as caught:
        checkpoint.resolve(model)
    assert repr(model) in str(caught.value)


def test_a_directory_on_s3_is_copied_once_and_again_when_it_changes(tmp_path, s3_bucket):
    store = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    url = f"{s3_bucket}/models/small"
    store.put(str(small_directory(tmp_path / "small")) + "/", f"{url}/", recursive=True)
    copy = checkpoint.resolve(url)
    assert torch.equal(checkpoint.load_state_dict(copy)["weight"], torch.arange(6.0).view(2, 3))
    assert checkpoint.resolve(url) == copy
    store.pipe(f"{url}/configuration.json", b'{"task": "visual-entailment"}')
    changed = checkpoint.resolve(url)
    assert changed != copy
    assert checkpoint.digest(changed) != checkpoint.digest(copy)


@pytest.mark.parametrize("fault", [PermissionError("Forbidden"), ClientPayloadError("cut")])
def test_a_copy_from_s3_that_breaks_off_is_named_and_begun_anew(
    tmp_path, s3_bucket, monkeypatch, fault
):
    store = s3fs.S3FileSystem(endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    url = f"{s3_bucket}/models/small"
    store.put(str(small_directory(tmp_path / "small")) + "/", f"{url}/", recursive=True)
    copy = s3fs.S3FileSystem._get_file

    async def breaks_off(store, remote, local, **options):
        if remote.endswith(".bin"):
            raise fault
        await copy(store, remote, local, **options)

    with monkeypatch.context() as patched:
        patched.setattr(s3fs.S3FileSystem, "_get_file", breaks_off)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(ModelError, match=rf"models/small': cannot be fetched .*{fault}"):
            checkpoint.resolve(url)

    s3fs.S3FileSystem.clear_instance_cache()
    assert len(checkpoint.file_digests(checkpoint.resolve(url))) == 2


def test_a_directory_that_is_not_on_s3_is_named(s3_bucket):
    with pytest.raises(ModelError, match=r"s3://.*/nothing"):
        checkpoint.resolve(f"{s3_bucket}/nothing")


def test_the_digest_follows_contents_and_not_place(tmp_path):
    first = small_directory(tmp_path / "first")
    second = shutil.copytree(first, tmp_path / "second")
    before = checkpoint.digest(first)
    assert checkpoint.digest(second) == before
    (second / "README.md").write_text("about the model")
    assert checkpoint.digest(second) == before
    torch.save({"weight": torch.zeros(2, 3)}, second / "pytorch_model.bin")
    assert checkpoint.digest(second) != before


def test_the_digest_is_not_computed_twice(tmp_path, monkeypatch):
    directory = small_directory(tmp_path / "small")
    before = checkpoint.digest(directory)
    monkeypatch.setattr(checkpoint.hashlib, "file_digest", None)
    assert checkpoint.digest(directory) == before


@pytest.mark.parametrize("content", ["", "{", "[1]", "\udcff", "[" * 200_000])
def test_a_damaged_configuration_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content, errors="surrogateescape")
    with pytest.raises(ModelError, match=r"config\.json: .*fetch the model again"):
        checkpoint.read_json(path)


def test_weights_may_be_safetensors(tmp_path):
    save_file({"weight": torch.ones(2, dtype=torch.float16)}, tmp_path / "model.safetensors")
    assert checkpoint.load_state_dict(tmp_path)["weight"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_weights_may_lie_under_a_training_scripts_key(tmp_path, key):
    torch.save({key: {"weight": torch.ones(1)}, "epoch": 3}, tmp_path / "pytorch_model.bin")
    assert list(checkpoint.load_state_dict(tmp_path)) == ["weight"]


def test_a_directory_without_weights_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no weights; .*model\.safetensors or pytorch_model\.bin"):
        checkpoint.load_state_dict(tmp_path)


@pytest.mark.parametrize("fraction", [0, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, fraction):
    path = small_directory(tmp_path / "small") / "pytorch_model.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * fraction)])
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: .*fetch it again"):
        checkpoint.load_state_dict(path.parent)


def test_a_file_of_the_old_format_is_refused_wherever_it_was_cut(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.ones(9)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r"pytorch_model\.bin: "):
            checkpoint.load_state_dict(tmp_path)


def test_truncated_safetensors_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"model\.safetensors: .*fetch it again"):
        checkpoint.load_state_dict(tmp_path)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_pickled_code_is_refused_and_not_executed(tmp_path, is_zip):
    mark = tmp_path / "executed"
    code = Code(f"touch {mark}")
    if is_zip:
        torch.save({"weight": torch.ones(1), "code": code}, tmp_path / "pytorch_model.bin")
    else:
        (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": code}))
    with pytest.raises(ModelError, match=r"holds code, .*refused, nothing was executed"):
        checkpoint.load_state_dict(tmp_path)
    assert not mark.exists()


def test_what_is_no_dictionary_of_tensors_is_refused(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="holds a list"):
        checkpoint.load_state_dict(tmp_path)
    torch.save({"weight": torch.ones(1), "epoch": 3}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no tensors: epoch"):
        checkpoint.load_state_dict(tmp_path)


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"weight": torch.zeros(1_000_000)}, path)
    entries = zipfile.ZipFile(path)
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in entries.namelist():
            packed.writestr(name, entries.read(name))
    entries.close()
    os.replace(tmp_path / "packed", path)
    assert path.stat().st_size < 10_000
    with pytest.raises(ModelError, match="bytes that unpack to 4"):
        checkpoint.load_state_dict(tmp_path)


class Room:
    """Asks for as many zeros as it likes, which torch's careful unpickling gives."""

    def __reduce__(self):
        return bytearray, (3_000_000_000,)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_makes_room_is_refused_before_it_does(tmp_path, is_zip):
    path = tmp_path / "pytorch_model.bin"
    if is_zip:
        torch.save({"weight": Room()}, path)
    else:  # behind it an archive, which some readers would take it for
        torch.save({"weight": torch.ones(1)}, path)
        path.write_bytes(pickle.dumps({"weight": Room()}, protocol=2) + path.read_bytes())
    with pytest.raises(ModelError, match="makes room for bytes"):
        checkpoint.load_state_dict(tmp_path)


def test_a_tensor_larger_than_its_values_is_refused(tmp_path):
    small = torch.zeros(1).expand(10**9, 1000)
    torch.save(
        {"weight": small, "fine": torch.arange(5).expand(1, 5)}, tmp_path / "pytorch_model.bin"
    )
    with pytest.raises(ModelError, match=r"larger than their values: weight$"):
        checkpoint.load_state_dict(tmp_path)


def test_a_configuration_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(ModelError, match="more than 100000000 bytes; fetch"):
        checkpoint.read_json(path)


def test_a_header_of_safetensors_that_is_too_long_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((2_000_000_000).to_bytes(8, "little"))
        file.truncate(3_000_000_000)
    with pytest.raises(ModelError, match="a header of 2000000000 bytes; at most 16000000"):
        checkpoint.load_state_dict(tmp_path)


def test_names_and_shapes_of_gigabytes_are_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.setattr(pickled, "PICKLE_BYTES", 100)
    torch.save({f"weight {n}": torch.ones(1) for n in range(9)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="bytes of names and shapes; at most 100"):
        checkpoint.load_state_dict(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "config.yaml"])
def test_a_small_file_of_gigabytes_is_not_read(tmp_path, name):
    directory = small_directory(tmp_path / "small")
    with (directory / name).open("wb") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(ModelError, match=rf"{name}: more than \d+ bytes"):
        identify(directory)


def test_every_kind_of_misfit_is_listed(tmp_path):
    expected = {"a": torch.ones(1), "b": torch.ones(2, 3), "c": torch.ones(1)}
    found = {"b": torch.ones(3, 2), "c": torch.ones(1), "d": torch.ones(1)}
    with pytest.raises(ModelError) as caught:
        checkpoint.check_strict(expected, found, source=tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "1 missing: a" in message
    assert "1 left over: d" in message
    assert "1 misshapen: b (3, 2) instead of (2, 3)" in message


def test_optional_tensors_may_be_absent_or_present(tmp_path):
    expected = {"a": torch.ones(1), "b": torch.ones(1)}
    checkpoint.check_strict(expected, {"a": torch.ones(1)}, source=tmp_path, optional={"b"})
    found = {"a": torch.ones(1), "b": torch.ones(1), "table": torch.ones(9)}
    checkpoint.check_strict(expected, found, source=tmp_path, optional={"table"})
