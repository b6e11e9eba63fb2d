"""Functions on bare tensors that several techniques share."""
