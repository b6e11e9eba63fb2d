"""The docstrings of records' fields, read from the source when somebody asks.

pydantic can read them while it makes a class (`use_attribute_docstrings`), but that parses every module at each
start of the program, and costs more than loading the catalog.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


@cache
def field_docs(model: type[BaseModel]) -> Mapping[str, str]:
    """Docstring by name of field, those of base classes included."""
    docs: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            docs |= _own_docs(base)
    return docs


def _own_docs(model: type[BaseModel]) -> dict[str, str]:
    """Docstrings of the fields that the class itself annotates: a string right after the annotation."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    docs = {}
    for field, said in pairwise(tree.body if isinstance(tree, ast.ClassDef) else []):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(said, ast.Expr)
            and isinstance(said.value, ast.Constant)
            and isinstance(said.value.value, str)
        ):
            docs[field.target.id] = inspect.cleandoc(said.value.value)
    return docs
