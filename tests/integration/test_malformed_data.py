"""Malformed data sources, hand-written and generated: each gives one clear sentence and shows no value.

Every file holds a canary value. A refusal may name columns of the agreement, positions and counts, never what is in a
row, and no error of a library may ride along in its chain.
"""

import gzip
import io
import random
import sqlite3
import zipfile
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nodes.contract import check_rows
from nodes.sources import SourceLimits, load_rows
from policies.agreement import Feature
from policies.errors import UserError

CANARY = "canary-7f3a"
NUMBER = "90217.7731"
HEADER = "entity_id,age,income,bad\n"
LIMITS = SourceLimits(max_columns=50, max_rows=1_000, max_file_bytes=8 << 20, max_frame_bytes=16 << 20)


def sound_rows(rows=40):
    return [(f"{CANARY}-{number}", 20 + number, float(NUMBER) + number, number % 2) for number in range(rows)]


def sound_csv():
    return HEADER + "".join(",".join(map(str, row)) + "\n" for row in sound_rows())


def sound_frame():
    return pd.DataFrame(sound_rows(), columns=HEADER.strip().split(","))


def sound_parquet():
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(sound_frame(), preserve_index=False), buffer, compression="snappy")
    return buffer.getvalue()


def zipped(content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("rows.csv", content)
    return buffer.getvalue()


def changed(column, value):
    frame = sound_frame().astype({column: object})
    frame[column] = value
    return frame.to_csv(index=False)


FEATURES = tuple(
    Feature(
        role="bank",
        name=name,
        type=kind,
        unit="unit",
        low=low,
        high=high,
        monotone="none",
        reason_code=name.upper(),
        missing_allowed=False,
    )
    for name, kind, low, high in (("age", "integer", 18.0, 120.0), ("income", "number", 0.0, 1e6))
)


def prepare(source):
    """What a node does with its source, from the file to training data."""
    frame = load_rows(source, LIMITS)
    rows, _ = check_rows(frame, FEATURES, id_column="entity_id", label_column="bad", whose="bank-a")
    rows.training_data(bytes(32), 30)


def assert_one_clear_sentence(error):
    text = str(error)
    assert text
    assert text.endswith(".")
    assert text.isprintable(), "one line, no control characters"
    assert ". " not in text, f"more than one sentence: {text}"
    assert len(text) < 500
    assert "Traceback" not in text
    assert CANARY not in text
    assert NUMBER not in text
    # What a log would print below the sentence: no error of a library, whose text may quote rows.
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__


def refuse(source):
    with pytest.raises(UserError) as refused:
        prepare(source)
    assert_one_clear_sentence(refused.value)
    return str(refused.value)


MALFORMED_CSV = {
    "empty file": b"",
    "line breaks alone": b"\n\n\n",
    "header alone": HEADER.encode(),
    "header without line break": HEADER.strip().encode(),
    "empty header line": b"\n" + sound_csv().encode(),
    "no header, first row is data": sound_csv().removeprefix(HEADER).encode(),
    "numbers where the header should be": f"1,2,{NUMBER},0\n1,2,{NUMBER},1\n".encode(),
    "same value twice where the header should be": f"{CANARY},{CANARY},1,0\n{CANARY},{CANARY},1,1\n".encode(),
    "same column twice": sound_csv().replace("income", "age", 1).encode(),
    "column without a name": sound_csv().replace("income", "", 1).encode(),
    "column name of 200 characters": sound_csv().replace("income", "i" * 200, 1).encode(),
    "column name with a control character": sound_csv().replace("income", "in\x07come", 1).encode(),
    "header of 60 columns": (",".join(f"c{n}" for n in range(60)) + "\n" + ",".join([CANARY] * 60) + "\n").encode(),
    "row with a field too few": (sound_csv() + f"{CANARY},20,{NUMBER}\n").encode(),
    "row with a field too many": (sound_csv() + f"{CANARY},20,{NUMBER},0,{CANARY}\n").encode(),
    "comma as decimal mark": sound_csv().replace(".", ",").encode(),
    "semicolons": sound_csv().replace(",", ";").encode(),
    "tabs": sound_csv().replace(",", "\t").encode(),
    "vertical bars": sound_csv().replace(",", "|").encode(),
    "open quote": (HEADER + f'"{CANARY},20,{NUMBER},0\n' + sound_csv().removeprefix(HEADER)).encode(),
    "open quote in the header": ('"entity_id,age,income,bad\n' + sound_csv().removeprefix(HEADER)).encode(),
    "Latin-1": sound_csv().encode() + f"{CANARY}é,20,{NUMBER},0\n".encode("latin-1"),
    "cut inside a character": sound_csv().encode() + f"{CANARY}-ü".encode()[:-1],
    "UTF-16": sound_csv().encode("utf-16"),
    "UTF-16 without a mark": sound_csv().encode("utf-16-le"),
    "UTF-32": sound_csv().encode("utf-32"),
    "NUL bytes": sound_csv().replace(CANARY, f"{CANARY}\x00", 1).encode(),
    "gzip": gzip.compress(sound_csv().encode()),
    "zip or workbook": zipped(sound_csv()),
    "Parquet under the name of CSV": sound_parquet(),
    "JSON": sound_frame().to_json(orient="records").encode(),
    "HTML": sound_frame().to_html().encode(),
    "field of 5 MB": (HEADER + f"{CANARY},20,{'9' * 5_000_000},0\n").encode(),
    "more bytes than allowed": (HEADER + f"{CANARY},20,{NUMBER},0\n" * 400_000).encode(),
    "more rows than allowed": (HEADER + "".join(f"{CANARY}-{n},20,{NUMBER},0\n" for n in range(1_500))).encode(),
    "column of the agreement missing": sound_frame().drop(columns="income").to_csv(index=False).encode(),
    "column names in another case": sound_csv().replace(HEADER, HEADER.upper()).encode(),
    "all ids the same": changed("entity_id", CANARY).encode(),
    "all ids missing": changed("entity_id", None).encode(),
    "all ages words": changed("age", CANARY).encode(),
    "all ages below the range": changed("age", 3).encode(),
    "all ages fractions": changed("age", 20.5).encode(),
    "all ages missing": changed("age", None).encode(),
    "all incomes infinite": changed("income", "inf").encode(),
    "all incomes above the range": changed("income", "9021777310").encode(),
    "thousands separators": changed("income", "90,217").encode(),
    "currency signs": changed("income", f"${NUMBER}").encode(),
    "labels as words": changed("bad", "yes").encode(),
    "labels 1 and 2": sound_frame().assign(bad=[1 + n % 2 for n in range(40)]).to_csv(index=False).encode(),
}


@pytest.mark.parametrize("name", MALFORMED_CSV)
def test_malformed_csv_gives_one_sentence_without_a_value(tmp_path, name):
    path = tmp_path / "rows.csv"
    path.write_bytes(MALFORMED_CSV[name])

    refuse(SimpleNamespace(kind="csv", path=path))


def parquet_of(columns):
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def parquet_with_invalid_text():
    """Arrow writes text without looking at it; the file is sound in all else."""
    raw = f"{CANARY}\xff".encode("latin-1")
    text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, len(raw)], "<i4")), pa.py_buffer(raw)]
    )
    return parquet_of({"entity_id": text, "age": [20], "income": [1.0], "bad": [0]})


MALFORMED_PARQUET = {
    "empty file": b"",
    "CSV under the name of Parquet": sound_csv().encode(),
    "first four bytes alone": b"PAR1",
    "first and last four bytes alone": b"PAR1PAR1",
    "footer longer than the file": b"PAR1" + b"\xff\xff\xff\x7f" + b"PAR1",
    "footer of zeros": b"PAR1" + bytes(64) + (64).to_bytes(4, "little") + b"PAR1",
    "encrypted": b"PARE" + sound_parquet()[4:],
    "first half": sound_parquet()[: len(sound_parquet()) // 2],
    "second half": sound_parquet()[len(sound_parquet()) // 2 :],
    "last byte missing": sound_parquet()[:-1],
    "no rows": parquet_of(sound_frame().iloc[:0].to_dict("list")),
    "no columns": parquet_of({}),
    "text that is not UTF-8": parquet_with_invalid_text(),
    "nested column": parquet_of({**sound_frame().to_dict("list"), "notes": [[CANARY]] * 40}),
    "column of structs": parquet_of({**sound_frame().to_dict("list"), "notes": [{"a": CANARY}] * 40}),
    "binary column": parquet_of({**sound_frame().to_dict("list"), "raw": [CANARY.encode()] * 40}),
    "60 columns": parquet_of({f"c{n}": [CANARY] for n in range(60)}),
    "column without a name": parquet_of({**sound_frame().to_dict("list"), "": [CANARY] * 40}),
    "names that differ in white space alone": parquet_of({**sound_frame().to_dict("list"), "age ": [CANARY] * 40}),
    "more rows than allowed": parquet_of({"entity_id": [CANARY] * 1_500}),
    "text that unpacks to more than allowed": parquet_of({"entity_id": [CANARY * 4_000] * 900}),
    "column of the agreement missing": parquet_of(sound_frame().drop(columns="bad").to_dict("list")),
    "dates where numbers belong": parquet_of({**sound_frame().to_dict("list"), "age": [pd.Timestamp(0)] * 40}),
    "text where numbers belong": parquet_of({**sound_frame().to_dict("list"), "income": [CANARY] * 40}),
    "nothing but missing labels": parquet_of({**sound_frame().to_dict("list"), "bad": pa.nulls(40)}),
    "fractions as ids": parquet_of({**sound_frame().to_dict("list"), "entity_id": [n + 0.5 for n in range(40)]}),
    "booleans as ids": parquet_of({**sound_frame().to_dict("list"), "entity_id": [True] * 40}),
}


@pytest.mark.parametrize("name", MALFORMED_PARQUET)
def test_malformed_parquet_gives_one_sentence_without_a_value(tmp_path, name):
    path = tmp_path / "rows.parquet"
    path.write_bytes(MALFORMED_PARQUET[name])

    refuse(SimpleNamespace(kind="parquet", path=path))


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("bank") / "bank.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        sound_frame().to_sql("loans", connection, index=False)
        connection.execute("create table raw (entity_id blob)")
        connection.execute("insert into raw values (?)", (CANARY.encode(),))
        connection.execute("create table wrong_text (entity_id text)")
        connection.execute("insert into wrong_text values (cast(? as text))", (f"{CANARY}\xff".encode("latin-1"),))
    return path


MALFORMED_QUERIES = {
    "nothing": "",
    "not SQL": f"{CANARY}",
    "two statements": f"select * from loans; select '{CANARY}'",
    "deletes": f"delete from loans where entity_id = '{CANARY}'",
    "deletes inside WITH": "with gone as (delete from loans returning *) select * from gone",
    "updates": f"update loans set entity_id = '{CANARY}'",
    "drops": "drop table loans",
    "changes the schema": "create table other as select * from loans",
    "attaches a file": f"attach '{CANARY}.db' as other",
    "pragma": "pragma table_info(loans)",
    "pragma as a function": "select * from pragma_table_info('loans')",
    "open quote": f"select * from loans where entity_id = '{CANARY}",
    "open comment": f"select * from loans /* {CANARY}",
    "no such table": f"select * from absent where entity_id = '{CANARY}'",
    "no such column": f'select "{CANARY}" from loans',
    "no such function": f"select absent('{CANARY}') from loans",
    "syntax error": f"select from where '{CANARY}'",
    "unbalanced": "select (entity_id from loans",
    "parameters": f"select * from loans where entity_id = ? or entity_id = '{CANARY}'",
    "no rows": f"select * from loans where entity_id = '{CANARY}'",
    "same column twice": "select entity_id, age as entity_id from loans",
    "column without a usable name": "select entity_id, 1 as '' from loans",
    "binary column": "select entity_id from raw",
    "text that is not UTF-8": "select entity_id from wrong_text",
    "more rows than allowed": "select a.* from loans a, loans b",
    "columns of the agreement missing": "select entity_id from loans",
    "extension": f"select load_extension('{CANARY}')",
    "too long": "select " + "1 + " * 20_000 + "1",
}


@pytest.mark.parametrize("name", MALFORMED_QUERIES)
def test_malformed_query_gives_one_sentence_without_a_value(database, name):
    refuse(SimpleNamespace(kind="sql", url=f"sqlite:///{database}", query=MALFORMED_QUERIES[name]))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("select count(*) from loans").fetchone() == (40,)


MALFORMED_URLS = {
    "nothing": "",
    "not a URL": CANARY,
    "port is no number": f"postgresql://reader:{CANARY}@host:port/loans",
    "no scheme": f"//reader:{CANARY}@host/loans",
    "postgres instead of postgresql": f"postgres://reader:{CANARY}@host/loans",
    "another database": f"mysql://reader:{CANARY}@host/loans",
    "made-up dialect": f"{CANARY}://host/loans",
    "another driver": f"postgresql+{CANARY}://reader@host/loans",
    "no server there": f"postgresql://reader:{CANARY}@127.0.0.1:1/loans",
    "SQLite in memory": "sqlite://",
    "SQLite in memory by name": "sqlite:///:memory:",
    "SQLite with options": f"sqlite:///bank.db?mode={CANARY}",
    "SQLite by file URI": "sqlite:///file:bank.db",
    "SQLite file that is absent": "sqlite:////no/such/folder/bank.db",
    "SQLite folder": "sqlite:////",
}


@pytest.mark.parametrize("name", MALFORMED_URLS)
def test_malformed_url_gives_one_sentence_without_a_password(name):
    refuse(SimpleNamespace(kind="sql", url=MALFORMED_URLS[name], query="select * from loans"))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_path_that_is_no_ordinary_file_gives_one_sentence(tmp_path, kind):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path in (tmp_path / "absent", tmp_path, "/dev/zero", loop, tmp_path / ("n" * 300), "nul\x00byte"):
        refuse(SimpleNamespace(kind=kind, path=path))


def test_source_of_an_unknown_kind_gives_one_sentence():
    for source in (SimpleNamespace(kind="excel", path="rows.xlsx"), SimpleNamespace(), SimpleNamespace(kind="sql")):
        refuse(source)


def test_sqlite_file_of_another_format_or_damaged_gives_one_sentence(tmp_path, database):
    sound = database.read_bytes()
    for name, content in {
        "csv": sound_csv().encode(),
        "header": b"SQLite format 3\x00",
        "half": sound[: len(sound) // 2],
        "noise": sound[:100] + random.Random(5).randbytes(len(sound) - 100),
    }.items():
        path = tmp_path / f"{name}.db"
        path.write_bytes(content)
        refuse(SimpleNamespace(kind="sql", url=f"sqlite:///{path}", query="select * from loans"))


def damaged_copies(sound, rng, count):
    """Copies of a sound file with bytes changed, removed, repeated or cut off."""
    for _ in range(count):
        content = bytearray(sound)
        match rng.randrange(4):
            case 0:
                for _ in range(rng.randint(1, 8)):
                    content[rng.randrange(len(content))] = rng.randrange(256)
            case 1:
                start = rng.randrange(len(content))
                del content[start : start + rng.randint(1, 64)]
            case 2:
                start = rng.randrange(len(content))
                content[start:start] = content[start : start + rng.randint(1, 64)]
            case 3:
                del content[rng.randrange(len(content)) :]
        yield bytes(content)


@pytest.mark.parametrize(("kind", "sound"), [("csv", sound_csv().encode()), ("parquet", sound_parquet())])
def test_generated_damage_is_read_or_gives_one_sentence(tmp_path, kind, sound):
    path = tmp_path / f"rows.{kind}"
    num_refused = 0
    for content in damaged_copies(sound, random.Random(20_26), 300):
        path.write_bytes(content)
        try:
            prepare(SimpleNamespace(kind=kind, path=path))
        except UserError as refused:
            assert_one_clear_sentence(refused)
            num_refused += 1
    assert num_refused > 50


def test_generated_damage_to_sqlite_is_read_or_gives_one_sentence(tmp_path, database):
    path = tmp_path / "bank.db"
    for content in damaged_copies(database.read_bytes(), random.Random(7), 100):
        path.write_bytes(content)
        try:
            prepare(SimpleNamespace(kind="sql", url=f"sqlite:///{path}", query="select * from loans"))
        except UserError as refused:
            assert_one_clear_sentence(refused)


def test_sound_files_are_read_so_that_the_refusals_above_mean_something(tmp_path, database):
    (tmp_path / "rows.csv").write_text(sound_csv())
    (tmp_path / "rows.parquet").write_bytes(sound_parquet())

    prepare(SimpleNamespace(kind="csv", path=tmp_path / "rows.csv"))
    prepare(SimpleNamespace(kind="parquet", path=tmp_path / "rows.parquet"))
    prepare(SimpleNamespace(kind="sql", url=f"sqlite:///{database}", query="select * from loans"))
