#!/bin/sh
# Regenerate the committed protobuf code. Needs the `codegen` dependency group; run from the repository root.
# `-I .` makes the generated imports read `from protos... import ...`.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-.venv/bin/python}"
find protos -name '*.proto' | LC_ALL=C sort | while IFS= read -r file; do
  PATH="$(dirname "$python"):$PATH" "$python" -m grpc_tools.protoc -I . \
    --python_out=. --mypy_out=. "$file"
done
