"""/openapi.json describes the whole application."""

from typing import Any

import pytest

from api.app import create_app
from api.operator.openapi.document import METHODS, PAGES, examples_for, path_of
from api.operator.openapi.operations import DESCRIBED
from api.schema import answers
from common.settings import read_settings

APP = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"}))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    answer = APP.test_client().get("/openapi.json")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.get_json()
    return found


def operations() -> set[str]:
    return {
        f"{method} {path_of(rule)}"
        for rule in APP.url_map.iter_rules()
        for method in rule.methods or ()
        if method in METHODS
    }


def test_every_route_is_there(document: dict[str, Any]) -> None:
    written = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert written == {name for name in operations() if name.split()[1] not in PAGES}


def test_every_operation_is_described() -> None:
    assert DESCRIBED.keys() == {name for name in operations() if name.split()[1] not in PAGES}


def test_no_field_has_null_as_its_default(document: dict[str, Any]) -> None:
    """Generators take a field with a default for one that is always there."""
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert all("default" not in field for field in fields.values())


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [found for child in node.values() for found in references(child)]
        return [found for child in node for found in references(child)] if isinstance(node, list) else []

    for reference in references(document):
        _, _, kind, name = reference.split("/")
        assert name in document["components"][kind]


def test_every_operation_is_in_a_group_that_is_described(document: dict[str, Any]) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    used = [said["tags"][0] for methods in document["paths"].values() for said in methods.values()]
    assert set(used) == set(tags) and all(tag["description"] for tag in document["tags"])
    assert sorted(used, key=tags.index) == used, "the groups are in their order"


def test_every_field_of_a_chat_is_described(document: dict[str, Any]) -> None:
    for name in ("ChatRequest", "CompletionRequest"):
        fields = document["components"]["schemas"][name]["properties"]
        assert [field for field, schema in fields.items() if not schema.get("description")] == []


def test_examples_fit_what_requests_and_answers_are_checked_by() -> None:
    examples = examples_for(APP)
    assert examples.keys() <= DESCRIBED.keys()
    for name, found in examples.items():
        described = DESCRIBED[name]
        for body in found.get("bodies", {}).values():
            assert described.body is not None
            described.body.model_validate(body)
        if "answer" in found:
            assert described.answer is not None
            described.answer.model_validate(found["answer"])


def test_examples_name_a_model_of_this_server() -> None:
    app = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock", "OMNI_MODEL_NAME": r'a"b\1'}))
    [body, *_] = examples_for(app)["POST /v1/chat/completions"]["bodies"].values()
    assert body["model"] == r'a"b\1'


def test_errors_are_described_by_the_bodies_that_are_sent(document: dict[str, Any]) -> None:
    said = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"400", "401", "404", "409", "413", "415", "422", "429", "500", "503", "504"} <= said.keys()
    for name, form in (("Full", answers.ErrorBody), ("MessagesFull", answers.MessagesError)):
        full = document["components"]["responses"][name]
        form.model_validate(full["content"]["application/json"]["example"])
        assert "Retry-After" in full["headers"]


def test_it_is_sent_again_only_when_it_has_changed() -> None:
    client = APP.test_client()
    etag = client.get("/openapi.json").headers["ETag"]
    assert client.get("/openapi.json", headers={"If-None-Match": etag}).status_code == 304


def test_every_operation_has_a_unique_id_and_an_error_schema(document: dict[str, Any]) -> None:
    found = [(path, operation) for path, methods in document["paths"].items() for operation in methods.values()]
    assert len({operation["operationId"] for _, operation in found}) == len(found)
    for path, operation in found:
        schema = operation["responses"]["default"]["content"]["application/json"]["schema"]
        forms = {"OllamaError"} if path.startswith("/api/") else {"ErrorBody", "MessagesError"}
        assert schema["$ref"].removeprefix("#/components/schemas/") in forms


def test_limits_of_request_models_are_in_the_document(document: dict[str, Any]) -> None:
    chat = document["components"]["schemas"]["ChatRequest"]
    assert {"model", "messages"} <= set(chat["required"])
    temperature = chat["properties"]["temperature"]["anyOf"][0]
    assert (temperature["minimum"], temperature["maximum"]) == (0, 2)
    prompt = document["components"]["schemas"]["CompletionRequest"]["properties"]["prompt"]
    assert {"type": "string"} in prompt["anyOf"]


def test_only_operations_without_a_key_are_open(document: dict[str, Any]) -> None:
    opened = {path for path, methods in document["paths"].items() for said in methods.values() if not said["security"]}
    assert {"/health", "/livez", "/readyz", "/openapi.json"} <= opened
    assert not any(path.startswith("/v1/") for path in opened)


def test_every_operation_says_the_media_type_of_its_answer(document: dict[str, Any]) -> None:
    paths = document["paths"]
    for methods in paths.values():
        assert all(said["responses"].get("200", {"content": True})["content"] for said in methods.values())
    for path, media_type in (("/admin/board", "text/event-stream"), ("/metrics", "text/plain")):
        assert list(paths[path]["get"]["responses"]["200"]["content"]) == [media_type]
