//! The answer of an authorising service, read strictly.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderName, HeaderValue, StatusCode};

use super::config::Redirect;
use crate::client::Answer;
use crate::remote::RemoteFault;

/// The most bytes of header fields that are handed on, either way: names and values.
const MAX_HANDED: usize = 16 * 1024;

/// The most fields of one name that are handed on.
const MAX_VALUES: usize = 16;

/// The proof that the service of a route let a request pass. Only this unit can make one.
#[derive(Debug, Clone)]
pub struct Allowed {
    headers: Arc<[(HeaderName, HeaderValue)]>,
}

impl Allowed {
    /// Leave without a word to the upstream: for a service that was not heard, where the operator wants it so.
    pub(super) fn unheard() -> Self {
        Self { headers: Arc::default() }
    }

    /// What the upstream is to be told, in the service's words; a name may be there several times. Set these where no
    /// client's field of the name is left: see [`Prepared::stripped_headers`](crate::Prepared::stripped_headers).
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}

/// What the service wants the client to be told in place of what it asked for.
#[derive(Debug, Clone)]
pub struct Rebuff {
    /// 401, 403, or a redirect.
    pub status: StatusCode,
    /// Its fields, among them `Cache-Control: no-store`, since it is about one request at one moment.
    pub headers: Arc<[(HeaderName, HeaderValue)]>,
    /// Its body.
    pub body: Bytes,
}

/// What the service decided.
#[derive(Debug, Clone)]
pub enum Decision {
    /// The request may pass.
    Allowed(Allowed),
    /// It may not, and this is why.
    Rebuff(Rebuff),
}

/// A decision, and whether another request may be given it.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) decision: Decision,
    pub(super) keep: bool,
}

/// What is read of answers on one route.
#[derive(Debug)]
pub(super) struct Reader {
    /// The fields for the upstream.
    pub(super) told: Box<[HeaderName]>,
    pub(super) redirects: Box<[Redirect]>,
}

impl Reader {
    pub(super) fn read(&self, answer: Answer) -> Result<Read, RemoteFault> {
        let Answer { status, headers, body } = &answer;
        let no_store = headers.get_all(CACHE_CONTROL).iter().any(|value| has_directive(value, "no-store"));
        let mut handed = Handed::default();
        if status.is_success() {
            for name in &self.told {
                handed.take(&answer, name)?;
            }
            let decision = Decision::Allowed(Allowed { headers: handed.fields.into() });
            return Ok(Read { decision, keep: !no_store });
        }
        let is_redirect = matches!(status.as_u16(), 302 | 303 | 307);
        match *status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => handed.take(&answer, &WWW_AUTHENTICATE)?,
            _ if is_redirect => {
                self.judge_location(&answer)?;
                handed.take(&answer, &LOCATION)?;
            }
            status => return Err(RemoteFault::Status(status, "2xx, 401, 403 or a redirect that is listed")),
        }
        handed.take(&answer, &SET_COOKIE)?;
        if headers.get_all(CONTENT_TYPE).iter().count() == 1 {
            handed.take(&answer, &CONTENT_TYPE)?;
        }
        handed.fields.push((CACHE_CONTROL, HeaderValue::from_static("no-store")));
        let keep = !no_store && !is_redirect && !headers.contains_key(SET_COOKIE);
        let rebuff = Rebuff { status: *status, headers: handed.fields.into(), body: body.clone() };
        Ok(Read { decision: Decision::Rebuff(rebuff), keep })
    }

    /// A redirect leads to exactly one place, and to one that the operator listed.
    fn judge_location(&self, answer: &Answer) -> Result<(), RemoteFault> {
        let malformed = |why: &str| RemoteFault::Malformed(why.into());
        let mut locations = answer.headers.get_all(LOCATION).iter();
        let (Some(location), None) = (locations.next(), locations.next()) else {
            return Err(malformed("a redirect that does not name one place"));
        };
        let location = location.to_str().map_err(|_| malformed("a redirect to what is not a URL"))?;
        if self.redirects.iter().any(|redirect| redirect.allows(location)) {
            Ok(())
        } else {
            Err(malformed("a redirect to a place that is not listed in redirects"))
        }
    }
}

/// Fields that are handed on, bounded.
#[derive(Default)]
struct Handed {
    fields: Vec<(HeaderName, HeaderValue)>,
    bytes: usize,
}

impl Handed {
    /// Takes every value of `name`. One too many is no answer at all: left out, it might have been the one that limits
    /// what the request may do.
    fn take(&mut self, answer: &Answer, name: &HeaderName) -> Result<(), RemoteFault> {
        for (count, value) in answer.headers.get_all(name).iter().enumerate() {
            self.bytes += name.as_str().len() + value.len();
            if count == MAX_VALUES || self.bytes > MAX_HANDED {
                return Err(RemoteFault::Malformed(format!("more {name} than is handed on").into()));
            }
            self.fields.push((name.clone(), value.clone()));
        }
        Ok(())
    }
}

/// Whether a `Cache-Control` value has a directive.
fn has_directive(value: &HeaderValue, directive: &str) -> bool {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(directive.as_bytes()))
}

/// About the memory that a decision holds.
pub(super) fn size(decision: &Decision) -> usize {
    let (headers, body) = match decision {
        Decision::Allowed(allowed) => (&allowed.headers, 0),
        Decision::Rebuff(rebuff) => (&rebuff.headers, rebuff.body.len()),
    };
    let field = |(name, value): &(HeaderName, HeaderValue)| {
        size_of::<(HeaderName, HeaderValue)>() + name.as_str().len() + value.len() + 32
    };
    headers.iter().map(field).sum::<usize>() + body
}
