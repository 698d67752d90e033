"""Write the report page of a search."""
