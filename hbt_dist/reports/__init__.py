"""Write HTML pages and Markdown: the only room that makes them."""
