"""Reads a filter into its syntax tree, or says where it cannot be read. Asks nothing of any device.

filter  = and { "or" and }
and     = part { "and" part }
part    = "not" part | "(" filter ")" | "group" "(" text ")" | "known" "(" field ")" | text "in" field
        | field ( "==" | "!=" | "<" | "<=" | ">" | ">=" ) value | field [ "not" ] "in" "(" value { "," value } ")"
field   = "hw" | "id" | "attributes" ( "." name | "[" text "]" ) | "capabilities" "." name
"""

from typing import Final

from device_client.wire.limits import MAX_COUNT
from fleet.domain.filters.errors import FilterError
from fleet.domain.filters.fields import ATTRIBUTE_NAME, CAPABILITIES, HARDWARE_CLASS, ID, attribute
from fleet.domain.filters.lexer import Token, TokenKind, tokens
from fleet.domain.filters.syntax import (
    MAX_DEPTH,
    MAX_NODES,
    And,
    Compare,
    Contains,
    Field,
    InGroup,
    Kind,
    Known,
    Node,
    Not,
    OneOf,
    Or,
    Order,
    Value,
)

_PART: Final = 'hw, id, attributes.<name>, capabilities.<name>, group("..."), known(...), not or ('
_FIELD: Final = "a field: hw, id, attributes.<name> or capabilities.<name>"
_ORDERS: Final = frozenset(order.value for order in Order)
_SINGLE: Final = 1


def parse(text: str) -> Node:
    """The tree of a filter; raises `FilterError`."""
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens of one filter."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._nodes = 0

    def whole(self) -> Node:
        node = self._either(0)
        if self._next.kind is not TokenKind.END:
            raise self._refuse("and, or, or the end of the filter")
        return node

    # ------------------------------------------------------------ and, or, not

    def _either(self, depth: int) -> Node:
        parts = [self._every(depth)]
        while self._takes("or"):
            parts.append(self._every(depth))
        flat = tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, Or) else (part,)))
        return flat[0] if len(flat) == _SINGLE else Or(flat)

    def _every(self, depth: int) -> Node:
        parts = [self._part(depth)]
        while self._takes("and"):
            parts.append(self._part(depth))
        flat = tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, And) else (part,)))
        return flat[0] if len(flat) == _SINGLE else And(flat)

    def _part(self, depth: int) -> Node:
        self._count(self._next)
        if depth >= MAX_DEPTH:
            raise self._refuse(f"at most {MAX_DEPTH} brackets and nots within each other")
        if self._takes("not"):
            return Not(self._part(depth + 1))
        if self._takes("("):
            node = self._either(depth + 1)
            self._require(")", "and, or, or )")
            return node
        token = self._next
        if token.kind is TokenKind.TEXT:
            return self._contained()
        if token.kind is TokenKind.NAME and token.value == "group":
            return self._group()
        if token.kind is TokenKind.NAME and token.value == "known":
            return self._known()
        return self._comparison()

    # ------------------------------------------------------------ what is asked of a field

    def _comparison(self) -> Node:
        field = self._field(_PART)
        if field.kind is Kind.NAMES:
            raise self._refuse(f'"..." in {field.spelling}, because it is a set of names')
        token = self._next
        if self._takes("not"):
            self._require("in", "in")
            return Not(OneOf(field, self._values(field)))
        if self._takes("in"):
            return OneOf(field, self._values(field))
        if self._takes("!="):
            return Not(Compare(field, Order.EQUAL, self._value(field)))
        if token.kind is not TokenKind.SIGN or token.value not in _ORDERS:
            raise self._refuse("==, !=, <, <=, >, >=, in or not in")
        if field.kind is Kind.TEXT and token.value != Order.EQUAL.value:
            raise self._refuse(f"==, !=, in or not in, because {field.spelling} is text and has no order")
        self._at += 1
        return Compare(field, Order(token.value), self._value(field))

    def _contained(self) -> Node:
        name = self._advance().value
        self._require("in", "in and a set of names, after a text")
        token = self._next
        field = self._field(_FIELD)
        if field.kind is not Kind.NAMES:
            names = ", ".join(item.spelling for item in CAPABILITIES.values() if item.kind is Kind.NAMES)
            raise self._refuse(f"a set of names ({names})", token)
        return Contains(field, name)

    def _group(self) -> Node:
        self._at += 1
        self._require("(", "( after group")
        name = self._text_value("a group's name in quotes")
        self._require(")", ")")
        return InGroup(name)

    def _known(self) -> Node:
        self._at += 1
        self._require("(", "( after known")
        token = self._next
        field = self._field(_FIELD)
        if field.kind is Kind.NAMES:
            raise self._refuse("a field of text or a number", token)
        self._require(")", ")")
        return Known(field)

    # ------------------------------------------------------------ fields and values

    def _field(self, expected: str) -> Field:
        token = self._next
        if token.kind is not TokenKind.NAME:
            raise self._refuse(expected)
        if token.value not in ("hw", "id", "attributes", "capabilities"):
            raise self._refuse(expected)
        self._at += 1
        if token.value == "hw":
            return HARDWARE_CLASS
        if token.value == "id":
            return ID
        if token.value == "attributes" and self._takes("["):
            field = self._attribute(self._next, self._text_value("an attribute's name in quotes"))
            self._require("]", "]")
            return field
        self._require(".", ". or [" if token.value == "attributes" else ".")
        name = self._next
        if name.kind is not TokenKind.NAME:
            raise self._refuse("a name after the point")
        if token.value == "attributes":
            self._at += 1
            return self._attribute(name, name.value)
        if name.value not in CAPABILITIES:
            raise self._refuse(f"one of {', '.join(CAPABILITIES)}")
        self._at += 1
        return CAPABILITIES[name.value]

    def _attribute(self, token: Token, name: str) -> Field:
        if ATTRIBUTE_NAME.fullmatch(name) is None:
            raise self._refuse("a name of 1 to 128 ASCII characters without quotes and backslashes", token)
        return attribute(name)

    def _values(self, field: Field) -> tuple[Value, ...]:
        self._require("(", "( and a list of values")
        values = [self._value(field)]
        while self._takes(","):
            self._count(self._next)
            values.append(self._value(field))
        self._require(")", ", or )")
        return tuple(values)

    def _value(self, field: Field) -> Value:
        if field.kind is Kind.TEXT:
            return self._text_value(f"text in quotes, because {field.spelling} is text")
        token = self._next
        most = MAX_COUNT // field.scale
        if token.kind is not TokenKind.NUMBER:
            raise self._refuse(f"a whole number, because {field.spelling} is a number")
        if len(token.value) > len(str(most)) or int(token.value) > most:
            raise self._refuse(f"a whole number up to {most}")
        self._at += 1
        return int(token.value)

    def _text_value(self, expected: str) -> str:
        if self._next.kind is not TokenKind.TEXT:
            raise self._refuse(expected)
        return self._advance().value

    # ------------------------------------------------------------ tokens

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _advance(self) -> Token:
        token = self._next
        self._at += 1
        return token

    def _takes(self, word: str) -> bool:
        """Go past the next token if it is this keyword or sign."""
        token = self._next
        if token.kind not in (TokenKind.NAME, TokenKind.SIGN) or token.value != word:
            return False
        self._at += 1
        return True

    def _require(self, word: str, expected: str) -> None:
        if not self._takes(word):
            raise self._refuse(expected)

    def _count(self, token: Token) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refuse(f"at most {MAX_NODES} parts and values", token)

    def _refuse(self, expected: str, token: Token | None = None) -> FilterError:
        found = token or self._next
        return FilterError(self._text, found.column, expected=expected, got=found.shown)
