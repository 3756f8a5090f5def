//! The `tokenward` command.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// A request makes and frees some hundred small pieces of memory, some of them on another thread (its audit line). With
/// the C library's allocator that is a tenth of its processor time more, see `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    tokenward::cli::run()
}
