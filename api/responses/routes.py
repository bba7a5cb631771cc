"""Thin handlers of /v1/responses: create, fetch, resume, cancel, forget."""

import time
from typing import Any

from flask import Blueprint, request

from api.chat.prepare import new_id, prepare
from api.gate.body import read_body
from api.jobs.json_answers import about_job
from api.jobs.service import Service
from api.jobs.serving import (
    ENDED,
    Waiting,
    Wanted,
    asks_for_ids,
    fetched,
    form_of,
    owned_job,
    put_in_line,
    starting_after,
    wanted,
    wants_stream,
)
from api.process.offload import offload
from api.reading.choice import ParseOptions
from api.responses.chunks import ResponseForm
from api.responses.prepare import chat_request
from api.schema.parse import known_only, parse
from api.schema.responses import ResponsesRequest
from common.errors import Conflict, InvalidRequest, NotFound, OmniError
from common.redis.job_view import JobView

FORGET_TRIES = 20
FORGET_PAUSE_S = 0.1


def response_routes(service: Service) -> Blueprint:
    routes = Blueprint("responses", __name__)
    add_asking(routes, service)
    add_stored(routes, service)
    return routes


def add_asking(routes: Blueprint, service: Service) -> None:
    """What takes a request: create, count."""

    @routes.post("/v1/responses")
    def create() -> Any:
        waiting, body = asked(service)
        if body.stream:
            return waiting.stream(with_ids=asks_for_ids(request, body.stream_options))
        if body.background:
            waiting.answer.give_up()
            return about_job(waiting.form.id, shown(waiting, "queued"))
        return about_job(waiting.form.id, waiting.body())

    @routes.post("/v1/responses/input_tokens")
    def input_tokens() -> Any:
        service.keys.caller(request)
        body = parse(ResponsesRequest, read_body(request))
        chat = offload(chat_request, body, context_of(service, body.previous_response_id))
        prepared = prepare(chat, service.models.encoder(body.model), service.grammars)
        return {"object": "response.input_tokens", "input_tokens": len(prepared.prompt.ids)}


def add_stored(routes: Blueprint, service: Service) -> None:
    """What is done with a response that there is: fetch, resume, list its input, cancel, forget."""

    @routes.get("/v1/responses/<response_id>")
    def retrieve(response_id: str) -> Any:
        job = stored(service, response_id)
        if wants_stream(request):
            after = resume_after()
            return fetched(service, request, job, "response").stream(after=after, with_ids=asks_for_ids(request))
        return about_job(job.id, folded(fetched(service, request, job, "response"), job))

    @routes.get("/v1/responses/<response_id>/input_items")
    def input_items(response_id: str) -> Any:
        form: ResponseForm = form_of(stored(service, response_id), "response")
        return page_of(form)

    @routes.post("/v1/responses/<response_id>/cancel")
    def cancel(response_id: str) -> Any:
        stored(service, response_id)
        had_ended = service.store.cancel(response_id) in ENDED
        job = stored(service, response_id)
        waiting = fetched(service, request, job, "response")
        if had_ended:
            return about_job(job.id, folded(waiting, job))
        waiting.answer.give_up()
        return about_job(job.id, shown(waiting, "cancelled"))

    @routes.delete("/v1/responses/<response_id>")
    def forget(response_id: str) -> Any:
        stored(service, response_id)
        service.store.cancel(response_id)
        for _ in range(FORGET_TRIES):
            if service.store.forget(response_id):
                return {"id": response_id, "object": "response.deleted", "deleted": True}
            time.sleep(FORGET_PAUSE_S)
        raise Conflict("The response is still being cancelled; try again.")


def asked(service: Service) -> tuple[Waiting, Wanted]:
    """Put what was sent into the line."""
    caller = service.keys.caller(request)
    raw = read_body(request)
    body = parse(ResponsesRequest, raw)
    check_together(body)
    context = context_of(service, body.previous_response_id)
    chat = offload(chat_request, body, context)
    encoder = service.models.encoder(body.model)
    prepared = prepare(chat, encoder, service.grammars)
    form = response_form(body, raw, context, prepared.reading)
    return put_in_line(service, request, caller, chat, prepared, form, encoder, raw), wanted(body)


def stored(service: Service, response_id: str) -> JobView:
    """The caller's own response, unless it was not to be stored."""
    job = owned_job(service, service.keys.caller(request), response_id)
    if not form_of(job, "response").store:
        raise NotFound("This response was not stored ('store': false).")
    return job


def context_of(service: Service, response_id: str | None) -> list[dict[str, Any]]:
    """All items up to the end of an earlier response. Raises InvalidRequest."""
    if response_id is None:
        return []
    try:
        job = stored(service, response_id)
    except NotFound as error:
        raise OmniError(error.message, param="previous_response_id", code="previous_response_not_found") from None
    if job.state != "finished":
        raise InvalidRequest(
            f"'previous_response_id' is {job.state}; only a finished response can be continued.",
            param="previous_response_id",
        )
    waiting = fetched(service, request, job, "response")
    output: list[dict[str, Any]] = waiting.body()["output"]
    return [*waiting.form.context, *waiting.form.input, *output]


def check_together(body: ResponsesRequest) -> None:
    if body.background and body.store is False:
        raise InvalidRequest("'background' needs the response to be stored.", param="background")


def response_form(
    body: ResponsesRequest, raw: dict[str, Any], context: list[dict[str, Any]], reading: ParseOptions
) -> ResponseForm:
    form_id = new_id("resp_")
    return ResponseForm(
        id=form_id,
        model=body.model,
        created=int(time.time()),
        store=body.store is not False,
        background=bool(body.background),
        echo=echo_of(body, raw),
        input=numbered_items(body, raw, form_id),
        context=context,
        reading=reading,
    )


def echo_of(body: ResponsesRequest, raw: dict[str, Any]) -> dict[str, Any]:
    """The request's fields that every response object repeats, with OpenAI's defaults where it has any."""
    defaults: dict[str, Any] = {
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "service_tier": "default",
        "temperature": 0.7,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
    }
    sent = known_only(body, raw)
    echo = {name: sent.get(name, default) for name, default in defaults.items()}
    reasoning = {
        "effort": body.reasoning.effort if body.reasoning else None,
        "summary": body.reasoning.summary if body.reasoning else None,
    }
    return echo | {"reasoning": reasoning}


def numbered_items(body: ResponsesRequest, raw: dict[str, Any], form_id: str) -> list[dict[str, Any]]:
    """The request's own items; each has an id, by which it can be listed."""
    if isinstance(body.input, str):
        items: list[dict[str, Any]] = [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": body.input}]}
        ]
    else:
        items = [item for item in known_only(body.input, raw["input"]) if item.get("type") != "item_reference"]
    stem = form_id.removeprefix("resp_")
    return [
        {"id": f"item_{stem}{number:03d}"} | {"type": "message"} | {k: v for k, v in item.items() if v is not None}
        for number, item in enumerate(items)
    ]


def page_of(form: ResponseForm) -> dict[str, Any]:
    """GET .../input_items: newest first unless asked otherwise, by pages."""
    items = [_listed(item) for item in [*form.context, *form.input]]
    if request.args.get("order", "desc") != "asc":
        items.reverse()
    ids = [item.get("id") for item in items]
    after = request.args.get("after")
    if after is not None and after not in ids:
        raise InvalidRequest("'after' is not the id of an item of this response.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    limit = request.args.get("limit", 20, type=int)
    page = items[start : start + max(1, min(limit, 100))]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": start + len(page) < len(items),
    }


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    """A message's content is always a list of parts."""
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        return item | {"content": [{"type": kind, "text": item["content"]}]}
    return item


def shown(waiting: Waiting, status: str) -> dict[str, Any]:
    """A response of which nothing is said yet."""
    return waiting.completion().body() | {"status": status}


def folded(waiting: Waiting, job: JobView) -> dict[str, Any]:
    """The whole response if it has ended, also by failure; else how far it is."""
    if job.state not in ENDED:
        waiting.answer.give_up()
        return shown(waiting, "queued" if job.state == "queued" else "in_progress")
    completion = waiting.completion()
    waiting.answer.fold(completion)
    return completion.body()


def resume_after() -> int:
    """How many events were seen: `sequence_number` begins at 0. OpenAI's SDKs resume by it, and need no other ids."""
    return starting_after(request) + ("starting_after" in request.args)
