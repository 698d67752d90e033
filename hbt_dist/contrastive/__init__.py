"""The contrastive step: gathered embeddings, row-chunked loss, gradients of one large batch."""
