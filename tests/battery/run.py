"""What it survives: faults that are really injected, again and again, into real processes. A row a case.

    python tests/battery/run.py [CASE ...] [--list]

`make battery` runs all of them. Exit code 1 where a row is not full. KILLS=50 kills each recipe of `resume` 50 times;
PLACES="model export" fills only these disks of `full_disk`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from frame import Case, Row

#: The modules of this folder that hold cases.
MODULES = ("resume", "disk", "preflight")


def cases() -> dict[str, Case]:
    """Returns all cases by their names, in the order of the modules."""
    return {case.__name__: case for module in MODULES for case in importlib.import_module(module).CASES}


def main() -> None:
    known = cases()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="those to run; all without one")
    parser.add_argument("--list", action="store_true", help="list the cases")
    options = parser.parse_args()
    unknown = set(options.cases) - set(known)
    if unknown:
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.list:
        print("\n".join(f"{name:<20} {case.__doc__}" for name, case in known.items()))
        return
    rows: list[Row] = []
    print("| case | tried | survived | seconds |\n|---|---:|---:|---:|", flush=True)
    for name in options.cases or known:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"battery-{name}-") as folder:
            for row in known[name](Path(folder)):
                rows.append(row)
                print(f"| {row.case} | {row.tried} | {row.survived} | {time.monotonic() - began:.0f} |", flush=True)
                for failure in row.failures:
                    print(f"    {failure}", file=sys.stderr)
                began = time.monotonic()
    sys.exit(any(row.survived < row.tried for row in rows))


if __name__ == "__main__":
    main()
