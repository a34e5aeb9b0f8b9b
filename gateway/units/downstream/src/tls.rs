//! TLS of a listener: its certificates, chosen by server name, and read again when their files change.
//!
//! Versions 1.2 and 1.3 on aws-lc-rs with the library's safe cipher suites; stateless session tickets whose keys rotate
//! by themselves and outlive a change of certificates, but not one of what clients must show: a ticket holds the client's
//! certificate, and whoever resumes is not asked again. A certificate whose new files cannot be used leaves the old one in
//! place and the unit degraded, with the reason.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::config::{CertificateConfig, ClientAuth, TlsConfig};

/// Bytes of one PEM file: chains and authority bundles are far smaller.
const LARGEST_FILE: u64 = 4 * 1024 * 1024;

/// Why a certificate, a key or a list of authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A file holds no PEM of the kind expected.
    #[error("{} holds no {expected} in PEM form", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        expected: &'static str,
    },
    /// A certificate is not X.509 as expected.
    #[error("{} is not a certificate that can be used", path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
    },
    /// The key cannot be used, or is another certificate's.
    #[error("{} cannot be used with {}", key.display(), cert.display())]
    Key {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        cert: PathBuf,
        /// Why.
        #[source]
        cause: rustls::Error,
    },
    /// The client authorities cannot be used.
    #[error("the authorities in {} cannot be used to verify clients", path.display())]
    ClientAuthorities {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: rustls::client::VerifierBuilderError,
    },
    /// The library refuses its own defaults.
    #[error("the TLS library cannot be set up")]
    Library(#[source] rustls::Error),
}

impl TlsError {
    /// The whole chain of causes in one line, for logs and faults.
    pub fn explain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// A listener's TLS: the configuration in force, and what is needed to make the next.
#[derive(Debug)]
pub(crate) struct Certificates {
    current: ArcSwap<ServerConfig>,
    alpn: Vec<Vec<u8>>,
    source: Mutex<Source>,
}

#[derive(Debug)]
struct Source {
    config: TlsConfig,
    /// A digest of the files that the configuration in force was made of.
    used: [u8; 32],
    tickets: Tickets,
    failed: Option<Failure>,
}

/// Session tickets, and what clients had to show to get one.
#[derive(Debug, Clone)]
struct Tickets {
    keys: Arc<dyn ProducesTickets>,
    clients: ClientTerms,
}

/// What clients must show: whether a certificate, and a digest of the authorities that may vouch for it.
type ClientTerms = Option<(ClientAuth, [u8; 32])>;

impl Tickets {
    fn new(clients: ClientTerms) -> Result<Self, TlsError> {
        Ok(Self { keys: aws_lc_rs::Ticketer::new().map_err(TlsError::Library)?, clients })
    }

    /// The same tickets for clients on the same terms; new ones, so that all must show what is asked now, for others.
    fn on(&self, clients: ClientTerms) -> Result<Self, TlsError> {
        if self.clients == clients { Ok(self.clone()) } else { Self::new(clients) }
    }
}

/// Files that cannot be used, as last seen.
#[derive(Debug, Clone, Copy)]
struct Failure {
    digest: [u8; 32],
    /// Whether they were seen twice, and said.
    told: bool,
}

/// What a look at the files found.
#[derive(Debug)]
pub(crate) enum Refreshed {
    Unchanged,
    /// Read and in force.
    Changed,
    /// They changed to something that cannot be used; the old ones stay.
    Failed(TlsError),
    /// They still are what failed before.
    StillFailed,
}

impl Certificates {
    pub(crate) fn load(config: &TlsConfig, http2: bool) -> Result<Self, TlsError> {
        let alpn: Vec<Vec<u8>> =
            if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        let files = Files::read(config)?;
        let tickets = Tickets::new(files.client_terms(config))?;
        let server = files.server_config(config, &alpn, &tickets)?;
        Ok(Self {
            current: ArcSwap::from_pointee(server),
            alpn,
            source: Mutex::new(Source { config: config.clone(), used: files.digest, tickets, failed: None }),
        })
    }

    /// The configuration in force.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Puts another configuration in force, if its files can be used.
    pub(crate) fn replace(&self, config: &TlsConfig) -> Result<(), TlsError> {
        let files = Files::read(config)?;
        let mut source = self.source.lock();
        let tickets = source.tickets.on(files.client_terms(config))?;
        let server = files.server_config(config, &self.alpn, &tickets)?;
        *source = Source { config: config.clone(), used: files.digest, tickets, failed: None };
        self.current.store(Arc::new(server));
        Ok(())
    }

    /// Looks at the files. By their content: times and sizes can stay the same over a change, and they are small.
    /// Blocking; not for a runtime's own threads.
    pub(crate) fn refresh(&self) -> Refreshed {
        let source = &mut *self.source.lock();
        let files = Files::read(&source.config);
        let digest = files.as_ref().map_or(UNREADABLE, |files| files.digest);
        if digest == source.used {
            let told = source.failed.take().is_some_and(|failure| failure.told);
            return if told { Refreshed::Changed } else { Refreshed::Unchanged };
        }
        if source.failed.is_some_and(|failure| failure.told && failure.digest == digest) {
            return Refreshed::StillFailed;
        }
        let made = files.and_then(|files| {
            let tickets = source.tickets.on(files.client_terms(&source.config))?;
            Ok((files.server_config(&source.config, &self.alpn, &tickets)?, tickets))
        });
        match (made, source.failed) {
            (Ok((server, tickets)), _) => {
                source.used = digest;
                source.tickets = tickets;
                source.failed = None;
                self.current.store(Arc::new(server));
                Refreshed::Changed
            }
            (Err(error), Some(failure)) if failure.digest == digest => {
                source.failed = Some(Failure { digest, told: true });
                Refreshed::Failed(error)
            }
            // A certificate and its key are two files: what fits not now may be half of a change, and fit at the next look.
            (Err(_), before) => {
                let told = before.is_some_and(|failure| failure.told);
                source.failed = Some(Failure { digest, told: false });
                if told { Refreshed::StillFailed } else { Refreshed::Unchanged }
            }
        }
    }
}

/// Stands for files that cannot be read at all.
const UNREADABLE: [u8; 32] = [0; 32];

/// What is risky about a certificate that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateRisk {
    #[error("{0} has expired")]
    Expired(String),
    #[error("{0} is not valid yet")]
    NotYetValid(String),
    #[error("{0} expires in less than 7 days")]
    ExpiresSoon(String),
}

/// Checks a certificate's files; gives what is risky about it, if anything.
pub(crate) fn check(config: &CertificateConfig, unix_seconds: u64) -> Result<Option<CertificateRisk>, TlsError> {
    let pair = Pair::read(config)?;
    let key = pair.certified_key(config, &aws_lc_rs::default_provider())?;
    let name = config.cert.display().to_string();
    let leaf = key.end_entity_cert().map_err(|_| TlsError::Certificate { path: config.cert.clone() })?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| TlsError::Certificate { path: config.cert.clone() })?;
    let now = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    let (from, to) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    Ok(if now > to {
        Some(CertificateRisk::Expired(name))
    } else if now < from {
        Some(CertificateRisk::NotYetValid(name))
    } else if to.saturating_sub(now) < 7 * 86_400 {
        Some(CertificateRisk::ExpiresSoon(name))
    } else {
        None
    })
}

/// Checks a file of client authorities.
pub(crate) fn check_authorities(path: &Path) -> Result<(), TlsError> {
    client_verifier(path, &read(path)?, ClientAuth::Required, &Arc::new(aws_lc_rs::default_provider())).map(drop)
}

/// The bytes of all files of one listener, read in one go.
struct Files {
    pairs: Vec<Pair>,
    authorities: Option<Vec<u8>>,
    digest: [u8; 32],
}

struct Pair {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(config: &TlsConfig) -> Result<Self, TlsError> {
        let pairs = config.certificates.iter().map(Pair::read).collect::<Result<Vec<_>, _>>()?;
        let authorities = config.client_ca.as_deref().map(read).transpose()?;
        let mut digest = Sha256::new();
        let all = pairs.iter().flat_map(|pair| [&pair.cert, &pair.key]).chain(&authorities);
        for file in all {
            digest.update((file.len() as u64).to_be_bytes());
            digest.update(file);
        }
        Ok(Self { pairs, authorities, digest: digest.finalize().into() })
    }

    /// What clients must show.
    fn client_terms(&self, config: &TlsConfig) -> ClientTerms {
        let (_, asked) = config.client_auth()?;
        Some((asked, Sha256::digest(self.authorities.as_deref()?).into()))
    }

    fn server_config(&self, config: &TlsConfig, alpn: &[Vec<u8>], tickets: &Tickets) -> Result<ServerConfig, TlsError> {
        // Named rather than taken from the process, whose default another crate may have set to something else.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut resolver = ByName::default();
        for (pair, config) in self.pairs.iter().zip(&config.certificates) {
            resolver.add(&config.cert, Arc::new(pair.certified_key(config, &provider)?))?;
        }
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Library)?;
        let builder = match config.client_auth().zip(self.authorities.as_deref()) {
            Some(((path, asked), pem)) => {
                builder.with_client_cert_verifier(client_verifier(path, pem, asked, &provider)?)
            }
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_cert_resolver(Arc::new(resolver));
        server.alpn_protocols = alpn.to_vec();
        server.ticketer = Arc::clone(&tickets.keys);
        Ok(server)
    }
}

impl Pair {
    fn read(config: &CertificateConfig) -> Result<Self, TlsError> {
        Ok(Self { cert: read(&config.cert)?, key: read(&config.key)? })
    }

    fn certified_key(&self, config: &CertificateConfig, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
        let chain = certificates(&config.cert, &self.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::Pem { path: config.key.clone(), expected: "private key" })?;
        CertifiedKey::from_der(chain, key, provider).map_err(|cause| TlsError::Key {
            key: config.key.clone(),
            cert: config.cert.clone(),
            cause,
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    use io::Read;
    let failed = |cause| TlsError::Read { path: path.to_owned(), cause };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let missing = || TlsError::Pem { path: path.to_owned(), expected: "certificate" };
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(|_| missing())?;
    if chain.is_empty() { Err(missing()) } else { Ok(chain) }
}

fn client_verifier(
    path: &Path,
    pem: &[u8],
    asked: ClientAuth,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, pem)? {
        roots.add(certificate).map_err(|_| TlsError::Certificate { path: path.to_owned() })?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if asked == ClientAuth::Optional { builder.allow_unauthenticated() } else { builder };
    builder.build().map_err(|cause| TlsError::ClientAuthorities { path: path.to_owned(), cause })
}

/// Chooses a certificate by the server name: an exact one, then a wildcard for its parent, then the first of all.
#[derive(Debug, Default)]
struct ByName {
    first: Option<Arc<CertifiedKey>>,
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// `*.example.com` under `example.com`.
    wildcards: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl ByName {
    /// Adds a certificate under every name it is for. A name that an earlier certificate has stays with that one.
    fn add(&mut self, path: &Path, key: Arc<CertifiedKey>) -> Result<(), TlsError> {
        let unusable = || TlsError::Certificate { path: path.to_owned() };
        let leaf = key.end_entity_cert().map_err(|_| unusable())?;
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| unusable())?;
        let names = leaf.subject_alternative_name().map_err(|_| unusable())?;
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            let GeneralName::DNSName(name) = name else { continue };
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("*.") {
                Some(parent) => self.wildcards.entry(parent.into()).or_insert_with(|| Arc::clone(&key)),
                None => self.exact.entry(name.into()).or_insert_with(|| Arc::clone(&key)),
            };
        }
        self.first.get_or_insert(key);
        Ok(())
    }

    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.trim_end_matches('.').to_ascii_lowercase();
            let wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent));
            self.exact.get(name.as_str()).or_else(wildcard).cloned()
        });
        named.or_else(|| self.first.clone())
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}
