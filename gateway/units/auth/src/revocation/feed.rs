//! The background work: the store read first, then a file and a URL followed, and what is over forgotten.
//!
//! Everything that may block, be it for the disk or for the length of a document, runs on the blocking pool, and to its
//! end: a configuration that comes meanwhile begins the next round.

use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::fetch::{self, Document, FetchFault, FileSource, UrlSource};
use crate::unit::Core;

use super::record::{self, BadLines, MAX_LINE, Record};
use super::{Plan, Revocations, Taken, Way};

/// How often a file is looked at for a change: what it says is in force well within a second.
const LOOK: Duration = Duration::from_millis(250);

/// How often what is over is forgotten, and a store that could not be written tried again.
const SWEEP: Duration = Duration::from_secs(10);

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Records that are put in force and stored together.
const BATCH: usize = 4096;

/// The longest time for opening a file's folder entry; a network that is down must not hold the watch up for ever.
const STAMP_PATIENCE: Duration = Duration::from_secs(5);

/// Tends to revocations for ever, by the configuration in force.
pub(crate) async fn tend(core: Arc<Core>) {
    let mut commits = core.commits.subscribe();
    loop {
        commits.mark_unchanged();
        let plan = core.revocations.plan.load_full();
        tokio::select! {
            () = follow(&core, &plan) => {}
            // A commit may have named an issuer that lines were refused for: everything is read again.
            _ = commits.changed() => {}
        }
    }
}

/// Never returns.
async fn follow(core: &Arc<Core>, plan: &Plan) {
    let mut wait = FIRST_RETRY;
    while let Err(why) = blocking(core, Revocations::load).await {
        if wait == FIRST_RETRY {
            // On the edge alone; the rest is in health and metrics.
            tracing::error!(error = why, "the store of revocations cannot be read: tokens are answered 503");
        }
        core.tell_health();
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LAST_RETRY);
    }
    core.tell_health();
    tokio::join!(follow_file(core, plan), follow_url(core, plan), sweep(core));
}

async fn sweep(core: &Arc<Core>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let work = |revocations: &Revocations| {
            revocations.sweep();
            revocations.keep()
        };
        // An error stands in the unit's health.
        let _ = blocking(core, work).await;
        core.tell_health();
    }
}

async fn follow_file(core: &Arc<Core>, plan: &Plan) {
    let Some(path) = &plan.file else { return std::future::pending().await };
    let source = FileSource::new(path.clone(), STAMP_PATIENCE, 0);
    let mut seen = None;
    loop {
        // Taken before reading: a change during the read is then seen as one.
        let stamp = source.stamp().await;
        if seen.as_ref() != Some(&stamp) {
            let path = path.clone();
            let outcome = blocking(core, move |revocations| {
                let read = read_file(revocations, &path);
                read.map_err(|cause| FetchFault::File { path: path.display().to_string(), cause })
            });
            let outcome = outcome.await;
            // What could not be read is tried again, changed or not.
            seen = outcome.is_ok().then_some(stamp);
            note(core, Way::File, outcome.map(Some));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn follow_url(core: &Arc<Core>, plan: &Plan) {
    let (Some(source), Some(config)) = (&plan.url, &plan.config.url) else { return std::future::pending().await };
    let interval = config.interval.get();
    let mut etag = None;
    let mut failures = 0_u32;
    loop {
        let outcome = ask(core, source, &mut etag).await;
        failures = if outcome.is_ok() { 0 } else { failures.saturating_add(1) };
        note(core, Way::Url, outcome);
        // As often as ever at first, since it may be back at once; then ever more seldom.
        let wait = interval.saturating_mul(1 << failures.saturating_sub(3).min(6)).min(interval.max(LAST_RETRY));
        let extra = u64::try_from((wait / 10).as_millis()).unwrap_or(u64::MAX);
        tokio::time::sleep(wait + Duration::from_millis(core.random.below(extra))).await;
    }
}

/// Asks a URL once; nothing comes of it where it has no news.
async fn ask(
    core: &Arc<Core>,
    source: &UrlSource,
    etag: &mut Option<http::HeaderValue>,
) -> Result<Option<Read>, FetchFault> {
    let Some(fetched) = source.get_if_changed(Document::Revocations, etag.as_ref()).await? else { return Ok(None) };
    let read = blocking(core, move |revocations| {
        let mut intake = Intake::new(revocations);
        record::lines(&fetched.document).for_each(|(number, line)| intake.line(number, line));
        intake.finish()
    });
    let read = read.await;
    // A document that was not taken whole is to come again.
    *etag = fetched.etag.filter(|_| read.is_whole());
    Ok(Some(read))
}

/// Runs `work` where it may block.
async fn blocking<T: Send + 'static>(core: &Arc<Core>, work: impl FnOnce(&Revocations) -> T + Send + 'static) -> T {
    let revocations = Arc::clone(&core.revocations);
    match tokio::task::spawn_blocking(move || work(&revocations)).await {
        Ok(outcome) => outcome,
        // A panic goes on to the supervisor; else the runtime is ending, and with it this task.
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => std::future::pending().await,
        },
    }
}

/// Writes down how a reading went, and says so where that changed.
fn note(core: &Core, way: Way, outcome: Result<Option<Read>, FetchFault>) {
    let revocations = &core.revocations;
    let mut heard = revocations.heard(way).lock();
    let before = (heard.error.is_some(), heard.bad.count);
    heard.reads += 1;
    match outcome {
        Ok(read) => {
            let name = match &read {
                None => "unchanged",
                Some(read) if read.is_whole() => "ok",
                Some(read) if read.bad.count > 0 => "bad-lines",
                Some(_) => "full",
            };
            revocations.metrics.read(way, name, read.as_ref().map_or(0, |read| read.bad.count));
            heard.error = None;
            if read.as_ref().is_none_or(Read::is_whole) {
                heard.last = Some(revocations.clock.now());
            }
            if let Some(read) = read {
                if read.bad.count > 0 && before.1 == 0 {
                    tracing::warn!(feed = way.name(), lines = read.bad.count, first = %read.bad, "lines are no revocations");
                }
                if read.taken.new > 0 {
                    tracing::info!(feed = way.name(), new = read.taken.new, "revocations taken");
                }
                heard.bad = read.bad;
            }
        }
        Err(fault) => {
            revocations.metrics.read(way, fault.slug(), 0);
            if !before.0 {
                tracing::warn!(feed = way.name(), error = %fault, "revocations cannot be read");
            }
            heard.error = Some(fault.to_string());
        }
    }
    drop(heard);
    revocations.settle();
    core.tell_health();
}

/// What came of a document.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) taken: Taken,
    pub(super) bad: BadLines,
}

impl Read {
    /// Whether every line is in force.
    fn is_whole(&self) -> bool {
        self.bad.count == 0 && self.taken.full == 0
    }
}

/// Takes a document line by line, good ones whatever the others are.
struct Intake<'r> {
    revocations: &'r Revocations,
    records: Vec<Record>,
    read: Read,
}

impl<'r> Intake<'r> {
    fn new(revocations: &'r Revocations) -> Self {
        let read = Read { taken: Taken::default(), bad: BadLines::default() };
        Self { revocations, records: Vec::new(), read }
    }

    fn line(&mut self, number: usize, line: Result<&[u8], String>) {
        match line.and_then(Record::parse).and_then(|record| self.revocations.known(&record.target).map(|()| record)) {
            Ok(record) => {
                self.records.push(record);
                if self.records.len() == BATCH {
                    self.flush();
                }
            }
            Err(why) => self.read.bad.push(number, why),
        }
    }

    fn flush(&mut self) {
        let taken = self.revocations.take(&self.records);
        self.records.clear();
        self.read.taken.new += taken.new;
        self.read.taken.known += taken.known;
        self.read.taken.expired += taken.expired;
        self.read.taken.full += taken.full;
        // In force all the same; the error stands in the unit's health until the store can be written.
        let _ = self.revocations.keep();
    }

    fn finish(mut self) -> Read {
        self.flush();
        self.read
    }
}

/// Reads a file line by line, so that its size does not matter.
fn read_file(revocations: &Revocations, path: &Path) -> io::Result<Read> {
    let mut file = BufReader::with_capacity(1 << 16, fetch::open_file(path)?);
    let mut intake = Intake::new(revocations);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte more than allowed, and the line break, tell a line that fits from one that does not.
        file.by_ref().take(MAX_LINE as u64 + 2).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            break;
        }
        if line.len() > MAX_LINE && !line.ends_with(b"\n") {
            skip_line(&mut file)?;
        }
        let line = line.trim_ascii();
        if !line.is_empty() {
            intake.line(number, record::checked(line));
        }
    }
    Ok(intake.finish())
}

fn skip_line(file: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = file.fill_buf()?;
        if buffer.is_empty() {
            return Ok(());
        }
        let (used, found) = match memchr::memchr(b'\n', buffer) {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        file.consume(used);
        if found {
            return Ok(());
        }
    }
}
