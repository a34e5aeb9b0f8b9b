//! All deciders of a configuration that ask other services: introspected issuers and authorising services, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::RootCertStore;
use serde_json::{Map, Value};
use sluice_vocabulary::{Fault, Faults, IssuerName, Path, RouteName};

use crate::config::IssuerConfig;
use crate::fetch;
use crate::forward_auth::ForwardAuth;
use crate::forward_auth::config::ForwardAuthConfig;
use crate::introspection::Introspector;
use crate::secret;
use crate::unit::Core;

/// The deciders.
#[derive(Debug, Default)]
pub(crate) struct Remotes {
    introspectors: BTreeMap<IssuerName, Arc<Introspector>>,
    services: BTreeMap<RouteName, Arc<ForwardAuth>>,
    /// The system's roots, once they were needed for an authorising service.
    roots: Option<Result<Arc<RootCertStore>, String>>,
}

/// The system's roots, read when they are needed. The error says why there are none.
pub(crate) type SystemRoots<'r> = &'r mut dyn FnMut() -> Result<Arc<RootCertStore>, String>;

impl Remotes {
    /// Adds an introspected issuer: that of `old` where nothing about it changed, so that it keeps its connections, its
    /// breaker and its answers.
    pub(crate) fn introspect(
        &mut self,
        core: &Core,
        old: &Self,
        name: &IssuerName,
        wanted: &IssuerConfig,
        system_roots: SystemRoots<'_>,
    ) -> Result<(), Fault> {
        let Some(introspection) = &wanted.introspection else { return Ok(()) };
        let at = Path::root().key("issuers").key(name.as_str()).key("introspection");
        let secret = secret::read(&introspection.client.secret, &core.around.base_dir)
            .map_err(|why| Fault::error(&at.key("client").key("secret"), why))?;
        let made = match old.introspectors.get(name).filter(|issuer| issuer.is_of(wanted, &secret)) {
            Some(same) => Arc::clone(same),
            None => {
                let counters = core.metrics.introspected(name.as_str());
                let made = Introspector::new(
                    name.clone(),
                    wanted,
                    introspection,
                    secret,
                    &core.around,
                    system_roots,
                    counters,
                );
                Arc::new(made.map_err(|why| Fault::error(&at, why))?)
            }
        };
        self.introspectors.insert(name.clone(), made);
        Ok(())
    }

    /// Adds the authorising service of a route: the one in force where nothing about it changed.
    pub(crate) fn authorize(
        &mut self,
        core: &Core,
        route: &RouteName,
        wanted: &ForwardAuthConfig,
        at: &Path,
    ) -> Result<Arc<ForwardAuth>, Vec<Fault>> {
        let mut faults = Faults::new();
        wanted.validate(at, &mut faults);
        if faults.has_errors() {
            return Err(faults.into_vec());
        }
        let world = core.world.load();
        let made = match world.remotes.services.get(route).filter(|service| service.is_of(wanted)) {
            Some(same) => Arc::clone(same),
            None => {
                let roots = &mut self.roots;
                let mut system_roots = || roots.get_or_insert_with(|| fetch::system_roots().map(Arc::new)).clone();
                let metrics = core.metrics.forward_auth.of(route.as_str());
                let made = ForwardAuth::new(route.clone(), wanted.clone(), &core.around, &mut system_roots, metrics);
                Arc::new(made.map_err(|why| vec![Fault::error(at, why)])?)
            }
        };
        self.services.insert(route.clone(), Arc::clone(&made));
        Ok(made)
    }

    /// The introspected issuer of that name.
    pub(crate) fn introspector(&self, name: &IssuerName) -> Option<Arc<Introspector>> {
        self.introspectors.get(name).cloned()
    }

    /// Every introspected issuer.
    pub(crate) fn introspected(&self) -> impl Iterator<Item = &IssuerName> {
        self.introspectors.keys()
    }

    /// Every route with an authorising service.
    pub(crate) fn authorized(&self) -> impl Iterator<Item = &RouteName> {
        self.services.keys()
    }

    /// Whether this route has one.
    pub(crate) fn authorizes(&self, route: &RouteName) -> bool {
        self.services.contains_key(route)
    }

    /// Gives back the memory of answers that are past their time.
    pub(crate) fn sweep(&self) {
        self.introspectors.values().for_each(|introspector| introspector.sweep());
        self.services.values().for_each(|service| service.sweep());
    }

    /// What cannot be asked now, and why.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let introspectors = self.introspectors.values().filter_map(|introspector| introspector.complaint());
        introspectors.chain(self.services.values().filter_map(|service| service.complaint())).collect()
    }

    /// The introspected issuers on the operator's page.
    pub(crate) fn inspect_introspection(&self) -> Map<String, Value> {
        self.introspectors.iter().map(|(name, issuer)| (name.as_str().to_owned(), issuer.inspect())).collect()
    }

    /// The authorising services on the operator's page, by their routes.
    pub(crate) fn inspect_forward_auth(&self) -> Map<String, Value> {
        self.services.iter().map(|(route, service)| (route.as_str().to_owned(), service.inspect())).collect()
    }
}
