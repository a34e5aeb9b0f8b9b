//! Lets through only requests whose URL bears a valid signature that has not expired.
//!
//! ```yaml
//! plugins:
//!   signed-urls:
//!     component: plugins/signed_urls.wasm
//!     decides: true
//!     grants: { clock: true }
//!     config:
//!       keys: { "2026-11": dGhpcyBpcyBub3QgYSBzZWNyZXQsIGl0IGlzIGFuIGV4YW1wbGU }   # base64url, 32 bytes or more
//!       signed: [user, size]     # query parameters that the signature covers
//!       others: refuse           # or pass: what becomes of a URL with parameters beside these; `refuse` if absent
//!       methods: [GET]           # GET also allows HEAD; [GET] if absent
//!       longest: 604800          # seconds from now that a signature may still have; a week if absent
//! ```
//!
//! `/files/7?user=u-7&expires=1767225600&key=2026-11&signature=…` is signed by HMAC-SHA-256 over these lines, each with a line
//! feed behind it, and the result is written in base64url without padding:
//!
//! ```text
//! sluice signed url 1
//! GET
//! files.example.com
//! /files/7
//! 1767225600
//! user=u-7
//! ```
//!
//! They are: the method (`GET` for `HEAD` too); the host in lower case, without its port; the path as the gateway forwards it;
//! the second since 1970 from which on the URL is refused; then each parameter of `signed` that is there, in the order of
//! `signed`, exactly as it is written in the query. A signature is thus good for one host, path and method.
//!
//! **Rotation.** A URL names its key. Put the new key beside the old one, sign with the new one, and take the old one out when
//! what it signed has expired; taking it out takes back all of that at once.
//!
//! **Where keys come from.** A plugin's `config` is taken as it is written: it knows neither `{ file: … }` nor `{ env: … }`, so
//! the keys stand in the configuration file. Give that file to the gateway's user alone (mode 0600), and use keys that are for this and nothing else.
//!
//! What is said to the client tells an expired URL from an invalid one only where the signature is good.

mod signature;
mod target;

use sluice_plugin_sdk::{Action, Failed, Outcome, Refusal, Request, RequestHeaders, clock, config, export};

use signature::Key;
use target::{Others, Target};

/// A week.
const LONGEST: u64 = 7 * 24 * 3600;

struct SignedUrls;

impl RequestHeaders for SignedUrls {
    fn on_request_headers(request: Request) -> Outcome {
        let others = others()?;
        let longest = longest()?;
        let method = request.method();
        let Some(method) = allowed_method(&method) else {
            return Ok(Refusal::new().detail("signed URLs are not for this method").into());
        };
        let signed: Vec<String> = list("signed").collect();
        let query = request.query().unwrap_or_default();
        let target = match Target::read(&query, &signed, others) {
            Ok(target) => target,
            Err(why) => return Ok(invalid(why)),
        };
        let Some(key) = key(target.key)? else { return Ok(invalid("its key is not among the keys")) };
        let message = target.message(method, &request.host(), &request.path());
        if !key.has_signed(&message, target.signature) {
            return Ok(invalid("its signature is not this key's"));
        }
        let now = clock::since_epoch().as_secs();
        if target.expires <= now {
            return Ok(Refusal::new().detail("this URL has expired").into());
        }
        if target.expires - now > longest {
            return Ok(invalid("it expires later than `longest` allows"));
        }
        Ok(Action::Continue)
    }
}

fn invalid(why: &str) -> Action {
    Refusal::new().detail("this URL is not validly signed").reason(why).into()
}

fn others() -> Result<Others, Failed> {
    match config::get("others").as_deref() {
        None | Some("refuse") => Ok(Others::Refuse),
        Some("pass") => Ok(Others::Pass),
        Some(other) => Err(format!("others: {other:?} is neither `refuse` nor `pass`").into()),
    }
}

fn longest() -> Result<u64, Failed> {
    match config::get("longest") {
        None => Ok(LONGEST),
        Some(text) => text.parse().map_err(|_| format!("longest: {text:?} is not a number of seconds").into()),
    }
}

/// The method that was signed for this one.
fn allowed_method(method: &str) -> Option<&str> {
    let signed = if method == "HEAD" { "GET" } else { method };
    let mut listed = list("methods").peekable();
    let is_allowed = if listed.peek().is_none() { signed == "GET" } else { listed.any(|listed| listed == signed) };
    is_allowed.then_some(signed)
}

/// The key of this name; none where there is none. A key that is too weak fails the request, whoever signed it.
fn key(name: &str) -> Result<Option<Key>, Failed> {
    let Some(text) = config::get(&format!("/keys/{name}")) else { return Ok(None) };
    Ok(Some(Key::read(&text).map_err(|why| format!("keys.{name}: {why}"))?))
}

fn list(key: &str) -> impl Iterator<Item = String> {
    (0..).map_while(move |index| config::get(&format!("/{key}/{index}")))
}

export!(SignedUrls: RequestHeaders);
