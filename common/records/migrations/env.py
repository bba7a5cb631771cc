"""Alembic's environment: the migrations run in the transaction that common/records/migrate.py has begun."""

from alembic import context

from common.records.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite cannot alter a column
    transactional_ddl=False,
)
context.run_migrations()
