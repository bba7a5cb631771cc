"""A model card with a tokenizer of bytes, for tests that need an encoder and no model."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from api.prompt.encoder import PromptEncoder
from common.wire import ModelCard

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|bos|>", "<|im_start|>", "<|im_end|>")
FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")


def bytes_tokenizer(*special: str, adds_bos: bool = False) -> Tokenizer:
    """Every byte is a token; the special ones come after them."""
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if adds_bos:
        bos = tokenizer.token_to_id("<|bos|>")
        tokenizer.post_processor = processors.TemplateProcessing("<|bos|> $A", special_tokens=[("<|bos|>", bos)])
    return tokenizer


def encoder(
    *, fim: bool = False, adds_bos: bool = False, max_model_len: int = 100, num_dimensions: int | None = None
) -> PromptEncoder:
    """With `num_dimensions`, the model makes embeddings."""
    tokenizer = bytes_tokenizer(*SPECIAL, *(FIM if fim else ()), adds_bos=adds_bos)
    card = ModelCard(
        queue="tiny",
        names=("tiny",),
        root="tiny",
        revision="1",
        architecture="llama",
        max_model_len=max_model_len,
        vocab_size=tokenizer.get_vocab_size(),
        created=1,
        tokenizer=tokenizer.to_str(),
        chat_template=TEMPLATE,
        task="generate" if num_dimensions is None else "embed",
        num_dimensions=num_dimensions,
    )
    return PromptEncoder(card)
