import re
import shutil
from pathlib import Path

import pytest

from common.model.source import table_fault
from common.setting_types import DEMO_MODEL
from common.settings import ModelSettings
from common.shelf.keep_alive import parse_keep_alive
from common.shelf.table import PARSERS, TableFault, TableModel, parse_table, read_table

TABLE = Path("/tables/models.toml")


def one(text: str, path: Path = TABLE) -> TableModel:
    (model,) = parse_table(f"[[model]]\n{text}", path)
    return model


def fault_of(text: str) -> str:
    with pytest.raises(TableFault) as caught:
        parse_table(text, TABLE)
    assert str(caught.value).startswith(str(TABLE))
    return str(caught.value).removeprefix(str(TABLE))


def test_a_model_has_all_keys_of_the_table() -> None:
    text = """
        ids = ["qwen3-8b", "default"]
        model = "/models/Qwen3-8B"
        dtype = "bfloat16"
        quantize = "int4"
        max_model_len = 8192
        adapters = { sql = "/models/sql-lora" }
        pin = true
        keep_alive = "10m"
        draft = "Qwen/Qwen3-0.6B"
    """
    assert one(text) == TableModel(
        ids=("qwen3-8b", "default"),
        source="/models/Qwen3-8B",
        dtype="bfloat16",
        quantize="int4",
        max_model_len=8192,
        adapters=(("sql", "/models/sql-lora"),),
        is_pinned=True,
        keep_alive_s=600.0,
        draft="Qwen/Qwen3-0.6B",
    )


def test_two_keys_are_enough() -> None:
    assert one('id = "a"\nmodel = "gpt2"') == TableModel(("a",), "gpt2")


def test_models_keep_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[[model]]\nid = "b"\nmodel = "demo"\n[[model]]\nid = "a"\nmodel = "demo"\n')
    assert [model.queue for model in read_table(path)] == ["b", "a"]


def test_what_a_model_does_not_say_the_settings_say() -> None:
    base = ModelSettings.model_validate({"OMNI_DTYPE": "float32", "OMNI_MAX_MODEL_LEN": "512", "OMNI_THREADS": "2"})
    settings = one('id = "a"\nmodel = "demo"\nmax_model_len = 64').settings_over(base)
    assert (settings.names, settings.queue, settings.source) == (("a",), "a", str(DEMO_MODEL))
    assert (settings.dtype, settings.max_model_len, settings.threads) == ("float32", 64, 2)


def test_relative_paths_count_from_the_folder_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "qwen").mkdir()
    text = 'id = "a"\nmodel = "qwen"\nadapters = { b = "loras/b" }'
    model = one(text, tmp_path / "models.toml")
    assert model.source == str(tmp_path / "qwen")
    assert model.adapters == (("b", str(tmp_path / "loras/b")),)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("owner/name", "owner/name"),
        ("gpt2", "gpt2"),
        ("./owner/name", "/tables/owner/name"),
        ("sub/small.gguf", "/tables/sub/small.gguf"),
        ("demo", str(DEMO_MODEL)),
        ("~/models/a", str(Path.home() / "models/a")),
        ("a" * 300, "a" * 300),
    ],
)
def test_a_source_is_a_path_or_a_hub_id(written: str, meant: str) -> None:
    assert one(f'id = "a"\nmodel = "{written}"').source == meant


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", " has no [[model]]; add one with omni models add."),
        ('[model]\nid = "a"', ": model is one table; write [[model]], with two pairs of brackets, above each model."),
        ('[[models]]\nid = "a"', ": models stands outside the models; write all keys below a [[model]]."),
        ("[[model]]\nid = a", " is not TOML: Invalid value (at line 2, column 6); correct that line."),
        (
            '[[model]]\nmodel = "demo"',
            ', [[model]] 1: there is no id; add the name that clients write, such as id = "qwen3-8b".',
        ),
        (
            '[[model]]\nid = "a"',
            ", [[model]] a: there is no model; name a folder, a .gguf file, a Hugging Face id such as owner/name, "
            "or demo.",
        ),
        ('[[model]]\nid = "a"\nids = ["a"]', ", [[model]] a: id and ids are both there; keep one of them."),
        ('[[model]]\nid = "a"\nquantise = "int8"', ", [[model]] a: quantise is not a key; did you mean quantize?"),
        ('[[model]]\nid = "a"\nkeep-alive = 1', ", [[model]] a: keep-alive is not a key; did you mean keep_alive?"),
        (
            '[[model]]\nid = "a"\npath = "/x"',
            ", [[model]] a: path is not a key; the keys are id, ids, model, dtype, quantize, max_model_len, adapters, "
            "pin, keep_alive, draft.",
        ),
    ],
)
def test_a_fault_of_the_form_is_one_sentence(text: str, sentence: str) -> None:
    assert fault_of(text) == sentence


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "model = 3",
            "model=3 is refused: name a folder, a .gguf file, a Hugging Face id such as owner/name, or demo.",
        ),
        ('dtype = "int8"', "dtype='int8' is refused: it must be auto, float32, bfloat16 or float16."),
        ('quantize = "4bit"', "quantize='4bit' is refused: it must be empty, int8, int4 or fp8."),
        ("max_model_len = 8", "max_model_len=8 is refused: it must be a whole number of at least 16 tokens."),
        ("max_model_len = true", "max_model_len=True is refused: it must be a whole number of at least 16 tokens."),
        ('pin = "yes"', "pin='yes' is refused: it must be true or false."),
        (
            'keep_alive = "5 minutes"',
            "keep_alive='5 minutes' is refused: it must be seconds, such as 300, or a duration, such as \"5m\" or "
            '"1h30m"; 0 is at once, -1 never.',
        ),
        (
            'adapters = "sql"',
            "adapters='sql' is refused: it must be a table of names and folders, such as { sql = \"/models/sql\" }.",
        ),
        (
            'adapters = { "a b" = "/x" }',
            "adapters={'a b': '/x'} is refused: 'a b' is no name; write one without spaces, commas and = signs.",
        ),
        (
            'draft = "~nobody-here/m"',
            "draft='~nobody-here/m' is refused: this machine has no home folder of a user 'nobody-here'; write the "
            "whole path.",
        ),
        (
            'adapters = { sql = "~nobody-here/m" }',
            "adapters={'sql': '~nobody-here/m'} is refused: this machine has no home folder of a user 'nobody-here'; "
            "write the whole path.",
        ),
        (
            "draft = 1",
            "draft=1 is refused: name a folder, a .gguf file, a Hugging Face id such as owner/name, or demo.",
        ),
    ],
)
def test_a_refused_value_is_named_with_its_model_and_what_is_allowed(line: str, sentence: str) -> None:
    source = "" if line.startswith("model =") else 'model = "demo"\n'
    assert fault_of(f'[[model]]\nid = "a"\n{source}{line}') == f", [[model]] a: {sentence}"


@pytest.mark.parametrize("name", ['"a b"', '""', '"a,b"', '"../a"', "5", f'"{"a" * 129}"'])
def test_an_id_is_a_name_that_a_url_can_hold(name: str) -> None:
    assert "is refused: it must be a text of up to 128 characters without" in fault_of(
        f'[[model]]\nid = {name}\nmodel = "demo"'
    )


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ('id = "a"', 'ids = ["b", "a"]', ": 'a' is the id of [[model]] b and the id of [[model]] a"),
        ('ids = ["a", "a"]', 'id = "b"', ": 'a' is the id of [[model]] a twice"),
        (
            'id = "a"',
            'id = "b"\nadapters = { a = "/x" }',
            ": 'a' is the adapter of [[model]] b and the id of [[model]] a",
        ),
        (
            'id = "a"\nadapters = { x = "/x" }',
            'id = "b"\nadapters = { x = "/y" }',
            ": 'x' is the adapter of [[model]] b and the adapter of [[model]] a",
        ),
    ],
)
def test_a_name_stands_for_one_thing(first: str, second: str, sentence: str) -> None:
    text = "".join(f'[[model]]\nmodel = "demo"\n{keys}\n' for keys in (first, second))
    assert fault_of(text) == f"{sentence}; give each another name."


def test_the_dispatcher_s_queue_is_no_model() -> None:
    text = '[[model]]\nid = "omni-webhooks"\nmodel = "demo"'
    sentence = "a model cannot be called 'omni-webhooks', the dispatcher's own queue; choose another."
    assert fault_of(text) == f": {sentence}"


def test_a_table_that_is_not_there_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(TableFault, match=r"there is no such file; make it with omni models add\.$"):
        read_table(tmp_path / "models.toml")
    with pytest.raises(TableFault, match="this machine has no home folder of a user 'nobody-here'"):
        read_table(Path("~nobody-here/models.toml"))
    with pytest.raises(TableFault, match=r"cannot be read \(Is a directory\); name a TOML file\.$"):
        read_table(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(TableFault, match=r"cannot be read \(it is not UTF-8 text\); name a TOML file\.$"):
        read_table(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"source": "a b"}, "model=a b cannot be loaded: there is no such folder, and a Hugging Face id looks like"),
        ({"source": "/none"}, "model=/none cannot be loaded: there is no such folder, and a Hugging Face id looks"),
        ({"draft": "/none"}, "draft=/none cannot be loaded: there is no such folder"),
        ({"adapters": (("b", "/none"),)}, "the adapter b=/none is not a folder on the worker's machine"),
    ],
)
def test_a_folder_that_is_not_there_is_named(keys: dict[str, str], sentence: str) -> None:
    assert table_fault(TableModel(("good",), str(DEMO_MODEL))) == ""
    fault = table_fault(TableModel(**{"ids": ("a",), "source": str(DEMO_MODEL)} | keys))
    assert fault.startswith(sentence)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    assert "cannot be loaded: there are no weights in that folder" in table_fault(TableModel(("a",), str(folder)))


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (300, 300.0),
        (1.5, 1.5),
        ("300", 300.0),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("0s", 0.0),
        (-1, -1.0),
        ("-1m", -1.0),
        ("-1", -1.0),
        (-300, -1.0),
    ],
)
def test_a_keep_alive_is_written_as_for_ollama(written: object, seconds: float) -> None:
    assert parse_keep_alive(written) == seconds


@pytest.mark.parametrize(
    "written", [True, None, "", "m", "5 m", "5d", "1h-30m", "nan", "inf", float("nan"), 10**400, [5], "--5m"]
)
def test_anything_else_is_refused_as_a_keep_alive(written: object) -> None:
    with pytest.raises(ValueError, match=r"^it must be seconds, such as 300, or a duration"):
        parse_keep_alive(written)


def test_the_table_of_the_documents_can_be_read() -> None:
    page = (DEMO_MODEL.parents[1] / "docs" / "many-models.md").read_text()
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    models = parse_table(text, TABLE)
    assert [model.queue for model in models] == ["qwen3-8b", "coder", "bge-m3"]
    assert models[0].adapters == (("sql", "/tables/loras/sql"),) and models[2].is_pinned
    rows = page[page.index("| key |") : page.index("What a model is for")].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == {*PARSERS}


def test_the_home_of_an_unknown_user_is_refused_in_one_sentence(tmp_path: Path) -> None:
    refused = "no home folder of a user 'nobody-of-this-name'; write the whole path"
    for line in ('model = "~nobody-of-this-name/m"', 'model = "demo"\nadapters = { a = "~nobody-of-this-name/m" }'):
        with pytest.raises(TableFault, match=refused):
            parse_table(f'[[model]]\nid = "a"\n{line}', tmp_path / "models.toml")
    with pytest.raises(TableFault, match=f"OMNI_MODELS=~nobody-of-this-name/m.toml: .*{refused}"):
        read_table(Path("~nobody-of-this-name/m.toml"))
    assert parse_table(f'[[model]]\nid = "a"\nmodel = "{"x" * 300}"', tmp_path / "m.toml")[0].source == "x" * 300
