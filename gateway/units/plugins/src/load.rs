//! Loading: bytes to checked components, off every thread that serves.
//!
//! Each [`Loader::load`] goes over its plugins twice, on short-lived threads. First, with as many threads as the machine has
//! processors, it takes what needs no compiler: what is loaded already, by its digest, so that a reload which changes one
//! plugin compiles one; and what an earlier process compiled and kept on disk. Then, with two threads, it compiles the
//! rest, each distinct component once, and keeps it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use sluice_vocabulary::clock::Clock;
use tokio::sync::mpsc;

use crate::cache::Cache;
use crate::component::{Checked, LARGEST, Origin, Refused};
use crate::config::{ComponentSource, PluginConfig};
use crate::conformance::Violation;
use crate::phase::Phase;
use crate::plugin::Plugin;
use crate::{schema, signature};
use sluice_vocabulary::histogram::DurationHistogram;
use sluice_vocabulary::{Fault, Path as ConfigPath};

/// Threads that compile at once: what is left of a small machine still serves.
const COMPILE_THREADS: usize = 2;

/// Components by digest.
pub(crate) type Known = HashMap<[u8; 32], Arc<Checked>>;

/// Threads that take what is compiled already, at most: it is work of microseconds, and of a disk.
const MOST_LOAD_THREADS: usize = 16;

/// Makes components.
pub(crate) struct Loader {
    pub(crate) engine: wasmtime::Engine,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) compile_time: DurationHistogram,
    /// Where compiled components are kept, if they are.
    pub(crate) cache: ArcSwapOption<Cache>,
    /// Whether it was said that they are not.
    pub(crate) told_of_no_cache: AtomicBool,
}

/// What became of a plugin without a compiler.
enum Glance {
    Done(Result<Arc<Checked>, Refused>),
    /// The component of this digest has to be compiled.
    Compile([u8; 32]),
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
        let batch =
            Arc::new(Batch { plugins, base: base.to_owned(), known: Mutex::new(known), cache: self.cache.load_full() });
        let mut loaded: Vec<Option<Result<Arc<Checked>, Refused>>> = (0..count).map(|_| None).collect();

        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let glance = {
            let (loader, batch) = (Arc::clone(self), Arc::clone(&batch));
            move |index| (index, loader.glance(&batch, index))
        };
        let glances =
            side_by_side("sluice-load", processors.min(MOST_LOAD_THREADS), (0..count).collect(), glance).await;
        let mut to_compile = BTreeMap::<[u8; 32], Vec<usize>>::new();
        for (index, glance) in glances {
            match glance {
                Glance::Done(result) => loaded[index] = Some(result),
                Glance::Compile(sha256) => to_compile.entry(sha256).or_default().push(index),
            }
        }

        let compiles_any = !to_compile.is_empty();
        // Those of one digest are one job: the first compiles, the others find it.
        let compile = {
            let (loader, batch) = (Arc::clone(self), Arc::clone(&batch));
            move |same: Vec<usize>| {
                same.into_iter().map(|index| (index, loader.compile(&batch, index))).collect::<Vec<_>>()
            }
        };
        let jobs = to_compile.into_values().collect();
        for (index, result) in
            side_by_side("sluice-compile", COMPILE_THREADS, jobs, compile).await.into_iter().flatten()
        {
            loaded[index] = Some(result);
        }
        if compiles_any {
            self.after_compiling(batch).await;
        }
        let unfinished = || Err(Refused::Invalid("it could not be compiled: the compile thread ended".to_owned()));
        loaded.into_iter().map(|result| result.unwrap_or_else(unfinished)).collect()
    }

    /// Takes what is compiled already.
    fn glance(&self, batch: &Batch, index: usize) -> Glance {
        let plugin = &batch.plugins[index];
        let found = batch.read(plugin).and_then(|(bytes, sha256)| {
            let granted = plugin.grants.granted();
            // Looked for before anything is done with it, so that no lock is held while the disk is waited for.
            let known = batch.known.lock().get(&sha256).cloned();
            let component = match known {
                Some(component) => component.with(&self.engine, granted)?,
                None => {
                    let kept = batch.cache.as_ref().and_then(|cache| cache.get(&self.engine, &sha256));
                    let Some(component) = kept else { return Ok(Err(sha256)) };
                    let origin = Origin { sha256, bytes: bytes.len(), from_cache: true };
                    let component = Arc::new(Checked::of(&self.engine, granted, &component, origin)?);
                    batch.known.lock().insert(sha256, Arc::clone(&component));
                    component
                }
            };
            fits(plugin, &component).map(|()| Ok(component))
        });
        match found {
            Ok(Ok(component)) => Glance::Done(Ok(component)),
            Ok(Err(sha256)) => Glance::Compile(sha256),
            Err(refused) => Glance::Done(Err(refused)),
        }
    }

    /// Compiles. The bytes are read again: what waits for a compiler is not held in memory.
    fn compile(&self, batch: &Batch, index: usize) -> Result<Arc<Checked>, Refused> {
        let plugin = &batch.plugins[index];
        let (bytes, sha256) = batch.read(plugin)?;
        let already = batch.known.lock().get(&sha256).cloned();
        let granted = plugin.grants.granted();
        let component = match already {
            Some(component) => component.with(&self.engine, granted)?,
            None => {
                let begun = self.clock.now();
                let component = Arc::new(Checked::new(&self.engine, granted, &bytes, sha256)?);
                self.compile_time.observe(self.clock.now().saturating_duration_since(begun));
                if let Some(cache) = &batch.cache {
                    cache.put(&sha256, component.instance_pre.component());
                }
                batch.known.lock().insert(sha256, Arc::clone(&component));
                component
            }
        };
        fits(plugin, &component).map(|()| component)
    }

    async fn after_compiling(&self, batch: Arc<Batch>) {
        if batch.cache.is_some() {
            let make_room = move |()| batch.cache.iter().for_each(|cache| cache.make_room());
            side_by_side("sluice-load", 1, vec![()], make_room).await;
        } else if !self.told_of_no_cache.swap(true, Ordering::Relaxed) {
            tracing::info!("compiled components are not kept: there is no state_dir, so each start compiles them anew");
        }
    }
}

/// What all threads of one [`Loader::load`] look at.
struct Batch {
    plugins: Vec<PluginConfig>,
    base: PathBuf,
    known: Mutex<Known>,
    cache: Option<Arc<Cache>>,
}

impl Batch {
    /// The bytes that the operator meant, which accept what they are to be told; and their digest.
    fn read(&self, plugin: &PluginConfig) -> Result<(Vec<u8>, [u8; 32]), Refused> {
        let bytes = read(&plugin.component, &self.base)?;
        let sha256: [u8; 32] = digest(&bytes);
        pinned(plugin, sha256)?;
        signature::check(plugin, &self.base, &sha256)?;
        schema::check(plugin, &bytes).map(|()| (bytes, sha256))
    }
}

/// SHA-256 of a component.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Does `work` for each job, on at most that many threads that end when there are no more, or when nobody waits any more: a
/// newer configuration came, or the process stops. In no order; a job whose thread panicked is missing.
async fn side_by_side<J: Send + 'static, R: Send + 'static>(
    name: &str,
    threads: usize,
    jobs: Vec<J>,
    work: impl Fn(J) -> R + Clone + Send + 'static,
) -> Vec<R> {
    let threads = threads.min(jobs.len());
    let jobs = Arc::new(Mutex::new(VecDeque::from(jobs)));
    let (done, mut results) = mpsc::unbounded_channel();
    for _ in 0..threads {
        let (jobs, done, work) = (Arc::clone(&jobs), done.clone(), work.clone());
        let run = move || {
            loop {
                let job = jobs.lock().pop_front();
                let Some(job) = job else { break };
                if done.send(work(job)).is_err() {
                    break;
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            tracing::warn!(%error, "a thread that loads components could not be started");
        }
    }
    drop(done);
    let mut finished = Vec::new();
    while let Some(result) = results.recv().await {
        finished.push(result);
    }
    finished
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
    /// As faults of the configuration; the plugin's is at `at`.
    pub(crate) fn faults(&self, at: &ConfigPath) -> Vec<Fault> {
        let key = self.refused.key();
        if let Refused::Config(violations) = &self.refused {
            let whose = if self.is_fallback { " (of its fallback)" } else { "" };
            let fault = |violation: &Violation| {
                Fault::error(&violation.path(&at.key(key)), format!("{}{whose}", violation.message))
            };
            return violations.iter().map(fault).collect();
        }
        // What bounds both is written once.
        let at = if self.is_fallback && !matches!(key, "limits" | "signed_by") {
            at.key("fallback").key(key)
        } else {
            at.key(key)
        };
        let fault = Fault::error(&at, self.refused.to_string());
        vec![match self.refused.help() {
            Some(help) => fault.help(help),
            None => fault,
        }]
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
