"""Train the demo model from scratch: a toy for trying the service.

python -m demo.train
"""

import argparse
import math
import os
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from demo.attention import PLAIN
from demo.batches import IGNORED, MAX_LENGTH, Batch, batches
from demo.tokenizer import END, END_OF_TEXT, PAD, save_tokenizer, train_tokenizer

MODEL_FOLDER = Path(__file__).parent / "model"


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch of the schedule, with optimizers and dialogues of its own."""

    seed: int
    steps: int
    lr: float
    num_short: int = 0  # dialogues of one question to begin with
    practice: float = 0.0  # share of dialogues that only practise what is hard


# Later stages have more of the skills that take longest to learn.
STAGES = (
    Stage(seed=1, steps=5200, lr=2.5e-3, num_short=24_000),
    Stage(seed=13, steps=1400, lr=1e-3, practice=0.5),
    Stage(seed=17, steps=800, lr=1e-3, practice=0.75),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--start-from", type=Path, help="folder of weights and tokenizer to go on from")
    parser.add_argument("--from-stage", type=int, default=1, help="leave out the stages before this one")
    parser.add_argument("--save-minutes", type=float, default=10, help="write the folder this often meanwhile")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--vocab-size", type=int, default=1920)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


def new_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A small Llama with random weights and tied embeddings."""
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    return LlamaForCausalLM(config)


def load_or_create(folder: Path | None, vocab_size: int) -> tuple[LlamaForCausalLM, Tokenizer]:
    """The model and tokenizer to train, in fp32."""
    if folder:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), tokenizer
    tokenizer = train_tokenizer(seed=0, num_dialogues=20_000, vocab_size=vocab_size)
    return new_model(tokenizer), tokenizer


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write everything a server needs: bf16 weights, configs, tokenizer, chat template."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)
    copy.load_state_dict(model.state_dict())
    ends = [tokenizer.token_to_id(END), tokenizer.token_to_id(END_OF_TEXT)]
    copy.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.token_to_id(PAD))
    copy.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)


def learning_rate(step: int, progress: float, peak: float, warm_up: int = 60) -> float:
    """Linear warm-up over some steps, then a cosine down to a fiftieth of the peak at progress 1."""
    warm = min(1.0, (step + 1) / warm_up)
    return peak * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


def new_optimizers(model: LlamaForCausalLM, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms.

    AdamW alone took far longer to learn copying from the prompt.
    """
    matrices = [weight for weight in model.model.layers.parameters() if weight.dim() == 2]
    others = [weight for weight in model.parameters() if weight.dim() == 1] + [model.model.embed_tokens.weight]
    muon = torch.optim.Muon(matrices, lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]


def answer_loss(model: LlamaForCausalLM, batch: Batch, device: str) -> torch.Tensor:
    """The summed loss on answer tokens; logits are computed only where there is a label."""
    input_ids, labels = batch.input_ids.to(device), batch.labels.to(device)
    model.set_attn_implementation(PLAIN if device == "cpu" and input_ids.shape[1] <= 448 else "sdpa")
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        hidden = model.model(input_ids=input_ids, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[labels != IGNORED])
    return cross_entropy(logits.float(), labels[labels != IGNORED], reduction="sum")


def take_step(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], batch: Batch, device: str) -> float:
    """One optimizer step; returns the mean loss per answer token."""
    loss = answer_loss(model, batch, device) / int((batch.labels != IGNORED).sum())
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def train(model: LlamaForCausalLM, tokenizer: Tokenizer, stage: Stage, args: argparse.Namespace) -> None:
    """Run one stage, printing loss and speed, saving from time to time."""
    optimizers = new_optimizers(model, stage.lr)
    started = saved = time.monotonic()
    num_tokens, mean_loss = 0, 0.0
    stream = batches(tokenizer, stage.seed, args.batch_tokens, stage.num_short, stage.practice)
    for step, batch in enumerate(islice(stream, stage.steps)):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate(step, step / stage.steps, stage.lr)
        loss = take_step(model, optimizers, batch, args.device)
        mean_loss = loss if step == 0 else 0.95 * mean_loss + 0.05 * loss
        num_tokens += int((batch.input_ids != model.config.pad_token_id).sum())
        now = time.monotonic()
        if step % 25 == 0 or step == stage.steps - 1:
            speed = num_tokens / (now - started)
            print(
                f"step {step:5d}  loss {mean_loss:.4f}  {num_tokens / 1e6:.2f}M tokens  {speed:.0f} tokens/s",
                flush=True,
            )
        if now - saved > args.save_minutes * 60:
            save(model, tokenizer, args.out)
            saved = now


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    folder = args.start_from
    for stage in STAGES[args.from_stage - 1 :]:
        torch.manual_seed(stage.seed)
        model, tokenizer = load_or_create(folder, args.vocab_size)
        model.to(args.device)
        size = sum(weight.numel() for weight in model.parameters()) / 1e6
        print(f"{size:.2f}M parameters on {args.device}, {stage}", flush=True)
        train(model, tokenizer, stage, args)
        save(model.to("cpu"), tokenizer, args.out)
        folder = args.out


if __name__ == "__main__":
    main()
