//! One request's stay in the sandbox.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::effects::Effects;
use crate::ends::Ends;
use crate::living::Living;
use crate::message::Who;
use crate::plugin::Plugin;

/// What a request's phases share: whose it is, and the instances that its first phase left for its second.
///
/// Make one for each request, hand it to every chain that the request passes, and drop it when there will be no further
/// phase: each instance in it holds a slot of the sandbox's pool. At most half of the pool, and
/// [64 MiB](crate::engine::MOST_KEPT_BYTES) of memory, is kept by all requests together; what finds no room is made anew.
#[derive(Debug)]
pub struct Visit {
    pub(crate) who: Who,
    kept: SmallVec<[Living; 1]>,
    effects: Effects,
    pub(crate) ends: Ends,
    /// Whether instances stay that no further phase asks for.
    pub(crate) keeps_all: bool,
}

impl Visit {
    /// The stay of a request that has met no plugin yet.
    pub fn new(who: Who) -> Self {
        Self { who, kept: SmallVec::new(), effects: Effects::default(), ends: Ends::default(), keeps_all: false }
    }

    /// The same, keeping each instance until it is dropped, also one that no further phase asks for: for whoever weighs them.
    #[must_use]
    pub fn keeping_all(mut self) -> Self {
        self.keeps_all = true;
        self
    }

    /// How many instances it keeps.
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// What plugins asked for beside changes of the header, since this was last asked.
    pub fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }

    /// Plugins that have a phase at the exchange's end, of those that the request passed since this was last asked.
    pub fn take_ends(&mut self) -> Ends {
        std::mem::take(&mut self.ends)
    }

    /// A phase succeeded that asked for this.
    pub(crate) fn add_effects(&mut self, effects: Effects) {
        if effects == Effects::default() {
            return;
        }
        if let Some(upstream) = effects.upstream() {
            self.who.upstream = Some(upstream.clone());
        }
        self.who.tags += effects.tag_count();
        self.effects.add(effects);
    }

    /// Keeps an instance for the next phase, if there is room.
    pub(crate) fn keep(&mut self, mut living: Living) {
        if living.keep() {
            self.kept.push(living);
        }
    }

    /// Whether this plugin left an instance.
    pub(crate) fn holds(&self, plugin: &Arc<Plugin>) -> bool {
        self.kept.iter().any(|living| living.is_of(plugin))
    }

    /// Lets go of the instances that were kept. In each of them every phase so far went well.
    pub(crate) fn let_go(&mut self) {
        for living in self.kept.drain(..) {
            living.retire();
        }
    }

    /// The instance that this plugin left. Where a plugin was passed twice, the last first: chains run in reverse then.
    pub(crate) fn take(&mut self, plugin: &Arc<Plugin>) -> Option<Living> {
        let index = self.kept.iter().rposition(|living| living.is_of(plugin))?;
        Some(self.kept.remove(index))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.let_go();
    }
}
