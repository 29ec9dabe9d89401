"""OpenLineage events of a run: START, then COMPLETE or FAIL, with the manifest and the table.

Sent only where the client's own settings ask for it: OPENLINEAGE_URL, OPENLINEAGE_CONFIG, a file
`openlineage.yml` or variables OPENLINEAGE__TRANSPORT__…. A thread sends them; a server that fails
or hangs costs a run at most `PATIENCE_SECONDS` at its end, and a warning.

Source: OpenLineage's spec 2-0-2 and its rules for names of data sets.
"""

import logging
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from jobs import storage

PRODUCER = "urn:tagline:enrich"  # a URI, as the spec wants
PATIENCE_SECONDS = 5.0  # at the end of a run, for all that was not sent yet
SETTINGS = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")
SETTING_PREFIX = "OPENLINEAGE__TRANSPORT"
NAMESPACE = "OPENLINEAGE_NAMESPACE"  # of the job; OpenLineage's own default is `default`
CONFIG_FILES = (Path("openlineage.yml"), Path("~/.openlineage/openlineage.yml"))

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dataset:
    """A manifest or a table, as an event tells of it.

    Args:
        path: normalised, or a path as the config has it.
        schema: None while it is not known.
        version: of the table.
        rows: read or written.
        size: bytes written.
        files: written.
    """

    path: str
    schema: pa.Schema | None = None
    version: int | None = None
    rows: int | None = None
    size: int | None = None
    files: int | None = None


def is_wanted() -> bool:
    """Whether the client's settings name a place for events."""
    is_off = os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true"
    names = [name for name in os.environ if name.startswith(SETTING_PREFIX)]
    named = any(os.environ.get(name) for name in (*SETTINGS, *names))
    return not is_off and (named or any(path.expanduser().is_file() for path in CONFIG_FILES))


@dataclass
class Lineage:
    """Tells of one run; does nothing where no events are wanted.

    Args:
        run: its id, a UUID.
        job: the name of the job.
        inputs: what is read.
        outputs: what is written.
    """

    run: str
    job: str
    inputs: Sequence[Dataset]
    outputs: Sequence[Dataset]
    _waiting: "queue.SimpleQueue[Any]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Tells that the run began."""
        if not is_wanted():
            return
        self._thread = threading.Thread(target=self._send_all, name="lineage", daemon=True)
        self._thread.start()
        self._tell("START")

    def complete(self) -> None:
        """Tells that the run is done; waits until all is sent, but not long."""
        self._tell("COMPLETE")
        self._end()

    def fail(self, message: str) -> None:
        """Tells why the run failed; waits as `complete` does."""
        self._tell("FAIL", message)
        self._end()

    def _tell(self, kind: str, message: str | None = None) -> None:
        told = (kind, datetime.now(UTC).isoformat(), message, tuple(self.inputs))
        self._waiting.put((*told, tuple(self.outputs)))

    def _end(self) -> None:
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(PATIENCE_SECONDS)
        if self._thread.is_alive():
            logger.warning("event=lineage_not_sent reason=%s", "the server does not answer")

    def _send_all(self) -> None:
        try:
            from openlineage.client import OpenLineageClient

            client = OpenLineageClient()
        except ImportError:
            logger.warning("event=lineage_off reason=%s", "pip install 'tagline[lineage]'")
            return
        except Exception as error:  # of its settings, whatever they are
            logger.warning("event=lineage_off reason=%s", f"{type(error).__name__}: {error}")
            return
        while (told := self._waiting.get()) is not None:
            try:
                client.emit(self._event(*told))
            except Exception as error:  # a run is not to end for this
                reason = f"{type(error).__name__}: {error}"
                logger.warning("event=lineage_not_sent kind=%s reason=%s", told[0], reason)

    def _event(
        self,
        kind: str,
        at: str,
        message: str | None,
        inputs: Sequence[Dataset],
        outputs: Sequence[Dataset],
    ) -> Any:
        from openlineage.client import event_v2
        from openlineage.client.facet_v2 import error_message_run, job_type_job

        facets: dict[str, Any] = {}
        if message is not None:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(message, "PYTHON")
        kinds = job_type_job.JobTypeJobFacet("BATCH", "TAGLINE", "JOB")
        namespace = os.environ.get(NAMESPACE) or "default"
        return event_v2.RunEvent(
            eventType=event_v2.RunState[kind],
            eventTime=at,
            run=event_v2.Run(runId=self.run, facets=facets),
            job=event_v2.Job(namespace=namespace, name=self.job, facets={"jobType": kinds}),
            inputs=[_input(one) for one in inputs],
            outputs=[_output(one) for one in outputs],
            producer=PRODUCER,
        )


def place(path: str) -> tuple[str, str]:
    """The namespace and name by which OpenLineage knows a file or a folder."""
    if storage.scheme_of(path) == "s3":
        bucket, _, key = path.partition("://")[2].partition("/")
        return f"s3://{bucket}", key.rstrip("/") or "/"
    return "file", storage.normalise(path) if storage.scheme_of(path) == "file" else path


def _input(dataset: Dataset) -> Any:
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import input_statistics_input_dataset as statistics

    namespace, name = place(dataset.path)
    facet = statistics.InputStatisticsInputDatasetFacet(rowCount=dataset.rows)
    told: dict[str, Any] = {"inputStatistics": facet} if dataset.rows is not None else {}
    return event_v2.InputDataset(namespace, name, facets=_facets(dataset), inputFacets=told)


def _output(dataset: Dataset) -> Any:
    from openlineage.client import event_v2
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics

    namespace, name = place(dataset.path)
    facet = statistics.OutputStatisticsOutputDatasetFacet(
        rowCount=dataset.rows, size=dataset.size, fileCount=dataset.files
    )
    told: dict[str, Any] = {"outputStatistics": facet} if dataset.rows is not None else {}
    return event_v2.OutputDataset(namespace, name, facets=_facets(dataset), outputFacets=told)


def _facets(dataset: Dataset) -> dict[str, Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset, schema_dataset

    facets: dict[str, Any] = {}
    if dataset.schema is not None:
        facets["schema"] = schema_dataset.SchemaDatasetFacet(
            [
                schema_dataset.SchemaDatasetFacetFields(column.name, str(column.type))
                for column in dataset.schema
            ]
        )
    if dataset.version is not None:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(str(dataset.version))
    return facets
