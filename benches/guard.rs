//! What the response guard costs an answer: one pass where there is nothing to find, and what escapes and ends add.

#![expect(
    clippy::expect_used,
    reason = "a bench ends where its own input is wrong"
)]
// Criterion's macro makes functions without a line about them.
#![allow(missing_docs, clippy::allow_attributes, reason = "criterion's macros")]

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tokenward::reflect::{Sought, Stream, Watched};

/// As long as a token of a usual issuer.
fn token() -> String {
    let letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random = |n: usize| (0..n).map(move |i| i * i * 31 % 61 + i % 3);
    let text: String = random(860)
        .filter_map(|at| letters.chars().nth(at))
        .collect();
    format!("eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.{text}")
}

fn watched() -> Watched {
    let sought = Sought::new(token().as_bytes()).expect("a token");
    Watched::new(
        vec![Arc::new(sought)],
        "tw-0123456789abcdefghijklmnopqrstuv",
    )
}

fn filled(with: &str, size: usize) -> Bytes {
    with.bytes().cycle().take(size).collect()
}

fn guard(c: &mut Criterion) {
    let watched = watched();
    let plain = "{\"id\": 17, \"name\": \"a lamp of brass\", \"tags\": [\"x\", \"y\"]}, ";
    let escaped = "{\"text\": \"one line\\nand \\\"two\\\" \\u00e9 \\/ \\u0026 more\"}, ";
    for (name, text) in [("plain", plain), ("escaped", escaped)] {
        for size in [1 << 10, 16 << 10, 1 << 20] {
            let body = filled(text, size);
            let mut group = c.benchmark_group(format!("guard/{name}"));
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(format!("{size}"), |b| {
                b.iter(|| Stream::new(watched.clone()).push(black_box(body.clone()), true));
            });
        }
    }
    let event = filled("data: {\"delta\": \"some words of an answer\"}\n\n", 180);
    c.bench_function("guard/event", |b| {
        b.iter_batched_ref(
            || Stream::new(watched.clone()),
            |stream| stream.push(black_box(event.clone()), false),
            BatchSize::SmallInput,
        );
    });
    c.bench_function("guard/prepare", |b| {
        let token = token();
        b.iter(|| Sought::new(black_box(token.as_bytes())));
    });
}

criterion_group!(benches, guard);
criterion_main!(benches);
