"""Label Studio's tasks, as it exports them as JSON; what we put into a task comes back in it.

Source: https://labelstud.io/guide/task_format
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Asked = Literal["caption", "label", "tag", "match"]


class _Exported(BaseModel):
    """Label Studio says more than we need."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class AskedQuestion(_Exported):
    """What a question is about in one task.

    Args:
        asked: for a better caption, what a label is, whether a tag holds, or a match is one.
        label: what gold calls it.
        text: the caption or hypothesis that the table has in a column; else None.
        hypothesis: what a label is about; None where that is not known, and of all else.
    """

    asked: Asked
    label: str
    text: str | None
    hypothesis: str | None


class TaskData(_Exported):
    """What a task shows; we put more into it than Label Studio needs."""

    image_id: str
    uri: str
    questions: dict[str, AskedQuestion]


class Region(_Exported):
    """One answer of an annotation."""

    from_name: str = ""
    to_name: str = ""
    value: dict[str, Any] = Field(default_factory=dict)


class Annotation(_Exported):
    """What one person said of one task."""

    result: list[Region]
    was_cancelled: bool | None = False
    completed_by: int | str | dict[str, Any] | None = None
    updated_at: str | None = None


class Task(_Exported):
    """A task with what people said of it."""

    data: TaskData
    annotations: list[Annotation] = Field(default_factory=list)
