"""Channels that propose queries, behind one protocol."""
