"""Accuracy by skill, by greedy decoding, on wordings that were never trained on.

python -m demo.evaluate
"""

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from demo.corpus import EVALUATED, evaluation_dialogue, render_prompt
from demo.dialogue import Dialogue
from demo.tokenizer import PAD
from demo.train import MODEL_FOLDER

CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>")


@dataclass(slots=True)
class Case:
    """One prompt with the answer that the model gave; num_tokens counts the answer."""

    dialogue: Dialogue
    prompt_ids: list[int]
    answer: str = ""
    num_tokens: int = 0


def parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_exact(case: Case) -> bool:
    expected = case.dialogue.messages[-1]["content"]
    return case.answer.strip() in (expected, *case.dialogue.accepted)


def is_same_json(case: Case) -> bool:
    return bool(parsed(case.answer) == json.loads(case.dialogue.messages[-1]["content"]))


def is_same_call(case: Case) -> bool:
    """Exactly one call, with the right name and arguments."""
    function = case.dialogue.messages[-1]["tool_calls"][0]["function"]
    match = CALL.fullmatch(case.answer.strip())
    return match is not None and parsed(match[1]) == function


def is_good_story(case: Case) -> bool:
    """A complete story on the requested subject, of at least 300 tokens unless a short one was requested."""
    ask = case.dialogue.messages[-2]["content"]
    asked_for = re.search(r"about an? (\w+)", ask)
    named = re.search(r"there was an? \w+ (\w+) named (\w+)\.", case.answer)
    if named is None or not case.answer.endswith("The end."):
        return False
    long_enough = case.num_tokens >= (40 if "short" in ask else 300)
    return long_enough and (asked_for is None or asked_for[1] == named[1]) and case.answer.count(named[2]) >= 4


CHECKS: dict[str, Callable[[Case], bool]] = {"JSON": is_same_json, "tool call": is_same_call, "stories": is_good_story}


def is_right(case: Case) -> bool:
    return CHECKS.get(case.dialogue.skill, is_exact)(case)


@torch.inference_mode()
def answer_all(model: LlamaForCausalLM, tokenizer: Tokenizer, cases: list[Case], rows: int = 50) -> None:
    """Fill in the answers, greedily, some rows at a time, padded on the left."""
    pad: int = tokenizer.get_vocab()[PAD]
    ordered = sorted(cases, key=lambda case: (case.dialogue.skill == "stories", len(case.prompt_ids)))
    for start in range(0, len(ordered), rows):
        group = ordered[start : start + rows]
        length = max(len(case.prompt_ids) for case in group)
        input_ids = torch.tensor([[pad] * (length - len(case.prompt_ids)) + case.prompt_ids for case in group])
        longest = 800 if group[-1].dialogue.skill == "stories" else 120
        output = model.generate(
            input_ids=input_ids, attention_mask=input_ids.ne(pad), do_sample=False, max_new_tokens=longest
        )
        for case, row in zip(group, output[:, length:].tolist(), strict=True):
            case.num_tokens = sum(token != pad for token in row)
            case.answer = tokenizer.decode(row, skip_special_tokens=True)


def make_cases(tokenizer: Tokenizer, skill: str, count: int, seed: int) -> list[Case]:
    rng = Random(f"{skill} {seed}")
    drawn = [evaluation_dialogue(rng, skill) for _ in range(count)]
    return [Case(dialogue, tokenizer.encode(render_prompt(dialogue)).ids) for dialogue in drawn]


def print_table(cases: list[Case]) -> None:
    print(f"| {'skill':20} | {'cases':>5} | {'right':>6} |\n|{'-' * 22}|{'-' * 6}:|{'-' * 7}:|")
    for skill, verdicts in by_skill(cases).items():
        print(f"| {skill:20} | {len(verdicts):5} | {sum(verdicts) / len(verdicts):6.1%} |")


def by_skill(cases: list[Case]) -> dict[str, list[bool]]:
    """Verdicts by skill, in the order of the cases."""
    table: dict[str, list[bool]] = {}
    for case in cases:
        table.setdefault(case.dialogue.skill, []).append(is_right(case))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--skills", nargs="+", default=EVALUATED, choices=EVALUATED, metavar="SKILL")
    parser.add_argument("--count", type=int, default=50, help="cases for each skill")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print accuracy by skill as JSON")
    parser.add_argument("--show-wrong", type=int, default=0, help="print up to this many wrong answers for each skill")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    cases = [case for skill in args.skills for case in make_cases(tokenizer, skill, args.count, args.seed)]
    answer_all(model, tokenizer, cases)
    if args.json:
        print(json.dumps({skill: sum(right) / len(right) for skill, right in by_skill(cases).items()}))
    else:
        print_table(cases)
    show_wrong(cases, args.show_wrong)


def show_wrong(cases: list[Case], at_most: int) -> None:
    """Print wrong answers with the expected ones."""
    shown: dict[str, int] = {}
    for case in cases:
        skill = case.dialogue.skill
        if is_right(case) or shown.get(skill, 0) >= at_most:
            continue
        shown[skill] = shown.get(skill, 0) + 1
        last = case.dialogue.messages[-1]
        expected = last["content"] or last["tool_calls"][0]["function"]
        print(f"[{skill}] {case.dialogue.messages[-2]['content']!r}")
        print(f"   said     {case.answer!r}\n   expected {expected!r}")


if __name__ == "__main__":
    main()
