"""Studies: networks × data sets × regimes × seeds, planned before anything is done, each result kept once.

cells      what is asked for, as a table that a file or a few lines of Python describe
plan       what of it is missing, and what that will cost by what was measured before
running    doing it, here or on a cluster, together with other processes that share the folder
records    one record per result on disk
results    all of them as tables
probing    the regimes of linear probes; the one file here that knows featstore
leaks      images of train in test, before any number
"""
