"""Results as a table, and the README's copy of it."""

BEGIN, END = "<!-- interop: made by tests/interop/run.py -->", "<!-- interop: end -->"
KINDS = {"programs": "", "packages": ""}


def render(results):
    lines = ["| client | version | by environment alone | otherwise | requests | refused |", "|---|---|---|---|---|---|"]
    for one in results:
        kind = KINDS.get(one["kind"], one["kind"])
        name = one["client"] if not kind else f"{kind}: {one['client']}"
        alone = one["alone"] if one["result"] == "ok" else f"**{one['result']}**"
        lines.append(f"| {name} | {one['version']} | {alone} | {one['otherwise']} | {one['requests']} | {one['refused'] or 0} |")
    total, refused = (sum(one[n] for one in results) for n in ("requests", "refused"))
    lines += ["", f"{len(results)} clients, {total} requests; {refused} that should have passed were refused."]
    return "\n".join(lines)


def put(file, results):
    """Between the markers where the file has them, else the file is the table."""
    text = file.read_text() if file.exists() else ""
    if BEGIN in text:
        before, rest = text.split(BEGIN, 1)
        after = rest.split(END, 1)[1]
        file.write_text(f"{before}{BEGIN}\n{render(results)}\n{END}{after}")
    else:
        file.write_text(render(results) + "\n")


def same(file, results):
    """Whether the file holds the table of these results."""
    return f"{BEGIN}\n{render(results)}\n{END}" in file.read_text()
