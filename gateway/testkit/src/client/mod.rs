//! Clients: a fluent one for ordinary requests, and one that sends literal bytes ([`raw`]).

pub(crate) mod raw;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::{Authority, Body, BodyError, Certificate, body, within};

/// The version of HTTP that a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: by ALPN over TLS, by prior knowledge in cleartext.
    Http2,
}

/// How to reach and trust servers. Each request travels on a connection of its own, unless sent on a [`Connection`].
#[derive(Clone, Default)]
pub struct Client {
    protocol: Protocol,
    tls: Option<ClientConfig>,
    connect_to: Option<SocketAddr>,
    from: Option<SocketAddr>,
}

/// A client that speaks HTTP/1.1 and trusts nobody's certificates yet.
#[must_use]
pub fn client() -> Client {
    Client::default()
}

impl Client {
    /// Speaks HTTP/2.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.protocol = Protocol::Http2;
        self
    }

    /// Trusts `authority`'s certificates.
    #[must_use]
    pub fn trusting(mut self, authority: &Authority) -> Self {
        self.tls = Some(authority.client_config(&[]));
        self
    }

    /// Trusts `authority`'s certificates and shows `identity` when asked.
    #[must_use]
    pub fn trusting_as(mut self, authority: &Authority, identity: &Certificate) -> Self {
        self.tls = Some(authority.client_config_as(identity, &[]));
        self
    }

    /// Uses this TLS configuration; its ALPN names are replaced by the protocol's.
    #[must_use]
    pub fn tls_config(mut self, config: ClientConfig) -> Self {
        self.tls = Some(config);
        self
    }

    /// Connects here, whatever a URL's host is; the URL still decides `Host` and the TLS name.
    #[must_use]
    pub fn to(mut self, address: SocketAddr) -> Self {
        self.connect_to = Some(address);
        self
    }

    /// Connects from this local address, as when requests must come from several (127.0.0.2, 127.0.0.3, …).
    #[must_use]
    pub fn from(mut self, address: SocketAddr) -> Self {
        self.from = Some(address);
        self
    }

    /// A `GET` of `url`.
    #[must_use]
    pub fn get(&self, url: impl Display) -> RequestBuilder {
        self.request("GET", url)
    }

    /// A `POST` to `url`.
    #[must_use]
    pub fn post(&self, url: impl Display, content: impl Into<Bytes>) -> RequestBuilder {
        self.request("POST", url).body(content)
    }

    /// A request of any method.
    #[must_use]
    pub fn request(&self, method: &str, url: impl Display) -> RequestBuilder {
        RequestBuilder {
            client: self.clone(),
            method: Method::from_bytes(method.as_bytes()).expect("a method"),
            url: url.to_string().parse().unwrap_or_else(|error| panic!("{url} is no URL: {error}")),
            headers: HeaderMap::new(),
            body: body(Bytes::new()),
        }
    }

    /// Opens a connection to `url`'s host, to send several requests on.
    ///
    /// # Errors
    /// Where it cannot be opened: the address refuses, or the TLS or HTTP/2 handshake fails.
    pub async fn connect(&self, url: impl Display) -> Result<Connection, BodyError> {
        let url: Uri = url.to_string().parse().unwrap_or_else(|error| panic!("{url} is no URL: {error}"));
        let stream = self.open(&url).await?;
        let secure = url.scheme_str() == Some("https");
        if !secure {
            return Connection::over(stream, self.protocol).await;
        }
        let mut config = self.tls.clone().expect("a client that trusts somebody, for https");
        config.alpn_protocols = match self.protocol {
            Protocol::Http1 => vec![b"http/1.1".to_vec()],
            Protocol::Http2 => vec![b"h2".to_vec()],
        };
        let name = ServerName::try_from(url.host().expect("a URL with a host").to_owned())?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        Connection::over(stream, self.protocol).await
    }

    async fn open(&self, url: &Uri) -> Result<TcpStream, BodyError> {
        let address = match self.connect_to {
            Some(address) => address,
            None => url.authority().expect("a URL with a host").as_str().parse()?,
        };
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(from) = self.from {
            socket.bind(from)?;
        }
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// An open connection that carries one request after the other, and with HTTP/2 several at once (clone it).
#[derive(Clone)]
pub struct Connection {
    sender: Sender,
}

#[derive(Clone)]
enum Sender {
    Http1(Arc<tokio::sync::Mutex<http1::SendRequest<Body>>>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    async fn over<S>(stream: S, protocol: Protocol) -> Result<Self, BodyError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stream = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection.with_upgrades());
                Sender::Http1(Arc::new(tokio::sync::Mutex::new(sender)))
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { sender })
    }

    /// Sends a request and gives the response as soon as its head is there; the body is yet to be read.
    ///
    /// # Errors
    /// Where the connection ends first, or what comes is not HTTP.
    pub async fn stream(&self, request: RequestBuilder) -> Result<http::Response<Incoming>, BodyError> {
        match &self.sender {
            Sender::Http1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                Ok(sender.send_request(request.into_http1()).await?)
            }
            Sender::Http2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                Ok(sender.send_request(request.into_http2()).await?)
            }
        }
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// As [`stream`](Self::stream), and where the body ends early.
    pub async fn try_send(&self, request: RequestBuilder) -> Result<Response, BodyError> {
        Response::read(self.stream(request).await?).await
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Panics
    /// Where there is no whole response within the deadline.
    pub async fn send(&self, request: RequestBuilder) -> Response {
        let what = format!("{} {}", request.method, request.url);
        match within(format!("an answer to {what}"), self.try_send(request)).await {
            Ok(response) => response,
            Err(error) => panic!("{what}: {error:?}"),
        }
    }
}

/// A request in preparation.
pub struct RequestBuilder {
    client: Client,
    method: Method,
    url: Uri,
    headers: HeaderMap,
    body: Body,
}

impl RequestBuilder {
    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
            HeaderValue::from_bytes(value.as_ref()).expect("a header value"),
        );
        self
    }

    /// With `Authorization: Bearer <token>`.
    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    /// With this body.
    #[must_use]
    pub fn body(self, content: impl Into<Bytes>) -> Self {
        self.streaming(body(content))
    }

    /// With a body that streams.
    #[must_use]
    pub fn streaming(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Sends it on a connection of its own and reads the whole response.
    ///
    /// # Panics
    /// Where there is no whole response within the deadline.
    pub async fn send(self) -> Response {
        let what = format!("{} {}", self.method, self.url);
        match within(format!("an answer to {what}"), self.try_send()).await {
            Ok(response) => response,
            Err(error) => panic!("{what}: {error:?}"),
        }
    }

    /// Sends it on a connection of its own and reads the whole response; waits as long as that takes.
    ///
    /// # Errors
    /// Where the connection cannot be opened, ends before the whole response came, or what comes is not HTTP.
    pub async fn try_send(self) -> Result<Response, BodyError> {
        let connection = self.client.connect(&self.url).await?;
        connection.try_send(self).await
    }

    /// Sends it on a connection of its own and gives the response as soon as its head is there.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub async fn try_stream(self) -> Result<http::Response<Incoming>, BodyError> {
        let connection = self.client.connect(&self.url).await?;
        connection.stream(self).await
    }

    /// The target alone, and `Host` unless the test named one.
    fn into_http1(mut self) -> Request<Body> {
        let target = self.url.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::new(self.body);
        *request.uri_mut() = target.parse().expect("a URL's path as a target");
        if !self.headers.contains_key("host") {
            let host = self.url.authority().expect("a URL with a host").as_str();
            self.headers.insert("host", HeaderValue::from_str(host).expect("a host"));
        }
        *request.method_mut() = self.method;
        *request.headers_mut() = self.headers;
        request
    }

    fn into_http2(self) -> Request<Body> {
        let mut request = Request::new(self.body);
        *request.uri_mut() = self.url;
        *request.method_mut() = self.method;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers;
        request
    }
}

/// A response, read to its end.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The version it was given in.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers, where there were any.
    pub trailers: Option<HeaderMap>,
}

impl Response {
    async fn read(response: http::Response<Incoming>) -> Result<Self, BodyError> {
        let (head, incoming) = response.into_parts();
        let collected = incoming.collect().await?;
        Ok(Self {
            status: head.status,
            version: head.version,
            headers: head.headers,
            trailers: collected.trailers().cloned(),
            body: collected.to_bytes(),
        })
    }

    /// A header, or `None`; the first where it was repeated.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of visible characters"))
    }

    /// A trailer, or `None`.
    #[must_use]
    pub fn trailer(&self, name: &str) -> Option<&str> {
        let value = self.trailers.as_ref()?.get(name)?;
        Some(value.to_str().expect("a trailer of visible characters"))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        self.json_as()
    }

    /// The body as JSON of a known shape.
    #[must_use]
    pub fn json_as<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("the body is not the JSON expected ({error}): {:?}", self.body))
    }
}
