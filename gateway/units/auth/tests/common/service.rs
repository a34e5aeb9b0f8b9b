//! A service that is asked over HTTP: an introspection endpoint, or one that authorises requests. It tells what it was
//! asked, and answers as the test says.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// One question, as it arrived.
#[derive(Debug, Clone)]
pub struct Question {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Question {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The value of a form's member, still encoded.
    pub fn form(&self, name: &str) -> Option<&str> {
        self.body.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }
}

/// How a service answers.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status, fields, body.
    Say(u16, Vec<(&'static str, String)>, String),
    /// 200 with this body, once the test lets it.
    Held(String),
    Hang,
    /// 200, and a body that drips a byte at a time and never ends.
    Drip,
    /// 200, and 100 MB.
    Flood,
    /// The connection ends without a word.
    Cut,
}

impl Reply {
    /// 200 with this body.
    pub fn ok(body: impl Into<String>) -> Self {
        Self::Say(200, Vec::new(), body.into())
    }

    /// A status alone.
    pub fn status(status: u16) -> Self {
        Self::Say(status, Vec::new(), String::new())
    }

    /// With a field.
    pub fn with(self, name: &'static str, value: impl Into<String>) -> Self {
        let Self::Say(status, mut fields, body) = self else { panic!("this reply has no fields") };
        fields.push((name, value.into()));
        Self::Say(status, fields, body)
    }
}

type Behave = Box<dyn Fn(&Question) -> Reply + Send>;

struct Shared {
    behave: Mutex<Behave>,
    questions: Mutex<Vec<Question>>,
    gate: Semaphore,
    connections: AtomicU64,
    open: Mutex<JoinSet<()>>,
    busy: AtomicUsize,
    busiest: AtomicUsize,
    flooded: AtomicU64,
}

/// A service, on loopback.
pub struct Service {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Service {
    /// One that always answers so.
    pub async fn replying(reply: Reply) -> Self {
        Self::run(move |_| reply.clone()).await
    }

    /// One whose answers depend on what it is asked.
    pub async fn run(behave: impl Fn(&Question) -> Reply + Send + 'static) -> Self {
        Self::over(behave, None).await
    }

    /// The same over TLS.
    pub async fn over(
        behave: impl Fn(&Question) -> Reply + Send + 'static,
        tls: Option<tokio_rustls::TlsAcceptor>,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            behave: Mutex::new(Box::new(behave)),
            questions: Mutex::default(),
            gate: Semaphore::new(0),
            connections: AtomicU64::new(0),
            open: Mutex::new(JoinSet::new()),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
            flooded: AtomicU64::new(0),
        });
        let server = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    let (tls, own) = (tls.clone(), Arc::clone(&shared));
                    shared.open.lock().spawn(async move {
                        match tls {
                            None => serve(stream, own).await,
                            Some(tls) => {
                                if let Ok(stream) = tls.accept(stream).await {
                                    serve(stream, own).await;
                                }
                            }
                        }
                    });
                }
            }
        });
        Self { address, shared, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/ask", self.address)
    }

    /// From now on it answers so.
    pub fn now(&self, reply: Reply) {
        *self.shared.behave.lock() = Box::new(move |_| reply.clone());
    }

    /// Lets so many held answers go.
    pub fn release(&self, count: usize) {
        self.shared.gate.add_permits(count);
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.shared.questions.lock().len()
    }

    /// Waits until it was asked so often.
    pub async fn was_asked(&self, times: usize) {
        let asked = async {
            while self.asked() < times {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), asked).await;
        assert!(reached.is_ok(), "asked {} times and not {times}", self.asked());
    }

    /// What it was asked last.
    pub fn last(&self) -> Question {
        self.shared.questions.lock().last().expect("a question").clone()
    }

    /// Connections made to it so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Ends every connection, and waits until they have ended.
    pub async fn cut(&self) {
        let mut open = std::mem::take(&mut *self.shared.open.lock());
        open.shutdown().await;
    }

    /// The most questions that it had before it at once.
    pub fn busiest(&self) -> usize {
        self.shared.busiest.load(Ordering::SeqCst)
    }

    /// Bytes of floods that were taken.
    pub fn flooded(&self) -> u64 {
        self.shared.flooded.load(Ordering::SeqCst)
    }
}

async fn serve<S>(stream: S, shared: Arc<Shared>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let service = hyper::service::service_fn(|request| answer(request, Arc::clone(&shared)));
    let io = hyper_util::rt::TokioIo::new(stream);
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
}

/// What a connection ends with when it is to end without a word.
#[derive(Debug)]
struct Silence;

impl std::fmt::Display for Silence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("silence")
    }
}

impl std::error::Error for Silence {}

/// Counts a question as before the service for as long as it lives.
struct Busy<'s>(&'s Shared);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Silence> {
    let busy = shared.busy.fetch_add(1, Ordering::SeqCst) + 1;
    let _busy = Busy(&shared);
    shared.busiest.fetch_max(busy, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Silence)?.to_bytes();
    let question = Question {
        method: head.method,
        target: head.uri.to_string(),
        headers: head.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let reply = (shared.behave.lock())(&question);
    shared.questions.lock().push(question);
    let full = |text: String| Full::new(Bytes::from(text)).boxed();
    Ok(match reply {
        Reply::Say(status, fields, body) => {
            let mut response = Response::builder().status(status);
            for (name, value) in fields {
                response = response.header(name, value);
            }
            response.body(full(body)).unwrap()
        }
        Reply::Held(body) => {
            shared.gate.acquire().await.unwrap().forget();
            Response::new(full(body))
        }
        Reply::Hang => std::future::pending().await,
        Reply::Cut => return Err(Silence),
        Reply::Drip => {
            let drops = futures_util::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
            });
            Response::new(StreamBody::new(drops).boxed())
        }
        Reply::Flood => {
            const CHUNK: u64 = 64 * 1024;
            let shared = Arc::clone(&shared);
            let chunks = futures_util::stream::unfold(0_u64, move |sent| {
                let shared = Arc::clone(&shared);
                async move {
                    shared.flooded.fetch_max(sent, Ordering::SeqCst);
                    (sent < 100_000_000)
                        .then(|| (Ok(Frame::data(Bytes::from(vec![b' '; CHUNK as usize]))), sent + CHUNK))
                }
            });
            Response::new(StreamBody::new(chunks).boxed())
        }
    })
}

/// A service that says these bytes to whoever connects, whatever it is asked, and hangs up.
pub async fn babbling(bytes: Vec<u8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let bytes = bytes.clone();
            tokio::spawn(async move {
                let mut some = [0; 1024];
                let _ = stream.read(&mut some).await;
                let _ = stream.write_all(&bytes).await;
            });
        }
    });
    address
}
