//! The door, through real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use sluice_admin::{Address, Config, Deps, Handle, Unit};
use sluice_vocabulary::ports::{BadLine, Inspect, Judge, LogLevel, MetricsPage, Reload, Revoke, RevokeFault};
use sluice_vocabulary::unit::{BoxFuture, Health, State, Stop, Stopper, Task as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

struct Page;
impl MetricsPage for Page {
    fn encode(&self) -> String {
        "# TYPE a counter\na_total 1\n# EOF\n".to_owned()
    }
}

struct Level(Mutex<String>);
impl LogLevel for Level {
    fn get(&self) -> String {
        self.0.lock().unwrap().clone()
    }
    fn set(&self, directives: &str) -> Result<(), String> {
        if directives == "loud" {
            return Err("\"loud\" is not a log level".to_owned());
        }
        *self.0.lock().unwrap() = directives.to_owned();
        Ok(())
    }
}

struct Reloads(Mutex<Vec<Result<(), String>>>);
impl Reload for Reloads {
    fn reload(&self) -> BoxFuture<'_, Result<(), String>> {
        let next = self.0.lock().unwrap().remove(0);
        Box::pin(async move { next })
    }
}

/// Knows one line: any other is bad, or one of the two that cannot be done.
struct Revocations(Mutex<Vec<String>>);
impl Revoke for Revocations {
    fn revocations(&self, limit: usize) -> BoxFuture<'_, Value> {
        Box::pin(async move { json!({ "limit": limit }) })
    }
    fn revoke(&self, lines: Bytes) -> BoxFuture<'_, Result<Value, RevokeFault>> {
        Box::pin(async move {
            match &*lines {
                b"full" => Err(RevokeFault::Full("no room".to_owned())),
                b"stuck" => Err(RevokeFault::NotStored("no disk".to_owned())),
                b"bad" => Err(RevokeFault::BadLines(vec![BadLine { line: 1, fault: "wrong".to_owned() }], 7)),
                lines => {
                    self.0.lock().unwrap().push(String::from_utf8_lossy(lines).into_owned());
                    Ok(json!({ "revoked": 1 }))
                }
            }
        })
    }
    fn lift(&self, lines: Bytes) -> BoxFuture<'_, Result<Value, RevokeFault>> {
        let line = format!("-{}", String::from_utf8_lossy(&lines));
        Box::pin(async move {
            self.0.lock().unwrap().push(line);
            Ok(json!({ "lifted": 1 }))
        })
    }
}

/// Takes one question for good.
struct Questions;
impl Judge for Questions {
    fn judge(&self, question: Bytes) -> BoxFuture<'_, Result<Value, String>> {
        Box::pin(async move {
            match &*question {
                b"bad" => Err("the question has no request".to_owned()),
                question => Ok(json!({ "length": question.len() })),
            }
        })
    }
}

struct Routes;
impl Inspect for Routes {
    fn inspect(&self) -> Value {
        json!([{ "name": "orders" }])
    }
}

struct Door {
    handle: Handle,
    revocations: Arc<Revocations>,
    unit: Health,
    stopper: Stopper,
    task: JoinHandle<()>,
}

async fn door(config: Config) -> Door {
    let unit = Health::new("auth");
    let revocations = Arc::new(Revocations(Mutex::default()));
    let deps = Deps {
        healths: vec![unit.clone()],
        metrics: Arc::new(Page),
        log_level: Arc::new(Level(Mutex::new("info".to_owned()))),
        reload: Arc::new(Reloads(Mutex::new(vec![Ok(()), Err("error: unknown key `x`\n".to_owned())]))),
        revoke: Arc::clone(&revocations) as _,
        judge: Arc::new(Questions),
        pages: vec![("/routes", Arc::new(Routes))],
    };
    let (handle, mut task) = Unit::new(&config, deps, &mut Registry::default()).unwrap();
    let (stopper, stop) = Stop::new();
    let task = tokio::spawn(async move { task.run(stop).await });
    Door { handle, revocations, unit, stopper, task }
}

async fn tcp() -> Door {
    door(Config { address: Some("127.0.0.1:0".parse().unwrap()), ..Config::default() }).await
}

impl Door {
    async fn connect(&self) -> TcpStream {
        let Address::Tcp(address) = self.handle.address() else { panic!("not TCP") };
        TcpStream::connect(address).await.unwrap()
    }

    /// Sends bytes as they are and reads until the door closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer in time").unwrap();
        answer
    }

    /// The status and the body.
    async fn ask(&self, method: &str, path: &str, more: &str, body: &str) -> (u16, String) {
        let length = body.len();
        let answer = self
            .raw(&format!(
                "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{more}content-length: {length}\r\n\r\n{body}"
            ))
            .await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a header");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "", "").await
    }

    async fn end(self) {
        self.stopper.stop();
        timeout(PATIENCE, self.task).await.expect("the task ends").unwrap();
    }
}

#[tokio::test]
async fn readiness_follows_the_units_and_liveness_does_not() {
    let door = tcp().await;
    let (status, page) = door.get("/readyz").await;
    assert_eq!(status, 503, "{page}");
    door.unit.set(State::Ready);
    let (status, page) = door.get("/readyz").await;
    assert_eq!(status, 200);
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!(page["units"][0], json!({ "unit": "auth", "state": "ready" }));
    door.unit.set(State::Unavailable("no keys".to_owned()));
    let (status, page) = door.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(page.contains("no keys"));
    assert_eq!(door.get("/healthz").await, (200, "ok\n".to_owned()));
    door.end().await;
}

#[tokio::test]
async fn pages_answer_what_their_units_show() {
    let door = tcp().await;
    let (status, page) = door.get("/routes").await;
    assert_eq!((status, serde_json::from_str::<Value>(&page).unwrap()), (200, json!([{ "name": "orders" }])));
    assert!(door.get("/").await.1.contains("GET  /routes\n"));
    assert_eq!(door.get("/nothing").await.0, 404);
    assert_eq!(door.ask("POST", "/routes", "", "").await.0, 405);
    assert_eq!(door.ask("GET", "/reload", "", "").await.0, 405);
    assert_eq!(door.get("/metrics").await.1, "# TYPE a_total counter\na_total 1\n");
    let openmetrics = door.ask("GET", "/metrics", "accept: application/openmetrics-text\r\n", "").await;
    assert_eq!(openmetrics.1, "# TYPE a counter\na_total 1\n# EOF\n");
    door.end().await;
}

#[tokio::test]
async fn the_log_level_can_be_read_and_set_and_a_bad_one_is_explained() {
    let door = tcp().await;
    assert_eq!(door.get("/log").await.1, "{\n  \"level\": \"info\"\n}\n");
    assert_eq!(door.ask("PUT", "/log", "", "debug\n").await, (200, "{\n  \"level\": \"debug\"\n}\n".to_owned()));
    let (status, page) = door.ask("PUT", "/log", "", "loud").await;
    assert_eq!(status, 400);
    assert!(page.contains("is not a log level"));
    assert_eq!(door.ask("PUT", "/log", "", &"x".repeat(5000)).await.0, 413);
    assert_eq!(door.ask("DELETE", "/log", "", "").await.0, 405);
    door.end().await;
}

#[tokio::test]
async fn a_reload_tells_its_outcome() {
    let door = tcp().await;
    assert_eq!(door.ask("POST", "/reload", "", "").await.0, 200);
    assert_eq!(door.ask("POST", "/reload", "", "").await, (422, "error: unknown key `x`\n".to_owned()));
    door.end().await;
}

#[tokio::test]
async fn revocations_are_taken_and_lifted_whole() {
    let door = tcp().await;
    // Well over what a log level may have, and within what a list may.
    let lines = "x".repeat(900_000);
    let (status, page) = door.ask("POST", "/revocations", "", &lines).await;
    assert_eq!((status, serde_json::from_str::<Value>(&page).unwrap()), (200, json!({ "revoked": 1 })));
    assert_eq!(door.ask("DELETE", "/revocations", "", "a").await.0, 200);
    assert_eq!(*door.revocations.0.lock().unwrap(), [lines, "-a".to_owned()]);
    door.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_revocations_is_told_line_by_line() {
    let door = tcp().await;
    let (status, page) = door.ask("POST", "/revocations", "", "bad").await;
    let page: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &page["lines"]), (400, &json!([{ "line": 1, "fault": "wrong" }])));
    assert!(page["detail"].as_str().unwrap().ends_with(": 7"), "{page}");
    assert_eq!(door.ask("POST", "/revocations", "", "full").await.0, 507);
    let (status, page) = door.ask("POST", "/revocations", "", "stuck").await;
    assert!(status == 503 && page.contains("no disk"), "{page}");
    assert_eq!(door.ask("POST", "/revocations", "", &"x".repeat(1024 * 1024 + 1)).await.0, 413);
    assert_eq!(door.ask("PUT", "/revocations", "", "x").await.0, 405);
    assert_eq!(door.ask("POST", "/revocations", "origin: http://evil.example\r\n", "x").await.0, 403);
    assert!(door.revocations.0.lock().unwrap().is_empty());
    door.end().await;
}

#[tokio::test]
async fn revocations_are_listed_only_on_request_and_only_so_many() {
    let door = tcp().await;
    assert_eq!(door.get("/revocations").await.1, "{\n  \"limit\": 0\n}\n");
    assert_eq!(door.get("/revocations?limit=1000").await.1, "{\n  \"limit\": 1000\n}\n");
    for bad in ["limit=1001", "limit=-1", "limit=", "limit=5&limit=6", "all"] {
        assert_eq!(door.get(&format!("/revocations?{bad}")).await.0, 400, "{bad}");
    }
    door.end().await;
}

#[tokio::test]
async fn a_question_about_a_token_is_passed_on_whole_and_a_bad_one_is_explained() {
    let door = tcp().await;
    // A token as long as a gateway may be told to take, and what goes with it.
    let question = "x".repeat(100 * 1024);
    let (status, page) = door.ask("POST", "/tokens/inspect", "", &question).await;
    assert_eq!((status, serde_json::from_str::<Value>(&page).unwrap()), (200, json!({ "length": 100 * 1024 })));
    let (status, page) = door.ask("POST", "/tokens/inspect", "", "bad").await;
    let problem: Value = serde_json::from_str(&page).unwrap();
    assert_eq!((status, &problem["detail"]), (400, &json!("the question has no request")));
    assert_eq!(door.ask("POST", "/tokens/inspect", "", &"x".repeat(128 * 1024 + 1)).await.0, 413);
    assert_eq!(door.get("/tokens/inspect").await.0, 405);
    assert_eq!(door.ask("POST", "/tokens/inspect", "origin: http://evil.example\r\n", "x").await.0, 403);
    assert_eq!(door.get("/tokens").await.0, 404);
    door.end().await;
}

#[tokio::test]
async fn a_web_page_gets_nothing() {
    let door = tcp().await;
    let rebound = door.raw("GET /metrics HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 403 "), "{rebound}");
    assert_eq!(door.ask("POST", "/reload", "origin: http://evil.example\r\n", "").await.0, 403);
    let absolute = door.raw("GET http://evil.example/ HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").await;
    assert!(absolute.starts_with("HTTP/1.1 403 "), "{absolute}");
    door.end().await;
}

#[tokio::test]
async fn a_client_that_drips_its_header_is_let_go() {
    let door = tcp().await;
    // Whatever the door says to it, it must close, and well before the connection's whole life is over.
    door.raw("GET / HTTP/1.1\r\nhost: 127").await;
    door.end().await;
}

#[tokio::test]
async fn a_stop_does_not_wait_for_idle_connections() {
    let door = tcp().await;
    let mut idle = door.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 8];
    timeout(PATIENCE, idle.read_exact(&mut first)).await.unwrap().unwrap();
    door.end().await;
}

#[tokio::test]
async fn a_socket_has_its_mode_replaces_an_abandoned_one_and_goes_with_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let config = Config { socket: Some(path.clone()), mode: Some("0660".to_owned()), ..Config::default() };
    // A listener that is dropped leaves its file behind, as a killed process does.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let door = door(config.clone()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let taken = bind_again(&config).expect_err("somebody listens there");
    assert!(taken.contains("admin.sock"), "{taken}");
    door.end().await;
    assert!(!path.exists());

    std::fs::write(&path, "a file").unwrap();
    bind_again(&config).expect_err("a file is not replaced");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

fn bind_again(config: &Config) -> Result<(), String> {
    let deps = Deps {
        healths: Vec::new(),
        metrics: Arc::new(Page),
        log_level: Arc::new(Level(Mutex::default())),
        reload: Arc::new(Reloads(Mutex::default())),
        revoke: Arc::new(Revocations(Mutex::default())),
        judge: Arc::new(Questions),
        pages: Vec::new(),
    };
    Unit::new(config, deps, &mut Registry::default()).map(drop).map_err(|error| error.to_string())
}
