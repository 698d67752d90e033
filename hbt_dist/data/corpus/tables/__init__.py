"""Read rows of tables: files in folders, file formats, names of columns."""
