#!/usr/bin/env python3
"""Put a question to the tables of an output: a query by name, or SQL over labels, top5, shards, runs and classes.

  jobs/query.py --output s3://bucket/tables labels
  jobs/query.py --output tables/ neighbours --set key=n02492660_howler_monkey --set number=5
  jobs/query.py --output tables/ --sql "SELECT label, count(*) FROM labels GROUP BY ALL"

Exit status: 0 answered, 2 wrong usage, or what DuckDB says of the question.
"""

import argparse
import sys

from pipeline.errors import UserError

try:
    from pipeline.tables.query import ask, connect, explaining_sql_errors, list_queries, note_foreign_tables
except ImportError as error:
    sys.exit(f"error: jobs/query.py needs DuckDB: pip install -c constraints.txt '.[sql]' ({error})")


def main() -> int:
    names = "\n".join(f"  {name:15} " + comment.replace("\n", "\n" + " " * 18) for name, comment in list_queries().items())
    parser = argparse.ArgumentParser(description=f"{__doc__}\nqueries:\n{names}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="URI", help="the tables, as given to jobs/label.py")
    parser.add_argument("--model", metavar="MODEL_ID", help="which model's tables, if there are several")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the query")
    question = parser.add_mutually_exclusive_group(required=True)
    question.add_argument("query", nargs="?", choices=list(list_queries()), metavar="QUERY", help="one of those above")
    question.add_argument("--sql", metavar="SQL", help="a question of one's own")
    options = parser.parse_args()
    try:
        settings = dict(setting.split("=", 1) for setting in options.set)
    except ValueError:
        parser.error("--set takes NAME=VALUE")
    try:
        question = options.query if options.sql is None else options.sql
        connection = connect(options.output, options.model)
        with explaining_sql_errors(connection):
            ask(connection, question, settings).show(max_rows=10_000)
        if note := note_foreign_tables(connection, question):
            print(f"note: {note}", file=sys.stderr)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
