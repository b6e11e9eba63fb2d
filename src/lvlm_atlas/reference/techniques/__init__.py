"""One module a technique: pure functions on bare tensors, and the class that joins them to the LVLM."""
