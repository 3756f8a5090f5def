//! `healthcheck`: an exit code for container probes, so that an image needs no shell and no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use super::Failure;
use super::args::Args;
use super::serve::plan_without_secrets;

/// How long the proxy may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn healthcheck(args: &Args) -> Result<ExitCode, Failure> {
    let plan = plan_without_secrets(args)?;
    let address = plan
        .health
        .ok_or_else(|| Failure("`health` is off; write `health: 127.0.0.1:9091`".into()))?;
    let answer = ask(address).map_err(|e| Failure(format!("not ready: {e}")))?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure(format!(
            "not ready: {}",
            answer.lines().last().unwrap_or_default()
        )))
    }
}

fn ask(mut address: SocketAddr) -> std::io::Result<String> {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(16 * 1024).read_to_string(&mut answer)?;
    Ok(answer)
}
