"""The sweep of the chapter, and its tables: ``python -m lorabook.practice``; it goes on where it stopped."""

import argparse
from pathlib import Path

from lorabook.practice import arms, plan, records, tables

parser = argparse.ArgumentParser(prog="python -m lorabook.practice", description=__doc__)
parser.add_argument("--records", type=Path, default=Path("_build/practice"), help="the folder of the records")
parser.add_argument("--tables", type=Path, default=Path("data/practice"), help="where the tables go")
parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no stage after so many; 0: tables only")
parser.add_argument("--pilot", action="store_true", help="run the pilot and write its table, and nothing else")
if __name__ == "__main__":
    options = parser.parse_args()
    if options.pilot:
        ran = [(falls, arm, arms.run(arm, plan.PILOT_SPLIT, falls)) for falls, arm in plan.PILOT]
        tables.pilot(ran, options.tables)
        raise SystemExit
    if options.minutes:
        records.sweep(options.records, options.minutes)
    known = records.read(options.records)
    tables.write(known, plan.planned(known), options.tables, records.identity())
