//! One exchange through a plugin, in the gateway's order and within the gateway's bounds: what `request_path.rs`, `bodies.rs`
//! and `answer_body.rs` do with a chain, without a network.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use pingora_http::ResponseHeader;
use sluice_plugins::{
    Answer, Chain, Effects, Ended, Ends, LONGEST_BODY, Outcome, Passage, RequestHead, ResponseHead, Visit, Who,
};
use sluice_vocabulary::{Reason, Refusal, UpstreamName};

use super::format::Word;
use super::listen::{Ear, Heard};
use super::ready::{Body, Ready};
use crate::bodies::frame_for;
use crate::headers::apply_to_response;
use crate::returning;

/// What came of one exchange.
pub(super) struct Played {
    pub(super) request: Word,
    pub(super) response: Word,
    pub(super) end: Word,
    pub(super) heard: Heard,
    /// Why it was refused or ended, if it was.
    pub(super) refusal: Option<Refusal>,
    /// What went upstream, if anything did.
    pub(super) sent: Option<Sent>,
    /// What went to the client.
    pub(super) answered: Answered,
    pub(super) upstream: UpstreamName,
    pub(super) tags: Vec<(Box<str>, Box<str>)>,
}

/// A request as it went upstream.
pub(super) struct Sent {
    pub(super) headers: HeaderMap,
    pub(super) pieces: Vec<Bytes>,
}

/// An answer as it went to the client.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) pieces: Vec<Bytes>,
    pub(super) trailers: HeaderMap,
}

/// Why a side did not go on.
enum Stopped {
    Answer(Box<Answer>),
    /// Refused, or failed: the reason tells.
    Refusal(Box<Refusal>),
    /// Ended while the message was under way.
    Ended(Box<Refusal>),
}

impl Stopped {
    fn answered(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }

    fn refused(refusal: Refusal) -> Self {
        Self::Refusal(Box::new(refusal))
    }

    fn ended(refusal: Refusal) -> Self {
        Self::Ended(Box::new(refusal))
    }

    fn word(&self) -> Word {
        match self {
            Self::Answer(_) => Word::Answer,
            Self::Refusal(refusal) | Self::Ended(refusal)
                if matches!(refusal.reason, Reason::PluginFailed | Reason::PluginOverloaded) =>
            {
                Word::Fail
            }
            Self::Refusal(_) => Word::Refuse,
            Self::Ended(_) => Word::Abort,
        }
    }
}

/// An exchange that is being played.
struct Exchange<'a> {
    chain: &'a Chain,
    case: &'a Ready,
    who: Who,
    visit: Visit,
    effects: Effects,
    ends: Ends,
    /// The request as plugins left it.
    head: Option<Arc<RequestHead>>,
}

/// Whose request a case's is.
pub(in crate::cli::plugin) fn who(case: &Ready, request_id: &str) -> Who {
    let mut who = Who::new(request_id.into(), case.tenant.clone());
    who.identity.clone_from(&case.identity);
    who.link = Some(case.link.clone());
    who.upstream = Some(case.upstream.clone());
    who
}

/// Plays a case once.
pub(super) async fn play(case: &Ready, chain: &Chain, ear: &Ear, request_id: &str) -> Played {
    let who = who(case, request_id);
    ear.take();
    let visit = Visit::new(who.clone());
    let mut exchange =
        Exchange { chain, case, who, visit, effects: Effects::default(), ends: Ends::default(), head: None };

    let (mut request, mut response) = (Word::Continue, Word::Continue);
    let (mut refusal, mut sent) = (None, None);
    let answered = match exchange.send().await {
        Ok(way) => {
            sent = Some(way);
            match exchange.answer().await {
                (answered, None) => answered,
                (so_far, Some(stopped)) => {
                    response = stopped.word();
                    match stopped {
                        // Its header has gone: the client sees that it is cut.
                        Stopped::Ended(why) => {
                            refusal = Some(*why);
                            so_far
                        }
                        stopped => instead(stopped, request_id, &mut refusal),
                    }
                }
            }
        }
        Err(stopped) => {
            request = stopped.word();
            instead(stopped, request_id, &mut refusal)
        }
    };

    let mut heard = ear.take();
    let skipped = |heard: &Heard, side: &str| {
        heard.failed.iter().any(|failed| failed.phase.starts_with(side) && failed.then == "skip")
    };
    if request == Word::Continue && skipped(&heard, "request") {
        request = Word::Fail;
    }
    if response == Word::Continue && skipped(&heard, "response") {
        response = Word::Fail;
    }
    let upstream = exchange.effects.upstream().unwrap_or(&case.upstream).clone();
    let tags = exchange.effects.tags().to_vec();
    let ended = Ended {
        status: case.end.status.unwrap_or_else(|| answered.status.as_u16()),
        duration: case.end.duration,
        request_bytes: case.end.request_bytes.unwrap_or_else(|| case.body.whole().len() as u64),
        response_bytes: case.end.response_bytes.unwrap_or_else(|| length(&answered.pieces)),
        upstream: case.end.upstream.clone().or_else(|| sent.is_some().then(|| upstream.clone())),
        refused: case.end.refused.or_else(|| refusal.as_ref().map(|refusal| refusal.reason.slug())),
    };
    exchange.tell(ended).await;
    let at_the_end = ear.take();
    let end = if at_the_end.failed.is_empty() { Word::Continue } else { Word::Fail };
    heard.lines.extend(at_the_end.lines);
    heard.failed.extend(at_the_end.failed);
    Played { request, response, end, heard, refusal, sent, answered, upstream, tags }
}

impl Exchange<'_> {
    /// The request, until it is sent.
    async fn send(&mut self) -> Result<Sent, Stopped> {
        let (chain, case) = (self.chain, self.case);
        let mut head = case.head.clone();
        if chain.has_request_phase() {
            let (back, outcome) = chain.on_request(head, &mut self.visit).await;
            head = self.go_on(back, outcome)?;
        }
        let mut gathered = None;
        if chain.has_request_body_phase() {
            let whole = case.body.whole();
            if whole.len() > LONGEST_BODY {
                let why = format!("more than {LONGEST_BODY} bytes, where plugins see bodies whole");
                self.head = Some(Arc::new(head));
                return Err(Stopped::refused(Refusal::new(Reason::BodyTooLarge).internal(why)));
            }
            let (back, whole, outcome) = chain.on_request_body(head, whole, &mut self.visit).await;
            head = self.go_on(back, outcome)?;
            gathered = Some(whole);
        }
        let mut headers = head.headers.clone();
        let head = Arc::new(head);
        self.head = Some(Arc::clone(&head));
        frame_for(&[chain], gathered.as_ref(), &mut headers);

        let pieces = gathered.map_or_else(|| case.body.pieces(), |whole| vec![(whole, true)]);
        let mut sent = Sent { headers, pieces: Vec::new() };
        let mut passage = None;
        for (piece, is_last) in pieces {
            let passed = match &mut passage {
                _ if !chain.has_request_chunk_phase() => Ok(piece),
                // No body at all has no pieces.
                None if piece.is_empty() => Ok(piece),
                passage => {
                    let passage = match passage {
                        Some(passage) => passage,
                        none => {
                            let made = Passage::of_request(&[chain], Arc::clone(&head), &mut self.visit).await;
                            none.insert(made.map_err(Stopped::ended)?)
                        }
                    };
                    passage.piece(piece, is_last).await
                }
            };
            keep(&mut sent.pieces, passed.map_err(Stopped::ended)?);
        }
        Ok(sent)
    }

    /// The head as the next phase finds it, where there is one.
    fn go_on(&mut self, head: RequestHead, outcome: Outcome) -> Result<RequestHead, Stopped> {
        self.passed();
        let stopped = match outcome {
            Outcome::Continue(_) => return Ok(head),
            Outcome::Answer(answer) => Stopped::answered(answer),
            Outcome::Refuse(refusal) => Stopped::refused(refusal),
        };
        self.head = Some(Arc::new(head));
        Err(stopped)
    }

    fn passed(&mut self) {
        self.effects.add(self.visit.take_effects());
        self.ends.add(self.visit.take_ends());
    }

    /// The upstream's answer, until it is with the client; and what stopped it, if something did.
    async fn answer(&mut self) -> (Answered, Option<Stopped>) {
        let case = self.case;
        let mut answered = Answered {
            status: case.response.status,
            headers: case.response.headers.clone(),
            pieces: Vec::new(),
            trailers: HeaderMap::new(),
        };
        let stopped = self.answer_into(&mut answered).await.err();
        (answered, stopped)
    }

    async fn answer_into(&mut self, answered: &mut Answered) -> Result<(), Stopped> {
        let (chain, case) = (self.chain, self.case);
        let Some(request) = self.head.clone() else { return Ok(()) };
        let mut header = response_header(&case.response).map_err(Stopped::refused)?;
        returning::strip(&mut header);
        if chain.has_response_phase() {
            let head = ResponseHead { status: header.status, headers: header.headers.clone() };
            let (head, outcome) = chain.on_response(Arc::clone(&request), head, &mut self.visit).await;
            self.passed();
            let operations = match outcome {
                Outcome::Continue(operations) => operations,
                Outcome::Answer(answer) => return Err(Stopped::answered(answer)),
                Outcome::Refuse(refusal) => return Err(Stopped::refused(refusal)),
            };
            let applied = header.set_status(head.status).and_then(|()| apply_to_response(&mut header, operations));
            applied.map_err(|error| Stopped::refused(crate::headers::broken(error)))?;
        }
        let mut passage = None;
        if chain.follows_response() && returning::may_have_body(&header) {
            if case.head.method != Method::HEAD {
                let head = Arc::new(ResponseHead { status: header.status, headers: header.headers.clone() });
                let made = Passage::of_response(&[chain], request, head, &mut self.visit).await;
                passage = Some(made.map_err(Stopped::refused)?);
            }
            if chain.sees_response_body() {
                returning::rewritten(&mut header);
            }
        }
        answered.status = header.status;
        answered.headers.clone_from(&header.headers);
        self.follow(passage, answered)
    }

    /// What follows an answer's header.
    fn follow(&self, mut passage: Option<Passage>, answered: &mut Answered) -> Result<(), Stopped> {
        let case = self.case;
        let mut pieces = match (case.head.method == Method::HEAD, &case.response_body) {
            (true, _) => Vec::new(),
            // A body that is there ends, even if it has no bytes.
            (false, Body::None) => vec![(Bytes::new(), true)],
            (false, body) => body.pieces(),
        };
        if case.trailers.is_some() {
            // Trailers are the end.
            pieces.iter_mut().for_each(|(_, is_last)| *is_last = false);
        }
        for (piece, is_last) in pieces {
            let passed = match &mut passage {
                Some(passage) => passage.piece_now(piece, is_last).map_err(Stopped::ended)?,
                None => piece,
            };
            keep(&mut answered.pieces, passed);
        }
        if let Some(trailers) = case.trailers.clone() {
            let mut trailers = trailers;
            let mut last = Bytes::new();
            if let Some(passage) = &mut passage {
                last = passage.piece_now(Bytes::new(), true).map_err(Stopped::ended)?;
                trailers = passage.trailers_now(trailers).map_err(Stopped::ended)?;
            }
            // What was held back is sent in their place.
            if last.is_empty() {
                answered.trailers = trailers;
            }
            keep(&mut answered.pieces, last);
        }
        Ok(())
    }

    /// Tells of the end, where anybody is to be told.
    async fn tell(self, ended: Ended) {
        let Self { ends, head, who, visit, .. } = self;
        // What was kept for further phases is given up: there are none.
        drop(visit);
        if let Some(head) = head.filter(|_| !ends.is_empty()) {
            ends.tell(head, who, ended).await;
        }
    }
}

fn keep(pieces: &mut Vec<Bytes>, piece: Bytes) {
    if !piece.is_empty() {
        pieces.push(piece);
    }
}

fn length(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

fn response_header(head: &ResponseHead) -> Result<ResponseHeader, Refusal> {
    let mut header = ResponseHeader::build(head.status, Some(head.headers.len())).map_err(crate::headers::broken)?;
    for (name, value) in &head.headers {
        header.append_header(name.clone(), value.clone()).map_err(crate::headers::broken)?;
    }
    Ok(header)
}

/// What the client gets in place of what was under way.
fn instead(stopped: Stopped, request_id: &str, why: &mut Option<Refusal>) -> Answered {
    let (status, mut headers, body) = match stopped {
        Stopped::Answer(answer) => (answer.status, answer.headers, answer.body),
        Stopped::Refusal(refusal) | Stopped::Ended(refusal) => {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            for (name, value) in &refusal.headers {
                headers.append(name.clone(), value.clone());
            }
            let told = (refusal.status(), headers, Bytes::from(refusal.problem(request_id)));
            *why = Some(*refusal);
            told
        }
    };
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let mut pieces = Vec::new();
    keep(&mut pieces, body);
    Answered { status, headers, pieces, trailers: HeaderMap::new() }
}
