//! A configuration as requests see it: compiled, immutable, swapped in whole.
//!
//! [`prepare`] asks each unit to make its part ready without putting it in force, collecting every fault; [`Ready::commit`]
//! then puts all parts in force at once. What it hands to requests is a [`Snapshot`], which they keep to their end, so that
//! no request ever sees half of one configuration and half of another.

use std::collections::HashMap;
use std::sync::Arc;

use sluice_auth::{ForwardAuth, Policy, StrippedHeaders, TokenParameters};
use sluice_plugins::Chain;
use sluice_resilience::Overrides;
use sluice_routing::{RouteSpec, Table};
use sluice_telemetry::{AccessLog, RouteMetrics, TraceConfig, Tracing};
use sluice_upstream::Cluster;
use sluice_vocabulary::clock::Random;
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::ports::LogLevel;
use sluice_vocabulary::share::Claim;
use sluice_vocabulary::{Fault, Path, PluginName, RouteName, TenantId, UpstreamName};

use crate::compose::Units;
use crate::config::{Config, RouteConfig};

/// A configuration in force.
pub(crate) struct Snapshot {
    pub(crate) table: Table,
    /// By the table's indices.
    pub(crate) routes: Vec<Route>,
    /// What no client may send.
    pub(crate) stripped: StrippedHeaders,
    /// What of a query is recorded for nobody.
    pub(crate) token_parameters: TokenParameters,
    pub(crate) tracing: Tracing,
    pub(crate) access_log: AccessLog,
    /// Upstreams that a plugin may choose in place of a route's own.
    pub(crate) detours: HashMap<UpstreamName, Arc<Cluster>>,
    tenant_chains: HashMap<TenantId, Arc<Chain>>,
    default_chain: Arc<Chain>,
}

/// A route's part, beside what routing itself knows.
pub(crate) struct Route {
    pub(crate) name: RouteName,
    /// What a token must show; without it the route is open.
    pub(crate) policy: Option<Arc<Policy>>,
    /// Who else must let its requests pass, if anybody.
    pub(crate) forward_auth: Option<Arc<ForwardAuth>>,
    pub(crate) chain: Arc<Chain>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) upstream: Option<UpstreamName>,
    pub(crate) timeouts: Overrides,
    pub(crate) streaming: bool,
    /// The largest request body, in bytes.
    pub(crate) max_body: u64,
    pub(crate) compression: Option<u32>,
    /// On whose account plugins run for requests without a tenant.
    pub(crate) claim: Claim,
    pub(crate) metrics: Arc<RouteMetrics>,
}

impl Snapshot {
    /// Before the first configuration: nothing is served.
    pub(crate) fn nothing(random: Arc<dyn Random>) -> Result<Self, Vec<Fault>> {
        Ok(Self {
            table: Table::compile(Vec::new())?,
            routes: Vec::new(),
            stripped: StrippedHeaders::default(),
            token_parameters: TokenParameters::default(),
            tracing: Tracing::new(&TraceConfig::default(), random),
            access_log: AccessLog::off(),
            detours: HashMap::new(),
            tenant_chains: HashMap::new(),
            default_chain: Arc::default(),
        })
    }

    /// The plugins that a tenant's requests pass before the route's own.
    pub(crate) fn chain_of(&self, tenant: Option<&TenantId>) -> &Arc<Chain> {
        tenant.and_then(|tenant| self.tenant_chains.get(tenant)).unwrap_or(&self.default_chain)
    }
}

/// A configuration that every unit has accepted and none has put in force.
pub(crate) struct Ready {
    config: Config,
    snapshot: Snapshot,
    auth: sluice_auth::Prepared,
    plugins: sluice_plugins::Prepared,
    upstream: sluice_upstream::Prepared,
}

/// Makes a configuration ready. Nothing is in force before [`Ready::commit`]; on faults nothing has changed.
pub(crate) async fn prepare(units: &Units, config: Config) -> Result<Ready, Vec<Fault>> {
    let root = Path::root();
    let mut faults = Vec::new();
    let folder = &units.folder;
    let auth = sort(units.auth.prepare(&config.auth, &config.issuers), &mut faults);
    let upstream = sort(units.upstream.prepare(&config.upstreams, folder), &mut faults);
    let state_dir = config.state_dir.as_ref().map(|state_dir| folder.join(state_dir));
    units.plugins.keep_in(state_dir.as_deref(), sluice_plugins::CacheBounds::default());
    let plugins = sort(units.plugins.prepare(&config.plugins, &root.key("plugins"), folder).await, &mut faults);
    let table = sort(Table::compile(specs(&config, &root.key("routes"))), &mut faults);
    let access_log = units
        .access_log(&config.telemetry.access_log)
        .map_err(|e| vec![Fault::error(&root.key("telemetry").key("access_log").key("output"), e.to_string())]);
    let access_log = sort(access_log, &mut faults);

    let (Some(auth), Some(upstream), Some(plugins), Some(table), Some(access_log)) =
        (auth, upstream, plugins, table, access_log)
    else {
        return Err(faults);
    };
    let mut routes = Vec::with_capacity(config.routes.len());
    for (index, route) in config.routes.iter().enumerate() {
        let at = root.key("routes").index(index);
        match compile(units, &config, route, &at, (&auth, &plugins, &upstream)) {
            Ok(route) => routes.push(route),
            Err(more) => faults.extend(more),
        }
    }
    let mut chain_of = |names: &[PluginName], at: &Path| sort(plugins.chain(names, at), &mut faults);
    let at = root.key("tenants");
    let default_chain =
        chain_of(&config.tenants.default.plugins, &at.key("default").key("plugins")).unwrap_or_default();
    let mut tenant_chains = HashMap::new();
    for (tenant, policy) in &config.tenants.overrides {
        if let Some(names) = &policy.plugins {
            let at = at.key("overrides").key(tenant.as_str()).key("plugins");
            tenant_chains.insert(tenant.clone(), chain_of(names, &at).unwrap_or_default());
        }
    }
    let granted = config.plugins.values().flat_map(|plugin| &plugin.grants.upstreams);
    let detours = granted.filter_map(|name| Some((name.clone(), upstream.cluster(name)?))).collect();
    if !faults.is_empty() {
        return Err(faults);
    }
    let snapshot = Snapshot {
        table,
        routes,
        stripped: auth.stripped_headers(),
        token_parameters: auth.token_parameters(),
        tracing: Tracing::new(&config.telemetry.trace, Arc::clone(&units.random)),
        access_log,
        detours,
        tenant_chains,
        default_chain,
    };
    Ok(Ready { config, snapshot, auth, plugins, upstream })
}

impl Ready {
    /// The plugins that are not taken over from what runs.
    pub(crate) fn new_plugins(&self) -> &[PluginName] {
        self.plugins.loaded_anew()
    }

    /// What is risky in the routes.
    pub(crate) fn warnings(&self) -> &[Fault] {
        self.snapshot.table.warnings()
    }

    /// Puts every part in force. Requests under way keep the snapshot they began with. What comes back is what cannot
    /// change while the gateway runs, and so was left as it is.
    pub(crate) fn commit(self, units: &Units) -> Vec<Fault> {
        let Self { mut config, snapshot, auth, plugins, upstream } = self;
        units.auth.commit(auth);
        units.plugins.commit(plugins);
        units.upstream.commit(upstream);
        let mut left = units.downstream.apply(&config.downstream_part()).err().unwrap_or_default();
        sluice_downstream::Config { listeners: config.listeners, downstream: config.downstream } =
            units.downstream.in_force();
        left.extend(units.fixed.keep(&mut config));
        let level = &config.telemetry.logs.level;
        // A level that the operator set by hand stays until the file says another.
        if units.config.load().as_ref().is_some_and(|before| before.telemetry.logs.level != *level)
            && let Err(why) = units.log.set(level)
        {
            left.push(Fault::error(&Path::root().key("telemetry").key("logs").key("level"), why));
        }
        units.tenancy.apply(&config.tenants, units.clock.now());
        units.shedder.configure(config.overload.max_requests_in_flight, config.overload.retry_after.get());
        units.kernel.apply(&config.kernel);
        units.routing_metrics.table(&snapshot.table);
        let before = units.snapshot.swap(Arc::new(snapshot));
        for gone in before.routes.iter().filter(|old| !config.routes.iter().any(|new| new.name == old.name)) {
            units.request_metrics.forget(&gone.name);
        }
        units.config.store(Some(Arc::new(config)));
        left
    }
}

/// Keeps the good, collects the faults.
fn sort<T>(outcome: Result<T, Vec<Fault>>, faults: &mut Vec<Fault>) -> Option<T> {
    outcome.map_err(|more| faults.extend(more)).ok()
}

/// Routing's part of each route.
pub(crate) fn specs(config: &Config, at: &Path) -> Vec<RouteSpec> {
    let specs = config.routes.iter().enumerate().map(|(index, route)| RouteSpec {
        name: route.name.clone(),
        at: at.index(index),
        r#match: route.r#match.clone(),
        rewrite: route.rewrite.clone(),
        redirect: route.redirect.clone(),
        answer: route.answer.clone(),
        cors: route.cors.clone(),
        exposed: route.auth.iter().flat_map(|_| config.auth.answer_fields()).collect(),
        addresses: route.addresses.clone(),
        has_upstream: route.upstream.is_some(),
        protected: route.auth.is_some() || route.forward_auth.is_some(),
    });
    specs.collect()
}

/// A route's claim: on the account that it has already, so that a reload forgives nothing.
fn claim(units: &Units, config: &Config, route: &RouteName) -> Claim {
    let before = units.snapshot.load();
    let account = before.routes.iter().find(|before| before.name == *route).map(|before| before.claim.account());
    Claim::new(account.cloned().unwrap_or_default(), config.tenants.default.plugin_limits.share(), None)
}

type Prepared<'a> = (&'a sluice_auth::Prepared, &'a sluice_plugins::Prepared, &'a sluice_upstream::Prepared);

fn compile(
    units: &Units,
    config: &Config,
    route: &RouteConfig,
    at: &Path,
    (auth, plugins, upstream): Prepared<'_>,
) -> Result<Route, Vec<Fault>> {
    let policy = route.auth.as_ref().map(|wanted| auth.policy(&route.name, wanted, &at.key("auth"))).transpose()?;
    let asked = |wanted| auth.forward_auth(&route.name, wanted, &at.key("forward_auth"));
    let forward_auth = route.forward_auth.as_ref().map(asked).transpose()?;
    let chain = plugins.chain(&route.plugins, &at.key("plugins"))?;
    let cluster = route.upstream.as_ref().and_then(|name| upstream.cluster(name));
    let body_size = route.max_body.unwrap_or(config.downstream.limits.body_size);
    Ok(Route {
        name: route.name.clone(),
        policy,
        forward_auth,
        chain,
        cluster,
        upstream: route.upstream.clone(),
        timeouts: Overrides {
            response: route.timeouts.response.map(Span::get),
            idle: route.timeouts.idle.map(Span::get),
            total: route.timeouts.total.map(Span::get),
        },
        streaming: route.streaming,
        max_body: if body_size == ByteSize::bytes(0) { u64::MAX } else { body_size.get() },
        claim: claim(units, config, &route.name),
        compression: route.compression.map(|compression| u32::from(compression.level)),
        metrics: units.request_metrics.route(&route.name),
    })
}
