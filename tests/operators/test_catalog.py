import subprocess
import sys

import pytest

from operators.catalog import build_operators, check_document
from schemas.errors import ConfigError
from tests.plain_operators import CATALOG

COLUMNS = ("image_id", "uri", "title")


def built(operators, columns=COLUMNS):
    document = {"manifest": "m.parquet", "table": "t", "operators": operators}
    return build_operators(check_document(document, catalog=CATALOG), columns, catalog=CATALOG)


def test_a_chain_is_built_in_order_with_the_keys_it_depends_on():
    chain = built(
        {
            "upper": {"use": "upper", "text": "title"},
            "again": {"use": "upper", "text": "upper"},
            "digest": {"use": "digest"},
        }
    )

    assert [operator.name for operator in chain] == ["upper", "again", "digest"]
    assert chain[1].description["upstream"] == {"upper": chain[0].key}


def test_a_key_changes_with_what_it_depends_on():
    def keys(version):
        upper = {"use": "upper", "text": "title", "version": version}
        chain = built(
            {"upper": upper, "again": {"use": "upper", "text": "upper"}, "d": {"use": "digest"}}
        )
        return [operator.key for operator in chain]

    first, second = keys(1), keys(2)

    assert first[0] != second[0]
    assert first[1] != second[1]
    assert first[2] == second[2]


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        (
            {"a": {"use": "uper", "text": "title"}},
            r"operators.a: no operator 'uper' to use; did you mean 'upper'\? known are digest, upp",
        ),
        (
            {"a": {"use": "upper", "text": "title", "verson": 2}},
            r"operators.a: upper has no option 'verson'; did you mean 'version'\?",
        ),
        ({"a": {"use": "upper"}}, r"operators.a: upper needs 'text'"),
        ({"a": {"use": "digest", "model": "x"}}, r"digest has no option 'model'"),
        (
            {"a": {"use": "upper", "text": "titel"}},
            r"operators.a: reads the column 'titel', which neither the manifest nor an operator "
            r"before it has; did you mean 'title'\? known are image_id, title, uri",
        ),
        (
            {"a": {"use": "upper", "text": "b"}, "b": {"use": "upper", "text": "title"}},
            r"operators.a: reads the column 'b', .* move operator 'b' before it",
        ),
        (
            {"title": {"use": "upper", "text": "title"}},
            r"operators.title: writes the column 'title', which the manifest has too; rename",
        ),
        (
            {"Title": {"use": "upper", "text": "title"}},
            r"operators.Title: writes the column 'Title', which the manifest has too; rename",
        ),
        (
            {"a_score": {"use": "upper", "text": "title"}, "a": {"use": "digest"}},
            r"operators.a: writes the column 'a_score', which operator 'a_score' has too",
        ),
    ],
)
def test_a_chain_that_cannot_run_is_refused_before_it_does(operators, message):
    with pytest.raises(ConfigError, match=message):
        built(operators)


@pytest.mark.parametrize(
    "column",
    ["error", "enriched_at", "attempts", "image_size", "image_anything", "Error", "IMAGE_SIZE"],
)
def test_a_column_that_tagline_writes_is_refused_in_a_manifest(column):
    with pytest.raises(ConfigError, match=f"column '{column}' is one that tagline writes"):
        built({"a": {"use": "digest"}}, (*COLUMNS, column))


def test_all_faults_of_a_chain_are_reported_together():
    chain = {"a": {"use": "upper", "text": "x"}, "b": {"use": "upper", "text": "y"}}

    with pytest.raises(ConfigError) as caught:
        built(chain, (*COLUMNS, "error"))

    assert len(str(caught.value).splitlines()) == 3


def test_checking_a_config_imports_neither_torch_nor_ray():
    code = (
        "import sys; from operators.catalog import CATALOG, check_document;"
        "entry = {'model': 'm'};"
        "check_document({'manifest': 'm', 'table': 't', 'operators': {"
        "'c': {'use': 'captioner', 'model': 'm'}, 'e': {'use': 'embedder', 'model': 'm'},"
        "'n': {'use': 'entailment', 'model': 'm', 'hypothesis': 'c'}}});"
        "import jobs.plan, jobs.commit;"
        "assert not {'torch', 'ray', 'transformers'} & set(sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
