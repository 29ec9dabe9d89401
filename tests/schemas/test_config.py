from datetime import timedelta

import pytest

from schemas.config import parse_config, read_config
from schemas.errors import ConfigError

SMALL = {
    "manifest": "photos.parquet",
    "table": "table",
    "operators": {"caption": {"use": "captioner", "model": "embedded:captioner"}},
}


def test_a_small_config_gets_the_documented_defaults():
    config = parse_config(SMALL)

    assert config.manifest.path == "photos.parquet"
    assert config.manifest.columns == {}
    assert config.limits.error_fraction == 0.05
    assert config.limits.image_bytes == 50_000_000
    assert config.limits.image_pixels == 178_956_970
    assert config.limits.attempts == 3
    assert config.commit.every is None
    assert config.allow.buckets is None
    assert config.resources.pool("caption").actors is None


def test_a_whole_config_is_read(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(
        """
manifest: {path: "s3://photos/manifest/", columns: {image_id: id, uri: url}}
table: s3://enriched/photos
operators:
  caption:    {use: captioner, model: damo/some}
  entailment: {use: entailment, model: damo/other, hypothesis: caption}
resources:  {caption: {actors: 4, gpus: 0.25, batch: 64}, fetch: {actors: 2}, cost_per_hour: 2.5}
limits:     {error_fraction: 0.1, image_bytes: 20 MiB}
allow:      {buckets: [photos], hosts: [example.org]}
commit:     {every: 90m}
"""
    )

    config = read_config(path)

    assert config.manifest.columns == {"image_id": "id", "uri": "url"}
    assert list(config.operators) == ["caption", "entailment"]
    assert config.operators["entailment"].options == {"hypothesis": "caption"}
    assert config.resources.pool("caption").gpus == 0.25
    assert config.resources.pool("fetch").actors == 2
    assert config.resources.cost_per_hour == 2.5
    assert config.limits.image_bytes == 20 * 2**20
    assert config.allow.buckets == ("photos",)
    assert config.commit.every == timedelta(minutes=90)


def test_overrides_reach_into_the_config():
    config = parse_config(
        SMALL,
        [
            "limits.attempts=5",
            "limits.image_bytes=1 MB",
            "manifest.columns.uri=url",
            "operators.caption.model=/models/other",
            "resources.caption.actors=2",
            "operators.second={use: embedder}",
        ],
    )

    assert config.limits.attempts == 5
    assert config.limits.image_bytes == 1_000_000
    assert config.manifest.path == "photos.parquet"
    assert config.manifest.columns == {"uri": "url"}
    assert config.operators["caption"].model == "/models/other"
    assert config.operators["second"].use == "embedder"
    assert config.resources.pool("caption").actors == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"manifst": "x"}, r"unknown key 'manifst'; did you mean 'manifest'\? known are allow"),
        ({"limits": {"attempt": 3}}, r"unknown key 'attempt' in limits; did you mean 'attempts'\?"),
        ({"limits": {"attempts": 0}}, r"limits.attempts is 0: input should be greater"),
        ({"limits": 5}, r"limits is 5: it must be a mapping"),
        ({"manifest": None}, r"manifest is None: it must be a path or a mapping"),
        ({"operators": {}}, r"operators is {}: it must not be empty"),
        ({"allow": {"hosts": "x"}}, r"allow.hosts is 'x': it must be a list"),
        (
            {"allow": {"hosts": ["a", "http://x/"]}},
            r"'http://x/' must be a name alone, such as 'x'",
        ),
        ({"allow": {"hosts": ["x:80"]}}, r"'x:80' must be a name alone, such as 'x'"),
        ({"allow": {"buckets": ["s3://x"]}}, r"'s3://x' must be a name alone, such as 'x'"),
        ({"limits": {"image_bytes": "lots"}}, r"image_bytes is 'lots': it must be a number of"),
        ({"limits": {"error_fraction": 5}}, r"limits.error_fraction is 5: input should be less"),
        ({"resources": {"caption": {"gpu": 1}}}, r"unknown key 'gpu' .*did you mean 'gpus'\?"),
        (
            {"resources": {"captoin": {}}},
            r"no operator is called 'captoin'; did you mean 'caption'",
        ),
        ({"commit": {"every": "often"}}, r"commit.every is 'often': give a number with its unit"),
        ({"table": None}, r"table is None"),
        ({"operators": {"a b": {"use": "captioner"}}}, r"'a b' names columns; use letters"),
        ({"operators": {"error": {"use": "captioner"}}}, r"'error' is taken by tagline itself"),
        ({"operators": {"Error": {"use": "captioner"}}}, r"'Error' is taken by tagline itself"),
        ({"operators": {"is_due": {"use": "captioner"}}}, r"'is_due' is taken by tagline itself"),
        ({"operators": {"attempts": {"use": "captioner"}}}, r"'attempts' is taken by tagline"),
        ({"operators": {"Image_a": {"use": "captioner"}}}, r"'Image_a' is taken by tagline itself"),
        ({"operators": {"a": {"model": "x"}}}, r"operators.a.use is missing"),
        ({"operators": ["captioner"]}, r"operators is \['captioner'\]"),
    ],
)
def test_a_fault_says_where_it_is_and_what_is_allowed(change, message):
    with pytest.raises(ConfigError, match=message):
        parse_config({**SMALL, **change})


def test_all_faults_are_reported_together():
    faulty = {"tabel": "x", "operators": {"a": {"use": "c"}}, "limits": {"attempts": "many"}}

    with pytest.raises(ConfigError) as caught:
        parse_config(faulty, where="job.yaml", check=lambda name, entry: [f"{entry['use']} is no"])

    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert all(line.startswith("job.yaml: ") for line in lines)
    assert lines[-1] == "job.yaml: operators.a: c is no"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1", "a job config is a mapping"),
        ("", "a job config is a mapping"),
        ("table: a\ntable: b", "key 'table' is given twice"),
        ("{[a, b]: c}", r"not YAML: \['a', 'b'\] cannot be a key"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, message):
    (tmp_path / "job.yaml").write_text(text)

    with pytest.raises(ConfigError, match=rf"job.yaml: .*{message}"):
        read_config(tmp_path / "job.yaml")


def test_a_config_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"job.yaml: cannot read the job config: No such file"):
        read_config(tmp_path / "job.yaml")


@pytest.mark.parametrize("override", ["limits.attempts", "=3", "limits.attempts=[1"])
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(ConfigError, match=r"limits\.attempts|is not key=value"):
        parse_config(SMALL, [override])
