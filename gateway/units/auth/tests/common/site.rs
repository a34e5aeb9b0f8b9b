//! An issuer's site: several documents, what each answers now, and how often each was asked for.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(dead_code, unreachable_pub, reason = "shared by several tests, each of which uses a part")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::watch;

/// What a document answers.
#[derive(Clone, Default)]
pub struct Page {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: String,
    /// How long it takes to answer.
    pub delay: Duration,
}

impl Page {
    pub fn of(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }
}

/// The site, on loopback. What is not put there is 404.
pub struct Site {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    asked: watch::Sender<HashMap<String, u64>>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Site {
    pub async fn run() -> Self {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Arc::<Mutex<HashMap<String, Page>>>::default();
        let asked = watch::Sender::new(HashMap::new());
        let server = tokio::spawn({
            let (pages, asked) = (Arc::clone(&pages), asked.clone());
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (pages, asked) = (Arc::clone(&pages), asked.clone());
                    connections.spawn(async move {
                        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                            let path = request.uri().path().to_owned();
                            let page = pages.lock().get(&path).cloned().unwrap_or(Page::status(404));
                            asked.send_modify(|asked| *asked.entry(path).or_default() += 1);
                            async move {
                                tokio::time::sleep(page.delay).await;
                                let mut answer = Response::builder().status(page.status);
                                for (name, value) in page.headers {
                                    answer = answer.header(name, value);
                                }
                                Ok::<_, Infallible>(answer.body(Full::new(Bytes::from(page.body))).unwrap())
                            }
                        });
                        let io = hyper_util::rt::TokioIo::new(stream);
                        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
                    });
                }
            }
        });
        Self { address, pages, asked, server }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn put(&self, path: &str, page: Page) {
        self.pages.lock().insert(path.into(), page);
    }

    /// How often a document was asked for.
    pub fn asked(&self, path: &str) -> u64 {
        self.asked.borrow().get(path).copied().unwrap_or(0)
    }

    /// Waits until a document was asked for so many times more.
    pub async fn asked_again(&self, path: &str, times: u64) {
        let wanted = self.asked(path) + times;
        let mut asked = self.asked.subscribe();
        let reached = asked.wait_for(|asked| asked.get(path).is_some_and(|times| *times >= wanted));
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("asked in time").unwrap();
    }
}
