"""HTML elements, where those of the library say less to a screen reader or a keyboard."""

from nicegui.elements.mixins.text_element import TextElement


class Tag(TextElement):
    """An element whose text is always shown as text.

    Args:
        tag: its name, such as "h2".
        text: its content before its children.
        classes: of the style sheet.
        attributes: underscores stand for hyphens; those that are None are not set.
    """

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: str | int | None) -> None:
        super().__init__(tag=tag, text=text)
        if classes:
            self.classes(classes)
        self._set(attributes)

    def change(self, **attributes: str | int | None) -> None:
        """Set attributes, or remove those that are None."""
        self._set(attributes)
        self.update()

    def _set(self, attributes: dict[str, str | int | None]) -> None:
        for name, value in attributes.items():
            key = name.rstrip("_").replace("_", "-")
            if value is None:
                self.props.pop(key, None)
            else:
                self.props[key] = value

    def focus(self) -> None:
        """Move the keyboard focus here, and scroll so that it is visible."""
        self.client.run_javascript(
            f"const e = getHtmlElement({self.id}); if (e) {{ e.focus(); e.scrollIntoView({{block: 'nearest'}}); }}"
        )


class Status(Tag):
    """A line about what is going on, which screen readers read out when it changes."""

    def __init__(self, text: str = "") -> None:
        super().__init__("p", text, "status", role="status", aria_live="polite")

    def say(self, sentence: str, kind: str = "") -> None:
        """Show a sentence; `kind` is "busy", "error", "none" or empty."""
        self.classes(replace=f"status {kind}".strip())
        self.set_text(sentence[:1].upper() + sentence[1:])
