//! A request's and a response's header on their way through: what is read from them, and what is changed in them.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri};
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use sluice_auth::Withheld;
use sluice_plugins::{HeaderOp, Link, Operations, RequestHead, Who};
use sluice_tenancy::Admitted;
use sluice_vocabulary::share::Claim;
use sluice_vocabulary::{Reason, Refusal};

use crate::request::Request;

/// Has a header's parts changed as what they are. The library's own ways of changing a header also keep how each name was
/// written, in a second map, which doubles the price of every change; see [`forget_case`].
pub(crate) fn change<T>(header: &mut RequestHeader, change: impl FnOnce(&mut Parts) -> T) -> Result<T> {
    // A target that the URI does not reproduce would be lost with the rest of what is no part.
    let target = header.raw_path();
    let by_uri = header.uri.path_and_query().is_some_and(|known| known.as_str().as_bytes() == target);
    let target = (!by_uri).then(|| target.to_vec());
    let blank = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts = Parts::from(std::mem::replace(header, blank));
    let outcome = change(&mut parts);
    *header = RequestHeader::from(parts);
    if let Some(target) = target {
        header.set_raw_path(&target)?;
    }
    Ok(outcome)
}

/// Forgets in which case a client wrote the names of its fields: they go on as they would from HTTP/2, which knows lower
/// case only, so that what an upstream sees does not depend on the client's protocol.
pub(crate) fn forget_case(header: &mut RequestHeader) -> Result<()> {
    if header.has_case() { change(header, |_| ()) } else { Ok(()) }
}

/// The host that the request names, in lower case and without final dot, and the port if it names one. It was held
/// against its grammar before; HTTP/1.0 need not name any.
pub(crate) fn host_of(header: &RequestHeader) -> Result<(Box<str>, Option<u16>), Refusal> {
    let named = match header.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => header.headers.get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes),
    };
    if named.is_empty() {
        return Ok((Box::default(), None));
    }
    let bad = || Refusal::new(Reason::BadHost).internal(format!("host {:?}", String::from_utf8_lossy(named)));
    let (name, port) = sluice_downstream::host::split(named).ok_or_else(bad)?;
    let name = std::str::from_utf8(name).map_err(|_| bad())?;
    let mut host: Box<str> = name.strip_suffix('.').unwrap_or(name).into();
    host.make_ascii_lowercase();
    Ok((host, port))
}

/// HTTP/2 may send each cookie in a field of its own, which nothing but HTTP/2 understands (RFC 9113 8.2.3).
pub(crate) fn join_cookies(header: &mut RequestHeader) -> Result<(), Refusal> {
    let mut crumbs = header.headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(second)) = (crumbs.next(), crumbs.next()) else { return Ok(()) };
    let mut whole = first.as_bytes().to_vec();
    for crumb in std::iter::once(second).chain(crumbs) {
        whole.extend_from_slice(b"; ");
        whole.extend_from_slice(crumb.as_bytes());
    }
    header.insert_header(header::COOKIE, whole).map_err(broken)
}

/// Gives the request another target. Over HTTP/2 its URI names the host as well, which stays: that is where an upstream's
/// `Host` comes from.
pub(crate) fn set_target(header: &mut RequestHeader, target: &str) -> Result<()> {
    if header.uri.authority().is_none() {
        return header.set_raw_path(target.as_bytes());
    }
    let mut parts = header.uri.clone().into_parts();
    let target = PathAndQuery::try_from(target).or_err(ErrorType::InvalidHTTPHeader, "a target that is none")?;
    parts.path_and_query = Some(target);
    header.set_uri(Uri::from_parts(parts).or_err(ErrorType::InvalidHTTPHeader, "a target that does not fit its host")?);
    Ok(())
}

/// Takes away what goes no further than the gateway.
pub(crate) fn withhold(header: &mut RequestHeader, withheld: Withheld<'_>) -> Result<()> {
    match withheld {
        Withheld::Nothing => {}
        Withheld::Fields(names) => {
            for name in names {
                header.remove_header(name);
            }
        }
        Withheld::Cookie(cookie) => {
            let fields = header.headers.get_all(header::COOKIE).iter();
            let kept: Vec<HeaderValue> = fields.filter_map(|field| cookie.without(field)).collect();
            header.remove_header(&header::COOKIE);
            for field in kept {
                header.append_header(header::COOKIE, field)?;
            }
        }
        Withheld::Parameter(parameter) => {
            let path = header.uri.path();
            let target = match header.uri.query().and_then(|query| parameter.without(query)) {
                Some(query) => format!("{path}?{query}"),
                None => path.to_owned(),
            };
            set_target(header, &target)?;
        }
    }
    Ok(())
}

/// Has no shared cache keep an answer: `private` in place of whatever said that one may (RFC 9111 section 5.2.2).
pub(crate) fn make_private(response: &mut ResponseHeader) -> Result<()> {
    let mut directives = Vec::new();
    for field in response.headers.get_all(header::CACHE_CONTROL) {
        directives.extend(directives_of(&String::from_utf8_lossy(field.as_bytes())));
    }
    directives.retain(|directive| {
        let name = directive.split('=').next().unwrap_or_default().trim();
        !["public", "private", "s-maxage"].iter().any(|other| name.eq_ignore_ascii_case(other))
    });
    directives.push("private".to_owned());
    response.insert_header(header::CACHE_CONTROL, directives.join(", "))
}

/// The parts of a list between commas; a comma within quotes is none.
fn directives_of(field: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut is_quoted, mut is_escaped) = (false, false);
    for c in field.chars() {
        match c {
            ',' if !is_quoted => parts.push(std::mem::take(&mut part)),
            _ => {
                is_quoted ^= c == '"' && !is_escaped;
                is_escaped = is_quoted && c == '\\' && !is_escaped;
                part.push(c);
            }
        }
    }
    parts.push(part);
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// The request's head as plugins get it.
pub(crate) fn owned_head(header: &RequestHeader, request: &Request) -> Result<RequestHead, Refusal> {
    let Some(arrived) = &request.arrived else {
        return Err(Refusal::new(Reason::Internal).internal("plugins before arrival"));
    };
    Ok(RequestHead {
        method: header.method.clone(),
        scheme: arrived.client.scheme,
        host: arrived.host.clone(),
        path: header.uri.path().into(),
        query: header.uri.query().map(Into::into),
        headers: header.headers.clone(),
    })
}

/// What plugins may be told of a request, each as far as it was granted that.
pub(crate) fn who(request: &Request, round_trip: Option<Duration>) -> Who {
    let mut who = Who::new(request.id().into(), request.tenant.clone());
    who.identity = request.proof.as_ref().and_then(|proof| proof.identity()).cloned();
    who.link = request.arrived.as_ref().map(|arrived| Link {
        connection: Arc::clone(&arrived.connection),
        client: arrived.client.ip,
        protocol: arrived.version,
        round_trip,
    });
    who.upstream = request.upstream().cloned();
    who.claim = claim(request);
    who
}

/// The smoothed round trip of the client's connection, as the kernel has it now.
pub(crate) fn round_trip(session: &Session) -> Option<Duration> {
    let info = session.digest()?.socket_digest.as_ref()?.tcp_info()?;
    // Before the first is measured there is none.
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// On whose account its plugins run: its tenant's, or its route's where it has none.
fn claim(request: &Request) -> Claim {
    let of_tenant = request.admitted.as_ref().and_then(Admitted::plugin_claim);
    let of_route = || Some(request.snapshot.routes.get(request.matched.as_ref()?.index())?.claim.clone());
    of_tenant.or_else(of_route).unwrap_or_else(Claim::alone)
}

pub(crate) fn apply(header: &mut RequestHeader, operations: impl Iterator<Item = HeaderOp>) -> Result<()> {
    for operation in operations {
        match operation {
            HeaderOp::Set(name, value) => header.insert_header(name, value)?,
            HeaderOp::Append(name, value) => {
                header.append_header(name, value)?;
            }
            HeaderOp::Remove(name) => {
                header.remove_header(&name);
            }
        }
    }
    Ok(())
}

pub(crate) fn apply_to_response(header: &mut ResponseHeader, operations: Operations) -> Result<()> {
    for operation in operations {
        match operation {
            HeaderOp::Set(name, value) => header.insert_header(name, value)?,
            HeaderOp::Append(name, value) => {
                header.append_header(name, value)?;
            }
            HeaderOp::Remove(name) => {
                header.remove_header(&name);
            }
        }
    }
    Ok(())
}

pub(crate) fn broken(error: Box<Error>) -> Refusal {
    Refusal::new(Reason::Internal).internal(error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn an_answer_that_is_private_keeps_what_else_is_said_of_it() {
        for (before, after) in [
            (&[][..], "private"),
            (&["public, max-age=60"], "max-age=60, private"),
            (&["max-age=60", "PUBLIC", "S-MaxAge=600"], "max-age=60, private"),
            (&["no-store"], "no-store, private"),
            (&["private"], "private"),
            (&["private=\"set-cookie, x\", no-cache=\"a, public\""], "no-cache=\"a, public\", private"),
            (&["no-cache=\"a\\\", public\", public"], "no-cache=\"a\\\", public\", private"),
            (&[" , ,public"], "private"),
        ] {
            let mut response = ResponseHeader::build(200, None).unwrap();
            for field in before {
                response.append_header(header::CACHE_CONTROL, *field).unwrap();
            }
            make_private(&mut response).unwrap();
            let fields: Vec<_> = response.headers.get_all(header::CACHE_CONTROL).iter().collect();
            assert_eq!(fields, [after], "{before:?}");
        }
    }
}
