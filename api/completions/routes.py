"""Thin handlers of /v1/completions: parse, generate, answer; fetch again, resume."""

from typing import Any

from flask import Blueprint, Response, request

from api.completions.chunks import CompletionChunks, CompletionForm, TextCompletion, job_ids
from api.completions.prepare import prepare, submit_all
from api.gate.auth import Caller
from api.gate.body import read_body
from api.jobs.answers import Answer
from api.jobs.json_answers import about_job
from api.jobs.service import Service
from api.jobs.serving import ENDED, Wanted, asks_for_ids, owned_job, starting_after, wanted
from api.prompt.encoder import PromptEncoder
from api.schema.completions import CompletionRequest
from api.schema.parse import parse
from common.errors import NotFound
from common.redis.job_view import JobView


def completion_routes(service: Service) -> Blueprint:
    routes = Blueprint("completions", __name__)

    @routes.post("/v1/completions")
    def create() -> Any:
        answer, forms, encoder, body = asked(service)
        if body.stream:
            with_ids = asks_for_ids(request, body.stream_options)
            return answer.stream(CompletionChunks(forms, text_of(encoder)), with_ids=with_ids)
        return respond(answer, forms, encoder)

    @routes.get("/v1/completions/<answer_id>")
    def retrieve(answer_id: str) -> Any:
        jobs, forms = stored(service, service.keys.caller(request), answer_id)
        encoder = service.models.encoder(forms[0].model)
        is_stream = request.args.get("stream") == "true" or "text/event-stream" in request.headers.get("Accept", "")
        if not is_stream and any(job.state not in ENDED for job in jobs):
            return about_job(answer_id, pending(forms[0], jobs), 202)
        after = starting_after(request)
        answer = Answer(service, request, *(job.id for job in jobs), is_background=True)
        answer.is_new = False
        if is_stream:
            return answer.stream(CompletionChunks(forms, text_of(encoder)), after=after, with_ids=True)
        return about_job(answer_id, answer.body(TextCompletion(forms, text_of(encoder))))

    return routes


def asked(service: Service) -> tuple[Answer, list[CompletionForm], PromptEncoder, Wanted]:
    """Put what was sent into the line."""
    caller = service.keys.caller(request)
    raw = read_body(request)
    body = parse(CompletionRequest, raw)
    encoder = service.models.encoder(body.model)
    prepared = prepare(body, encoder, caller, service.grammars)
    forms = [form for _, form in prepared]
    ids = [generation.id for generation, _ in prepared]
    answer = Answer(service, request, *ids, is_background=bool(body.background))
    try:
        answer_id = submit_all(service, prepared, body, encoder, caller, request.headers, raw)
        if answer_id != forms[0].id:
            answer.follow(*job_ids(answer_id, len(forms)))
            _, forms = stored(service, caller, answer_id)
    except BaseException:
        answer.give_up()
        raise
    return answer, forms, encoder, wanted(body)


def respond(answer: Answer, forms: list[CompletionForm], encoder: PromptEncoder) -> Response:
    """Wait for the whole; a background answer comes at once."""
    if answer.is_background:
        answer.give_up()
        return about_job(forms[0].id, pending(forms[0], []), 202)
    return about_job(forms[0].id, answer.body(TextCompletion(forms, text_of(encoder))))


def text_of(encoder: PromptEncoder) -> Any:
    return lambda token_id: encoder.token_bytes(token_id)[0]


def stored(service: Service, caller: Caller, answer_id: str) -> tuple[list[JobView], list[CompletionForm]]:
    """All jobs of an answer and their forms. Raises NotFound when any of them is gone or is another key's."""
    first = owned_job(service, caller, answer_id)
    if first.form.get("kind") != "completion" or first.form["id"] != answer_id:
        raise NotFound("This id is not a text completion.")
    rest = job_ids(answer_id, first.form["num_prompts"])[1:]
    jobs = [first, *(owned_job(service, caller, job_id) for job_id in rest)]
    return jobs, [form_of(job) for job in jobs]


def form_of(job: JobView) -> CompletionForm:
    prompt_ids = job.form["prompt_ids"]
    return CompletionForm(**job.form | {"prompt_ids": None if prompt_ids is None else tuple(prompt_ids)})


def pending(form: CompletionForm, jobs: list[JobView]) -> dict[str, Any]:
    """A completion that is not there yet: OpenAI's object without choices, and how far it is."""
    has_begun = any(job.state != "queued" for job in jobs)
    return {
        "id": form.id,
        "object": "text_completion",
        "created": form.created,
        "model": form.model,
        "choices": [],
        "status": "in_progress" if has_begun else "queued",
        "tokens": sum(job.num_tokens for job in jobs),
    }
