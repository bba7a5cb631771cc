"""Every error code is a class of the tree, has a status, and is documented; no code is spelled elsewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import common.errors
from api.app import HTTP_ERRORS
from api.gate.errors import NO_RETRY, STATUS
from common.errors import JobFailed, OmniError
from common.redis.script import FOLDER

ROOT = Path(__file__).resolve().parents[2]
INTERNAL_ONLY = {"wire_error"}  # bytes in Redis that are not ours: a fault of the service, not of a request


def tree(kind: type[OmniError] = OmniError) -> Iterator[type[OmniError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == common.errors.__name__:
            yield from tree(child)


CODES = {kind.code for kind in tree()}
JOB_CODES = {kind.code for kind in tree(JobFailed)}


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    assert CODES == STATUS.keys()
    assert NO_RETRY <= CODES and {error.code for error in HTTP_ERRORS.values()} <= CODES


def test_the_docstring_draws_the_tree_with_its_statuses() -> None:
    drawn = re.findall(r"(\w+) +(\d{3}) (\w+)", common.errors.__doc__ or "")
    assert {(name, int(status), code) for name, status, code in drawn} == {
        (kind.__name__, STATUS[kind.code][0], kind.code) for kind in tree()
    }


def test_every_code_of_a_job_stands_in_docs_protocol_and_every_other_in_inference_md() -> None:
    def documented(name: str) -> set[str]:
        return set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / name).read_text()))

    assert documented("protocol.md") >= JOB_CODES
    by_number = {"invalid_request", "service_unavailable"}  # the reference API has null and 503 as their codes
    assert documented("api/inference.md") >= CODES - JOB_CODES - by_number - INTERNAL_ONLY


def test_every_class_of_a_failure_lies_in_the_tree() -> None:
    for path in (*ROOT.glob("api/**/*.py"), *ROOT.glob("worker/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                assert not bases & {kind.__name__ for kind in tree()}, (path, node.name)


@pytest.mark.parametrize("package", ["api", "worker"])
def test_no_code_is_spelled_where_a_failure_is_made(package: str) -> None:
    for path in ROOT.glob(f"{package}/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                spelled = [word.value for word in node.keywords if word.arg == "code"] + node.args[: name == "Failed"]
                assert not any(isinstance(value, ast.Constant) for value in spelled), (path, node.lineno)


def test_the_codes_that_scripts_give_jobs_are_of_the_tree() -> None:
    for path in FOLDER.glob("*.lua"):
        calls = re.findall(r"(?:cancel|end_with_failure)\(\w+, (?:'(?:failed|cancelled)', )?'(\w+)'", path.read_text())
        assert set(calls) <= JOB_CODES, path.name
