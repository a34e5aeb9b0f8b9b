//! Requests that another service authorises, asked over HTTP before they pass (forward-auth, `ext_authz`, `auth_request`).
//!
//! The service is told of the request what the operator listed and nothing else, and its word is taken only in one of the
//! forms that mean something: 2xx is yes; 401, 403 and a redirect to a listed place are no, and are the service's own
//! words to the client. Everything else, and silence, is no word at all and is answered 503.
//!
//! Answers may be kept by a rule that says which requests are alike; requests alike also share a question under way.

pub(crate) mod config;
mod decision;
mod rule;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};
use sluice_vocabulary::clock::Clock;
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Reason, Refusal, RouteName};

use crate::remote::cache::AnswerCache;
use crate::remote::flights::{Flights, Landed};
use crate::remote::metrics::CallMetrics;
use crate::remote::{self, RemoteFault, Service, Surroundings};
use crate::remotes::SystemRoots;
use config::{ForwardAuthConfig, ForwardMethod, OnFailure, Redirect, asked_header, told_header};
pub use decision::{Allowed, Decision, Rebuff};
use decision::{Read, Reader};
use rule::{Part, Rule};

/// A route's authorising service, compiled. Made by [`crate::Prepared::forward_auth`]; a request keeps the one it began with.
#[derive(Debug)]
pub struct ForwardAuth {
    route: RouteName,
    config: ForwardAuthConfig,
    asked: Box<[HeaderName]>,
    told: Box<[HeaderName]>,
    rule: Option<Rule>,
    asking: Arc<Asking>,
    flights: Flights<Result<Decision, RemoteFault>>,
    metrics: CallMetrics,
}

/// What a question under way needs.
#[derive(Debug)]
struct Asking {
    service: Service,
    reader: Reader,
    clock: Arc<dyn Clock>,
    ttl: Duration,
    cache: AnswerCache<Decision>,
}

impl ForwardAuth {
    /// Compiles a validated configuration. The error is fit for the operator.
    pub(crate) fn new(
        route: RouteName,
        config: ForwardAuthConfig,
        around: &Surroundings,
        system_roots: SystemRoots<'_>,
        metrics: CallMetrics,
    ) -> Result<Self, String> {
        let roots = remote::roots(&config.url, config.ca.as_deref(), &around.base_dir, system_roots)?;
        let service = Service::new(&config.url, roots, &config.bounds(), around, metrics.clone())?;
        let asked = config.request_headers.iter().map(|name| asked_header(name)).collect::<Result<Box<[_]>, _>>()?;
        let told = config.response_headers.iter().map(|name| told_header(name)).collect::<Result<Box<[_]>, _>>()?;
        let redirects = config.redirects.iter().filter_map(|target| Redirect::parse(target)).collect();
        let rule = config.cache.as_ref().map(|cache| Rule(cache.by.iter().filter_map(|by| Part::parse(by)).collect()));
        let (ttl, size) = config.cache.as_ref().map_or((Duration::ZERO, 0), |c| (c.ttl.get(), c.size.as_usize()));
        let asking = Arc::new(Asking {
            service,
            reader: Reader { told: told.clone(), redirects },
            clock: Arc::clone(&around.clock),
            ttl,
            cache: AnswerCache::new(size, metrics.bytes.clone()),
        });
        let flights = Flights::new(config.max_waiting as usize, around.background.clone());
        Ok(Self { route, config, asked, told, rule, asking, flights, metrics })
    }

    /// Whether it is what this configuration would make.
    pub(crate) fn is_of(&self, config: &ForwardAuthConfig) -> bool {
        self.config == *config
    }

    /// The fields that the service may set toward the upstream, and so no client.
    pub(crate) fn told(&self) -> &[HeaderName] {
        &self.told
    }

    /// Whether `request` may pass.
    pub(crate) async fn decide(&self, request: &RequestView<'_>) -> Result<Decision, Refusal> {
        match self.heard(request).await {
            Ok(decision) => Ok(decision),
            Err(_) if self.config.on_failure == OnFailure::DangerouslyAllow => {
                Ok(Decision::Allowed(Allowed::unheard()))
            }
            Err(fault) => {
                let who = format!("the service that authorises route {}", self.route);
                Err(fault.refusal(Reason::AuthorizationUnavailable, &who))
            }
        }
    }

    async fn heard(&self, request: &RequestView<'_>) -> Result<Decision, RemoteFault> {
        let key = self.rule.as_ref().and_then(|rule| rule.key(request));
        if let Some(key) = &key {
            if let Some(known) = self.asking.cache.get(key, self.asking.clock.now()) {
                self.metrics.hits.inc();
                return Ok(known);
            }
            self.metrics.misses.inc();
        }
        self.asking.service.rests()?;
        let question = self.question(request)?;
        let asking = Arc::clone(&self.asking);
        let landed = match key {
            Some(key) => {
                let by = key.clone();
                let ask = || async move { asking.ask(question, Some(&by)).await };
                self.flights.join(&key, ask).await
            }
            None => self.flights.alone(async move { asking.ask(question, None).await }).await,
        };
        let Landed { answer, shared } = landed.map_err(RemoteFault::from).inspect_err(|fault| {
            self.metrics.ended(Err(fault));
        })?;
        if shared {
            self.metrics.shared.inc();
        }
        answer
    }

    /// What the service is told of `request`.
    fn question(&self, request: &RequestView<'_>) -> Result<Request<Full<Bytes>>, RemoteFault> {
        let mut question = Request::new(Full::default());
        *question.method_mut() = match self.config.method {
            ForwardMethod::Get => Method::GET,
            ForwardMethod::Head => Method::HEAD,
            ForwardMethod::Original => match *request.method {
                // It opens a tunnel, and the service is to answer.
                Method::CONNECT => Method::GET,
                ref method => method.clone(),
            },
        };
        let headers = question.headers_mut();
        for name in &self.asked {
            for value in request.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let uri = match request.query {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.to_owned(),
        };
        for (name, value) in [
            ("x-forwarded-method", request.method.as_str()),
            ("x-forwarded-proto", request.scheme.as_str()),
            ("x-forwarded-host", request.host),
            ("x-forwarded-uri", &uri),
            ("x-forwarded-for", &request.client.to_canonical().to_string()),
        ] {
            // What it cannot be told of it cannot judge.
            let value = HeaderValue::from_bytes(value.as_bytes())
                .map_err(|_| RemoteFault::Malformed(format!("the request's {name} cannot be told").into()))?;
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(question)
    }

    /// Gives back the memory of answers that are past their time.
    pub(crate) fn sweep(&self) {
        self.asking.cache.sweep(self.asking.clock.now());
    }

    /// What keeps requests from being authorised, if anything does.
    pub(crate) fn complaint(&self) -> Option<String> {
        self.asking.service.complaint().map(|why| format!("route {}: {why}", self.route))
    }

    /// Its part of the operator's page.
    pub(crate) fn inspect(&self) -> Value {
        let mut page = self.asking.service.inspect();
        page["cache"] = json!({ "entries": self.asking.cache.len(), "bytes": self.asking.cache.bytes() });
        page
    }
}

impl Asking {
    async fn ask(&self, question: Request<Full<Bytes>>, key: Option<&[u8]>) -> Result<Decision, RemoteFault> {
        // Counted from before the question: what is taken away meanwhile is not believed for longer.
        let asked = self.clock.now();
        let Read { decision, keep } = self.service.ask(question, |answer| self.reader.read(answer)).await?;
        if let (Some(key), true) = (key, keep) {
            let (size, until) = (decision::size(&decision), asked + self.ttl);
            self.cache.insert(key, decision.clone(), size, until, self.clock.now());
        }
        Ok(decision)
    }
}
