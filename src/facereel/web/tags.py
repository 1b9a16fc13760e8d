"""HTML elements that are more accessible to screen readers and keyboards than NiceGUI's."""

from nicegui.elements.mixins.text_element import TextElement


class Tag(TextElement):
    """An HTML element that always shows its text as text, never as markup.

    Args:
        tag: name of the element, such as "h2".
        text: text before the children.
        classes: CSS classes.
        attributes: HTML attributes with underscores in place of hyphens; attributes that are None are not set.
    """

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: str | int | None) -> None:
        super().__init__(tag=tag, text=text)
        if classes:
            self.classes(classes)
        self._set(attributes)

    def change(self, **attributes: str | int | None) -> None:
        """Set attributes, and remove those that are None."""
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
        """Move the keyboard focus to this element, and scroll it into view."""
        self.client.run_javascript(
            f"const e = getHtmlElement({self.id}); if (e) {{ e.focus(); e.scrollIntoView({{block: 'nearest'}}); }}"
        )


class Status(Tag):
    """A status line, which screen readers announce when it changes."""

    def __init__(self, text: str = "") -> None:
        super().__init__("p", text, "status", role="status", aria_live="polite")

    def say(self, sentence: str, kind: str = "") -> None:
        """Show a sentence.

        Args:
            sentence: the sentence; its first letter is capitalized.
            kind: "busy", "error", "none" or empty.
        """
        self.classes(replace=f"status {kind}".strip())
        self.set_text(sentence[:1].upper() + sentence[1:])
