"""A model that cannot be loaded: one sentence that says what to change, and another try only if that may help."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from httpx2 import ConnectError, Request, Response
from huggingface_hub.errors import HfHubHTTPError

from common.settings import read_settings
from tests.models import save_model
from tests.worker.models.damaged import cut, failure, set_config
from worker import follower
from worker.load_failure import give_up
from worker.ranks import Ranks


@pytest.mark.parametrize(
    "damage, said",
    [
        (cut, "cannot be read"),
        (
            lambda folder: set_config(folder, vocab_size=400),
            "other shapes than its config.json says, the first is lm_head.weight: [320, 32] in the file, "
            "[400, 32] by config.json",
        ),
        (lambda folder: set_config(folder, hidden_act="nope"), "KeyError: 'nope'"),
        (lambda folder: set_config(folder, num_attention_heads=0), "ZeroDivisionError"),
        (lambda folder: set_config(folder, hidden_size="big"), "Field 'hidden_size' expected int"),
        (lambda folder: (folder / "config.json").write_text("[]"), "`model_type` key in its config.json"),
        (lambda folder: set_config(folder, model_type=["llama"]), "a name such as 'llama'"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "added_tokens"),
    ],
)
def test_files_that_are_damaged_or_do_not_fit_say_which(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = save_model(tmp_path, "llama")
    damage(folder)
    assert said in failure(folder)


def test_a_type_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    folder = save_model(tmp_path, "llama")
    set_config(folder, model_type="nope")
    assert failure(folder).startswith("its config.json names the model_type 'nope', which transformers 5.")


def status_of(code: int) -> HfHubHTTPError:
    return HfHubHTTPError("no", response=Response(code, request=Request("GET", "https://hub")))


def because(cause: Exception) -> OSError:
    """The error as transformers raises it."""
    error = OSError("We couldn't connect to the hub")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error, passes",
    [
        (because(status_of(503)), True),
        (because(status_of(429)), True),
        (because(status_of(404)), False),
        (because(ConnectError("no route")), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (torch.distributed.DistNetworkError("the other rank is gone"), True),
        (MemoryError(), False),
        (NotImplementedError("aten::to"), False),
        (TypeError("cannot assign"), False),
    ],
)
def test_only_passing_faults_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, passes: bool
) -> None:
    monkeypatch.setattr("worker.load_failure.is_offline_mode", lambda: False)
    with pytest.raises(SystemExit) as ended:
        give_up("OMNI_MODEL=some/model", error)
    assert ended.value.code == (75 if passes else 2)
    if not passes:
        assert capsys.readouterr().err.startswith("configuration: OMNI_MODEL=some/model cannot be loaded: ")


def test_a_rank_that_cannot_load_its_share_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_nothing(*args: object) -> None:
        raise ImportError("No module named 'torchao'", name="torchao")

    handlers: list[int] = []
    monkeypatch.setattr(follower.signal, "signal", lambda number, _: handlers.append(number))
    monkeypatch.setattr(follower, "load", load_nothing)
    with pytest.raises(SystemExit) as ended:
        follower.run(read_settings({}), Ranks())
    assert ended.value.code == 2
