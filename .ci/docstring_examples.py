"""A griffe extension: examples show as code wherever they stand in a docstring."""

import re
from typing import Any

from griffe import Extension, Object

# outside a section markdown takes >>> for a quotation, so it gets a fence to the next empty line
BARE_EXAMPLE = re.compile(r"^>>> (?:.+\n?)+", flags=re.MULTILINE)
# griffe reads examples only under the plural
SINGULAR = re.compile(r"^Example:$", flags=re.MULTILINE)


class DocstringExamples(Extension):
    """Mark examples as code, before the docstring is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of one object."""
        del kwargs
        if obj.docstring:
            text = SINGULAR.sub("Examples:", obj.docstring.value)
            text = BARE_EXAMPLE.sub(lambda m: f"```pycon\n{m[0].rstrip()}\n```\n", text)
            obj.docstring.value = text
