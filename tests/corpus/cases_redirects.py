"""Of class K, redirects: where an API points is told to the agent and never followed. The rest is in cases_reflection.py."""

from agent import Refused
from cases import case, expect, head
from house import fail_unless

ECHO, RO, RW = "echo.test", "api.ro.test", "api.rw.test"


def pointing(status, place):
    return lambda record, conversation: (status, [("location", place)], "elsewhere")


@case("K01", "a redirect is passed on and not followed")
def run(house, mark):
    for status in (301, 302, 303, 307, 308):
        for place in ("https://evil.test/", "https://mal.test/taken", "https://echo.test/again", "/again", "//evil.test/"):
            house.origins[ECHO].behave = pointing(status, place)
            answer = expect(house.A.get(ECHO, "/"), status)
            fail_unless(answer.values("location") == [place], place, "became", answer.values("location"))
    fail_unless(not mark.at("mal.test") and not mark.at("evil.test"), "it was followed")
    fail_unless({r.target for r in mark.at(ECHO)} == {"/"}, "it was followed to the same host")
    # The agent that follows by itself is judged anew.
    try:
        house.A.tunnel("evil.test")
        fail_unless(False, "evil.test was reached")
    except Refused as refused:
        expect(refused.answer, (403, "destination-denied"))


@case("K02", "a redirect with a body to another service takes no token along")
def run(house, mark):
    for status in (307, 308):
        house.origins[RW].behave = pointing(status, f"https://{ECHO}/v1/items")
        answer = house.A.ask(RW, head(RW, "POST /v1/items HTTP/1.1", "Content-Length: 2", body="hi"), "POST")
        expect(answer, status)
    fail_unless(not mark.at(ECHO), "it was followed")


