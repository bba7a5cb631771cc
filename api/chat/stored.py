"""Stored chat completions (`store: true`), as OpenAI shows them: one, a page of them, the messages of one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from flask import Request
from werkzeug.datastructures import MultiDict

from api.chat.chunks import CHAT, ChatChunks, ChatCompletion, ChatMeta, unfinished_chat
from api.gate.auth import Caller
from api.jobs.archive.answers import ARCHIVED_ID, ArchivedAnswer, archived, archived_answer
from api.jobs.archive.changes import wait_for_archive
from api.jobs.endpoint import Endpoint
from api.jobs.service import Service
from api.jobs.serving import StoredAnswer, answer_of, reopen, stored
from api.process.offload import in_store_thread
from api.request.pages import is_descending, list_of, page_of, page_size
from common.errors import InvalidRequest, NotFound
from common.records.archive import archived_job, archived_page
from common.records.database import Records

METADATA_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)
TEXT_PARTS = ("text", "image_url")


class StoredCompletion(ChatCompletion):
    """The completion with what was kept of its request."""

    meta: ChatMeta

    def body(self) -> dict[str, Any]:
        return super().body() | {
            "service_tier": "default",
            **(self.meta.echo or {}),
            "metadata": self.meta.metadata or {},
        }


STORED_CHAT = Endpoint(
    kind=CHAT.kind,
    name=CHAT.name,
    meta=ChatMeta,
    chunks=ChatChunks,
    completion=StoredCompletion,
    unfinished=unfinished_chat,
    is_archived=True,
)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """The query of a list of stored completions."""

    after: str | None
    limit: int
    is_descending: bool
    model: str | None
    metadata: Mapping[str, str]

    @classmethod
    def of(cls, http: Request) -> Self:
        """Raises InvalidRequest."""
        model = http.args.get("model")
        if model is not None and not model.isprintable():
            raise InvalidRequest("'model' is not the name of a model.", param="model")
        return cls(
            after=http.args.get("after") or None,
            limit=page_size(http),
            is_descending=is_descending(http, default="asc"),
            model=model,
            metadata=wanted_metadata(http.args),
        )

    def matches(self, metadata: Mapping[str, str]) -> bool:
        return all(metadata.get(name) == value for name, value in self.metadata.items())


def wanted_metadata(args: "MultiDict[str, str]") -> dict[str, str]:
    """`metadata[key]=value`, as OpenAI's SDKs write it."""
    found = {METADATA_FILTER.fullmatch(name): value for name, value in args.items()}
    return {match[1]: value for match, value in found.items() if match is not None}


def stored_chat(service: Service, caller: Caller, chat_id: str) -> StoredAnswer[ChatMeta]:
    """A chat completion; one that was stored with its newest metadata. Raises NotFound."""
    found = stored(service, caller, STORED_CHAT, chat_id)
    if not found.meta.is_stored:
        return replace(found, endpoint=CHAT)
    if found.log is None and found.has_ended:
        kept = archived(service, caller.owner, chat_id)
        return found if kept is None else from_archive(kept)
    return found


def kept_chat(service: Service, caller: Caller, chat_id: str) -> StoredAnswer[ChatMeta]:
    """A stored completion that has ended, from the store. Raises NotFound, or Unavailable while it is not there yet."""
    wait_for_archive(service)
    found = stored_chat(service, caller, chat_id)
    if not found.meta.is_stored:
        raise NotFound(f"{chat_id[:64]!r} is not a stored chat completion: it was not sent with 'store': true.")
    if found.log is None:
        raise NotFound(f"{chat_id[:64]!r} is not stored yet: a chat completion is once it has ended.")
    return found


def from_archive(kept: ArchivedAnswer) -> StoredAnswer[ChatMeta]:
    return answer_of(STORED_CHAT, [kept.job], kept.log)


def completions(service: Service, http: Request, caller: Caller, query: ListQuery) -> dict[str, Any]:
    """A page of the caller's finished stored completions. Raises InvalidRequest or Unavailable."""
    wait_for_archive(service)
    kept = in_store_thread(_page, service.records, caller.owner, query)
    page = [reopen(service, http, from_archive(answer)).body() for answer in kept[: query.limit]]
    return list_of(page, has_more=len(kept) > query.limit)


def _page(records: Records, owner: str, query: ListQuery) -> list[ArchivedAnswer]:
    with records.read() as connection:
        after = None
        if query.after is not None and ARCHIVED_ID.fullmatch(query.after):
            after = archived_job(connection, owner, query.after)
        if query.after is not None and after is None:
            raise InvalidRequest("'after' is not the id of a stored completion of this key.", param="after")
        rows = archived_page(
            connection, owner, CHAT.kind, after=after, limit=query.limit, is_descending=query.is_descending,
            model=query.model, matches=query.matches,
        )  # fmt: skip
    return [archived_answer(row) for row in rows]


def messages(found: StoredAnswer[ChatMeta], http: Request) -> dict[str, Any]:
    """A page of the request's messages. Raises InvalidRequest."""
    sent = [stored_message(found.meta.id, number, fields) for number, fields in enumerate(found.meta.messages or ())]
    return page_of(sent, http, "a message of this completion", default="asc")


def stored_message(chat_id: str, number: int, sent: Mapping[str, Any]) -> dict[str, Any]:
    """With an id; content in parts is beside `content`, as at OpenAI."""
    content = sent.get("content")
    parts = None
    if isinstance(content, list):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        parts = [part for part in parts if part.get("type") in TEXT_PARTS]
        content = None
    known = {"content": content, "content_parts": parts, "refusal": None, "name": None}
    return known | {k: v for k, v in sent.items() if k != "content"} | {"id": f"{chat_id}-{number}"}
