//! What says who asks.

use std::fmt;
use std::net::SocketAddr;

use http::{Method, Uri};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use sluice_auth::fuzz;
use sluice_vocabulary::IssuerName;
use sluice_vocabulary::request::{Connection, RequestView, Scheme};

const NOW: u64 = 1_700_000_000;

/// Of a token, or of the header and the claims of one on a line each, nothing is accepted that is past its expiry, for
/// another audience, or without a place in a request.
pub fn token(bytes: &[u8]) {
    judge(bytes);
    let (header, claims) = crate::first_line(bytes);
    judge(format!("{}.{}.c2lnbmF0dXJl", fuzz::encode(header), fuzz::encode(claims)).as_bytes());
}

fn judge(token: &[u8]) {
    let issuer = IssuerName::new("corp").expect("a name");
    let Some((_, identity)) = fuzz::read_token(token, &issuer, "edge", NOW) else { return };
    assert!(identity.expires_at > NOW);
    if identity.claim_text("scope").is_some() {
        assert!(identity.scopes().all(|scope| !scope.is_empty() && !scope.contains(' ')));
    }
    let audience = identity.claim("aud").expect("an audience");
    let ours = |value: &Value| value == "edge";
    assert!(ours(&audience) || audience.as_array().is_some_and(|list| list.iter().any(ours)));
    assert!(identity.claim("nbf").is_none_or(|nbf| nbf.as_f64().is_some_and(|nbf| nbf <= NOW as f64)));

    let mut headers = http::HeaderMap::new();
    let field = [b"Bearer ", token].concat();
    headers.insert("authorization", http::HeaderValue::from_bytes(&field).expect("a token fits in a field"));
    assert_eq!(fuzz::bearer_token(&headers), Some(token));
}

/// Of a DPoP proof, or of the header and the claims of one on a line each, nothing is taken that names another place than
/// the request's, that brings a private key, or that has two readings; and no bytes are signed by a key that did not.
pub fn dpop_proof(bytes: &[u8]) {
    judge_proof(bytes);
    let (header, claims) = crate::first_line(bytes);
    judge_proof(format!("{}.{}.c2lnbmF0dXJl", fuzz::encode(header), fuzz::encode(claims)).as_bytes());
}

/// The one signed proof that fuzzing can come by: the seed's, from RFC 9449 section 7.1.
const SIGNED: &str = "e1j3V_bKic8-LAEB";

fn judge_proof(proof: &[u8]) {
    let Some(read) = fuzz::read_proof(proof) else { return };
    assert!(!read.signed || read.id == SIGNED, "signed by nobody: {read:?}");
    assert_eq!(fuzz::read_proof(proof), Some(read.clone()), "a second reading is another");
    assert!((1..=256).contains(&read.id.len()) && read.thumbprint.len() == 43);
    let header = proof.split(|&byte| byte == b'.').next().unwrap_or_default();
    let header: Value = serde_json::from_slice(&fuzz::decode(header).expect("it was read")).expect("it was read");
    let key = header["jwk"].as_object().expect("a key");
    assert!(header["typ"] == "dpop+jwt" && !["d", "p", "q", "k"].iter().any(|name| key.contains_key(*name)));

    let (connection, headers) = (connection(), http::HeaderMap::new());
    let request = request(&connection, &headers, None);
    if fuzz::target_is_for(&read.target, &request)
        && let Ok(uri) = read.target.parse::<Uri>()
    {
        assert_eq!(uri.scheme_str(), Some("https"), "{uri}");
        let host = uri.host().expect("a host").to_ascii_lowercase();
        assert_eq!(host.strip_suffix('.').unwrap_or(&host), "api.example", "{uri}");
        assert!(uri.port().is_none_or(|port| port.as_u16() == 443), "{uri}");
        assert!(!uri.authority().expect("an authority").as_str().contains('@'), "{uri}");
    }
}

fn connection() -> Connection {
    let address = SocketAddr::from(([192, 0, 2, 7], 4711));
    Connection { id: 1, peer: address, local: address, client: address, tls: None, cookie: None, listener: 0 }
}

fn request<'r>(connection: &'r Connection, headers: &'r http::HeaderMap, query: Option<&'r str>) -> RequestView<'r> {
    RequestView {
        method: &Method::GET,
        scheme: Scheme::Https,
        host: "api.example",
        port: None,
        path: "/a/b",
        query,
        headers,
        client: connection.client.ip(),
        connection,
    }
}

/// Of a request whose query is the first line and whose cookies are the others, the token `t` is in one place or it is
/// none; it is gone once it was taken out, what is left was there before, and no record of the query holds it.
pub fn token_place(bytes: &[u8]) {
    let (query, cookies) = crate::first_line(bytes);
    let query = std::str::from_utf8(query).ok().filter(|query| !query.is_empty());
    let fields = cookies.split(|&byte| byte == b'\n').filter_map(|line| http::HeaderValue::from_bytes(line).ok());
    let headers: http::HeaderMap = fields.map(|field| (http::header::COOKIE, field)).collect();
    let connection = connection();
    let Ok(Some(found)) = fuzz::located_token(&request(&connection, &headers, query), "t") else { return };
    let fields = || headers.get_all(http::header::COOKIE).iter().map(http::HeaderValue::as_bytes);
    let cookies = fields().flat_map(|field| field.split(|&byte| byte == b';')).filter(|pair| {
        pair.strip_prefix(b" ").unwrap_or(pair).strip_prefix(b"t=").is_some_and(|value| value == found.token)
    });
    let parameters = query.into_iter().flat_map(|query| query.split('&')).filter(|pair| pair.starts_with("t="));
    assert_eq!(cookies.count() + parameters.count(), 1, "{found:?}");

    let left: http::HeaderMap = found.cookies.iter().map(|field| (http::header::COOKIE, field.clone())).collect();
    let again = fuzz::located_token(&request(&connection, &left, found.query.as_deref()), "t");
    assert_eq!(again, Ok(None), "it was not taken out: {found:?}");
    let length = |query: Option<&str>| query.map_or(0, str::len);
    let before = fields().map(<[u8]>::len).sum::<usize>() + length(query);
    let after = found.cookies.iter().map(|field| field.len()).sum::<usize>() + length(found.query.as_deref());
    assert!(before >= after + 2 + found.token.len(), "{found:?}");
    let recorded = found.recorded.unwrap_or_default();
    assert!(recorded.split('&').filter(|pair| pair.starts_with("t=")).all(|pair| pair == "t=[redacted]"), "{recorded}");
}

/// What is read strictly, serde_json reads alike; and the two strict readers never differ.
pub fn strict_json(bytes: &[u8]) {
    let strict = fuzz::strict_object(bytes);
    if let Some(object) = &strict {
        let lenient: Value = serde_json::from_slice(bytes).expect("strict JSON is JSON");
        assert_eq!(lenient, Value::Object(object.clone()));
        let Names(names) = serde_json::from_slice(bytes).expect("and an object");
        assert_eq!(names.len(), object.len(), "a member is there twice: {names:?}");
        let written = serde_json::to_vec(object).expect("it can be written");
        assert!(fuzz::strict_object(&written).is_some(), "what was read strictly is refused once written");
    }
    match (&strict, fuzz::naive_object(bytes)) {
        (None, None) => {}
        (Some(object), Some(naive)) => assert!(object.iter().eq(naive.iter()), "two readers, two readings"),
        (object, _) => panic!("one reader takes what the other refuses: {object:?}"),
    }
}

/// An answer of an introspection endpoint says yes only if whoever reads it reads that yes, and then nothing that it says
/// of the token is against it.
pub fn introspection(bytes: &[u8]) {
    let issuer = IssuerName::new("opaque").expect("a name");
    let Some(outcome) = fuzz::introspection_answer(bytes, &issuer, "https://id", "edge", NOW) else { return };
    let told: Value = serde_json::from_slice(bytes).expect("an answer is JSON");
    let Names(names) = serde_json::from_slice(bytes).expect("and an object");
    assert_eq!(names.iter().filter(|name| *name == "active").count(), 1);
    let Some(identity) = outcome else {
        assert!(told["active"].is_boolean());
        return;
    };
    assert_eq!(told["active"], Value::Bool(true));
    assert!(identity.expires_at > NOW && !identity.claim("active").is_some());
    assert!(told.get("iss").is_none_or(|iss| iss == "https://id"));
    assert!(told.get("exp").is_none_or(|exp| exp.as_f64().is_some_and(|exp| exp > NOW as f64)));
    assert!(told.get("nbf").is_none_or(|nbf| nbf.as_f64().is_some_and(|nbf| nbf <= NOW as f64)));
    let kind = |name: &str| told.get(name).map(|kind| kind.as_str().expect("a text").to_ascii_lowercase());
    assert!(kind("token_type").is_none_or(|kind| kind == "bearer" || kind == "access_token"));
    assert!(kind("token_use").is_none_or(|kind| kind == "access" || kind == "access_token"));
}

/// The names of an object's members, those that are there twice among them.
struct Names(Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = members.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_map(Members)
    }
}

/// Every key that is taken from a set can be found and is for something, and the same set read again withdraws none.
pub fn key_set(bytes: &[u8]) {
    match fuzz::key_set(bytes) {
        Ok(keys) => assert!(keys.is_none_or(|count| count <= 64)),
        Err(broken) => panic!("{broken}"),
    }
}
