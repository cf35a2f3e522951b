"""What federation is worth: four unlike banks alone, together, and with all rows in one place.

Every row of the table is a `Job` on the same banks and is evaluated on every bank's later days. A
bank alone, and all rows in one place, are federations of one bank, so they train by the same code
for as long. `banks` cuts a data set, `jobs` says what is run, `running` runs it, `results`
evaluates it, and `comparison` puts these together. `apart` is the federation whose banks are
elsewhere.
"""
