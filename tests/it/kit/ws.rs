//! A WebSocket client (RFC 6455): text frames and close, nothing else.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::{Raw, Tls, read_head};

const MASK: [u8; 4] = [7, 11, 13, 17];

/// An open WebSocket.
pub(crate) struct WebSocket(Tls);

impl WebSocket {
    /// The handshake; the answer's head where it is not 101.
    pub(crate) async fn open(mut tls: Tls, host: &str, fields: &str) -> Result<Self, Raw> {
        let head = format!(
            "GET /v1/ws HTTP/1.1\r\nhost: {host}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n{fields}\r\n"
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        let answer = read_head(&mut tls).await;
        if answer.status() != 101 {
            return Err(answer);
        }
        let text = answer.text().to_ascii_lowercase();
        assert!(
            text.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
            "{text}"
        );
        Ok(Self(tls))
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match u8::try_from(payload.len()) {
            Ok(short @ 0..=125) => frame.push(0x80 | short),
            _ => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
        self.0.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn say(&mut self, text: &str) {
        self.send(0x81, text.as_bytes()).await;
    }

    /// The next frame: its first byte and its payload.
    pub(crate) async fn hear(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let first = self.0.read_u8().await?;
        let length = match self.0.read_u8().await? {
            126 => self.0.read_u16().await?,
            short => short.into(),
        };
        let mut payload = vec![0; length.into()];
        self.0.read_exact(&mut payload).await?;
        Ok((first, payload))
    }

    /// Closes in order and waits for the other side's word.
    pub(crate) async fn close(mut self) {
        self.send(0x88, &1000_u16.to_be_bytes()).await;
        let (first, _) = self.hear().await.unwrap();
        assert_eq!(first, 0x88);
    }
}
