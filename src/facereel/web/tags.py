"""HTML's own elements, where a library's would say less to a screen reader or a keyboard."""

from __future__ import annotations

from nicegui.elements.mixins.text_element import TextElement


class Tag(TextElement):
    """An element with text, which is shown as text whatever is in it.

    Args:
        tag: its name, such as "h2".
        text: within it, before its children.
        classes: of the style sheet.
        attributes: underscores stand for hyphens; what is None is left out.
    """

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: str | int | None) -> None:
        super().__init__(tag=tag, text=text)
        if classes:
            self.classes(classes)
        for name, value in attributes.items():
            if value is not None:
                self.props[name.rstrip("_").replace("_", "-")] = value

    def change(self, **attributes: str | int | None) -> None:
        """Set attributes, or take away those that are None."""
        for name, value in attributes.items():
            key = name.rstrip("_").replace("_", "-")
            if value is None:
                self.props.pop(key, None)
            else:
                self.props[key] = value
        self.update()

    def focus(self) -> None:
        """Put the keyboard here, and scroll so that it is seen."""
        self.client.run_javascript(
            f"const e = getHtmlElement({self.id}); if (e) {{ e.focus(); e.scrollIntoView({{block: 'nearest'}}); }}"
        )


class Status(Tag):
    """A line that tells what is going on; screen readers say it when it changes."""

    def __init__(self, text: str = "") -> None:
        super().__init__("p", text, "status", role="status", aria_live="polite")

    def say(self, sentence: str, kind: str = "") -> None:
        """Show a sentence; `kind` is "busy", "error", "none" or nothing."""
        self.classes(replace=f"status {kind}".strip())
        self.set_text(sentence[:1].upper() + sentence[1:])
