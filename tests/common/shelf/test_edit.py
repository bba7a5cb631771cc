"""Edits keep what people wrote, and are checked before they are on the disk."""

import os
from pathlib import Path

import pytest

import common.shelf.edit
from common.shelf.edit import add_model, remove_model, set_key
from common.shelf.table import TableFault, read_table

TEXT = """# our models

# small and quick
[[model]]
id = "a"  # for everybody
model   =   "demo"
keep_alive = "5m"

# the large one
[[model]]
ids = ["b", "default"]
model = "demo"
[model.adapters]
sql = "/models/sql"
# end
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text(TEXT)
    return path


def test_the_first_model_makes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    model = add_model(path, {"id": "a", "model": "demo", "adapters": {"x": "/x"}, "pin": True})
    assert path.read_text() == '[[model]]\nid = "a"\nmodel = "demo"\nadapters = {x = "/x"}\npin = true\n'
    assert read_table(path) == (model,)
    assert os.stat(path).st_mode & 0o777 == 0o644


def test_a_model_is_added_below_all_others(path: Path) -> None:
    add_model(path, {"id": "c", "model": "demo"})
    assert path.read_text() == TEXT + '\n[[model]]\nid = "c"\nmodel = "demo"\n'


def test_a_file_with_comments_alone_gets_its_first_model(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text("# our models\n")
    add_model(path, {"id": "a", "model": "demo"})
    assert path.read_text() == '# our models\n\n[[model]]\nid = "a"\nmodel = "demo"\n'


def test_a_removed_model_takes_the_comment_above_it_along(path: Path) -> None:
    assert remove_model(path, "default").queue == "b"
    assert path.read_text() == TEXT[: TEXT.index("# the large one")]


def test_the_comment_of_the_next_model_stays(path: Path) -> None:
    remove_model(path, "a")
    assert path.read_text() == TEXT.replace(TEXT[TEXT.index("# small") : TEXT.index("# the large")], "")


def test_a_key_is_written_into_its_model(path: Path) -> None:
    assert set_key(path, "a", "pin", True).is_pinned
    assert path.read_text() == TEXT.replace('keep_alive = "5m"\n', 'keep_alive = "5m"\npin = true\n')
    assert set_key(path, "a", "pin", False).is_pinned is False
    set_key(path, "a", "pin", None)
    assert path.read_text() == TEXT


def test_a_key_stands_above_the_tables_of_its_model(path: Path) -> None:
    assert set_key(path, "b", "pin", True).is_pinned
    assert path.read_text() == TEXT.replace('"demo"\n[model.adapters]', '"demo"\npin = true\n\n[model.adapters]')


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"id": "a", "model": "demo"}, "'a' is the id of [[model]] a twice; give each another name."),
        ({"id": "c", "model": "demo", "pin": "yes"}, "pin='yes' is refused: it must be true or false."),
    ],
)
def test_a_refused_edit_leaves_the_file_as_it_was(keys: dict[str, object], sentence: str, path: Path) -> None:
    with pytest.raises(TableFault) as caught:
        add_model(path, keys)
    assert str(caught.value).endswith(sentence)
    assert path.read_text() == TEXT
    assert os.listdir(path.parent) == [path.name]


def test_an_id_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(TableFault, match=r"there is no model 'x'; there are a, b, default\.$"):
        remove_model(path, "x")
    with pytest.raises(TableFault, match=r"'sql' is an adapter of 'b'; change the adapters of that model\.$"):
        remove_model(path, "sql")


def test_the_last_model_stays(path: Path) -> None:
    remove_model(path, "a")
    with pytest.raises(TableFault, match=r"'b' is the only model; to serve OMNI_MODEL again, remove OMNI_MODELS\.$"):
        remove_model(path, "b")


def test_a_table_in_another_form_is_left_alone(path: Path) -> None:
    path.write_text('model = [{ id = "a", model = "demo" }, { id = "b", model = "demo" }]\n')
    with pytest.raises(TableFault, match="is written in another form"):
        remove_model(path, "a")


def test_a_link_and_the_mode_of_the_file_stay(path: Path, tmp_path: Path) -> None:
    path.chmod(0o600)
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    set_key(link, "a", "pin", True)
    assert link.is_symlink() and os.stat(path).st_mode & 0o777 == 0o600
    assert read_table(path)[0].is_pinned


def test_a_change_of_another_s_is_not_overwritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse_and_change(text: str, where: Path) -> object:
        path.write_text(TEXT + "# another's\n")
        return parse(text, where)

    parse = common.shelf.edit.parse_table
    monkeypatch.setattr(common.shelf.edit, "parse_table", parse_and_change)
    with pytest.raises(TableFault, match="was changed meanwhile"):
        add_model(path, {"id": "c", "model": "demo"})
    assert path.read_text() == TEXT + "# another's\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableFault, match=r"models.toml cannot be written \(No such file or directory\)\.$"):
        add_model(tmp_path / "none" / "models.toml", {"id": "a", "model": "demo"})
