//! TLS toward an upstream: what is shown, what is trusted, and the one number that keeps connections apart.
//!
//! Toward an upstream nothing is shared that differs in TLS identity. Pingora pools connections by address, scheme, name
//! and verification, but not by authority or ALPN, and of a client certificate it looks at the serial number only. So
//! everything of the identity goes into a digest, the digest into the peer's `group_key`, and two peers whose identities
//! differ in a single byte never meet in the pool.
//!
//! **Session resumption.** Pingora builds a new rustls client configuration for every connection that has an authority or
//! a client certificate of its own, and with it an empty session store: such connections never resume, and there is no
//! hook to give it another. With the platform's authorities the configuration is cloned, the store is shared, and
//! sessions do resume. [`Identity::resumption`] says which it is; tests show both.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::ALPN;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls::RootCertStore;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use sluice_vocabulary::UpstreamName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{Protocol, TlsConfig, UpstreamConfig};

/// What a peer is to the other end, ready to be copied into each request's peer.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) tls: bool,
    pub(crate) server_name: String,
    pub(crate) ca: Option<Arc<CaType>>,
    pub(crate) client: Option<Arc<CertKey>>,
    pub(crate) verify: bool,
    pub(crate) alpn: ALPN,
    /// Differs wherever anything above differs.
    pub(crate) group_key: u64,
}

/// Whether TLS sessions are resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resumption {
    /// No TLS.
    Cleartext,
    /// They are.
    Works,
    /// They are not, because of an authority or a client certificate of its own.
    Absent,
}

impl Resumption {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Cleartext => "cleartext",
            Self::Works => "works",
            Self::Absent => "absent: own authority or client certificate",
        }
    }
}

/// A file that cannot be used, and the configuration key that names it.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {wrong}")]
pub(crate) struct BadFile {
    pub(crate) key: &'static [&'static str],
    file: String,
    wrong: String,
}

impl Identity {
    /// Reads the files that the configuration names; tells of every one that cannot be used.
    pub(crate) fn load(name: &UpstreamName, config: &UpstreamConfig, base: &FilePath) -> Result<Self, Vec<BadFile>> {
        let mut digest = Sha256::new();
        let mut mix = |part: &[u8]| {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        };
        mix(name.as_str().as_bytes());
        let alpn = match config.protocol {
            Protocol::Http1 => ALPN::H1,
            Protocol::Http2 => ALPN::H2,
            Protocol::Auto => ALPN::H2H1,
        };
        mix(alpn.to_string().as_bytes());

        let Some(tls) = &config.tls else {
            mix(b"cleartext");
            let group_key = fold(digest);
            return Ok(Self {
                tls: false,
                server_name: String::new(),
                ca: None,
                client: None,
                verify: true,
                alpn,
                group_key,
            });
        };

        let mut bad = Vec::new();
        mix(b"tls");
        mix(&[u8::from(tls.dangerous_accept_any_certificate)]);
        let server_name = tls.server_name.clone().unwrap_or_default();
        mix(server_name.as_bytes());
        let ca = load_ca(tls, base).unwrap_or_else(|error| {
            bad.push(error);
            None
        });
        for certificate in ca.iter().flatten() {
            mix(certificate);
        }
        mix(b"client");
        let client = load_client(tls, base).unwrap_or_else(|errors| {
            bad.extend(errors);
            None
        });
        if let Some((chain, key)) = &client {
            for certificate in chain {
                mix(certificate);
            }
            mix(key);
        }
        if !bad.is_empty() {
            return Err(bad);
        }
        Ok(Self {
            tls: true,
            server_name,
            ca: ca.map(|ca| ca.into_iter().map(|der| WrappedX509::new(der, parse_x509)).collect()),
            client: client.map(|(chain, key)| Arc::new(CertKey::new(chain, key))),
            verify: !tls.dangerous_accept_any_certificate,
            alpn,
            group_key: fold(digest),
        })
    }

    pub(crate) fn resumption(&self) -> Resumption {
        match (self.tls, self.ca.is_some() || self.client.is_some()) {
            (false, _) => Resumption::Cleartext,
            (true, false) => Resumption::Works,
            (true, true) => Resumption::Absent,
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("tls", &self.tls)
            .field("server_name", &self.server_name)
            .field("own_ca", &self.ca.is_some())
            .field("client_certificate", &self.client.is_some())
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// The first eight bytes of the digest: a collision among the few identities of one process is out of the question.
fn fold(digest: Sha256) -> u64 {
    let bytes = digest.finalize();
    bytes.iter().take(8).fold(0, |key, byte| (key << 8) | u64::from(*byte))
}

/// The files an upstream's TLS is made of, for whoever watches them.
pub(crate) fn files(config: &UpstreamConfig, base: &FilePath) -> Vec<PathBuf> {
    let Some(tls) = &config.tls else { return Vec::new() };
    let client = tls.client_certificate.iter().flat_map(|client| [&client.cert, &client.key]);
    tls.ca.iter().chain(client).map(|file| base.join(file)).collect()
}

fn load_ca(tls: &TlsConfig, base: &FilePath) -> Result<Option<Vec<Vec<u8>>>, BadFile> {
    const KEY: &[&str] = &["ca"];
    let Some(file) = &tls.ca else { return Ok(None) };
    let file = base.join(file);
    let certificates = certificates(&file, KEY)?;
    let mut trusted = RootCertStore::empty();
    for certificate in &certificates {
        // What rustls will say at each connection is better said now.
        let der = CertificateDer::from(certificate.as_slice());
        trusted.add(der).map_err(|error| bad_file(KEY, &file, error.to_string()))?;
    }
    Ok(Some(certificates))
}

type ChainAndKey = (Vec<Vec<u8>>, Vec<u8>);

fn load_client(tls: &TlsConfig, base: &FilePath) -> Result<Option<ChainAndKey>, Vec<BadFile>> {
    const CERT: &[&str] = &["client_certificate", "cert"];
    const KEY: &[&str] = &["client_certificate", "key"];
    let Some(client) = &tls.client_certificate else { return Ok(None) };
    let (cert_file, key_file) = (base.join(&client.cert), base.join(&client.key));
    let chain = certificates(&cert_file, CERT);
    let key = PrivateKeyDer::from_pem_file(&key_file).map_err(|error| bad_file(KEY, &key_file, wording(&error)));
    let (chain, key) = match (chain, key) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    // Pingora guesses the key's form from its bytes at each connection and panics when it cannot; so guess now.
    let guessed = PrivateKeyDer::try_from(key.secret_der().to_vec())
        .map_err(|error| vec![bad_file(KEY, &key_file, error.to_owned())])?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let shown = chain.iter().map(|der| CertificateDer::from(der.clone())).collect();
    rustls::sign::CertifiedKey::from_der(shown, guessed, &provider).map_err(|error| {
        vec![bad_file(KEY, &key_file, format!("does not go with {}: {error}", cert_file.display()))]
    })?;
    Ok(Some((chain, key.secret_der().to_vec())))
}

/// All certificates of a PEM file, each of which parses with what Pingora will parse it with.
fn certificates(file: &FilePath, key: &'static [&'static str]) -> Result<Vec<Vec<u8>>, BadFile> {
    let pem = CertificateDer::pem_file_iter(file).map_err(|error| bad_file(key, file, wording(&error)))?;
    let mut certificates = Vec::new();
    for certificate in pem {
        let der = certificate.map_err(|error| bad_file(key, file, wording(&error)))?.to_vec();
        X509Certificate::from_der(&der).map_err(|error| bad_file(key, file, format!("not a certificate: {error}")))?;
        certificates.push(der);
    }
    if certificates.is_empty() {
        return Err(bad_file(key, file, "holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// Without the bytes of the file, which may be those of a key.
fn wording(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "holds nothing of the kind expected".to_owned(),
        _ => "not well-formed PEM".to_owned(),
    }
}

fn bad_file(key: &'static [&'static str], file: &FilePath, wrong: String) -> BadFile {
    BadFile { key, file: file.display().to_string(), wrong }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::config::ClientCertificateConfig;

    #[test]
    fn whatever_differs_in_an_identity_keeps_connections_apart() {
        let folder = tempfile::tempdir().unwrap();
        let authority = sluice_testkit::authority();
        authority.write(folder.path(), "a");
        sluice_testkit::authority().write(folder.path(), "b");
        // Two keys and certificates for the same name: what a rotation leaves behind.
        for name in ["c", "d"] {
            authority.leaf(&["gateway"]).write(folder.path(), name);
        }
        let client = |name: &str| {
            Some(ClientCertificateConfig { cert: format!("{name}.crt").into(), key: format!("{name}.key").into() })
        };
        let tls =
            TlsConfig { server_name: Some("orders.test".into()), ca: Some("a.crt".into()), ..TlsConfig::default() };
        let variants = [
            ("u", None, Protocol::Http1),
            ("u", None, Protocol::Http2),
            ("v", None, Protocol::Http1),
            ("u", Some(tls.clone()), Protocol::Http1),
            ("v", Some(tls.clone()), Protocol::Http1),
            ("u", Some(tls.clone()), Protocol::Http2),
            ("u", Some(tls.clone()), Protocol::Auto),
            ("u", Some(TlsConfig { server_name: Some("orders.tes".into()), ..tls.clone() }), Protocol::Http1),
            ("u", Some(TlsConfig { ca: Some("b.crt".into()), ..tls.clone() }), Protocol::Http1),
            ("u", Some(TlsConfig { ca: None, ..tls.clone() }), Protocol::Http1),
            ("u", Some(TlsConfig { client_certificate: client("c"), ..tls.clone() }), Protocol::Http1),
            ("u", Some(TlsConfig { client_certificate: client("d"), ..tls.clone() }), Protocol::Http1),
            ("u", Some(TlsConfig { dangerous_accept_any_certificate: true, ..tls }), Protocol::Http1),
        ];
        let key = |(name, tls, protocol): &(&str, Option<TlsConfig>, Protocol)| {
            let mut config = UpstreamConfig::of(["127.0.0.1:1"]);
            config.tls.clone_from(tls);
            config.protocol = *protocol;
            Identity::load(&UpstreamName::new(name).unwrap(), &config, folder.path()).unwrap().group_key
        };
        let keys: Vec<u64> = variants.iter().map(key).collect();
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), variants.len());
        assert_eq!(keys, variants.iter().map(key).collect::<Vec<_>>(), "and what is the same stays together");
    }
}
