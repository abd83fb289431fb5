"""What looks wrong in a data set: duplicates, impossible dates, sizes that differ from the metadata's.

Rows of the manifest (and the metadata's sizes) in, rows of the table `findings` out. Nothing here grows
faster than the number of images, except sorting. docs/rules.md describes every rule.
"""

from camtrap_batch.findings.dates import FROM_MANIFEST as DATE_COLUMNS
from camtrap_batch.findings.dates import find_wrong_dates
from camtrap_batch.findings.duplicates import FROM_MANIFEST as DUPLICATE_COLUMNS
from camtrap_batch.findings.duplicates import find_duplicates
from camtrap_batch.findings.found import Found, findings_table
from camtrap_batch.findings.sizes import find_other_sizes

__all__ = [
    "DATE_COLUMNS",
    "DUPLICATE_COLUMNS",
    "Found",
    "find_duplicates",
    "find_other_sizes",
    "find_wrong_dates",
    "findings_table",
]
