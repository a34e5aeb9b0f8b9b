//! An answer's body on its way to the client: through the plugins that see it, then compressed.
//!
//! Both are one module of the HTTP library, since of two that have something to say at a body's end it hears only the last.
//! Nothing can wait in a module: what plugins owe for their time is waited for in `response_body_filter`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use pingora_core::modules::http::{HttpModule, HttpModuleBuilder, Module};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use sluice_plugins::Passage;
use sluice_vocabulary::Refusal;

use crate::compression::Compression;

/// The longest wait for one piece: what is still owed then is waited for at the next.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A request's place for what its answer's body passes. Empty until the answer's header says what that is.
#[derive(Default)]
pub(crate) struct AnswerBody {
    passage: Option<Passage>,
    pub(crate) compression: Compression,
    /// Why the exchange was ended in the middle.
    refusal: Option<Refusal>,
}

/// Makes a place for each request.
pub(crate) struct Builder;

impl HttpModuleBuilder for Builder {
    /// Runs after every other module: nothing can look into what it makes.
    fn order(&self) -> i16 {
        i16::MIN
    }

    fn init(&self) -> Module {
        Box::new(AnswerBody::default())
    }
}

impl AnswerBody {
    /// This request's.
    pub(crate) fn of(session: &mut Session) -> Option<&mut Self> {
        session.downstream_modules_ctx.get_mut()
    }

    /// Plugins are to see the body.
    pub(crate) fn passes(&mut self, passage: Passage) {
        self.passage = Some(passage);
    }

    /// How long its plugins are to wait before they get more.
    pub(crate) fn owed(&self, now: impl FnOnce() -> Instant) -> Option<Duration> {
        let owed = self.passage.as_ref()?.owed(now()).min(LONGEST_WAIT);
        (!owed.is_zero()).then_some(owed)
    }

    /// Why a plugin ended the exchange, if one did.
    pub(crate) fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take()
    }

    /// A piece through the plugins; none of them sees more after the end.
    fn through(&mut self, body: &mut Option<Bytes>, is_last: bool) -> Result<()> {
        let Some(passage) = &mut self.passage else { return Ok(()) };
        let piece = passage.piece_now(body.take().unwrap_or_default(), is_last);
        if is_last {
            self.passage = None;
        }
        let piece = self.unless_ended(piece)?;
        *body = (!piece.is_empty()).then_some(piece);
        Ok(())
    }

    fn unless_ended<T>(&mut self, passed: Result<T, Refusal>) -> Result<T> {
        passed.map_err(|refusal| {
            self.passage = None;
            self.refusal = Some(refusal);
            Error::explain(ErrorType::InternalError, "ended by a plugin")
        })
    }

    /// What is left to be sent when the body has ended without a piece that said so.
    fn finish(&mut self) -> Result<Option<Bytes>> {
        let mut rest = None;
        self.through(&mut rest, true)?;
        self.compression.piece(&mut rest, true)?;
        Ok(rest)
    }
}

impl HttpModule for AnswerBody {
    fn response_body_filter(&mut self, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
        self.through(body, end_of_stream)?;
        self.compression.piece(body, end_of_stream)
    }

    /// The last bytes of what was held back take the place of trailers: a coding's, behind a page which nobody reads trailers
    /// of, or those of a plugin that sees its bodies whole.
    fn response_trailer_filter(&mut self, trailers: &mut Option<Box<HeaderMap>>) -> Result<Option<Bytes>> {
        // In this order: at the body's end the plugins' instances are given up.
        let mut last = None;
        if let Some(passage) = &mut self.passage {
            let piece = passage.piece_now(Bytes::new(), true);
            last = Some(self.unless_ended(piece)?).filter(|piece| !piece.is_empty());
        }
        if let (Some(passage), Some(trailers)) = (&mut self.passage, trailers) {
            let seen = passage.trailers_now(std::mem::take(&mut **trailers));
            **trailers = self.unless_ended(seen)?;
        }
        self.passage = None;
        self.compression.piece(&mut last, true)?;
        Ok(last)
    }

    fn response_done_filter(&mut self) -> Result<Option<Bytes>> {
        self.finish()
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}
