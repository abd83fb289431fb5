"""The SQL of `where` and `having`: a small, standard part of it, parsed, typed, and rewritten for SQLite.

Of what was sent, only names of known fields and bound values reach SQLite.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from camtrap_batch.rehearsal.layerserver.answers import Refused

Kind = Literal["text", "number", "date", "guid", "null", "truth"]
"""What a part of an expression is; a date is milliseconds since 1970, UTC."""


@dataclass(frozen=True, slots=True)
class Expression:
    sql: str
    values: tuple[object, ...]
    kind: Kind


def parse_where(text: str, columns: Mapping[str, Expression]) -> Expression:
    """Translate a condition.

    Args:
        text: as sent by the client.
        columns: what each field is translated to, by its name in lower case.

    Raises:
        Refused: with code 400 and the reason in its details.
    """
    return _Parser(text, columns).condition()


def normal_guid(text: str) -> str:
    """A GUID as it is stored: lower case, without braces."""
    return text.strip("{} ").lower()


_TOKEN = re.compile(
    r"""\s*(?:
      (?P<text>N?'(?:[^']|'')*')
    | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<name>[^\W\d]\w*)
    | "(?P<quoted>[^"]+)"
    | (?P<sign><=|>=|<>|!=|\|\||[-+*/=<>(),])
    )""",
    re.VERBOSE,
)
_WORDS = frozenset(["AND", "OR", "NOT", "IN", "LIKE", "ESCAPE", "BETWEEN", "IS", "NULL", "TIMESTAMP", "DATE"])
_FUNCTIONS: Mapping[str, tuple[str, Kind | None]] = {
    "UPPER": ("upper", "text"),
    "LOWER": ("lower", "text"),
    "TRIM": ("trim", "text"),
    "CHAR_LENGTH": ("length", "number"),
    "ABS": ("abs", "number"),
    "ROUND": ("round", "number"),
    "COALESCE": ("coalesce", None),
}
"""Name in SQLite, and the kind of the result (None: that of the argument)."""
_DEEPEST = 40


def _number(text: str) -> int | float:
    """SQLite's whole numbers have 64 bits."""
    return int(text) if text.isdigit() and len(text) < 19 else float(text)


class _Parser:
    def __init__(self, text: str, columns: Mapping[str, Expression]) -> None:
        self.text, self.columns = text, columns
        self.tokens = list(self._split(text))
        self.at = 0
        self.depth = 0

    def condition(self) -> Expression:
        found = self._any()
        if self.at < len(self.tokens):
            raise self._refusal(f"'{self.tokens[self.at][1]}' is not expected here")
        return self._need(found, "truth")

    # Reading ----------------------------------------------------------------------------------------

    def _split(self, text: str) -> list[tuple[str, str]]:
        found, at = [], 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise self._refusal(f"'{text[at:].strip()[:20]}' is not understood")
            kind = match.lastgroup or ""
            value = match[kind]
            if kind == "name" and value.upper() in _WORDS:
                kind, value = "word", value.upper()
            found.append((kind, value))
            at = match.end()
        return found

    def _peek(self, *wanted: str) -> bool:
        """Whether the next token is one of these words or signs."""
        if self.at >= len(self.tokens):
            return False
        kind, value = self.tokens[self.at]
        return kind in ("word", "sign") and value in wanted

    def _take(self, *wanted: str) -> str | None:
        if not self._peek(*wanted):
            return None
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _expect(self, wanted: str) -> None:
        if self._take(wanted) is None:
            got = self.tokens[self.at][1] if self.at < len(self.tokens) else "the end"
            raise self._refusal(f"'{wanted}' is missing before '{got}'")

    def _literal(self, kind: str) -> str:
        if self.at >= len(self.tokens) or self.tokens[self.at][0] != kind:
            raise self._refusal(f"a {kind} is missing")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def _refusal(self, reason: str) -> Refused:
        return Refused(400, "Cannot perform query. Invalid query parameters.", [f"where: {reason}"])

    def _need(self, part: Expression, *kinds: Kind) -> Expression:
        if part.kind not in kinds:
            raise self._refusal(f"{' or '.join(kinds)} is needed, there is {part.kind}")
        return part

    # Grammar, from the weakest binding to the strongest ------------------------------------------------

    def _any(self) -> Expression:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._refusal("brackets are nested too deeply")
        found = self._all()
        while self._take("OR"):
            right = self._need(self._all(), "truth")
            found = self._join(self._need(found, "truth"), "OR", right, "truth")
        self.depth -= 1
        return found

    def _all(self) -> Expression:
        found = self._negation()
        while self._take("AND"):
            right = self._need(self._negation(), "truth")
            found = self._join(self._need(found, "truth"), "AND", right, "truth")
        return found

    def _negation(self) -> Expression:
        turned = False
        while self._take("NOT"):
            turned = not turned
        found = self._comparison()
        if not turned:
            return found
        self._need(found, "truth")
        return Expression(f"NOT ({found.sql})", found.values, "truth")

    def _comparison(self) -> Expression:
        left = self._sum()
        sign = self._take("=", "<>", "!=", "<", ">", "<=", ">=")
        if sign:
            left, right = self._alike(left, self._sum())
            return self._join(left, "<>" if sign == "!=" else sign, right, "truth")
        if self._take("IS"):
            negated = self._take("NOT")
            self._expect("NULL")
            return Expression(f"({left.sql} IS {'NOT ' if negated else ''}NULL)", left.values, "truth")
        negated = self._take("NOT")
        if self._take("IN"):
            found = self._members(left)
        elif self._take("BETWEEN"):
            left, low = self._alike(left, self._sum())
            self._expect("AND")
            _, high = self._alike(left, self._sum())
            values = (*left.values, *low.values, *high.values)
            found = Expression(f"({left.sql} BETWEEN {low.sql} AND {high.sql})", values, "truth")
        elif self._take("LIKE"):
            found = self._pattern(left)
        elif negated:
            raise self._refusal("IN, BETWEEN or LIKE is missing after NOT")
        else:
            return left
        return Expression(f"(NOT {found.sql})", found.values, "truth") if negated else found

    def _members(self, left: Expression) -> Expression:
        self._expect("(")
        members = [self._alike(left, self._member())[1]]
        while self._take(","):
            members.append(self._alike(left, self._member())[1])
        self._expect(")")
        if all(member.sql == "?" for member in members):  # one bound value, however many members
            values = json.dumps([member.values[0] for member in members])
            sql = f"({left.sql} IN (SELECT value FROM json_each(?)))"
            return Expression(sql, (*left.values, values), "truth")
        sql = ", ".join(member.sql for member in members)
        values_ = tuple(value for member in members for value in member.values)
        return Expression(f"({left.sql} IN ({sql}))", (*left.values, *values_), "truth")

    def _member(self) -> Expression:
        """A literal, read without going through the grammar, which is slow for thousands of them."""
        if self.at + 1 < len(self.tokens) and self.tokens[self.at + 1] in (("sign", ","), ("sign", ")")):
            kind, value = self.tokens[self.at]
            if kind in ("text", "number"):
                self.at += 1
                return self._literal_value(kind, value)
        return self._sum()

    def _pattern(self, left: Expression) -> Expression:
        self._need(left, "text", "guid", "null")
        pattern = self._need(self._sum(), "text", "null")
        sql = f"({left.sql} LIKE {pattern.sql}"
        values = (*left.values, *pattern.values)
        if self._take("ESCAPE"):
            escape = self._text(self._literal("text"))
            if len(escape) != 1:
                raise self._refusal("ESCAPE takes one character")
            sql, values = f"{sql} ESCAPE ?", (*values, escape)
        return Expression(f"{sql})", values, "truth")

    def _sum(self) -> Expression:
        found = self._product()
        while sign := self._take("+", "-", "||"):
            kind: Kind = "text" if sign == "||" else "number"
            right = self._need(self._product(), kind, "null")
            found = self._join(self._need(found, kind, "null"), sign, right, kind)
        return found

    def _product(self) -> Expression:
        found = self._signed()
        while sign := self._take("*", "/"):
            right = self._need(self._signed(), "number", "null")
            found = self._join(self._need(found, "number", "null"), sign, right, "number")
        return found

    def _signed(self) -> Expression:
        sign = self._take("-", "+")
        found = self._part()
        if sign is None:
            return found
        self._need(found, "number")
        if found.sql == "?" and isinstance(found.values[0], int | float):
            return Expression("?", (-found.values[0] if sign == "-" else found.values[0],), "number")
        return Expression(f"({sign}{found.sql})", found.values, "number")

    def _part(self) -> Expression:
        if self._take("("):
            found = self._any()
            self._expect(")")
            return Expression(f"({found.sql})", found.values, found.kind)
        if self._take("NULL"):
            return Expression("NULL", (), "null")
        if word := self._take("DATE", "TIMESTAMP"):
            return Expression("?", (self._moment(self._text(self._literal("text")), word),), "date")
        if self.at >= len(self.tokens):
            raise self._refusal("it ends too early")
        kind, value = self.tokens[self.at]
        self.at += 1
        if kind in ("text", "number"):
            return self._literal_value(kind, value)
        if kind == "name" and self._peek("(") and value.upper() in _FUNCTIONS:
            return self._function(value.upper())
        if kind == "name" and value.upper() in ("CURRENT_TIMESTAMP", "CURRENT_DATE"):
            now = int(time.time() * 1000)
            return Expression(
                "?", (now - now % 86_400_000 if value.upper() == "CURRENT_DATE" else now,), "date"
            )
        if kind in ("name", "quoted"):
            if value.lower() not in self.columns:
                raise self._refusal(f"there is no field '{value}'")
            return self.columns[value.lower()]
        raise self._refusal(f"'{value}' is not expected here")

    def _literal_value(self, kind: str, value: str) -> Expression:
        if kind == "text":
            return Expression("?", (self._text(value),), "text")
        return Expression("?", (_number(value),), "number")

    def _function(self, name: str) -> Expression:
        self._expect("(")
        arguments = [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._expect(")")
        function, kind = _FUNCTIONS[name]
        if kind is not None and len(arguments) > (2 if name == "ROUND" else 1):
            raise self._refusal(f"{name} takes one argument")
        for argument in arguments:
            if name in ("ABS", "ROUND"):
                self._need(argument, "number", "null")
            elif kind is not None:
                self._need(argument, "text", "guid", "null")
            else:
                self._need(argument, arguments[0].kind, "null")
        sql = f"{function}({', '.join(argument.sql for argument in arguments)})"
        values = tuple(value for argument in arguments for value in argument.values)
        return Expression(sql, values, kind or arguments[0].kind)

    # Values -------------------------------------------------------------------------------------------

    def _alike(self, left: Expression, right: Expression) -> tuple[Expression, Expression]:
        """Both sides of a comparison; text beside a date or a GUID is read as one."""
        if left.kind == right.kind != "truth" or "null" in (left.kind, right.kind):
            return left, right
        if right.kind == "text" and right.sql == "?" and left.kind in ("date", "guid"):
            return left, self._read(str(right.values[0]), left.kind)
        if left.kind == "text" and left.sql == "?" and right.kind in ("date", "guid"):
            return self._read(str(left.values[0]), right.kind), right
        if {left.kind, right.kind} == {"text", "guid"}:
            return left, right
        raise self._refusal(f"{left.kind} can't be compared with {right.kind}")

    def _read(self, text: str, kind: Kind) -> Expression:
        value = self._moment(text, "TIMESTAMP") if kind == "date" else normal_guid(text)
        return Expression("?", (value,), kind)

    def _moment(self, text: str, word: str) -> int:
        try:
            moment = datetime.fromisoformat(text.strip())
        except ValueError:
            reason = f"'{text}' is no {word}, such as '2024-05-31' or '2024-05-31 18:30:00'"
            raise self._refusal(reason) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1000)

    @staticmethod
    def _text(token: str) -> str:
        return token.removeprefix("N")[1:-1].replace("''", "'")

    @staticmethod
    def _join(left: Expression, sign: str, right: Expression, kind: Kind) -> Expression:
        return Expression(f"({left.sql} {sign} {right.sql})", (*left.values, *right.values), kind)
