"""A report comes out of Arrow as it went in; each column of the schema has its field."""

from dataclasses import fields

import pytest

from pipeline.stages.reports import REPORT, Report, SegmentReport, read_reports
from pipeline.tables.counts import Counts

SEGMENT_FIELDS = {field.name for field in REPORT.field("segments").type.value_type}
COUNTS = {"num_rejected", "rejected", "labels", "confidence"}


def segment_of(number: int) -> SegmentReport:
    counts = Counts(3)
    counts.rejected["truncated"] = 1
    counts.labels[7] = 2
    counts.confidence[4] = 2
    return SegmentReport(
        number=number, shard=f"{number}.tar", uri=f"in/{number}.tar", size=10, etag="e", first=0, num_images=3,
        end=True, failure=None,
        retryable=False, num_bytes=9, decode_s=0.5, left_out=[], counts=counts, label_s=0.25,
        examples=[{"error": "truncated", "shard": f"{number}.tar", "index": 1, "key": "k1"}], file_size=5,
        file_etag="f")


def test_a_report_is_read_as_it_was_written():
    report = Report(segments=[segment_of(0), segment_of(1)], label_s=0.5, num_slots=8, precision="fp16", runner="fast",
                    runner_note="",
                    num_blocks=2, num_moved=1, pictures=[])
    table = report.to_table()
    assert table.schema.equals(REPORT) and list(read_reports(table)) == [report]


def test_the_fields_of_a_report_are_the_columns_of_its_schema():
    assert {field.name for field in fields(Report)} == set(REPORT.names)
    assert {field.name for field in fields(SegmentReport)} == SEGMENT_FIELDS - COUNTS | {"counts"}
    assert segment_of(0).to_row().keys() == SEGMENT_FIELDS


@pytest.mark.parametrize("name", sorted(SEGMENT_FIELDS))
def test_a_column_that_is_missing_is_an_error(name):
    row = segment_of(0).to_row()
    del row[name]
    if name == "num_rejected":  # it follows from `rejected`
        assert SegmentReport.from_row(row).counts.rejected.total() == 1
        return
    with pytest.raises(KeyError):
        SegmentReport.from_row(row)
