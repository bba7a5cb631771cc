"""Train and save the tokenizer: byte-level BPE, digits one by one, ChatML marks as special tokens."""

from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from demo.corpus import TEMPLATE, dialogues, render

END_OF_TEXT, START, END, PAD = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"
SPECIAL_TOKENS = [END_OF_TEXT, START, END, PAD]
# Not special, so that decoding keeps them for the parser of tool calls.
TOOL_MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>"]
# A word is the same token after a space, a quote or a line break, so that the model can copy it in one step.
PIECES = r"\p{L}+|\p{N}|\n| ?[^\s\p{L}\p{N}]+|[^\S\n]+"


def train_tokenizer(seed: int, num_dialogues: int, vocab_size: int) -> Tokenizer:
    """A tokenizer for the corpus; any other text falls back to bytes."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(TOOL_MARKS),
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (render(dialogue) for dialogue in islice(dialogues(seed), num_dialogues))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens(TOOL_MARKS)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the files that both tokenizers and transformers load."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[END_OF_TEXT, START],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
