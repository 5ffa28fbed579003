"""Online: stores, event logs, the HTTP service and the nearline worker. Paper section 5; method.md section 6.

Importing this package loads nothing heavy. The service never loads torch; only the nearline worker does,
inside the function that runs the generator.
"""
