"""The coordinator's database: tables, migrations, connections, and one writer that commits in groups."""
