"""Brings a database to this version's tables, in one transaction and by one process at a time.

A migration may name in `usable_by` the oldest revision whose code can use the tables that it leaves, as after a new
table or a new column that may be empty. The row `schema` of `meta` keeps that, so that a version that does not know the
migration goes on with the store of the next one: while processes are replaced one after another, and when the next
version is taken back.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from common.errors import Unavailable

FOLDER = Path(__file__).parent / "migrations"
LOCK = 0x6F6D6E69  # PostgreSQL's advisory lock: "omni"
SCHEMA = "schema"  # the row: the revision, and the oldest one whose code can use it


class SchemaTooNew(Unavailable):
    """The database was migrated by a later version."""


def migrate(engine: Engine) -> None:
    """Raises SchemaTooNew, or sqlalchemy.exc.SQLAlchemyError."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    scripts = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        if is_usable(connection, scripts):
            return
    with engine.connect() as connection:
        connection = connection.execution_options(omni_writes=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
            if not is_usable(connection, scripts):
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
                note_schema(connection, scripts)


def is_usable(connection: Connection, scripts: ScriptDirectory) -> bool:
    """False where it has to be migrated. Raises SchemaTooNew."""
    found = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if found is None or found in known:
        return found == scripts.get_current_head()
    query = text("SELECT value FROM meta WHERE name = :name")
    noted = connection.execute(query, {"name": SCHEMA}).scalar_one_or_none() or ""
    revision, _, usable_by = noted.partition(" ")
    if revision == found and usable_by in known:
        return True
    raise SchemaTooNew(
        f"The store was made by a later version of this server (schema {found}): run that version, or restore a "
        "backup that this one made."
    )


def note_schema(connection: Connection, scripts: ScriptDirectory) -> None:
    head = scripts.get_revision("head")
    value = f"{head.revision} {getattr(head.module, 'usable_by', head.revision)}"
    connection.execute(text("DELETE FROM meta WHERE name = :name"), {"name": SCHEMA})
    connection.execute(text("INSERT INTO meta (name, value) VALUES (:name, :value)"), {"name": SCHEMA, "value": value})
