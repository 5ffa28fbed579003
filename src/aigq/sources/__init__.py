"""A log format -> tables. One module a source; `import_source` is the stage."""
