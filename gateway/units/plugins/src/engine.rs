//! The engine: one for all plugins, with the pool their instances come from.
//!
//! What was measured and therefore chosen: the pooling allocator, keeping 64 KiB of each memory resident, since a native
//! guest touches less than that and a page fault costs more than clearing it; no support for concurrent calls into one
//! instance, which no instance here gets; Cranelift, never Winch. Calls run on stacks from a pool, so that a guest which
//! runs long can give its thread back in the middle.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use sluice_vocabulary::share::Patience;
use tokio::sync::{Semaphore, SemaphorePermit};
use wasmtime::{Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy};

use crate::config::MOST_MEMORY;
use crate::failure::Failure;
use crate::limits::MOST_TABLE_ELEMENTS;
use crate::reuse::Shelf;
use crate::ticker::Pulse;

/// Bytes that one call between guest and host may copy out of the guest: the longest answer with its header, and room.
/// What goes beyond fails before it is copied.
pub(crate) const MOST_BYTES_PER_CALL: usize = 512 * 1024;
/// Stack of a guest's own frames. The engine's stack is larger by what a host function needs.
const WASM_STACK: usize = 256 * 1024;
const ASYNC_STACK: usize = 512 * 1024;

/// Memory of all instances that are kept between two phases: a native guest has 64 KiB, one with an interpreter inside a
/// few MiB. Upstreams may take their time to answer, and many requests may wait for them.
pub(crate) const MOST_KEPT_BYTES: usize = 64 << 20;

/// The sandbox's engine and what bounds it.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) engine: wasmtime::Engine,
    /// How many instances there may be at once; acquired before the pool is asked, which would refuse where this waits.
    permits: Semaphore,
    pub(crate) instances: u32,
    /// How long a call waits, in all.
    pub(crate) queue: Duration,
    /// Instances that wait for the next phase of their request, and the memory they have. These hold permits too.
    kept: AtomicUsize,
    kept_bytes: AtomicUsize,
    /// Instances that rest between two requests, and the memory they have. These hold permits too, and give them up to
    /// whoever needs one.
    resting: AtomicUsize,
    resting_bytes: AtomicUsize,
    shelves: Mutex<Vec<Weak<Shelf>>>,
    /// Where instances come from: `pooling`, or `on-demand` where the address space is too small for a pool.
    pub(crate) allocator: &'static str,
    pub(crate) pulse: Arc<Pulse>,
}

impl Sandbox {
    /// Makes the engine. If the machine refuses the address space of a pool (a limit on virtual memory, most often), the
    /// sandbox runs without one: slower, and it says so.
    pub(crate) fn new(instances: u32, queue: Duration) -> wasmtime::Result<Self> {
        let (engine, allocator) = match wasmtime::Engine::new(&config(Some(instances))) {
            Ok(engine) => (engine, "pooling"),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "no pool for plugin instances, each will be mapped anew");
                (wasmtime::Engine::new(&config(None))?, "on-demand")
            }
        };
        let pulse = Arc::new(Pulse::new(engine.clone()));
        Ok(Self {
            engine,
            permits: Semaphore::new(instances as usize),
            instances,
            queue,
            kept: AtomicUsize::new(0),
            kept_bytes: AtomicUsize::new(0),
            resting: AtomicUsize::new(0),
            resting_bytes: AtomicUsize::new(0),
            shelves: Mutex::default(),
            allocator,
            pulse,
        })
    }

    /// The right to one instance, waited for if need be, and the certainty that the deadline of its calls is watched.
    pub(crate) async fn admit(&self, patience: &mut Patience) -> Result<SemaphorePermit<'_>, Failure> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => {
                self.end_a_rest();
                match patience.wait(self.permits.acquire()).await {
                    Some(Ok(permit)) => permit,
                    Some(Err(_)) | None => return Err(Failure::Overloaded(self.queue.as_millis())),
                }
            }
        };
        self.is_watched().map(|()| permit)
    }

    /// Gives back a right that was taken for good.
    pub(crate) fn release(&self) {
        self.permits.add_permits(1);
    }

    /// The certainty that the deadline of a call that is about to run is watched.
    pub(crate) fn is_watched(&self) -> Result<(), Failure> {
        if self.pulse.beat_for_a_call() {
            Ok(())
        } else {
            Err(Failure::Host("the unit is not running, so no deadline would be kept".to_owned()))
        }
    }

    /// Whether one more instance of so many bytes may be kept while no phase of it runs. If so, it is charged.
    pub(crate) fn keep(&self, bytes: usize) -> bool {
        let count = self.kept.fetch_add(1, Ordering::SeqCst) + 1;
        let total = self.kept_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = count <= self.instances as usize / 2 && total <= MOST_KEPT_BYTES;
        if !fits {
            self.give_up_keeping(bytes);
        }
        fits
    }

    /// One that was kept before and ran since is kept again.
    pub(crate) fn keep_on(&self, bytes: usize) {
        self.kept.fetch_add(1, Ordering::SeqCst);
        self.kept_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// One that was kept runs again, or ends.
    pub(crate) fn give_up_keeping(&self, bytes: usize) {
        self.kept_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.kept.fetch_sub(1, Ordering::SeqCst);
    }

    /// Where a plugin's instances rest, for when others need their room.
    pub(crate) fn knows_of(&self, shelf: &Arc<Shelf>) {
        let mut shelves = self.shelves.lock();
        shelves.retain(|shelf| shelf.strong_count() > 0);
        shelves.push(Arc::downgrade(shelf));
    }

    /// Whether one more instance of so many bytes may rest. If so, it is charged.
    pub(crate) fn rest(&self, bytes: usize) -> bool {
        let count = self.resting.fetch_add(1, Ordering::SeqCst) + 1;
        let total = self.resting_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let fits = count <= self.instances as usize / 4 && total <= MOST_KEPT_BYTES;
        if !fits {
            self.end_rest(bytes);
        }
        fits
    }

    /// One that rested runs again, or ends.
    pub(crate) fn end_rest(&self, bytes: usize) {
        self.resting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.resting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Throws away an instance that rests, if there is one: somebody needs its permit.
    fn end_a_rest(&self) {
        if self.resting() > 0 {
            let shelves: Vec<_> = self.shelves.lock().iter().filter_map(Weak::upgrade).collect();
            let _ = shelves.iter().any(|shelf| shelf.give_up_one());
        }
    }

    /// How many instances rest between two requests.
    pub(crate) fn resting(&self) -> usize {
        self.resting.load(Ordering::SeqCst)
    }

    /// How many instances are kept for the next phase of their requests.
    pub(crate) fn kept(&self) -> usize {
        self.kept.load(Ordering::SeqCst)
    }

    /// Whether any instance may be running.
    pub(crate) fn runs_any(&self) -> bool {
        self.in_use() > self.kept() + self.resting()
    }

    /// How many instances exist now.
    pub(crate) fn in_use(&self) -> usize {
        (self.instances as usize).saturating_sub(self.permits.available_permits())
    }
}

fn config(pool: Option<u32>) -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        // Several components are compiled at once on threads of our own; a pool inside each would take all processors.
        .parallel_compilation(false)
        .wasm_component_model(true)
        .concurrency_support(false)
        .epoch_interruption(true)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(ASYNC_STACK);
    if let Some(instances) = pool {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(instances)
            // A component of a compiled language is three core instances (itself and two adapters), one memory, two
            // tables; guests with an interpreter inside are about twice that.
            .total_core_instances(instances * 8)
            .total_memories(instances * 2)
            .total_tables(instances * 8)
            .total_stacks(instances)
            .max_core_instances_per_component(64)
            .max_memories_per_component(8)
            .max_tables_per_component(64)
            .table_elements(MOST_TABLE_ELEMENTS)
            .max_memory_size(MOST_MEMORY.as_usize())
            .linear_memory_keep_resident(64 * 1024)
            .table_keep_resident(4 * 1024);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    }
    config
}
