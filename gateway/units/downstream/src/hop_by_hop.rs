//! Header fields that are for one connection only and must not be forwarded (RFC 9110 7.6.1).
//!
//! Two are left alone on purpose. `Transfer-Encoding` describes the framing of the message at hand, which Pingora reads
//! to frame the message it makes of it. And a client may name fields in `Connection` that are not its to withdraw:
//! those that frame or direct the request stay, since dropping them on a client's word is how requests have been
//! smuggled and credentials lost. Strip first and add what the gateway itself says (`X-Forwarded-For`, …) after, so that
//! no client can have that removed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use smallvec::SmallVec;

/// Of the upgrade to cleartext HTTP/2 that RFC 9113 3.1 withdrew.
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Always for one connection only.
const ALWAYS: [HeaderName; 7] = [
    header::CONNECTION,
    HTTP2_SETTINGS,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::UPGRADE,
];

/// A client that names these in `Connection` is refused.
const NEVER_NAMED: [&str; 4] = ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// The most options of a `Connection`; honest clients have two or three.
const MOST_OPTIONS: usize = 10;

/// Never removed because a sender names them in `Connection`.
const PROTECTED: [HeaderName; 5] =
    [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::AUTHORIZATION, header::UPGRADE];

/// The fields of a request or a response that must not be forwarded; only those that are there. That the sender names a
/// field in `Connection` does not count for those in `kept`.
///
/// `Upgrade` is among them: for a WebSocket handshake ([`is_websocket`]) set `Upgrade: websocket` and
/// `Connection: upgrade` anew after stripping. `TE: trailers` is not, since gRPC needs it end to end.
pub fn to_remove(headers: &HeaderMap, kept: &[HeaderName]) -> SmallVec<[HeaderName; 8]> {
    let mut names: SmallVec<[HeaderName; 8]> = SmallVec::new();
    let mut connection = false;
    // One pass over what is there costs less than a look-up for each of what might be.
    for name in headers.keys() {
        connection |= name == header::CONNECTION;
        if ALWAYS.contains(name) || (name == header::TE && !is_te_trailers(headers, name)) {
            names.push(name.clone());
        }
    }
    if connection {
        for option in headers.get_all(header::CONNECTION).iter().flat_map(options) {
            if let Ok(name) = HeaderName::from_bytes(option)
                && headers.contains_key(&name)
                && !PROTECTED.contains(&name)
                && !kept.contains(&name)
                && !is_te_trailers(headers, &name)
                && !names.contains(&name)
            {
                names.push(name);
            }
        }
    }
    names
}

/// Whether a request's `Connection` names only what a client may: a handful of tokens, and none of the fields by which
/// the next server tells whom a request is for and from whom it came. Nobody names those but to have them dropped.
///
/// # Errors
/// What is wrong with it, for the operator.
pub fn judge_connection(headers: &HeaderMap) -> Result<(), &'static str> {
    let named = headers.get_all(header::CONNECTION).iter().flat_map(options).filter(|option| !option.is_empty());
    for (position, option) in named.enumerate() {
        if position >= MOST_OPTIONS {
            return Err("Connection names more than ten fields");
        }
        // By our own look: the type of a field's name takes more than a token (RFC 9110 5.6.2).
        if !option.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)) {
            return Err("Connection names what is no token");
        }
        if NEVER_NAMED.iter().any(|name| option.eq_ignore_ascii_case(name.as_bytes())) {
            return Err("Connection names a field that says whom the request is for or from");
        }
    }
    Ok(())
}

/// Whether a request is a WebSocket handshake (RFC 6455 4.1), the one upgrade that is proxied.
pub fn is_websocket(method: &Method, headers: &HeaderMap) -> bool {
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    *method == Method::GET
        && upgrades.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
        && upgrades.next().is_none()
        && headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(options)
            .any(|option| option.eq_ignore_ascii_case(b"upgrade"))
}

fn is_te_trailers(headers: &HeaderMap, name: &HeaderName) -> bool {
    *name == header::TE && headers.get_all(header::TE).iter().all(|value| value == "trailers")
}

fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).fold(
            HeaderMap::new(),
            |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            },
        )
    }

    fn removed(fields: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut names: Vec<_> = to_remove(&headers(fields), &[]).iter().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn a_client_names_a_handful_of_tokens_and_nothing_that_protects_an_origin() {
        let judge = |value: &'static str| judge_connection(&headers(&[("host", "a"), ("connection", value)])).is_ok();
        for good in ["", "close", "Keep-Alive, TE", "upgrade,, x-mine", "a,b,c,d,e,f,g,h,i,j", "authorization"] {
            assert!(judge(good), "{good}");
        }
        for bad in ["Host", "x, X-Forwarded-For", "\"x\"", "x y", ":authority", "a,b,c,d,e,f,g,h,i,j,k"] {
            assert!(!judge(bad), "{bad}");
        }
    }

    #[test]
    fn fields_of_one_connection_are_removed_and_others_stay() {
        let fields = [
            ("host", "a"),
            ("connection", "close, X-Mine"),
            ("connection", "keep-alive,, bad name"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("x-other", "2"),
            ("upgrade", "h2c"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "x"),
        ];
        assert_eq!(removed(&fields), ["connection", "keep-alive", "proxy-authorization", "te", "upgrade", "x-mine"]);
        assert_eq!(removed(&[("accept", "*/*")]), Vec::<String>::new());
    }

    #[test]
    fn a_client_cannot_withdraw_what_frames_or_directs_its_request() {
        let fields = [
            ("connection", "host, content-length, transfer-encoding, authorization, te"),
            ("host", "a"),
            ("content-length", "1"),
            ("authorization", "x"),
            ("te", "trailers"),
        ];
        assert_eq!(removed(&fields), ["connection"]);
    }

    #[test]
    fn only_a_websocket_handshake_is_one() {
        let good = [("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade")];
        assert!(is_websocket(&Method::GET, &headers(&good)));
        assert!(!is_websocket(&Method::POST, &headers(&good)));
        assert!(!is_websocket(&Method::GET, &headers(&[("upgrade", "h2c"), ("connection", "upgrade")])));
        assert!(!is_websocket(&Method::GET, &headers(&[("upgrade", "websocket")])));
        assert!(!is_websocket(&Method::GET, &headers(&[good[0], ("upgrade", "h2c"), good[1]])));
    }
}
