//! How lines leave the process: copied into a bounded buffer by whoever has them, written by one thread of the sink.
//!
//! A service thread pays a copy and an uncontended lock: the buffer is split into shards, a thread always uses the same
//! one, and the writer holds a shard's lock only while it swaps the buffer for an empty one. Lines of different threads
//! may therefore leave in another order than they came; each carries its time.
//!
//! Nothing a reader of the output does can hold up the gateway or end it. Where a shard is full, because the disk or the
//! other end of a pipe is slow, the line is dropped; where a write fails, because the disk is full or the pipe closed, the
//! batch is dropped. Both are counted by cause, and the first line written afterwards says how many were lost and why.
//!
//! A file that was moved or removed, as log rotation does, is opened anew within a second.

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use parking_lot::{Condvar, Mutex};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::config::Output;
use crate::stamp;

/// How often a file's path is compared with the open file.
const REOPEN_CHECK: Duration = Duration::from_secs(1);
/// How long a non-blocking output may refuse before its lines count as lost.
const WOULD_BLOCK_PATIENCE: Duration = Duration::from_secs(1);
/// How long the last owner of a sink waits for what is still in its buffer.
const FAREWELL: Duration = Duration::from_secs(1);

/// An output that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {} for {name} lines", path.display())]
pub struct OpenError {
    name: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// How a sink buffers.
#[derive(Debug, Clone, Copy)]
pub struct Buffering {
    /// Into how many parts the buffer is split: as many as there are threads that write often.
    pub shards: usize,
    /// How many bytes one part may hold.
    pub bytes_per_shard: usize,
    /// How long the writer waits for more lines before it writes the first: 0 for lines that are watched live.
    pub linger: Duration,
}

/// The form in which a sink says that lines were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStyle {
    /// A JSON object.
    Json,
    /// Text.
    Human,
}

/// Counts of what left and what was lost, for all sinks together. Made before the metrics page is, since logs come first.
#[derive(Debug, Clone, Default)]
pub struct SinkMetrics {
    written: Family<OutputLabel, Counter>,
    lost: Family<LossLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutputLabel {
    output: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabel {
    output: &'static str,
    cause: &'static str,
}

impl SinkMetrics {
    /// Shows the counts on the metrics page.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("lines", "Lines written, by output (log, access)", self.written.clone());
        registry.register(
            "lines_lost",
            "Lines lost, by output (log, access) and cause: full (the output was too slow), write (it failed)",
            self.lost.clone(),
        );
    }

    fn written(&self, output: &'static str) -> Counter {
        self.written.get_or_create_owned(&OutputLabel { output })
    }

    fn lost(&self, output: &'static str, cause: &'static str) -> Counter {
        self.lost.get_or_create_owned(&LossLabel { output, cause })
    }
}

/// Where lines are put. Cheap to clone; the last clone dropped waits up to a second for the rest to be written.
#[derive(Debug, Clone)]
pub struct Sink {
    owner: Arc<Owner>,
}

#[derive(Debug)]
struct Owner(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: &'static str,
    shards: Box<[Mutex<Shard>]>,
    bytes_per_shard: usize,
    linger: Duration,
    /// The writer is about to sleep, or asleep: whoever has a line wakes it.
    idle: AtomicBool,
    /// The writer should not linger.
    urgent: AtomicBool,
    stop: AtomicBool,
    writer: OnceLock<Thread>,
    flushes_asked: AtomicU64,
    flushes_done: Mutex<u64>,
    flushed: Condvar,
    lost_full: Counter,
}

#[derive(Debug, Default)]
struct Shard {
    bytes: Vec<u8>,
    lines: u64,
    lost: u64,
}

impl Sink {
    /// Opens the output and starts the writer's thread. `name` is the value of the `output` label.
    pub fn open(
        name: &'static str,
        output: &Output,
        style: LineStyle,
        buffering: Buffering,
        metrics: &SinkMetrics,
    ) -> Result<Self, OpenError> {
        let error = |path: PathBuf| move |source| OpenError { name, path, source };
        let target = match output {
            Output::Stderr => {
                Target::stream(io::stderr().as_fd().try_clone_to_owned().map_err(error("stderr".into()))?.into())
            }
            Output::Stdout => {
                Target::stream(io::stdout().as_fd().try_clone_to_owned().map_err(error("stdout".into()))?.into())
            }
            Output::File(path) => Target::path(path.clone()).map_err(error(path.clone()))?,
        };
        Self::start(name, target, style, buffering, metrics).map_err(error("a thread".into()))
    }

    /// A sink into an open file or pipe: for tests and for descriptors that were handed to the process.
    pub fn into_file(
        name: &'static str,
        file: File,
        style: LineStyle,
        buffering: Buffering,
        metrics: &SinkMetrics,
    ) -> io::Result<Self> {
        Self::start(name, Target::stream(file), style, buffering, metrics)
    }

    fn start(
        name: &'static str,
        target: Target,
        style: LineStyle,
        buffering: Buffering,
        metrics: &SinkMetrics,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            name,
            shards: (0..buffering.shards.max(1)).map(|_| Mutex::default()).collect(),
            bytes_per_shard: buffering.bytes_per_shard,
            linger: buffering.linger,
            idle: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            writer: OnceLock::new(),
            flushes_asked: AtomicU64::new(0),
            flushes_done: Mutex::new(0),
            flushed: Condvar::new(),
            lost_full: metrics.lost(name, "full"),
        });
        let writer = Writer {
            shared: shared.clone(),
            target,
            style,
            mid_line: false,
            outage: None,
            written: metrics.written(name),
            lost_write: metrics.lost(name, "write"),
        };
        let thread = thread::Builder::new().name(format!("{name}-writer")).spawn(move || writer.run())?;
        let _ = shared.writer.set(thread.thread().clone());
        Ok(Self { owner: Arc::new(Owner(shared)) })
    }

    /// Puts a line, its line break included. Never waits; drops and counts the line where the buffer is full.
    pub fn put(&self, line: &[u8]) {
        let shared = &*self.owner.0;
        let mut shard = shared.shards[thread_ordinal() % shared.shards.len()].lock();
        let filled = shard.bytes.len() + line.len();
        if filled > shared.bytes_per_shard {
            shard.lost += 1;
            shared.lost_full.inc();
        } else {
            shard.bytes.extend_from_slice(line);
            shard.lines += 1;
        }
        drop(shard);
        if filled > shared.bytes_per_shard / 2 {
            if !shared.urgent.swap(true, Ordering::SeqCst) {
                shared.wake();
            }
        } else if shared.idle.load(Ordering::SeqCst) && shared.idle.swap(false, Ordering::SeqCst) {
            shared.wake();
        }
    }

    /// Waits until what was put before is written or lost, at most `patience`; false where that was not enough. Not for
    /// service threads.
    pub fn flush(&self, patience: Duration) -> bool {
        self.owner.0.flush(patience)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::SeqCst);
        // The thread is left to itself when its output hangs: an exit must not.
        self.0.flush(FAREWELL);
    }
}

impl Shared {
    fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    fn flush(&self, patience: Duration) -> bool {
        let asked = self.flushes_asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.urgent.store(true, Ordering::SeqCst);
        self.wake();
        let deadline = Instant::now() + patience;
        let mut done = self.flushes_done.lock();
        while *done < asked {
            if self.flushed.wait_until(&mut done, deadline).timed_out() {
                return *done >= asked;
            }
        }
        true
    }

    fn has_work(&self) -> bool {
        self.urgent.load(Ordering::SeqCst)
            || self.stop.load(Ordering::SeqCst)
            || self.shards.iter().any(|shard| {
                let shard = shard.lock();
                shard.lines > 0 || shard.lost > 0
            })
    }
}

/// A number of this thread's own, from 0 up, so that threads spread over shards evenly.
fn thread_ordinal() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! { static MINE: Cell<usize> = const { Cell::new(usize::MAX) } }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        mine.get()
    })
}

/// The thread that writes.
struct Writer {
    shared: Arc<Shared>,
    target: Target,
    style: LineStyle,
    /// The last write ended within a line.
    mid_line: bool,
    /// Lines were lost since the last line that arrived.
    outage: Option<Outage>,
    written: Counter,
    lost_write: Counter,
}

#[derive(Debug, Default)]
struct Outage {
    lost_full: u64,
    lost_write: u64,
    error: Option<io::Error>,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Shard::default();
        loop {
            self.await_work();
            let flushes = self.shared.flushes_asked.load(Ordering::SeqCst);
            for index in 0..self.shared.shards.len() {
                batch.bytes.clear();
                (batch.lines, batch.lost) = (0, 0);
                std::mem::swap(&mut *self.shared.shards[index].lock(), &mut batch);
                self.write(&batch);
            }
            *self.shared.flushes_done.lock() = flushes;
            self.shared.flushed.notify_all();
            if self.shared.stop.load(Ordering::SeqCst) && !self.shared.shards.iter().any(|shard| shard.lock().lines > 0)
            {
                return;
            }
        }
    }

    fn await_work(&self) {
        let shared = &*self.shared;
        loop {
            // First say so, then look again: a line put in between finds the flag and wakes us.
            shared.idle.store(true, Ordering::SeqCst);
            if shared.has_work() {
                break;
            }
            thread::park();
        }
        shared.idle.store(false, Ordering::SeqCst);
        let until = Instant::now() + shared.linger;
        while !shared.urgent.swap(false, Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
    }

    fn write(&mut self, batch: &Shard) {
        if batch.lost > 0 {
            self.outage.get_or_insert_default().lost_full += batch.lost;
        }
        if batch.bytes.is_empty() {
            return;
        }
        self.target.follow_path(self.outage.is_some());
        if self.outage.is_some() && !self.try_notice() {
            return self.lose(batch.lines, None);
        }
        match self.target.write_all(&batch.bytes) {
            Ok(()) => {
                self.mid_line = false;
                self.written.inc_by(batch.lines);
            }
            Err((arrived, error)) => {
                let whole = batch.bytes[..arrived].iter().filter(|byte| **byte == b'\n').count() as u64;
                self.mid_line = arrived > 0 && batch.bytes.get(arrived - 1) != Some(&b'\n');
                self.written.inc_by(whole);
                self.lose(batch.lines.saturating_sub(whole), Some(error));
            }
        }
    }

    /// Says what was lost, as the first line after it; false where the output still fails.
    fn try_notice(&mut self) -> bool {
        let Some(outage) = &self.outage else { return true };
        let mut line = Vec::with_capacity(256);
        if self.mid_line {
            line.push(b'\n');
        }
        outage.notice(self.style, &mut line);
        match self.target.write_all(&line) {
            Ok(()) => {
                self.mid_line = false;
                if outage.error.is_some() && self.shared.name != "log" {
                    tracing::info!(output = self.shared.name, "output can be written again");
                }
                self.outage = None;
                true
            }
            Err((arrived, _)) => {
                self.mid_line |= arrived > 0;
                false
            }
        }
    }

    fn lose(&mut self, lines: u64, error: Option<io::Error>) {
        self.lost_write.inc_by(lines);
        let outage = self.outage.get_or_insert_default();
        outage.lost_write += lines;
        if let Some(error) = error {
            // Once, on the edge; the log itself cannot say it of itself.
            if outage.error.is_none() && self.shared.name != "log" {
                tracing::error!(output = self.shared.name, error = %error, "output cannot be written; its lines are lost");
            }
            outage.error = Some(error);
        }
    }
}

impl Outage {
    fn notice(&self, style: LineStyle, out: &mut Vec<u8>) {
        let why = self.error.as_ref().map_or_else(|| "the output was too slow".to_owned(), ToString::to_string);
        // Writing into a vector cannot fail.
        let _ = match style {
            LineStyle::Json => {
                out.extend_from_slice(b"{\"timestamp\":\"");
                stamp::write(SystemTime::now(), out);
                writeln!(
                    out,
                    "\",\"level\":\"WARN\",\"target\":\"sluice_telemetry::sink\",\"message\":\"lines were lost\",\
                     \"lost.full\":{},\"lost.write\":{},\"error\":{}}}",
                    self.lost_full,
                    self.lost_write,
                    serde_json::Value::from(why)
                )
            }
            LineStyle::Human => {
                stamp::write(SystemTime::now(), out);
                writeln!(
                    out,
                    "  WARN sluice_telemetry::sink: lines were lost lost.full={} lost.write={} error={why:?}",
                    self.lost_full, self.lost_write
                )
            }
        };
    }
}

/// What is written into.
struct Target {
    file: File,
    /// Where it was opened, if it may be opened again.
    path: Option<PathBuf>,
    checked: Instant,
}

impl Target {
    fn stream(file: File) -> Self {
        Self { file, path: None, checked: Instant::now() }
    }

    fn path(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        Ok(Self { file, path: Some(path), checked: Instant::now() })
    }

    /// Opens the file anew where its path has come to mean another file, or none. Looks once a second, or at once.
    fn follow_path(&mut self, at_once: bool) {
        let Some(path) = &self.path else { return };
        if !at_once && self.checked.elapsed() < REOPEN_CHECK {
            return;
        }
        self.checked = Instant::now();
        let same = match (std::fs::metadata(path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => there.dev() == ours.dev() && there.ino() == ours.ino(),
            _ => false,
        };
        // Where it cannot be opened, the old file is better than none.
        if !same && let Ok(anew) = Self::path(path.clone()) {
            *self = anew;
        }
    }

    /// Writes all of it; an error says how many bytes arrived before it.
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
        let mut arrived = 0;
        let mut refused_since: Option<Instant> = None;
        while arrived < bytes.len() {
            match self.file.write(&bytes[arrived..]) {
                Ok(0) => return Err((arrived, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    arrived += count;
                    refused_since = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Standard streams may be non-blocking where another process made them so.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if refused_since.get_or_insert_with(Instant::now).elapsed() > WOULD_BLOCK_PATIENCE {
                        return Err((arrived, error));
                    }
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err((arrived, error)),
            }
        }
        Ok(())
    }
}

/// Whether an output is a terminal.
pub fn is_terminal(output: &Output) -> bool {
    match output {
        Output::Stderr => io::stderr().is_terminal(),
        Output::Stdout => io::stdout().is_terminal(),
        Output::File(_) => false,
    }
}
