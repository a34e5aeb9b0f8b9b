//! As much of the WebSocket protocol (RFC 6455) as an echo needs: the handshake and unfragmented frames.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{RawConnection, within};

/// The largest message that is read.
const LARGEST: u64 = 1 << 20;

/// The mask of every frame that the kit's client sends. Masks guard against confused caches, not against tests.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The end of the conversation.
    Close = 8,
    /// A question whether the other side lives.
    Ping = 9,
    /// The answer to a ping.
    Pong = 10,
}

/// The client's side of an open WebSocket.
pub struct WebSocket {
    stream: RawConnection,
}

impl WebSocket {
    /// Makes the handshake on `stream` with `headers` (lines without line ends) beside the required ones.
    ///
    /// # Panics
    /// If the answer is anything but a correct 101. To see refusals, send the handshake of [`handshake`] yourself.
    pub async fn open(mut stream: RawConnection, host: &str, target: &str, headers: &[&str]) -> Self {
        stream.send(handshake(host, target, headers)).await;
        let answer = stream.read_head().await;
        assert_eq!(answer.status, 101, "a WebSocket handshake was refused: {answer:?}");
        assert_eq!(
            answer.header("sec-websocket-accept"),
            Some(accept(KEY).as_str()),
            "a WebSocket handshake was answered with the wrong proof"
        );
        Self { stream }
    }

    /// Sends a text message.
    pub async fn send(&mut self, text: &str) {
        self.send_frame(Kind::Text, text.as_bytes()).await;
    }

    /// Sends any frame.
    pub async fn send_frame(&mut self, kind: Kind, payload: &[u8]) {
        self.stream.send(encode(kind, payload, true)).await;
    }

    /// The next frame, or `None` once the other side has closed the connection.
    pub async fn receive(&mut self) -> Option<(Kind, Vec<u8>)> {
        within("a WebSocket frame", read_frame(&mut self.stream)).await
    }

    /// The next message, as text.
    ///
    /// # Panics
    /// If the next frame is no text.
    pub async fn receive_text(&mut self) -> String {
        match self.receive().await {
            Some((Kind::Text, payload)) => String::from_utf8(payload).expect("text in UTF-8"),
            other => panic!("expected a text message, got {other:?}"),
        }
    }
}

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// The bytes of a client's handshake.
#[must_use]
pub fn handshake(host: &str, target: &str, headers: &[&str]) -> String {
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    format!(
        "GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}\r\n"
    )
}

/// The proof for a handshake's headers, or `None` if they are no handshake.
pub(crate) fn accept_for(headers: &HeaderMap) -> Option<String> {
    let upgrade = headers.get("upgrade")?.to_str().ok()?;
    let key = headers.get("sec-websocket-key")?.to_str().ok()?;
    upgrade.eq_ignore_ascii_case("websocket").then(|| accept(key))
}

fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Sends every message back until the peer closes.
pub(crate) async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some((kind, payload)) = read_frame(&mut stream).await {
        let answer = if kind == Kind::Ping { Kind::Pong } else { kind };
        if stream.write_all(&encode(answer, &payload, false)).await.is_err() || kind == Kind::Close {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

fn encode(kind: Kind, payload: &[u8], masked: bool) -> Vec<u8> {
    let mut frame = vec![0x80 | kind as u8];
    let mask_bit = if masked { 0x80 } else { 0 };
    match payload.len() {
        length @ 0..=125 => frame.push(mask_bit | length as u8),
        length @ 126..=0xffff => {
            frame.push(mask_bit | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask_bit | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    frame
}

/// One frame, or `None` where the stream ends or what comes is no unfragmented frame of at most a MiB.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<(Kind, Vec<u8>)> {
    let head = stream.read_u8().await.ok()?;
    let kind = match head {
        0x81 => Kind::Text,
        0x82 => Kind::Binary,
        0x88 => Kind::Close,
        0x89 => Kind::Ping,
        0x8a => Kind::Pong,
        _ => return None,
    };
    let sizes = stream.read_u8().await.ok()?;
    let length = match sizes & 0x7f {
        126 => u64::from(stream.read_u16().await.ok()?),
        127 => stream.read_u64().await.ok()?,
        short => u64::from(short),
    };
    if length > LARGEST {
        return None;
    }
    let mut mask = [0; 4];
    if sizes & 0x80 != 0 {
        stream.read_exact(&mut mask).await.ok()?;
    }
    let mut payload = vec![0; usize::try_from(length).ok()?];
    stream.read_exact(&mut payload).await.ok()?;
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    Some((kind, payload))
}
