//! Good tokens pass, by every algorithm; malformed and forged ones are refused, each cell of a generated table.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod common;

use common::*;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use sluice_auth::{Algorithm, Config, MacAlgorithm, RouteAuth, TokenPlace};
use sluice_vocabulary::Reason;

#[tokio::test]
async fn a_good_token_passes_by_every_algorithm() {
    let signers: Vec<_> = Algorithm::ALL.into_iter().map(|a| Signer::new(a.name(), a)).collect();
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&signers.iter().collect::<Vec<_>>()))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    for signer in &signers {
        let token = signer.sign(&claims());
        // The second time by the cache.
        for _ in 0..2 {
            let verified = world.bearer(&policy, &token).await.unwrap_or_else(|r| panic!("{}: {r:?}", signer.kid));
            let identity = verified.identity();
            assert_eq!(identity.subject(), Some("user-1"));
            assert_eq!(identity.scopes().collect::<Vec<_>>(), ["orders:read", "orders:list"]);
            assert_eq!(identity.expires_at, NOW + 600);
            assert_eq!(identity.claim_text("tenant").as_deref(), Some("acme"));
        }
    }
    assert!(world.metrics().contains("token_cache_hits_total 10"), "{}", world.metrics());
    assert!(world.metrics().contains(r#"verifications_total{issuer="corp",outcome="ok"} 20"#));
    world.stop().await;
}

/// What stands in the table: its place, its name, and the reason expected.
struct Cell {
    place: &'static str,
    name: String,
    token: String,
    reason: Reason,
}

fn cells(signer: &Signer, others: &[Signer]) -> Vec<Cell> {
    use Reason::{TokenExpired, TokenMalformed, TokenNotForUs, TokenNotYetValid, TokenRejected};
    let mut cells = Vec::new();
    let mut cell = |place, name: String, token, reason| cells.push(Cell { place, name, token, reason });
    let (header, payload) = (signer.header().to_string(), claims().to_string());
    let good = signer.sign(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let own = signer.algorithm;

    // Shape: parts missing, doubled, empty, too long.
    for (name, token) in [
        ("one part", parts[0].to_owned()),
        ("two parts", parts[..2].join(".")),
        ("four parts", format!("{good}.AAAA")),
        ("five parts, as if encrypted", format!("{good}.AAAA.AAAA")),
        ("dots alone", "..".into()),
        ("leading dot", format!(".{good}")),
        ("trailing dot", format!("{good}.")),
        ("empty header", format!(".{}.{}", parts[1], parts[2])),
        ("over the longest", signer.sign(&with(claims(), "pad", json!("x".repeat(16_384))))),
    ] {
        cell("shape", name.into(), token, TokenMalformed);
    }
    cell("shape", "empty payload".into(), format!("{}..{}", parts[0], parts[2]), TokenMalformed);
    cell("shape", "empty signature".into(), format!("{}.{}.", parts[0], parts[1]), TokenRejected);

    // Encoding: each part spelled in a way that lenient decoders take. The signature is right over what is sent.
    for (name, spoil) in [
        ("padding", (|part: &str| format!("{part}==")) as fn(&str) -> String),
        ("the other alphabet", |part| format!("{part}+/A=").replace('=', "A")),
        ("tilde", |part| format!("{part}~")),
        ("impossible length", |part| format!("{part}{}", "A".repeat((5 - part.len() % 4) % 4))),
    ] {
        // An equals sign before the end is not even of a bearer token's alphabet.
        let within = if name == "padding" { Reason::CredentialsMalformed } else { TokenMalformed };
        cell("encoding", format!("header, {name}"), signer.sign_encoded(&spoil(parts[0]), parts[1]), within);
        cell("encoding", format!("payload, {name}"), signer.sign_encoded(parts[0], &spoil(parts[1])), within);
        let token = format!("{}.{}.{}", parts[0], parts[1], spoil(parts[2]));
        cell("encoding", format!("signature, {name}"), token, TokenMalformed);
    }

    // JSON: what is not one strict object.
    let objects = [
        ("empty", String::new()),
        ("null", "null".into()),
        ("array", "[]".into()),
        ("string", "\"x\"".into()),
        ("number", "1".into()),
        ("cut", "{\"a\"".into()),
        ("trailing text", "OBJECT{}".into()),
        ("trailing comma", "{\"a\":1,}".into()),
        ("comment", "{/**/}".into()),
        ("byte-order mark", "\u{feff}OBJECT".into()),
        ("duplicate member", "{\"x\":1,\"x\":1}".into()),
        ("duplicate by escape", "{\"x\":1,\"\\u0078\":1}".into()),
        ("duplicate within", "{\"x\":{\"y\":1,\"y\":1}}".into()),
        ("lone surrogate", "{\"x\":\"\\ud800\"}".into()),
        ("raw control character", "{\"x\":\"\u{1}\"}".into()),
        ("number out of range", "{\"x\":1e999}".into()),
        ("nested 17 deep", format!("{{\"x\":{}{}}}", "[".repeat(16), "]".repeat(16))),
        ("nested 2000 deep", format!("{{\"x\":{}{}}}", "[".repeat(2000), "]".repeat(2000))),
    ];
    for (name, text) in &objects {
        let as_header = text.replace("OBJECT", &header);
        let as_payload = text.replace("OBJECT", &payload);
        cell("json", format!("header, {name}"), signer.sign_raw(as_header, &payload), TokenMalformed);
        cell("json", format!("payload, {name}"), signer.sign_raw(&header, as_payload), TokenMalformed);
    }
    cell(
        "json",
        "header, bytes that are not UTF-8".into(),
        signer.sign_raw(b"{\"x\":\"\xff\"}", &payload),
        TokenMalformed,
    );
    cell(
        "json",
        "payload, bytes that are not UTF-8".into(),
        signer.sign_raw(&header, b"{\"x\":\"\xff\"}"),
        TokenMalformed,
    );

    // Header: every algorithm's name but the key's, and what must not be there. All rightly signed.
    for other in Algorithm::ALL.into_iter().filter(|other| *other != own) {
        let token = signer.sign_raw(with(signer.header(), "alg", json!(other.name())).to_string(), &payload);
        cell("algorithm", format!("{} said of a signature by {}", other.name(), own.name()), token, TokenRejected);
    }
    for none in ["none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "RS1", "ES256K", "dir", "A128GCM", "", " "]
    {
        let alg = with(signer.header(), "alg", json!(none)).to_string();
        cell("algorithm", format!("{none:?}, signed"), signer.sign_raw(&alg, &payload), TokenRejected);
        cell("algorithm", format!("{none:?}, unsigned"), format!("{}.{}.", b64(&alg), parts[1]), TokenRejected);
    }
    for (name, value) in [
        ("alg", json!(null)),
        ("alg", json!(["RS256"])),
        ("alg", json!(256)),
        ("kid", json!(1)),
        ("kid", json!(null)),
        ("kid", json!(["a"])),
        ("typ", json!(1)),
        ("typ", json!(null)),
    ] {
        let token = signer.sign_raw(with(signer.header(), name, value.clone()).to_string(), &payload);
        cell("header", format!("{name} is {value}"), token, TokenMalformed);
    }
    cell(
        "header",
        "no alg".into(),
        signer.sign_raw(without(signer.header(), "alg").to_string(), &payload),
        TokenMalformed,
    );
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
        ("crit", json!(null)),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("typ", json!("dpop+jwt")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("secevent+jwt")),
        ("typ", json!("JOSE")),
        ("typ", json!("")),
    ] {
        let token = signer.sign_raw(with(signer.header(), name, value.clone()).to_string(), &payload);
        cell("header", format!("{name} is {value}"), token, TokenRejected);
    }

    // The public key taken for a secret: MACs that are right, if it were one.
    for mac in MacAlgorithm::ALL {
        for (form, public) in signer.public_forms() {
            for kid in [Some(json!(signer.kid)), None] {
                let mut header = json!({"alg": mac.name(), "typ": "JWT"});
                let named = if kid.is_some() { "with" } else { "without" };
                kid.into_iter().for_each(|kid| header["kid"] = kid);
                let token = mac_token(mac, &public, &header, &claims());
                cell(
                    "confusion",
                    format!("{} by the public key as {form}, {named} kid", mac.name()),
                    token,
                    TokenRejected,
                );
            }
        }
    }

    // Keys that a token brings along or names: the signature is by a stranger's key that the header offers.
    let stranger = Signer::new(&signer.kid, own);
    for (name, value) in [
        ("jwk", stranger.jwk()),
        ("jku", json!("http://127.0.0.1:1/jwks")),
        ("x5u", json!("http://127.0.0.1:1/x5u")),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!("AAAA")),
    ] {
        let token = stranger.sign_raw(with(signer.header(), name, value).to_string(), &payload);
        cell("forged", format!("by the key in {name}"), token, TokenRejected);
    }
    cell("forged", "by a stranger's key under our kid".into(), stranger.sign(&claims()), TokenRejected);
    cell(
        "forged",
        "by a stranger's key without a kid".into(),
        stranger.sign_raw(without(stranger.header(), "kid").to_string(), &payload),
        TokenRejected,
    );
    for kid in ["unknown", "", "../../etc/passwd", "' OR 1=1 --", "\u{0}", &"k".repeat(2000)] {
        let token = signer.sign_raw(with(signer.header(), "kid", json!(kid)).to_string(), &payload);
        cell("forged", format!("kid {:.20?}", kid), token, TokenRejected);
    }
    for other in others.iter().filter(|other| other.kid != signer.kid) {
        let token = signer.sign_raw(with(signer.header(), "kid", json!(other.kid)).to_string(), &payload);
        cell("forged", format!("kid of the issuer's {} key", other.kid), token, TokenRejected);
    }
    let signature = signer.signature(own, good.rsplit_once('.').unwrap().0.as_bytes());
    let resigned = |bytes: &[u8]| format!("{}.{}.{}", parts[0], parts[1], b64(bytes));
    for at in [0, 1, signature.len() / 2, signature.len() - 1] {
        let mut flipped = signature.clone();
        flipped[at] ^= 1;
        cell("signature", format!("bit of byte {at} flipped"), resigned(&flipped), TokenRejected);
    }
    cell("signature", "one byte short".into(), resigned(&signature[1..]), TokenRejected);
    cell("signature", "one byte long".into(), resigned(&[&signature[..], &[0]].concat()), TokenRejected);
    cell("signature", "all zero".into(), resigned(&vec![0; signature.len()]), TokenRejected);
    cell("signature", "all ones".into(), resigned(&vec![0xff; signature.len()]), TokenRejected);
    cell("signature", "longer than any key's".into(), resigned(&[1; 2000]), TokenMalformed);
    let other_payload = b64(with(claims(), "sub", json!("root")).to_string());
    cell("signature", "of another payload".into(), format!("{}.{other_payload}.{}", parts[0], parts[2]), TokenRejected);

    // Claims, rightly signed.
    let hostile = [
        json!(null),
        json!(true),
        json!(""),
        json!("1800000600"),
        json!([]),
        json!([NOW + 600]),
        json!({}),
        json!(-1),
        json!(-0.001),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MIN),
        json!((NOW + 600) * 1000),
    ];
    for date in ["exp", "nbf", "iat"] {
        for value in &hostile {
            cell(
                "claims",
                format!("{date} is {value}"),
                signer.sign(&with(claims(), date, value.clone())),
                TokenRejected,
            );
        }
    }
    for (name, token_claims, reason) in [
        ("no exp", without(claims(), "exp"), TokenRejected),
        ("no aud", without(claims(), "aud"), TokenRejected),
        ("no iss", without(claims(), "iss"), TokenRejected),
        ("exp a minute ago", with(claims(), "exp", json!(NOW - 60)), TokenExpired),
        ("exp at the end of the leeway", with(claims(), "exp", json!(NOW - 30)), TokenExpired),
        ("exp 0", with(claims(), "exp", json!(0)), TokenExpired),
        ("exp 0.5", with(claims(), "exp", json!(0.5)), TokenExpired),
        ("nbf in a minute", with(claims(), "nbf", json!(NOW + 60)), TokenNotYetValid),
        ("nbf just past the leeway", with(claims(), "nbf", json!(NOW as f64 + 30.5)), TokenNotYetValid),
    ] {
        cell("claims", name.into(), signer.sign(&token_claims), reason);
    }
    for aud in ["", "Edge", "edge ", "edg", "edges", "https://edge", "*"] {
        cell("claims", format!("aud {aud:?}"), signer.sign(&with(claims(), "aud", json!(aud))), TokenNotForUs);
        cell("claims", format!("aud [{aud:?}]"), signer.sign(&with(claims(), "aud", json!([aud]))), TokenNotForUs);
    }
    for aud in [json!(null), json!(1), json!({"edge": 1}), json!(["edge", 1]), json!([["edge"]])] {
        cell("claims", format!("aud {aud}"), signer.sign(&with(claims(), "aud", aud)), TokenRejected);
    }
    for iss in ["", "https://id.example.com/", "HTTPS://ID.EXAMPLE.COM", "https://id.example.com.evil", "corp"] {
        cell("claims", format!("iss {iss:?}"), signer.sign(&with(claims(), "iss", json!(iss))), TokenNotForUs);
    }
    for iss in [json!(null), json!(1), json!([ISS]), json!({"url": ISS})] {
        cell("claims", format!("iss {iss}"), signer.sign(&with(claims(), "iss", iss)), TokenRejected);
    }
    for sub in [json!(null), json!(1), json!(["user-1"])] {
        cell("claims", format!("sub {sub}"), signer.sign(&with(claims(), "sub", sub)), TokenRejected);
    }
    cells
}

#[tokio::test]
async fn every_malformed_or_forged_token_is_refused_for_its_own_reason() {
    let signers: Vec<_> = Algorithm::ALL.into_iter().map(|a| Signer::new(a.name(), a)).collect();
    let published: Vec<Value> = signers.iter().map(|s| with(s.jwk(), "alg", json!(s.algorithm.name()))).collect();
    let endpoint = Endpoint::run(Behaviour::Serve(json!({ "keys": published }).to_string())).await;
    let (mut world, _) = World::with_keys(&endpoint, &route()).await;
    // The limit of checks has its own test; here all cells come from one address.
    world.config.signature_checks_per_address = None;
    let mut config = issuer_config(sluice_auth::JwksConfig::from_url(endpoint.url()));
    config.jwks.demand_burst = 2;
    let policy = world.apply(&issuers(config), &route());
    world.ready().await;

    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    let mut wrong = Vec::new();
    for signer in &signers {
        assert_eq!(world.reason(&policy, &signer.sign(&claims())).await, None, "the good token of {}", signer.kid);
        for cell in cells(signer, &signers) {
            *counts.entry(cell.place).or_default() += 1;
            let refusal = world.bearer(&policy, &cell.token).await.err();
            let reason = refusal.as_ref().map(|refusal| refusal.reason);
            if reason != Some(cell.reason) {
                wrong.push(format!(
                    "{}: {}: {}: {reason:?}, expected {:?}",
                    signer.kid, cell.place, cell.name, cell.reason
                ));
            }
            if let Some(refusal) = refusal {
                let told = format!("{refusal:?} {}", String::from_utf8(refusal.problem("r")).unwrap());
                let secret = cell.token.split('.').next_back().filter(|signature| signature.len() > 20);
                assert!(secret.is_none_or(|secret| !told.contains(secret)), "{} leaks", cell.name);
            }
        }
    }
    for (place, count) in &counts {
        println!("{place:>10}: {count:5} cells");
    }
    let total: usize = counts.values().sum();
    println!("     total: {total:5} cells, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(total > 1500, "the table has shrunk to {total}");
    assert!(endpoint.requests() <= 5, "unknown kids made {} fetches", endpoint.requests());
    world.stop().await;
}

/// What is tried against an issuer with `secret` for `own`, under the kid `k`.
fn cells_for_a_secret(own: MacAlgorithm, secret: &[u8], signers: &[Signer]) -> Vec<Cell> {
    use Reason::{TokenMalformed, TokenRejected};
    let mut cells = Vec::new();
    let mut cell = |place, name: String, token, reason| cells.push(Cell { place, name, token, reason });
    let header = json!({"alg": own.name(), "typ": "JWT", "kid": "k"});
    let good = mac_token(own, secret, &header, &claims());
    let (message, mac) = good.rsplit_once('.').unwrap();
    let bytes = b64_decode(mac);
    let remade = |mac: &[u8]| format!("{message}.{}", b64(mac));

    // Signatures, by any key and under any name; and the right MAC under the name of a signature.
    for signer in signers {
        for kid in ["k", &*signer.kid] {
            let by = signer.algorithm.name();
            let signed = signer.sign_raw(with(signer.header(), "kid", json!(kid)).to_string(), claims().to_string());
            cell("signature", format!("by a key for {by}, kid {kid}"), signed, TokenRejected);
            let brought = with(with(signer.header(), "kid", json!(kid)), "jwk", signer.jwk());
            let signed = signer.sign_raw(brought.to_string(), claims().to_string());
            cell("signature", format!("by a key for {by} that it brings, kid {kid}"), signed, TokenRejected);
        }
        let said = with(header.clone(), "alg", json!(signer.algorithm.name()));
        cell(
            "name",
            format!("{} said of the right MAC", said["alg"]),
            mac_token(own, secret, &said, &claims()),
            TokenRejected,
        );
        for (form, public) in signer.public_forms() {
            let token = mac_token(own, &public, &header, &claims());
            cell("secret", format!("the public key for {} as {form}", signer.algorithm.name()), token, TokenRejected);
        }
    }
    for other in MacAlgorithm::ALL.into_iter().filter(|other| *other != own) {
        let said = with(header.clone(), "alg", json!(other.name()));
        cell(
            "name",
            format!("{} said of the right MAC", other.name()),
            mac_token(own, secret, &said, &claims()),
            TokenRejected,
        );
        cell(
            "name",
            format!("{} by the right secret", other.name()),
            mac_token(other, secret, &said, &claims()),
            TokenRejected,
        );
        let token = mac_token(other, secret, &header, &claims());
        cell("name", format!("{} said of a MAC by {}", own.name(), other.name()), token, TokenRejected);
    }
    for none in ["none", "None", "NONE", "nOnE", "HS1", "hs256", "HMAC", "dir", "A128GCM", "", " "] {
        let said = with(header.clone(), "alg", json!(none));
        let macced = mac_token(own, secret, &said, &claims());
        let unsigned = format!("{}.", macced.rsplit_once('.').unwrap().0);
        cell("name", format!("{none:?}, with the right MAC"), macced, TokenRejected);
        cell("name", format!("{none:?}, with none"), unsigned, TokenRejected);
    }
    // Other secrets: empty, guessed, cut, or brought along.
    let nearly = [&secret[..secret.len() - 1], &[secret[secret.len() - 1] ^ 1]].concat();
    let guesses: [(&str, &[u8]); 9] = [
        ("empty", b""),
        ("a zero", &[0]),
        ("secret", b"secret"),
        ("the kid", b"k"),
        ("the iss", ISS.as_bytes()),
        ("the algorithm", own.name().as_bytes()),
        ("all but its end", &secret[..secret.len() - 1]),
        ("another last bit", &nearly),
        ("zeros of its length", &[0; 64]),
    ];
    for (name, guess) in guesses {
        for kid in ["k", "other", "", "/dev/null", "../../dev/null"] {
            let said = with(header.clone(), "kid", json!(kid));
            let token = mac_token(own, guess, &said, &claims());
            cell("secret", format!("{name}, kid {kid:?}"), token, TokenRejected);
        }
        let brought = with(header.clone(), "jwk", json!({"kty": "oct", "k": b64(guess), "kid": "k"}));
        cell("secret", format!("{name}, brought along"), mac_token(own, guess, &brought, &claims()), TokenRejected);
    }
    // The MAC itself.
    for at in [0, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        cell("mac", format!("bit of byte {at} flipped"), remade(&flipped), TokenRejected);
    }
    for length in [0, 1, 16, bytes.len() - 1] {
        cell("mac", format!("its first {length} bytes"), remade(&bytes[..length]), TokenRejected);
    }
    cell("mac", "and a byte more".into(), remade(&[&bytes[..], &[0]].concat()), TokenRejected);
    cell("mac", "all zero".into(), remade(&vec![0; bytes.len()]), TokenRejected);
    cell("mac", "in hexadecimal".into(), remade(hex(&bytes).as_bytes()), TokenRejected);
    cell("mac", "padded".into(), format!("{good}="), TokenMalformed);
    let root = b64(with(claims(), "sub", json!("root")).to_string());
    cell(
        "mac",
        "of another payload".into(),
        format!("{}.{root}.{mac}", good.split('.').next().unwrap()),
        TokenRejected,
    );
    cells
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn every_forgery_against_a_shared_secret_is_refused() {
    let signers: Vec<_> = Algorithm::ALL.into_iter().map(|a| Signer::new(a.name(), a)).collect();
    let secret = b"hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-hunter2-";
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("s"), secret).unwrap();
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    let mut wrong = Vec::new();
    for own in MacAlgorithm::ALL {
        let all = issuers(secret_issuer(json!([{"kid": "k", "algorithm": own.name(), "secret": {"file": "s"}}])));
        let config = Config { signature_checks_per_address: None, ..Config::default() };
        let (world, policy) = World::start_in(folder.path().into(), config, &all, &route());
        world.ready().await;
        let good = mac_token(own, secret, &json!({"alg": own.name(), "kid": "k"}), &claims());
        assert_eq!(world.reason(&policy, &good).await, None, "the good token of {own:?}");
        for cell in cells_for_a_secret(own, secret, &signers) {
            *counts.entry(cell.place).or_default() += 1;
            let reason = world.reason(&policy, &cell.token).await;
            if reason != Some(cell.reason) {
                wrong.push(format!("{own:?}: {}: {}: {reason:?}, expected {:?}", cell.place, cell.name, cell.reason));
            }
        }
        world.stop().await;
    }
    for (place, count) in &counts {
        println!("{place:>10}: {count:5} cells against a secret");
    }
    let total: usize = counts.values().sum();
    println!("     total: {total:5} cells against a secret, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(total > 600, "the table has shrunk to {total}");
}

#[tokio::test]
async fn a_bad_token_is_as_bad_from_a_cookie_the_query_or_a_field() {
    let signers: Vec<_> = Algorithm::ALL.into_iter().map(|a| Signer::new(a.name(), a)).collect();
    let published: Vec<Value> = signers.iter().map(|s| with(s.jwk(), "alg", json!(s.algorithm.name()))).collect();
    let endpoint = Endpoint::run(Behaviour::Serve(json!({ "keys": published }).to_string())).await;
    let token_from: [fn(String) -> TokenPlace; 3] = [TokenPlace::Cookie, TokenPlace::Query, TokenPlace::Header];
    let token_from = token_from.map(|place| place("t".into())).to_vec();
    let all = issuers(issuer_config(sluice_auth::JwksConfig::from_url(endpoint.url())));
    let config = Config { signature_checks_per_address: None, ..Config::default() };
    let (world, policy) = World::start(config, &all, &RouteAuth { token_from, ..route() });
    world.ready().await;

    let carried = |place: &str, token: &str| {
        let mut headers = HeaderMap::new();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
        let encode = |c: char| if plain(c) { c.to_string() } else { format!("%{:02X}", u32::from(c)) };
        match place {
            "cookie" => drop(headers.insert("cookie", HeaderValue::from_str(&format!("a=1; t={token}; b=2")).unwrap())),
            "field" => drop(headers.insert("t", HeaderValue::from_str(token).unwrap())),
            _ => return (headers, Some(format!("a=1&t={}&b=2", token.chars().map(encode).collect::<String>()))),
        }
        (headers, None)
    };
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    let mut wrong = Vec::new();
    for signer in
        signers.iter().filter(|s| matches!(s.algorithm, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA))
    {
        for place in ["cookie", "query", "field"] {
            let (headers, query) = carried(place, &signer.sign(&claims()));
            assert!(
                world.prove_with_query(&policy, &headers, query.as_deref()).await.is_ok(),
                "the good token, {place}"
            );
            for cell in cells(signer, &signers) {
                *counts.entry(place).or_default() += 1;
                let (headers, query) = carried(place, &cell.token);
                let refusal = world.prove_with_query(&policy, &headers, query.as_deref()).await.err();
                let reason = refusal.as_ref().map(|refusal| refusal.reason);
                if reason != Some(cell.reason) {
                    wrong.push(format!(
                        "{place}: {}: {}: {reason:?}, expected {:?}",
                        cell.place, cell.name, cell.reason
                    ));
                }
                let told = format!("{refusal:?}");
                let secret = cell.token.split('.').next_back().filter(|signature| signature.len() > 20);
                assert!(secret.is_none_or(|secret| !told.contains(secret)), "{} leaks", cell.name);
            }
        }
    }
    for (place, count) in &counts {
        println!("{place:>10}: {count:5} cells");
    }
    let total: usize = counts.values().sum();
    println!("     total: {total:5} cells in other places, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(total > 1500, "the table has shrunk to {total}");
    world.stop().await;
}

#[tokio::test]
async fn an_algorithm_outside_the_issuers_list_is_refused_though_the_key_has_it() {
    let signer = Signer::new("k", Algorithm::RS256);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let mut config = issuer_config(sluice_auth::JwksConfig::from_url(endpoint.url()));
    config.algorithms = vec![Algorithm::RS256];
    let (world, policy) = World::start(sluice_auth::Config::default(), &issuers(config), &route());
    world.ready().await;
    assert_eq!(world.reason(&policy, &signer.sign(&claims())).await, None);
    let message =
        format!("{}.{}", b64(with(signer.header(), "alg", json!("PS256")).to_string()), b64(claims().to_string()));
    let token = format!("{message}.{}", b64(signer.signature(Algorithm::PS256, message.as_bytes())));
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::TokenRejected));
    world.stop().await;
}

#[tokio::test]
async fn keys_without_a_kid_are_tried_in_turn() {
    let signers: Vec<_> = (0..4).map(|i| Signer::new(&i.to_string(), Algorithm::ES256)).collect();
    let nameless: Vec<_> = signers.iter().map(|signer| without(signer.jwk(), "kid")).collect();
    let endpoint = Endpoint::run(Behaviour::Serve(json!({ "keys": nameless }).to_string())).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    for signer in &signers {
        let token = signer.sign_raw(without(signer.header(), "kid").to_string(), claims().to_string());
        assert_eq!(world.reason(&policy, &token).await, None);
        // A token may carry a kid that the set does not.
        assert_eq!(world.reason(&policy, &signer.sign(&claims())).await, None);
    }
    let stranger = Signer::new("s", Algorithm::ES256);
    let token = stranger.sign_raw(without(stranger.header(), "kid").to_string(), claims().to_string());
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::TokenRejected));
    world.stop().await;
}

#[tokio::test]
async fn the_issuer_in_a_token_chooses_among_those_of_the_route_alone() {
    let (a, b) = (Signer::new("k", Algorithm::EdDSA), Signer::new("k", Algorithm::EdDSA));
    let at_a = Endpoint::run(Behaviour::Serve(jwks(&[&a]))).await;
    let at_b = Endpoint::run(Behaviour::Serve(jwks(&[&b]))).await;
    let mut all = issuers(issuer_config(sluice_auth::JwksConfig::from_url(at_a.url())));
    let mut other = issuer_config(sluice_auth::JwksConfig::from_url(at_b.url()));
    other.issuer = "https://b".into();
    all.insert(name("other"), other);
    let both = RouteAuth { issuers: vec![name("corp"), name("other")], ..RouteAuth::default() };
    let (world, policy) = World::start(sluice_auth::Config::default(), &all, &both);
    world.ready().await;
    let of_b = with(claims(), "iss", json!("https://b"));
    assert_eq!(world.bearer(&policy, &a.sign(&claims())).await.unwrap().identity().issuer, name("corp"));
    assert_eq!(world.bearer(&policy, &b.sign(&of_b)).await.unwrap().identity().issuer, name("other"));
    // The same kid, the other issuer's key.
    assert_eq!(world.reason(&policy, &a.sign(&of_b)).await, Some(Reason::TokenRejected));
    assert_eq!(world.reason(&policy, &b.sign(&claims())).await, Some(Reason::TokenRejected));
    // A token in the cache is no good on a route that does not take its issuer.
    let only_corp = world.apply(&all, &route());
    assert_eq!(world.reason(&only_corp, &b.sign(&of_b)).await, Some(Reason::TokenNotForUs));
    world.stop().await;
}

#[tokio::test]
async fn time_ends_a_token_in_the_cache_too() {
    let signer = Signer::new("k", Algorithm::EdDSA);
    let endpoint = Endpoint::run(Behaviour::Serve(jwks(&[&signer]))).await;
    let (world, policy) = World::with_keys(&endpoint, &route()).await;
    let token = signer.sign(&claims());
    assert_eq!(world.reason(&policy, &token).await, None);
    world.clock.advance(std::time::Duration::from_secs(629));
    assert_eq!(world.reason(&policy, &token).await, None, "within the leeway");
    world.clock.advance(std::time::Duration::from_secs(1));
    assert_eq!(world.reason(&policy, &token).await, Some(Reason::TokenExpired));
    world.stop().await;
}
