//! What the door answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;
use sluice_vocabulary::ports::RevokeFault;
use tokio::time::timeout;

use crate::exposition::{self, wants_openmetrics};
use crate::metrics::Metrics;
use crate::readiness::readiness;
use crate::reply::{self, Reply};
use crate::server::Deps;
use crate::visitor;

/// The largest log level read.
const LARGEST_LEVEL: usize = 4 * 1024;
/// The most revocations read at once: some ten thousand.
const LARGEST_LIST: usize = 1024 * 1024;
/// The largest question about a token: the longest token that a gateway may be told to look at, twice over.
const LARGEST_QUESTION: usize = 128 * 1024;
/// The most revocations shown.
const MOST_SHOWN: usize = 1000;
/// How long a body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
/// How long a reload may take before its caller is told to look for its outcome in the log.
const RELOAD_PATIENCE: Duration = Duration::from_secs(30);

/// The label of requests for what is no page.
const OTHER: &str = "other";

pub(crate) struct Pages {
    pub(crate) deps: Deps,
    pub(crate) hosts: Vec<String>,
    pub(crate) is_local: bool,
    pub(crate) metrics: Metrics,
}

impl Pages {
    pub(crate) async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let (page, reply) = match visitor::check(&head.method, &head.uri, &head.headers, &self.hosts, self.is_local) {
            Ok(()) => self.page(&head, body).await,
            Err(why) => (OTHER, reply::problem(StatusCode::FORBIDDEN, why)),
        };
        self.metrics.answered(page, reply.status().as_u16());
        reply
    }

    async fn page(&self, head: &Parts, body: Incoming) -> (&'static str, Reply) {
        let is_look = matches!(head.method, Method::GET | Method::HEAD);
        let look = |reply: Reply| if is_look { reply } else { reply::not_allowed("GET, HEAD") };
        match head.uri.path() {
            "/" => ("/", look(reply::text(StatusCode::OK, self.index()))),
            "/healthz" => ("/healthz", look(reply::text(StatusCode::OK, "ok\n"))),
            "/readyz" => {
                let (status, units) = readiness(&self.deps.healths);
                ("/readyz", look(reply::json(status, &units)))
            }
            "/metrics" if is_look => ("/metrics", self.exposition(head)),
            "/metrics" => ("/metrics", reply::not_allowed("GET, HEAD")),
            "/log" => ("/log", self.log(head, body).await),
            "/reload" if head.method == Method::POST => ("/reload", self.reload().await),
            "/reload" => ("/reload", reply::not_allowed("POST")),
            "/revocations" => ("/revocations", self.revocations(head, body).await),
            "/tokens/inspect" if head.method == Method::POST => ("/tokens/inspect", self.inspect_token(body).await),
            "/tokens/inspect" => ("/tokens/inspect", reply::not_allowed("POST")),
            path => match self.deps.pages.iter().find(|(known, _)| *known == path) {
                Some((known, _)) if !is_look => (*known, reply::not_allowed("GET, HEAD")),
                Some((known, page)) => (*known, reply::json(StatusCode::OK, &page.inspect())),
                None => (OTHER, reply::problem(StatusCode::NOT_FOUND, "there is no such page; / lists them")),
            },
        }
    }

    fn index(&self) -> String {
        let mut text = String::from(
            "GET  /healthz   whether the process is alive\n\
             GET  /readyz    whether it may take traffic, and each unit's state\n\
             GET  /metrics   all metrics\n\
             GET  /log       what is logged; PUT another level to change it\n\
             POST /reload    read the configuration again\n\
             GET  /revocations   how many tokens are revoked, and how that is known; ?limit=N shows some\n\
             POST /revocations   revoke what the body's lines say\n\
             DELETE /revocations   lift what the body's lines name\n\
             POST /tokens/inspect   what the body's token is worth to the body's request, and why\n",
        );
        for (path, _) in &self.deps.pages {
            text.push_str(&format!("GET  {path}\n"));
        }
        text
    }

    fn exposition(&self, head: &Parts) -> Reply {
        let page = self.deps.metrics.encode();
        if wants_openmetrics(&head.headers) {
            reply::with(StatusCode::OK, exposition::OPENMETRICS, page)
        } else {
            reply::with(StatusCode::OK, exposition::TEXT, exposition::to_text(&page))
        }
    }

    async fn log(&self, head: &Parts, body: Incoming) -> Reply {
        if head.method == Method::PUT {
            let text = match read(body, LARGEST_LEVEL).await.map(|body| String::from_utf8(body.into())) {
                Ok(Ok(text)) => text,
                Ok(Err(_)) => return reply::problem(StatusCode::BAD_REQUEST, "the body is not UTF-8 text"),
                Err(refused) => return refused,
            };
            let before = self.deps.log_level.get();
            if let Err(why) = self.deps.log_level.set(text.trim()) {
                return reply::problem(StatusCode::BAD_REQUEST, &why);
            }
            tracing::info!(before, after = text.trim(), "log level changed");
        } else if !matches!(head.method, Method::GET | Method::HEAD) {
            return reply::not_allowed("GET, HEAD, PUT");
        }
        reply::json(StatusCode::OK, &json!({ "level": self.deps.log_level.get() }))
    }

    async fn revocations(&self, head: &Parts, body: Incoming) -> Reply {
        let revoke = &self.deps.revoke;
        let order = match head.method {
            Method::GET | Method::HEAD => {
                return match limit(head.uri.query()) {
                    Ok(limit) => reply::json(StatusCode::OK, &revoke.revocations(limit).await),
                    Err(why) => reply::problem(StatusCode::BAD_REQUEST, &why),
                };
            }
            Method::POST | Method::DELETE => match read(body, LARGEST_LIST).await {
                Ok(lines) if head.method == Method::POST => revoke.revoke(lines),
                Ok(lines) => revoke.lift(lines),
                Err(refused) => return refused,
            },
            _ => return reply::not_allowed("GET, HEAD, POST, DELETE"),
        };
        match order.await {
            Ok(done) => reply::json(StatusCode::OK, &done),
            Err(RevokeFault::BadLines(lines, count)) => reply::bad_lines(&lines, count),
            Err(RevokeFault::Full(why)) => reply::problem(StatusCode::INSUFFICIENT_STORAGE, &why),
            Err(RevokeFault::NotStored(why)) => reply::problem(StatusCode::SERVICE_UNAVAILABLE, &why),
        }
    }

    /// Serves nobody and changes nothing. It is an order all the same, so that no web page can have keys fetched.
    async fn inspect_token(&self, body: Incoming) -> Reply {
        let question = match read(body, LARGEST_QUESTION).await {
            Ok(question) => question,
            Err(refused) => return refused,
        };
        match self.deps.judge.judge(question).await {
            Ok(page) => reply::json(StatusCode::OK, &page),
            Err(why) => reply::problem(StatusCode::BAD_REQUEST, &why),
        }
    }

    async fn reload(&self) -> Reply {
        // A task of its own: a caller who hangs up must not stop a configuration half applied.
        let reload = self.deps.reload.clone();
        let running = tokio::spawn(async move { reload.reload().await });
        match timeout(RELOAD_PATIENCE, running).await {
            Ok(Ok(Ok(()))) => reply::json(StatusCode::OK, &json!({ "reloaded": true })),
            Ok(Ok(Err(faults))) => reply::text(StatusCode::UNPROCESSABLE_ENTITY, faults),
            Ok(Err(_)) => reply::problem(StatusCode::INTERNAL_SERVER_ERROR, "the reload failed; the log says why"),
            Err(_) => {
                reply::problem(StatusCode::ACCEPTED, "the reload is still under way; the log will tell its outcome")
            }
        }
    }
}

/// How many revocations are to be shown; none unless asked for.
fn limit(query: Option<&str>) -> Result<usize, String> {
    let Some(query) = query else { return Ok(0) };
    let limit = query.strip_prefix("limit=").and_then(|limit| limit.parse().ok()).filter(|limit| *limit <= MOST_SHOWN);
    limit.ok_or_else(|| format!("the query is not limit=N: expected N from 0 to {MOST_SHOWN}"))
}

/// A body of at most `most` bytes, in time.
async fn read(body: Incoming, most: usize) -> Result<Bytes, Reply> {
    match timeout(BODY_PATIENCE, Limited::new(body, most).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(reply::problem(StatusCode::PAYLOAD_TOO_LARGE, &format!("the body is larger than {most} bytes")))
        }
        Ok(Err(_)) => Err(reply::problem(StatusCode::BAD_REQUEST, "the body is not well-formed")),
        Err(_) => Err(reply::problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}
