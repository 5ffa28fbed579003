"""Trials of hints on shoppers: replayed and simulated ones here, real ones later."""
