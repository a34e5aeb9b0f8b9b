//! A unit with a proxy in front of it: the calls that the request path makes, and nothing else.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session, http_proxy};
use prometheus_client::registry::Registry;
use serde_json::Value;
use sluice_testkit::{Metrics as Scraped, RequestBuilder, Response, client};
use sluice_upstream::{Chosen, Cluster, Config, Handle, Metrics, Tried, UpstreamConfig, past_deadline};
use sluice_vocabulary::clock::{ManualClock, SystemClock, SystemRandom};
use sluice_vocabulary::deadline::TryLimits;
use sluice_vocabulary::ports::Inspect;
use sluice_vocabulary::unit::{Stop, Stopper, Task};
use sluice_vocabulary::{Reason, Refusal, UpstreamName};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// A unit at work.
pub(crate) struct World {
    pub(crate) handle: Handle,
    registry: Registry,
    base: PathBuf,
    streaming: bool,
    platform_ca: Option<PathBuf>,
    _stopper: Stopper,
}

pub(crate) fn world() -> World {
    build(Arc::new(SystemClock))
}

/// With a clock that stands until it is told.
pub(crate) fn world_at(clock: &ManualClock) -> World {
    build(Arc::new(clock.clone()))
}

fn build(clock: Arc<dyn sluice_vocabulary::clock::Clock>) -> World {
    // Another crate of the build may have switched a second provider on.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut registry = Registry::default();
    let (handle, mut keeper) = sluice_upstream::new(clock, Arc::new(SystemRandom), Metrics::new(&mut registry));
    let (stopper, stop) = Stop::new();
    tokio::spawn(async move { keeper.run(stop).await });
    World { handle, registry, base: PathBuf::from("/"), streaming: false, platform_ca: None, _stopper: stopper }
}

impl World {
    /// File names in the configuration are found here.
    pub(crate) fn based(mut self, base: &Path) -> Self {
        self.base = base.to_owned();
        self
    }

    /// Exchanges have no end.
    pub(crate) fn streaming(mut self) -> Self {
        self.streaming = true;
        self
    }

    /// What stands for the platform's authorities.
    pub(crate) fn platform_ca(mut self, file: PathBuf) -> Self {
        self.platform_ca = Some(file);
        self
    }

    /// Puts upstreams in force.
    pub(crate) fn apply(&self, upstreams: &[(&str, &UpstreamConfig)]) {
        let config: Config = upstreams.iter().map(|(name, config)| (name_of(name), (*config).clone())).collect();
        let prepared = self.handle.prepare(&config, &self.base).expect("a sound configuration");
        self.handle.commit(prepared);
    }

    pub(crate) fn cluster(&self, name: &str) -> Arc<Cluster> {
        self.handle.cluster(&name_of(name)).expect("an upstream of that name")
    }

    pub(crate) fn metrics(&self) -> Scraped {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        Scraped::parse(&page)
    }

    /// What `/upstreams` says of one endpoint, by its place.
    pub(crate) fn endpoint(&self, upstream: &str, index: usize) -> Value {
        self.handle.inspect()["upstreams"][upstream]["endpoints"][index].clone()
    }

    /// Starts the proxy. The first part of a request's path names the upstream: `/orders/…`.
    pub(crate) async fn proxy(&self) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let conf = ServerConf {
            max_retries: 4,
            ca_file: self.platform_ca.as_ref().map(|file| file.display().to_string()),
            ..ServerConf::default()
        };
        let gateway = Gateway { handle: self.handle.clone(), streaming: self.streaming };
        let proxy = Arc::new(http_proxy(&Arc::new(conf), gateway));
        let (stopper, shutdown) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tcp.set_nodelay(true).unwrap();
                let (proxy, shutdown) = (Arc::clone(&proxy), shutdown.clone());
                tokio::spawn(async move {
                    let mut next = Some(Box::new(Stream::from(tcp)) as pingora_core::protocols::Stream);
                    while let Some(stream) = next.take() {
                        let mut session = ServerSession::new_http1(stream);
                        session.set_keepalive(Some(60));
                        next = proxy.process_new_http(session, &shutdown).await.map(|reused| reused.consume().0);
                    }
                });
            }
        });
        Proxy { address, _stopper: stopper }
    }
}

pub(crate) fn name_of(name: &str) -> UpstreamName {
    UpstreamName::new(name).unwrap()
}

/// An upstream of these endpoints, adjusted.
pub(crate) fn upstream<S: ToString>(
    endpoints: impl IntoIterator<Item = S>,
    adjust: impl FnOnce(&mut UpstreamConfig),
) -> UpstreamConfig {
    let mut config = UpstreamConfig::of(endpoints.into_iter().map(|endpoint| endpoint.to_string()));
    adjust(&mut config);
    config
}

/// A proxy that runs until dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    _stopper: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        client().request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.request("GET", path).send().await
    }
}

/// Why a request failed, as the proxy's answer tells it to a test.
pub(crate) fn reason(response: &Response) -> &str {
    response.header("x-reason").unwrap_or("none")
}

/// An address where nobody listens.
pub(crate) async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// How long something takes.
pub(crate) async fn timed<T>(what: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    (what.await, started.elapsed())
}

struct Gateway {
    handle: Handle,
    streaming: bool,
}

struct Context {
    started: Instant,
    ends: Option<Instant>,
    tried: Tried,
    chosen: Option<Chosen>,
    refused: Option<Refusal>,
    reason: Option<Reason>,
}

impl Context {
    fn failed(&mut self, session: &Session, error: &mut Error) {
        if let Some(mut chosen) = self.chosen.take() {
            let replayable = !session.as_ref().retry_buffer_truncated();
            let verdict = chosen.failed(error, &session.req_header().method, &mut self.tried, replayable);
            error.set_retry(verdict.retry.is_yes());
            self.reason = verdict.failure.reason();
        }
    }

    fn check(&mut self) -> Result<()> {
        match self.ends {
            Some(ends) if Instant::now() >= ends => Err(past_deadline(&Refusal::new(Reason::UpstreamTimeout))),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        let started = Instant::now();
        Context { started, ends: None, tried: Tried::default(), chosen: None, refused: None, reason: None }
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let path = session.req_header().uri.path().to_owned();
        let name = path.split('/').nth(1).unwrap_or_default();
        let cluster = self.handle.cluster(&name_of(name)).expect("an upstream of that name");
        let times = *cluster.timeouts();
        ctx.ends = (!self.streaming).then(|| ctx.started + times.total);
        let mut chosen = match cluster.choose(&ctx.tried).await {
            Ok(chosen) => chosen,
            Err(refusal) => {
                ctx.reason = Some(refusal.reason);
                ctx.refused = Some(refusal);
                return Error::e_explain(ErrorType::HTTPStatus(503), "refused");
            }
        };
        let limits = TryLimits {
            establish: times.connect + times.handshake,
            response: times.response,
            idle: times.idle,
            ends: ctx.ends,
        };
        let peer = chosen.peer(&limits);
        ctx.chosen = Some(chosen);
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        _peer: &HttpPeer,
        fd: std::os::unix::io::RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.chosen.as_mut().expect("a choice").connected(fd, reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.chosen.as_mut().expect("a choice").sending(request.version, std::time::Instant::now());
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.check()?;
        if let Some(chosen) = &ctx.chosen {
            chosen.progress();
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        _session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.check()?;
        ctx.chosen.as_mut().expect("a choice").answered(response, std::time::Instant::now());
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        _end: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        ctx.check()?;
        if let Some(chosen) = &ctx.chosen {
            chosen.progress();
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.failed(session, &mut error);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        _reused: bool,
    ) -> Box<Error> {
        ctx.failed(session, &mut error);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, _error: &Error, ctx: &mut Context) -> FailToProxy {
        let reason = ctx.reason.unwrap_or(Reason::Internal);
        let mut header = ResponseHeader::build(reason.status(), None).unwrap();
        header.insert_header("x-reason", reason.slug()).unwrap();
        header.insert_header("content-length", "0").unwrap();
        // Fails where an answer has begun; the connection ends then.
        let _ = session.write_response_header(Box::new(header), true).await;
        FailToProxy { error_code: reason.status().as_u16(), can_reuse_downstream: false }
    }

    async fn logging(&self, _session: &mut Session, _error: Option<&Error>, ctx: &mut Context) {
        drop(ctx.chosen.take());
    }
}
