"""A completion request -> one generation request for each prompt.

Each prompt is a job, so that it is admitted, resumed and counted like any other request. The answer has the first
job's id, from which the other ids follow, so nothing but the jobs has to be stored.
"""

import time
from collections.abc import Iterator

from api.completions.chunks import CompletionMeta, ShownPrompt
from api.jobs.call import Call
from api.process.offload import offload
from api.prompt.encoder import PromptEncoder
from api.prompt.fim import fim_ids
from api.request.constraints import answer_grammar
from api.request.response_meta import job_ids
from api.request.sampling import TextLimits, sampling_params
from api.request.submission import Prepared, QueueOptions, new_id
from api.schema.completions import MAX_CHOICES, CompletionRequest
from common.errors import InvalidRequest
from common.grammar.check import GrammarCheck
from common.wire import GenerationRequest

DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this endpoint


def prepare(call: Call[CompletionRequest]) -> Prepared[CompletionMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    body, encoder = call.body, call.encoder
    check_together(body)
    limits = text_limits(body, call.service.grammars)
    prompts = prompt_ids_of(body, encoder)
    meta = CompletionMeta(
        id=new_id("cmpl-"),
        model=body.model,
        created=int(time.time()),
        n=body.n or 1,
        include_usage=bool(body.stream_options and body.stream_options.include_usage),
        logprobs=body.logprobs is not None,
        service_tier=call.shown_tier,
        prompts=tuple(shown_prompts(body, prompts, encoder)),
    )
    requests = [
        GenerationRequest(
            id=job_id,
            model=body.model,
            prompt_ids=prompt_ids,
            sampling=sampling_params(body, limits, encoder.card, len(prompt_ids)),
            cache_salt=call.caller.owner,
        )
        for job_id, prompt_ids in zip(job_ids(meta.id, len(prompts)), prompts, strict=True)
    ]
    return Prepared(meta, requests, QueueOptions.of(body))


def text_limits(body: CompletionRequest, grammars: GrammarCheck) -> TextLimits:
    grammar = offload(answer_grammar, body)
    return TextLimits(
        max_tokens=body.max_tokens or DEFAULT_MAX_TOKENS,
        logprobs=body.logprobs,
        grammar=None if grammar is None else grammars.compiled(grammar),
        skip_special_tokens=body.skip_special_tokens is not False,
    )


def shown_prompts(
    body: CompletionRequest, prompts: list[tuple[int, ...]], encoder: PromptEncoder
) -> Iterator[ShownPrompt]:
    sent: list[str] | list[list[int]] = body.prompt
    for prompt, prompt_ids in zip(sent, prompts, strict=True):
        text = None
        if body.echo:
            text = prompt if isinstance(prompt, str) else encoder.decode(prompt_ids)
        yield ShownPrompt(text, prompt_ids if body.return_token_ids else None)


def check_together(body: CompletionRequest) -> None:
    """Raises InvalidRequest for fields that exclude or need each other."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise InvalidRequest("'best_of' must equal 'n': every choice is returned.", param="best_of")
    if len(body.prompt) * (body.n or 1) > MAX_CHOICES:
        raise InvalidRequest(f"'n': prompts times 'n' may be {MAX_CHOICES} at most.", param="n")
    if body.echo and body.logprobs is not None:
        raise InvalidRequest("'echo' with 'logprobs': the prompt's own logprobs are not computed.", param="echo")
    if body.suffix is not None and not all(isinstance(prompt, str) for prompt in body.prompt):
        raise InvalidRequest("'suffix' needs 'prompt' as text, not as token ids.", param="suffix")


def prompt_ids_of(body: CompletionRequest, encoder: PromptEncoder) -> list[tuple[int, ...]]:
    """Token ids of each prompt."""
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
            raise encoder.card.unknown_token("prompt", max(prompt))
    return [encoder.fitting(prompt) for prompt in prompts]


def _fim_ids(prompt: str, suffix: str, encoder: PromptEncoder) -> list[int]:
    """The caller's code is plain text: the name of a special token in it is not that token."""

    def encode(text: str) -> list[int]:
        return encoder.tokenize(text, add_special_tokens=False, is_plain=True)

    return fim_ids(prompt, suffix, encoder.token_id, encode)
