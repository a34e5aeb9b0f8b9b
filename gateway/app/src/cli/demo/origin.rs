//! The demo's origin: it answers with what it received, serves the issuer's key set, and has a door that resets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

const LONGEST_BODY: usize = 64 * 1024;

/// Where the demo's origins listen.
pub(super) struct Origins {
    /// Answers every request with what it received; `/.well-known/jwks.json` has the keys.
    pub(super) echo: SocketAddr,
    /// Reads a request's header, then resets the connection.
    pub(super) resets: SocketAddr,
    /// Nobody listens here.
    pub(super) closed: SocketAddr,
}

/// Starts them on the current runtime; they end with it.
pub(super) async fn start(key_set: Value) -> std::io::Result<Origins> {
    let echo = TcpListener::bind("127.0.0.1:0").await?;
    let resets = TcpListener::bind("127.0.0.1:0").await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let origins = Origins { echo: echo.local_addr()?, resets: resets.local_addr()?, closed };
    let key_set = Bytes::from(key_set.to_string());
    tokio::spawn(async move {
        while let Ok((stream, _)) = echo.accept().await {
            tokio::spawn(serve(stream, key_set.clone()));
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = resets.accept().await {
            tokio::spawn(read_then_reset(stream));
        }
    });
    Ok(origins)
}

async fn serve(stream: TcpStream, key_set: Bytes) {
    let service = service_fn(move |request| answer(request, key_set.clone()));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(10))
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away is no concern of a demo's origin.
    let _ = connection.await;
}

async fn answer(request: Request<Incoming>, key_set: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/.well-known/jwks.json" {
        return Ok(json_answer(key_set));
    }
    let (parts, body) = request.into_parts();
    let received = Limited::new(body, LONGEST_BODY).collect().await.map_or(0, |body| body.to_bytes().len());
    let headers: Map<String, Value> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
        .collect();
    let echo = json!({
        "origin": "demo",
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body_bytes": received,
    });
    Ok(json_answer(Bytes::from(format!("{echo:#}\n"))))
}

fn json_answer(body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

async fn read_then_reset(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut chunk = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < LONGEST_BODY {
        match tokio::time::timeout(Duration::from_secs(5), stream.read(&mut chunk)).await {
            Ok(Ok(read)) if read > 0 => head.extend_from_slice(&chunk[..read]),
            _ => return,
        }
    }
    // With no time to linger, closing sends a reset.
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}
