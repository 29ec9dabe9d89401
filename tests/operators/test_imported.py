import re
from pathlib import Path

import pyarrow as pa
import pytest

from operators.base import apply, fingerprint
from operators.catalog import build_operators, check_document
from operators.imported import protocol_faults
from schemas.errors import ConfigError
from tests.plain_operators import UpperCase

MODULE = """
import pyarrow as pa
import pyarrow.compute as pc
from operators.base import fingerprint

class Length:
    def __init__(self, *, name, of="title", scale=1, upstream_keys=None):
        self.name, self.reads, self.batch_rows = name, (of,), 16
        self.scale = scale
        self.writes = pa.schema([(name, pa.int32())])
        self.description = {"of": of, "scale": scale, "upstream": upstream_keys or {}}
        self.key = fingerprint(self.description)
    def load(self):
        pass
    def __call__(self, table):
        lengths = pc.multiply(pc.utf8_length(table[self.reads[0]]), self.scale)
        return pa.table([lengths], schema=self.writes)

class Alone(Length):
    def __init__(self, *, name, of="title"):
        super().__init__(name=name, of=of)

class Nameless(Length):
    def __init__(self):
        super().__init__(name="x")

class Free(Length):
    def __init__(self, **options):
        super().__init__(**options)

class Breaking(Length):
    def __init__(self, *, name):
        raise RuntimeError("no licence")

class Bare:
    def __init__(self, *, name):
        self.name = name

number = 5
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A package of somebody's, of a name that no other test has imported."""
    name = f"theirs_{tmp_path.name}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "lengths.py").write_text(MODULE)
    (tmp_path / name / "broken.py").write_text("raise RuntimeError('no driver')\n")
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}.lengths"


def built(operators):
    document = {"manifest": "m.parquet", "table": "t", "operators": operators}
    return build_operators(check_document(document), ["image_id", "uri", "title"])


def test_a_class_of_ones_own_is_an_operator_like_ours(module):
    use = f"{module}:Length"

    size, digits = built({"size": {"use": use, "scale": 2}, "free": {"use": f"{module}:Free"}})

    assert apply(size, pa.table({"title": ["four", "红"]}))["size"].to_pylist() == [8, 2]
    assert digits.key != size.key


def test_it_is_computed_again_when_what_it_reads_is(module):
    catalog = {"upper": lambda: UpperCase}

    def key(version):
        operators = {
            "upper": {"use": "upper", "text": "title", "version": version},
            "size": {"use": f"{module}:Length", "of": "upper"},
        }
        document = {"manifest": "m.parquet", "table": "t", "operators": operators}
        config = check_document(document, catalog=catalog)
        return build_operators(config, ["title"], catalog=catalog)[1].key

    assert key(1) == key(1) != key(2)


@pytest.mark.parametrize(
    ("use", "options", "message"),
    [
        ("no.such:Thing", {}, "cannot import 'no.such' .*No module named 'no'.*PYTHONPATH.*--work"),
        ("{broken}:Thing", {}, "RuntimeError: no driver.*PYTHONPATH"),
        ("{module}:Lenght", {}, r"lengths.py\) has as 'Lenght' no class; did you mean 'Length'"),
        ("{module}:number", {}, "has as 'number' int, not a class"),
        ("collections:OrderedDict", {}, "does not say what it is built with"),
        ("{module}:", {}, "write package.module:Class"),
        ("{module}:Length:x", {}, "write package.module:Class"),
        ("{module}:Length", {"scael": 2}, "has no option 'scael'; did you mean 'scale'"),
        ("{module}:Nameless", {}, "its constructor must take name"),
        ("{module}:Breaking", {}, "Breaking cannot be built: RuntimeError: no licence"),
        (
            "{module}:Bare",
            {},
            "no 'key'; it has no 'description'; it has no 'reads'; it has no 'writes'; "
            "it has no 'batch_rows'; it has no 'load'; it has no '__call__'",
        ),
        ("{module}:Length", {"of": "titel"}, "reads the column 'titel'.* did you mean 'title'"),
    ],
)
def test_what_cannot_be_an_operator_is_refused_before_anything_runs(module, use, options, message):
    use = use.format(module=module, broken=module.replace("lengths", "broken"))

    with pytest.raises(ConfigError, match=f"(?s)size.*{message}"):
        built({"size": {"use": use, **options}})


def test_one_that_reads_another_operators_column_must_take_its_key(module):
    operators = {
        "size": {"use": f"{module}:Length"},
        "again": {"use": f"{module}:Alone", "of": "size"},
    }

    with pytest.raises(ConfigError, match=r"'again': .* its constructor must take upstream_keys"):
        built(operators)


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("name", "other", "name is 'other'; it must be the 'up' it was given"),
        ("key", "123", "key is '123'; it must be operators.base.fingerprint"),
        ("description", ["up"], "it must map names"),
        ("description", {"a": {1}}, "description cannot be written as JSON"),
        ("reads", ["title"], "it must be a tuple of columns' names"),
        ("writes", {"up": "string"}, "it must be a pyarrow.Schema"),
        ("writes", pa.schema([]), "of at least one column"),
        ("writes", pa.schema([("down", pa.string())]), "a column must be called 'up' or 'up'_…"),
        ("writes", pa.schema([("up_key", pa.string())]), "'up_key', which is written for it"),
        ("writes", pa.schema([("up", pa.uint8())]), "'up' as uint8, which not every Delta reader"),
        (
            "writes",
            pa.schema([("up", pa.string()), ("up_A", pa.string()), ("up_a", pa.string())]),
            "in case",
        ),
        ("batch_rows", 0, "batch_rows is 0"),
        ("load", None, "load is no method"),
        ("net", lambda: None, "it cannot be pickled .*; make in load what cannot travel"),
    ],
)
def test_every_part_of_the_protocol_is_checked(attribute, value, message):
    operator = UpperCase(text="title", name="up")
    assert protocol_faults(operator, "up") == []

    setattr(operator, attribute, value)
    if attribute == "description" and isinstance(value, dict):
        operator.key = "x"

    (fault,) = protocol_faults(operator, "up")
    assert re.search(message, fault)


def test_the_class_that_the_readme_shows_follows_the_protocol():
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^class Brightness:.*?(?=^\S)", readme, re.MULTILINE | re.DOTALL)[:1]
    scope = {"pa": pa, "fingerprint": fingerprint}
    exec(text, scope)

    faults = protocol_faults(scope["Brightness"](name="light"), "light")
    assert len(text.strip().splitlines()) <= 20
    assert all("pickled" in fault for fault in faults)  # as it stands in no module here
