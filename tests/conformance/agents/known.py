"""The agents, with the settings that docs/clients.md shows."""

import json
import re

from tests.conformance.agents.agent import EDITED, NOTE, Agent, Place
from tests.conformance.agents.shim import ForcedCall, ForcedFields, ForcedInput, Schema, closed

CONTEXT = 131_072
OUTPUT = 8_192


def nothing(place: Place) -> dict[str, str]:
    return {}


def codex() -> Agent:
    def files(place: Place) -> dict[str, str]:
        known = {
            "slug": place.model,
            "display_name": place.model,
            "context_window": CONTEXT,
            "input_modalities": ["text"],
            "base_instructions": "You are a coding agent.",
            "shell_type": "unified_exec",
            "apply_patch_tool_type": "freeform",
            "truncation_policy": {"mode": "tokens", "limit": 10_000},
            "supported_reasoning_levels": [],
            "support_verbosity": False,
            "experimental_supported_tools": [],
            "visibility": "list",
            "supported_in_api": True,
            "priority": 1,
        }
        config = f"""
model = "{place.model}"
model_provider = "omni"
model_catalog_json = "{place.home}/.codex/models.json"
sandbox_mode = "workspace-write"
check_for_update_on_startup = false

[analytics]
enabled = false

[features]
plugins = false

[model_providers.omni]
name = "Protocol OMNI"
base_url = "{place.url}/v1"
env_key = "LOCAL_API_KEY"
wire_api = "responses"
"""
        return {".codex/config.toml": config, ".codex/models.json": json.dumps({"models": [known]})}

    patch = ["*** Begin Patch", "*** Update File: note.txt", "@@", f"-{NOTE}", f"+{EDITED}", "*** End Patch"]

    return Agent(
        "Codex",
        turn=["codex", "exec"],
        resume=["codex", "exec", "resume", "--last"],
        files=files,
        environment=lambda place: {"LOCAL_API_KEY": place.key},
        reading=lambda path: ForcedCall("exec_command", {"cmd": path}),
        named="cat {note}",
        editing=ForcedInput("apply_patch", "\n".join(patch)),
    )


def claude_code() -> Agent:
    def environment(place: Place) -> dict[str, str]:
        return {
            "ANTHROPIC_BASE_URL": place.url,
            "ANTHROPIC_AUTH_TOKEN": place.key,
            "ANTHROPIC_MODEL": place.model,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": place.model,
            "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(CONTEXT),
            "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(OUTPUT),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }

    return Agent(
        "Claude Code",
        turn=["claude", "-p"],
        resume=["claude", "-p", "--continue"],
        files=nothing,
        environment=environment,
        reading=lambda path: ForcedCall("Read", {"file_path": path}),
    )


def opencode() -> Agent:
    def environment(place: Place) -> dict[str, str]:
        model = {"name": place.model, "limit": {"context": CONTEXT, "output": OUTPUT}}
        provider = {
            "npm": "@ai-sdk/openai-compatible",
            "name": "Protocol OMNI",
            "options": {"baseURL": f"{place.url}/v1", "apiKey": place.key},
            "models": {place.model: model},
        }
        config = {
            "model": f"omni/{place.model}",
            "small_model": f"omni/{place.model}",
            "autoupdate": False,
            "share": "disabled",
            "provider": {"omni": provider},
        }
        return {"OPENCODE_CONFIG_CONTENT": json.dumps(config), "OPENCODE_DISABLE_MODELS_FETCH": "1"}

    return Agent(
        "opencode",
        turn=["opencode", "run"],
        resume=["opencode", "run", "--continue"],
        files=nothing,
        environment=environment,
        reading=lambda path: ForcedCall("read", {"filePath": path}),
    )


def qwen_code() -> Agent:
    settings = {
        "security": {"auth": {"selectedType": "openai"}},
        "general": {"enableAutoUpdate": False},
        "privacy": {"usageStatisticsEnabled": False},
        "telemetry": {"enabled": False},
        "memory": {"enableManagedAutoMemory": False},
    }

    def environment(place: Place) -> dict[str, str]:
        return {"OPENAI_BASE_URL": f"{place.url}/v1", "OPENAI_API_KEY": place.key, "OPENAI_MODEL": place.model}

    return Agent(
        "qwen-code",
        turn=["qwen", "-p"],
        resume=["qwen", "--continue", "-p"],
        files=lambda place: {".qwen/settings.json": json.dumps(settings)},
        environment=environment,
        reading=lambda path: ForcedCall("read_file", {"file_path": path}),
    )


def pi() -> Agent:
    def files(place: Place) -> dict[str, str]:
        model = {"id": place.model, "contextWindow": CONTEXT, "maxTokens": OUTPUT}
        provider = {
            "baseUrl": f"{place.url}/v1",
            "api": "openai-completions",
            "apiKey": "$LOCAL_API_KEY",
            "models": [model],
        }
        return {".pi/agent/models.json": json.dumps({"providers": {"omni": provider}})}

    command = ["pi", "--provider", "omni", "--model", "omni-demo"]
    return Agent(
        "pi",
        turn=[*command, "-p"],
        resume=[*command, "--continue", "-p"],
        files=files,
        environment=lambda place: {"LOCAL_API_KEY": place.key, "PI_OFFLINE": "1", "PI_TELEMETRY": "0"},
        reading=lambda path: ForcedCall("read", {"path": path}),
    )


def continue_cn() -> Agent:
    def files(place: Place) -> dict[str, str]:
        config = f"""
name: Protocol OMNI
version: 1.0.0
schema: v1
models:
  - name: {place.model}
    provider: openai
    model: {place.model}
    apiBase: {place.url}/v1
    apiKey: {place.key}
    roles: [chat, edit, apply]
    capabilities: [tool_use]
    defaultCompletionOptions:
      contextLength: {CONTEXT}
      maxTokens: {OUTPUT}
"""
        return {".continue/config.yaml": config}

    command = ["cn", "--config", "../.continue/config.yaml"]
    return Agent(
        "Continue cn",
        turn=[*command, "-p"],
        resume=[*command, "--resume", "-p"],
        files=files,
        environment=lambda place: {"CONTINUE_TELEMETRY_ENABLED": "0"},
        reading=lambda path: ForcedCall("Read", {"filepath": path}),
    )


def one(item: Schema) -> Schema:
    """The schema of a list with this item alone."""
    return {"type": "array", "items": item, "minItems": 1, "maxItems": 1}


def cline() -> Agent:
    def files(place: Place) -> dict[str, str]:
        settings = {
            "provider": "openai-compatible",
            "apiKey": place.key,
            "model": place.model,
            "baseUrl": f"{place.url}/v1",
            "contextWindow": CONTEXT,
            "maxTokens": OUTPUT,
        }
        provider = {"settings": settings, "updatedAt": "2026-01-01T00:00:00.000Z", "tokenSource": "manual"}
        providers = {
            "version": 1,
            "lastUsedProvider": "openai-compatible",
            "providers": {"openai-compatible": provider},
        }
        return {
            ".cline/data/settings/providers.json": json.dumps(providers),
            ".cline/data/settings/global-settings.json": '{"telemetryOptOut": true, "autoUpdateEnabled": false}',
        }

    last = """exec cline --id "$(cline history --json --limit 1 | sed 's/^.{"sessionId":"\\([^"]*\\)".*/\\1/')" """
    return Agent(
        "Cline",
        turn=["cline"],
        resume=["sh", "-c", last],
        files=files,
        environment=nothing,
        reading=lambda path: ForcedCall("read_files", {"files": one(closed({"path": path}))}),
        ready="Ask anything",
    )


def aider() -> Agent:
    def environment(place: Place) -> dict[str, str]:
        return {
            "OPENAI_API_BASE": f"{place.url}/v1",
            "OPENAI_API_KEY": place.key,
            "AIDER_MODEL": f"openai/{place.model}",
            "AIDER_ANALYTICS": "false",
            "AIDER_CHECK_UPDATE": "false",
        }

    metadata = {
        "openai/omni-demo": {
            "max_input_tokens": CONTEXT,
            "max_output_tokens": OUTPUT,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
            "litellm_provider": "openai",
            "mode": "chat",
        }
    }
    settings = [{"name": "openai/omni-demo", "extra_params": {"max_tokens": OUTPUT}}]
    command = ["aider", "--yes-always", "--no-pretty", "--no-show-release-notes", "--file", "note.txt"]
    return Agent(
        "aider",
        turn=[*command, "--message"],
        resume=[*command, "--restore-chat-history", "--message"],
        files=lambda place: {
            ".aider.model.metadata.json": json.dumps(metadata),
            ".aider.model.settings.yml": json.dumps(settings),
        },
        environment=environment,
        reading=None,
        editing=ForcedFields({"structured_outputs": {"regex": re.escape(f"note.txt\n```\n{EDITED}\n```\n")}}),
        group="aider",
    )


AGENTS = {
    "codex": codex(),
    "claude": claude_code(),
    "opencode": opencode(),
    "qwen": qwen_code(),
    "pi": pi(),
    "cn": continue_cn(),
    "cline": cline(),
    "aider": aider(),
}
