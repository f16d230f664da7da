import datetime as dt
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nodes.settings import ParquetSource
from nodes.sources import DataSourceError, SourceLimits, load_rows, read_parquet_rows


def written(folder, columns, **options):
    path = folder / "rows.parquet"
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    pq.write_table(table, path, **options)
    return path


def test_types_come_back_as_they_are(tmp_path):
    path = written(
        tmp_path,
        {
            "id": ["a", "b"],
            "age": pa.array([41, 42], pa.int32()),
            "income": [1.5, None],
            "owner": [True, False],
            "since": [dt.date(2020, 1, 1), None],
        },
    )

    frame = read_parquet_rows(path)

    assert frame["id"].tolist() == ["a", "b"]
    assert frame["age"].tolist() == [41, 42]
    assert frame["income"].isna().tolist() == [False, True]
    assert frame["owner"].dtype == "bool"
    assert frame["since"].isna().tolist() == [False, True]


def test_whole_numbers_beyond_the_precision_of_floats_stay_exact_beside_missing_ones(tmp_path):
    frame = read_parquet_rows(written(tmp_path, {"id": [9_007_199_254_740_993, None]}))

    assert frame["id"].iloc[0] == 9_007_199_254_740_993
    assert frame["id"].isna().tolist() == [False, True]


def test_decimals_and_dictionaries_become_numbers_and_text(tmp_path):
    path = written(
        tmp_path,
        {
            "amount": pa.array([Decimal("12.50"), None], pa.decimal128(10, 2)),
            "state": pa.array(["CA", "NY"]).dictionary_encode(),
        },
    )

    frame = read_parquet_rows(path)

    assert frame["amount"].iloc[0] == 12.5
    assert frame["state"].tolist() == ["CA", "NY"]


def test_index_that_pandas_stored_is_an_ordinary_column(tmp_path):
    path = tmp_path / "indexed.parquet"
    pd.DataFrame({"age": [1, 2]}, index=pd.Index(["a", "b"], name="id")).to_parquet(path)

    assert read_parquet_rows(path)["id"].tolist() == ["a", "b"]


def test_few_kilobytes_that_unpack_to_much_are_stopped_on_the_way(tmp_path):
    path = written(tmp_path, {"id": ["x" * 10_000] * 20_000}, compression="zstd")
    assert path.stat().st_size < 100_000

    with pytest.raises(DataSourceError, match="of memory"):
        read_parquet_rows(path, SourceLimits(max_frame_bytes=100_000_000))


def test_rows_beyond_the_limit_are_refused(tmp_path):
    path = written(tmp_path, {"id": ["a"] * 11})

    with pytest.raises(DataSourceError, match="at most 10 rows"):
        read_parquet_rows(path, SourceLimits(max_rows=10))


def test_nested_and_binary_columns_are_refused_by_position(tmp_path):
    with pytest.raises(DataSourceError, match="nested type at column 2"):
        read_parquet_rows(written(tmp_path, {"id": ["a"], "tags": [["x", "y"]]}))
    with pytest.raises(DataSourceError, match="binary values at column 1"):
        read_parquet_rows(written(tmp_path, {"id": [b"a"]}))


def test_settings_source_is_loaded_by_its_kind(tmp_path):
    assert load_rows(ParquetSource(kind="parquet", path=written(tmp_path, {"id": ["a"]})))["id"].tolist() == ["a"]
