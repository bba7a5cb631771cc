"""What `omni models show` and `omni fit` are told of a table."""

from pathlib import Path

from common.settings import read_settings
from tests.models import save_encoder
from worker.unloaded.__main__ import report


def test_every_model_of_the_table_is_told_and_a_fault_is_one_of_its_fields(tmp_path: Path) -> None:
    table = tmp_path / "models.toml"
    save_encoder(tmp_path / "bert")
    text = "".join(f'[[model]]\nid = "{name}"\nmodel = "{name}"\n' for name in ("demo", "bert", "./none"))
    table.write_text(text.replace('id = "./none"', 'id = "none"'))
    settings = read_settings({"OMNI_MODELS": str(table), "OMNI_DEVICE": "cpu", "OMNI_MAX_MODEL_LEN": "512"})
    found = report(settings, settings.models, None)
    demo, bert, none = found["models"]
    assert (demo["task"], demo["max_model_len"], demo["file_format"]) == ("generate", 512, "safetensors")
    assert 0 < demo["size"] < demo["weights"] and demo["kv_per_token"] > 0
    assert (bert["task"], bert["max_model_len"], bert["kv_per_token"]) == ("embed", 64, 0)
    assert none == {
        "id": "none",
        "fault": f"model={tmp_path}/none cannot be loaded: there is no such folder, and a Hugging Face id looks like "
        "owner/name.",
    }
    assert not found["machine"]["is_gpu"] and found["machine"]["total"] > 0
    (of_a_gpu,) = report(settings, settings.models[:1], 24 * 2**30)["models"]
    assert of_a_gpu["workspace"] > demo["workspace"] == 0
