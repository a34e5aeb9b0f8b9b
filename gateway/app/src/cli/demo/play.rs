//! Plays the scenes against the running gateway, as any client would, and says what came of each.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;

use super::scenes::{Answer, Scene};

const LONGEST_SCENE: Duration = Duration::from_secs(10);

/// How one scene went.
#[derive(Serialize)]
pub(super) struct Played {
    scene: &'static str,
    request: String,
    expected_status: u16,
    status: Option<u16>,
    milliseconds: f64,
    shown: String,
    faults: Vec<String>,
}

impl Played {
    pub(super) fn went_well(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Sends one scene's request (as often as it asks for) and holds the last answer against it.
pub(super) async fn play(scene: &Scene, gateway: SocketAddr) -> Played {
    let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let began = Instant::now();
    let mut outcome = Err("it was not sent".to_owned());
    for _ in 0..scene.times {
        outcome = match tokio::time::timeout(LONGEST_SCENE, send(scene, gateway, &client)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {LONGEST_SCENE:?}")),
        };
    }
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    let (status, shown, faults) = match outcome {
        Ok(answer) => (Some(answer.status), scene.shown(&answer), scene.faults(&answer)),
        Err(why) => (None, String::new(), vec![why]),
    };
    Played {
        scene: scene.name,
        request: format!("{} {}", scene.method, scene.target),
        expected_status: scene.status,
        status,
        milliseconds,
        shown,
        faults,
    }
}

async fn send(
    scene: &Scene,
    gateway: SocketAddr,
    client: &Client<HttpConnector, Full<Bytes>>,
) -> Result<Answer, String> {
    let mut request = Request::builder().method(scene.method.clone()).uri(format!("http://{gateway}{}", scene.target));
    if let Some(token) = &scene.token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in scene.headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::default()).map_err(|e| e.to_string())?;
    let response = client.request(request).await.map_err(|e| format!("no answer: {e}"))?;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map_err(|e| format!("the answer broke off: {e}"))?.to_bytes();
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

/// Prints one line for a scene as soon as it was played, and more where it went wrong.
pub(super) fn print(number: usize, played: &Played, out: &mut impl Write) -> std::io::Result<()> {
    let mark = match (std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(), played.went_well()) {
        (true, true) => "\u{1b}[32mok\u{1b}[0m",
        (true, false) => "\u{1b}[31mFAILED\u{1b}[0m",
        (false, true) => "ok",
        (false, false) => "FAILED",
    };
    let status = played.status.map_or_else(|| "---".to_owned(), |status| status.to_string());
    writeln!(
        out,
        "{number:>3}  {:<34} {:<26} {status}  {:>6.1} ms  {mark}  {}",
        played.scene, played.request, played.milliseconds, played.shown
    )?;
    for fault in &played.faults {
        writeln!(out, "       {fault}")?;
    }
    Ok(())
}
