"""Render tables, matrices and figures as HTML and Markdown, in one style for all reports.

A page is one file without requests, so it works offline, on a phone, in print and with a screen reader.
"""
