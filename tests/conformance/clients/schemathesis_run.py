"""schemathesis: requests made from /openapi.json, good and bad; none may end in a 5xx, every answer has its shape."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checks import KEY, URL, run

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
BUDGET_S = 45


def no_request_ends_in_a_5xx() -> None:
    command = [
        str(Path(sys.executable).with_name("schemathesis")), "run", f"{URL}/openapi.json", "--url", URL,
        "-H", f"Authorization: Bearer {KEY}", "--checks", CHECKS, "--phases", "examples,coverage,fuzzing",
        "--max-examples", "25", "--max-time", str(BUDGET_S), "--request-timeout", "20", "--no-color",
        "--generation-database", "none", "--suppress-health-check", "all", "--exclude-path-regex", "^/(admin|metrics)",
        "--continue-on-failure", "--seed", "1", "--warnings", "off",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS)}, cwd=folder, capture_output=True, text=True
        )
    if done.returncode:
        print(done.stdout[-30_000:], file=sys.stderr)
        raise AssertionError("; ".join(failures(done.stdout)) or done.stdout[-1500:])


def failures(report: str) -> list[str]:
    """The headings of the report's failures, each with the operation that it is about."""
    marks = ("- ", "[")
    return [line.strip()[:120] for line in report.splitlines() if line.strip().startswith(marks) or " /" in line[:60]]


run(no_request_ends_in_a_5xx)
