//! Sets the security policy of responses, and answers for cross-origin requests.
//!
//! ```yaml
//! plugins:
//!   response-policy:
//!     component: plugins/response_policy.wasm
//!     grants: { random: true }
//!     config:
//!       fields:                        # set on every response; what the upstream said of them is replaced
//!         strict_transport_security: max-age=31536000; includeSubDomains   # only where the client used https (RFC 6797 7.2)
//!         content_security_policy: "default-src 'self'; script-src 'nonce-{nonce}'"
//!         frame_options: DENY
//!         referrer_policy: strict-origin-when-cross-origin
//!         permissions_policy: camera=(), geolocation=()
//!         content_type_options: nosniff
//!         opener_policy: same-origin
//!         embedder_policy: require-corp
//!         resource_policy: same-site
//!       keep: [content_security_policy]   # where the upstream says something itself, that stays
//!       remove: [server, x-powered-by]
//!       nonce_header: x-csp-nonce      # tells the upstream the nonce; this is the default
//!       cors:                          # without it nothing is said of other origins, and nothing is answered for the upstream
//!         origins: ["https://app.example.com", "https://*.example.org"]    # or ["*"]
//!         credentials: true
//!         methods: [GET, POST, PUT]
//!         headers: [content-type, authorization]
//!         expose: [x-request-id]
//!         max_age: 600                 # seconds
//! ```
//!
//! **Nonce.** Where a policy holds `{nonce}`, every request gets 128 random bits of its own. The upstream finds them in
//! `x-csp-nonce`, whatever the client sent in that field, and writes them into its markup. The response phase reads them back from
//! the request as it was sent; it never trusts that an instance lived on between the two.
//!
//! **CORS** (Fetch standard, 3.3). A preflight is answered with 204 and never reaches the upstream: to an origin, method and
//! fields that are listed with permission, to all others without. What the upstream itself says about CORS is removed, so it
//! can permit no more than is written here. With `credentials` no `*` is allowed anywhere, neither in a list here nor on the wire, and
//! the origin `null` is not allowed, since every sandboxed frame is that. `https://*.example.org` is every name below
//! `example.org`, not that name itself, by the same scheme and port. A route with `cors` of its own answers preflights before
//! any plugin is called: use one or the other. Where a route verifies tokens a preflight has none: give `OPTIONS` a route without.
//!
//! A configuration that would permit what nobody meant fails every request, with the reason in the log.

mod cors;
mod fields;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sluice_plugin_sdk::{
    Action, Answer, Failed, Outcome, Request, RequestHeaders, Response, ResponseHeaders, SentRequest, config, export,
    random,
};

use cors::{Cors, Preflight};

struct ResponsePolicy;

impl RequestHeaders for ResponsePolicy {
    fn on_request_headers(request: Request) -> Outcome {
        let header = nonce_header();
        // Also where no policy holds a nonce: what a client says there must never look like the gateway's word.
        if wants_nonce() {
            request.set_header(&header, &new_nonce())?;
        } else {
            request.remove_header(&header)?;
        }
        let Some(cors) = configured_cors()? else { return Ok(Action::Continue) };
        let origins = request.header_values("origin");
        let methods = request.header_values("access-control-request-method");
        if request.method() != "OPTIONS" || origins.is_empty() || methods.is_empty() {
            return Ok(Action::Continue);
        }
        let asked = Preflight { origins, methods, headers: request.header_values("access-control-request-headers") };
        let mut answer = Answer::new(204);
        for (name, value) in cors.preflight(&asked) {
            answer = answer.header(name, value);
        }
        Ok(answer.into())
    }
}

impl ResponseHeaders for ResponsePolicy {
    fn on_response_headers(request: SentRequest, response: Response) -> Outcome {
        for name in list("remove") {
            response.remove_header(&name)?;
        }
        set_fields(&request, &response)?;
        if let Some(cors) = configured_cors()? {
            cors::FIELDS.iter().try_for_each(|name| response.remove_header(name))?;
            for (name, value) in cors.actual(&request.header_values("origin")) {
                if name == "vary" {
                    vary_on(&response, &value)?;
                } else {
                    response.set_header(name, &value)?;
                }
            }
        }
        Ok(Action::Continue)
    }
}

fn set_fields(request: &SentRequest, response: &Response) -> Result<(), Failed> {
    let kept: Vec<String> = list("keep").collect();
    let is_secure = request.scheme() == "https";
    for (key, name) in fields::FIELDS {
        let Some(value) = config::get(&format!("/fields/{key}")) else { continue };
        if fields::needs_tls(key) && !is_secure
            || kept.iter().any(|kept| kept == key) && response.header(name).is_some()
        {
            continue;
        }
        let value =
            if value.contains(fields::NONCE) { value.replace(fields::NONCE, &nonce_of(request)) } else { value };
        response
            .set_header(name, &value)
            .map_err(|fault| format!("fields.{key}: {value:?} cannot be the value of {name}: {fault}"))?;
    }
    Ok(())
}

fn wants_nonce() -> bool {
    fields::FIELDS
        .iter()
        .any(|(key, _)| config::get(&format!("/fields/{key}")).is_some_and(|value| value.contains(fields::NONCE)))
}

fn nonce_header() -> String {
    config::get("nonce_header").unwrap_or_else(|| "x-csp-nonce".to_owned())
}

/// The nonce that the upstream was told. If another plugin made something else of the field, one that is in no markup: no
/// script runs then, rather than one of somebody else's.
fn nonce_of(request: &SentRequest) -> String {
    match <[String; 1]>::try_from(request.header_values(&nonce_header())) {
        Ok([nonce]) if fields::is_nonce(&nonce) => nonce,
        _ => new_nonce(),
    }
}

fn new_nonce() -> String {
    Base64UrlUnpadded::encode_string(&random::bytes(fields::NONCE_BYTES))
}

/// Says that the response hangs on the origin, beside whatever else it hangs on.
fn vary_on(response: &Response, name: &str) -> Result<(), Failed> {
    let is_said = response
        .header_values("vary")
        .iter()
        .flat_map(|value| value.split(','))
        .any(|part| part.trim() == "*" || part.trim().eq_ignore_ascii_case(name));
    if !is_said {
        response.append_header("vary", name)?;
    }
    Ok(())
}

fn configured_cors() -> Result<Option<Cors>, Failed> {
    let origins: Vec<String> = list("cors/origins").collect();
    if origins.is_empty() {
        return Ok(None);
    }
    let credentials = match config::get("/cors/credentials").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => return Err(format!("cors.credentials: {other:?} is neither true nor false").into()),
    };
    let max_age = match config::get("/cors/max_age") {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| format!("cors.max_age: {text:?} is not a number of seconds"))?),
    };
    let [methods, headers, expose] = ["methods", "headers", "expose"].map(|key| list(&format!("cors/{key}")).collect());
    Ok(Some(Cors { origins, credentials, methods, headers, expose, max_age }.checked()?))
}

fn list(key: &str) -> impl Iterator<Item = String> {
    (0..).map_while(move |index| config::get(&format!("/{key}/{index}")))
}

export!(ResponsePolicy: RequestHeaders, ResponseHeaders);
