"""Brings a database to this version's tables, in one transaction and by one process at a time."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from common.errors import Unavailable

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x6F6D6E69  # PostgreSQL's advisory lock: "omni"


class SchemaTooNew(Unavailable):
    """The database was migrated by a later version."""


def migrate(engine: Engine) -> None:
    """Raises SchemaTooNew, or sqlalchemy.exc.SQLAlchemyError."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    scripts = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        if _version(connection) == scripts.get_current_head():
            return
    with engine.connect() as connection:
        connection = connection.execution_options(omni_writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            found = _version(connection)
            if found is not None and found not in {script.revision for script in scripts.walk_revisions()}:
                raise SchemaTooNew(
                    f"The store was made by a later version of this server (schema {found}): run that version, or "
                    "restore a backup that this one made."
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
