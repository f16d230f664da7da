"""Alembic's entry point: runs the migrations over the connection that `coordinator.database.migrate` hands over."""

from alembic import context

from coordinator.database.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
