use super::*;

/// `scheme[name=value;name=value]` or `scheme(token68)`, joined by spaces.
fn shown(lines: &[&str]) -> String {
    let one = |c: &Challenge| match &c.token68 {
        Some(token) => format!("{}({token})", c.scheme),
        None => {
            let params: Vec<String> = c.params.iter().map(|(n, v)| format!("{n}={v}")).collect();
            format!("{}[{}]", c.scheme, params.join(";"))
        }
    };
    let found = parse_challenges(lines.iter().copied());
    found.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// Field lines and what is read from them.
const TABLE: &[(&[&str], &str)] = &[
    (&[], ""),
    (&[""], ""),
    (&["DPoP"], "dpop[]"),
    (&["dpop"], "dpop[]"),
    (
        &[r#"DPoP error="use_dpop_nonce""#],
        "dpop[error=use_dpop_nonce]",
    ),
    (
        &[
            r#"DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof""#,
        ],
        "dpop[error=use_dpop_nonce;error_description=Resource server requires nonce in DPoP proof]",
    ),
    (
        &[r#"DPOP ERROR=use_dpop_nonce"#],
        "dpop[error=use_dpop_nonce]",
    ),
    (
        &[r#"Bearer realm="x", DPoP algs="ES256 PS256""#],
        "bearer[realm=x] dpop[algs=ES256 PS256]",
    ),
    (
        &[r#"DPoP algs="ES256", Bearer realm="x", error="invalid_token""#],
        "dpop[algs=ES256] bearer[realm=x;error=invalid_token]",
    ),
    (
        &[r#"Bearer realm="x""#, r#"DPoP error="use_dpop_nonce""#],
        "bearer[realm=x] dpop[error=use_dpop_nonce]",
    ),
    (
        &[r#"DPoP error="use_dpop_nonce""#, r#"Bearer realm="x""#],
        "dpop[error=use_dpop_nonce] bearer[realm=x]",
    ),
    // RFC 9110 §5.3: the lines are one list, so a challenge may go on in the next line.
    (
        &[r#"DPoP error="invalid_token","#, r#" algs="ES256""#],
        "dpop[error=invalid_token;algs=ES256]",
    ),
    // RFC 9110 §11.6.1, the example.
    (
        &[r#"Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\"""#],
        r#"basic[realm=simple] newauth[realm=apps;type=1;title=Login to "apps"]"#,
    ),
    (
        &[r#"Bearer realm="a, DPoP error=\"use_dpop_nonce\"""#],
        r#"bearer[realm=a, DPoP error="use_dpop_nonce"]"#,
    ),
    (
        &["Negotiate YIIFh==, DPoP algs=ES256"],
        "negotiate(YIIFh==) dpop[algs=ES256]",
    ),
    (&["Negotiate abc="], "negotiate(abc=)"),
    (&["Negotiate a/b+c~d"], "negotiate(a/b+c~d)"),
    (&["Negotiate, NTLM, DPoP"], "negotiate[] ntlm[] dpop[]"),
    (&["Negotiate abc=d"], "negotiate[abc=d]"),
    (
        &[r#"DPoP   error =  "invalid_token"  ,algs	=	"ES256""#],
        "dpop[error=invalid_token;algs=ES256]",
    ),
    (&[r#", ,DPoP ,, error="e",,"#], "dpop[error=e]"),
    (&[r#"Bearer realm="""#], "bearer[realm=]"),
    // Malformed, and read as far as it makes sense.
    (&[r#"error="use_dpop_nonce""#], ""),
    (
        &[r#"DPoP error="e" algs="ES256""#],
        "dpop[error=e;algs=ES256]",
    ),
    (&[r#"DPoP Bearer realm="x""#], "dpop[] bearer[realm=x]"),
    (
        &[r#"@x y="DPoP, error=1", Bearer realm="x""#],
        "bearer[realm=x]",
    ),
    (
        &[r#"DPoP error="use_dpop"#, r#"Bearer realm="x""#],
        "dpop[] bearer[realm=x]",
    ),
    (&[r#"DPoP error="a\"#], "dpop[]"),
    (&["DPoP error=\"a\u{1}b\", algs=ES256"], "dpop[algs=ES256]"),
    (&[r#"DPoP error=@, algs=ES256"#], "dpop[algs=ES256]"),
    (
        &[r#"Bearer realm="müller é", DPoP"#],
        "bearer[realm=müller é] dpop[]",
    ),
    (&["é, DPoP é=1, algs=ES256"], "dpop[algs=ES256]"),
    (
        &["XDPoP error=a, DPoPX error=b"],
        "xdpop[error=a] dpopx[error=b]",
    ),
    (&["Bearer =x, DPoP"], "dpop[]"),
    (&["\t DPoP\terror=a"], "dpop[error=a]"),
];

#[test]
fn what_servers_send() {
    assert!(TABLE.len() >= 30);
    for (lines, expected) in TABLE {
        assert_eq!(shown(lines), *expected, "{lines:?}");
    }
}

#[test]
fn the_first_of_equal_parameters_counts() {
    let found = parse_challenges([r#"DPoP error=a, Error=b"#].into_iter());
    assert_eq!(found[0].param("error"), Some("a"));
    assert_eq!(found[0].param("nonce"), None);
}

#[test]
fn a_flood_is_cut_off() {
    let many = "X a=1, ".repeat(100);
    let found = parse_challenges([many.as_str(), r#"late="1""#].into_iter());
    assert_eq!(found.len(), 32);
    assert!(found.iter().all(|c| c.params.len() == 1));

    let long = "a".repeat(16 * 1024);
    assert_eq!(parse_challenges([long.as_str(), "DPoP"].into_iter()), []);
    let lines = std::iter::repeat_n("", 20_000).chain(["DPoP"]);
    assert_eq!(parse_challenges(lines), []);
}

proptest::proptest! {
    #[test]
    fn nothing_a_server_sends_breaks_it(lines in proptest::collection::vec("(DPoP|[a-c]|[ ,=\"\\\\\t]|é|\\PC){0,40}", 0..4)) {
        let found = parse_challenges(lines.iter().map(String::as_str));
        proptest::prop_assert!(found.iter().all(|c| !c.scheme.is_empty()));
    }

    #[test]
    fn a_well_formed_challenge_is_found_anywhere(
        realm in "[ -~&&[^\"\\\\]]{0,20}", before in 0usize..3, after in 0usize..3, split: bool,
    ) {
        let other = format!(r#"Bearer realm="{realm}", error=x"#);
        let dpop = r#"DPoP error="use_dpop_nonce""#.to_owned();
        let mut all = vec![other.clone(); before];
        all.push(dpop);
        all.extend(vec![other; after]);
        let lines = if split { all } else { vec![all.join(", ")] };
        let found = parse_challenges(lines.iter().map(String::as_str));
        proptest::prop_assert_eq!(found.len(), before + after + 1);
        let dpop: Vec<_> = found.iter().filter(|c| c.scheme == "dpop").collect();
        proptest::prop_assert_eq!(dpop.len(), 1);
        proptest::prop_assert_eq!(dpop[0].param("error"), Some("use_dpop_nonce"));
    }
}
