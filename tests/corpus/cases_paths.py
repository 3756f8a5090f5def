"""Class H: which path and method is meant."""

from cases import case, expect, head

RO = "api.ro.test"


def refused_path(id, title, *paths, statuses=(400, 403)):
    """None of these paths reaches the origin."""
    @case(id, title)
    def run(house, mark):
        for path in paths:
            expect(house.A.ask(RO, head(RO, f"GET {path} HTTP/1.1")), *statuses)
        assert not mark.at(RO), mark.at(RO)


refused_path("H01", "dot segments", "/v1/items/../admin", "/v1/items/./../admin", "/v1/items/..", "/v1/public/../../v1/admin")
refused_path("H02", "escaped dot segments", "/v1/items/%2e%2e/admin", "/v1/items/%2E./admin", "/v1/items/.%2e/admin")
refused_path("H03", "escaped slashes", "/v1/items/..%2fadmin", "/v1%2fadmin", "/v1/items/1%2F2", statuses=(400,))


@case("H10", "segments end where they end; the query is not the path")
def run(house, mark):
    expect(house.A.get(RO, "/v1/itemsadmin"), (403, "policy-denied"))
    expect(house.A.get(RO, "/v1/items_"), (403, "policy-denied"))
    expect(house.A.get(RO, "/v1/items?x=/v1/admin"), 200)
    assert [r.target for r in mark.at(RO)] == ["/v1/items?x=/v1/admin"]
