"""The real `openai` client in front of the application, without a network."""

from pathlib import Path
from typing import Any

import httpx2
import openai
from flask import Flask

from api.app import create_app
from common.settings import read_settings

KEYS = "sk-local,sk-other"


def application(valkey_url: str, folder: Path, **settings: str) -> Flask:
    """Its files and records lie below `folder`."""
    named = {"REDIS_URL": valkey_url, "OMNI_DATA_DIR": str(folder), "OMNI_API_KEYS": KEYS, "OMNI_MODEL_NAME": "tiny"}
    return create_app(read_settings(named | settings))


def openai_client(app: Flask, key: str = "sk-local", **options: Any) -> openai.OpenAI:
    web = httpx2.Client(transport=httpx2.WSGITransport(app=app))
    return openai.OpenAI(base_url="http://localhost/v1", api_key=key, http_client=web, max_retries=0, **options)


def http_client(app: Flask, key: str = "sk-local", **headers: str) -> httpx2.Client:
    return httpx2.Client(
        transport=httpx2.WSGITransport(app=app),
        base_url="http://localhost",
        headers={"Authorization": f"Bearer {key}"} | headers,
    )
