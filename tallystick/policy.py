"""`tallystick policy`: check, show and explain the lending policy."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from policies.decision_tables.table import Table
    from policies.lending.cases import DecisionCase
    from policies.lending.policy import CheckReport, LendingPolicy, Problem

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

Folder = Annotated[Path | None, typer.Option(help="Folder of the policy; the shipped one by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _policy() -> None:
    """The lending policy: decision tables with versions and dates, cases beside each, and reasons in words."""


@app.command(epilog="Example: tallystick policy check --folder policy --agreement agreement.toml")
def check(
    folder: Folder = None,
    agreement: Annotated[
        Path | None, typer.Option(help="Agreement whose reason codes must all have a text of their own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every table, date and case; exit code 1 when anything is wrong."""
    from policies.lending.policy import DEFAULT_FOLDER, check_folder

    policy, report = check_folder(folder or DEFAULT_FOLDER)
    problems = list(report.problems)
    if policy is not None and agreement is not None:
        problems += _unmapped(policy, agreement)
    if as_json:
        _print_json(_report(report, problems))
    else:
        for line in _check_lines(report, problems):
            print(line)
    if problems:
        raise typer.Exit(1)


@app.command(epilog="Example: tallystick policy show --date 2026-11-25 --table product")
def show(
    date: Annotated[str | None, typer.Option(help="Day, as 2026-11-25; today in UTC by default.")] = None,
    table: Annotated[str | None, typer.Option(help="Show the rows of this table.")] = None,
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Show which versions decide on a day, or the rows of one table."""
    from policies.lending.policy import DEFAULT_FOLDER, LendingPolicy

    day = _day(date)
    chosen = LendingPolicy.load(folder or DEFAULT_FOLDER).on(day)
    if table is not None and table not in chosen.tables:
        raise typer.BadParameter(f"expected one of {', '.join(sorted(chosen.tables))}, found {table!r}")
    if table is not None:
        _show_table(chosen.tables[table], as_json=as_json)
        return
    if as_json:
        tables = [_table_facts(one) for _, one in sorted(chosen.tables.items())]
        _print_json({"date": day.isoformat(), "sha256": chosen.sha256, "tables": tables})
        return
    print(f"policy of {day}  sha-256 {chosen.sha256}")
    print(f"{'table':<16} {'version':<12} {'from':<10} {'to':<10} {'rows':>4}  sha-256")
    for name, one in sorted(chosen.tables.items()):
        until = "-" if one.effective_to is None else one.effective_to.isoformat()
        print(f"{name:<16} {one.version:<12} {one.effective_from} {until:<10} {len(one.rows):>4}  {one.sha256[:12]}")


@app.command(epilog="Example: tallystick policy explain order-in-full")
def explain(
    case: Annotated[str, typer.Argument(help="Id of a case in the folder, or a JSON file with one case.")],
    folder: Folder = None,
    as_json: AsJson = False,
) -> None:
    """Decide on a case, and say which row of which table led to what."""
    from policies.lending.cases import differences
    from policies.lending.explain import explained
    from policies.lending.policy import DEFAULT_FOLDER, LendingPolicy

    policy = LendingPolicy.load(folder or DEFAULT_FOLDER)
    chosen = _case(policy, case)
    decision = chosen.decided(policy.on(chosen.on))
    different = differences(chosen, decision)
    if as_json:
        _print_json({"case": chosen.id, "decision": decision.model_dump(mode="json"), "differences": different})
    else:
        print(f"{chosen.id}: {chosen.description}")
        print("\n".join(explained(decision)))
        print("\n".join(different) if different else "as the case expects")
    if different:
        raise typer.Exit(1)


def _day(text: str | None) -> dt.date:
    if text is None:
        return dt.datetime.now(dt.UTC).date()
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--date: expected a day as 2026-11-25, found {text!r}") from None


def _case(policy: LendingPolicy, case: str) -> DecisionCase:
    from policies.decision_tables.errors import PolicyRefused
    from policies.lending.cases import read_cases

    for known in policy.cases:
        if known.id == case:
            return known
    if not case.endswith(".json"):
        raise PolicyRefused(
            f"expected the id of a case ({', '.join(known.id for known in policy.cases)}) or a JSON file, found"
            f" {case!r}; choose one."
        )
    found = read_cases(Path(case))
    if len(found) != 1:
        raise PolicyRefused(f"{case}: expected one case, found {len(found)}; put the others elsewhere.")
    return found[0]


def _unmapped(policy: LendingPolicy, agreement: Path) -> list[Problem]:
    from policies.agreement import load_agreement
    from policies.lending.policy import Problem
    from policies.lending.reasons import unmapped_score_codes

    codes = {feature.reason_code for feature in load_agreement(agreement).features}
    newest = policy.on(policy.days_of_change()[-1])
    version = newest.tables["score_reason"].version
    return [
        Problem(
            f"score_reason/{version}.json",
            f"expected a row for the agreement's reason code {code}, found only the one for any other; add one.",
        )
        for code in unmapped_score_codes(newest, codes)
    ]


def _report(report: CheckReport, problems: list[Problem]) -> dict[str, Any]:
    return {
        "ok": not problems,
        "versions": report.versions,
        "table_cases": report.table_cases,
        "decision_cases": report.decision_cases,
        "problems": [{"file": problem.file, "problem": problem.sentence} for problem in problems],
    }


def _check_lines(report: CheckReport, problems: list[Problem]) -> list[str]:
    counts = (
        f"{report.versions} versions of tables, {report.table_cases} cases of tables, {report.decision_cases} decisions"
    )
    if not problems:
        return [f"{counts}: all as expected"]
    width = max(len("file"), *(len(problem.file) for problem in problems))
    return [
        f"{counts}: {len(problems)} problem{'s' if len(problems) > 1 else ''}",
        f"{'file':<{width}}  problem",
        *(f"{problem.file:<{width}}  {problem.sentence}" for problem in problems),
    ]


def _show_table(table: Table, *, as_json: bool) -> None:
    from policies.decision_tables.cells import shown_value

    rows: list[dict[str, Any]] = [
        {
            "row": row.id,
            "description": row.description,
            "conditions": {name: cell for name, cell in row.cells.items() if cell},
            "outputs": {name: shown_value(value) for name, value in row.outputs.items()},
        }
        for row in table.rows.values()
    ]
    if as_json:
        _print_json({**_table_facts(table), "rows": rows})
        return
    print(f"{table.name} {table.version}, {table.shape.hit} row{'s' if table.shape.hit == 'collect' else ''} found")
    print(f"source: {table.source}")
    for row in rows:
        conditions = ", ".join(f"{name} {cell}" for name, cell in row["conditions"].items()) or "anything"
        outputs = ", ".join(f"{name} = {value}" for name, value in row["outputs"].items())
        print(f"{row['row']}: {conditions} -> {outputs}  # {row['description']}")


def _table_facts(table: Table) -> dict[str, Any]:
    return {
        "table": table.name,
        "version": table.version,
        "effective_from": table.effective_from.isoformat(),
        "effective_to": None if table.effective_to is None else table.effective_to.isoformat(),
        "sha256": table.sha256,
        "source": table.source,
    }


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, ensure_ascii=False, indent=1))
