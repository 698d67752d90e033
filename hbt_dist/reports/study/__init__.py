"""Write the report page of a study."""
