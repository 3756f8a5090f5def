use http::HeaderMap;
use proptest::prelude::*;

use super::given::{COOKIE_MAX, Cookie, Place};
use super::jar::{BYTES_MAX, COOKIES_MAX, Jar};
use super::*;
use crate::vocab::{Authority, Scheme};

const NOW: i64 = 1_800_000_000;

fn authority(origin: &str) -> Authority {
    let (scheme, host) = origin.split_once("://").unwrap();
    let scheme = if scheme == "http" {
        Scheme::Http
    } else {
        Scheme::Https
    };
    Authority::parse(scheme, host).unwrap()
}

/// What a request to `to` carries after an answer from `from` has set these cookies.
fn sent(from: &str, path: &str, lines: &[&str], to: &str, at: &str) -> String {
    sent_later(from, path, lines, (to, at, 0))
}

fn sent_later(
    from: &str,
    path: &str,
    lines: &[&str],
    (to, at, later): (&str, &str, i64),
) -> String {
    let (from, to) = (authority(from), authority(to));
    let mut jar = Jar::default();
    let place = Place {
        authority: &from,
        path,
        now: NOW,
    };
    for line in lines {
        if let Some(cookie) = Cookie::read(line.as_bytes(), place) {
            jar.put(cookie, NOW);
        }
    }
    let field = jar.field(Place {
        authority: &to,
        path: at,
        now: NOW + later,
    });
    field.map_or_else(String::new, |field| field.to_str().unwrap().to_owned())
}

const API: &str = "https://api.shop.example";

/// (`Set-Cookie`, where the next request goes, its path, whether the cookie goes with it).
type Case = (&'static str, &'static str, &'static str, bool);

const PLACES: &[Case] = &[
    ("a=1", API, "/", true),
    ("a=1", "https://api.shop.example:8443", "/", true),
    ("a=1", "https://www.shop.example", "/", false),
    ("a=1", "https://x.api.shop.example", "/", false),
    (
        "a=1; Domain=api.shop.example",
        "https://x.api.shop.example",
        "/",
        true,
    ),
    (
        "a=1; Domain=.Shop.Example",
        "https://www.shop.example",
        "/",
        true,
    ),
    (
        "a=1; domain=shop.example",
        "https://shop.example",
        "/",
        true,
    ),
    (
        "a=1; domain=shop.example",
        "https://badshop.example",
        "/",
        false,
    ),
    ("a=1; domain=", "https://www.shop.example", "/", false),
    // Of two the last counts.
    (
        "a=1; domain=other.example; domain=shop.example",
        API,
        "/",
        true,
    ),
    // Not its own, above what anybody can own, not a name at all.
    ("a=1; domain=other.example", API, "/", false),
    ("a=1; domain=www.shop.example", API, "/", false),
    ("a=1; domain=example", API, "/", false),
    ("a=1; domain=shop..example", API, "/", false),
    // Paths.
    ("a=1; path=/v1", API, "/v1", true),
    ("a=1; path=/v1", API, "/v1/items", true),
    ("a=1; path=/v1/", API, "/v1/items", true),
    ("a=1; path=/v1", API, "/v10", false),
    ("a=1; path=/v1/", API, "/v1", false),
    ("a=1; path=v1", API, "/", true),
    // Only in TLS.
    ("a=1; secure", API, "/", true),
    ("a=1; secure", "http://api.shop.example", "/", false),
    ("a=1", "http://api.shop.example", "/", true),
];

const PROMISES_AND_TIMES: &[Case] = &[
    // Promises in names.
    ("__Secure-a=1; secure", API, "/", true),
    ("__Secure-a=1", API, "/", false),
    ("__Host-a=1; secure; path=/", API, "/", true),
    ("__host-a=1; secure", API, "/", false),
    (
        "__HOST-a=1; secure; path=/; domain=shop.example",
        API,
        "/",
        false,
    ),
    ("__Host-a=1; path=/", API, "/", false),
    // Time.
    ("a=1; max-age=10", API, "/", true),
    ("a=1; max-age=0", API, "/", false),
    ("a=1; max-age=-1", API, "/", false),
    ("a=1; max-age=ten", API, "/", true),
    ("a=1; max-age=99999999999999999999", API, "/", true),
    (
        "a=1; expires=Thu, 01 Jan 1970 00:00:00 GMT",
        API,
        "/",
        false,
    ),
    (
        "a=1; expires=Thu, 01 Jan 1970 00:00:00 GMT; max-age=10",
        API,
        "/",
        true,
    ),
    ("a=1; expires=soon", API, "/", true),
    // What is no cookie.
    ("a", API, "/", false),
    ("=1", API, "/", false),
    ("", API, "/", false),
    ("a=1\u{1}", API, "/", false),
];

#[test]
fn a_cookie_goes_where_it_was_meant_to_go() {
    for &(line, to, at, goes) in PLACES.iter().chain(PROMISES_AND_TIMES) {
        let got = sent(API, "/", &[line], to, at);
        assert_eq!(!got.is_empty(), goes, "{line} to {to}{at}: {got}");
    }
    let in_clear = sent("http://api.shop.example", "/", &["a=1; secure"], API, "/");
    assert_eq!(in_clear, "", "a page in clear text cannot set it");
}

#[test]
fn names_over_which_anybody_can_register_are_nobodys() {
    let github = "https://pages.github.io";
    let line = "a=1; domain=github.io";
    assert_eq!(sent(github, "/", &[line], github, "/"), "");
    // A suffix may set one for itself alone.
    let suffix = "https://github.io";
    assert_eq!(sent(suffix, "/", &[line], suffix, "/"), "a=1");
    assert_eq!(sent(suffix, "/", &[line], github, "/"), "");
    // Addresses have nothing below them.
    let address = "https://192.0.2.7";
    assert_eq!(
        sent(address, "/", &["a=1; domain=192.0.2.7"], address, "/"),
        "a=1"
    );
    assert_eq!(sent(address, "/", &["a=1; domain=0.2.7"], address, "/"), "");
}

#[test]
fn the_path_is_the_folder_where_none_is_said() {
    for (path, at, goes) in [
        ("/", "/x", true),
        ("/login", "/x", true),
        ("/auth/login", "/auth/x", true),
        ("/auth/login", "/auth", true),
        ("/auth/login", "/other", false),
        ("/auth/", "/auth/x", true),
    ] {
        let got = sent(API, path, &["a=1"], API, at);
        assert_eq!(!got.is_empty(), goes, "{path} to {at}");
    }
}

#[test]
fn longer_paths_go_first_and_then_what_was_there_first() {
    let lines = [
        "first=1; path=/",
        "deep=2; path=/v1/items",
        "second=3; path=/",
        "mid=4; path=/v1",
        // The same once more keeps its place.
        "first=5; path=/",
        " spaced \t=  6  ; path=/",
        "quoted=\"a=b\"; path=/",
    ];
    let got = sent(API, "/", &lines, API, "/v1/items/7");
    assert_eq!(
        got,
        "deep=2; mid=4; first=5; second=3; spaced=6; quoted=\"a=b\""
    );
}

#[test]
fn what_is_over_is_gone_and_can_be_taken_away() {
    let later = |lines: &[&str], seconds| sent_later(API, "/", lines, (API, "/", seconds));
    assert_eq!(later(&["a=1; max-age=60", "b=2"], 59), "a=1; b=2");
    assert_eq!(later(&["a=1; max-age=60", "b=2"], 60), "b=2");
    assert_eq!(later(&["a=1; max-age=999999999"], 400 * 86_400), "");
    assert_eq!(later(&["a=1", "b=2", "a=; max-age=0"], 0), "b=2");
    // It is another cookie on another path.
    assert_eq!(later(&["a=1", "a=2; path=/v1; max-age=0"], 0), "a=1");
}

#[test]
fn a_jar_is_bounded() {
    let many: Vec<String> = (0..COOKIES_MAX + 10).map(|n| format!("c{n}=v")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let got = sent(API, "/", &many, API, "/");
    assert_eq!(got.split("; ").count(), COOKIES_MAX);
    assert!(!got.contains("c9=") && got.starts_with("c10=v"), "{got}");
    let (name, room) = ("abcd", COOKIE_MAX - 4);
    let fits = format!("{name}={}", "x".repeat(room));
    let over = format!("{fits}x");
    assert_eq!(sent(API, "/", &[&fits], API, "/"), fits);
    assert_eq!(sent(API, "/", &[&over], API, "/"), "");
    let large: Vec<String> = (0..10)
        .map(|n| format!("l{n}={}", "x".repeat(4000)))
        .collect();
    let large: Vec<&str> = large.iter().map(String::as_str).collect();
    let got = sent(API, "/", &large, API, "/");
    assert!(
        got.len() <= BYTES_MAX && got.contains("l9="),
        "{}",
        got.len()
    );
    // The agent chooses the path of its request: it counts as well, and one that is too long is no cookie's.
    let folder = format!("/{}/", "p".repeat(1000));
    let many: Vec<String> = (0..20).map(|n| format!("c{n}=v")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let got = sent(API, &folder, &many, API, &folder);
    assert_eq!(got.split("; ").count(), 7, "{got}");
    let folder = format!("/{}/", "p".repeat(1100));
    assert_eq!(sent(API, &folder, &["a=1"], API, &folder), "");
    // An attribute that is too long counts as not there.
    let long = format!("a=1; path=/{}", "x".repeat(2000));
    assert_eq!(sent(API, "/", &[&long], API, "/"), "a=1");
}

#[test]
fn cookies_pass_by_name_and_no_other() {
    let mut headers = HeaderMap::new();
    for line in [
        "sid=1; path=/",
        "SID=2",
        "lang=en",
        "sidx=3",
        "sid",
        " sid = 4",
        // Some readers find a second cookie in these.
        "lang=a sid=evil",
        "lang=en; Path=/, sid=x",
        "lang=a, sid=evil",
        "lang=en; Expires=Wed, sid=x",
        "lang=en; Expires=Wed, 21 Oct 2043 07:28:00 GMT, sid",
        "lang=fr; Expires=Wed, 21 Oct 2043 07:28:00 GMT; Secure",
    ] {
        headers.append("set-cookie", line.parse().unwrap());
    }
    let names: Vec<Box<str>> = vec!["sid".into(), "lang".into()];
    let passing = passing(&headers, &names);
    let passing: Vec<&str> = passing.iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(
        passing,
        [
            "sid=1; path=/",
            "lang=en",
            " sid = 4",
            "lang=fr; Expires=Wed, 21 Oct 2043 07:28:00 GMT; Secure",
        ]
    );
}

#[test]
fn the_shelf_has_an_end_and_gives_room_back() {
    let shelf = Shelf::default();
    assert_eq!((0..JARS_MAX + 5).filter(|_| shelf.take()).count(), JARS_MAX);
    shelf.give_back(2);
    assert_eq!((0..5).filter(|_| shelf.take()).count(), 2);
}

proptest! {
    /// Whatever is set, a jar keeps its bounds, and its field can be written.
    #[test]
    fn no_cookie_breaks_a_jar(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..80)) {
        let at = authority(API);
        let place = Place { authority: &at, path: "/a/b", now: NOW };
        let mut jar = Jar::default();
        for line in &lines {
            if let Some(cookie) = Cookie::read(line, place) {
                jar.put(cookie, NOW);
            }
        }
        if let Some(field) = jar.field(place) {
            prop_assert!(field.is_sensitive() && field.len() <= BYTES_MAX + 2 * COOKIES_MAX);
            prop_assert!(!field.as_bytes().contains(&b'\n'));
        }
    }
}
