"""`aigq erase-user`: a user leaves the tables, the run, the store and the log, and a scan says so."""
