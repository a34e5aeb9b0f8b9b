//! The root of the configuration: one field per unit, each of that unit's own type, and the routes that tie them together.
//!
//! Each unit checks its own part. What only the whole can know is checked here: that a route names things that exist, and
//! does exactly one thing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Fault, Faults, IssuerName, Path, PluginName, RouteName, UpstreamName};

/// The configuration of a Sluice gateway. Unknown keys are errors; lengths of time and sizes carry their unit; secrets are
/// named by the file or environment variable that holds them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where clients connect.
    pub(crate) listeners: Vec<sluice_downstream::ListenerConfig>,
    /// What clients may cost, and whom to believe.
    #[serde(default)]
    pub(crate) downstream: sluice_downstream::DownstreamConfig,
    /// The operator's door.
    #[serde(default)]
    pub(crate) admin: sluice_admin::Config,
    /// Who issues the tokens that are accepted.
    #[serde(default)]
    pub(crate) issuers: BTreeMap<IssuerName, sluice_auth::IssuerConfig>,
    /// How tokens are checked, whoever issued them.
    #[serde(default)]
    pub(crate) auth: sluice_auth::Config,
    /// How tenants are told apart, and what each may use.
    #[serde(default)]
    pub(crate) tenants: sluice_tenancy::Config,
    /// Components that run in the request path, by name.
    #[serde(default)]
    pub(crate) plugins: BTreeMap<PluginName, sluice_plugins::PluginConfig>,
    /// Sets of endpoints that serve the same thing, by name.
    #[serde(default)]
    pub(crate) upstreams: BTreeMap<UpstreamName, sluice_upstream::UpstreamConfig>,
    /// What happens when there is more to do than can be done.
    #[serde(default)]
    pub(crate) overload: sluice_resilience::Config,
    /// What the kernel saw.
    #[serde(default)]
    pub(crate) kernel: sluice_kernel::Config,
    /// Logs, access records, trace context.
    #[serde(default)]
    pub(crate) telemetry: sluice_telemetry::Config,
    /// A folder for what can be made again but takes its time: compiled plugins, in `components`, so that a restart compiles
    /// nothing. Made if it is not there; relative to the configuration's folder. What is in it is machine code, and is used
    /// only where it is the gateway's own and closed to everybody else. None by default: then nothing is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) state_dir: Option<PathBuf>,
    /// What is served, and on which terms.
    pub(crate) routes: Vec<RouteConfig>,
}

/// A route: which requests it is for, what they must show, and what becomes of them. Exactly one of `upstream`, `redirect`
/// and `answer` says the last.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RouteConfig {
    /// Its name, unique: in metrics, logs and on the admin's pages.
    pub(crate) name: RouteName,
    /// Which requests it is for.
    #[serde(default)]
    pub(crate) r#match: sluice_routing::config::Match,
    /// Which client addresses may use it. Default: all.
    #[serde(default)]
    pub(crate) addresses: Option<sluice_routing::config::Addresses>,
    /// Cross-origin requests: answers preflights and adds the fields that browsers ask for.
    #[serde(default)]
    pub(crate) cors: Option<sluice_routing::config::Cors>,
    /// Which token it asks for. Default: none, the route is open.
    #[serde(default)]
    pub(crate) auth: Option<sluice_auth::RouteAuth>,
    /// The service that says whether a request may pass, asked after its token was found good. Default: none is asked.
    #[serde(default)]
    pub(crate) forward_auth: Option<sluice_auth::ForwardAuthConfig>,
    /// The plugins its requests pass, in this order, after those of the tenant.
    #[serde(default)]
    pub(crate) plugins: Vec<PluginName>,
    /// What is changed on the way to the upstream and back.
    #[serde(default)]
    pub(crate) rewrite: Option<sluice_routing::config::Rewrite>,
    /// Where it goes.
    #[serde(default)]
    pub(crate) upstream: Option<UpstreamName>,
    /// Or: another address that the client is sent to.
    #[serde(default)]
    pub(crate) redirect: Option<sluice_routing::config::Redirect>,
    /// Or: an answer of the gateway's own.
    #[serde(default)]
    pub(crate) answer: Option<sluice_routing::config::Answer>,
    /// Deadlines that differ from the upstream's.
    #[serde(default)]
    pub(crate) timeouts: RouteTimeouts,
    /// Whether answers have no end in sight (server-sent events, long downloads): then `total` does not apply.
    #[serde(default)]
    pub(crate) streaming: bool,
    /// The largest request body, where it is less than `downstream.limits.body_size`, which holds before the route is known.
    #[serde(default)]
    pub(crate) max_body: Option<ByteSize>,
    /// Compress answers (gzip, brotli or zstd, as the client asks) whose content type is worth it. Default: as the upstream
    /// sent them.
    #[serde(default)]
    pub(crate) compression: Option<Compression>,
}

/// A route's deadlines, in place of its upstream's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RouteTimeouts {
    /// From the request being sent to the first byte of its answer.
    pub(crate) response: Option<Span>,
    /// The longest silence within a body.
    pub(crate) idle: Option<Span>,
    /// From the request's arrival to the last byte of its answer.
    pub(crate) total: Option<Span>,
}

/// How answers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Compression {
    /// How hard to try, 1 (fast) to 9. Default: 4, beyond which text shrinks little for much work.
    #[schemars(range(min = 1, max = 9))]
    pub(crate) level: u8,
}

impl Default for Compression {
    fn default() -> Self {
        Self { level: 4 }
    }
}

/// The published JSON Schema.
pub(crate) fn schema() -> String {
    sluice_config::schema::<Config>("urn:sluice:configuration:1", "Configuration of a Sluice gateway")
}

impl Config {
    /// Everything that is wrong or risky and can be told without opening a file.
    pub(crate) fn validate(&self, faults: &mut Faults) {
        let root = Path::root();
        if self.listeners.is_empty() {
            faults.push(
                Fault::error(&root.key("listeners"), "there is none: nobody could connect")
                    .help("for example: listeners: [ { address: 127.0.0.1:8080 } ]"),
            );
        }
        self.downstream_part().validate(&root, faults);
        if self.state_dir.as_ref().is_some_and(|folder| folder.as_os_str().is_empty()) {
            faults.error(&root.key("state_dir"), "a folder's name cannot be empty");
        }
        self.admin.validate(&root.key("admin"), faults);
        self.auth.validate(&root.key("auth"), faults);
        for (name, issuer) in &self.issuers {
            issuer.validate(&root.key("issuers").key(name.as_str()), faults);
        }
        self.tenants.validate(&root.key("tenants"), faults);
        sluice_plugins::validate(&self.plugins, &root.key("plugins"), faults);
        sluice_upstream::validate(&self.upstreams, &root.key("upstreams"), faults);
        self.overload.validate(&root.key("overload"), faults);
        self.kernel.validate(&root.key("kernel"), faults);
        self.telemetry.validate(&root.key("telemetry"), faults);
        self.validate_routes(&root.key("routes"), faults);
        self.validate_tenants_plugins(&root.key("tenants"), faults);
        self.validate_grants(&root.key("plugins"), faults);
        self.warn_of_what_is_unused(&root, faults);
    }

    /// The downstream unit's two sections as the one configuration that it takes.
    pub(crate) fn downstream_part(&self) -> sluice_downstream::Config {
        sluice_downstream::Config { listeners: self.listeners.clone(), downstream: self.downstream.clone() }
    }

    /// Makes relative file names relative to the configuration's own folder.
    pub(crate) fn resolve_paths(&mut self, folder: &std::path::Path) {
        for output in [&mut self.telemetry.logs.output, &mut self.telemetry.access_log.output] {
            if let sluice_telemetry::config::Output::File(path) = output
                && !path.as_os_str().is_empty()
            {
                *path = folder.join(&*path);
            }
        }
        let mut downstream = self.downstream_part();
        downstream.resolve_paths(folder);
        self.listeners = downstream.listeners;
    }

    fn validate_routes(&self, at: &Path, faults: &mut Faults) {
        if self.routes.is_empty() {
            faults.error(at, "there is none: every request would be answered 404");
        }
        for (index, route) in self.routes.iter().enumerate() {
            route.validate(self, &at.index(index), faults);
        }
        // What routing itself would refuse. Its warnings come from the table in force, once that is made.
        if let Err(refused) = sluice_routing::Table::compile(crate::snapshot::specs(self, at)) {
            faults.extend(refused);
        }
    }

    fn validate_tenants_plugins(&self, at: &Path, faults: &mut Faults) {
        for (plugin, at) in self.tenants_plugins(at) {
            known(plugin.as_str(), self.plugins.keys().map(PluginName::as_str), "plugin", "plugins", &at, faults);
        }
    }

    fn validate_grants(&self, at: &Path, faults: &mut Faults) {
        for (name, plugin) in &self.plugins {
            let at = at.key(name.as_str()).key("grants");
            if plugin.grants.persists() && self.state_dir.is_none() {
                let at = at.key("key_value").key("persist");
                faults.push(
                    Fault::error(&at, "there is no folder to keep its store in")
                        .help("set state_dir at the top of the configuration"),
                );
            }
            let at = at.key("upstreams");
            for (index, upstream) in plugin.grants.upstreams.iter().enumerate() {
                let names = self.upstreams.keys().map(UpstreamName::as_str);
                known(upstream.as_str(), names, "upstream", "upstreams", &at.index(index), faults);
            }
        }
    }

    /// Every plugin that a tenant's policy names, with its place.
    fn tenants_plugins<'c>(&'c self, at: &Path) -> Vec<(&'c PluginName, Path)> {
        let places = |plugins: &'c [PluginName], at: Path| {
            let at = at.key("plugins");
            plugins.iter().enumerate().map(move |(index, plugin)| (plugin, at.index(index))).collect::<Vec<_>>()
        };
        let mut all = places(&self.tenants.default.plugins, at.key("default"));
        for (tenant, policy) in &self.tenants.overrides {
            let at = at.key("overrides").key(tenant.as_str());
            all.extend(places(policy.plugins.as_deref().unwrap_or_default(), at));
        }
        all
    }

    fn warn_of_what_is_unused(&self, root: &Path, faults: &mut Faults) {
        for name in self.upstreams.keys() {
            let granted = |plugin: &sluice_plugins::PluginConfig| plugin.grants.upstreams.contains(name);
            let leads = |route: &RouteConfig| route.upstream.as_ref() == Some(name);
            if !self.routes.iter().any(leads) && !self.plugins.values().any(granted) {
                faults.warning(&root.key("upstreams").key(name.as_str()), "no route leads to this upstream");
            }
        }
        let named: Vec<_> = self.tenants_plugins(root).into_iter().map(|(plugin, _)| plugin).collect();
        for name in self.plugins.keys() {
            if !named.contains(&name) && !self.routes.iter().any(|route| route.plugins.contains(name)) {
                faults.warning(&root.key("plugins").key(name.as_str()), "no route and no tenant uses this plugin");
            }
        }
    }
}

impl RouteConfig {
    fn validate(&self, whole: &Config, at: &Path, faults: &mut Faults) {
        if let Some(upstream) = &self.upstream {
            let names = whole.upstreams.keys().map(UpstreamName::as_str);
            known(upstream.as_str(), names, "upstream", "upstreams", &at.key("upstream"), faults);
        }
        if let Some(auth) = &self.auth {
            auth.validate(&at.key("auth"), faults);
        }
        if let Some(forward_auth) = &self.forward_auth {
            forward_auth.validate(&at.key("forward_auth"), faults);
        }
        self.validate_who_says_what(at, faults);
        for (position, plugin) in self.plugins.iter().enumerate() {
            let names = whole.plugins.keys().map(PluginName::as_str);
            known(plugin.as_str(), names, "plugin", "plugins", &at.key("plugins").index(position), faults);
        }
        if let Some(Compression { level }) = self.compression
            && !(1..=9).contains(&level)
        {
            faults.error(&at.key("compression").key("level"), format!("{level} is not a level: expected 1 to 9"));
        }
        for (name, timeout) in
            [("response", self.timeouts.response), ("idle", self.timeouts.idle), ("total", self.timeouts.total)]
        {
            if timeout.is_some_and(Span::is_zero) {
                faults.error(&at.key("timeouts").key(name), "0s would end every request: expected more");
            }
        }
        let most = whole.downstream.limits.body_size;
        if let Some(own) = self.max_body
            && most.get() != 0
            && (own.get() == 0 || own > most)
        {
            faults.push(
                Fault::error(&at.key("max_body"), format!("{own} is not below downstream.limits.body_size ({most})"))
                    .help("that limit holds before the route is known: raise it there, and lower it on other routes"),
            );
        }
        if self.streaming && self.timeouts.total.is_some() {
            faults.warning(
                &at.key("timeouts").key("total"),
                "a streaming route has no total deadline: this has no effect",
            );
        }
        let decides = |name: &PluginName| whole.plugins.get(name).is_some_and(|plugin| plugin.decides == Some(true));
        if self.upstream.is_none()
            && let Some(position) = self.plugins.iter().position(decides)
        {
            faults.push(
                Fault::error(
                    &at.key("plugins").index(position),
                    "this plugin decides on access, and plugins run only for requests that go to an upstream",
                )
                .help("take it away from this route, or give the route an upstream"),
            );
        } else if self.upstream.is_none() && !self.plugins.is_empty() {
            faults.warning(
                &at.key("plugins"),
                "plugins run only for requests that go to an upstream: this has no effect",
            );
        }
    }
}

impl RouteConfig {
    /// What the authorising service says goes over what the identity says, and would do so without a word.
    fn validate_who_says_what(&self, at: &Path, faults: &mut Faults) {
        let (Some(auth), Some(service)) = (&self.auth, &self.forward_auth) else { return };
        let token = auth.identity_token.as_ref().map(|token| (&token.header, "auth.identity_token"));
        let claims = auth.claims_to_headers.keys().map(|name| (name, "auth.claims_to_headers"));
        let own: Vec<_> = claims.chain(token).collect();
        for (index, name) in service.response_headers.iter().enumerate() {
            if let Some((_, section)) = own.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) {
                let here = at.key("forward_auth").key("response_headers").index(index);
                let why =
                    format!("{name} is set by this route's {section} already: the upstream could not tell who says it");
                faults.push(Fault::error(&here, why).help("take it away from one of them, or give one another name"));
            }
        }
    }
}

/// A name must be one of those that are configured; the fault suggests the nearest.
fn known<'a>(
    name: &str,
    configured: impl Iterator<Item = &'a str>,
    kind: &str,
    section: &str,
    at: &Path,
    faults: &mut Faults,
) {
    let configured: Vec<&str> = configured.collect();
    if configured.contains(&name) {
        return;
    }
    let fault = Fault::error(at, format!("there is no {kind} {name:?}"));
    faults.push(match sluice_config::nearest(name, configured.iter().copied()) {
        Some(nearest) => fault.help(format!("did you mean {nearest:?}?")),
        None if configured.is_empty() => fault.help(format!("`{section}` is empty")),
        None => fault.help(format!("`{section}` has: {}", configured.join(", "))),
    });
}
