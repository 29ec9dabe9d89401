"""What travels between the stages."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from jobs import pools
from jobs.parts import PartReport
from jobs.pools import PARCEL_SCHEMA
from jobs.shards import Shard
from jobs.stages import ShardState, Work
from operators.fetcher import Fetcher
from operators.policy import Policy
from schemas.errors import ModelError, RunError
from tests import plain_jobs

SHARD = Shard("000001", 3, 2, 2, 1000, "rows.parquet", 4, ("data/a/b.parquet",))


def sent(parcel: pa.Table) -> pa.Table:
    """A parcel as an actor gets it: written to the object store and read from there."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, parcel.schema) as stream:
        stream.write_table(parcel)
    return pa.ipc.open_stream(sink.getvalue()).read_all()


def test_a_shard_arrives_as_it_was_sent():
    table = pa.table(
        {
            "image_encoded": pa.array([b"a" * 1000, None, b""], pa.large_binary()),
            "vector": pa.array([[1.0, 2.0], None, []], pa.list_(pa.float32())),
            "error": pa.nulls(3, pa.struct([("code", pa.string())])),
        }
    )
    state = ShardState(SHARD, table, {"caption": 2}, busy={"fetch": 0.25})

    parcel = sent(pools._packed(state))
    row = parcel.drop_columns(["table"]).to_pylist()[0]

    assert parcel.schema == PARCEL_SCHEMA
    assert parcel.num_rows == 1
    assert pools._unpacked(row, parcel) == state


def test_a_fault_of_the_set_up_arrives_as_the_same_kind_of_error():
    fault = pools._fault(pools._named(ModelError("model.safetensors is cut short")))

    assert isinstance(fault, ModelError)
    assert str(fault) == "model.safetensors is cut short"


def test_what_is_free_is_told_without_ray_too():
    assert pools.free_resources() == "Ray does not answer: RaySystemError"


def test_an_error_of_an_unknown_kind_ends_the_run_all_the_same():
    assert isinstance(pools._fault('["Unheard", "what"]'), RunError)


@pytest.mark.parametrize(
    "parcel",
    [
        pools._settled(report=PartReport("s", 1, 1).to_json()),
        pools._settled(fault='["ModelError", "cut short"]'),
    ],
    ids=["done", "faulty"],
)
def test_a_shard_that_is_done_or_faulty_passes_every_stage_untouched(parcel):
    stage = pools._Stage(
        work=SimpleNamespace(logs=None, batch_limit={}.get), name="caption", is_needed=False
    )

    assert stage(parcel) is parcel
    assert pools._put(stage.work, parcel) is parcel


def test_weights_that_are_read_late_are_read_before_the_timer_of_a_batch_runs(monkeypatch):
    operator = plain_jobs.Scaled(of="number")
    work = Work(None, (operator,), Fetcher([operator], Policy()))
    stage = pools._Stage(work, "scaled", is_needed=False)
    is_timed = []
    monkeypatch.setattr(operator, "load", lambda: is_timed.append(stage.timer._is_on))
    shard = Shard("0", rows=2, due=2, images=0, image_bytes=0, file="0", row_group=0)
    state = ShardState(shard, pa.table({"number": pa.array([1, 2], pa.float32())}))

    parcel = stage(pools._packed(state))
    done = pools._unpacked(pools._told(parcel), parcel)

    assert done.computed == {"scaled": 2}
    assert is_timed[0] is False
