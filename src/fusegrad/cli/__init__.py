"""The command ``fusegrad``: train, predict, demo, bench, info.

main.py has the arguments and the exit codes, tables.py reads and writes tables, train.py and predict.py are the verbs,
report.py writes the page of a training. Models are those of `fusegrad.sklearn`, with the recipe for tables; polars
(extra ``cli``) reads the files.

Exit codes: 0; 1 bad input (one line on standard error says what to do); 2 usage; 130 Ctrl-C (a training has saved its
best epoch).
"""


class InputError(Exception):
    """Bad input: its text is the line that the user reads."""
