"""From examples to padded batches of token ids: plain text or a chat template, joined, cut, labelled, padded."""
