"""Where images may come from, and above all where not."""

import os
from pathlib import Path

import pytest

from operators.policy import Place, Policy, check_addresses
from schemas.errors import RowFault


def code_of(policy: Policy, uri: str | None) -> str | None:
    try:
        policy.place(uri)
    except RowFault as fault:
        return fault.code
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "inside"
    (inside / "pictures").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for place in ("inside/pictures/a.jpg", "outside/secret.jpg"):
        (tmp_path / place).write_bytes(b"x")
    (inside / "link.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (inside / "to_outside").symlink_to(tmp_path / "outside")
    (inside / "manifest.csv").write_text("image_id,uri\n")
    return tmp_path


@pytest.mark.parametrize(
    "name", ["inside/manifest.csv", "inside", "inside/*.csv", "inside/*/x.csv"]
)
def test_relative_names_are_looked_for_in_the_manifests_folder(folder, name):
    policy = Policy(str(folder / name))
    expected = os.path.realpath(folder / "inside/pictures/a.jpg")
    assert policy.place("pictures/a.jpg") == Place("file", "", expected)
    assert policy.place(str(folder / "inside/pictures/a.jpg")).path == expected
    assert policy.place(f"file://{folder}/inside/pictures/a.jpg").path == expected
    assert policy.place(f"file://localhost{folder}/inside/pictures/a.jpg").path == expected


@pytest.mark.parametrize(
    "uri",
    [
        "../outside/secret.jpg",
        "pictures/../../outside/secret.jpg",
        "link.jpg",
        "to_outside/secret.jpg",
        "/etc/passwd",
        "file:///etc/passwd",
        "file:///%65tc/passwd",
        "pictures/a.jpg\0.png",
    ],
)
def test_nothing_outside_the_manifests_folder_is_read(folder, uri):
    assert code_of(Policy(str(folder / "inside")), uri) == "policy"


def test_a_folder_whose_name_only_begins_alike_is_outside(folder):
    (folder / "inside2").mkdir()
    assert code_of(Policy(str(folder / "inside")), str(folder / "inside2/a.jpg")) == "policy"


def test_given_roots_may_be_read(folder):
    policy = Policy("s3://bucket/manifest/", roots=(str(folder / "outside"),))
    assert policy.place(str(folder / "outside/secret.jpg")).kind == "file"
    assert policy.place(str(folder / "inside/link.jpg")).path.endswith("outside/secret.jpg")
    assert code_of(policy, str(folder / "inside/pictures/a.jpg")) == "policy"


@pytest.mark.parametrize("uri", ["a.jpg", "/etc/passwd", "file:///etc/passwd", "", None])
def test_a_manifest_elsewhere_has_no_local_folder(uri):
    assert code_of(Policy("s3://bucket/manifest/"), uri) == "policy"


def test_percent_signs_are_read_in_file_uris_only(folder):
    (folder / "inside/a b.jpg").write_bytes(b"x")
    policy = Policy(str(folder / "inside"))
    assert policy.place(f"file://{folder}/inside/a%20b.jpg").path.endswith("/a b.jpg")
    assert policy.place("a%20b.jpg").path.endswith("/a%20b.jpg")


def test_buckets_may_be_named():
    assert Policy().place("s3://any/some/key?x.jpg") == Place("s3", "any", "some/key?x.jpg")
    named = Policy(buckets=("photos",))
    assert named.place("s3://photos/a.jpg").host == "photos"
    assert code_of(named, "s3://photos2/a.jpg") == "policy"
    with pytest.raises(
        RowFault, match=r"bucket 'other' is not allowed; allow.buckets has 'photos'"
    ):
        named.place("s3://other/a.jpg")


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket", "s3://bucket/", "s3:///key"])
def test_an_object_needs_bucket_and_key(uri):
    assert code_of(Policy(), uri) == "policy"


def test_only_named_hosts_are_asked():
    policy = Policy(hosts=("Images.Example.com",))
    assert policy.place("https://images.example.com:8443/a.jpg").host == "images.example.com"
    for uri in (
        "https://example.com/a.jpg",
        "https://images.example.com.evil.net/a.jpg",
        "https://images.example.com@evil.net/a.jpg",
        "http://evil.net#@images.example.com/",
        "http://[::1",
        "http://",
        "http://images.example.com:99999/",
    ):
        assert code_of(policy, uri) == "policy", uri


@pytest.mark.parametrize("uri", ["ftp://host/a.jpg", "gs://bucket/a.jpg", "javascript://x/"])
def test_other_schemes_are_refused(uri):
    assert code_of(Policy(is_typed=True), uri) == "policy"


def test_what_the_user_types_is_allowed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    policy = Policy(is_typed=True)
    assert policy.place("outside/secret.jpg").path == os.path.realpath("outside/secret.jpg")
    assert policy.place("https://example.com/a.jpg").kind == "http"
    assert policy.place("s3://bucket/a.jpg").kind == "s3"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_that_are_not_public_are_refused(address):
    with pytest.raises(RowFault, match="not a public address"):
        check_addresses("host", ["93.184.216.34", address])


def test_public_addresses_are_allowed():
    check_addresses("host", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
