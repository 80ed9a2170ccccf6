import gzip

import pytest

from dask_fmware.demo.trace import TraceRow, fit_lengths, read_trace, trace_rows
from dask_fmware.errors import SpecError

TEXT = "arrival_s,prompt_tokens,output_tokens,model\n0.5,374,44,x\n0.0,12.0,7,y\n"


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "of Excel"])
def test_gzip_and_plain_files_read_alike(tmp_path, mark):
    text, packed = tmp_path / "t.csv", tmp_path / "t.csv.gz"
    content = f"{mark}{TEXT}".encode()
    text.write_bytes(content)
    packed.write_bytes(gzip.compress(content))
    assert read_trace(text, 10) == read_trace(packed, 10) == [TraceRow(0.0, 12, 7), TraceRow(0.5, 374, 44)]


def test_only_as_many_rows_are_read_as_asked_for(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TEXT + "not,a,number\n")
    assert len(read_trace(path, 2)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("arrival_s,prompt_tokens\n1,2\n", "line 1: no column output_tokens"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2,3\n1,x,3\n", "line 3: prompt_tokens is 'x', not a number"),
        ("arrival_s,prompt_tokens,output_tokens\n1,2\n", "line 2: output_tokens is None"),
        ("arrival_s,prompt_tokens,output_tokens\nnan,2,3\n", "arrival_s is nan"),
        ("arrival_s,prompt_tokens,output_tokens\n1,-2,3\n", "prompt_tokens is -2"),
        ("", "line 1: no column"),
    ],
)
def test_wrong_rows_are_named(text, said):
    with pytest.raises(SpecError, match=said):
        list(trace_rows(text.splitlines(), "t.csv"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"arrival_s,prompt_tokens,output_tokens\n", "has no rows"),
        ("t.csv", b"\xff\xfe\x00", "is no CSV text"),
        ("t.csv.gz", TEXT.encode(), "cannot be read"),
        ("t.csv.gz", gzip.compress(TEXT.encode() * 100)[:40], "cannot be read"),
    ],
)
def test_files_that_are_no_trace_are_refused(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SpecError, match=said):
        read_trace(path, 5)


def test_short_lengths_are_left_as_they_are():
    lengths = fit_lengths([TraceRow(0.0, 100, 20)], context_tokens=1024)
    assert (lengths.prompt_factor, lengths.output_factor, lengths.clipped) == (1.0, 1.0, 0)


def test_long_lengths_are_scaled_and_the_longest_clipped():
    rows = [TraceRow(0.0, 1000 * n, 100 * n) for n in range(1, 101)]
    lengths = fit_lengths(rows, context_tokens=1024)
    assert lengths.padding_tokens(rows[47]) == pytest.approx(128, abs=2)  # half of the row that just fits
    assert lengths.padding_tokens(rows[99]) == 256
    assert lengths.clipped == 4


def test_bounds_of_answers_are_few():
    lengths = fit_lengths([TraceRow(0.0, 10, n) for n in range(1, 200)], context_tokens=1024)
    bounds = {lengths.answer_tokens(TraceRow(0.0, 10, n)) for n in range(200)}
    assert bounds == {1, 2, 4, 8, 16, 32, 64}
