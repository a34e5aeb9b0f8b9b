//! Loading: bytes to checked components, off every thread that serves.
//!
//! Each [`Loader::load`] runs its jobs on one or two short-lived threads. A component that is loaded already, by its digest,
//! is not compiled again, so that a reload which changes one plugin compiles one.

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use sluice_vocabulary::clock::Clock;
use tokio::sync::mpsc;

use crate::component::{Checked, LARGEST, Refused};
use crate::config::{ComponentSource, PluginConfig};
use crate::phase::Phase;
use crate::plugin::Plugin;
use sluice_vocabulary::histogram::DurationHistogram;
use sluice_vocabulary::{Fault, Path as ConfigPath};

/// Threads that compile at once: what is left of a small machine still serves.
const COMPILE_THREADS: usize = 2;

/// Components by digest.
pub(crate) type Known = HashMap<[u8; 32], Arc<Checked>>;

/// Makes components.
pub(crate) struct Loader {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) compile_time: DurationHistogram,
}

impl Loader {
    /// Loads one component for each of `plugins`, in their order. What is in `known` is taken from there.
    pub(crate) async fn load(
        self: &Arc<Self>,
        plugins: Vec<PluginConfig>,
        base: &Path,
        known: Known,
    ) -> Vec<Result<Arc<Checked>, Refused>> {
        let count = plugins.len();
        let jobs = Arc::new(Mutex::new(plugins.into_iter().enumerate().collect::<VecDeque<_>>()));
        let known = Arc::new(Mutex::new(known));
        let (done, mut results) = mpsc::unbounded_channel();
        for _ in 0..count.min(COMPILE_THREADS) {
            let (loader, jobs, known, done, base) =
                (Arc::clone(self), Arc::clone(&jobs), Arc::clone(&known), done.clone(), base.to_owned());
            let work = move || {
                loop {
                    let job = jobs.lock().pop_front();
                    let Some((index, plugin)) = job else { break };
                    // Nobody waits any more: a newer configuration came, or the process stops.
                    if done.send((index, loader.load_one(&plugin, &base, &known))).is_err() {
                        break;
                    }
                }
            };
            if let Err(error) = std::thread::Builder::new().name("sluice-compile".into()).spawn(work) {
                tracing::warn!(%error, "a compile thread could not be started");
            }
        }
        drop(done);
        let mut loaded: Vec<Option<Result<Arc<Checked>, Refused>>> = (0..count).map(|_| None).collect();
        while let Some((index, result)) = results.recv().await {
            loaded[index] = Some(result);
        }
        let unfinished = || Err(Refused::Invalid("it could not be compiled: the compile thread ended".to_owned()));
        loaded.into_iter().map(|result| result.unwrap_or_else(unfinished)).collect()
    }

    fn load_one(&self, plugin: &PluginConfig, base: &Path, known: &Mutex<Known>) -> Result<Arc<Checked>, Refused> {
        let bytes = read(&plugin.component, base)?;
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        pinned(plugin, sha256)?;
        let already = known.lock().get(&sha256).cloned();
        let granted = plugin.grants.granted();
        let component = match already {
            Some(component) => component.with(&self.engine, granted)?,
            None => {
                let begun = self.clock.now();
                let component = Arc::new(Checked::new(&self.engine, granted, &bytes, sha256)?);
                self.compile_time.observe(self.clock.now().saturating_duration_since(begun));
                known.lock().insert(sha256, Arc::clone(&component));
                component
            }
        };
        fits(plugin, &component).map(|()| component)
    }
}

/// The components of one plugin: they fit each other and what is asked of them.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) first: Arc<Checked>,
    pub(crate) second: Option<Arc<Checked>>,
}

impl Pair {
    /// Whether a plugin is made of the same bytes.
    pub(crate) fn is_of(&self, plugin: &Plugin) -> bool {
        let digest = |component: &Arc<Checked>| component.sha256;
        let second = plugin.standby.as_ref().map(|standby| digest(&standby.second.component));
        digest(&self.first) == digest(&plugin.component) && self.second.as_ref().map(digest) == second
    }
}

/// Why a plugin's component, or its fallback's, was refused.
#[derive(Debug)]
pub(crate) struct RefusedOf {
    refused: Refused,
    is_fallback: bool,
}

impl RefusedOf {
    /// As a fault of the configuration; the plugin's is at `at`.
    pub(crate) fn fault(&self, at: &ConfigPath) -> Fault {
        let key = self.refused.key();
        // What bounds both is written once.
        let at = if self.is_fallback && key != "limits" { at.key("fallback").key(key) } else { at.key(key) };
        let fault = Fault::error(&at, self.refused.to_string());
        match self.refused.help() {
            Some(help) => fault.help(help),
            None => fault,
        }
    }
}

/// Puts a plugin's components together.
pub(crate) fn pair(
    config: &PluginConfig,
    first: Result<Arc<Checked>, Refused>,
    second: Option<Result<Arc<Checked>, Refused>>,
) -> Result<Pair, Vec<RefusedOf>> {
    let of = |is_fallback| move |refused| RefusedOf { refused, is_fallback };
    let (first, second) = match (first, second.transpose()) {
        (Ok(first), Ok(second)) => (first, second),
        (first, second) => {
            let first = first.err().map(of(false));
            return Err(first.into_iter().chain(second.err().map(of(true))).collect());
        }
    };
    let mut refused = Vec::new();
    if config.decides == Some(true) && !first.phases().any(Phase::is_before_the_upstream) {
        refused.push(of(false)(Refused::CannotDecide(first.phase_names())));
    }
    if let Some(second) = &second {
        if !first.phases().eq(second.phases()) {
            let (found, expected) = (second.phase_names(), first.phase_names());
            refused.push(of(true)(Refused::OtherPhases { found, expected }));
        } else if first.phases().any(Phase::is_under_way) {
            refused.push(of(true)(Refused::NoFailover(first.phase_names())));
        } else if !first.phases().any(Phase::can_be_undone) {
            refused.push(of(true)(Refused::NeverFails(first.phase_names())));
        }
    }
    if refused.is_empty() { Ok(Pair { first, second }) } else { Err(refused) }
}

/// Whether these are the bytes that the operator meant.
pub(crate) fn pinned(plugin: &PluginConfig, sha256: [u8; 32]) -> Result<(), Refused> {
    let found = hex::encode(sha256);
    match &plugin.sha256 {
        Some(expected) if !expected.eq_ignore_ascii_case(&found) => {
            Err(Refused::WrongDigest { found, expected: expected.to_ascii_lowercase() })
        }
        _ => Ok(()),
    }
}

/// Whether an instance can start within the plugin's memory.
pub(crate) fn fits(plugin: &PluginConfig, component: &Checked) -> Result<(), Refused> {
    let (needed, limit) = (component.initial_memory, plugin.limits.memory.get());
    if needed > limit { Err(Refused::Memory { needed, limit }) } else { Ok(()) }
}

/// The bytes of a component, at most [`LARGEST`] of them.
pub(crate) fn read(source: &ComponentSource, base: &Path) -> Result<Vec<u8>, Refused> {
    let file = match source {
        ComponentSource::Embedded(bytes) => return Ok(bytes.to_vec()),
        ComponentSource::File(file) => base.join(file),
    };
    let unreadable = |source| Refused::Unreadable { file: file.display().to_string(), source };
    let opened = std::fs::File::open(&file).map_err(unreadable)?;
    let found = opened.metadata().map_err(unreadable)?.len();
    if found > LARGEST {
        return Err(Refused::TooLarge { found });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(found).unwrap_or(0));
    // What is not a plain file, or grows while it is read, has no length to trust.
    opened.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Refused::TooLarge { found: bytes.len() as u64 });
    }
    Ok(bytes)
}
