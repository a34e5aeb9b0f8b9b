//! Ways in for the fuzz targets (`gateway/fuzz`), which see only what is public. They are no part of this crate's
//! interface, decide nothing, and make no [`Verified`](crate::Verified): nothing else should call them.

use http::HeaderMap;
use serde_json::{Map, Value};
use sluice_vocabulary::request::RequestView;
use sluice_vocabulary::{Identity, IssuerName};

use crate::algorithm::{Algorithm, AlgorithmSet};
use crate::base64url;
use crate::bearer::{self, Found};
use crate::claims::{self, Rules};
use crate::dpop::proof::Proof;
use crate::dpop::target;
use crate::introspection::answer::{self, Judge};
use crate::jwk::{KeySet, Lookup};
use crate::jws::{Compact, Header, MAX_SIGNATURE};
use crate::places::{Places, TokenPlace};
use crate::{cookie, naive_json, query, strict_json};

/// The longest token read here, well above any fuzzer's inputs.
const LONGEST: usize = 64 * 1024;

/// The object that `bytes` are, read strictly.
pub fn strict_object(bytes: &[u8]) -> Option<Map<String, Value>> {
    strict_json::object(bytes).ok()
}

/// The same object by a second reader, written in another way.
pub fn naive_object(bytes: &[u8]) -> Option<Map<String, Value>> {
    naive_json::object(bytes).ok()
}

/// What follows `Bearer` in a request's header, if it has the form of a token.
pub fn bearer_token(headers: &HeaderMap) -> Option<&[u8]> {
    match bearer::find(headers) {
        Found::Token(token, _) if bearer::is_token(token) => Some(token),
        _ => None,
    }
}

/// The token of `request` where it may be in `Authorization`, in the cookie `name` or in the parameter `name`; and the
/// request's cookies and query without it, each field as it is sent on.
///
/// # Errors
/// Why there is not one reading of what is there.
pub fn located_token(request: &RequestView<'_>, name: &str) -> Result<Option<LocatedToken>, &'static str> {
    let places =
        [TokenPlace::Header("authorization".into()), TokenPlace::Cookie(name.into()), TokenPlace::Query(name.into())];
    let Some(located) = Places::new(&places).find(request)? else { return Ok(None) };
    let cookies = request.headers.get_all(http::header::COOKIE).iter();
    Ok(Some(LocatedToken {
        token: located.token.into_owned(),
        cookies: cookies.filter_map(|field| cookie::without(field, name)).collect(),
        query: request.query.and_then(|query| query::without(query, name)),
        recorded: request.query.map(|query| query::hide(query, &[name.into()]).into_owned()),
    }))
}

/// What [`located_token`] gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocatedToken {
    /// The token.
    pub token: Vec<u8>,
    /// The fields `Cookie` without it.
    pub cookies: Vec<http::HeaderValue>,
    /// The query without it.
    pub query: Option<String>,
    /// The query as it may be recorded.
    pub recorded: Option<String>,
}

/// Everything that verification reads of a token, but for the signature's being right: its algorithm, and the identity it
/// would stand for with an issuer whose audience is `audience`, without leeway.
pub fn read_token(token: &[u8], issuer: &IssuerName, audience: &str, now: u64) -> Option<(&'static str, Identity)> {
    let compact = Compact::split(token, LONGEST).ok()?;
    let header = base64url::decode(compact.header).ok()?;
    let header = Header::parse(&header).ok()?;
    let payload = base64url::decode(compact.payload).ok()?;
    let claims = claims::read(payload).ok()?;
    compact.decode_signature(&mut [0; MAX_SIGNATURE]).ok()?;
    let rules = Rules { audiences: Some(vec![audience.into()]), leeway: 0 };
    let expires_at = rules.judge(&claims, now).ok()?;
    Some((header.algorithm.name(), claims::identity(issuer, None, claims, expires_at)))
}

/// What the body of an introspection answer comes to: none where it is no answer, and in it the identity of an active token
/// that is accepted, with an issuer whose `iss` is `iss` and whose audience is `audience`, without leeway.
pub fn introspection_answer(
    body: &[u8],
    issuer: &IssuerName,
    iss: &str,
    audience: &str,
    now: u64,
) -> Option<Option<Identity>> {
    let told = answer::read_body(body).ok()?;
    let rules = Rules { audiences: Some(vec![audience.into()]), leeway: 0 };
    let judge = Judge { issuer: issuer.clone(), iss: iss.into(), rules, scope_claim: None, belief: 10 };
    Some(told.and_then(|told| judge.judge(told, now).ok()))
}

/// Bytes as JOSE encodes them.
pub fn encode(bytes: &[u8]) -> String {
    base64url::encode(bytes)
}

/// The same, back.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    base64url::decode(text).ok()
}

/// How many keys a set holds that can verify a signature, where it is a set at all. Each must be found again by its own
/// name and algorithm, and none may be taken for withdrawn when the same set is read a second time.
///
/// # Errors
/// What was not so.
pub fn key_set(json: &[u8]) -> Result<Option<usize>, &'static str> {
    let read = || KeySet::parse(json, Algorithm::ALL.iter().collect::<AlgorithmSet>()).ok();
    let (Some(first), Some(second)) = (read(), read()) else { return Ok(None) };
    for key in first.keys() {
        for algorithm in key.algorithms() {
            let Lookup::Candidates(candidates) = first.lookup(key.kid(), algorithm) else {
                return Err("a key is not found by its own name");
            };
            if candidates.iter().any(|candidate| candidate.verifies(algorithm, b"message", b"signature")) {
                return Err("a key verifies what it never signed");
            }
        }
        if key.algorithms().next().is_none() {
            return Err("a key is for nothing");
        }
    }
    match second.succeed(Some(&first)) {
        (_, true) => Err("a key was withdrawn by its own set"),
        (same, false) => Ok(Some(same.keys().len())),
    }
}

/// What is read of a DPoP proof, and whether its signature is that of the key it brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadProof {
    /// The thumbprint of its key.
    pub thumbprint: String,
    /// `jti`.
    pub id: String,
    /// `htu`.
    pub target: String,
    /// `iat`.
    pub issued_at: u64,
    /// Whether it is signed.
    pub signed: bool,
}

/// Everything that a check reads of a DPoP proof.
pub fn read_proof(proof: &[u8]) -> Option<ReadProof> {
    let proof = Proof::read(proof, Algorithm::ALL.iter().collect::<AlgorithmSet>()).ok()?;
    let claims = proof.claims().ok()?;
    Some(ReadProof {
        thumbprint: proof.thumbprint().encode(),
        id: claims.id,
        target: claims.target,
        issued_at: claims.issued_at,
        signed: proof.verify().is_ok(),
    })
}

/// Whether a proof's `htu` is where `request` went.
pub fn target_is_for(htu: &str, request: &RequestView<'_>) -> bool {
    target::is_for(htu, request)
}
