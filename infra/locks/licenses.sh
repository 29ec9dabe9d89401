#!/bin/sh
# make licenses
#
# Lists the packages that a Python has, with their licences, as Markdown; strong copyleft first and by name.
set -eu
pip-licenses --python="$1" --from=mixed --format=csv --with-system --ignore-packages tagline pip | python3 -c '
import csv, re, sys

STRONG = re.compile(r"\b(A?GPL|GNU (Affero )?General Public)", re.I)  # not LGPL, not MPL
HEAD = """# Licences of what the image holds

Written by `make licenses` from infra/locks. The CUDA variant adds the packages of torch-cuda.lock, which are
under terms of NVIDIA. Strong copyleft is what would bind a program that is linked with it.
"""
rows = sorted(csv.DictReader(sys.stdin), key=lambda row: row["Name"].lower())
strong = [row for row in rows if STRONG.search(row["License"])]
rest = [row for row in rows if row not in strong]
print(HEAD)
for title, listed in (("Strong copyleft", strong), ("All others", rest)):
    print(f"## {title}\n\n| package | version | licence |\n| --- | --- | --- |")
    for row in listed:
        print("| {Name} | {Version} | {License} |".format_map(row))
    print()
' | sed -e '$d'
