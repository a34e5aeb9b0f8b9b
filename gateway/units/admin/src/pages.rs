//! What the door answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde_json::json;
use tokio::time::timeout;

use crate::exposition::{self, wants_openmetrics};
use crate::metrics::Metrics;
use crate::readiness::readiness;
use crate::reply::{self, Reply};
use crate::server::Deps;
use crate::visitor;

/// The largest body read: a log level.
const LARGEST_BODY: usize = 4 * 1024;
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
             POST /reload    read the configuration again\n",
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
            let text = match read(body).await {
                Ok(text) => text,
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

/// A short text body, in time.
async fn read(body: Incoming) -> Result<String, Reply> {
    let collected = timeout(BODY_PATIENCE, Limited::new(body, LARGEST_BODY).collect()).await;
    let bytes: Bytes = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            let most = format!("the body is larger than {LARGEST_BODY} bytes");
            return Err(reply::problem(StatusCode::PAYLOAD_TOO_LARGE, &most));
        }
        Ok(Err(_)) => return Err(reply::problem(StatusCode::BAD_REQUEST, "the body is not well-formed")),
        Err(_) => return Err(reply::problem(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    };
    String::from_utf8(bytes.into()).map_err(|_| reply::problem(StatusCode::BAD_REQUEST, "the body is not UTF-8 text"))
}
