"""One applicant's features, as a request states them: checked against the model's feature contract."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.api.problems import FieldProblem, ProblemError, pointer
from models.artefact import Model
from models.features import InputFeature
from policies.closed_model import one_line


@dataclass(frozen=True)
class Applicant:
    """Values per feature in the model's order; nan where the contract allows a missing one and it is."""

    values: Mapping[str, float]

    def columns(self) -> dict[str, list[float]]:
        """One row, as `models.scoring` takes it."""
        return {name: [value] for name, value in self.values.items()}


def parse_applicant(document: Any, features: tuple[InputFeature, ...]) -> Applicant:
    """Check a body of the form `{"features": {name: number or null}}`.

    Args:
        document: Strictly parsed JSON.
        features: The model's inputs.

    Raises:
        ProblemError: Names every value that is wrong, by its JSON pointer.
    """
    if not isinstance(document, dict):
        raise ProblemError(
            "invalid-request", f"Expected an object with the key features, found {_kind(document)}; send an object."
        )
    unknown = [key for key in document if key != "features"]
    if unknown:
        raise ProblemError(
            "invalid-request",
            f"Expected the key features alone, found {len(unknown)} more; remove what is not known.",
            [FieldProblem(pointer(_shown(key)), "not a known key; remove it") for key in unknown[:20]],
        )
    given = document.get("features")
    if not isinstance(given, dict):
        found = _kind(given) if "features" in document else "nothing"
        raise ProblemError(
            "invalid-request",
            f"Expected an object of feature values under the key features, found {found}; send name and value of each.",
            [FieldProblem("/features", "an object is needed")],
        )
    names = {feature.name for feature in features}
    problems = [
        FieldProblem(pointer("features", _shown(key)), "not a feature of this model; remove it")
        for key in given
        if key not in names
    ]
    values: dict[str, float] = {}
    for feature in features:
        problem = _problem_of(feature, given)
        if problem is not None:
            problems.append(FieldProblem(pointer("features", feature.name), problem))
        else:
            value = given.get(feature.name)
            values[feature.name] = math.nan if value is None else float(value)
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ProblemError(
            "invalid-features", f"{problems[0].pointer}: {problems[0].detail}{more}.", problems[: len(features) + 20]
        )
    return Applicant(values)


def features_schema(model: Model) -> dict[str, Any]:
    """JSON schema of the request body, for OpenAPI: the feature contract in a form that tools read."""
    properties: dict[str, Any] = {}
    for feature in model.features:
        kind = "integer" if feature.type == "integer" else "number"
        properties[feature.name] = {
            "type": [kind, "null"] if feature.missing_allowed else kind,
            "minimum": feature.low,
            "maximum": feature.high,
            "description": f"Reason code {feature.reason_code}",
        }
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["features"],
        "properties": {
            "features": {
                "type": "object",
                "additionalProperties": False,
                "required": [feature.name for feature in model.features if not feature.missing_allowed],
                "properties": properties,
            }
        },
    }


def example_applicants(model: Model) -> dict[str, Any]:
    """OpenAPI examples: an applicant in the fullest bin of each feature, and one without the values that may miss."""
    typical: dict[str, float | None] = {}
    for bins in model.bins:
        knot = bins.bins[bins.missing_bin].knot
        typical[bins.feature.name] = round(knot) if bins.feature.type == "integer" else round(knot, 4)
    sparse = {f.name: None if f.missing_allowed else typical[f.name] for f in model.features}
    return {
        "typical": {"summary": "An applicant like most", "value": {"features": typical}},
        "missing": {"summary": "Without the values that may be missing", "value": {"features": sparse}},
    }


def _problem_of(feature: InputFeature, given: Mapping[str, Any]) -> str | None:
    value = given.get(feature.name)
    expected = (
        f"expected {'a whole number' if feature.type == 'integer' else 'a number'} "
        f"from {feature.low:.15g} to {feature.high:.15g}{' or null' if feature.missing_allowed else ''}, "
        "found"
    )
    if value is None:
        found = "null" if feature.name in given else "nothing"
        return None if feature.missing_allowed else f"{expected} {found}; state it"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{expected} {_kind(value)}; send a number"
    if not feature.low <= value <= feature.high:
        return f"{expected} one outside; check value and unit"
    if feature.type == "integer" and value != int(value):
        return f"{expected} a fraction; check value and unit"
    return None


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case _:
            return "an object"


def _shown(key: str) -> str:
    return one_line(key)[:60]
