//! What arrives before there is a request.

use std::net::{IpAddr, SocketAddr};

use http::header::HeaderMap;
use sluice_downstream::body::Body;
use sluice_downstream::config::{EncodedSlash, ProxyFields};
use sluice_downstream::frames::Frames;
use sluice_downstream::head::{self, Framing, HeadLimits, Scanner};
use sluice_downstream::trusted::{forwarded_headers, resolve_client};
use sluice_downstream::{host, normalise_path, proxy_protocol};
use sluice_vocabulary::request::Connection;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, fields: 32 };

/// The end of a head is found alike however its bytes arrive, and a head that is let through means the same to another
/// parser: as long, as many fields, framed alike.
pub fn head(bytes: &[u8]) {
    let end = Scanner::default().find_end(bytes, LIMITS);
    let mut dripping = Scanner::default();
    let mut dripped = Ok(None);
    for upto in 1..=bytes.len() {
        dripped = dripping.find_end(&bytes[..upto], LIMITS);
        if dripped != Ok(None) {
            break;
        }
    }
    assert_eq!(end, dripped, "a head's end depends on how it arrives");

    let Ok(Some(end)) = end else { return };
    let Ok(parsed) = head::parse(&bytes[..end], LIMITS) else { return };
    let mut fields = [httparse::EMPTY_HEADER; LIMITS.fields];
    let mut other = httparse::Request::new(&mut fields);
    let length = other.parse(&bytes[..end]).expect("a head that is let through is one to others too");
    assert_eq!(length, httparse::Status::Complete(end));
    let values = |name: &str| -> Vec<&[u8]> {
        other.headers.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    match parsed.framing {
        Framing::Chunked => {
            assert_eq!(codings.len(), 1);
            assert!(codings[0].trim_ascii().eq_ignore_ascii_case(b"chunked"));
            assert!(lengths.is_empty() || parsed.close, "two framings on a connection that is kept");
        }
        Framing::Length(length) => {
            assert!(codings.is_empty() && lengths.len() <= 1);
            let told = lengths.first().map(|value| std::str::from_utf8(value.trim_ascii()).expect("digits").parse());
            assert_eq!(told.unwrap_or(Ok(0)), Ok(length));
        }
    }
    assert!(values("host").len() <= 1);
    if let Some(absolute) = parsed.absolute {
        let whole = [&bytes[absolute.authority.clone()], &bytes[absolute.rest.clone()]].concat();
        assert!(bytes[absolute.target.clone()].ends_with(&whole));
        assert!(host::is_valid(&bytes[absolute.authority]));
    }
}

/// A chunked body ends at the same byte however it arrives, and another decoder finds the same payload in it.
pub fn chunked_body(bytes: &[u8]) {
    let mut body = Body::new(Framing::Chunked);
    let mut dripping = Body::new(Framing::Chunked);
    let whole = body.follow(bytes);
    let mut dripped = Ok(0);
    for byte in bytes {
        if dripping.is_done() {
            break;
        }
        dripped = dripping.follow(&[*byte]).and_then(|here| Ok(dripped? + here));
        if dripped.is_err() {
            break;
        }
    }
    assert_eq!(whole, dripped, "a body's end depends on how it arrives");
    assert_eq!(body.is_done(), dripping.is_done());

    if let (Ok(end), true) = (whole, body.is_done()) {
        assert_eq!(payload(&bytes[..end]), body.announced());
    }
}

/// The length of the payload of a whole chunked body, by somebody else's reading of sizes.
fn payload(mut rest: &[u8]) -> u64 {
    let mut total = 0;
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) else {
            panic!("a chunk's size that others do not read: {rest:?}");
        };
        if size == 0 {
            assert!(rest[start - 2..].ends_with(b"\r\n\r\n") || rest.ends_with(b"\r\n\r\n"));
            return total;
        }
        let end = start + usize::try_from(size).expect("it is all there");
        assert_eq!(&rest[end..end + 2], b"\r\n");
        total += size;
        rest = &rest[end + 2..];
    }
}

/// The one form of a path has nothing left to normalise, and nothing in it that leaves, repeats or hides a segment.
pub fn path(bytes: &[u8]) {
    for encoded_slash in [EncodedSlash::Refuse, EncodedSlash::Keep] {
        let Ok(first) = normalise_path(bytes, encoded_slash) else { continue };
        let target = first.to_target().into_owned();
        let again = normalise_path(target.as_bytes(), encoded_slash).expect("what was normalised can be");
        assert_eq!(first, again);
        assert!(!again.is_changed());
        let path: &str = &again.path;
        assert!(path.starts_with('/') || path == "*");
        assert!(!path.contains("//"));
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."));
        assert!(path.is_ascii() && !path.contains(|c: char| c.is_ascii_control() || " \\#?".contains(c)));
        let escapes: Vec<_> = path.match_indices('%').map(|(at, _)| &path[at + 1..at + 3]).collect();
        for escape in escapes {
            let byte = u8::from_str_radix(escape, 16).expect("an escape is two digits");
            assert_eq!(escape, escape.to_ascii_uppercase());
            assert!(!byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte) && !byte.is_ascii_control());
            assert!(encoded_slash != EncodedSlash::Refuse || !b"/\\".contains(&byte));
        }
    }
}

/// A host that is valid is the same host to a parser of URIs.
pub fn host(bytes: &[u8]) {
    let Some((name, port)) = host::split(bytes) else { return };
    let authority = http::uri::Authority::try_from(bytes).expect("a host that is let through is one to others too");
    assert_eq!(authority.host().as_bytes(), name);
    assert_eq!(authority.port_u16(), port);
    assert_eq!(host::split(name), Some((name, None)));
}

/// A PROXY protocol header is wanted until it is whole, and then is the same whatever follows; bytes that cannot become
/// one are refused and stay refused.
pub fn proxy_protocol(bytes: &[u8]) {
    let whole = proxy_protocol::parse(bytes);
    let decided = (0..=bytes.len()).find(|&upto| proxy_protocol::parse(&bytes[..upto]) != Ok(None));
    match (whole, decided) {
        (Ok(None), decided) => assert_eq!(decided, None),
        (Ok(Some(header)), decided) => {
            assert_eq!(decided, Some(header.length), "decided before or after its own length");
            assert_eq!(proxy_protocol::parse(&bytes[..header.length]), whole);
        }
        (Err(_), Some(upto)) => assert!(proxy_protocol::parse(&bytes[..upto]).is_err()),
        (Err(_), None) => unreachable!("the whole is one of its own beginnings"),
    }
}

/// What the client's address is found to be, the next hop finds too in what it is told, if it trusts this one and the same
/// proxies.
pub fn forwarded(bytes: &[u8]) {
    let (first, lines) = crate::first_line(bytes);
    let trusted = [ipnet::IpNet::new_assert(IpAddr::from([10, 0, 0, 0]), 8), "fd00::/8".parse().expect("a network")];
    let peer: IpAddr = match first.first() {
        Some(b'u') => [192, 0, 2, 7].into(),
        Some(b'6') => "fd00::7".parse().expect("an address"),
        _ => [10, 0, 0, 7].into(),
    };
    let headers = crate::header(lines, &["x-forwarded-for", "forwarded", "x-forwarded-proto", "x-forwarded-host"]);
    let host = std::str::from_utf8(first.get(1..).unwrap_or_default()).unwrap_or_default();
    let host = if host::is_valid(host.as_bytes()) { host } else { "" };
    let (from_peer, from_us) = (connection(peer), connection([10, 0, 0, 1].into()));

    for written in [ProxyFields::XForwarded, ProxyFields::Forwarded] {
        let client = resolve_client(&trusted, written, &from_peer, &headers);
        if !trusted.iter().any(|network| network.contains(&peer)) {
            assert_eq!(client.ip, peer, "a stranger was believed");
            assert!(!client.through_proxy);
        }
        if let (ProxyFields::XForwarded, true, Some(chain)) = (written, client.through_proxy, chain(&headers)) {
            let is_trusted = |ip: &IpAddr| trusted.iter().any(|network| network.contains(ip));
            let nearest = chain.iter().rev().find(|ip| !is_trusted(ip)).or(chain.first());
            assert_eq!(client.ip, *nearest.unwrap_or(&peer), "not the nearest address that is no proxy's");
        }
        let mut told = HeaderMap::new();
        for (name, value) in forwarded_headers(&from_peer, &client, &headers, host, true) {
            let before = value.and_then(|value| told.insert(name, value));
            assert!(before.is_none(), "a field is told twice");
        }
        let next = resolve_client(&trusted, written, &from_us, &told);
        assert_eq!((next.ip, next.scheme), (client.ip, client.scheme), "the next hop sees another client: {told:?}");
    }
}

/// The chain of X-Forwarded-For, where each member of it is a plain address.
fn chain(headers: &HeaderMap) -> Option<Vec<IpAddr>> {
    let lines = headers.get_all("x-forwarded-for").iter().map(|line| line.to_str().ok());
    let lines: Vec<&str> = lines.collect::<Option<_>>()?;
    let members = lines.iter().flat_map(|line| line.split(','));
    members.map(|member| member.trim().parse().ok().map(|ip: IpAddr| ip.to_canonical())).collect()
}

fn connection(client: IpAddr) -> Connection {
    let client = SocketAddr::new(client, 4711);
    let local = SocketAddr::from(([10, 0, 0, 1], 443));
    Connection { id: 1, peer: client, local, client, tls: None, cookie: None, listener: 0 }
}

/// Whether a frame is partly there does not depend on how its bytes arrived.
pub fn http2_frames(bytes: &[u8]) {
    let (mut whole, mut dripping) = (Frames::default(), Frames::default());
    let ended = whole.follow(bytes);
    let dripped = bytes.iter().fold(false, |ended, byte| dripping.follow(&[*byte]) | ended);
    assert_eq!(ended, dripped);
    assert_eq!(whole.partial(), dripping.partial());
}
