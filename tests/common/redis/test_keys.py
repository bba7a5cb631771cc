"""Names in Redis: scripts, users.conf and docs/protocol.md know those of keys.py and rq_seams.py, and no others."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from common.redis import keys, rq_seams
from common.redis.keys import JobField
from common.redis.script import FOLDER, lua, shared_constants, source
from common.wire import JobState

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua"))


def values_of(constant: Any) -> list[str]:
    """A name, or the names that differ by tier."""
    return [str(value) for value in (constant.values() if isinstance(constant, Mapping) else [constant])]


NAMES = {name for name, value in shared_constants().items() if values_of(value)[0].startswith(("omni:", "rq:"))}
OURS = {value for constant in shared_constants().values() for value in values_of(constant) if value.startswith("omni:")}
HASH_CALL = re.compile(r"redis\.call\('H\w+', (?:key|JOB \.\. \w+),([^()]*)")


def prefix(name: str) -> str:
    """A documented name without its placeholder for a queue, a job, an owner or a fence."""
    return re.sub(r"(?<=:)([A-Z]+(:[A-Z]+)?|\*)$", "", name)


def names_in(text: str) -> set[str]:
    return {prefix(name) for name in re.findall(r"omni:[a-zA-Z0-9_:*]+", text)}


def test_docs_protocol_names_every_key_and_no_other() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    assert names_in(text) == OURS


def test_users_conf_grants_keys_that_exist() -> None:
    text = (ROOT / "deploy" / "valkey" / "users.conf").read_text()
    granted = names_in(text)
    own = {"omni:own:"}  # both lists of an owner
    assert granted - own <= OURS
    assert OURS - granted <= {keys.OWN_QUEUED, keys.OWN_RUNNING}


@pytest.mark.parametrize("name", SCRIPTS)
def test_no_script_spells_a_key(name: str) -> None:
    assert not re.findall(r"(omni|rq):", (FOLDER / f"{name}.lua").read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_field_of_a_job_that_a_script_names_is_declared(name: str) -> None:
    known = {*get_args(JobField), *get_args(JobState)}
    for call in HASH_CALL.findall((FOLDER / f"{name}.lua").read_text()):
        assert set(re.findall(r"'(\w+)'", call)) <= known, call


def test_every_declared_field_of_a_job_is_used_by_a_script_or_at_submission() -> None:
    text = "".join((FOLDER / f"{name}.lua").read_text() for name in SCRIPTS)
    text += (ROOT / "common" / "redis" / "store.py").read_text().replace('"', "'")
    assert {field for field in get_args(JobField) if f"'{field}'" not in text} == set()


def test_every_key_is_used() -> None:
    lua_text = "".join((FOLDER / f"{name}.lua").read_text() for name in SCRIPTS)
    python = "".join(path.read_text() for path in ROOT.glob("common/**/*.py") if path.name != "keys.py")
    for name in NAMES:
        assert re.search(rf"\b{name}\b", lua_text) or re.search(rf"\b(keys|rq_seams)\.{name}\b", python), name


@pytest.mark.parametrize(
    ("value", "text"),
    [("a:", "'a:'"), (3000, "3000"), ((1, 2), "{1, 2}"), ({"failed": "rq:failed:"}, "{failed = 'rq:failed:'}")],
)
def test_a_constant_becomes_a_lua_literal(value: Any, text: str) -> None:
    assert lua(value) == text


def test_a_script_is_given_the_names_before_the_library() -> None:
    text = source("append", FOLDER)
    assert (
        text.index(f"local EVENTS = '{keys.EVENTS}'")
        < text.index("local function finish")
        < text.index("observe_first")
    )
    assert f"local RQ_JOB = '{rq_seams.RQ_JOB}'" in text
