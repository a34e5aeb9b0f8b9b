//! The key sets and keys of the RFCs, and what was signed with them: RFC 7517 appendices A and B, RFC 7520 sections 3 and
//! 4, RFC 8037 appendix A.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use serde_json::{Value, json};

use crate::algorithm::Algorithm;
use crate::base64url;
use crate::jwk::{KeySet, Lookup};
use crate::jws::{Compact, Header, MAX_SIGNATURE};

/// The modulus of RFC 7517 appendix A.1.
const N_7517: &str = concat!(
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64t",
    "Z_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbO",
    "pbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
);

/// The modulus of RFC 7517 appendix B.
const N_7517_B: &str = concat!(
    "vrjOfz9Ccdgx5nQudyhdoR17V-IubWMeOZCwX_jj0hgAsz2J_pqYW08PLbK_PdiVGKPrqzmDIsLI7sA25VEnHU1uCLNwBuUiCO11_-7dYbsr4iJmG0Qu2j8D",
    "sVyT1azpJC_NG84Ty5KKthuCaPod7iI7w0LK9orSMhBEwwZDCxTWq4aYWAchc8t-emd9qOvWtVMDC2BXksRngh6X5bUYLy6AyHKvj-nUy1wgzjYQDwHMTplC",
    "oLtU-o-8SNnZ1tmRoGE9uJkBLdh5gFENabWnU5m1ZqZPdwS-qo-meMvVfJb6jJVWRpl2SUtCnYG2C32qvbWbjZ_jBPD5eunqsIo1vQ"
);

/// The modulus of RFC 7520 section 3.3.
const N_7520: &str = concat!(
    "n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL",
    "-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzw",
    "OHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"
);

const HOBBIT: &str = "bilbo.baggins@hobbiton.example";

/// The payload of RFC 7520 section 4.
const DOOR: &str = concat!(
    "SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlv",
    "dSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4"
);

fn read(keys: Value) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), Algorithm::ALL.iter().collect()).unwrap()
}

/// The keys that are used, by `kid`, and the causes of those that are not.
fn sorted(keys: Value) -> (Vec<String>, Vec<&'static str>) {
    let set = read(keys);
    let used = set.keys().iter().map(|key| key.kid().unwrap_or_default().to_owned()).collect();
    (used, set.left_out().iter().map(|(_, cause)| *cause).collect())
}

/// Verifies as the request path does: the key by the header's `kid` and `alg`, then the signature.
fn verifies(keys: &KeySet, token: &str) -> bool {
    let compact = Compact::split(token.as_bytes(), 4096).unwrap();
    let header_json = base64url::decode(compact.header).unwrap();
    let header = Header::parse(&header_json).unwrap();
    let Lookup::Candidates(candidates) = keys.lookup(header.kid.as_deref(), header.algorithm) else { return false };
    let mut room = [0; MAX_SIGNATURE];
    let signature = compact.decode_signature(&mut room).unwrap();
    candidates.iter().any(|key| key.verifies(header.algorithm, compact.signed, signature))
}

#[test]
fn of_rfc_7517s_public_keys_those_for_signatures_are_used() {
    let a1 = json!([
        {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "use": "enc", "kid": "1"},
        {"kty": "RSA", "n": N_7517, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    ]);
    let set = read(a1.clone());
    assert_eq!(sorted(a1), (vec!["2011-04-29".into()], vec!["use is not sig"]));
    assert_eq!(set.keys()[0].algorithms().collect::<Vec<_>>(), [Algorithm::RS256]);
}

#[test]
fn rfc_7517s_private_and_symmetric_keys_are_refused_in_a_public_set() {
    let cause = "private or symmetric key in a public set";
    // A.2; the RSA key with one of its private members, which is enough.
    let a2 = json!([
        {"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
         "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM", "d": "870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE",
         "use": "enc", "kid": "1"},
        {"kty": "RSA", "n": N_7517, "e": "AQAB", "d": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
    ]);
    assert_eq!(sorted(a2), (vec![], vec![cause; 2]));
    // A.3.
    let a3 = json!([
        {"kty": "oct", "alg": "A128KW", "k": "GawgguFyGrWKav7AX4VKUg"},
        {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
         "kid": "HMAC key used in JWS spec Appendix A.1 example"}
    ]);
    assert_eq!(sorted(a3), (vec![], vec![cause; 2]));
}

#[test]
fn rfc_7517s_key_with_a_certificate_is_used_for_its_own_numbers() {
    // Appendix B. The certificate, here any text, is no source of trust and is not looked at.
    let b =
        json!([{"kty": "RSA", "use": "sig", "kid": "1b94c", "n": N_7517_B, "e": "AQAB", "x5c": ["MIIDQjCCAiqgAwIB"]}]);
    assert_eq!(sorted(b.clone()), (vec!["1b94c".into()], vec![]));
    let bare = json!([{"kty": "RSA", "kid": "1b94c", "n": N_7517_B, "e": "AQAB"}]);
    assert_eq!(read(b).keys()[0].thumbprint().unwrap(), read(bare).keys()[0].thumbprint().unwrap());
}

#[test]
fn rfc_7520s_signatures_verify_with_the_keys_of_one_name_and_their_neighbours_do_not() {
    // Both keys have the same kid: the algorithm tells which is meant.
    let keys = read(json!([
        {"kty": "EC", "kid": HOBBIT, "use": "sig", "crv": "P-521",
         "x": "AHKZLLOsCOzz5cY97ewNUajB957y-C-U88c3v13nmGZx6sYl_oJXu9A5RkTKqjqvjyekWF-7ytDyRXYgCF5cj0Kt",
         "y": "AdymlHvOiLxXkEhayXQnNCvDX4h9htZaCJN34kfmC6pV5OhQHiraVySsUdaQkAgDPrwQrJmbnX9cwlGfP-HqHZR1"},
        {"kty": "RSA", "kid": HOBBIT, "use": "sig", "n": N_7520, "e": "AQAB"}
    ]));
    let rs256 = concat!(
        "MRjdkly7_-oTPTS3AXP41iQIGKa80A0ZmTuV5MEaHoxnW2e5CZ5NlKtainoFmKZopdHM1O2U4mwzJdQx996ivp83xuglII7PNDi84wnB-BDkoBwA7818",
        "5hX-Es4JIwmDLJK3lfWRa-XtL0RnltuYv746iYTh_qHRD68BNt1uSNCrUCTJDt5aAE6x8wW1Kt9eRo4QPocSadnHXFxnt8Is9UzpERV0ePPQdLuW3IS_",
        "de3xyIrDaLGdjluPxUAhb6L2aXic1U12podGU0KLUQSE_oI-ZnmKJ3F4uOZDnd6QZWJushZ41Axf_fcIe8u9ipH84ogoree7vjbU5y18kDquDg"
    );
    let ps384 = concat!(
        "cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhi",
        "USMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2X",
        "ez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw"
    );
    let es512 = concat!(
        "AE_R_YZCChjn4791jSQCrdPZCNYqHXCTZH0-JZGYNlaAjP2kqaluUIIUnC9qvbu9Plon7KRTzoNEuT4Va2cmL1eJAQy3mtPBu_u_sDDyYjnAMDxXPn7X",
        "rT0lw-kvAD890jl8e2puQens_IEKBpHABlsbEPX6sFY8OcGDqoRuBomu9xQ2"
    );
    for (section, alg, signature) in [("4.1", "RS256", rs256), ("4.2", "PS384", ps384), ("4.3", "ES512", es512)] {
        let header = base64url::encode(format!(r#"{{"alg":"{alg}","kid":"{HOBBIT}"}}"#).as_bytes());
        assert!(verifies(&keys, &format!("{header}.{DOOR}.{signature}")), "RFC 7520 section {section}");
        let spoilt = format!("{header}.{}.{signature}", DOOR.replacen("SXTi", "SXTj", 1));
        assert!(!verifies(&keys, &spoilt), "RFC 7520 section {section}, spoilt");
        let other = base64url::encode(br#"{"alg":"RS512","kid":"bilbo.baggins@hobbiton.example"}"#);
        assert!(!verifies(&keys, &format!("{other}.{DOOR}.{signature}")), "RFC 7520 section {section}, as another");
    }
}

#[test]
fn rfc_8037s_public_key_is_used_and_its_private_one_and_its_key_for_agreement_are_not() {
    let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let keys = json!([
        // A.2, A.1, A.6.
        {"kty": "OKP", "crv": "Ed25519", "kid": "A.2", "x": x},
        {"kty": "OKP", "crv": "Ed25519", "kid": "A.1", "x": x, "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"},
        {"kty": "OKP", "crv": "X25519", "kid": "Bob", "x": "3p7bfXt9wbTTW2HC7OQ1Nz-DQ8hbeGdNrfx-FG-IK08"}
    ]);
    let (used, causes) = sorted(keys);
    assert_eq!(used, ["A.2"]);
    assert_eq!(causes, ["private or symmetric key in a public set", "crv is not Ed25519"]);
}
