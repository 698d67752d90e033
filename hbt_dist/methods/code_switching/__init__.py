"""Words of training rows replaced by their translations: code-switching (arXiv 2305.05295).

config        the block `batches.code_switching`
words         texts split into words, put together again exactly
dictionaries  word translations from MUSE files, word vectors or the embedded sample: `load_lexicon`
vectors       nearest neighbours of aligned word vectors
sample        a dictionary of the names that CLDR knows in the sample's languages
switching     which words become which: a pure function of (seed, step, row, role)
switcher      the rows of a batch, switched and tokenised
"""
