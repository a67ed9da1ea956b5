from __future__ import annotations

from nemo_pi.evaluation.page.markup import Markup, element, join

HOSTILE = "<script>alert('1')</script> & \"2\""


def test_text_is_escaped_and_markup_is_not() -> None:
    escaped = "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt; &amp; &quot;2&quot;"
    assert element("p", HOSTILE) == f"<p>{escaped}</p>"
    assert element("p", title=HOSTILE) == f'<p title="{escaped}"></p>'
    assert element("p", element("b", "x"), None, Markup("<i>y</i>")) == "<p><b>x</b><i>y</i></p>"
    assert join(["<", element("br")], between=" ") == "&lt; <br>"


def test_attributes_are_written_as_html_has_them() -> None:
    written = element("td", class_="a", aria_label="b", colspan=2, hidden=True, id=None, open=False, x=1 / 3)
    assert written == '<td class="a" aria-label="b" colspan="2" hidden x="0.333333"></td>'
    assert element("img", src="x") == '<img src="x">'
