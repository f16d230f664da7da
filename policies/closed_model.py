"""Closed, frozen models read from small TOML files, and one clear sentence for whatever is wrong with one."""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic_core import ErrorDetails

from policies.errors import UserError

MAX_FILE_BYTES = 1 << 20
_MAX_DEPTH = 16
_MAX_SHOWN_CHARACTERS = 60

# tomllib spends quadratic time on a key of very many dotted parts; nothing of ours has more than three.
_ENDLESS_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""")

SNAKE_CASE = r"^[a-z][a-z0-9_]{0,63}$"
HYPHENATED = r"^[a-z][a-z0-9-]{0,62}$"
MEMBER_ID = r"^[a-z][a-z0-9-]{1,30}$"
UPPER_CASE = r"^[A-Z][A-Z0-9_]{1,47}$"
HEX_32_BYTES = r"^[0-9a-f]{64}$"
ONE_LINE = r"^[^\x00-\x1f\x7f]+$"
VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
PATTERNS_IN_WORDS = {
    SNAKE_CASE: "a name of lower-case letters, digits and underscores, at most 64, a letter first",
    HYPHENATED: "a word of lower-case letters, digits and hyphens, at most 63, a letter first",
    MEMBER_ID: "an id of 2 to 31 lower-case letters, digits and hyphens, a letter first",
    UPPER_CASE: "a code of 2 to 48 capital letters, digits and underscores, a letter first",
    HEX_32_BYTES: "32 bytes as 64 lower-case hexadecimal digits",
    ONE_LINE: "one line of text without control characters",
    VARIABLE: "the name of an environment variable",
}

_EXPECTED = {
    "string_type": "text in quotes",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "tuple_type": "a list in square brackets",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "path_type": "a path in quotes",
}
_EXPECTED_FORMS = {
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "string_too_short": "at least {min_length} character(s)",
    "string_too_long": "at most {max_length} characters",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_pattern_mismatch": "text of the form {pattern}",
}


def _resolve(value: Path, info: ValidationInfo) -> Path:
    if not str(value).isprintable():
        raise ValueError("expected a path, found control characters in it; correct it")
    base = (info.context or {}).get("base")
    return value if base is None else base / value


ResolvedPath = Annotated[Path, Field(strict=False), AfterValidator(_resolve)]
"""A path in a settings file; a relative one is meant from the folder of that file."""


class ClosedModel(BaseModel):
    """A frozen model without unknown keys and without silent conversions (`"5"` is not 5)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=ClosedModel)


def read_bounded(path: Path, error: type[UserError], max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Read a small file whole.

    Args:
        path: The file.
        error: What to raise when it cannot be read.
        max_bytes: How long it may be.

    Raises:
        UserError: As `error`: the file is absent, unreadable, not a file, or too large.
    """
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "nothing"
            raise error(f"{shown_path(path)}: expected a file, found {found}; give the path of an existing file.")
        with path.open("rb") as stream:
            content = stream.read(max_bytes + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "the path is not valid"
        raise error(f"{shown_path(path)}: cannot be read ({reason}); check the path and its permissions.") from None
    if len(content) > max_bytes:
        raise error(
            f"{shown_path(path)}: expected at most {max_bytes} bytes, found more; check that it is the right file."
        )
    return content


def parse_toml(content: bytes, path: Path, error: type[UserError]) -> dict[str, Any]:
    """Parse TOML into dictionaries, tuples and scalars.

    Args:
        content: The bytes of the file, already bounded.
        path: Where they came from, for the message.
        error: What to raise when they are not TOML.

    Raises:
        UserError: As `error`: not UTF-8, not TOML, or nested beyond reason.
    """
    where = shown_path(path)
    if content.startswith(b"\xef\xbb\xbf"):
        raise error(f"{where}: expected plain UTF-8, found a byte-order mark; save the file without one.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(
            f"{where}: expected UTF-8 text, found other bytes at offset {problem.start};"
            " check that it is the right file, and saved as UTF-8."
        ) from None
    if _ENDLESS_KEY.search(text):
        raise error(f"{where}: expected keys of a few dotted parts, found one of 16 or more; shorten it.")
    try:
        return {key: _freeze(value, 1) for key, value in tomllib.loads(text).items()}
    except RecursionError:
        raise error(f"{where}: expected at most {_MAX_DEPTH} nested levels, found more; flatten the file.") from None
    except tomllib.TOMLDecodeError as problem:
        raise error(f"{where}: expected TOML, found a mistake: {one_line(problem)}; correct that place.") from None
    except ValueError:  # Python's own limit on integers of thousands of digits
        raise error(f"{where}: expected numbers of a few digits, found one of thousands; correct it.") from None


def parse_model(
    model: type[Model],
    data: dict[str, Any],
    where: str,
    error: type[UserError],
    hint: str,
    *,
    base: Path | None = None,
) -> Model:
    """Validate parsed data; whatever is wrong becomes one sentence.

    Args:
        model: The model to build.
        data: As `parse_toml` returns it.
        where: Name of the file, the start of the sentence.
        error: What to raise.
        hint: What to do about a key that is missing or unknown, for example "see `tallystick agreement new`".
        base: Folder against which a `ResolvedPath` of the model is resolved.

    Raises:
        UserError: As `error`, naming the first problem and how many more there are.
    """
    try:
        return model.model_validate(data, context={"base": base})
    except ValidationError as problem:
        raise error(f"{where}: {validation_sentence(problem, hint)}") from None


def validation_sentence(problem: ValidationError, hint: str) -> str:
    """The first problem of a validation in words, without a final line break.

    Values of keys that may hold a secret (and of unknown keys, where anything may have been typed) are never
    repeated.

    Args:
        problem: What pydantic raised.
        hint: What to do about missing and unknown keys.
    """
    everything = problem.errors(include_url=False)
    # A list whose entries are wrong is also reported as too short: pydantic counts the valid ones.
    details = [one for one in everything if one["type"] != "too_short" or one is everything[0]]
    first = details[0]
    place = _place(first["loc"])
    kind, context = first["type"], first.get("ctx", {})
    secret = bool(_SECRET_KEYS & {part for part in first["loc"] if isinstance(part, str)})
    found = "a value that is not shown here" if secret else shown(first["input"])
    if kind == "missing":
        text = f"{place} is missing; add it ({hint})"
    elif kind == "extra_forbidden":
        text = f"{place} is not a known key; remove it or correct its spelling ({hint})"
    elif kind == "union_tag_not_found":
        text = f"{place}.{_tag_name(context)} is missing; add it ({hint})"
    elif kind == "union_tag_invalid":
        text = (
            f"{place}.{_tag_name(context)}: expected one of {context.get('expected_tags')},"
            f" found {shown(context.get('tag'))}; choose one of them"
        )
    elif kind == "value_error":
        stated = one_line(context.get("error", first["msg"])).rstrip(".")
        text = f"{place}: {stated}" if first["loc"] else stated
    else:
        expected = _EXPECTED.get(kind) or _expected_from_context(kind, context, first["msg"])
        text = f"{place}: expected {expected}, found {found}; correct it"
    more = len(details) - 1
    return text + (f" (and {more} more problem{'s' if more > 1 else ''})." if more else ".")


def validation_detail(problem: ErrorDetails) -> str:
    """One problem of a validation in words, without its place and without the value: for whoever sent it over a wire.

    Args:
        problem: One of `ValidationError.errors`.
    """
    kind, context = problem["type"], problem.get("ctx", {})
    match kind:
        case "missing":
            return "expected a value, found nothing; add it"
        case "extra_forbidden":
            return "expected a known key, found another; remove it or correct its spelling"
        case "union_tag_not_found":
            return f"expected the key {_tag_name(context)}, found none; add it"
        case "union_tag_invalid":
            tags = context.get("expected_tags")
            return f"expected {_tag_name(context)} to be one of {tags}, found another; correct it"
        case "value_error":
            return one_line(context.get("error", problem["msg"])).rstrip(".")
    expected = _EXPECTED.get(kind) or _expected_from_context(kind, context, problem["msg"])
    return f"expected {expected}, found something else; correct it"


def shown(value: object) -> str:
    """A short, single-line, printable form of what was found."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, tuple | list):
        return f"a list of {len(value)}"
    if isinstance(value, dt.date | dt.time):
        return f"the date or time {value.isoformat()}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    text = ascii(value)
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}... ({len(text)} characters)"


def shown_path(path: Path) -> str:
    """A path as it may be printed: one line, no control characters."""
    return one_line(path)


def one_line(text: object) -> str:
    """`str(text)` with line breaks and unprintable characters escaped, so that it stays one line."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(str(text).split()))


_SECRET_KEYS = {"url", "password", "holdout_key"}


def _tag_name(context: dict[str, Any]) -> str:
    return str(context.get("discriminator", "kind")).strip("'")


def _place(location: tuple[int | str, ...]) -> str:
    """`("members", 1, "role")` as `members[2].role`: people count from one."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif not (text and part in _UNION_TAGS):
            text += f".{one_line(part)}" if text else one_line(part)
    return text[:200] or "the file"


# pydantic puts the tag of a discriminated union into the location; nobody wrote it in the file.
_UNION_TAGS = {"csv", "parquet", "sql", "inputNode", "decisionTableNode", "outputNode"}


def _expected_from_context(kind: str, context: dict[str, Any], message: str) -> str:
    if kind == "string_pattern_mismatch" and context["pattern"] in PATTERNS_IN_WORDS:
        return PATTERNS_IN_WORDS[context["pattern"]]
    form = _EXPECTED_FORMS.get(kind)
    return form.format(**context) if form else one_line(message).removeprefix("Input should be ").rstrip(".")


def _freeze(value: Any, depth: int) -> Any:
    """Lists become tuples, so that a frozen model is frozen all the way down."""
    if depth > _MAX_DEPTH:
        raise RecursionError
    if isinstance(value, list):
        return tuple(_freeze(item, depth + 1) for item in value)
    if isinstance(value, dict):
        return {key: _freeze(item, depth + 1) for key, item in value.items()}
    return value
