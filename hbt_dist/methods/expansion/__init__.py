"""Query expansion with a local causal language model (arXiv 2511.19325), and retrieval with its texts.

prompts.py       the four prompting strategies, in full text
generate.py      batched generation, seeded per question
expand.py        a benchmark's expansion file, resumable
files.py         the format of the file; reading it against a benchmark
combine.py       concatenation, mean of embeddings, reciprocal rank fusion
"""
