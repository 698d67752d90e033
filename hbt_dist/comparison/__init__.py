"""Compare evaluations: significance, gains, language families, typology, published figures."""
