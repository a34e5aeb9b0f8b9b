//! What the accept loops, the workers and the handle share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arc_swap::ArcSwap;
use sluice_vocabulary::clock::{Clock, Random};
use sluice_vocabulary::unit::Health;

use crate::limits::Gate;
use crate::metrics::Metrics;
use crate::refuse::RefusalLog;
use crate::settings::Settings;

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<ArcSwap<Settings>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) metrics: Metrics,
    pub(crate) refusals: RefusalLog,
    pub(crate) health: Health,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) next_connection: AtomicU64,
}
