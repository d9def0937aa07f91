"""The web pages. Each answers one question; none of them touches the ORM: selectors in, services out, templates render."""
