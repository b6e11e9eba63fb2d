"""The site: the records of an atlas as pages, drawn, cross-linked and checked. `build`, `generate` and `serve`."""
