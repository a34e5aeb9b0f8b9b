//! Signatures over components: who may say that a component is to be run.
//!
//! A signature is detached: a text file beside the component, by its name with `.sig` behind it. Its first line names the
//! form, its second is an Ed25519 signature (RFC 8032) in base64. What is signed is that first line with its line break, and
//! the SHA-256 of the component's bytes: so a signature that the same key made for any other purpose is none of a component,
//! and signing needs the digest alone. Keys are PEM as OpenSSL writes them: PKCS#8 the private one, SPKI the public one.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sluice_vocabulary::{Faults, Path as ConfigPath};

use crate::component::Refused;
use crate::config::{ComponentSource, PluginConfig};
use crate::load::digest;

/// The first line of a signature's file, and what the signed bytes begin with.
const FORM: &str = "sluice component signature 1\n";
/// Of a signature's or a key's file: many times what either takes.
const LARGEST: u64 = 4096;
/// Keys of one plugin.
const MOST_KEYS: usize = 16;
const SIGNATURE_LENGTH: usize = 64;
const KEY_LENGTH: usize = 32;
/// What a public Ed25519 key begins with in DER (RFC 8410 section 4).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PUBLIC: &str = "PUBLIC KEY";
const PRIVATE: &str = "PRIVATE KEY";

/// Why a component is not taken for signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotSigned {
    #[error("the component is not signed: cannot read {file}: {source}")]
    NoSignature { file: String, source: io::Error },
    #[error("{file} is no signature of a component: {why}")]
    NoForm { file: String, why: &'static str },
    #[error("cannot read the public key {file}: {source}")]
    NoKey { file: String, source: io::Error },
    #[error("{file} is no public key: {why}")]
    BadKey { file: String, why: &'static str },
    #[error("{file} is no signature over this component by {by}")]
    Wrong { file: String, by: String },
}

impl NotSigned {
    pub(crate) const fn help(&self) -> &'static str {
        match self {
            Self::NoSignature { .. } | Self::NoForm { .. } => {
                "sign it: sluice plugin sign --key KEY FILE, which writes FILE.sig"
            }
            Self::NoKey { .. } | Self::BadKey { .. } => {
                "expected an Ed25519 key in PEM, as sluice plugin keygen or openssl pkey -pubout writes it"
            }
            Self::Wrong { .. } => "was the component built anew, or signed with another key? Sign what is to run",
        }
    }
}

/// A private key cannot be used.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub enum BadSigningKey {
    /// The text is something else.
    #[error("not an Ed25519 private key: expected PKCS#8 in PEM, as sluice plugin keygen writes it")]
    Form,
    /// The library cannot make one.
    #[error("no key can be made on this machine")]
    Made,
}

/// A private key that components are signed with. Never shown.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// Where the machine has no random bytes to give.
    pub fn generate() -> Result<Self, BadSigningKey> {
        Ed25519KeyPair::generate().map(Self).map_err(|_| BadSigningKey::Made)
    }

    /// The key in a PKCS#8 PEM text.
    ///
    /// # Errors
    /// If the text is anything else.
    pub fn from_pem(text: &str) -> Result<Self, BadSigningKey> {
        let der = from_pem(text, PRIVATE).map_err(|_| BadSigningKey::Form)?;
        Ed25519KeyPair::from_pkcs8(&der).map(Self).map_err(|_| BadSigningKey::Form)
    }

    /// As a PKCS#8 PEM text: a secret.
    ///
    /// # Errors
    /// Where the library cannot write it.
    pub fn to_pem(&self) -> Result<String, BadSigningKey> {
        self.0.to_pkcs8v1().map(|der| to_pem(der.as_ref(), PRIVATE)).map_err(|_| BadSigningKey::Made)
    }

    /// Its public key as an SPKI PEM text, for `signed_by`.
    pub fn public_pem(&self) -> String {
        to_pem(&[&SPKI, self.0.public_key().as_ref()].concat(), PUBLIC)
    }

    /// The text of the file that goes beside this component, see [`signature_file`].
    pub fn sign(&self, component: &[u8]) -> String {
        format!("{FORM}{}\n", STANDARD.encode(self.0.sign(&signed(&digest(component)))))
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

/// Where the signature of a component's file is.
pub fn signature_file(component: &Path) -> PathBuf {
    let mut name: OsString = component.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Checks `signed_by` without opening anything.
pub(crate) fn validate(plugin: &PluginConfig, at: &ConfigPath, faults: &mut Faults) {
    let Some(keys) = &plugin.signed_by else { return };
    if keys.is_empty() || keys.len() > MOST_KEYS {
        let found = keys.len();
        faults.error(at, format!("{found} keys are named: expected 1 to {MOST_KEYS} files of public keys"));
    }
    for (index, _) in keys.iter().enumerate().filter(|(_, key)| key.as_os_str().is_empty()) {
        faults.error(&at.index(index), "the path is empty: expected a public key's file");
    }
}

/// Whether one of those whom the operator trusts has signed a component of this digest; relative paths start at `base`. Where
/// nobody is named, no signature is asked for.
pub(crate) fn check(plugin: &PluginConfig, base: &Path, sha256: &[u8; 32]) -> Result<(), Refused> {
    let (Some(keys), ComponentSource::File(component)) = (&plugin.signed_by, &plugin.component) else { return Ok(()) };
    let path = signature_file(&base.join(component));
    let file = || path.display().to_string();
    let text = small(&path).map_err(|source| NotSigned::NoSignature { file: file(), source })?;
    let signature = parse(&text).map_err(|why| NotSigned::NoForm { file: file(), why })?;
    for key in keys {
        let key = base.join(key);
        let file = || key.display().to_string();
        let text = small(&key).map_err(|source| NotSigned::NoKey { file: file(), source })?;
        let public = public_key(&text).map_err(|why| NotSigned::BadKey { file: file(), why })?;
        if UnparsedPublicKey::new(&ED25519, public).verify(&signed(sha256), &signature).is_ok() {
            return Ok(());
        }
    }
    let by = keys.iter().map(|key| key.display().to_string()).collect::<Vec<_>>().join(" or ");
    Err(NotSigned::Wrong { file: file(), by }.into())
}

fn signed(sha256: &[u8; 32]) -> Vec<u8> {
    [FORM.as_bytes(), sha256].concat()
}

fn parse(text: &str) -> Result<[u8; SIGNATURE_LENGTH], &'static str> {
    let line = text.strip_prefix(FORM).ok_or("its first line is not \"sluice component signature 1\"")?;
    let line = line.strip_suffix('\n').unwrap_or(line);
    let bytes = STANDARD.decode(line).map_err(|_| "its second line is not base64, or not its last")?;
    bytes.try_into().map_err(|_| "its second line is not 64 bytes in base64")
}

fn public_key(text: &str) -> Result<[u8; KEY_LENGTH], &'static str> {
    let der = from_pem(text, PUBLIC)?;
    let key = der.strip_prefix(&SPKI).ok_or("it is not an Ed25519 key")?;
    key.try_into().map_err(|_| "it is not an Ed25519 key")
}

/// The bytes between the lines of one PEM text (RFC 7468), which is all that the file holds.
fn from_pem(text: &str, label: &str) -> Result<Vec<u8>, &'static str> {
    let text = text.trim_ascii().strip_prefix("-----BEGIN ").and_then(|text| text.strip_prefix(label));
    let text = text.and_then(|text| text.strip_prefix("-----")).ok_or("it is not PEM of that kind")?;
    let text = text.strip_suffix("-----").and_then(|text| text.strip_suffix(label));
    let text = text.and_then(|text| text.strip_suffix("-----END ")).ok_or("its PEM has no end, or more behind it")?;
    let base64: String = text.split_ascii_whitespace().collect();
    STANDARD.decode(base64).map_err(|_| "what is in its PEM is not base64")
}

fn to_pem(der: &[u8], label: &str) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        let _ = writeln!(text, "{}", String::from_utf8_lossy(line));
    }
    let _ = writeln!(text, "-----END {label}-----");
    text
}

/// A short text file.
fn small(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it has more than {LARGEST} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key = SigningKey::generate().unwrap();
        let again = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(key.public_pem(), again.public_pem());
        assert_eq!(public_key(&key.public_pem()).unwrap(), key.0.public_key().as_ref());
        assert_eq!(key.sign(b"x"), again.sign(b"x"));
        assert_eq!(format!("{key:?}"), "SigningKey");
    }

    #[test]
    fn the_example_key_of_rfc_8410_is_read() {
        let private = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        let public = "-----BEGIN PUBLIC KEY-----\n\
            MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
        let key = SigningKey::from_pem(private).unwrap();
        assert_eq!(key.public_pem(), public);
        assert_eq!(key.to_pem().unwrap(), private);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = SigningKey::generate().unwrap();
        let (public, private) = (key.public_pem(), key.to_pem().unwrap());
        for text in
            ["", "-----BEGIN PUBLIC KEY-----", &private, &format!("{public}{public}"), &public.replace("MCow", "MCox")]
        {
            assert!(public_key(text).is_err(), "{text}");
        }
        for text in ["", public.as_str(), &private.replace("MC4C", "MC4D")] {
            assert!(SigningKey::from_pem(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        let good = SigningKey::generate().unwrap().sign(b"component");
        let body = good.strip_prefix(FORM).unwrap();
        assert!(parse(&good).is_ok() && parse(good.trim_end()).is_ok());
        for text in ["", FORM, body, &format!("{FORM}{}", &body[4..]), &format!("{good}{body}"), &format!("{good}\n")] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&good.replace("signature 1", "signature 2")).is_err());
    }
}
