"""The rules by which a row is computed, written again, kept or removed, as one SQL statement.

- An operator is stale where its key is not the row's, or where something it reads changed: the uri
  for whoever reads the image, a column of the manifest, what an operator writes that is stale so.
- A row with an error is settled. It is computed again when something it reads changed, when an
  operator up to the stage that failed has another key than the row was tried with, or when the
  error is transient and has attempts left.
- A row whose other manifest columns changed is written again, not computed again.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from operators.base import Operator
from schemas.config import FETCH
from schemas.enriched import (
    ATTEMPTS,
    ERROR,
    IMAGE_ENCODED,
    IMAGE_ID,
    IMAGE_SIZE,
    IS_DUE,
    URI,
    key_column,
)

M, S, T, R = "_tagline_m", "_tagline_s", "_tagline_t", "_tagline_r"  # rows of the four tables
ORDER = "_tagline_order"  # of the manifest's rows
FILE = "_tagline_file"  # of a table's row: position in Table.files
ROW = "_tagline_row"  # of a table's row in its file
IS_NEW = "_tagline_is_new"
IS_ABSENT = "_tagline_is_absent"
IS_OPEN = "_tagline_is_open"  # an error that changed but that this plan leaves
IS_REMOVED = "_tagline_is_removed"
IS_TAKEN = "_tagline_is_taken"  # written for the first time or with something changed
IS_RETRY = "_tagline_is_retry"
NEEDS_IMAGE = "_tagline_needs_image"
STALE = "_tagline_stale_"  # and the operator's name: whether it computes the row


@dataclass(frozen=True)
class Rules:
    """What decides about a row beside the manifest and the table.

    Args:
        retry: `due`, `errors` or `transient`; see `jobs.plan.Selection`.
        prune: whether rows that the manifest no longer names are removed.
        attempts: tries of a transient error.
        tried_keys: by data file, the operators' keys its rows were last tried with; absent where
            not known, as in a file that another writer made of several.
        untried: operators whose key no plan for this table had yet.
        retired: key columns of operators that the config no longer has. What they read is not
            known, so any change of a row voids them, lest a value of another image is taken for
            good when such an operator comes back.
    """

    retry: str
    prune: bool
    attempts: int
    tried_keys: Mapping[str, Mapping[str, str]]
    untried: Collection[str] = ()
    retired: Sequence[str] = ()


def decision_sql(columns: Sequence[str], operators: Sequence[Operator], rules: Rules) -> str:
    """The statement that joins `manifest`, `state` and `tried` into `decided`.

    Args:
        columns: of the manifest.
        operators: in order.
        rules: what else decides.
    """
    compared = [column for column in columns if column != IMAGE_ID]
    return f"""
    CREATE TABLE decided AS
    WITH judged AS ({_judged_sql(compared, operators, rules)}),
    computed AS (SELECT *, {_computed_rule(rules)} AS is_computed FROM judged),
    taken AS (
        SELECT *, is_computed OR ({rules.retry == "due"} AND is_other) AS is_taken FROM computed
    )
    {_result_sql(compared, operators, rules)}
    """


def _judged_sql(compared: Sequence[str], operators: Sequence[Operator], rules: Rules) -> str:
    """Both rows of an image_id, and what differs between them."""
    inputs = _inputs(compared, operators)
    nulled = {op.name: _any(_differs(column) for column in inputs[op.name]) for op in operators}
    stale = {op.name: f"({_key_differs(op)} OR {nulled[op.name]})" for op in operators}
    read = sorted(set[str]().union(*inputs.values()))
    is_other = _any(_differs(column) for column in compared)
    is_changed = _any(
        [*(_differs(column) for column in read), _key_changed_up_to_failure(operators, rules)]
    )
    both = f"{M}.image_id IS NOT NULL AND {S}.image_id IS NOT NULL"
    flags = _listed(
        f"{condition} AS {name(flag + op.name)}"
        for op in operators
        for flag, condition in (("nulled_", nulled[op.name]), ("stale_", stale[op.name]))
    )
    return f"""
        SELECT {M}, {S}, {flags}
            {S}.image_id IS NULL AS is_new, {M}.image_id IS NULL AS is_absent,
            {both} AND {S}.error IS NULL AND {_any(stale.values())} AS is_stale,
            {both} AND {S}.error IS NOT NULL AND {is_changed} AS is_mended,
            {both} AND {S}.error IS NOT NULL AND {_retry_rule(rules)} AS is_retry,
            {both} AND {is_other} AS is_other, {_differs(URI)} AS is_elsewhere
        FROM manifest {M} FULL OUTER JOIN state {S} ON {M}.image_id = {S}.image_id
        LEFT JOIN refreshed {R} ON {R}.image_id = {M}.image_id
        LEFT JOIN tried {T} ON {T}.file = {S}.{FILE}
    """


def _result_sql(compared: Sequence[str], operators: Sequence[Operator], rules: Rules) -> str:
    """The row as a shard holds it, and the columns by which rows are counted and ordered."""
    carried = _listed(
        f"CASE WHEN is_taken THEN {M}.{name(column)} ELSE {S}.{name(column)} END AS {name(column)}"
        for column in compared
    )
    keys = _listed(
        f"CASE WHEN NOT (is_taken AND {name('nulled_' + op.name)}) "
        f"THEN {S}.{name(key_column(op.name))} END AS {name(key_column(op.name))}"
        for op in operators
    )
    keys += _listed(
        f"CASE WHEN NOT (is_taken AND is_other AND regexp_full_match({S}.{name(column)}, "
        f"'[0-9a-f]{{16}}')) THEN {S}.{name(column)} END AS {name(column)}"
        for column in rules.retired
    )
    stale = _listed(
        f"is_computed AND {name('stale_' + op.name)} AS {name(STALE + op.name)}" for op in operators
    )
    imaging = [name("stale_" + op.name) for op in operators if IMAGE_ENCODED in op.reads]
    only_retry = f"(is_retry AND NOT (is_mended AND {rules.retry == 'due'}))"
    return f"""
        SELECT coalesce({M}.image_id, {S}.image_id) AS image_id, {carried} {keys} {stale}
            CASE WHEN NOT is_computed THEN {S}.error END AS {ERROR},
            is_computed AS {IS_DUE},
            (CASE WHEN {only_retry} THEN {S}.error.attempts ELSE 0 END)::INTEGER AS {ATTEMPTS},
            CASE WHEN NOT is_elsewhere THEN {S}.{IMAGE_SIZE} END AS {IMAGE_SIZE},
            is_computed AND {_any(imaging)} AS {NEEDS_IMAGE},
            is_new AS {IS_NEW}, is_absent AS {IS_ABSENT},
            is_mended AND NOT is_computed AS {IS_OPEN},
            is_absent AND {rules.prune} AS {IS_REMOVED}, is_taken AS {IS_TAKEN},
            {only_retry} AS {IS_RETRY},
            {M}.{ORDER} AS {ORDER}, {S}.{FILE} AS {FILE}, {S}.{ROW} AS {ROW}
        FROM taken
    """


def _inputs(compared: Sequence[str], operators: Sequence[Operator]) -> dict[str, set[str]]:
    """The manifest's columns that each operator depends on, also through those before it."""
    owner = {column: op.name for op in operators for column in op.writes.names}
    inputs: dict[str, set[str]] = {}
    for op in operators:
        found: set[str] = set()
        for column in op.reads:
            if column == IMAGE_ENCODED or column.startswith("image_"):
                found.add(URI)
            elif column in owner:
                found |= inputs.get(owner[column], set())
            elif column in compared:
                found.add(column)
        inputs[op.name] = found
    return inputs


def _key_differs(op: Operator) -> str:
    return f"{S}.{name(key_column(op.name))} IS DISTINCT FROM {text(op.key)}"


def _key_changed_up_to_failure(operators: Sequence[Operator], rules: Rules) -> str:
    """Whether a key up to the failed stage is another than the row was tried with.

    The failed operator's own key is not in its row; it is known by the plan that wrote the file.
    Where it is not known, a key that is new to the table is another for sure.
    An error of the fetch depends on no key, one of an operator that is gone is to be computed.
    """
    fetches = any(IMAGE_ENCODED in op.reads for op in operators)
    cases = [f"WHEN {S}.error.stage = {text(FETCH)} THEN false"] if fetches else []
    for position, op in enumerate(operators):
        before = [_key_differs(earlier) for earlier in operators[:position]]
        own = f"coalesce({T}.{name(op.name)} <> {text(op.key)}, {op.name in rules.untried})"
        cases.append(f"WHEN {S}.error.stage = {text(op.name)} THEN {_any([*before, own])}")
    return f"(CASE {' '.join(cases)} ELSE true END)"


def _retry_rule(rules: Rules) -> str:
    has_attempts = f"coalesce({S}.error.attempts, 0) < {rules.attempts}"
    return {
        "due": f"coalesce({S}.error.transient, false) AND {has_attempts}",
        "transient": f"coalesce({S}.error.transient, false)",
        "errors": "true",
    }[rules.retry]


def _computed_rule(rules: Rules) -> str:
    return "is_new OR is_stale OR is_mended OR is_retry" if rules.retry == "due" else "is_retry"


def _differs(column: str) -> str:
    """Whether a column of the manifest is another than the table's; a uri also by its content."""
    content = f" OR {R}.image_id IS NOT NULL" if column == URI else ""
    return f"({M}.{name(column)} IS DISTINCT FROM {S}.{name(column)}{content})"


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


def _listed(expressions: Iterable[str]) -> str:
    """Items of a SELECT list, each with its comma."""
    return "".join(f"{expression},\n        " for expression in expressions)


def name(identifier: str) -> str:
    """An identifier as SQL writes it."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text as SQL writes it."""
    return "'" + value.replace("'", "''") + "'"
