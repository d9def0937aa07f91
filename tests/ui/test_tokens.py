"""The colours, read from tokens.css: every pair that carries text reaches WCAG AA in both themes."""

import re
from pathlib import Path

import pytest

TOKENS = Path(__file__).resolve().parents[2] / "fleet/entrypoints/ui/static/ui/tokens.css"
PAIR = re.compile(r"--([a-z0-9-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
COLOURS = {name: (light, dark) for name, light, dark in PAIR.findall(TOKENS.read_text(encoding="utf-8"))}
GROUNDS = ("canvas", "surface", "sunken", "hover")
TEXT_ON = [
    *((ink, ground) for ink in ("ink", "ink-soft", "ink-faint", "accent") for ground in GROUNDS),
    *((ink, "surface") for ink in ("good", "warn", "bad")),
    *((tone, f"{tone}-tint") for tone in ("good", "warn", "bad", "accent")),
    *((ink, f"{tone}-tint") for ink in ("ink", "ink-soft") for tone in ("good", "warn", "bad", "accent", "mute")),
    ("accent-ink", "accent-fill"),
    *(("heat-ink-low", f"heat-{step}") for step in (1, 2, 3, 4)),
    ("heat-ink-5", "heat-5"),
    ("heat-ink-6", "heat-6"),
]
# Lines and signs that carry meaning need 3:1 against what they lie on.
SIGN_ON = [
    *((f"{tone}-mark", ground) for tone in ("good", "warn", "bad") for ground in ("surface",)),
    ("line-strong", "surface"),
    ("accent", "surface"),
]


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("ink", "ground"), TEXT_ON)
def test_text__on_its_ground__reaches_aa_in_both_themes(ink: str, ground: str) -> None:
    ratios = [contrast(COLOURS[ink][theme], COLOURS[ground][theme]) for theme in (0, 1)]
    assert min(ratios) >= 4.5, f"{ink} on {ground}: light {ratios[0]:.2f}, dark {ratios[1]:.2f}"


@pytest.mark.parametrize(("ink", "ground"), SIGN_ON)
def test_sign__on_its_ground__reaches_three_in_both_themes(ink: str, ground: str) -> None:
    ratios = [contrast(COLOURS[ink][theme], COLOURS[ground][theme]) for theme in (0, 1)]
    assert min(ratios) >= 3, f"{ink} on {ground}: light {ratios[0]:.2f}, dark {ratios[1]:.2f}"


def test_tokens__every_colour__has_a_light_and_a_dark_half() -> None:
    text = TOKENS.read_text(encoding="utf-8")
    assert len(COLOURS) == text.count("light-dark(")
