"""As much of GitHub's API as `gh` asks for. A behaviour for the corpus's `Origin`."""

import json

JSON = [("content-type", "application/json; charset=utf-8")]


def behave(record, _conversation):
    path = record.target.partition("?")[0]
    if path == "/api/v3/user":
        return 200, JSON, json.dumps({"login": "octo", "id": 1})
    if path == "/api/graphql" and record.method == "POST":
        return 200, JSON, json.dumps({"data": {"viewer": {"login": "octo"}}})
    if path == "/api/v3/repos/octo/demo/issues" and record.method == "POST":
        return 201, JSON, json.dumps({"number": 7, "title": json.loads(record.body)["title"]})
    return 404, JSON, json.dumps({"message": "Not Found"})
