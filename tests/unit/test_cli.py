"""The command line: what it lists, what it loads, and how it fails."""

import json
import os
import subprocess
import sys

import pytest

from policies.agreement import load_agreement
from policies.errors import UserError
from tallystick.__main__ import main
from tallystick.verbs import VERBS

HEAVY = ("torch", "flwr", "pandas", "mlflow", "tenseal", "sklearn", "matplotlib", "fastapi", "sqlalchemy", "numpy")
MEMBERS = ("bank-a", "bank-b", "bank-c")
OWN = ("coordinator", "nodes", "simulations", "models")


def _python(script, *arguments):
    """Runs a script in a fresh interpreter on this code; returns (exit code, stdout, stderr)."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    return done.returncode, done.stdout, done.stderr


LOADED = """
import json, sys
from tallystick.__main__ import main
code = main(sys.argv[1:])
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def _loaded_by(*arguments):
    _, out, err = _python(LOADED, *arguments)
    assert err == ""
    code, modules = json.loads(out.rstrip().rpartition("\n")[2])
    assert code == 0
    return set(modules)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_and_version_load_nothing_heavy_and_nothing_of_either_side(arguments):
    assert not _loaded_by(*arguments) & {*HEAVY, *OWN}


def test_agreement_verb_loads_neither_side():
    assert not _loaded_by("agreement", "--help") & {"coordinator", "nodes", "simulations", "torch", "flwr"}


def test_node_verb_never_loads_the_coordinator():
    assert not _loaded_by("node", "run", "--help") & {"coordinator", "simulations", "torch", "flwr"}


def test_coordinator_verb_never_loads_the_nodes():
    assert not _loaded_by("coordinator", "run", "--help") & {"nodes", "simulations", "torch", "flwr"}


SERVICE_LOADED = """
import importlib, json, sys
service = importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.parametrize(("service", "other"), [("nodes.service", "coordinator"), ("coordinator.service", "nodes")])
def test_whole_service_of_one_side_never_loads_the_other(service, other):
    """What `node run` and `coordinator run` import once the settings are sound."""
    code, out, err = _python(SERVICE_LOADED, service)
    assert code == 0, err
    modules = set(json.loads(out))
    assert service.partition(".")[0] in modules
    assert not modules & {other, "simulations"}


def test_help_lists_every_verb_with_its_line(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name} " in out
        assert verb.help in out


@pytest.mark.parametrize(
    "verb",
    [
        ("agreement", "new"),
        ("agreement", "sign"),
        ("agreement", "verify"),
        ("agreement", "show"),
        ("node", "init"),
        ("node", "run"),
        ("node", "status"),
        ("coordinator", "init"),
        ("coordinator", "admit"),
        ("coordinator", "client"),
        ("coordinator", "run"),
        ("coordinator", "migrate"),
        ("ledger", "verify"),
        ("ledger", "show"),
        ("ledger", "export"),
        ("ledger", "proof"),
    ],
)
def test_help_of_a_verb_gives_an_example(capsys, verb):
    assert main([*verb, "--help"]) == 0
    assert f"Example: tallystick {' '.join(verb)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["agremeent"], ["agreement", "frob"], ["agreement", "show"], ["--loud"], ["node", "run", "--x"]]
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(capsys, arguments):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "--help`" in captured.err


@pytest.mark.parametrize("arguments", [[], ["agreement"], ["node"], ["coordinator"]])
def test_no_verb_shows_the_help_and_is_wrong_usage(capsys, arguments):
    assert main(arguments) == 2
    assert "Usage: tallystick" in "".join(capsys.readouterr())


def test_verb_that_this_installation_lacks_is_one_sentence_and_exit_code_2(capsys, monkeypatch):
    monkeypatch.setitem(VERBS, "demo", type(VERBS["demo"])("tallystick.no_such_module", "Nothing."))
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        "Error: The verb 'demo' is not part of this installation; install a version that has it.\n"
    )


@pytest.fixture
def verb(tmp_path, monkeypatch):
    """Replaces the verb `demo` by a module of the given source."""

    def install(source):
        (tmp_path / "some_verb.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "some_verb", raising=False)
        monkeypatch.setitem(VERBS, "demo", type(VERBS["demo"])("some_verb", "Some verb."))

    return install


def test_verb_may_be_a_plain_function(capsys, verb):
    verb('def command(number: int = 3) -> None:\n    """Count."""\n    print(number + 1)\n')
    assert main(["demo", "--number", "4"]) == 0
    assert capsys.readouterr().out == "5\n"


def test_verb_that_lacks_a_package_names_it(capsys, verb):
    verb("import no_such_package_at_all\n")
    assert main(["demo"]) == 2
    assert "'no_such_package_at_all'" in capsys.readouterr().err


def test_exit_code_of_a_verb_is_the_programs(verb):
    verb("import typer\ndef command() -> None:\n    raise typer.Exit(1)\n")
    assert main(["demo"]) == 1


def test_user_error_is_one_printable_line_and_exit_code_1(capsys, verb):
    verb(
        "from policies.errors import UserError\n"
        "def command() -> None:\n    raise UserError('expected a,\\nfound \\x1b[31mb;\\tdo c.')\n"
    )
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "Error: expected a, found \\x1b[31mb; do c.\n"


def test_ctrl_c_is_one_sentence_and_exit_code_1(capsys, verb):
    verb("def command() -> None:\n    raise KeyboardInterrupt\n")
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "Error: Stopped by Ctrl-C.\n"


BUG = """
import sys, tallystick.agreement
from tallystick.__main__ import main
def broken(path):
    secret = "hunter2"
    raise RuntimeError("the bug")
tallystick.agreement.load_agreement = broken
sys.exit(main(["agreement", "show", "a.toml"]))
"""


def test_bug_prints_one_sentence_and_keeps_the_traceback_in_a_private_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code, out, err = _python(BUG)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "Traceback" not in err
    (log,) = tmp_path.glob("tallystick-crash-*.log")
    assert str(log) in err
    assert "RuntimeError: the bug" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_every_user_error_is_a_plain_exception():
    assert UserError.__mro__[1] is Exception


@pytest.fixture
def signed(tmp_path, capsys, monkeypatch):
    """A folder in which an operator and three members made their keys and signed an agreement on them."""
    monkeypatch.chdir(tmp_path)
    assert main(["coordinator", "init", "--folder", "co", "--host", "localhost"]) == 0
    keys = [f"coordinator={_printed_key(capsys)}"]
    for member in MEMBERS:
        assert main(["node", "init", "--member", member, "--folder", member]) == 0
        keys.append(f"{member}={_printed_key(capsys)}")
    roster = ",".join(f"{member}:bank" for member in MEMBERS)
    options = [word for key in keys for word in ("--key", key)]
    assert main(["agreement", "new", "--members", roster, "--example", "gmsc", *options]) == 0
    for folder in ("co", *MEMBERS):
        assert main(["agreement", "verify", "agreement.toml"]) == 1
        assert main(["agreement", "sign", "agreement.toml", "--key", f"{folder}/keys/identity.pem"]) == 0
    capsys.readouterr()
    return tmp_path


def _printed_key(capsys):
    lines = capsys.readouterr().out.splitlines()
    return next(line.split()[-1] for line in lines if line.startswith("identity key"))


def test_whole_way_from_keys_to_a_node_that_is_ready(signed, capsys):
    """The commands of the README, in order."""
    assert main(["agreement", "verify", "agreement.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["complete"] is True
    for name in ("agreement.toml", "agreement.signatures.json"):
        for folder in ("co", *MEMBERS):
            (signed / folder / name).write_bytes((signed / name).read_bytes())
    assert main(["coordinator", "admit", "bank-a/bank-a.csr", "--settings", "co/coordinator.toml"]) == 0
    assert main(["node", "status", "--settings", "bank-a/node.toml"]) == 1
    for name in ("co/members/bank-a.crt", "co/keys/consortium-ca.crt"):
        (signed / "bank-a/keys" / name.rpartition("/")[2]).write_bytes((signed / name).read_bytes())
    capsys.readouterr()
    assert main(["node", "status", "--settings", "bank-a/node.toml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ready"] is True


def test_shown_agreement_keeps_the_holdout_key_to_itself(signed, capsys):
    holdout_key = load_agreement(signed / "agreement.toml").entities.holdout_key
    for options in ([], ["--json"]):
        assert main(["agreement", "show", "agreement.toml", *options]) == 0
        out = capsys.readouterr().out
        assert "bank-a" in out
        assert holdout_key not in out


def test_second_init_keeps_the_keys(tmp_path, capsys):
    folder = str(tmp_path / "bank-a")
    assert main(["node", "init", "--member", "bank-a", "--folder", folder]) == 0
    first = _printed_key(capsys)
    assert main(["node", "init", "--member", "bank-a", "--folder", folder]) == 0
    assert _printed_key(capsys) == first
