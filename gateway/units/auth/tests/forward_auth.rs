//! Requests that another service authorises: what it is told, what of its word is taken, and what becomes of requests when
//! it cannot be heard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::service::{Reply, Service, babbling};
use common::*;
use futures_util::future::join_all;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use sluice_auth::{Config, Decision, ForwardAuth, ForwardAuthConfig, Policy, Rebuff};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::ports::Inspect as _;
use sluice_vocabulary::request::{RequestView, Scheme};
use sluice_vocabulary::unit::State;
use sluice_vocabulary::{Fault, Faults, Path, Reason, Refusal, RouteName};

/// The unit with one route that a service authorises.
struct Guarded {
    world: World,
    service: Arc<ForwardAuth>,
}

/// A request to be authorised.
#[derive(Clone)]
struct Asking {
    method: Method,
    path: &'static str,
    query: Option<&'static str>,
    headers: HeaderMap,
    client: IpAddr,
}

fn get(path: &'static str) -> Asking {
    let client = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
    Asking { method: Method::GET, path, query: None, headers: HeaderMap::new(), client }
}

impl Asking {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }
}

fn config(text: Value) -> ForwardAuthConfig {
    serde_json::from_value(text).unwrap()
}

impl Guarded {
    fn start(config: ForwardAuthConfig) -> Self {
        let none = BTreeMap::new();
        let world = World::bare(PathBuf::from("."), Config::default());
        let prepared = world.handle.prepare(&world.config, &none).unwrap();
        let at = Path::root().key("routes").index(0).key("forward_auth");
        let service = prepared.forward_auth(&RouteName::new("orders").unwrap(), &config, &at).expect("a valid section");
        world.handle.commit(prepared);
        Self { world, service }
    }

    async fn decide(&self, asking: &Asking) -> Result<Decision, Refusal> {
        let connection = connection();
        let request = RequestView {
            method: &asking.method,
            scheme: Scheme::Https,
            host: "api.example.com",
            port: None,
            path: asking.path,
            query: asking.query,
            headers: &asking.headers,
            client: asking.client,
            connection: &connection,
        };
        self.world.handle.authorize(&self.service, &request).await
    }

    /// What the upstream is told where the request may pass.
    async fn allowed(&self, asking: &Asking) -> Vec<(String, String)> {
        let Decision::Allowed(allowed) = self.decide(asking).await.expect("a decision") else { panic!("refused") };
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        allowed.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }

    /// What the client is told where it may not.
    async fn rebuffed(&self, asking: &Asking) -> Rebuff {
        match self.decide(asking).await.expect("a decision") {
            Decision::Rebuff(rebuff) => rebuff,
            Decision::Allowed(_) => panic!("allowed"),
        }
    }

    async fn reason(&self, asking: &Asking) -> Option<Reason> {
        self.decide(asking).await.err().map(|refusal| refusal.reason)
    }

    fn page(&self) -> Value {
        self.world.handle.inspect()["forward_auth"]["orders"].clone()
    }

    fn counts(&self, outcome: &str, calls: u64) -> bool {
        let line = format!("forward_auth_calls_total{{route=\"orders\",outcome=\"{outcome}\"}} {calls}\n");
        self.world.metrics().contains(&line)
    }
}

fn fields(rebuff: &Rebuff) -> Vec<(&str, &str)> {
    rebuff.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect()
}

#[tokio::test]
async fn the_service_is_told_of_the_request_and_sees_what_is_listed_alone() {
    let service = Service::replying(Reply::status(200)).await;
    let guarded = Guarded::start(ForwardAuthConfig::from_url(service.url()));
    let mut asking = get("/orders/7")
        .with("authorization", "Bearer t")
        .with("cookie", "a=1")
        .with("cookie", "b=2")
        .with("x-mine", "1")
        .with("x-forwarded-uri", "/public")
        .with("x-forwarded-for", "127.0.0.1")
        .with("content-length", "99");
    (asking.method, asking.query) = (Method::DELETE, Some("a=b&c"));
    assert_eq!(guarded.allowed(&asking).await, []);
    let told = service.last();
    assert_eq!((told.method.as_str(), &*told.target, &*told.body), ("GET", "/ask", ""));
    for (name, value) in [
        ("x-forwarded-method", "DELETE"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "api.example.com"),
        ("x-forwarded-uri", "/orders/7?a=b&c"),
        ("x-forwarded-for", "192.0.2.7"),
        ("authorization", "Bearer t"),
        ("host", &service.address.to_string()),
    ] {
        let values: Vec<_> = told.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(values, [value], "{name}");
    }
    assert_eq!(told.headers.get_all("cookie").iter().count(), 2);
    assert_eq!((told.header("x-mine"), told.header("content-length")), (None, None));

    for (method, expected) in [("head", "HEAD"), ("original", "DELETE")] {
        let guarded = Guarded::start(config(json!({"url": service.url(), "method": method, "request_headers": []})));
        guarded.allowed(&asking).await;
        assert_eq!((service.last().method.as_str(), service.last().header("authorization")), (expected, None));
        guarded.world.stop().await;
    }
    guarded.world.stop().await;
}

#[tokio::test]
async fn the_upstream_gets_the_listed_words_of_the_service_and_clients_cannot_say_them() {
    let reply = Reply::ok("fine").with("x-user", "u1").with("x-group", "a").with("x-group", "b").with("x-other", "1");
    let service = Service::replying(reply).await;
    let listed = json!({"url": service.url(), "response_headers": ["x-user", "X-Group", "x-absent"]});
    let guarded = Guarded::start(config(listed));
    let told = guarded.allowed(&get("/").with("x-user", "admin")).await;
    let expected = [("x-user", "u1"), ("x-group", "a"), ("x-group", "b")];
    assert_eq!(told, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let stripped = guarded.world.handle.stripped_headers();
    for name in ["x-user", "x_group", "x-absent"] {
        assert!(stripped.covers(&HeaderName::from_bytes(name.as_bytes()).unwrap()), "{name}");
    }
    // Too much to hand on is no yes without it.
    service.now(Reply::ok("").with("x-user", "x".repeat(20_000)));
    assert_eq!(guarded.reason(&get("/")).await, Some(Reason::AuthorizationUnavailable));
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_no_reaches_the_client_in_the_services_own_words() {
    let service = Service::replying(
        Reply::Say(401, vec![], "who are you?".into())
            .with("www-authenticate", "Basic realm=\"x\"")
            .with("set-cookie", "a=1; HttpOnly")
            .with("set-cookie", "b=2")
            .with("content-type", "text/plain")
            .with("x-internal", "10.0.0.7")
            .with("location", "https://evil.example"),
    )
    .await;
    let guarded = Guarded::start(ForwardAuthConfig::from_url(service.url()));
    let rebuff = guarded.rebuffed(&get("/")).await;
    assert_eq!((rebuff.status.as_u16(), &rebuff.body[..]), (401, &b"who are you?"[..]));
    let expected = [
        ("www-authenticate", "Basic realm=\"x\""),
        ("set-cookie", "a=1; HttpOnly"),
        ("set-cookie", "b=2"),
        ("content-type", "text/plain"),
        ("cache-control", "no-store"),
    ];
    assert_eq!(fields(&rebuff), expected);
    service.now(Reply::status(403));
    assert_eq!(guarded.rebuffed(&get("/")).await.status, 403);
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_client_is_sent_to_a_listed_place_and_to_no_other() {
    let login = "https://login.example.com/start?rd=%2F";
    let service = Service::replying(Reply::status(302)).await;
    let listed = json!({"url": service.url(), "redirects": ["https://login.example.com", "/oauth2/"]});
    let guarded = Guarded::start(config(listed));
    for (status, place) in [(302, login), (303, login), (307, "/oauth2/start")] {
        service.now(Reply::status(status).with("location", place).with("set-cookie", "csrf=1"));
        let rebuff = guarded.rebuffed(&get("/")).await;
        assert_eq!(rebuff.status.as_u16(), status);
        assert_eq!(fields(&rebuff)[..2], [("location", place), ("set-cookie", "csrf=1")]);
    }
    for reply in [
        Reply::status(302).with("location", "https://evil.example/"),
        Reply::status(302).with("location", "//login.example.com/"),
        Reply::status(302).with("location", login).with("location", "https://evil.example/"),
        Reply::status(302),
        Reply::status(301).with("location", login),
        Reply::status(304).with("location", login),
    ] {
        service.now(reply.clone());
        assert_eq!(guarded.reason(&get("/")).await, Some(Reason::AuthorizationUnavailable), "{reply:?}");
    }
    let unlisted = Guarded::start(ForwardAuthConfig::from_url(service.url()));
    service.now(Reply::status(302).with("location", login));
    assert_eq!(unlisted.reason(&get("/")).await, Some(Reason::AuthorizationUnavailable));
    unlisted.world.stop().await;
    guarded.world.stop().await;
}

#[tokio::test]
async fn everything_else_is_no_word_and_fails_closed() {
    let service = Service::replying(Reply::status(200)).await;
    let guarded =
        Guarded::start(config(json!({"url": service.url(), "timeout": "300ms", "breaker": {"failures": 1000}})));
    for (what, reply, outcome) in [
        ("hangs", Reply::Hang, "timeout"),
        ("drips", Reply::Drip, "timeout"),
        ("floods", Reply::Flood, "too-large"),
        ("hangs up", Reply::Cut, "transfer"),
        ("fails", Reply::status(500), "status"),
        ("is too busy", Reply::status(503), "status"),
        ("finds nothing", Reply::status(404), "status"),
        ("limits us", Reply::status(429), "status"),
        ("finds the question bad", Reply::status(400), "status"),
        ("says no at length", Reply::Say(403, vec![], "x".repeat(70_000)), "too-large"),
    ] {
        service.now(reply);
        let began = Instant::now();
        let refusal = guarded.decide(&get("/")).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(5), "a service that {what} held the request");
        let told = (refusal.reason, refusal.status().as_u16());
        assert_eq!(told, (Reason::AuthorizationUnavailable, 503), "a service that {what}");
        assert!(refusal.headers.iter().any(|(name, value)| name == RETRY_AFTER && value == "1"), "{what}");
        assert!(refusal.headers.iter().all(|(name, _)| name != WWW_AUTHENTICATE), "{what}");
        assert!(guarded.world.metrics().contains(&format!("outcome=\"{outcome}\"}} ")), "{what}");
    }
    assert!(guarded.counts("timeout", 2) && guarded.counts("too-large", 2) && guarded.counts("status", 5));
    assert!(service.flooded() < 20_000_000, "{} bytes of the flood were taken", service.flooded());
    guarded.world.stop().await;

    for (what, bytes) in [
        ("speaks another protocol", b"220 smtp ready\r\n".to_vec()),
        ("says yes in an older way", b"HTTP/0.9 200 OK\r\n\r\n".to_vec()),
        ("stops in the middle", b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n".to_vec()),
        ("promises an answer", b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec()),
    ] {
        let address = babbling(bytes).await;
        let guarded = Guarded::start(ForwardAuthConfig::from_url(format!("http://{address}/")));
        assert_eq!(guarded.reason(&get("/")).await, Some(Reason::AuthorizationUnavailable), "a service that {what}");
        guarded.world.stop().await;
    }
}

#[tokio::test]
async fn only_an_operator_who_says_so_by_name_lets_requests_pass_unheard() {
    let service = Service::replying(Reply::status(500).with("x-user", "u1")).await;
    let open = json!({"url": service.url(), "on_failure": "dangerously_allow", "response_headers": ["x-user"]});
    let mut faults = Faults::new();
    config(open.clone()).validate(&Path::root(), &mut faults);
    assert!(faults.iter().any(|fault| fault.to_string().contains("every request passes")));
    let guarded = Guarded::start(config(open));
    assert_eq!(guarded.allowed(&get("/")).await, [], "without a word of the service");
    service.now(Reply::status(403));
    assert_eq!(guarded.rebuffed(&get("/")).await.status, 403, "a no is a no");
    guarded.world.stop().await;
}

#[tokio::test]
async fn answers_are_kept_by_the_rule_and_for_their_time() {
    let service = Service::replying(Reply::ok("").with("x-user", "u1")).await;
    let ruled = json!({"url": service.url(), "response_headers": ["x-user"],
                       "cache": {"by": ["authorization", "cookie", "path"], "ttl": "5s"}});
    let guarded = Guarded::start(config(ruled));
    let asking = get("/a").with("authorization", "Bearer t");
    for _ in 0..3 {
        assert_eq!(guarded.allowed(&asking).await, [("x-user".to_owned(), "u1".to_owned())]);
    }
    // What the rule does not name makes no difference.
    let mut alike = asking.clone().with("x-other", "1");
    alike.method = Method::POST;
    guarded.allowed(&alike).await;
    assert_eq!(service.asked(), 1);
    // What it names does, however it is written.
    let mut times = 1;
    let with_query = |query| Asking { query: Some(query), ..asking.clone() };
    for other in [
        get("/b").with("authorization", "Bearer t"),
        with_query(""),
        with_query("x"),
        get("/a").with("authorization", "Bearer u"),
        get("/a"),
        get("/a").with("cookie", "Bearer t"),
        get("/a").with("authorization", "Bearer t").with("authorization", "Bearer t"),
        get("/a").with("authorization", ""),
    ] {
        guarded.allowed(&other).await;
        times += 1;
        assert_eq!(service.asked(), times, "{:?} {:?}", other.path, other.headers);
    }
    // Taken away at the service: known here when the answer's time is over.
    service.now(Reply::status(403));
    guarded.world.clock.advance(Duration::from_millis(4_999));
    guarded.allowed(&asking).await;
    guarded.world.clock.advance(Duration::from_millis(1));
    assert_eq!(guarded.rebuffed(&asking).await.status, 403);
    assert_eq!(
        (guarded.rebuffed(&asking).await.status.as_u16(), service.asked()),
        (403, times + 1),
        "a no is kept too"
    );
    guarded.world.stop().await;
}

#[tokio::test]
async fn what_is_for_one_client_alone_is_not_kept() {
    let service = Service::replying(Reply::status(200)).await;
    let ruled = json!({"url": service.url(), "redirects": ["/login"],
                       "cache": {"by": ["authorization", "cookie", "path"], "ttl": "5s"}});
    let guarded = Guarded::start(config(ruled));
    for (index, reply) in [
        Reply::status(200).with("cache-control", "max-age=5, No-Store"),
        Reply::status(401).with("cache-control", "no-store"),
        Reply::status(401).with("set-cookie", "session=1"),
        Reply::status(302).with("location", "/login"),
        Reply::status(500),
    ]
    .into_iter()
    .enumerate()
    {
        service.now(reply.clone());
        for times in 1..3 {
            let _ = guarded.decide(&get("/")).await;
            assert_eq!(service.asked(), 2 * index + times, "{reply:?}");
        }
    }
    guarded.world.stop().await;
}

#[tokio::test]
async fn requests_alike_share_one_question_and_others_share_none() {
    let service = Service::replying(Reply::Held(String::new())).await;
    let ruled = json!({"url": service.url(), "cache": {"by": ["authorization", "cookie", "path"]}});
    for (config_text, questions) in [(ruled, 1), (json!({"url": service.url()}), 10)] {
        let guarded = Guarded::start(config(config_text));
        let (asking, before) = (get("/").with("authorization", "Bearer t"), service.asked());
        let asks = join_all((0..10).map(|_| guarded.decide(&asking)));
        let (answers, ()) = tokio::join!(asks, async {
            service.was_asked(before + questions).await;
            service.release(questions);
        });
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(service.asked(), before + questions);
        guarded.world.stop().await;
    }
}

#[tokio::test]
async fn so_many_questions_are_under_way_at_once_and_so_many_requests_wait() {
    let service = Service::replying(Reply::Held(String::new())).await;
    let guarded = Guarded::start(config(json!({"url": service.url(), "max_in_flight": 2, "max_waiting": 5})));
    let asking = get("/");
    let asks = join_all((0..9).map(|_| guarded.reason(&asking)));
    let (answers, ()) = tokio::join!(asks, async {
        service.was_asked(2).await;
        service.release(5);
    });
    assert_eq!(answers.iter().filter(|answer| answer.is_none()).count(), 5);
    assert!(guarded.counts("crowded", 4) && guarded.counts("ok", 5), "{}", guarded.world.metrics());
    assert_eq!((service.asked(), service.busiest()), (5, 2));
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_any_more_is_given_up() {
    let service = Service::replying(Reply::Hang).await;
    let guarded = Guarded::start(config(json!({"url": service.url(), "timeout": "30s"})));
    let asking = get("/");
    {
        let ask = guarded.decide(&asking);
        tokio::pin!(ask);
        tokio::select! {
            _ = &mut ask => panic!("nobody answers"),
            () = service.was_asked(1) => {}
        }
    }
    let given_up = async {
        while guarded.page()["in_flight"] != 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), given_up).await.expect("before the question's own time is over");
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_service_that_fails_in_a_row_is_left_alone_and_tried_by_one() {
    let service = Service::replying(Reply::status(500)).await;
    let guarded = Guarded::start(config(json!({"url": service.url(), "breaker": {"failures": 2, "rest": "10s"}})));
    guarded.world.ready().await;
    for _ in 0..20 {
        assert_eq!(guarded.reason(&get("/")).await, Some(Reason::AuthorizationUnavailable));
    }
    assert_eq!((service.asked(), &guarded.page()["breaker"]), (2, &json!("open")));
    guarded.world.state(|state| matches!(state, State::Degraded(why) if why.contains("route orders"))).await;
    guarded.world.clock.advance(Duration::from_secs(10));
    service.now(Reply::status(403));
    assert_eq!(guarded.rebuffed(&get("/")).await.status, 403, "a no is an answer");
    guarded.world.ready().await;
    assert_eq!((service.asked(), &guarded.page()["breaker"]), (3, &json!("closed")));
    guarded.world.stop().await;
}

#[tokio::test]
async fn kept_answers_take_no_more_memory_than_allowed() {
    let service = Service::replying(Reply::ok("")).await;
    let mut small = config(json!({"url": service.url(), "cache": {"by": ["authorization", "cookie"]}}));
    small.cache.as_mut().unwrap().size = ByteSize::kib(8);
    small.cache.as_mut().unwrap().ttl = Span::secs(60);
    let guarded = Guarded::start(small);
    for number in 0..300 {
        guarded.allowed(&get("/").with("authorization", &format!("Bearer {number}"))).await;
    }
    let page = guarded.page();
    let bytes = page["cache"]["bytes"].as_u64().unwrap();
    assert!(bytes <= 8 * 1024 && page["cache"]["entries"].as_u64().unwrap() > 3, "{page}");
    assert!(guarded.world.metrics().contains(&format!("forward_auth_cache_bytes{{route=\"orders\"}} {bytes}\n")));
    // More than a key may hold is asked about each time.
    let long = get("/").with("cookie", &"x".repeat(20_000));
    for times in 301..303 {
        guarded.allowed(&long).await;
        assert_eq!(service.asked(), times);
    }
    guarded.world.stop().await;
}

#[tokio::test]
async fn a_reload_keeps_what_is_known_and_a_route_that_went_takes_its_series_along() {
    let service = Service::replying(Reply::ok("")).await;
    let ruled = config(json!({"url": service.url(), "cache": {"by": ["authorization", "cookie"]}}));
    let guarded = Guarded::start(ruled.clone());
    guarded.allowed(&get("/")).await;
    let prepared = guarded.world.handle.prepare(&guarded.world.config, &BTreeMap::new()).unwrap();
    let again = prepared.forward_auth(&RouteName::new("orders").unwrap(), &ruled, &Path::root()).unwrap();
    assert!(Arc::ptr_eq(&again, &guarded.service));
    guarded.world.handle.commit(prepared);
    assert!(guarded.world.metrics().contains("route=\"orders\""));
    let prepared = guarded.world.handle.prepare(&guarded.world.config, &BTreeMap::new()).unwrap();
    guarded.world.handle.commit(prepared);
    assert!(!guarded.world.metrics().contains("route=\"orders\""), "{}", guarded.world.metrics());
    guarded.world.stop().await;
}

#[test]
fn the_section_tells_all_its_faults_at_once() {
    let wanted = config(json!({
        "url": "http://user:hunter2@x", "timeout": "0s", "request_headers": ["host", "a b", "authorization", "cookie"],
        "response_headers": ["authorization", "x-forwarded-for", "set-cookie", "x-ok"],
        "redirects": ["https://login.example.com/path", "login"], "max_in_flight": 9999, "max_waiting": 1,
        "cache": {"by": ["authorization", "not a name"], "ttl": "0s", "size": "1B"}, "breaker": {"failures": 0, "rest": "1h"}
    }));
    let mut faults = Faults::new();
    wanted.validate(&Path::root().key("f"), &mut faults);
    let told: Vec<_> = faults.iter().filter(|fault| fault.severity == sluice_vocabulary::Severity::Error).collect();
    let told: Vec<String> = told.into_iter().map(Fault::to_string).collect();
    for place in [
        "f.url",
        "f.timeout",
        "f.request_headers[0]",
        "f.request_headers[1]",
        "f.response_headers[0]",
        "f.response_headers[1]",
        "f.response_headers[2]",
        "f.redirects[0]",
        "f.redirects[1]",
        "f.max_in_flight",
        "f.max_waiting",
        "f.cache.by[1]",
        "f.cache.by: without cookie one sender's answer would be another's",
        "f.cache.ttl",
        "f.cache.size",
        "f.breaker.failures",
        "f.breaker.rest",
    ] {
        assert!(told.iter().any(|fault| fault.starts_with(place)), "{place} in\n{}", told.join("\n"));
    }
    assert!(!told.join("\n").contains("hunter2"));
    let mut faults = Faults::new();
    ForwardAuthConfig::from_url("https://authz.example.com/check").validate(&Path::root(), &mut faults);
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn the_decision_can_be_awaited_on_any_thread() {
    fn is_send<T: Send>(_: &T) {}
    fn of(handle: &sluice_auth::Handle, service: &ForwardAuth, request: &RequestView<'_>, policy: &Policy) {
        is_send(&handle.authorize(service, request));
        is_send(&handle.authenticate(policy, request));
    }
    let _ = of;
}
