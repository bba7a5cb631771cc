"""Prepared requests -> submissions to the queue: owner, deadline, priority, Idempotency-Key."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar
from uuid import uuid4

from api.process.offload import offload
from api.request.response_meta import ResponseMeta
from api.schema.base import MAX_TIMEOUT_S, Sampling
from common.errors import InvalidRequest
from common.json_bytes import json_bytes
from common.redis.submission import Submission
from common.wire import GenerationRequest, ModelCard, Tier, planned_tokens

MAX_IDEMPOTENCY_KEY = 256  # characters
READ_TIMEOUT_GRACE_S = 2.0
WINDOWS_S: Mapping[str, int] = MappingProxyType({"2h": 7200, "8h": 28_800})

MetaT = TypeVar("MetaT", bound=ResponseMeta)


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """A request's options for the queue and for the delivery of its answer."""

    stream: bool = False
    event_ids: bool = False  # the caller resumes by `id:` lines
    background: bool = False
    priority: int = 0
    timeout: float | None = None  # seconds
    not_before: float = 0.0  # unix time; 0: at once
    window_s: int = 0  # in which a background request must end; 0: no window
    keep_alive_s: float | None = None  # of its model, after it

    @classmethod
    def of(cls, body: Sampling) -> Self:
        window = body.background_options.completion_window if body.background_options else None
        return cls(
            stream=bool(body.stream),
            event_ids=bool(body.stream_options and body.stream_options.include_event_ids),
            background=bool(body.background),
            priority=body.priority or 0,
            timeout=body.timeout,
            not_before=body.not_before or 0.0,
            window_s=WINDOWS_S.get(window or "", 0),
            keep_alive_s=body.keep_alive,
        )

    def deadline_s(self, header: str) -> float:
        """Seconds to the deadline; 0 for none. `header`: the read timeout that an SDK announces.

        At its timeout an SDK closes the connection, which cancels the job. The deadline, a little later, is for
        connections that a proxy keeps open.
        """
        if given := [seconds for seconds in (self.timeout, self.window_s) if seconds]:
            return min(given)
        if self.background:
            return 0.0
        try:
            seconds = float(header)
        except ValueError:
            return 0.0
        return seconds + READ_TIMEOUT_GRACE_S if 0 < seconds <= MAX_TIMEOUT_S else 0.0


@dataclass(frozen=True, slots=True)
class Prepared(Generic[MetaT]):
    """A checked request, ready to be enqueued: one generation request for each job of its answer."""

    meta: MetaT
    requests: Sequence[GenerationRequest]
    options: QueueOptions
    kept_s: int | None = None  # how long the result is kept, where that is less than the setting
    vector_bytes: int = 0  # of each embedding in the log
    archive: bool = False  # the answer is kept in the store too


@dataclass(frozen=True, slots=True)
class Sender:
    """The parts of the HTTP request that a submission needs."""

    owner: str
    raw: Mapping[str, Any]  # the body as sent
    idempotency_key: str = ""
    read_timeout: str = ""  # the header in which OpenAI's SDKs announce it
    traceparent: str = ""
    batch: str = ""  # the batch that it is a line of
    tier: Tier = "default"


def new_id(prefix: str) -> str:
    return f"{prefix}{uuid4().hex}"


def submissions(prepared: Prepared[Any], kind: str, card: ModelCard, sender: Sender) -> list[Submission]:
    """One submission per job; only the first has the Idempotency-Key, because the other ids follow from its id.

    Raises InvalidRequest for an Idempotency-Key that is too long.
    """
    key = sender.idempotency_key
    if len(key) > MAX_IDEMPOTENCY_KEY:
        raise InvalidRequest(f"The Idempotency-Key may have {MAX_IDEMPOTENCY_KEY} characters at most.")
    options = prepared.options
    is_flex = sender.tier == "flex"
    requests = [
        replace(request, adapter=card.adapter, is_flex=is_flex, keep_alive_s=options.keep_alive_s)
        for request in prepared.requests
    ]
    forms = offload(stored_forms, prepared.meta, kind)
    first = Submission(
        request=requests[0],
        queue=card.queue,
        owner=sender.owner,
        revision=card.revision,
        form=forms[0],
        background=options.background,
        deadline_s=options.deadline_s(sender.read_timeout),
        idempotency_key=key,
        body_digest=offload(digest_of, sender.raw, kind) if key else "",
        traceparent=sender.traceparent,
        kept_s=prepared.kept_s,
        priority=0 if sender.batch else options.priority,
        not_before_ms=round(options.not_before * 1000),
        window_s=options.window_s,
        vector_bytes=prepared.vector_bytes,
        archive=prepared.archive,
        planned_tokens=planned_for(requests[0], card),
        tier=sender.tier,
        batch=sender.batch,
    )
    others = [
        replace(first, request=request, form=form, idempotency_key="", planned_tokens=planned_for(request, card))
        for request, form in zip(requests[1:], forms[1:], strict=True)
    ]
    return [first, *others]


def planned_for(request: GenerationRequest, card: ModelCard) -> int:
    return planned_tokens(len(request.prompt_ids), request.sampling.max_tokens, card.max_model_len)


def stored_forms(meta: ResponseMeta, kind: str) -> list[dict[str, Any]]:
    return [form | {"kind": kind} for form in meta.forms()]


def digest_of(raw: Mapping[str, Any], kind: str) -> str:
    """Equal for equal bodies sent to the same endpoint."""
    return hashlib.sha256(kind.encode() + json_bytes(raw, sort_keys=True)).hexdigest()
