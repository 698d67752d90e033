"""What reports are made of: one look, one way to show tables, matrices and figures, in HTML and in Markdown.

Knows nothing of what is reported. A page holds everything and asks for nothing, so it can be read offline,
on a phone, in print and by a screen reader.
"""
