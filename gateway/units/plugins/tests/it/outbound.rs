//! What a plugin may ask of other services: whom, how much, how long, and what becomes of everybody else meanwhile.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use sluice_plugins::{
    Chain, Ended, Limits, OnFailure, Options, Outcome, Passage, PluginConfig, Resolver, SystemResolver, Visit, Who,
};
use sluice_vocabulary::Reason;
use sluice_vocabulary::clock::SystemClock;
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::ports::Inspect as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::world::{World, headers, plugin, request, response, visit};

/// How a service answers.
#[derive(Debug, Clone)]
enum Reply {
    Say(u16, Vec<(&'static str, String)>, usize),
    /// 200, once the test lets it.
    Held,
}

#[derive(Debug, Clone)]
struct Question {
    method: String,
    target: String,
    version: http::Version,
    headers: HeaderMap,
    body: usize,
}

/// A service on loopback.
struct Service {
    address: SocketAddr,
    inner: Arc<Inner>,
    task: tokio::task::JoinHandle<()>,
}

struct Inner {
    reply: Reply,
    questions: Mutex<Vec<Question>>,
    gate: Semaphore,
    connections: AtomicUsize,
    closed: AtomicUsize,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Service {
    async fn run(reply: Reply) -> Self {
        Self::over(reply, None).await
    }

    async fn fine() -> Self {
        Self::run(Reply::Say(200, Vec::new(), 5)).await
    }

    async fn over(reply: Reply, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            reply,
            questions: Mutex::default(),
            gate: Semaphore::new(0),
            connections: AtomicUsize::new(0),
            closed: AtomicUsize::new(0),
        });
        let own = Arc::clone(&inner);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                own.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(connection(stream, tls.clone(), Arc::clone(&own)));
            }
        });
        Self { address, inner, task }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    fn get(&self) -> String {
        format!("GET {}/ask?user=7", self.origin())
    }

    fn asked(&self) -> usize {
        self.inner.questions.lock().len()
    }

    fn last(&self) -> Question {
        self.inner.questions.lock().last().expect("a question").clone()
    }

    fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::SeqCst)
    }

    fn closed(&self) -> usize {
        self.inner.closed.load(Ordering::SeqCst)
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, inner: Arc<Inner>) {
    let service = service_fn(|asked: http::Request<hyper::body::Incoming>| {
        let inner = Arc::clone(&inner);
        async move {
            let (head, body) = asked.into_parts();
            let body = body.collect().await.map_or(0, |body| body.to_bytes().len());
            inner.questions.lock().push(Question {
                method: head.method.to_string(),
                target: head.uri.to_string(),
                version: head.version,
                headers: head.headers,
                body,
            });
            let mut response = Response::new(Full::new(Bytes::new()));
            match inner.reply.clone() {
                Reply::Say(status, fields, length) => {
                    *response.status_mut() = status.try_into().unwrap();
                    *response.body_mut() = Full::new(vec![b'a'; length].into());
                    for (name, value) in fields {
                        response.headers_mut().append(name, value.parse().unwrap());
                    }
                }
                Reply::Held => inner.gate.acquire().await.unwrap().forget(),
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().max_buf_size(1 << 20);
    let _ = match tls {
        None => server.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => Ok(()),
        },
    };
    inner.closed.fetch_add(1, Ordering::SeqCst);
}

/// Waits for what another task does; what never comes is the test's failure.
async fn comes(what: &str, reached: impl Fn() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(20), async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "never came: {what}");
}

/// Names that lead where the test says, and how often they were looked up.
#[derive(Debug, Default)]
struct Names {
    known: HashMap<&'static str, Vec<IpAddr>>,
    looked_up: AtomicUsize,
}

impl Names {
    fn of(known: &[(&'static str, &[&str])]) -> Arc<Self> {
        let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        let known = known.iter().map(|(name, texts)| (*name, addresses(texts))).collect();
        Arc::new(Self { known, looked_up: AtomicUsize::new(0) })
    }
}

impl Resolver for Names {
    fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.looked_up.fetch_add(1, Ordering::SeqCst);
        self.known.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

async fn world_of(names: Arc<Names>) -> World {
    World::asking(Arc::new(SystemClock), names, Options::default()).await
}

/// A plugin that may ask what `http` grants, and asks what `config` says.
fn asking(http: Value, config: Value) -> PluginConfig {
    let grants = serde_json::from_value(json!({ "http": http })).unwrap();
    PluginConfig { grants, ..plugin("asking.wasm", config) }
}

fn limits(deadline: u64, host_calls: u64) -> Limits {
    Limits { deadline: Span::millis(deadline), host_calls: Span::millis(host_calls), ..Limits::default() }
}

/// Sends a request through a chain; gives what came of each question.
async fn said(chain: &Chain) -> Vec<String> {
    let (head, outcome) = chain.on_request(request(&[]), &mut visit()).await;
    assert!(matches!(outcome, Outcome::Continue(_)), "{outcome:?}");
    let fields = (0..).map_while(|n| head.headers.get(format!("x-asked-{n}")).cloned());
    fields.map(|said| said.to_str().unwrap().to_owned()).collect()
}

fn result(world: &World, result: &str) -> f64 {
    world.metric(&format!("outbound_requests_total{{plugin=\"p\",result=\"{result}\"}}"))
}

#[tokio::test]
async fn a_granted_origin_is_asked_as_the_plugin_says_and_its_answer_comes_back() {
    let (world, service) = (World::new().await, Service::fine().await);
    let config = json!({
        "ask": [service.get(), format!("POST {}/", service.origin())],
        "fields": ["X-Tenant: acme", "x-tenant: globex"], "body": 65_536,
    });
    let chain = world.chain(asking(json!([service.origin()]), config)).await;
    assert_eq!(said(&chain).await, ["200 5", "200 5"]);
    let questions = service.inner.questions.lock().clone();
    let lines: Vec<_> = questions.iter().map(|q| (q.method.as_str(), q.target.as_str(), q.body)).collect();
    assert_eq!(lines, [("GET", "/ask?user=7", 65_536), ("POST", "/", 65_536)]);
    let fields = &questions[0].headers;
    assert_eq!(fields["host"], service.address.to_string());
    assert_eq!(fields.get_all("x-tenant").iter().collect::<Vec<_>>(), ["acme", "globex"]);
    assert!(fields["user-agent"].to_str().unwrap().starts_with("sluice/"));
    for own in ["authorization", "cookie", "traceparent", "forwarded"] {
        assert!(!fields.contains_key(own), "the client's {own} went along");
    }
    assert_eq!(service.connections(), 1, "the connection is kept for the next");
    assert_eq!(result(&world, "2xx"), 2.0);
    assert_eq!(world.metric("outbound_duration_seconds_count{plugin=\"p\"}"), 2.0);
    let page = world.handle.inspect()["plugins"]["p"]["outbound"].clone();
    assert_eq!((&page["results"]["2xx"], &page["under_way"], &page["limit"]), (&json!(2), &json!(0), &json!(16)));
    assert_eq!(page["last_fault"], Value::Null);
}

#[tokio::test]
async fn an_origin_that_was_not_granted_is_not_asked() {
    let (world, service, other) = (World::new().await, Service::fine().await, Service::fine().await);
    let port = service.address.port();
    let asked = json!({ "ask": [
        other.get(), format!("GET http://localhost:{port}/"), format!("GET https://127.0.0.1:{port}/"), "GET http://127.0.0.1/",
    ]});
    let chain = world.chain(asking(json!([service.origin()]), asked)).await;
    assert_eq!(said(&chain).await, ["not-granted"; 4]);
    assert_eq!((service.connections(), other.connections(), result(&world, "not_granted")), (0, 0, 4.0));
}

#[tokio::test]
async fn a_name_that_leads_to_a_private_address_is_not_asked_though_it_was_granted() {
    let service = Service::fine().await;
    let names = Names::of(&[
        ("here.test", &["127.0.0.1"]),
        ("mapped.test", &["::ffff:127.0.0.1"]),
        ("mixed.test", &["1.1.1.1", "10.0.0.1"]),
        ("secrets.test", &["169.254.169.254"]),
    ]);
    let world = world_of(Arc::clone(&names)).await;
    let origin = |name: &str| format!("http://{name}:{}", service.address.port());
    let all = ["here.test", "mapped.test", "mixed.test", "secrets.test"];
    let origins = all.map(origin);
    let ask: Vec<_> = origins.iter().map(|origin| format!("GET {origin}/")).collect();
    let chain = world.chain(asking(json!(origins), json!({ "ask": ask }))).await;
    assert_eq!(said(&chain).await, ["private-address"; 4]);
    assert_eq!((service.connections(), result(&world, "private_address")), (0, 4.0));
    let why = world.handle.inspect()["plugins"]["p"]["outbound"]["last_fault"].to_string();
    assert!(why.contains("169.254.169.254"), "{why}");

    // Where the operator says so it is, but never where clouds keep secrets.
    let private = json!({ "origins": [origin("here.test"), origin("secrets.test")], "private": true });
    let ask = json!({ "ask": [format!("GET {}/", origin("here.test")), format!("GET {}/", origin("secrets.test"))] });
    let before = names.looked_up.load(Ordering::SeqCst);
    let chain = world.chain(asking(private, ask)).await;
    assert_eq!(said(&chain).await, ["200 5", "private-address"]);
    assert_eq!(names.looked_up.load(Ordering::SeqCst) - before, 2, "a name is looked up once for a connection");
    assert_eq!(service.last().headers["host"], format!("here.test:{}", service.address.port()));
}

#[tokio::test]
async fn the_machines_own_resolver_does_not_lead_to_the_machine_itself() {
    let service = Service::fine().await;
    let world = World::asking(Arc::new(SystemClock), Arc::new(SystemResolver), Options::default()).await;
    let origin = format!("http://localhost:{}", service.address.port());
    let chain = world.chain(asking(json!([origin]), json!({ "ask": [format!("GET {origin}/")] }))).await;
    assert_eq!((said(&chain).await, service.connections()), (vec!["private-address".to_owned()], 0));
}

#[tokio::test]
async fn all_waiting_of_a_phase_together_is_bounded() {
    let (world, service) = (World::new().await, Service::run(Reply::Held).await);
    let ask = json!({ "ask": [service.get(), service.get()] });
    let config = PluginConfig { limits: limits(5, 50), ..asking(json!([service.origin()]), ask) };
    let chain = world.chain(config).await;
    assert_eq!(said(&chain).await, ["timeout", "timeout"]);
    assert_eq!(service.asked(), 1, "nothing was left for the second");
    comes("the end of the connection", || service.closed() == 1).await;
    // The plugin's own bound is the nearer one here, and leaves something for the next.
    let ask = json!({ "ask": [service.get(), service.get()], "timeout": 20 });
    let chain = world.chain(asking(json!([service.origin()]), ask)).await;
    assert_eq!(said(&chain).await, ["timeout", "timeout"]);
    assert_eq!((service.asked(), result(&world, "timeout")), (3, 4.0));
}

#[tokio::test]
async fn waiting_is_not_running_and_running_is_bounded_all_the_same() {
    let (world, service) = (World::new().await, Service::run(Reply::Held).await);
    let questions = vec![service.get(); 10];
    let config = |then: &str| PluginConfig {
        limits: limits(2, 20_000),
        ..asking(json!([service.origin()]), json!({ "ask": questions, "then": then }))
    };
    let lets_go_late = async {
        loop {
            tokio::time::sleep(Duration::from_millis(8)).await;
            service.inner.gate.add_permits(1);
        }
    };
    let chain = world.chain(config("end")).await;
    tokio::select! {
        said = said(&chain) => assert_eq!(said, ["200 0"; 10]),
        () = lets_go_late => {}
    }
    service.inner.gate.add_permits(100);
    for on_failure in [OnFailure::Refuse, OnFailure::Skip] {
        let chain = world.chain(PluginConfig { on_failure, ..config("loop") }).await;
        let before = world.failures("p", "deadline");
        let (head, outcome) = chain.on_request(request(&[]), &mut visit()).await;
        match on_failure {
            OnFailure::Refuse => {
                assert!(matches!(outcome, Outcome::Refuse(refusal) if refusal.reason == Reason::PluginFailed));
            }
            OnFailure::Skip => assert!(matches!(outcome, Outcome::Continue(changes) if changes.is_empty())),
        }
        assert!(!head.headers.contains_key("x-asked-0"), "a phase that failed has changed nothing");
        assert_eq!(world.failures("p", "deadline") - before, 1.0);
    }
}

#[tokio::test]
async fn no_more_are_under_way_than_may_be_and_what_is_beyond_fails_at_once() {
    let (world, service) = (World::new().await, Service::run(Reply::Held).await);
    let config = PluginConfig {
        limits: limits(5, 20_000),
        ..asking(json!([service.origin()]), json!({ "ask": [service.get()] }))
    };
    let chain = world.chain(config).await;
    let under_way: Vec<_> = (0..16)
        .map(|_| {
            let chain = Arc::clone(&chain);
            tokio::spawn(async move { said(&chain).await })
        })
        .collect();
    comes("sixteen questions", || service.asked() == 16).await;
    assert_eq!(world.handle.inspect()["plugins"]["p"]["outbound"]["under_way"], 16);
    assert_eq!(said(&chain).await, ["too-many"]);
    service.inner.gate.add_permits(17);
    for one in under_way {
        assert_eq!(one.await.unwrap(), ["200 0"]);
    }
    assert_eq!(said(&chain).await, ["200 0"], "there is room again");
    assert_eq!((service.asked(), result(&world, "too_many")), (17, 1.0));
}

#[tokio::test]
async fn an_answer_that_is_too_large_or_no_http_is_none() {
    let world = World::new().await;
    let field = |length: usize| vec![("x-long", "v".repeat(length))];
    for (reply, expected) in [
        (Reply::Say(200, Vec::new(), 256 * 1024), "200 262144"),
        (Reply::Say(200, Vec::new(), 256 * 1024 + 1), "bad-response"),
        (Reply::Say(200, field(32 * 1024), 1), "200 1"),
        (Reply::Say(200, field(80 * 1024), 1), "bad-response"),
        (Reply::Say(200, (0..129).map(|_| ("x", "y".to_owned())).collect(), 1), "bad-response"),
        (Reply::Say(503, Vec::new(), 2), "503 2"),
        (Reply::Say(404, Vec::new(), 0), "404 0"),
    ] {
        let service = Service::run(reply).await;
        let chain = world.chain(asking(json!([service.origin()]), json!({ "ask": [service.get()] }))).await;
        assert_eq!(said(&chain).await, [expected]);
    }
    for (bytes, expected) in [
        ("SSH-2.0-OpenSSH\r\n\r\n", "bad-response"),
        ("HTTP/1.1 600 Odd\r\ncontent-length: 0\r\n\r\n", "bad-response"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "unreachable"),
        ("", "unreachable"),
    ] {
        let address = babbling(bytes).await;
        let ask = json!({ "ask": [format!("GET http://{address}/")] });
        let chain = world.chain(asking(json!([format!("http://{address}")]), ask)).await;
        assert_eq!(said(&chain).await, [expected], "{bytes:?}");
    }
    let refused = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let chain = world.chain(asking(json!([refused]), json!({ "ask": [format!("GET {refused}/")] }))).await;
    assert_eq!(said(&chain).await, ["unreachable"]);
}

/// Says these bytes to whoever connects and asks, and hangs up.
async fn babbling(bytes: &'static str) -> SocketAddr {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut some = [0; 1024];
            let _ = stream.read(&mut some).await;
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    });
    address
}

#[tokio::test]
async fn what_could_be_read_as_another_request_is_not_sent() {
    let (world, service) = (World::new().await, Service::fine().await);
    let grant = json!([service.origin()]);
    let origin = service.origin();
    for (ask, fields, body) in [
        (format!("GET {origin}/ HTTP/1.1\r\nx-split: yes"), "x: y", 0),
        (format!("GE\rT {origin}/"), "x: y", 0),
        (format!("GET {origin}/#part"), "x: y", 0),
        (format!("GET http://user:password@{}/", service.address), "x: y", 0),
        (format!("CONNECT {origin}/"), "x: y", 0),
        (format!("GET {origin}/"), "x: y\r\nx-split: yes", 0),
        (format!("GET {origin}/"), "transfer-encoding: chunked", 0),
        (format!("GET {origin}/"), "host: elsewhere.example", 0),
        (format!("POST {origin}/"), "x: y", 65_537),
    ] {
        let config = json!({ "ask": [ask], "fields": [fields], "body": body });
        let chain = world.chain(asking(grant.clone(), config)).await;
        assert_eq!(said(&chain).await, ["invalid"], "{ask:?} {fields:?}");
    }
    assert_eq!((service.connections(), result(&world, "invalid")), (0, 9.0));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let (world, elsewhere) = (World::new().await, Service::fine().await);
    let service = Service::run(Reply::Say(302, vec![("location", elsewhere.origin())], 0)).await;
    let grant = json!([service.origin(), elsewhere.origin()]);
    let chain = world.chain(asking(grant, json!({ "ask": [service.get()] }))).await;
    assert_eq!(said(&chain).await, ["302 0"]);
    assert_eq!((elsewhere.connections(), result(&world, "3xx")), (0, 1.0));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_what_was_asked_for_it() {
    let (world, service) = (World::new().await, Service::run(Reply::Held).await);
    let config = PluginConfig {
        limits: limits(5, 30_000),
        ..asking(json!([service.origin()]), json!({ "ask": [service.get()] }))
    };
    let chain = world.chain(config).await;
    let waiting = tokio::spawn(async move { said(&chain).await });
    comes("the question", || service.asked() == 1).await;
    assert_eq!(world.metric("instances{plugin=\"p\"}"), 1.0);
    waiting.abort();
    comes("the end of the connection", || service.closed() == 1).await;
    assert_eq!((result(&world, "cancelled"), world.metric("instances{plugin=\"p\"}")), (1.0, 0.0));
    comes("the place", || world.handle.inspect()["plugins"]["p"]["outbound"]["under_way"] == 0).await;
}

#[tokio::test]
async fn where_nothing_can_wait_nobody_is_asked() {
    let (world, service) = (World::new().await, Service::fine().await);
    let config = |phase: &str, on_failure| PluginConfig {
        on_failure,
        ..asking(json!([service.origin()]), json!({ "ask": [service.get()], "phase": phase }))
    };
    let passage = async |chain: &Chain| {
        Passage::of_response(&[chain], Arc::new(request(&[])), Arc::new(response(&[])), &mut visit()).await.unwrap()
    };
    for phase in ["response-body", "response-chunk", "response-trailers"] {
        for on_failure in [OnFailure::Refuse, OnFailure::Skip] {
            let chain = world.chain(config(phase, on_failure)).await;
            let before = world.failures("p", "output");
            let mut passage = passage(&chain).await;
            let is_trailers = phase == "response-trailers";
            let failed = match is_trailers {
                true => passage.trailers_now(headers(&[("x-t", "1")])).is_err(),
                false => passage.piece_now(Bytes::from_static(b"body"), true).is_err(),
            };
            assert_eq!(failed, on_failure == OnFailure::Refuse, "{phase}");
            assert_eq!(world.failures("p", "output") - before, 1.0, "{phase}");
        }
        // What asks nobody is called there as ever.
        let chain = world.chain(config("none", OnFailure::Refuse)).await;
        assert_eq!(passage(&chain).await.piece_now(Bytes::from_static(b"body"), true).unwrap(), "body");
    }
    let chain = world.chain(config("exchange-end", OnFailure::Refuse)).await;
    let (before, mut visit) = (world.failures("p", "output"), visit());
    let (head, _) = chain.on_request(request(&[]), &mut visit).await;
    let ended = Ended {
        status: 200,
        duration: Duration::from_millis(1),
        request_bytes: 0,
        response_bytes: 0,
        upstream: None,
        refused: None,
    };
    world.handle.ended(visit.take_ends(), Arc::new(head), Who::new("r-1".into(), None), ended);
    comes("the failure at the end", || world.failures("p", "output") - before == 1.0).await;
    assert_eq!(service.connections(), 0);
}

#[tokio::test]
async fn where_something_can_wait_it_does() {
    let (world, service) = (World::new().await, Service::fine().await);
    let config = |phase: &str| asking(json!([service.origin()]), json!({ "ask": [service.get()], "phase": phase }));
    let chain = world.chain(config("response-headers")).await;
    let mut stay: Visit = visit();
    let (head, _) = chain.on_request(request(&[]), &mut stay).await;
    let (head, outcome) = chain.on_response(Arc::new(head), response(&[]), &mut stay).await;
    assert!(matches!(outcome, Outcome::Continue(_)), "{outcome:?}");
    assert_eq!(head.headers["x-asked-0"], "200 5");
    let chain = world.chain(config("request-chunk")).await;
    let mut passage = Passage::of_request(&[&chain], Arc::new(request(&[])), &mut visit()).await.unwrap();
    for piece in ["one", "two"] {
        assert_eq!(passage.piece(Bytes::from_static(piece.as_bytes()), false).await.unwrap(), "200 5");
    }
    assert_eq!(service.asked(), 3);
}

#[tokio::test]
async fn neighbours_are_served_on_the_same_thread_while_one_plugin_waits() {
    let (world, service) = (World::new().await, Service::run(Reply::Held).await);
    let waits = PluginConfig {
        limits: limits(1, 30_000),
        ..asking(json!([service.origin()]), json!({ "ask": [service.get()] }))
    };
    let region = plugin("add_region_rust.wasm", json!({ "region": "eu-1" }));
    let loaded = world.load(&[("p", waits), ("region", region)]).await.unwrap();
    let waiting = tokio::spawn({
        let chain = Arc::clone(&loaded.each["p"]);
        async move { said(&chain).await }
    });
    comes("the question", || service.asked() == 1).await;
    for _ in 0..100 {
        let (head, _) = loaded.each["region"].on_request(request(&[]), &mut visit()).await;
        assert_eq!(head.headers["x-region"], "eu-1");
    }
    assert!(!waiting.is_finished());
    service.inner.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), ["200 0"]);
}

/// A certificate authority, and what a server named `decide.test` shows that it vouches for.
fn authority() -> (String, TlsAcceptor) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["decide.test".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&leaf_key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap())
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (root.pem(), TlsAcceptor::from(Arc::new(tls)))
}

#[tokio::test]
async fn a_certificate_is_verified_by_the_authority_that_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let ((good, tls), (other, _)) = (authority(), authority());
    let ca = folder.path().join("ca.pem");
    let service = Service::over(Reply::Say(200, Vec::new(), 5), Some(tls)).await;
    let world = world_of(Names::of(&[("decide.test", &["127.0.0.1"]), ("other.test", &["127.0.0.1"])])).await;
    let origins = ["decide.test", "other.test"].map(|name| format!("https://{name}:{}", service.address.port()));
    let grant = json!({ "origins": origins, "ca": ca, "private": true });
    let ask: Vec<_> = origins.iter().map(|origin| format!("GET {origin}/")).collect();
    let config = asking(grant, json!({ "ask": ask }));

    let missing = world.load(&[("p", config.clone())]).await.unwrap_err();
    assert_eq!(missing[0].path.to_string(), "plugins.p.grants.http.ca");
    std::fs::write(&ca, "no certificate").unwrap();
    assert!(world.load(&[("p", config.clone())]).await.unwrap_err()[0].message.contains("holds no certificate"));

    std::fs::write(&ca, &other).unwrap();
    assert_eq!(said(&*world.chain(config.clone()).await).await, ["unreachable", "unreachable"]);
    // The file has changed, and nothing else.
    std::fs::write(&ca, &good).unwrap();
    assert_eq!(said(&*world.chain(config).await).await, ["200 5", "unreachable"], "the name counts as well");
    assert_eq!((service.asked(), service.last().version), (1, http::Version::HTTP_2));
}

#[tokio::test]
async fn what_did_not_change_keeps_its_connections_over_a_reload() {
    let (world, service) = (World::new().await, Service::fine().await);
    for turn in 0..3 {
        let config = json!({ "ask": [service.get()], "turn": turn });
        let chain = world.chain(asking(json!([service.origin()]), config)).await;
        assert_eq!(said(&chain).await, ["200 5"]);
    }
    assert_eq!((service.asked(), service.connections()), (3, 1));
    // And what may no longer ask leaves nothing behind.
    world.chain(plugin("add_region_rust.wasm", json!({ "region": "eu-1" }))).await;
    assert_eq!(result(&world, "2xx"), 0.0);
    assert_eq!(world.handle.inspect()["plugins"]["p"]["outbound"], Value::Null);
}

#[tokio::test]
async fn who_asks_without_a_grant_is_refused_when_it_is_loaded() {
    let world = World::new().await;
    let faults = world.load(&[("p", plugin("asking.wasm", Value::Null))]).await.unwrap_err();
    let said = faults[0].to_string();
    assert!(said.starts_with("plugins.p.grants: ") && said.contains("grants: { http: [ORIGIN, …] }"), "{said}");
}
