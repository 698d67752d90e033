"""Replace words of training rows by their translations: code-switching (arXiv 2305.05295).

settings      the block `batches.code_switching`
words         texts split into words, and joined again exactly
dictionaries  word translations from MUSE files, FreeDict, word vectors or the embedded sample: `load_lexicon`
vectors       nearest neighbours of aligned word vectors
switching     which words are replaced: a pure function of (seed, step, row, role); `plan_batches`
inspection    the table of the realised ratios
"""
