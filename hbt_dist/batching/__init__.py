"""Which rows make a global batch, and what a rank reads of it: mixture, plan, tokens, collating."""
