"""What a table remembers of its operators."""

from jobs.records import read_description, read_model, record_operators
from operators.embedder import Embedder


def test_a_table_tells_what_a_key_is_made_of_and_where_the_model_was(tmp_path):
    embedder = Embedder("embedded:embedder")
    record_operators(str(tmp_path), [embedder])
    assert read_model(str(tmp_path), embedder.key) == "embedded:embedder"
    assert read_description(str(tmp_path), embedder.key) == embedder.description
    assert read_model(str(tmp_path), "0" * 16) is None


def test_a_local_model_is_told_so_that_it_is_found_from_any_folder(tmp_path, monkeypatch):
    embedder = Embedder("embedded:embedder")
    monkeypatch.chdir(embedder.directory.parent)
    embedder.model = embedder.directory.name
    record_operators(str(tmp_path), [embedder])
    assert read_model(str(tmp_path), embedder.key) == str(embedder.directory)
