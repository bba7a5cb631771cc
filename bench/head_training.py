"""Trains an EAGLE-3 head for the demo model, to measure heads with: `python -m bench.head_training FOLDER`.

The model reads dialogues of its own training text; the head learns its distribution of the token after the next, from
the hidden states of three layers. As in use, it also reads its own states in the place of the model's: for each of
NUM_STEPS guesses in a row, keys of earlier positions stay those of the model's states.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from demo.corpus import dialogues, render
from demo.train import MODEL_FOLDER
from worker.models.features import FeatureTap

LAYERS = (1, 2, 4)  # of five, counted by their inputs
NUM_STEPS = 2
LENGTH, ROWS = 128, 8  # tokens and sequences of a batch
LEARNING_RATE = 2e-3
Pair = tuple[torch.Tensor, torch.Tensor]


class TrainedHead(nn.Module):
    """The modules, with the names that the checkpoint gets."""

    def __init__(self, config: LlamaConfig, lm_head: torch.Tensor) -> None:
        super().__init__()
        width, dim = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.config = config
        self.fc = nn.Linear(3 * width, width, bias=False)
        sizes = {"q_proj": heads * dim, "k_proj": kv_heads * dim, "v_proj": kv_heads * dim}
        attention = {name: nn.Linear(2 * width, size, bias=False) for name, size in sizes.items()}
        mlp = {name: nn.Linear(width, config.intermediate_size, bias=False) for name in ("gate_proj", "up_proj")}
        self.midlayer = nn.ModuleDict(
            {
                "self_attn": nn.ModuleDict(attention | {"o_proj": nn.Linear(heads * dim, width, bias=False)}),
                "mlp": nn.ModuleDict(mlp | {"down_proj": nn.Linear(config.intermediate_size, width, bias=False)}),
                "hidden_norm": LlamaRMSNorm(width, config.rms_norm_eps),
                "input_layernorm": LlamaRMSNorm(width, config.rms_norm_eps),
                "post_attention_layernorm": LlamaRMSNorm(width, config.rms_norm_eps),
            }
        )
        self.norm = LlamaRMSNorm(width, config.rms_norm_eps)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.lm_head.weight.data.copy_(lm_head)
        self.rotary = LlamaRotaryEmbedding(config)

    def start_from(self, layer: nn.Module) -> None:
        """The model's last layer, over the hidden states that it reads, is nearer to a head than random numbers."""
        width = self.config.hidden_size
        with torch.no_grad():
            self.fc.weight[:, : 2 * width] = 0
            self.fc.weight[:, 2 * width :] = torch.eye(width)
            for name, weight in layer.named_parameters():
                name = name.replace("input_layernorm", "hidden_norm")
                own = self.midlayer.get_parameter(name)
                own[..., own.shape[-1] - weight.shape[-1] :] = weight

    def forward(self, embedded: torch.Tensor, features: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits [B, T - step, vocab] after each number of own states read. `embedded` [B, T, width]: each the token
        after its features [B, T, 3 * width]."""
        cos, sin = self.rotary(embedded, torch.arange(embedded.shape[1])[None])
        before, pairs = self.fc(features), list[Pair]()
        for step in range(NUM_STEPS):
            if step:  # position p reads the state of p - 1
                embedded, before = embedded[:, 1:], before[:, :-1]
                cos, sin = cos[:, 1:], sin[:, 1:]
            part = self.midlayer.get_submodule
            both = torch.cat([part("input_layernorm")(embedded), part("hidden_norm")(before)], dim=-1)
            query, key, value = (self._heads(both, name) for name in ("q_proj", "k_proj", "v_proj"))
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            pairs.append((self._repeated(key), self._repeated(value)))
            attended = attend(query, pairs).transpose(1, 2).flatten(2)
            hidden = before + part("self_attn.o_proj")(attended)
            inner = part("post_attention_layernorm")(hidden)
            before = hidden + part("mlp.down_proj")(F.silu(part("mlp.gate_proj")(inner)) * part("mlp.up_proj")(inner))
            yield self.lm_head(self.norm(before))

    def _heads(self, both: torch.Tensor, name: str) -> torch.Tensor:
        projected: torch.Tensor = self.midlayer.get_submodule(f"self_attn.{name}")(both)
        return projected.view(*both.shape[:-1], -1, self.config.head_dim).transpose(1, 2)

    def _repeated(self, heads: torch.Tensor) -> torch.Tensor:
        return heads.repeat_interleave(self.config.num_attention_heads // heads.shape[1], dim=1)


def attend(query: torch.Tensor, pairs: list[Pair]) -> torch.Tensor:
    """[B, heads, T - step, dim]. The query at index i sees the first pairs up to i, and index i of the later ones.

    Index i stands for position i + step, so these are the positions up to the query's.
    """
    (key, value), own = pairs[0], pairs[1:]
    num, scale = query.shape[2], query.shape[-1] ** -0.5
    hidden = torch.arange(key.shape[2]) > torch.arange(num)[:, None]
    scores = [(query @ key.transpose(2, 3) * scale).masked_fill(hidden, float("-inf"))]
    scores += [(query * keys[:, :, :num]).sum(-1, keepdim=True) * scale for keys, _ in own]
    weights = torch.cat(scores, dim=-1).softmax(-1)
    out = weights[..., : key.shape[2]] @ value
    for at, (_, values) in enumerate(own, key.shape[2]):
        out = out + weights[..., at : at + 1] * values[:, :, :num]
    return out


def windows(model_folder: Path, seed: int) -> Iterator[torch.Tensor]:
    """Batches of token ids [ROWS, LENGTH + 1], endless."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    flat: list[int] = []
    for dialogue in dialogues(seed):
        flat += tokenizer.encode(render(dialogue), add_special_tokens=False)
        if len(flat) >= (size := ROWS * (LENGTH + 1)):
            yield torch.tensor(flat[:size]).view(ROWS, -1)
            flat = []


class Reader:
    """The model as it reads whole sequences."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.embedding: torch.Tensor = self.model.get_input_embeddings().weight.detach()

    @torch.no_grad()
    def read(self, token_ids: torch.Tensor) -> Pair:
        """[B, T] -> features [B, T, 3 * width] and log-probabilities [B, T, vocab]."""
        features, logprobs = [], []
        for row in token_ids:
            tap = FeatureTap(LAYERS, self.model.config.num_hidden_layers)
            with tap.hooked(self.model):
                logprobs.append(self.model(input_ids=row[None], use_cache=False).logits[0].log_softmax(-1))
            assert tap.features is not None
            features.append(tap.features)
        return torch.stack(features), torch.stack(logprobs)


def train(head: TrainedHead, reader: Reader, batches: Iterator[torch.Tensor], seconds: float) -> None:
    optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    started = time.monotonic()
    for number, token_ids in enumerate(batches):
        share = (time.monotonic() - started) / seconds
        if share >= 1:
            return
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1, (number + 1) / 20) * (1 - share)
        features, logprobs = reader.read(token_ids)
        embedded = F.embedding(token_ids[:, 1:], reader.embedding)
        loss, right = torch.zeros(()), []
        for step, logits in enumerate(head(embedded, features[:, :-1])):
            wanted = logprobs[:, 1 + step :]
            loss = loss - 0.8**step * (wanted.exp() * logits.log_softmax(-1)).sum(-1).mean()
            right.append((logits.argmax(-1) == wanted.argmax(-1)).float().mean().item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
        if number % 20 == 0:
            print(f"{number} batches, loss {loss.item():.3f}, right {[round(each, 3) for each in right]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="gets the head")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--resume", action="store_true", help="go on from the head in the folder")
    args = parser.parse_args()
    torch.manual_seed(args.resume)
    reader = Reader(MODEL_FOLDER)
    own = json.loads((MODEL_FOLDER / "config.json").read_text())
    config = LlamaConfig.from_dict(own | {"num_hidden_layers": 1, "tie_word_embeddings": False})
    head = TrainedHead(config, reader.embedding)
    head.start_from(reader.model.model.layers[-1])
    file = args.folder / "model.safetensors"
    if args.resume:
        head.load_state_dict(load_file(file), strict=False)
    train(head, reader, windows(MODEL_FOLDER, seed=1 + args.resume), args.minutes * 60)
    args.folder.mkdir(parents=True, exist_ok=True)
    save_file(head.state_dict(), file)
    fields = {"architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": config.vocab_size}
    fields["eagle_aux_hidden_state_layer_ids"] = list(LAYERS)
    (args.folder / "config.json").write_text(json.dumps(config.to_dict() | fields))


if __name__ == "__main__":
    main()
