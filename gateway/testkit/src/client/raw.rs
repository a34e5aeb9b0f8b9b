//! A client of literal bytes: for requests that no HTTP library would send, and for reading answers strictly.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::within;

/// The most that an answer's head may take.
const LARGEST_HEAD: usize = 1 << 20;

/// A connection of literal bytes.
pub struct RawConnection {
    stream: Pin<Box<dyn Stream>>,
    /// Read from the stream, and not yet given out.
    ahead: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// An answer as it came, with its framing checked by RFC 9112.
#[derive(Debug, Clone)]
pub struct RawResponse {
    /// The status code.
    pub status: u16,
    /// Name (in lower case) and value of each header, in order.
    pub headers: Vec<(String, String)>,
    /// The body, chunked framing taken off.
    pub body: Vec<u8>,
}

/// Connects to `address` in cleartext.
pub async fn raw(address: SocketAddr) -> RawConnection {
    let stream = within(format!("a connection to {address}"), TcpStream::connect(address))
        .await
        .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
    stream.set_nodelay(true).expect("a socket option of every TCP socket");
    RawConnection { stream: Box::pin(stream), ahead: Vec::new() }
}

/// Connects to `address` over TLS, asking for `name`.
pub async fn raw_tls(address: SocketAddr, name: &str, config: ClientConfig) -> RawConnection {
    let stream = within(format!("a connection to {address}"), TcpStream::connect(address))
        .await
        .unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = within(format!("a TLS handshake with {address}"), handshake)
        .await
        .unwrap_or_else(|error| panic!("no TLS with {address}: {error}"));
    RawConnection { stream: Box::pin(stream), ahead: Vec::new() }
}

impl RawConnection {
    /// Sends these bytes.
    ///
    /// # Panics
    /// If the peer has closed the connection. Where it may have, use [`try_send`](Self::try_send).
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.expect("a connection still open for sending");
    }

    /// Sends these bytes, or says why not.
    ///
    /// # Errors
    /// If the peer has closed the connection, as one that refuses does before it was sent everything.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        within("room to send", async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        })
        .await
    }

    /// Says that nothing more will be sent.
    pub async fn finish_sending(&mut self) {
        within("a half-close", self.stream.shutdown()).await.expect("a connection still open for sending");
    }

    /// Reads a whole answer to a request that was not `HEAD`, interim answers (1xx) skipped.
    ///
    /// # Panics
    /// If what comes is not exactly a response by RFC 9112, or does not come in time.
    pub async fn read_response(&mut self) -> RawResponse {
        within("a response", async {
            loop {
                let mut response = self.head().await.expect("a response rather than the end of the connection");
                if (100..200).contains(&response.status) && response.status != 101 {
                    continue;
                }
                response.body = self.content(&response).await;
                return response;
            }
        })
        .await
    }

    /// Reads an answer's head and leaves what follows: for `HEAD`, upgrades and interim answers.
    ///
    /// # Panics
    /// If what comes is not the head of a response.
    pub async fn read_head(&mut self) -> RawResponse {
        within("a response's head", self.head()).await.expect("a response rather than the end of the connection")
    }

    /// Reads a whole answer, or `None` if the connection ends or is reset without a byte of one.
    pub async fn read_response_or_end(&mut self) -> Option<RawResponse> {
        within("a response or the end of the connection", async {
            let mut response = self.head().await?;
            response.body = self.content(&response).await;
            Some(response)
        })
        .await
    }

    /// Reads whatever comes until the peer closes or resets the connection.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        within("the end of a connection", async { while self.more().await > 0 {} }).await;
        std::mem::take(&mut self.ahead)
    }

    /// Waits for the end of the connection.
    ///
    /// # Panics
    /// If anything is sent before it.
    pub async fn expect_end(&mut self) {
        let rest = self.read_to_end().await;
        assert!(rest.is_empty(), "expected the end of the connection, got {:?}", String::from_utf8_lossy(&rest));
    }

    /// Reads once more; 0 at the end, however it came.
    async fn more(&mut self) -> usize {
        let mut piece = [0; 16 << 10];
        let length = self.stream.read(&mut piece).await.unwrap_or(0);
        self.ahead.extend_from_slice(&piece[..length]);
        length
    }

    async fn head(&mut self) -> Option<RawResponse> {
        loop {
            if let Some(end) = self.ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.ahead.drain(..end + 4).collect();
                return Some(parse_head(&head[..end]));
            }
            assert!(self.ahead.len() <= LARGEST_HEAD, "a response's head beyond {LARGEST_HEAD} bytes");
            if self.more().await == 0 {
                assert!(
                    self.ahead.is_empty(),
                    "the connection ended within a response's head: {:?}",
                    String::from_utf8_lossy(&self.ahead)
                );
                return None;
            }
        }
    }

    async fn content(&mut self, head: &RawResponse) -> Vec<u8> {
        let length = head.header("content-length");
        let coding = head.header("transfer-encoding");
        assert!(length.is_none() || coding.is_none(), "both framings in one response: {head:?}");
        if head.status == 101 || head.status == 204 || head.status == 304 {
            return Vec::new();
        }
        match (length, coding) {
            (Some(length), _) => {
                let length = length.parse().unwrap_or_else(|_| panic!("a length that is no number: {head:?}"));
                self.take(length).await
            }
            (None, Some("chunked")) => self.chunks().await,
            (None, Some(other)) => panic!("an unknown transfer coding {other:?}"),
            (None, None) => {
                while self.more().await > 0 {}
                std::mem::take(&mut self.ahead)
            }
        }
    }

    async fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
            if size == 0 {
                while !self.line().await.is_empty() {}
                return body;
            }
            body.extend(self.take(size).await);
            let end = self.line().await;
            assert!(end.is_empty(), "a chunk beyond its size: {end:?}");
        }
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.ahead.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.ahead.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).expect("a line in UTF-8");
            }
            assert!(self.more().await > 0, "the connection ended within a chunked body");
        }
    }

    async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.ahead.len() < length {
            assert!(self.more().await > 0, "the connection ended after {} of {length} body bytes", self.ahead.len());
        }
        self.ahead.drain(..length).collect()
    }
}

/// Reading gives first what was read ahead.
impl AsyncRead for RawConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.ahead.is_empty() {
            return self.stream.as_mut().poll_read(context, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..length]);
        self.ahead.drain(..length);
        Poll::Ready(Ok(()))
    }
}

impl RawResponse {
    /// A header by its name in lower case.
    ///
    /// # Panics
    /// If it came more than once.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "header {name:?} came more than once: {self:?}");
        first
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }
}

/// Parses a head whose last empty line was taken off.
fn parse_head(head: &[u8]) -> RawResponse {
    let text = std::str::from_utf8(head).expect("a response's head in UTF-8");
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3))
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header line: {line:?}"));
            let odd = |letter: char| !(letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter));
            assert!(!name.is_empty() && !name.contains(odd), "not a header name: {line:?}");
            assert!(!value.contains(['\r', '\n', '\0']), "not a header value: {line:?}");
            (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect();
    RawResponse { status, headers, body: Vec::new() }
}
