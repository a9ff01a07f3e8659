"""Names that attack whoever prints them, and what no print may hold."""

import re

HOSTILE = {
    "colour": "\x1b[31mred\x1b[0m",
    "link": "\x1b]8;;http://a.b\x1b\\click\x1b]8;;\x1b\\",
    "clipboard": "\x1b]52;c;cm0gLXJm\x07",
    "eight bits": "\x9b31mred",
    "right to left": "safe\u202egnp.exe\u2066",
    "invisible": "a\u200b\u2060b\ufeff",
    "lines": "cat\r\nINFO: all is well\n\u2028\x0b",
    "return": "cat\rdog\x08\x7f",
    "rich": "[red]stop[/red] [link=http://a.b]x[/link] [/] :warning:",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "attribute": "' onmouseover='alert(1)\" x=\"",
    "entity": "&lt;b&gt;",
    "markdown": "![x](http://a.b/i.png) [y](javascript:alert(1)) **z** `c` _d_ ~~e~~",
    "bare links": "http://a.b www.a.b a@b.c",
    "table": "a | b \\| c",
    "code": "a`b``c",
    "fence": "```",
    "mathtext": r"$\frac{1}{0$ $$ \alpha",
    "half a character": "a\ud800b",
    "formula": "=cmd|'/C calc'!A0",
    "long": "x" * 3000,
}
MOVES = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
"""What a terminal obeys or shows otherwise, line ends apart."""
