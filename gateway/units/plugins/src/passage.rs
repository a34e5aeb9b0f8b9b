//! A message that is under way, through all the plugins that see it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use sluice_vocabulary::Refusal;
use smallvec::SmallVec;

use crate::chain::Chain;
use crate::message::{RequestHead, ResponseHead, Who};
use crate::stage::{On, Stage};
use crate::subject::Seen;
use crate::visit::Visit;

/// The way of one body through the plugins that see it, in order: what one gives is what the next gets. It holds an instance
/// of each until it is dropped.
///
/// The message is under way, so that a failure of a plugin that may not be skipped, or its word to end the exchange, is a
/// [`Refusal`] that may come too late for an answer: end the exchange then.
#[derive(Debug)]
pub struct Passage {
    stages: SmallVec<[Stage; 1]>,
    seen: Seen,
    who: Who,
}

impl Passage {
    /// For a request's body, through these chains in order. `request` is what is being sent.
    ///
    /// # Errors
    /// If a plugin that may not be skipped finds no room for its instance.
    pub async fn of_request(chains: &[&Chain], request: Arc<RequestHead>, visit: &mut Visit) -> Result<Self, Refusal> {
        let mut stages = SmallVec::new();
        for plugin in chains.iter().flat_map(|chain| chain.request_chunk()) {
            stages.push(Stage::of_request(plugin, visit).await?);
        }
        Ok(Self { stages, seen: Seen { request, response: None }, who: visit.who.clone() })
    }

    /// For what follows a response's header, through these chains in the order in which they saw that.
    ///
    /// # Errors
    /// If a plugin that may not be skipped finds no room for its instance.
    pub async fn of_response(
        chains: &[&Chain],
        request: Arc<RequestHead>,
        response: Arc<ResponseHead>,
        visit: &mut Visit,
    ) -> Result<Self, Refusal> {
        let mut stages = SmallVec::new();
        for plugin in chains.iter().flat_map(|chain| chain.response_stages()) {
            stages.push(Stage::of_response(plugin, visit).await?);
        }
        Ok(Self { stages, seen: Seen { request, response: Some(response) }, who: visit.who.clone() })
    }

    /// A piece of the body: gives what goes on in its place, which may be nothing.
    ///
    /// # Errors
    /// If the exchange is to end here.
    pub async fn piece(&mut self, mut piece: Bytes, is_last: bool) -> Result<Bytes, Refusal> {
        let Self { stages, seen, who } = self;
        for stage in stages {
            piece = stage.take(seen, piece, is_last, &On { claim: &who.claim, who }).await?;
        }
        Ok(piece)
    }

    /// The same where nobody can wait: each call has one slice of a millisecond. Wait afterwards for what is
    /// [owed](Self::owed).
    ///
    /// # Errors
    /// If the exchange is to end here.
    pub fn piece_now(&mut self, mut piece: Bytes, is_last: bool) -> Result<Bytes, Refusal> {
        let Self { stages, seen, who } = self;
        for stage in stages {
            piece = stage.take_now(seen, piece, is_last, &On { claim: &who.claim, who })?;
        }
        Ok(piece)
    }

    /// The trailers: gives what goes on in their place.
    ///
    /// # Errors
    /// If the exchange is to end here.
    pub fn trailers_now(&mut self, mut trailers: HeaderMap) -> Result<HeaderMap, Refusal> {
        let Self { stages, seen, who } = self;
        for stage in stages {
            trailers = stage.trailers_now(seen, trailers, &On { claim: &who.claim, who })?;
        }
        Ok(trailers)
    }

    /// How long its tenant's plugins have run beyond their share, and are to wait.
    pub fn owed(&self, now: Instant) -> Duration {
        self.who.claim.owed(now)
    }
}
