"""A parsed /v1/completions request -> one job per prompt, and the forms of their one answer.

One job per prompt keeps the wire as it is: each prompt is admitted, resumed and counted like any other request. The
answer bears the first job's id; the others' ids follow from it, so nothing but the jobs themselves has to be stored.
"""

import time
from dataclasses import replace
from typing import Any
from uuid import uuid4

from api.chat.prepare import sampling_params, submission
from api.completions.chunks import CompletionForm, job_ids
from api.gate.auth import Caller
from api.jobs.generation import submit
from api.jobs.service import Service
from api.process.offload import offload
from api.prompt.encoder import PromptEncoder
from api.prompt.fim import fim_ids
from api.request.constraints import answer_grammar
from api.schema.completions import MAX_CHOICES, CompletionRequest
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from common.redis.submission import Submission
from common.wire import GenerationRequest

DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this endpoint


def prepare(
    body: CompletionRequest, encoder: PromptEncoder, caller: Caller, grammars: GrammarCheck
) -> list[tuple[GenerationRequest, CompletionForm]]:
    """One request and form per prompt. Raises InvalidRequest or ContextLengthExceeded."""
    refuse_what_is_not_done(body)
    wanted = offload(answer_grammar, body)
    grammar = None if wanted is None else grammars.compiled(wanted)
    answer = CompletionForm(
        id=f"cmpl-{uuid4().hex}",
        model=body.model,
        created=int(time.time()),
        n=body.n or 1,
        num_prompts=len(body.prompt),
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=body.logprobs is not None,
    )
    ids = job_ids(answer.id, len(body.prompt))
    prompts: list[str] | list[list[int]] = body.prompt
    prepared = []
    for number, prompt_ids in enumerate(_prompts(body, encoder)):
        form = _form(body, prompts[number], prompt_ids, encoder, answer)
        prepared.append((_request(body, prompt_ids, encoder, caller, ids[number], grammar), form))
    return prepared


def refuse_what_is_not_done(body: CompletionRequest) -> None:
    """Raises InvalidRequest that names the field."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise InvalidRequest("'best_of' must equal 'n': every choice is returned.", param="best_of")
    if len(body.prompt) * (body.n or 1) > MAX_CHOICES:
        raise InvalidRequest(f"'n': prompts times 'n' may be {MAX_CHOICES} at most.", param="n")
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("'echo' with 'logprobs': the prompt's own logprobs are not computed.", param="echo")
    if body.suffix is not None and not all(isinstance(prompt, str) for prompt in body.prompt):
        raise InvalidRequest("'suffix' needs 'prompt' as text, not as token ids.", param="suffix")


def submit_all(
    service: Service, prepared: list[tuple[GenerationRequest, CompletionForm]], body: CompletionRequest,
    encoder: PromptEncoder, caller: Caller, headers: Any, raw: dict[str, Any],
) -> str:  # fmt: skip
    """Put every prompt into the line; returns the answer's id, an older one when the Idempotency-Key was used before.

    In that case jobs that are missing, because a process died between two of them, are added now.
    Raises Overloaded with none left in line.
    """
    jobs = [submission(request, form, body, encoder, caller, headers, raw) for request, form in prepared]
    answer_id = submit(service.store, jobs[0])
    ids = job_ids(answer_id, len(jobs))
    try:
        for job_id, job in zip(ids[1:], jobs[1:], strict=True):
            submit(service.store, _renamed(job, answer_id, job_id))
    except BaseException:
        if answer_id == jobs[0].request.id:
            for job_id in ids:
                service.store.cancel(job_id, message="The line had no room for all prompts of the request.")
        raise
    return answer_id


def _renamed(job: Submission, answer_id: str, job_id: str) -> Submission:
    """A further prompt's job: the Idempotency-Key is the first one's, from which all ids follow."""
    return replace(job, request=replace(job.request, id=job_id), form=job.form | {"id": answer_id}, idempotency_key="")


def _prompts(body: CompletionRequest, encoder: PromptEncoder) -> list[tuple[int, ...]]:
    """Each prompt's token ids."""
    with_special = body.add_special_tokens is not False
    texts = [prompt for prompt in body.prompt if isinstance(prompt, str)]
    if not texts:
        return offload(_checked_ids, body.prompt, encoder)
    if body.suffix is None:
        return [encoder.fitting(ids) for ids in encoder.tokenize_all(texts, encoder.most_tokens, with_special)]
    lead = encoder.tokenize("", add_special_tokens=with_special)
    return [encoder.fitting([*lead, *_fim_ids(text, body.suffix, encoder)]) for text in texts]


def _checked_ids(prompts: list[list[int]], encoder: PromptEncoder) -> list[tuple[int, ...]]:
    for prompt in prompts:
        if max(prompt) >= encoder.card.vocab_size:
            raise InvalidRequest(f"'prompt': {max(prompt)} is not a token of this model.", param="prompt")
    return [encoder.fitting(prompt) for prompt in prompts]


def _fim_ids(prompt: str, suffix: str, encoder: PromptEncoder) -> list[int]:
    """The caller's code is plain text: a token's name in it is not the token."""

    def encode(text: str) -> list[int]:
        return encoder.tokenize(text, add_special_tokens=False, is_plain=True)

    return fim_ids(prompt, suffix, encoder.token_id, encode)


def _request(
    body: CompletionRequest, prompt_ids: tuple[int, ...], encoder: PromptEncoder, caller: Caller, job_id: str,
    grammar: str | None,
) -> GenerationRequest:  # fmt: skip
    max_tokens = body.max_tokens or DEFAULT_MAX_TOKENS
    return GenerationRequest(
        id=job_id,
        model=body.model,
        prompt_ids=prompt_ids,
        sampling=sampling_params(
            body,
            encoder.card,
            len(prompt_ids),
            max_tokens,
            body.logprobs,
            grammar=grammar,
            skip_special_tokens=body.skip_special_tokens is not False,
        ),
        cache_salt=caller.owner,
    )


def _form(
    body: CompletionRequest, prompt: str | list[int], prompt_ids: tuple[int, ...], encoder: PromptEncoder,
    answer: CompletionForm,
) -> CompletionForm:  # fmt: skip
    text = None
    if body.echo:
        text = prompt if isinstance(prompt, str) else encoder.decode(prompt)
    return replace(answer, echo=text, prompt_ids=prompt_ids if body.return_token_ids else None)
