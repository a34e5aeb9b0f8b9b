//! A small world: the unit, its task running, its metrics page, and heads to send through chains.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use prometheus_client::registry::Registry;
use serde_json::Value;
use sluice_plugins::{
    Chain, ComponentSource, Deps, Handle, Operations, Options, Outcome, PluginConfig, RequestHead, Resolver,
    ResponseHead, SystemResolver, Unit, Visit, Who,
};
use sluice_vocabulary::clock::{Clock, ManualClock, SystemClock, SystemEntropy};
use sluice_vocabulary::request::Scheme;
use sluice_vocabulary::share::Claim;
use sluice_vocabulary::unit::{State, Stop, Stopper, Task as _};
use sluice_vocabulary::{Fault, Path, PluginName, TenantId};

pub(crate) struct World {
    pub(crate) handle: Handle,
    registry: Registry,
    stopper: Stopper,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        Self::at(Arc::new(SystemClock), options).await
    }

    /// Where time stands still, so that every call but the first of a plugin's phase is taken to be brief.
    pub(crate) async fn of_brief_calls() -> Self {
        Self::at(Arc::new(ManualClock::at(1_700_000_000)), Options::default()).await
    }

    async fn at(clock: Arc<dyn Clock>, options: Options) -> Self {
        Self::asking(clock, Arc::new(SystemResolver), options).await
    }

    /// Where names lead to what this resolver says.
    pub(crate) async fn asking(clock: Arc<dyn Clock>, resolver: Arc<dyn Resolver>, options: Options) -> Self {
        let background = tokio::runtime::Handle::current();
        let deps = Deps { clock, entropy: Arc::new(SystemEntropy), background, resolver };
        let mut registry = Registry::default();
        let (handle, mut task) = Unit::new(deps, options, &mut registry).unwrap();
        let (stopper, stop) = Stop::new();
        let task = tokio::spawn(async move { task.run(stop).await });
        handle.health().watch().wait_for(State::serves).await.unwrap();
        Self { handle, registry, stopper, task }
    }

    /// Loads plugins and puts them in force.
    pub(crate) async fn load(&self, plugins: &[(&str, PluginConfig)]) -> Result<Loaded, Vec<Fault>> {
        let plugins: BTreeMap<_, _> = plugins.iter().map(|(n, config)| (name(n), config.clone())).collect();
        let prepared = self.handle.prepare(&plugins, &Path::root().key("plugins"), FilePath::new("/")).await?;
        let each = plugins
            .keys()
            .map(|name| (name.to_string(), prepared.chain(std::slice::from_ref(name), &Path::root()).unwrap()))
            .collect();
        let all: Vec<_> = plugins.keys().cloned().collect();
        let all = prepared.chain(&all, &Path::root()).unwrap();
        self.handle.commit(prepared);
        Ok(Loaded { each, all })
    }

    /// A chain of one plugin.
    pub(crate) async fn chain(&self, config: PluginConfig) -> Arc<Chain> {
        self.load(&[("p", config)]).await.unwrap().all
    }

    /// The value of a metric's line, by its beginning; 0 where there is none.
    pub(crate) fn metric(&self, line: &str) -> f64 {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        page.lines()
            .find_map(|found| found.strip_prefix(line)?.strip_prefix(' ').map(|value| value.parse().unwrap()))
            .unwrap_or(0.0)
    }

    pub(crate) fn failures(&self, plugin: &str, reason: &str) -> f64 {
        self.metric(&format!("failures_total{{plugin=\"{plugin}\",reason=\"{reason}\"}}"))
    }

    pub(crate) async fn stop(self) -> Handle {
        self.stopper.stop();
        self.task.await.unwrap();
        self.handle
    }
}

#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) each: BTreeMap<String, Arc<Chain>>,
    /// All of them, by name.
    pub(crate) all: Arc<Chain>,
}

pub(crate) fn name(text: &str) -> PluginName {
    PluginName::new(text).unwrap()
}

/// A component that is kept built, by its file's name.
pub(crate) fn prebuilt(file: &str) -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("../../../plugins/prebuilt").join(file)
}

pub(crate) fn plugin(file: &str, config: Value) -> PluginConfig {
    PluginConfig { config, ..PluginConfig::new(ComponentSource::File(prebuilt(file))) }
}

pub(crate) fn hostile(config: Value) -> PluginConfig {
    plugin("hostile.wasm", config)
}

/// A component given as text.
pub(crate) fn text(wat: &str) -> PluginConfig {
    PluginConfig::new(ComponentSource::bytes(wat::parse_str(wat).unwrap()))
}

/// The stay of a request that has met no plugin yet.
pub(crate) fn visit() -> Visit {
    visit_on(Claim::alone())
}

/// The same, on somebody's account.
pub(crate) fn visit_on(claim: Claim) -> Visit {
    let mut who = Who::new("r-1".into(), Some(TenantId::new("acme").unwrap()));
    who.claim = claim;
    Visit::new(who)
}

pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

/// `GET https://api.example.com/orders/7?page=2` with a dozen fields and those given.
pub(crate) fn request(fields: &[(&str, &str)]) -> RequestHead {
    let mut all = vec![
        ("host", "api.example.com"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en"),
        ("authorization", "Bearer x"),
        ("cache-control", "no-cache"),
        ("cookie", "a=1; b=2"),
        ("forwarded", "for=192.0.2.1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("user-agent", "test"),
        ("x-many", "one"),
        ("x-many", "two"),
    ];
    all.extend_from_slice(fields);
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Https,
        host: "api.example.com".into(),
        path: "/orders/7".into(),
        query: Some("page=2".into()),
        headers: headers(&all),
    }
}

pub(crate) fn response(fields: &[(&str, &str)]) -> ResponseHead {
    ResponseHead { status: StatusCode::OK, headers: headers(fields) }
}

/// What a chain that goes on has changed.
pub(crate) fn changes(outcome: Outcome) -> Operations {
    match outcome {
        Outcome::Continue(operations) => operations,
        other => panic!("expected to go on: {other:?}"),
    }
}
