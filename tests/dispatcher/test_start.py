"""The dispatcher's start: a store that it must not touch."""

import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from common.records.database import Records

ROOT = Path(__file__).resolve().parents[2]


def test_a_store_of_a_later_version_is_refused_in_one_sentence_and_not_started_again(
    valkey_url: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/omni.db"
    with Records(url).begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    env = os.environ | {"OMNI_STORE_URL": url, "OMNI_DATA_DIR": str(tmp_path), "REDIS_URL": valkey_url}
    command = [sys.executable, "-m", "dispatcher.main"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, "the supervisor starts it no more"
    assert done.stderr.splitlines()[-1].startswith(
        "configuration: The store was made by a later version of this server"
    )
