//! `sluice token`: make and read tokens while developing, and ask a gateway what one is worth. Never a part of serving.

use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Subcommand;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value, json};
use sluice_auth::{MacAlgorithm, SecretEncoding, SharedSecret};
use sluice_vocabulary::clock::{Clock, SystemClock};
use sluice_vocabulary::measure::Span;
use sluice_vocabulary::secret::SecretSource;

use super::inspect::{self, Judging};
use super::{Failure, say};

/// What `mint` and `inspect` take.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out dev.pem\n  \
    sluice token mint --key dev.pem --alg ES256 --issuer https://id.test --audience edge --scope orders:read\n  \
    sluice token mint --key dev.pem --alg ES256 --jwks > jwks.json\n  \
    openssl rand -hex 32 > dev.secret\n  \
    sluice token mint --secret-file dev.secret --alg HS256 --issuer https://id.test --audience edge\n  \
    sluice token inspect \"$TOKEN\"\n  \
    sluice token inspect - --request 'GET https://api.example.com/orders/7' < token.txt")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Sign a token with a private key of yours
    Mint(Box<Mint>),
    /// Show what a token says; with --request, what it is worth to that request, and why
    Inspect(Box<Inspect>),
}

#[derive(Debug, clap::Args)]
struct Mint {
    /// Private key, PEM (PKCS#8; RSA also PKCS#1)
    #[arg(long, value_name = "FILE", required_unless_present = "secret_file", conflicts_with = "secret_file")]
    key: Option<PathBuf>,
    /// Shared secret for HS256, HS384 or HS512, as the gateway reads it: its bytes but for one line break at the end
    #[arg(long, value_name = "FILE", conflicts_with = "jwks")]
    secret_file: Option<PathBuf>,
    /// The secret is in base64url, as with `encoding: base64url`
    #[arg(long, requires = "secret_file")]
    base64url: bool,
    /// RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 or EdDSA; with a secret HS256, HS384 or HS512
    #[arg(long, default_value = "ES256")]
    alg: Algorithm,
    /// `typ`; at+jwt for an access token by RFC 9068
    #[arg(long, default_value = "JWT")]
    typ: String,
    /// Key id for the header and the key set
    #[arg(long, default_value = "dev")]
    kid: String,
    /// `iss`
    #[arg(long, default_value = "https://issuer.test")]
    issuer: String,
    /// `aud`; may be given more than once
    #[arg(long, default_value = "edge")]
    audience: Vec<String>,
    /// `sub`
    #[arg(long, default_value = "developer")]
    subject: String,
    /// A scope; may be given more than once
    #[arg(long)]
    scope: Vec<String>,
    /// Another claim, NAME=VALUE; the value is JSON, or else a string
    #[arg(long, value_name = "NAME=VALUE")]
    claim: Vec<String>,
    /// How long it is good for
    #[arg(long, default_value = "1h", value_parser = Span::parse)]
    ttl: Span,
    /// Print the public key as a JSON Web Key Set instead of a token
    #[arg(long)]
    jwks: bool,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --request the token is taken apart and its signature is NOT checked. With it, a running gateway \
    (or a configuration file) judges the token as it would judge that request, without serving or counting it: exit code 0 \
    when the request would pass, 1 when it would not. Nothing printed holds the token.\n\nExamples:\n  \
    sluice token inspect \"$TOKEN\"\n  \
    sluice token inspect - --request 'GET https://api.example.com/orders/7' < token.txt\n  \
    sluice token inspect - --request 'GET https://api.example.com/' --admin unix:/run/sluice/admin.sock\n  \
    sluice token inspect - --request 'GET https://api.example.com/' -c sluice.yaml --json\n  \
    sluice token inspect - --request 'POST https://api.example.com/pay' --header \"DPoP: $PROOF\""
)]
struct Inspect {
    /// The token, or - for standard input
    token: String,
    #[command(flatten)]
    judging: Judging,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::Mint(mint) => {
            let key = match (&mint.key, &mint.secret_file) {
                (Some(key), _) => read_key(key, mint.alg)?,
                (None, Some(secret)) => read_secret(secret, mint.alg, mint.base64url)?,
                (None, None) => return Err(Failure::usage("expected --key or --secret-file")),
            };
            if mint.jwks {
                let set = key_set(&key, mint.alg, &mint.kid).map_err(Failure::usage)?;
                say(format_args!("{set:#}\n"))
            } else {
                say(format_args!("{}\n", mint_token(mint, &key)?))
            }
        }
        Action::Inspect(inspect) => show(inspect),
    }
}

fn read_key(path: &Path, algorithm: Algorithm) -> Result<EncodingKey, Failure> {
    let pem = std::fs::read(path).map_err(|e| Failure::usage(format!("cannot read key {}: {e}", path.display())))?;
    let key = match algorithm {
        Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&pem),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem),
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => {
            return Err(Failure::usage(format!("{algorithm:?} takes a shared secret: name it with --secret-file")));
        }
        _ => EncodingKey::from_rsa_pem(&pem),
    };
    key.map_err(|e| Failure::usage(format!("{} is not a private key for {algorithm:?}: {e}", path.display())))
}

/// A secret as the gateway would read it from the section `secrets` of an issuer, and by its rules.
fn read_secret(path: &Path, algorithm: Algorithm, is_encoded: bool) -> Result<EncodingKey, Failure> {
    let Some(mac) = MacAlgorithm::ALL.into_iter().find(|mac| mac.name() == format!("{algorithm:?}")) else {
        return Err(Failure::usage(format!("{algorithm:?} takes a private key: name it with --key, or choose HS256")));
    };
    let shared = SharedSecret {
        kid: None,
        algorithm: mac,
        secret: SecretSource::File(path.to_owned()),
        encoding: if is_encoded { SecretEncoding::Base64url } else { SecretEncoding::Plain },
    };
    let secret = shared.read(Path::new(""), &sluice_vocabulary::Path::root()).map_err(|fault| {
        let help = fault.help.map(|help| format!(" ({help})")).unwrap_or_default();
        Failure::usage(format!("{}{help}", fault.message))
    })?;
    Ok(EncodingKey::from_secret(secret.expose()))
}

/// The public half of `key` as a key set with one key.
pub(super) fn key_set(key: &EncodingKey, algorithm: Algorithm, kid: &str) -> Result<Value, String> {
    let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(key, algorithm)
        .map_err(|e| format!("no public key for {algorithm:?}: {e}"))?;
    jwk.common.key_id = Some(kid.to_owned());
    jwk.common.public_key_use = Some(jsonwebtoken::jwk::PublicKeyUse::Signature);
    Ok(json!({ "keys": [jwk] }))
}

fn mint_token(mint: &Mint, key: &EncodingKey) -> Result<String, Failure> {
    let now = SystemClock.unix_seconds();
    let mut claims = Map::new();
    claims.insert("iss".into(), json!(mint.issuer));
    claims.insert("sub".into(), json!(mint.subject));
    claims.insert("aud".into(), if let [one] = &mint.audience[..] { json!(one) } else { json!(mint.audience) });
    claims.insert("iat".into(), json!(now));
    claims.insert("exp".into(), json!(now + mint.ttl.get().as_secs()));
    if !mint.scope.is_empty() {
        claims.insert("scope".into(), json!(mint.scope.join(" ")));
    }
    for claim in &mint.claim {
        let (name, value) = claim
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{claim:?} is not a claim: expected NAME=VALUE")))?;
        claims.insert(name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| json!(value)));
    }
    let header = Header { kid: Some(mint.kid.clone()), typ: Some(mint.typ.clone()), ..Header::new(mint.alg) };
    jsonwebtoken::encode(&header, &claims, key).map_err(Failure::run)
}

fn show(inspect: &Inspect) -> Result<(), Failure> {
    let mut token = inspect.token.clone();
    if token == "-" {
        token.clear();
        std::io::stdin().take(128 * 1024).read_to_string(&mut token).map_err(Failure::run)?;
    }
    let token = token.trim();
    if let Some(request) = &inspect.judging.request {
        return inspect::judge(&inspect.judging, request, token, inspect.json);
    }
    let token = token.strip_prefix("Bearer ").unwrap_or(token);
    let parts: Vec<&str> = token.split('.').collect();
    let [header, claims, _signature] = parts[..] else {
        return Err(Failure::usage(format!(
            "not a signed token: expected 3 parts between dots, found {}",
            parts.len()
        )));
    };
    let header = part("header", header)?;
    let claims = part("claims", claims)?;
    if inspect.json {
        return say(format_args!("{:#}\n", json!({ "header": header, "claims": claims, "signature_checked": false })));
    }
    let mut text = format!("header  {header:#}\nclaims  {claims:#}\n");
    let now = SystemClock.unix_seconds();
    for (name, meaning) in [("exp", "expires"), ("nbf", "valid from"), ("iat", "issued")] {
        if let Some(at) = claims.get(name).and_then(Value::as_u64) {
            text.push_str(&format!("{meaning:<10} {}\n", relative(at, now)));
        }
    }
    text.push_str("The signature was not checked.\n");
    say(text)
}

fn part(which: &str, text: &str) -> Result<Value, Failure> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|e| Failure::usage(format!("the {which} is not base64url without padding: {e}")))?;
    serde_json::from_slice(&bytes).map_err(|e| Failure::usage(format!("the {which} is not JSON: {e}")))
}

fn relative(at: u64, now: u64) -> String {
    let apart = Span::secs(at.abs_diff(now).min(365 * 86_400));
    match at.cmp(&now) {
        std::cmp::Ordering::Greater => format!("in {apart}"),
        std::cmp::Ordering::Equal => "now".to_owned(),
        std::cmp::Ordering::Less => format!("{apart} ago"),
    }
}
