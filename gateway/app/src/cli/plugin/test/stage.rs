//! Where cases are played: the very unit that serves, with a clock that stands still, and each case's plugin under a name of
//! its own, so that none finds what another stored or counted.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use sluice_plugins::{Deps, Handle, Options, PluginConfig, Prepared, SystemResolver, Unit};
use sluice_vocabulary::clock::{Clock as _, ManualClock, SystemEntropy};
use sluice_vocabulary::fault::Step;
use sluice_vocabulary::unit::{State, Stop, Stopper, Task as _};
use sluice_vocabulary::{Fault, Path, PluginName};

use super::judge::{Difference, Left, judge};
use super::listen::Ear;
use super::play::{Played, play};
use super::ready::Ready;
use crate::cli::Failure;

/// One unit, at work.
pub(super) struct Stage {
    handle: Handle,
    clock: ManualClock,
    ear: Ear,
    stopper: Stopper,
    task: tokio::task::JoinHandle<()>,
}

/// What came of a case.
pub(super) struct Verdict {
    pub(super) differences: Vec<Differing>,
    /// The last exchange, or the first that was not as expected.
    pub(super) shown: Option<Played>,
}

/// A difference, and in which repetition.
pub(super) struct Differing {
    /// From 1; none where there was only one.
    pub(super) repetition: Option<usize>,
    pub(super) difference: Difference,
}

impl Stage {
    /// Starts the unit on this thread's runtime.
    pub(super) async fn open(ear: Ear, beginning: u64) -> Result<Self, Failure> {
        let clock = ManualClock::at(beginning);
        let deps = Deps {
            clock: Arc::new(clock.clone()),
            entropy: Arc::new(SystemEntropy),
            background: tokio::runtime::Handle::current(),
            resolver: Arc::new(SystemResolver),
        };
        // What it counts of itself goes nowhere.
        let (handle, mut task) = Unit::new(deps, Options::default(), &mut Registry::default()).map_err(Failure::run)?;
        let (stopper, stop) = Stop::new();
        let task = tokio::spawn(async move { task.run(stop).await });
        let mut state = handle.health().watch();
        let state = state.wait_for(|state| *state != State::Starting).await.map_err(Failure::run)?.clone();
        match state {
            state if state.serves() => Ok(Self { handle, clock, ear, stopper, task }),
            state => Err(Failure::Run(format!("the plugin sandbox cannot be used: {state:?}"))),
        }
    }

    pub(super) async fn close(self) {
        self.stopper.stop();
        // It has nothing to say that would matter now.
        let _ = self.task.await;
    }

    /// Loads the plugin once for each case. `at` is where it stands in its document; `base` is where its paths start.
    pub(super) async fn load(&self, cases: &[Ready], at: &Path, base: &FilePath) -> Result<Prepared, Vec<Fault>> {
        let plugins: BTreeMap<PluginName, PluginConfig> =
            cases.iter().filter_map(|case| Some((name_of(case)?, case.plugin.clone()))).collect();
        let first = plugins.keys().next().cloned();
        self.handle.prepare(&plugins, &Path::root(), base).await.map_err(|faults| {
            // They are the same for every case: the component is.
            let is_of_the_first = |fault: &Fault| match (fault.path.steps().first(), &first) {
                (Some(Step::Key(key)), Some(first)) => **key == *first.as_str(),
                _ => true,
            };
            faults.into_iter().filter(is_of_the_first).map(|fault| moved(fault, at)).collect()
        })
    }

    /// Plays every case that is chosen, in order.
    pub(super) async fn play(
        &self,
        cases: &[Ready],
        prepared: Prepared,
        chosen: impl Fn(&Ready) -> bool,
    ) -> Result<Vec<Verdict>, Failure> {
        let mut chains = Vec::with_capacity(cases.len());
        for case in cases {
            let name = name_of(case).ok_or_else(|| Failure::run("a case has no name to load its plugin under"))?;
            let chain = prepared.chain(std::slice::from_ref(&name), &Path::root());
            let chain = chain.map_err(|_| Failure::run("a plugin that was loaded is not there"))?;
            chains.push((name, chain));
        }
        self.handle.commit(prepared);
        let mut verdicts = Vec::with_capacity(cases.len());
        for (case, (name, chain)) in cases.iter().zip(&chains).filter(|(case, _)| chosen(case)) {
            // It begins with a whole second, whatever passed in the cases before.
            let begun = self.clock.since_epoch().subsec_nanos();
            self.clock.advance(Duration::from_secs(1) - Duration::from_nanos(begun.into()));
            self.clock.set(case.at);
            for (key, value) in &case.store {
                self.handle.store(name, case.tenant.as_ref(), key, value).map_err(|why| {
                    Failure::Usage(format!("case {:?}: store {key:?} cannot be set: {why}", case.name))
                })?;
            }
            let mut verdict = Verdict { differences: Vec::new(), shown: None };
            let is_repeated = case.expectations.len() > 1;
            for (index, expected) in case.expectations.iter().enumerate() {
                if index > 0 {
                    self.clock.advance(case.every);
                }
                let played = play(case, chain, &self.ear, &format!("request-{}", index + 1)).await;
                if let Some(expected) = expected {
                    let stored = |key: &str| self.handle.stored(name, case.tenant.as_ref(), key);
                    let left = Left {
                        store: expected.store.iter().map(|(key, _)| stored(key)).collect(),
                        counted: self.handle.counted(name),
                    };
                    let found = judge(&played, expected, &left).into_iter();
                    let repetition = is_repeated.then_some(index + 1);
                    verdict.differences.extend(found.map(|difference| Differing { repetition, difference }));
                }
                let is_told = verdict.shown.is_some() && !verdict.differences.is_empty();
                if !is_told {
                    verdict.shown = Some(played);
                }
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }
}

/// The name of a case's own plugin.
fn name_of(case: &Ready) -> Option<PluginName> {
    PluginName::new(&format!("case-{}", case.index)).ok()
}

/// A fault of a plugin that stands at `at` and was loaded under a case's name.
fn moved(fault: Fault, at: &Path) -> Fault {
    let steps = fault.path.steps().iter().skip(1);
    let path = steps.fold(at.clone(), |path, step| match step {
        Step::Key(key) => path.key(key),
        Step::Index(index) => path.index(*index),
    });
    Fault { path, ..fault }
}

/// Runs what needs a unit, on this thread, which `ear` hears.
pub(super) fn on_a_runtime<T>(ear: &Ear, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(format!("no runtime can be made: {error}")))?;
    tracing::subscriber::with_default(ear.clone(), || runtime.block_on(work))
}
