//! Who calls, where no proxy token says so: the user at the other end of a unix socket.

use std::path::Path;

use rustix::process::geteuid;
use tokio::net::UnixStream;
use tokio::process::Command;

use crate::kit::{
    API, House, Identity, Setup, Svc, agent_token, code, connect, err, get, house, out, reasons,
    run,
};

/// A CONNECT by a process of its own; prints the status.
const STRANGER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(f"CONNECT {sys.argv[2]}:443 HTTP/1.1\r\nhost: {sys.argv[2]}:443\r\n\r\n".encode())
print(s.recv(64).split()[1].decode())
"#;

/// `local` is a user, `coder` has a token.
async fn of_user(user: u32, listen: &str) -> House {
    let mut setup = Setup::of([Svc::items(), Svc::keys()]);
    setup.agents = vec![("coder", "items"), ("local", "items")];
    setup.auth = vec![("local", format!("{{peer_uid: {user}}}"))];
    house(setup, listen, &Identity::of(&["proxy.test"])).await
}

async fn knock(house: &House) -> UnixStream {
    let path = house.folder.path().join("p.sock");
    UnixStream::connect(path).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_user_of_a_connection_names_its_agent() {
    let ours = geteuid().as_raw();
    let house = of_user(ours, "[{address: unix:p.sock, mode: 0666}, 127.0.0.1:0]").await;
    assert_eq!(get(&house, knock(&house).await, "").await, 200);
    // Only where the system says so: over TCP the same process is nobody.
    let mut tcp = tokio::net::TcpStream::connect(house.proxy()).await.unwrap();
    assert_eq!(connect(&mut tcp, "").await, 407);
    let token = |name: &str| format!("proxy-authorization: Bearer {}\r\n", agent_token(name));
    let tcp = tokio::net::TcpStream::connect(house.proxy()).await.unwrap();
    assert_eq!(get(&house, tcp, &token("coder")).await, 200);
    // What is shown must name one agent, and be right.
    for fields in [
        token("coder"),
        token("nobody"),
        "proxy-authorization: x\r\n".into(),
    ] {
        assert_eq!(connect(&mut knock(&house).await, &fields).await, 407);
    }
    let strangers = if geteuid().is_root() {
        let path = house.folder.path().join("p.sock");
        open_to_all(house.folder.path());
        let mut other = Command::new("setpriv");
        other.args([
            "--reuid",
            "12345",
            "--clear-groups",
            "python3",
            "-c",
            STRANGER,
        ]);
        // Others may not read what a user has installed for itself.
        other.arg(path).arg(API).env("PATH", "/usr/bin:/bin");
        let done = run(&mut other).await;
        assert_eq!(code(&done), 0, "{}", err(&done));
        assert_eq!(out(&done).trim(), "407");
        1
    } else {
        0
    };
    let written = house.end().await;
    let whose: Vec<_> = written
        .requests()
        .iter()
        .map(|l| l["agent"].clone())
        .collect();
    assert_eq!(whose.iter().filter(|agent| **agent == "local").count(), 1);
    assert_eq!(whose.iter().filter(|agent| **agent == "coder").count(), 1);
    let expected = [
        "absent",
        "other_agent",
        "unknown_token",
        "malformed",
        "unknown_user",
    ];
    assert_eq!(reasons(&written), expected[..4 + strangers]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_is_nobody() {
    let other = geteuid().as_raw() + 1;
    let house = of_user(other, "unix:p.sock").await;
    assert_eq!(connect(&mut knock(&house).await, "").await, 407);
    let token = format!("proxy-authorization: Bearer {}\r\n", agent_token("coder"));
    assert_eq!(get(&house, knock(&house).await, &token).await, 200);
    assert_eq!(reasons(&house.end().await), ["unknown_user"]);
}

/// The folder of a test is its owner's alone.
fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}
