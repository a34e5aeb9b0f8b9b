//! Secrets that an operator shares with an issuer, and the MACs they check (RFC 7518 section 3.2): the section `secrets`.
//!
//! They come from files and the environment of this machine and from nowhere else: no key set, fetched or written down, has
//! one. An issuer has either public keys or secrets, and each secret names its own algorithm, so that nothing a token says
//! can make the one do the other's work.

use std::path::Path as FilePath;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::secret::{Secret, SecretSource};
use sluice_vocabulary::{Fault, Faults, Path};

use crate::algorithm::MacAlgorithm;
use crate::base64url;
use crate::jwk::{Key, KeySet, MAX_TRIES};
use crate::secret;

/// The longest `kid`.
const MAX_KID: usize = 256;

/// A secret shared with an issuer. Whoever has it can make any token of that issuer, the gateway's own machine included:
/// where the issuer can sign with a private key instead, let it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedSecret {
    /// The `kid` of tokens that it is for. Without one, it is tried for every token whose `kid` is no other secret's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// The one algorithm that it is for. HS256 takes a secret of at least 32 bytes, HS384 of 48, HS512 of 64
    /// (RFC 7518 section 3.2).
    pub algorithm: MacAlgorithm,
    /// Where it is kept. It is read anew with every reload; tokens of a secret that changed are void then.
    pub secret: SecretSource,
    /// How it is written there.
    #[serde(default, skip_serializing_if = "SecretEncoding::is_plain")]
    pub encoding: SecretEncoding,
}

/// How a secret is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SecretEncoding {
    /// As it is: its bytes are the key, but for one line break at a file's end.
    #[default]
    Plain,
    /// In base64url without padding, as in the member `k` of a JWK (RFC 7518 section 6.4.1).
    Base64url,
}

impl SecretEncoding {
    fn is_plain(&self) -> bool {
        *self == Self::Plain
    }
}

/// Reports every fault of an issuer's secrets that can be seen without opening any.
pub(crate) fn validate(secrets: &[SharedSecret], at: &Path, faults: &mut Faults) {
    if secrets.len() > MAX_TRIES {
        let many = format!("{} secrets are listed, at most {MAX_TRIES} are tried for one token", secrets.len());
        faults.error(at, many);
    }
    for (index, shared) in secrets.iter().enumerate() {
        let at = at.index(index);
        if let Some(kid) = &shared.kid {
            if kid.is_empty() || kid.len() > MAX_KID {
                faults.error(&at.key("kid"), format!("a kid has 1 to {MAX_KID} bytes, this one has {}", kid.len()));
            }
            if secrets[..index].iter().any(|other| other.kid.as_ref() == Some(kid)) {
                faults.error(&at.key("kid"), format!("the kid {kid:?} is listed twice"));
            }
        }
        secret::validate(&shared.secret, &at.key("secret"), faults);
    }
}

/// Reads the secrets of an issuer, whose list stands at `at`. `None` where one cannot be used; its fault is in then.
pub(crate) fn read(secrets: &[SharedSecret], base_dir: &FilePath, at: &Path, faults: &mut Faults) -> Option<KeySet> {
    let mut keys = Vec::with_capacity(secrets.len());
    for (index, shared) in secrets.iter().enumerate() {
        match shared.read(base_dir, &at.index(index).key("secret")) {
            Ok(secret) => keys.push(Key::shared(shared.kid.as_deref(), shared.algorithm, secret)),
            Err(fault) => faults.push(fault),
        }
    }
    (keys.len() == secrets.len()).then(|| KeySet::of(keys))
}

impl SharedSecret {
    /// Reads it, relative to `base_dir`, and holds it against what its algorithm takes. It stands at `at`, where its fault is
    /// put; that holds nothing of the secret.
    ///
    /// # Errors
    /// It cannot be read, is not written as `encoding` says, is too short, or is no secret at all.
    pub fn read(&self, base_dir: &FilePath, at: &Path) -> Result<Secret, Fault> {
        let written = secret::read(&self.secret, base_dir).map_err(|why| Fault::error(at, why))?;
        let place = secret::place(&self.secret, base_dir);
        if written.expose().windows(10).any(|window| window == b"-----BEGIN") {
            // A public key is known to everybody; as a secret it would let everybody in.
            return Err(Fault::error(
                at,
                format!("{place} holds PEM: a key pair or a certificate is no shared secret"),
            )
            .help("public keys of an issuer belong into its jwks"));
        }
        let secret = match self.encoding {
            SecretEncoding::Plain => written,
            SecretEncoding::Base64url => Secret::new(base64url::decode(written.expose()).map_err(|bad| {
                Fault::error(at, format!("what {place} holds is {bad}")).help("plain bytes take encoding: plain")
            })?),
        };
        let (algorithm, least, found) = (self.algorithm.name(), self.algorithm.least_secret(), secret.expose().len());
        if found < least {
            let short = format!("the secret in {place} has {found} bytes, {algorithm} takes at least {least}");
            return Err(Fault::error(at, short).help(self.recipe(least)));
        }
        Ok(secret)
    }

    /// How to make a secret that is long enough.
    fn recipe(&self, least: usize) -> String {
        match self.encoding {
            SecretEncoding::Plain => format!("make one with: openssl rand -hex {least}"),
            SecretEncoding::Base64url => {
                format!("make one with: openssl rand {least} | basenc -w0 --base64url | tr -d =")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::{Value, json};

    fn shared(value: Value) -> SharedSecret {
        serde_json::from_value(value).unwrap()
    }

    /// What is said of a secret that a file holds.
    fn told(content: &[u8], algorithm: &str, encoding: &str) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("s"), content).unwrap();
        let wanted = shared(json!({"algorithm": algorithm, "secret": {"file": "s"}, "encoding": encoding}));
        let mut faults = Faults::new();
        let at = Path::root().key("secrets");
        let read = read(&[wanted], folder.path(), &at, &mut faults);
        let told = faults.iter().map(|fault| fault.to_string().replace(&*folder.path().to_string_lossy(), "DIR"));
        let told = told.collect::<Vec<_>>().join("\n");
        assert_eq!(read.is_some(), told.is_empty(), "{told}");
        if told.is_empty() { Ok(()) } else { Err(told) }
    }

    #[test]
    fn a_secret_is_as_long_as_its_hash_at_least() {
        for (algorithm, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
            assert_eq!(told(&vec![b'x'; least], algorithm, "plain"), Ok(()), "{algorithm}");
            let newline = [&vec![b'x'; least - 1][..], b"\n"].concat();
            for short in [newline, vec![b'x'; 1]] {
                let why = told(&short, algorithm, "plain").unwrap_err();
                let found = short.iter().filter(|byte| **byte == b'x').count();
                let said = format!(
                    "secrets[0].secret: the secret in DIR/s has {found} bytes, {algorithm} takes at least {least} \
                     (make one with: openssl rand -hex {least})"
                );
                assert_eq!(why, said);
            }
            let encoded = base64url::encode(&vec![0xff; least]);
            assert_eq!(told(encoded.as_bytes(), algorithm, "base64url"), Ok(()), "{algorithm}");
            assert_eq!(told(format!("{encoded}\n").as_bytes(), algorithm, "base64url"), Ok(()), "{algorithm}");
            let short = base64url::encode(&vec![0xff; least - 1]);
            assert!(told(short.as_bytes(), algorithm, "base64url").unwrap_err().contains("--base64url"), "{algorithm}");
        }
    }

    #[test]
    fn what_is_no_secret_is_told_and_not_shown() {
        let secret = "hunter2+hunter2+hunter2+hunter2+hunter2+hunter2=";
        let why = told(secret.as_bytes(), "HS256", "base64url").unwrap_err();
        assert_eq!(
            why,
            "secrets[0].secret: what DIR/s holds is not base64url without padding (plain bytes take encoding: plain)"
        );
        let why = told(b"hunter2", "HS512", "plain").unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
        let pem =
            "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----\n";
        let why = told(pem.as_bytes(), "HS256", "plain").unwrap_err();
        assert!(why.contains("holds PEM") && why.contains("jwks") && !why.contains("MIIB"), "{why}");
        assert!(told(b"", "HS256", "plain").unwrap_err().contains("is empty"));
    }

    #[test]
    fn a_list_says_each_thing_once_and_no_more_than_can_be_tried() {
        let one = json!({"kid": "a", "algorithm": "HS256", "secret": {"env": "A"}});
        let faults = |secrets: &[Value]| {
            let secrets: Vec<_> = secrets.iter().cloned().map(shared).collect();
            let mut faults = Faults::new();
            validate(&secrets, &Path::root().key("secrets"), &mut faults);
            faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(faults(std::slice::from_ref(&one)), "");
        assert_eq!(faults(&[one.clone(), one.clone()]), "secrets[1].kid: the kid \"a\" is listed twice");
        let nameless = json!({"algorithm": "HS256", "secret": {"file": "s"}});
        assert_eq!(faults(&vec![nameless.clone(); 8]), "", "of these all are tried");
        assert!(faults(&vec![nameless; 9]).contains("9 secrets are listed, at most 8 are tried"));
        let bad = json!({"kid": "", "algorithm": "HS256", "secret": {"file": ""}});
        let told = faults(&[bad]);
        assert!(told.contains("secrets[0].kid: a kid has 1 to 256 bytes") && told.contains("secret.file"), "{told}");
    }
}
