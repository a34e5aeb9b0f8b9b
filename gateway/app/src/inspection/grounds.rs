//! What a token is judged by: the configuration in force, or that of a file, read for this alone.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use sluice_auth::{AuthTask, Policy, StrippedHeaders};
use sluice_downstream::config::EncodedSlash;
use sluice_downstream::{BadTarget, Normalised, normalise_path};
use sluice_routing::Table;
use sluice_vocabulary::clock::{Clock, Random, SystemClock, SystemRandom};
use sluice_vocabulary::unit::{State, Stop, Stopper, Task as _};
use sluice_vocabulary::{Fault, Path};
use tokio::runtime::Handle as Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Ground, Terms};
use crate::compose::Units;
use crate::config::Config;
use crate::snapshot::{Snapshot, specs};

/// How long a file's issuers may take to be heard before a token is judged without them: longer than a fetch may.
const KEYS_PATIENCE: Duration = Duration::from_secs(65);

/// The configuration in force. Like a request it keeps the one that it began with.
pub(super) struct Running<'u> {
    units: &'u Units,
    snapshot: Arc<Snapshot>,
}

impl<'u> Running<'u> {
    pub(super) fn new(units: &'u Units) -> Self {
        Self { units, snapshot: units.snapshot() }
    }
}

impl Ground for Running<'_> {
    fn auth(&self) -> &sluice_auth::Handle {
        &self.units.auth
    }

    fn table(&self) -> &Table {
        &self.snapshot.table
    }

    fn stripped(&self) -> &StrippedHeaders {
        &self.snapshot.stripped
    }

    fn normalise(&self, path: &str) -> Result<String, BadTarget> {
        self.units.downstream.normalise_path(path.as_bytes()).map(path_of)
    }

    fn terms(&self, index: usize) -> Terms<'_> {
        let route = self.snapshot.routes.get(index);
        Terms {
            policy: route.and_then(|route| route.policy.as_ref()),
            asks_a_service: route.is_some_and(|route| route.forward_auth.is_some()),
        }
    }
}

/// The configuration of a file, with an auth unit of its own at work for it. It keeps nothing and opens no store, so that
/// it cannot get into the way of a gateway that runs from the same file.
pub(crate) struct FromFile {
    auth: sluice_auth::Handle,
    table: Table,
    stripped: StrippedHeaders,
    encoded_slash: EncodedSlash,
    /// By the table's indices.
    routes: Vec<(Option<Arc<Policy>>, bool)>,
    stopper: Stopper,
    work: JoinHandle<()>,
}

impl FromFile {
    /// Begins to read the keys of all issuers. To be called on a runtime. The error holds the configuration's faults.
    pub(crate) fn start(config: &Config, folder: &FilePath) -> Result<Self, Vec<Fault>> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let random: Arc<dyn Random> = Arc::new(SystemRandom);
        let mut wanted = config.auth.clone();
        (wanted.state_dir, wanted.identity_tokens.state_dir, wanted.revocation.store) = (None, None, None);
        let deps = sluice_auth::Deps { clock, random, base_dir: folder.to_owned(), background: Runtime::current() };
        // What is counted here nobody reads.
        let (auth, task) = sluice_auth::Unit::new(&wanted, deps, &mut Registry::default());
        let prepared = auth.prepare(&wanted, &config.issuers)?;
        let mut routes = Vec::with_capacity(config.routes.len());
        for (index, route) in config.routes.iter().enumerate() {
            let at = Path::root().key("routes").index(index);
            let policy = route.auth.as_ref().map(|wanted| prepared.policy(&route.name, wanted, &at.key("auth")));
            if let Some(wanted) = &route.forward_auth {
                // Not to be asked: for the fields that its service may set, and no client.
                prepared.forward_auth(&route.name, wanted, &at.key("forward_auth"))?;
            }
            routes.push((policy.transpose()?, route.forward_auth.is_some()));
        }
        let table = Table::compile(specs(config, &Path::root().key("routes")))?;
        let stripped = prepared.stripped_headers();
        auth.commit(prepared);
        let (stopper, stop) = Stop::new();
        let work = tokio::spawn(work(task, stop));
        let encoded_slash = config.downstream.path.encoded_slash;
        Ok(Self { auth, table, stripped, encoded_slash, routes, stopper, work })
    }

    /// Returns once every issuer was asked for its keys, whatever it said.
    pub(crate) async fn settled(&self) {
        let mut health = self.auth.health().watch();
        let settled = health.wait_for(|state| *state != State::Starting);
        // One that takes longer is judged to be out of reach, which is what a request would find.
        let _ = timeout(KEYS_PATIENCE, settled).await;
    }

    /// Stops what works for it.
    pub(crate) async fn stop(self) {
        self.stopper.stop();
        // It ends with the process otherwise.
        let _ = timeout(Duration::from_secs(1), self.work).await;
    }
}

async fn work(mut task: AuthTask, stop: Stop) {
    task.run(stop).await;
}

impl Ground for FromFile {
    fn auth(&self) -> &sluice_auth::Handle {
        &self.auth
    }

    fn table(&self) -> &Table {
        &self.table
    }

    fn stripped(&self) -> &StrippedHeaders {
        &self.stripped
    }

    fn normalise(&self, path: &str) -> Result<String, BadTarget> {
        normalise_path(path.as_bytes(), self.encoded_slash).map(path_of)
    }

    fn terms(&self, index: usize) -> Terms<'_> {
        let route = self.routes.get(index);
        Terms {
            policy: route.and_then(|(policy, _)| policy.as_ref()),
            asks_a_service: route.is_some_and(|(_, asks)| *asks),
        }
    }
}

fn path_of(normal: Normalised<'_>) -> String {
    normal.path.into_owned()
}
