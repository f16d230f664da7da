import gzip

import pytest

from nodes.settings import CsvSource
from nodes.sources import DataSourceError, SourceLimits, load_rows, read_csv_rows


def written(folder, content):
    path = folder / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_column_comes_back_as_text_so_that_ids_keep_their_zeros(tmp_path):
    frame = read_csv_rows(written(tmp_path, "id,age\n0007,41\n0008,42\n"))

    assert frame["id"].tolist() == ["0007", "0008"]
    assert frame["age"].tolist() == ["41", "42"]


def test_empty_fields_and_words_for_nothing_are_missing(tmp_path):
    frame = read_csv_rows(written(tmp_path, "id,age\na,\nb,NA\nc,null\nd,0\n"))

    assert frame["age"].isna().tolist() == [True, True, True, False]


def test_byte_order_mark_crlf_quotes_and_blank_lines_are_read(tmp_path):
    text = '\ufeff id ,note\r\na,"one, two"\r\n\r\nb,"she said ""no""\r\nand left"\r\n'

    frame = read_csv_rows(written(tmp_path, text))

    assert list(frame.columns) == ["id", "note"]
    assert frame["note"].tolist() == ["one, two", 'she said "no"\r\nand left']


def test_csv_without_final_line_break_keeps_its_last_row(tmp_path):
    assert read_csv_rows(written(tmp_path, "id,age\na,1\nb,2"))["age"].tolist() == ["1", "2"]


def test_rows_beyond_the_limit_are_refused_rather_than_cut_off(tmp_path):
    path = written(tmp_path, "id\n" + "".join(f"a{number}\n" for number in range(11)))

    with pytest.raises(DataSourceError, match="at most 10 rows"):
        read_csv_rows(path, SourceLimits(max_rows=10))
    assert len(read_csv_rows(path, SourceLimits(max_rows=11))) == 11


def test_large_file_is_refused_before_it_is_read(tmp_path):
    path = written(tmp_path, "id,age\na,1\n")

    with pytest.raises(DataSourceError, match="at most 5 bytes"):
        read_csv_rows(path, SourceLimits(max_file_bytes=5))


def test_ragged_rows_are_counted_and_the_first_is_named_by_position(tmp_path):
    path = written(tmp_path, "id,age\na,1\nb\nc,3,4\nd,4\n")

    with pytest.raises(DataSourceError, match=r"2 fields in every row, found another number in 2 row\(s\).*row 3"):
        read_csv_rows(path)


def test_open_quote_does_not_swallow_the_rows_that_follow(tmp_path):
    path = written(tmp_path, 'id,age\na,"1\nb,2\nc,3\n')

    with pytest.raises(DataSourceError, match="quote characters in pairs"):
        read_csv_rows(path)


def test_wrong_separator_is_named(tmp_path):
    with pytest.raises(DataSourceError, match="separated by commas, found semicolons"):
        read_csv_rows(written(tmp_path, "id;age\na;1\n"))


def test_compressed_file_is_recognised(tmp_path):
    with pytest.raises(DataSourceError, match="gzip-compressed"):
        read_csv_rows(written(tmp_path, gzip.compress(b"id,age\na,1\n")))


def test_wrong_encoding_is_found_wherever_it_stands(tmp_path):
    rows = "".join(f"a{number},1\n" for number in range(200_000)).encode()

    with pytest.raises(DataSourceError, match="expected UTF-8"):
        read_csv_rows(written(tmp_path, b"id,name\n" + rows + "b,Müller\n".encode("latin-1")))


def test_character_split_between_two_blocks_of_the_scan_is_still_utf8(tmp_path):
    text = "id,name\n" + "a," + "x" * (1_048_576 - 11) + "ü\n"

    assert text.encode()[: 1 << 20].endswith(b"\xc3")
    assert read_csv_rows(written(tmp_path, text))["name"].str.endswith("ü").all()


def test_file_without_header_is_refused_without_showing_its_first_row(tmp_path):
    with pytest.raises(DataSourceError, match="found numbers; add a header") as refused:
        read_csv_rows(written(tmp_path, "4711,52\n4712,53\n"))
    assert "4711" not in str(refused.value)


def test_settings_source_is_loaded_by_its_kind(tmp_path):
    source = CsvSource(kind="csv", path=written(tmp_path, "id,age\na,1\n"))

    assert load_rows(source)["id"].tolist() == ["a"]
