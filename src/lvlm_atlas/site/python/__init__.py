"""Python in the page: the program itself, its catalog and an interpreter for the browser, vendored at build."""
