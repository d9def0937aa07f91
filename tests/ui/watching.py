"""Watches a page while a test drives it, and inspects what it became."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Page, Request

# What an automated check can tell of accessibility: names, labels, headings, landmarks, languages, unique ids.
ACCESSIBILITY = """
() => {
  const found = [];
  const shown = (e) => e.checkVisibility();
  const describe = (e) => e.outerHTML.slice(0, 120);
  if (!document.documentElement.lang) found.push("the document names no language");
  if (!document.title.trim()) found.push("the document has no title");
  const mains = document.querySelectorAll("main").length;
  if (mains !== 1) found.push(`expected one main landmark, got ${mains}`);
  const headings = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(shown);
  const tops = headings.filter((h) => h.tagName === "H1").length;
  if (tops !== 1) found.push(`expected one h1, got ${tops}`);
  for (const h of headings) if (!h.textContent.trim()) found.push("an empty heading: " + describe(h));
  let level = 0;
  for (const h of headings) {
    const now = Number(h.tagName[1]);
    if (now > level + 1) found.push(`heading level jumps from ${level} to ${now}: ` + describe(h));
    level = now;
  }
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || e.title || "").trim();
  for (const e of document.querySelectorAll("a[href], button, summary")) {
    if (shown(e) && !name(e)) found.push("nothing to call it by: " + describe(e));
  }
  for (const e of document.querySelectorAll("input, select, textarea")) {
    if (e.type === "hidden") continue;
    if (!(e.labels && e.labels.length) && !e.getAttribute("aria-label")) found.push("no label: " + describe(e));
  }
  for (const e of document.querySelectorAll("img, svg")) {
    if (e.tagName === "IMG" ? !e.hasAttribute("alt") : !(e.getAttribute("aria-hidden") === "true" || e.getAttribute("aria-label") || e.getAttribute("aria-labelledby"))) {
      found.push("a picture without words: " + describe(e));
    }
  }
  for (const e of document.querySelectorAll("table")) {
    if (!e.querySelector("caption") && !e.getAttribute("aria-label")) found.push("a table without a caption: " + describe(e));
    for (const th of e.querySelectorAll("th")) if (!th.scope) found.push("a heading cell without scope: " + describe(th));
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids.filter((id, at) => ids.indexOf(id) !== at))) found.push("an id twice: " + id);
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const id of `${e.getAttribute("aria-labelledby") || ""} ${e.getAttribute("aria-describedby") || ""}`.split(/\\s+/).filter(Boolean)) {
      if (!document.getElementById(id)) found.push(`refers to ${id}, which is not there: ` + describe(e));
    }
  }
  for (const e of document.querySelectorAll("[style]")) if (e.getAttribute("style")) found.push("an inline style: " + describe(e));
  if (document.documentElement.scrollWidth > window.innerWidth + 1) {
    found.push(`the page is ${document.documentElement.scrollWidth} wide in a window of ${window.innerWidth}`);
  }
  return found;
}
"""

# Contrast of every visible text against what lies behind it, as the browser computed it (WCAG 2: 4.5, large text 3).
CONTRAST = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const d = canvas.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255];
  };
  const over = (top, bottom) => [0, 1, 2].map((i) => top[i] * top[3] + bottom[i] * (1 - top[3])).concat(1);
  const light = (c) => {
    const l = c.slice(0, 3).map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2];
  };
  const behind = (e) => {
    const stack = [];
    for (let at = e; at; at = at.parentElement) {
      const c = rgba(getComputedStyle(at).backgroundColor);
      if (c[3] > 0) stack.push(c);
      if (c[3] === 1) break;
    }
    return stack.reverse().reduce((under, c) => over(c, under), [255, 255, 255, 1]);
  };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const e = node.parentElement;
    if (!node.textContent.trim() || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (e.closest(".unseen, .skip, script, style, datalist, option, [disabled]")) continue;
    const style = getComputedStyle(e);
    const ink = rgba(e.closest("svg") ? style.fill : style.color);
    const ground = behind(e);
    const [a, b] = [light(over(ink, ground)), light(ground)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) {
      found.add(`${ratio.toFixed(2)}: ${e.className || e.tagName} "${node.textContent.trim().slice(0, 40)}"`);
    }
  }
  return [...found];
}
"""


@dataclass
class Watch:
    """Collects what must not happen on a page."""

    problems: list[str] = field(default_factory=list)
    host: str = ""
    at: str = ""

    def attach(self, page: Page, server_url: str) -> None:
        """Look on from now; `server_url` is the only place that the page may ask."""
        self.host = urlsplit(server_url).netloc
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"{self.at}: uncaught: {error}"))
        page.on("request", self._request)
        page.on("requestfailed", self._failed)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(f"{self.at}: console {message.type}: {message.text} {message.location}")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme in {"http", "https", "ws", "wss"} and parts.netloc != self.host:
            self.problems.append(f"{self.at}: asked another host: {request.url}")

    def _failed(self, request: Request) -> None:
        failure = request.failure or ""
        if "ERR_ABORTED" not in failure:  # leaving a page ends what it was still asking for
            self.problems.append(f"{self.at}: failed: {request.url} {failure}")


def inspect(page: Page) -> list[str]:
    """What is wrong with the page as it stands: accessibility and contrast."""
    found: Any = page.evaluate(ACCESSIBILITY)
    contrast: Any = page.evaluate(CONTRAST)
    return [*found, *(f"contrast {item}" for item in contrast)]
