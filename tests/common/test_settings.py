"""Settings: read once, refused with one sentence that names them."""

import importlib
import io
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from common.environment import HONCHO, child_environment, log_format
from common.redis.connection import connect
from common.setting_types import REMOVED
from common.settings import DEMO_MODEL, ROOT, SMOLLM2, SettingsError, load_settings, read_settings, setting_names


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(tmp_path)  # type: ignore[arg-type]
    for name in ("OMNI_PORT", "OMNI_MODEL", "OMNI_DATA_DIR", "REDIS_URL", "OMNI_THREADS"):
        monkeypatch.delenv(name, raising=False)


def test_the_defaults_serve_the_demo_model_on_loopback() -> None:
    settings = load_settings()
    server = settings.server
    assert (server.host, server.port, server.api_keys) == ("127.0.0.1", 8000, ("sk-local",))
    assert settings.model.names == ("deepseek-v3.2", "omni-demo")
    assert settings.redis.url == f"unix://{settings.redis.socket_path}"


def test_there_are_few_settings() -> None:
    assert len(setting_names()) <= 42  # docs/decisions/0058


def test_the_readme_lists_exactly_the_settings() -> None:
    section = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    listed = [name for cell in cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert sorted(listed) == sorted(setting_names())


@pytest.mark.parametrize("name", REMOVED)
def test_a_removed_setting_is_refused_with_what_to_do(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: "1"})
    assert str(refused.value) == f"{name} is no longer a setting: {REMOVED[name]}" and REMOVED[name].endswith(".")


def test_a_removed_or_unknown_name_in_the_file_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OMNI_PROT=8000\n")
    with pytest.raises(SettingsError, match="OMNI_PROT is not a setting"):
        load_settings()


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OMNI_PORT=1\nOMNI_MODEL_NAME=file\n")
    monkeypatch.setenv("OMNI_PORT", "2")
    settings = load_settings()
    assert (settings.server.port, settings.model.names) == (2, ("file",))


@pytest.mark.parametrize(
    ("engine", "url", "key"),
    [
        ("", "", ""),
        ("vllm+http://10.0.0.5:8000", "http://10.0.0.5:8000", ""),
        ("vllm+https://:a%2Fb@host/base", "https://host/base", "a/b"),
        ("vllm+http://key@host:8000", "http://host:8000", "key"),
    ],
)
def test_the_engines_key_is_part_of_its_address(engine: str, url: str, key: str) -> None:
    model = read_settings({"OMNI_ENGINE": engine}).model
    assert (model.engine_url, model.engine_key) == (url, key)


def test_a_refused_engine_address_does_not_show_its_key() -> None:
    with pytest.raises(SettingsError, match="OMNI_ENGINE is refused") as refused:
        read_settings({"OMNI_ENGINE": "vllm+http://:secret@"})
    assert "secret" not in str(refused.value)


def test_another_model_is_served_under_the_last_part_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MODEL", "Qwen/Qwen3-0.6B")
    assert load_settings().model.names == ("Qwen3-0.6B",)


def test_redis_url_wins_over_the_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://db:6379/1")
    assert load_settings().redis.url == "redis://db:6379/1"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "OMNI_STORE_URL",
            "mysql://h/omni",
            "OMNI_STORE_URL='mysql://h/omni' is refused: it must be empty, postgresql://",
        ),
        ("OMNI_STORE_URL", "postgresql://u:secret@h:port/d", "OMNI_STORE_URL is refused: it must be empty"),
        ("OMNI_STORE_URL", "sqlite://omni.db", "OMNI_STORE_URL='sqlite://omni.db' is refused"),
        ("OMNI_WEBHOOK_HOSTS", "http://hook", "it must be empty, or hosts without a port"),
        ("OMNI_WEBHOOK_HOSTS", "hook:80", "it must be empty, or hosts without a port"),
        ("OMNI_WEBHOOK_HOSTS", "hook, 10.0.0", "it must be empty, or hosts without a port"),
        ("OMNI_WEBHOOK_HOSTS", "10.0.0.0/33", "it must be empty, or hosts without a port"),
        ("OMNI_MODEL_NAME", "a,omni-webhooks", "'omni-webhooks'"),
        ("OMNI_PORT", "eighty", "OMNI_PORT='eighty'"),
        ("OMNI_PORT", "70000", "OMNI_PORT='70000'"),
        ("OMNI_MAX_QUEUE", "0", "OMNI_MAX_QUEUE='0'"),
        ("OMNI_DTYPE", "int3", "OMNI_DTYPE='int3'"),
        ("OMNI_API_KEYS", " , ", "OMNI_API_KEYS must hold"),
        ("OMNI_CORS_ORIGINS", "null", "OMNI_CORS_ORIGINS: 'null' is no origin"),
        ("OMNI_CORS_ORIGINS", "http://localhost, chat.example", "OMNI_CORS_ORIGINS: 'chat.example' is no origin"),
        ("OMNI_CORS_ORIGINS", "https://chat.example/app", "OMNI_CORS_ORIGINS: 'https://chat.example/app' is no origin"),
        ("OMNI_CORS_ORIGINS", "http://a@chat.example", "OMNI_CORS_ORIGINS: 'http://a@chat.example' is no origin"),
        ("OMNI_CORS_ORIGINS", "http://[::1", "OMNI_CORS_ORIGINS: 'http://[::1' is no origin"),
        ("OMNI_DATA_DIR", "/" + "x" * 120, "OMNI_DATA_DIR is too long"),
        ("OMNI_MAX_MEMORY", "lots", "OMNI_MAX_MEMORY='lots'"),
        ("OMNI_MAX_MEMORY", "1mb", "OMNI_MAX_MEMORY='1mb'"),
        ("OMNI_PROT", "8000", "OMNI_PROT is not a setting; did you mean OMNI_PORT?"),
        ("OMNI_X", "1", "OMNI_X is not a setting; .env.example lists them all."),
        ("OMNI_HOST", "", "OMNI_HOST='' is refused: it must not be empty."),
        ("OMNI_DATA_DIR", " ", "OMNI_DATA_DIR=' ' is refused: it must not be empty."),
        (
            "OMNI_ENGINE",
            "vllm+http://[::1",
            "OMNI_ENGINE='vllm+http://[::1' is refused: it must be empty or vllm+http://",
        ),
    ],
)
def test_a_bad_value_is_refused_and_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_settings()


@pytest.mark.parametrize("name", ["OMIN_MODEL", "omni_model", "ONMI_MODLE"])
def test_a_name_with_omni_misspelled_is_refused_and_not_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SettingsError, match=f"{name} is not a setting; did you mean OMNI_MODEL?"):
        load_settings()


@pytest.mark.parametrize(("name", "near"), [("REDIS_URI", "REDIS_URL"), ("OTEL_EXPORTER_OTLP_ENDPOINTS", "OTEL_EX")])
def test_in_the_file_a_name_that_is_nearly_a_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"HF_TOKEN=x\nOPENAI_API_KEY=y\nMINIO_PORT=1\n{name}=z\n")
    with pytest.raises(SettingsError, match=rf"\.env: {name} is not a setting; did you mean {near}"):
        load_settings()


def test_names_of_other_programs_are_theirs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("HF_TOKEN=x\nOPENAI_API_KEY=y\n")
    for name in ("MONI_TOKEN", "REDIS_URI", "MINIO_PORT"):
        monkeypatch.setenv(name, "x")
    load_settings()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("OMNI_PORT", "eighty", "a whole number from 1 to 65535"),
        ("OMNI_PORT", "", "a whole number from 1 to 65535"),
        ("OMNI_SPECULATE", "17", "a whole number from 0 to 16"),
        ("OMNI_THREADS", "auto", "empty or a whole number from 1 to 1024"),
        ("OMNI_MAX_MODEL_LEN", "8", "empty or a whole number of at least 16"),
        ("OMNI_STEP_TIMEOUT", "0", "a number above 0"),
        ("OMNI_QUANTIZE", "off", "empty, int8, int4 or fp8"),
        ("OMNI_DEVICE", "gpu", "auto, cpu, cuda or cuda:N"),
        ("OMNI_ENGINE", "http://x", "empty or vllm+http://host:port, with a key vllm+http://:KEY@host:port"),
    ],
)
def test_a_refusal_says_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({name: value})
    assert str(refused.value) == f"{name}={value!r} is refused: it must be {allowed}."


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (b"OMNI_PORT=1\nnot a setting\n", ".env, line 2 is not NAME=value"),
        (b"OMNI_PORT\n", ".env, line 1 is not NAME=value"),
        (b"# keys\nOMNI_API_KEYS='sk-1\nOMNI_PORT=2\n", ".env, line 2 is not NAME=value, or its quote is not closed"),
        ("OMNI_PORT=1\n".encode("utf-16"), ".env cannot be read as UTF-8 text"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path: Path, file: bytes, said: str) -> None:
    (tmp_path / ".env").write_bytes(file)
    with pytest.raises(SettingsError, match=re.escape(said)):
        load_settings()


def test_a_file_may_begin_with_a_byte_order_mark_and_hold_comments(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("OMNI_PORT=1 # a comment\n\nexport OMNI_MODEL_NAME='a'\n", encoding="utf-8-sig")
    settings = load_settings()
    assert (settings.server.port, settings.model.names) == (1, ("a",))


def test_a_file_may_be_a_pipe_from_a_password_manager(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".env")
    writer = threading.Thread(target=(tmp_path / ".env").write_text, args=("OMNI_PORT=1\n",))
    writer.start()
    assert load_settings().server.port == 1
    writer.join()


@pytest.mark.parametrize(
    "url",
    [
        "http://:secret@x", "localhost:6379", "redis", "redis://:secret/@x", "redis://x:70000", "redis://x?db=secret",
        "redis+sentinel://x:26379", "redis+sentinel://x:secret/main", "redis+sentinel:///main",
        "redis+sentinel://x/main/secret",
    ],
)  # fmt: skip
def test_a_malformed_redis_url_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError, match=r"^REDIS_URL is not a Redis address; write redis://") as refused:
        load_settings()
    assert "secret" not in str(refused.value)


def test_a_sentinel_without_a_port_gets_the_default_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis+sentinel://:password@one,[::1]:1/main/2")
    pool = connect(load_settings().redis.url).connection_pool
    addresses = [sentinel.connection_pool.connection_kwargs for sentinel in pool.sentinel_manager.sentinels]
    assert [(address["host"], address["port"]) for address in addresses] == [("one", 26379), ("::1", 1)]


@pytest.mark.parametrize(
    ("text", "number"),
    [("512mb", 512 * 2**20), ("2GB", 2**31), ("0.5tb", 2**39), ("23.5gb", 47 * 2**29), ("16777216", 2**24), ("", None)],
)
def test_memory_is_given_in_bytes_or_with_a_unit(
    monkeypatch: pytest.MonkeyPatch, text: str, number: int | None
) -> None:
    monkeypatch.setenv("OMNI_MAX_MEMORY", text)
    assert load_settings().redis.max_memory == number


def test_max_memory_is_refused_with_redis_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MAX_MEMORY", "1gb")
    monkeypatch.setenv("REDIS_URL", "redis://db:6379/1")
    with pytest.raises(SettingsError, match="OMNI_MAX_MEMORY is for the embedded Valkey"):
        load_settings()


def test_logs_are_json_unless_they_reach_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv(HONCHO, raising=False)
    assert log_format() == "json"
    monkeypatch.setenv(HONCHO, "api.1")
    assert log_format() == "plain"


def test_a_childs_environment_has_the_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_PORT", "1")
    environment = child_environment(OMNI_PORT=None, OMNI_HOST="::1")
    assert "OMNI_PORT" not in environment and environment["OMNI_HOST"] == "::1"


@pytest.mark.parametrize("module", ["api.server", "common.process.embedded", "common.process.supervise"])
def test_a_process_with_a_bad_setting_ends_with_one_sentence(module: str) -> None:
    words = ["api"] if module == "api.server" else ["x", "--", "true"]
    command = [sys.executable, "-m", module, *words]
    ended = subprocess.run(command, cwd=ROOT, env={"OMNI_PORT": "x", "PATH": ""}, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith("configuration: OMNI_PORT='x' is refused") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"OMNI_TENSOR_PARALLEL": "2", "OMNI_DRAFT_MODEL": "m"}, "does not go with OMNI_DRAFT_MODEL."),
        ({"OMNI_TENSOR_PARALLEL": "2", "OMNI_KV_DTYPE": "fp8"}, "does not go with OMNI_KV_DTYPE."),
        (
            {"OMNI_ENGINE": "vllm+http://x:1", "OMNI_QUANTIZE": "int8", "OMNI_SPECULATE": "4"},
            "OMNI_ENGINE does not go with OMNI_QUANTIZE and OMNI_SPECULATE: ",
        ),
        ({"OMNI_DEVICE": "cpu", "OMNI_KV_DTYPE": "fp8"}, "OMNI_KV_DTYPE=fp8 needs a GPU, and OMNI_DEVICE is cpu."),
        ({"OMNI_DEVICE": "cpu", "OMNI_EXPERTS": "gpu"}, "OMNI_EXPERTS=gpu needs a GPU, and OMNI_DEVICE is cpu."),
        ({"OMNI_TENSOR_PARALLEL": "2", "OMNI_EXPERTS": "ram"}, "does not go with OMNI_EXPERTS."),
    ],
)
def test_settings_that_do_not_go_together_are_named_and_no_others(values: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        read_settings(values)


def test_adapters_are_names_and_folders_of_their_own() -> None:
    found = read_settings({"OMNI_ADAPTERS": "sql=/models/sql, me/de.v1 = models/de,"}).model.adapters
    assert found == (("sql", "/models/sql"), ("me/de.v1", "models/de"))
    for wrong in ("sql", "sql=", "=/models/sql", "a b=/x", "sql=/x,sql=/y", "..=/x", "a/./b=/x", "/a=/x"):
        with pytest.raises(SettingsError, match="OMNI_ADAPTERS=.* is refused: write NAME=FOLDER"):
            read_settings({"OMNI_ADAPTERS": wrong})
    with pytest.raises(SettingsError, match="OMNI_ADAPTERS names 'omni-demo', which is a model's id already"):
        read_settings({"OMNI_ADAPTERS": "omni-demo=/x"})
    for other in ({"OMNI_ENGINE": "vllm+http://x:1"}, {"OMNI_TENSOR_PARALLEL": "2"}):
        with pytest.raises(SettingsError, match="does not go with OMNI_ADAPTERS"):
            read_settings({"OMNI_ADAPTERS": "sql=/x", **other})


def test_the_default_model_is_smollm2_where_its_package_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small = str(DEMO_MODEL)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if not (Path(path) / SMOLLM2[0]).exists()])
    importlib.invalidate_caches()
    assert read_settings({}).model.source == read_settings({"OMNI_MODEL": "demo"}).model.source == small
    package = tmp_path / SMOLLM2[0]
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this is not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert read_settings({}).model.source == small  # without its file
    (package / SMOLLM2[1]).touch()
    model = read_settings({}).model
    assert model.source == str(package / SMOLLM2[1])
    assert model.names == ("deepseek-v3.2", "omni-demo")
    assert read_settings({"OMNI_MODEL": "demo"}).model.source == small


@pytest.mark.parametrize(
    "source, name",
    [("/models/Qwen3-8B-Q4_K_M.gguf", "Qwen3-8B-Q4_K_M"), ("big-00001-of-00003.gguf", "big"), ("a/b.c/", "b.c")],
)
def test_a_files_name_is_the_id_that_clients_use(source: str, name: str) -> None:
    assert read_settings({"OMNI_MODEL": source}).model.names == (name,)
