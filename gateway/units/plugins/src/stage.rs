//! One plugin's view of a message that is under way: its body, piece by piece or gathered, and its trailers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use sluice_vocabulary::share::Claim;
use sluice_vocabulary::{Reason, Refusal};

use crate::chain::{LONGEST_BODY, refusal};
use crate::edits::Edits;
use crate::failure::Failure;
use crate::living::{Living, Word};
use crate::message::Who;
use crate::phase::Phase;
use crate::plugin::Plugin;
use crate::subject::{Body, Seen, Subject};
use crate::visit::Visit;

/// Bytes of one piece, at most: larger ones are handed out in parts.
const LONGEST_PIECE: usize = 64 * 1024;

/// A plugin, and the instance of it that sees all of one body.
#[derive(Debug)]
pub(crate) struct Stage {
    plugin: Arc<Plugin>,
    /// None: it failed and may be skipped, so that the rest passes unseen.
    living: Option<Living>,
    /// The phase that it sees pieces in, if it has that.
    chunk: Option<Phase>,
    /// What has come so far, if it is to see all at once.
    gathered: Option<BytesMut>,
    trailers: bool,
}

/// What becomes of a part.
enum Given {
    /// What goes on: bytes, none while they are gathered.
    On(Bytes),
    /// More was gathered than a plugin gets.
    TooLong(Bytes),
    /// A call is to be made first.
    Call(Phase, Body),
}

impl Stage {
    /// The stage of a request's body.
    pub(crate) async fn of_request(plugin: &Arc<Plugin>, visit: &mut Visit) -> Result<Self, Refusal> {
        Self::of(plugin, Phase::RequestChunk, None, visit).await
    }

    /// The stage of what follows a response's header.
    pub(crate) async fn of_response(plugin: &Arc<Plugin>, visit: &mut Visit) -> Result<Self, Refusal> {
        let mut stage = Self::of(plugin, Phase::ResponseChunk, Some(Phase::ResponseTrailers), visit).await?;
        stage.gathered = plugin.has(Phase::ResponseBody).then(BytesMut::new);
        Ok(stage)
    }

    async fn of(
        plugin: &Arc<Plugin>,
        chunk: Phase,
        trailers: Option<Phase>,
        visit: &mut Visit,
    ) -> Result<Self, Refusal> {
        let living = match plugin.settle(visit).await {
            Ok(living) => Some(living),
            Err(failure) => {
                give_up(plugin, chunk, &failure, &visit.who)?;
                None
            }
        };
        Ok(Self {
            plugin: Arc::clone(plugin),
            living,
            chunk: plugin.has(chunk).then_some(chunk),
            gathered: None,
            trailers: trailers.is_some_and(|phase| plugin.has(phase)),
        })
    }

    /// Takes a piece and gives what goes on.
    pub(crate) async fn take(
        &mut self,
        seen: &Seen,
        piece: Bytes,
        is_last: bool,
        on: &On<'_>,
    ) -> Result<Bytes, Refusal> {
        let mut out = Joined::default();
        for (part, is_last) in parts(piece, is_last) {
            let mut given = self.begin(part, is_last);
            loop {
                match given {
                    Given::On(bytes) => break out.push(bytes),
                    Given::TooLong(bytes) => {
                        self.fail(Phase::ResponseBody, &Failure::Body(LONGEST_BODY), on)?;
                        break out.push(bytes);
                    }
                    Given::Call(phase, body) => {
                        let Some(living) = &mut self.living else { break out.push(body.into_original()) };
                        let subject = Subject::Piece { phase, seen: seen.clone(), body };
                        let (subject, result) = self.plugin.see(living, subject, on.claim).await;
                        given = self.end(phase, subject, result, on)?;
                    }
                }
            }
        }
        Ok(out.into())
    }

    /// The same, where nobody can wait.
    pub(crate) fn take_now(&mut self, seen: &Seen, piece: Bytes, is_last: bool, on: &On<'_>) -> Result<Bytes, Refusal> {
        let mut out = Joined::default();
        for (part, is_last) in parts(piece, is_last) {
            let mut given = self.begin(part, is_last);
            loop {
                match given {
                    Given::On(bytes) => break out.push(bytes),
                    Given::TooLong(bytes) => {
                        self.fail(Phase::ResponseBody, &Failure::Body(LONGEST_BODY), on)?;
                        break out.push(bytes);
                    }
                    Given::Call(phase, body) => {
                        let Some(living) = &mut self.living else { break out.push(body.into_original()) };
                        let subject = Subject::Piece { phase, seen: seen.clone(), body };
                        let (subject, result) = self.plugin.see_now(living, subject, on.claim);
                        given = self.end(phase, subject, result, on)?;
                    }
                }
            }
        }
        Ok(out.into())
    }

    /// The trailers, as they go on.
    pub(crate) fn trailers_now(&mut self, seen: &Seen, trailers: HeaderMap, on: &On<'_>) -> Result<HeaderMap, Refusal> {
        let Some(living) = self.living.as_mut().filter(|_| self.trailers) else { return Ok(trailers) };
        let subject = Subject::Trailers { seen: seen.clone(), trailers, edits: Edits::default() };
        let (subject, result) = self.plugin.see_now(living, subject, on.claim);
        let fits = subject.fits();
        let Subject::Trailers { mut trailers, edits, .. } = subject else { unreachable!("{SAME_SUBJECT}") };
        let result = result.and_then(|word| match word {
            Word::Continue if !fits => Err(Failure::Output("more trailers than there can be".to_owned())),
            word => Ok(word),
        });
        if self.judge(Phase::ResponseTrailers, result, on)? {
            edits.apply(&mut trailers);
        }
        Ok(trailers)
    }

    /// What is to be done with a part: its pieces' phase first.
    fn begin(&mut self, part: Bytes, is_last: bool) -> Given {
        match self.chunk {
            _ if self.living.is_none() => Given::On(part),
            Some(phase) => Given::Call(phase, Body::new(part, is_last)),
            None => self.gather(part, is_last),
        }
    }

    /// Adds a part to what is gathered, and hands out all of it when it is whole.
    fn gather(&mut self, part: Bytes, is_last: bool) -> Given {
        let Some(gathered) = &mut self.gathered else { return Given::On(part) };
        gathered.extend_from_slice(&part);
        let is_too_long = gathered.len() > LONGEST_BODY;
        if !is_too_long && !is_last {
            return Given::On(Bytes::new());
        }
        let whole = std::mem::take(gathered).freeze();
        self.gathered = None;
        if is_too_long { Given::TooLong(whole) } else { Given::Call(Phase::ResponseBody, Body::new(whole, true)) }
    }

    /// What follows a call.
    fn end(
        &mut self,
        phase: Phase,
        subject: Subject,
        result: Result<Word, Failure>,
        on: &On<'_>,
    ) -> Result<Given, Refusal> {
        let Subject::Piece { body, .. } = subject else { unreachable!("{SAME_SUBJECT}") };
        let is_last = body.is_last;
        let bytes = if self.judge(phase, result, on)? { body.into_present() } else { body.into_original() };
        if self.living.is_none() {
            // It failed: what was held back for it goes on too.
            let mut all = Joined::default();
            self.gathered.take().into_iter().for_each(|held| all.push(held.freeze()));
            all.push(bytes);
            return Ok(Given::On(all.into()));
        }
        // What it has made of the pieces is what it then sees as a whole.
        Ok(if phase == Phase::ResponseBody { Given::On(bytes) } else { self.gather(bytes, is_last) })
    }

    /// Whether the changes of a call are to be made.
    fn judge(&mut self, phase: Phase, result: Result<Word, Failure>, on: &On<'_>) -> Result<bool, Refusal> {
        match result {
            Ok(Word::Continue) => Ok(true),
            Ok(Word::Abort) => {
                self.living = None;
                let why = format!("plugin {} ended the exchange in {phase}", self.plugin.shared.name);
                Err(Refusal::new(Reason::PluginRefused).internal(why))
            }
            Ok(Word::Answer(_) | Word::Refuse(_)) => {
                let failure = Failure::Output("an answer to a message that is under way".to_owned());
                self.fail(phase, &failure, on)
            }
            Err(failure) => self.fail(phase, &failure, on),
        }
    }

    fn fail(&mut self, phase: Phase, failure: &Failure, on: &On<'_>) -> Result<bool, Refusal> {
        self.living = None;
        give_up(&self.plugin, phase, failure, on.who).map(|()| false)
    }
}

/// Whose message it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct On<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) who: &'a Who,
}

const SAME_SUBJECT: &str = "a call hands back the subject it was given";

/// Counts a failure. The rest passes unseen where the plugin may be skipped; otherwise the exchange ends.
fn give_up(plugin: &Plugin, phase: Phase, failure: &Failure, who: &Who) -> Result<(), Refusal> {
    plugin.failed(phase, failure, who, plugin.config.on_failure.as_str());
    if plugin.skips_on_failure() { Ok(()) } else { Err(refusal(plugin, phase, failure)) }
}

/// A piece in parts that are no larger than a plugin gets. Nothing at all is a part only where it is the end.
fn parts(mut piece: Bytes, is_last: bool) -> impl Iterator<Item = (Bytes, bool)> {
    let mut has_more = is_last || !piece.is_empty();
    std::iter::from_fn(move || {
        if !has_more {
            return None;
        }
        let part = piece.split_to(piece.len().min(LONGEST_PIECE));
        has_more = !piece.is_empty();
        Some((part, is_last && !has_more))
    })
}

/// Bytes put together; copied only where there is more than one lot.
#[derive(Default)]
struct Joined {
    only: Bytes,
    all: Option<BytesMut>,
}

impl Joined {
    fn push(&mut self, bytes: Bytes) {
        match &mut self.all {
            _ if bytes.is_empty() => {}
            Some(all) => all.extend_from_slice(&bytes),
            None if self.only.is_empty() => self.only = bytes,
            None => {
                let mut all = BytesMut::from(&*self.only);
                all.extend_from_slice(&bytes);
                self.all = Some(all);
            }
        }
    }
}

impl From<Joined> for Bytes {
    fn from(joined: Joined) -> Self {
        joined.all.map_or(joined.only, BytesMut::freeze)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_handed_out_in_parts_and_only_the_last_of_the_last_is_the_end() {
        let lengths = |piece: usize, is_last| -> Vec<(usize, bool)> {
            parts(vec![0; piece].into(), is_last).map(|(part, is_last)| (part.len(), is_last)).collect()
        };
        assert_eq!(lengths(0, false), []);
        assert_eq!(lengths(0, true), [(0, true)]);
        assert_eq!(lengths(7, false), [(7, false)]);
        assert_eq!(lengths(LONGEST_PIECE, true), [(LONGEST_PIECE, true)]);
        assert_eq!(lengths(2 * LONGEST_PIECE + 1, true), [(LONGEST_PIECE, false), (LONGEST_PIECE, false), (1, true)]);
    }

    #[test]
    fn what_comes_in_lots_goes_on_in_one() {
        let mut joined = Joined::default();
        for lot in ["", "a", "", "bc", "d"] {
            joined.push(Bytes::from_static(lot.as_bytes()));
        }
        assert_eq!(Bytes::from(joined), "abcd");
        assert!(Bytes::from(Joined::default()).is_empty());
    }
}
