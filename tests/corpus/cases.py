"""The table of cases: what each is called, what it may do to the oracles, and the function that tries it."""

from dataclasses import dataclass, field

TABLE = []
WAITING = {}  # id -> the feature that it waits for
ARGUED = {}  # id -> why another answer than the page's is right
# (id, title) -> what is known to be wrong still, in the proxy or in the case itself. Tried and told at each run, and not yet a
# failure; an entry goes when its case holds.
OPEN = {}


@dataclass
class Case:
    id: str
    title: str
    run: object
    private: bool = False  # needs the namespace: DNS, or production address rules
    silent: bool = False  # I5: refused by host or address, so nobody may be asked or dialled
    unheard: bool = False  # I3: some request was sent that the origin did not (fully) understand, by intent
    lines_wanted: int | None = 0  # I6: audit lines beside those of the answers; None: any number, one for each answer
    patience: float = 0.0  # I4: seconds more for the benign request
    grows: int = 0  # I4: bytes more
    # What was found after the run.
    answered: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    dialled: list = field(default_factory=list)
    asked: list = field(default_factory=list)


def case(id, title, **how):
    """Puts a function `(house, mark)` into the table."""
    def enter(function):
        TABLE.append(Case(id, title, function, **how))
        return function
    return enter


def waits(id, what):
    """A case whose feature is not built yet."""
    WAITING[id] = what


def expect(answer, *wanted):
    """The status is one of those wanted: numbers, or `(status, code)`."""
    for want in wanted:
        status, code = want if isinstance(want, tuple) else (want, None)
        if answer.status == status and code in (None, answer.code):
            return answer
    raise AssertionError(f"answered {answer.status} {answer.code or answer.body[:120]!r} instead of {wanted}")


def head(host, line, *fields, body=""):
    """A raw request. `fields` are whole lines; Host comes first unless one of them is it."""
    named = any(f.lower().startswith("host") for f in fields)
    lines = [line, *([] if named else [f"Host: {host}"]), *fields]
    return "\r\n".join(lines) + "\r\n\r\n" + body
