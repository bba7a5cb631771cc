"""Health, jobs, usage and conversations."""

from typing import Any, Literal

from pydantic import Field

from api.schema.answers import ChatChoice, Shape
from common.redis.served.shelf import ModelStatus
from common.wire import JobState, Tier

Seconds = float
UnixTime = float


class Alive(Shape):
    status: Literal["alive"]


class HealthProgress(Shape):
    """What a server that is not healthy waits for."""

    what: str
    share: float | None = Field(None, description="0 to 1, while weights are read")


class Health(Shape):
    status: Literal["healthy", "loading", "engine away", "unhealthy"]
    model: str
    gpu_memory_used: str = Field(description="Whole gibibytes, as in `12GB`")
    uptime_seconds: int
    version: str
    models: dict[str, ModelStatus] | None = Field(None, description="Of a table of models: where each is")
    progress: HealthProgress | None = Field(None, description="While `status` is not `healthy`")


class JobPlace(Shape):
    """Where a job stands."""

    position: int | None = Field(
        description="In the queue: 1 is next, 0 has left it and is being started. Null: it does not wait"
    )
    eta_s: Seconds | None = Field(description="Seconds until it begins, by the measured rate")
    scheduled_for: UnixTime | None = Field(description="`not_before`, until then")
    deadline: UnixTime | None
    service_tier: Tier | None
    model_status: ModelStatus | None = Field(description="Of its model, while the job waits")
    paused: bool = Field(description="Its answer has begun and waits to go on")


class Job(JobPlace):
    """One request, from its arrival until an hour after its end. It holds no text."""

    id: str
    object: Literal["job"]
    state: JobState
    model: str
    created: UnixTime
    age_s: Seconds
    prompt_tokens: int
    cached_tokens: int
    tokens: int = Field(description="Generated so far")
    max_tokens: int
    gpu_s: Seconds
    code: str | None = Field(description="Why it failed")


class JobList(Shape):
    object: Literal["list"]
    data: list[Job]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CancelledJob(Shape):
    id: str
    object: Literal["job"]
    deleted: bool = Field(description="False: it had ended already")
    state_before: JobState | None


class Pending(JobPlace):
    """The 202 for an answer that is not complete yet."""

    id: str
    status: Literal["queued", "in_progress"]
    choices: list[ChatChoice] = Field(max_length=0)
    tokens: int


class UsageResult(Shape):
    object: Literal["organization.usage.completions.result"]
    input_tokens: int
    input_cached_tokens: int
    output_tokens: int
    num_model_requests: int
    num_failed: int
    num_cancelled: int
    gpu_seconds: Seconds
    api_key_id: str | None
    key: str | None
    model: str | None
    service_tier: str | None


class UsageBucket(Shape):
    """One day, in UTC."""

    object: Literal["bucket"]
    start_time: int
    end_time: int
    results: list[UsageResult]


class UsagePage(Shape):
    object: Literal["page"]
    data: list[UsageBucket]
    has_more: bool
    next_page: str | None


class AuditKey(Shape):
    id: str
    type: Literal["user"]
    name: str = Field(description="At that time")


class AuditUser(Shape):
    id: str = Field(description="user@host")


class AuditSession(Shape):
    """Of an `omni` command on the server's machine."""

    user: AuditUser
    ip_address: str | None


class AuditActor(Shape):
    type: Literal["api_key", "session"]
    api_key: AuditKey | None
    session: AuditSession | None


class AuditEntry(Shape):
    """One change."""

    id: str
    object: Literal["organization.audit_log"]
    type: str = Field(description="Such as `model.load` or `key.create`")
    effective_at: int
    actor: AuditActor
    resource_id: str = Field(description="The model, adapter, key, endpoint, job or batch")
    details: dict[str, Any]
    outcome: Literal["succeeded", "failed", "unknown"] = Field(description="`unknown` until it has ended")
    code: str | None = Field(description="Of the error")
    ended_at: int | None
    ip_address: str | None = Field(description="Of the connection")
    forwarded_for: str | None = Field(description="`X-Forwarded-For`, which any caller can write")
    request_id: str | None


class AuditPage(Shape):
    object: Literal["list"]
    data: list[AuditEntry]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ConversationAnswer(Shape):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class ConversationItem(Shape):
    id: str
    type: str
    status: str | None = None
