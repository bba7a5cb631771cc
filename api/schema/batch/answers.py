"""Files and batches as they are sent: for /openapi.json and for tests."""

from typing import Any, Literal

from pydantic import Field

from api.schema.answers import Shape
from api.schema.base import Base, Metadata


class UploadForm(Base):
    """The form of POST /v1/files."""

    file: bytes = Field(json_schema_extra={"contentMediaType": "application/octet-stream"})
    purpose: Literal["batch", "user_data"]
    anchor: Literal["created_at"] | None = Field(None, alias="expires_after[anchor]")
    seconds: int | None = Field(None, alias="expires_after[seconds]", ge=3600, le=30 * 24 * 3600)


class FileAnswer(Shape):
    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: Literal["batch", "batch_output", "user_data"]
    status: Literal["processed"]
    status_details: str | None


class ListedFiles(Shape):
    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class LineCounts(Shape):
    total: int
    completed: int
    failed: int


class BatchFault(Shape):
    code: str | None
    line: int | None
    message: str | None
    param: str | None


class BatchFaults(Shape):
    object: Literal["list"]
    data: list[BatchFault]


class BatchTokens(Shape):
    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int


class BatchAnswer(Shape):
    id: str
    object: Literal["batch"]
    endpoint: str
    model: str | None
    errors: BatchFaults | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: LineCounts
    usage: BatchTokens
    metadata: Metadata | None
    eta: int | None = None
    lines_per_s: float | None = None
    waiting_for: str | None = None


class ListedBatches(Shape):
    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MessageBatchRequestItem(Base):
    custom_id: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")
    params: dict[str, Any]


class MessageBatchBody(Base):
    """The body of POST /v1/messages/batches, which is read request by request."""

    requests: list[MessageBatchRequestItem] = Field(min_length=1, max_length=50_000)


class MessageBatchCounts(Shape):
    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatchAnswer(Shape):
    id: str
    type: Literal["message_batch"]
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageBatchCounts
    created_at: str
    expires_at: str
    cancel_initiated_at: str | None
    ended_at: str | None
    archived_at: str | None
    results_url: str | None
    waiting_for: str | None = None


class ListedMessageBatches(Shape):
    data: list[MessageBatchAnswer]
    has_more: bool
    first_id: str | None
    last_id: str | None


class DeletedMessageBatch(Shape):
    id: str
    type: Literal["message_batch_deleted"]
