use super::head::Fault;
use super::*;

const MAX: usize = 1024;

/// What an observer tells of these pieces: verdicts, and how it ended.
fn requests(pieces: &[&[u8]]) -> (Vec<Verdict>, Result<(), Stop>) {
    let mut seen = Requests::new(MAX);
    let outcome = pieces.iter().try_for_each(|piece| seen.feed(piece));
    (std::iter::from_fn(|| seen.verdict()).collect(), outcome)
}

/// What an observer tells of the answer to one request.
fn responses(asked: Asked, pieces: &[&[u8]]) -> Came {
    let mut seen = Responses::new(MAX);
    assert!(seen.ask(asked));
    let told = pieces.iter().map(|piece| seen.feed(piece));
    told.fold(
        Came::Fine,
        |before, came| if before == Came::Fine { came } else { before },
    )
}

const GET: Asked = Asked {
    head_only: false,
    switch: false,
};

fn plain(fields: usize) -> Verdict {
    Verdict {
        fields,
        fault: None,
    }
}

/// Every way to cut `bytes` in two, and all of it byte by byte, tells the same.
fn in_any_pieces<T: PartialEq + std::fmt::Debug>(bytes: &[u8], tell: impl Fn(&[&[u8]]) -> T) -> T {
    let whole = tell(&[bytes]);
    for at in 0..=bytes.len() {
        let (a, b) = bytes.split_at(at);
        assert_eq!(
            tell(&[a, b]),
            whole,
            "cut at {at}: {}",
            bytes.escape_ascii()
        );
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(tell(&single), whole, "{}", bytes.escape_ascii());
    whole
}

#[test]
fn heads_that_every_reader_reads_alike_are_plain() {
    let table: [(&str, &[usize]); 9] = [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", &[1]),
        ("CONNECT a:443 HTTP/1.0\r\n\r\n", &[0]),
        ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", &[1]),
        (
            "POST / HTTP/1.1\r\nhost: a\r\nContent-Length:  3 \r\n\r\nabcGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            &[2, 1],
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding:Chunked\r\n\r\n3 ;x=\"y\"\r\nabc\r\n0\r\nx: y\r\n\r\n\
             GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\r\n",
            &[1, 2],
        ),
        (
            "POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &[1, 0],
        ),
        // What looks like a head in a body is none.
        (
            "POST / HTTP/1.1\r\ncontent-length: 18\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &[1],
        ),
        (
            "CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            &[1],
        ),
        ("GET / HTTP/1.1\r\nx-content-length: 1\r\nx: \n", &[]),
    ];
    for (bytes, fields) in table {
        let (verdicts, outcome) = in_any_pieces(bytes.as_bytes(), requests);
        let expected: Vec<Verdict> = fields.iter().map(|n| plain(*n)).collect();
        assert_eq!((verdicts, outcome), (expected, Ok(())), "{bytes:?}");
    }
}

#[test]
fn what_a_lenient_parser_forgives_is_a_fault_and_the_last_word() {
    let long = format!("content-length: {}2\r\n", " ".repeat(80));
    let table: [(&str, Fault); 16] = [
        ("x: y\n", Fault::BareLf),
        ("x: y\r\n\n", Fault::BareLf),
        (
            "content-length: 6\r\ntransfer-encoding: chunked\r\n",
            Fault::Both,
        ),
        (
            "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
            Fault::Both,
        ),
        ("transfer-encoding: gzip, chunked\r\n", Fault::Coding),
        ("transfer-encoding: identity, chunked\r\n", Fault::Coding),
        (
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            Fault::Codings,
        ),
        ("content-length: 2\r\ncontent-length: 2\r\n", Fault::Lengths),
        ("content-length: 2\r\ncontent-length: 3\r\n", Fault::Lengths),
        ("content-length: 002\r\n", Fault::Length),
        ("content-length: +2\r\n", Fault::Length),
        ("content-length: 2, 2\r\n", Fault::Length),
        ("content-length:\r\n", Fault::Length),
        ("content-length: 99999999999999999999\r\n", Fault::Length),
        ("CONTENT-LENGTH: 0x2\r\n", Fault::Length),
        (&long, Fault::Length),
    ];
    let smuggled = "GET /b HTTP/1.1\r\nhost: a\r\n\r\n";
    for (fields, fault) in table {
        let bytes = format!("POST /a HTTP/1.1\r\n{fields}\r\n{smuggled}");
        let (verdicts, outcome) = in_any_pieces(bytes.as_bytes(), requests);
        let faults: Vec<_> = verdicts.iter().map(|v| v.fault).collect();
        assert_eq!((faults, outcome), (vec![Some(fault)], Ok(())), "{bytes:?}");
    }
    let tunnel = b"CONNECT a:443 HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello";
    let (verdicts, _) = in_any_pieces(tunnel, requests);
    assert_eq!(verdicts[0].fault, Some(Fault::ConnectBody));
}

#[test]
fn what_has_no_end_stops_the_connection() {
    let head = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    let coded = |value: &str| format!("POST / HTTP/1.1\r\ntransfer-encoding: {value}\r\n\r\n");
    let fields = format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(101));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(MAX));
    let large = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(MAX));
    let table = [
        (fields, Stop::Head),
        (large, Stop::Head),
        (format!("GET /{}", "a".repeat(MAX)), Stop::Target),
        (long, Stop::Target),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), Stop::Preface),
        (coded("gzip"), Stop::Coding),
        (coded("chunked, identity"), Stop::Coding),
        (coded("\x0bchunked"), Stop::Coding),
        (coded(""), Stop::Coding),
        ("GET / HTTP/1.2\r\n\r\n".to_owned(), Stop::Version),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), Stop::Version),
        ("GET / http/1.1\r\n\r\n".to_owned(), Stop::Version),
        ("GET /\r\n\r\n".to_owned(), Stop::Version),
        ("GET / HTTP/1.1 \n\n".to_owned(), Stop::Version),
        (format!("{head}2;x\nhi"), Stop::Body),
        (format!("{head}2\nhi"), Stop::Body),
        (format!("{head}0x2\r\nhi"), Stop::Body),
        (format!("{head}+2\r\nhi"), Stop::Body),
        (format!("{head} 2\r\nhi"), Stop::Body),
        (format!("{head}\r\n"), Stop::Body),
        (format!("{head}2\r\nhixx"), Stop::Body),
        (format!("{head}FFFFFFFFFFFFFFFF1\r\n"), Stop::Body),
        (format!("{head}0\r\nx: y\nhost: z\r\n\r\n"), Stop::Body),
        (format!("{head}2\r\rhi"), Stop::Body),
    ];
    for (bytes, stop) in table {
        let (_, outcome) = in_any_pieces(bytes.as_bytes(), requests);
        assert_eq!(outcome, Err(stop), "{bytes:?}");
    }
}

#[test]
fn a_refused_tunnel_goes_on_only_if_nobody_took_it_for_open() {
    let connect = b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n";
    let again = |early: &[u8]| {
        let mut seen = Requests::new(MAX);
        seen.feed(connect).unwrap();
        seen.feed(early).unwrap();
        assert_eq!(seen.verdict(), Some(plain(1)));
        seen.refused();
        seen.feed(connect).unwrap();
        seen.verdict()
    };
    assert_eq!(again(b""), Some(plain(1)));
    assert_eq!(again(b"\x16\x03"), None);
}

#[test]
fn heads_that_wait_are_bounded() {
    let many = "GET / HTTP/1.1\r\n\r\n".repeat(1000);
    let (verdicts, outcome) = requests(&[many.as_bytes()]);
    assert_eq!((verdicts.len(), outcome), (256, Ok(())));
}

#[test]
fn answers_end_where_every_reader_ends_them() {
    let head_only = Asked {
        head_only: true,
        switch: false,
    };
    let table = [
        (GET, "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        (
            GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (GET, "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            GET,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n",
        ),
        (head_only, "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        (
            head_only,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            GET,
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200\r\ncontent-length: 0\r\n\r\n",
        ),
    ];
    for (asked, bytes) in table {
        let told = |pieces: &[&[u8]]| {
            let mut seen = Responses::new(MAX);
            seen.ask(asked);
            let came: Vec<Came> = pieces.iter().map(|piece| seen.feed(piece)).collect();
            (came.iter().all(|came| *came == Came::Fine), seen.idle())
        };
        assert_eq!(
            in_any_pieces(bytes.as_bytes(), told),
            (true, true),
            "{bytes:?}"
        );
        // One byte more answers nothing: it is cut off, and there is no next request.
        let mut seen = Responses::new(MAX);
        seen.ask(asked);
        let more = format!("{bytes}X");
        assert_eq!(seen.feed(more.as_bytes()), Came::TooMany(bytes.len()));
        assert!(!seen.idle() && !seen.ask(GET));
    }
    let until_close = "HTTP/1.0 200 OK\r\n\r\nanything\n\nHTTP/1.1 999\r\n";
    assert_eq!(responses(GET, &[until_close.as_bytes()]), Came::Fine);
}

#[test]
fn answers_that_break_a_rule_are_not_read() {
    let large = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "a".repeat(MAX));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(9);
    let ok = "HTTP/1.1 200 OK\r\n";
    let table = [
        "HTTP/1.1 200 OK\nx: y\r\n\r\n".to_owned(),
        "HTTP/0.9 200 OK\r\n\r\n".to_owned(),
        "HTTP/2.0 200 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 099 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 999 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 2000 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 +20 OK\r\n\r\n".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_owned(),
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned(),
        format!("{ok}content-length: 2\r\ncontent-length: 2\r\n\r\n"),
        format!("{ok}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n"),
        format!("{ok}transfer-encoding: gzip, chunked\r\n\r\n"),
        format!("{ok}content-length: -1\r\n\r\n"),
        format!("{ok}transfer-encoding: chunked\r\n\r\n2\nok"),
        large,
        interim,
    ];
    for bytes in table {
        assert_eq!(
            in_any_pieces(bytes.as_bytes(), |p| responses(GET, p)),
            Came::Broken,
            "{bytes:?}"
        );
    }
    assert_eq!(
        Responses::new(MAX).feed(b"HTTP/1.1 200 OK\r\n"),
        Came::Broken
    );
    let eight = format!(
        "{}{ok}content-length: 0\r\n\r\n",
        "HTTP/1.1 103 x\r\n\r\n".repeat(8)
    );
    assert_eq!(
        in_any_pieces(eight.as_bytes(), |p| responses(GET, p)),
        Came::Fine
    );
    let switch = Asked {
        head_only: false,
        switch: true,
    };
    let switched = "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\nx\n\n";
    assert_eq!(
        in_any_pieces(switched.as_bytes(), |p| responses(switch, p)),
        Came::Fine
    );
}

fn frame(kind: u8, flags: u8, stream: u8, payload: usize) -> Vec<u8> {
    let mut bytes = vec![
        0,
        0,
        u8::try_from(payload).unwrap(),
        kind,
        flags,
        0,
        0,
        0,
        stream,
    ];
    bytes.resize(bytes.len() + payload, 1);
    bytes
}

#[test]
fn field_sections_of_one_stream_are_bounded() {
    let kept = |count: usize, last: &[u8]| {
        let mut bytes = frame(4, 0, 0, 12);
        for _ in 0..count {
            bytes.extend(frame(1, 4, 1, 20));
            bytes.extend(frame(1, 4, 3, 0));
        }
        bytes.extend(last);
        in_any_pieces(&bytes, |pieces| {
            let mut frames = Frames::default();
            pieces.iter().all(|piece| frames.feed(piece))
        })
    };
    assert!(kept(10, &frame(1, 5, 1, 3)));
    assert!(!kept(11, b""));
    // A stream that has ended is forgotten.
    let mut frames = Frames::default();
    for _ in 0..100 {
        assert!(frames.feed(&[frame(1, 4, 1, 2), frame(0, 1, 1, 2)].concat()));
        assert!(frames.feed(&[frame(1, 4, 3, 2), frame(3, 0, 3, 4)].concat()));
    }
}

#[test]
fn what_an_agent_has_begun_is_known_until_it_is_finished() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let settings = frame(4, 0, 0, 6);
    let opened = [PREFACE, &settings].concat();
    let unfinished = |bytes: &[u8]| {
        in_any_pieces(bytes, |pieces| {
            let mut underway = Underway::default();
            pieces.iter().for_each(|piece| underway.feed(piece));
            underway.unfinished()
        })
    };
    assert_eq!(unfinished(b""), Some(0));
    assert_eq!(unfinished(PREFACE), Some(0));
    assert_eq!(unfinished(&opened[..opened.len() - 1]), Some(0));
    assert_eq!(unfinished(&opened), None);
    for (next, open) in [
        (frame(6, 0, 0, 8), None),
        (frame(6, 0, 0, 8)[..16].to_vec(), Some(1)),
        (frame(1, 4, 1, 8), None),
        (frame(1, 4, 1, 8)[..10].to_vec(), Some(1)),
        // A block without END_HEADERS is one thing, whatever it consists of; what comes behind it is the next.
        (frame(1, 0, 1, 8), Some(1)),
        ([frame(1, 0, 1, 8), frame(9, 0, 1, 8)].concat(), Some(1)),
        ([frame(1, 0, 1, 8), frame(9, 4, 1, 8)].concat(), None),
        (
            [frame(1, 0, 1, 8), frame(9, 4, 1, 8), vec![0]].concat(),
            Some(2),
        ),
        // A body may come slowly; the head of its frame may not.
        (frame(0, 0, 1, 200)[..20].to_vec(), None),
        (frame(0, 0, 1, 200)[..8].to_vec(), Some(1)),
        ([frame(0, 0, 1, 200), frame(1, 0, 1, 0)].concat(), Some(2)),
    ] {
        let all = [opened.as_slice(), &next].concat();
        assert_eq!(unfinished(&all), open, "{next:?}");
    }
}
