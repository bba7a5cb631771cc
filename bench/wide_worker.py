"""The weightless engine of tests/chaos under a model card with a context of 128K tokens, images and a real tokenizer.

    python -m bench.wide_worker

So nothing that a request asks of the API is refused because the demo model is small.
"""

import sys
import time
from pathlib import Path
from typing import Any

from common.settings import DEMO_MODEL
from common.wire import ModelCard
from tests.chaos import fake_worker

CONTEXT = 131_072


def wide_card(names: tuple[str, ...], folder: Path = DEMO_MODEL) -> ModelCard:
    return ModelCard(
        queue=names[0],
        names=names,
        root="a weightless engine",
        revision=fake_worker.REVISION,
        architecture="fake",
        max_model_len=CONTEXT,
        vocab_size=4096,
        created=int(time.time()),
        tokenizer=(folder / "tokenizer.json").read_text(),
        chat_template=(folder / "chat_template.jinja").read_text(),
        accepts_images=True,
    )


def load(model: str, names: tuple[str, ...], config: Any, tell: Any, keep: Any = None) -> fake_worker.FakeLoaded:
    return fake_worker.FakeLoaded(wide_card(names))


if __name__ == "__main__":
    fake_worker.fake_load = load
    sys.exit(fake_worker.main())
