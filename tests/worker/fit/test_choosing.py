"""docs/choosing.md says what `omni fit` says of an 8B model."""

import json
import re
from pathlib import Path

import pytest

from common.settings import read_settings
from worker.fit.__main__ import report

CHOOSING = (Path(__file__).resolve().parents[3] / "docs" / "choosing.md").read_text()
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 131072, "tie_word_embeddings": False, "dtype": "bfloat16",
}  # fmt: skip
CELLS = dict(re.findall(r"^\| (\d+) GB \| ([^|]+?) \|", CHOOSING, re.MULTILINE))


@pytest.mark.parametrize("gigabytes", ["16", "24"])
def test_an_8b_model_has_room_for_as_many_tokens_as_the_table_says(gigabytes: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    found = report(str(tmp_path / "config.json"), int(gigabytes) * 2**30, read_settings({}))
    tokens = {plan["quantize"]: plan["num_tokens"] for plan in found["plans"] if not plan["missing"]}  # type: ignore[attr-defined]
    said = {form: int(number.replace(",", "")) for form, number in re.findall(r"(\w+), ([\d,]+\d)", CELLS[gigabytes])}
    held = {"bf16": tokens.get(""), "bits": tokens["int8"]}
    assert said == {form: round(number, -3) for form, number in held.items() if number}
    assert "128 KiB" in CHOOSING and {plan["kv_per_token"] for plan in found["plans"]} == {128 * 1024}  # type: ignore[attr-defined]
