"""Enriches a table: plan, run, commit, summary.

What is done is told by what lies in the table: a run may be killed at any moment, started twice at
once, or started again with nothing to do, and the table ends the same. Ray is started only when
there is something to compute.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from jobs.bottleneck import Bottleneck, find_bottleneck
from jobs.cluster import cluster_address, connected, local_capacity
from jobs.commit import commit
from jobs.history import Note
from jobs.limits import ErrorLimit
from jobs.observed import Observed, observed
from jobs.parts import PartReport, read_reports
from jobs.pictures import record_policy
from jobs.plan import Selection, open_manifest, plan, policy_of
from jobs.portions import Portions
from jobs.progress import Progress
from jobs.records import DEFAULT_ROWS_PER_SECOND, measured_rate, record_rate
from jobs.resources import Allotment, allot, writers
from jobs.shards import Plan, Shard
from jobs.stages import Work, close_shard, open_shard
from jobs.summary import Summary, total
from operators.base import Operator
from operators.catalog import CATALOG, Factory, build_operators
from operators.fetcher import Fetcher
from operators.policy import Policy
from schemas.config import JobConfig
from schemas.manifest_files import STORE_ERRORS

THIS_MACHINE = "this machine"
MODELS = "models to be found, fetched and digested"
PLAN = "the plan: manifest and table are compared"
NEW_AND_CHANGED = Selection()
CLUSTER_ACTORS = 16  # of the largest pool, for cutting shards before a cluster was asked
FEW_SHARDS = 64  # that only copy rows are run without Ray

logger = logging.getLogger(__name__)


def run(
    config: JobConfig,
    *,
    selection: Selection = NEW_AND_CHANGED,
    address: str | None = None,
    catalog: Mapping[str, Callable[[], Factory]] = CATALOG,
) -> Summary:
    """Brings a table up to date with its manifest and operators.

    Args:
        config: checked by `operators.catalog.read_config`.
        selection: which rows beside new and changed ones.
        address: of a Ray cluster; else RAY_ADDRESS, else a Ray of its own on this machine.
        catalog: the kinds of operators there are.

    Returns:
        What was done; the table is committed.

    Raises:
        TaglineError: of the config, the manifest, a model or the table, before anything ran; or
            `RunError` when the run could not be finished. What was computed is kept, and the same
            command goes on with it.
    """
    with observed(config, selection.verb) as told:
        summary = _brought_up_to_date(config, selection, address, catalog, told)
        summary = replace(summary, seconds=told.seconds)
        told.done(summary)
    return summary


def _brought_up_to_date(
    config: JobConfig,
    selection: Selection,
    address: str | None,
    catalog: Mapping[str, Callable[[], Factory]],
    told: Observed,
) -> Summary:
    """Plans, runs and commits until nothing is left to do."""
    told.waiting.begins(f"the manifest {config.manifest.path} to be listed")
    manifest = open_manifest(config)
    told.opened(manifest)
    told.waiting.begins(MODELS)
    operators = build_operators(config, manifest.schema.names, catalog=catalog)
    actors = actors_expected(config, operators, address)
    told.waiting.begins(PLAN)
    planned = plan(config, operators, selection=selection, manifest=manifest, actors=actors)
    summary = Summary.of(planned)
    reports: list[PartReport] = []
    rounds = 0
    while not planned.is_empty:
        told.planned(planned)
        run = _Run(planned, config, operators, told, address=address, rounds=rounds)
        done = _completed(run, before=reports)
        told.waiting.begins(f"the commit of {len(planned.shards)} parts to {planned.table}")
        rest = [report for report in done.reports if report.shard not in done.committed]
        version = commit(planned, committed=done.committed, note=run.note(rest))
        told.committed(version, done.reports)
        _record(planned, policy_of(config), done.reports)
        _tell_cuts(done.reports)
        summary = summary.with_round(
            planned, done.reports, version=version, bottleneck=done.bottleneck
        )
        if (done.transient or done.refused) and not reports:  # such parts are not overwritten
            reports += done.reports
            selection = _for_what_may_pass(selection, was_refused=done.refused > 0)
        elif not planned.remaining:
            break
        rounds += 1
        told.waiting.begins(PLAN)
        planned = plan(config, operators, selection=selection, manifest=manifest, actors=actors)
    return summary


def actors_expected(config: JobConfig, operators: Sequence[Operator], address: str | None) -> int:
    """Actors of the largest pool; on this machine, wishes that cannot come true are refused."""
    if cluster_address(address) is not None:
        wished = [pool.actors or 1 for pool in config.resources.pools.values()]
        return max([CLUSTER_ACTORS, *wished])
    allotments = allot(operators, config.resources, local_capacity(), where=THIS_MACHINE)
    return max(allotment.most_actors for allotment in allotments.values())


@dataclass(frozen=True)
class Round:
    """What the run of one plan came to.

    Args:
        reports: of all its parts.
        bottleneck: of what this run computed; None when that was nothing.
        transient: errors that may pass, in parts of a run before this one.
        refused: errors that tell of that run's set-up.
        committed: ids of shards that were committed while it went on.
    """

    reports: list[PartReport]
    bottleneck: Bottleneck | None
    transient: int
    refused: int
    committed: Collection[str] = ()


def _for_what_may_pass(selection: Selection, *, was_refused: bool) -> Selection:
    """The selection of the round after one that went on with parts of an outage or a refusal."""
    if was_refused:
        return replace(selection, retry="errors", refresh=False)
    is_due = selection.retry == "due"
    return replace(selection, retry="due" if is_due else "transient", refresh=False)


def _completed(run: "_Run", *, before: Sequence[PartReport] = ()) -> Round:
    """Puts the parts of a plan that are not there yet; `before` are parts of rounds committed.

    Raises:
        RunError: too many rows ended in an error, or Ray gave up.
    """
    planned, config = run.planned, run.config
    run.told.waiting.begins(f"the parts of {planned.table} to be listed")
    missing = {shard.id for shard in planned.pending()}
    reports = read_reports(planned, [s for s in planned.shards if s.id not in missing])
    known = {report.shard for report in reports}
    pending = [shard for shard in planned.shards if shard.id not in known]
    limit = ErrorLimit(config.limits.error_fraction)
    transient = sum(report.transient for report in reports)
    refused = sum(report.refused for report in reports)
    for report in [*before, *reports]:
        limit.go_on_from(report)
    if limit.is_telling:
        limit.check()
    portions = Portions(planned, reports, config.commit.every, note=run.note)
    there, begun = len(reports), time.monotonic()
    if pending:
        due = sum(shard.due for shard in planned.shards)
        tried = sum(report.tried for report in reports)
        with (
            Progress(due, done=tried, errors=total(reports, "errors").total()) as progress,
            closing(run.parts(pending)) as parts,
        ):
            for report in parts:
                reports.append(report)
                progress.advance(report.tried, errors=sum(report.errors.values()))
                limit.count(report)
                run.told.part(report)
                portions.finish(report)
                if limit.is_telling:
                    portions.commit_when_due()
    limit.check()
    bottleneck = run.bottleneck(reports[there:], time.monotonic() - begun)
    return Round(reports, bottleneck, transient, refused, portions.committed)


class _Run:
    """Where and with what the shards of one plan are computed."""

    def __init__(
        self,
        planned: Plan,
        config: JobConfig,
        operators: Sequence[Operator],
        told: Observed,
        *,
        address: str | None,
        rounds: int,
    ) -> None:
        self.planned, self.config, self.operators, self.told = planned, config, operators, told
        self.address = address
        self.to_compute = {
            name: counts.new + counts.changed + counts.retry
            for name, counts in planned.computed.items()
        }
        self.allotments: Mapping[str, Allotment] = {}
        self.work = Work(
            plan=replace(planned, shards=(), replaced=()),
            operators=tuple(operators),
            fetcher=Fetcher(
                operators,
                policy_of(config),
                retired=planned.retired,
                image_bytes=int(config.limits.image_bytes),
                pixel_limit=config.limits.image_pixels,
            ),
            batches={n: pool.batch for n, pool in config.resources.pools.items() if pool.batch},
            rounds=rounds,
            logs=told.logs,
            batch_seconds=config.limits.batch_timeout.total_seconds(),
        )

    def note(self, reports: Sequence[PartReport]) -> Note:
        """What a commit of some of its parts says of itself."""
        found = self.bottleneck(reports, self.told.seconds)
        return self.told.note(self.planned, reports, found.stage if found else None)

    def parts(self, shards: Sequence[Shard]) -> Generator[PartReport]:
        """Puts the part of each shard; Ray is started unless all are few and only copied."""
        if len(shards) <= FEW_SHARDS and not any(shard.due for shard in shards):
            for shard in shards:
                yield close_shard(self.work, open_shard(self.work, shard))
            return
        where = cluster_address(self.address) or THIS_MACHINE
        self.told.waiting.begins(f"Ray on {where} to answer")
        joined = connected(
            self.address,
            machines=self.config.resources.machines,
            on_lost=self.told.failed,
        )
        with joined as capacity, self.told.counted(len(shards)):
            from jobs.pools import free_resources, run_shards, run_suspects  # imports Ray

            allotments = allot(
                self.operators, self.config.resources, capacity, where=where, work=self._work()
            )
            self.allotments = allotments
            suspects = {shard.id: shard for shard in shards}
            left = partial(_shards_left, suspects, len(shards), free_resources)
            self.told.waiting.begins(left)
            runs = run_shards(
                self.work,
                shards,
                allotments,
                to_compute=self.to_compute,
                writers=writers(capacity),
            )
            with closing(runs) as reports:
                for report in reports:
                    if suspects.pop(report.shard, None):
                        yield report
            if suspects:
                logger.warning("event=suspect_shards count=%d", len(suspects))
                self.told.waiting.begins(f"{len(suspects)} suspect shards, run in pieces")
                yield from run_suspects(
                    self.work, list(suspects.values()), allotments, to_compute=self.to_compute
                )

    def bottleneck(self, reports: Sequence[PartReport], seconds: float) -> Bottleneck | None:
        """Which stage held up the parts put so far; None when this run had no stages."""
        if not self.allotments:
            return None
        return find_bottleneck(
            reports,
            seconds,
            allotments=self.allotments,
            operators=self.operators,
            resources=self.config.resources,
        )

    def _work(self) -> Mapping[str, float]:
        """Seconds of one actor by operator; a net never measured is taken for the slowest."""
        path, keys = self.planned.table, self.planned.operators
        rates = {name: measured_rate(path, key) for name, key in keys.items()}
        slowest = min([rate for rate in rates.values() if rate], default=DEFAULT_ROWS_PER_SECOND)
        work = {}
        for operator in self.operators:
            is_slow = getattr(operator, "has_net", True)
            rate = rates[operator.name] or (slowest if is_slow else math.inf)
            work[operator.name] = self.to_compute[operator.name] / rate
        return work


def _shards_left(left: Collection[str], shards: int, free: Callable[[], str]) -> str:
    """What a run of shards waits for."""
    return f"{len(left)} of {shards} shards; {free()}"


def _tell_cuts(reports: Sequence[PartReport]) -> None:
    """Says where texts were too long for their model; what was read of them counts."""
    for name, rows in sorted(total(reports, "cut").items()):
        logger.warning("event=texts_cut operator=%s rows=%d", name, rows)


def _record(planned: Plan, policy: Policy, reports: Sequence[PartReport]) -> None:
    """Keeps where images may come from, and the rows per second of each operator."""
    computed, busy = total(reports, "computed"), total(reports, "busy")
    computed.subtract(total(reports, "copied"))
    try:
        record_policy(planned.table, policy)
        for name, key in planned.operators.items():
            if computed[name] > 0 and busy[name]:
                record_rate(planned.table, key, computed[name] / float(busy[name]))
    except STORE_ERRORS as error:  # the table is committed: the job is done
        logger.warning("event=records_not_kept table=%s error=%r", planned.table, str(error))


if __name__ == "__main__":
    from jobs.cli import main

    main(["enrich"])
