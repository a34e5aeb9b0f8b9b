//! Certificates: an authority and the leaves it signs, in memory and as PEM files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority of its own, ECDSA P-256, trusted by nobody until a test says so.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A leaf certificate with its key.
#[derive(Clone)]
pub struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    chain_pem: String,
    key_pem: String,
}

/// Makes a new authority.
#[must_use]
pub fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().expect("an authority's key");
    let certificate = params.self_signed(&key).expect("an authority's certificate");
    Authority { pem: certificate.pem(), certificate: certificate.der().clone(), issuer: Issuer::new(params, key) }
}

impl Authority {
    /// A leaf for these names, DNS names and IP addresses alike, good for servers and for clients.
    #[must_use]
    pub fn leaf(&self, names: &[&str]) -> Certificate {
        self.issue(names, |_| {})
    }

    /// A leaf whose validity ended in 2001.
    #[must_use]
    pub fn expired_leaf(&self, names: &[&str]) -> Certificate {
        self.issue(names, |params| {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        })
    }

    fn issue(&self, names: &[&str], adjust: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let common_name = names.first().cloned().unwrap_or_else(|| "nameless".to_owned());
        let mut params = CertificateParams::new(names).expect("subject alternative names");
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        adjust(&mut params);
        let key = KeyPair::generate().expect("a leaf's key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf's certificate");
        Certificate {
            chain_pem: certificate.pem(),
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The authority's certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes the authority's certificate as `<name>.crt` into `folder` and gives the path.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, &format!("{name}.crt"), &self.pem)
    }

    /// A root store that trusts this authority alone.
    #[must_use]
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("the authority as a root");
        roots
    }

    /// A client configuration that trusts this authority alone and offers these ALPN names.
    #[must_use]
    pub fn client_config(&self, alpn: &[&str]) -> ClientConfig {
        let mut config = client_builder().with_root_certificates(self.roots()).with_no_client_auth();
        config.alpn_protocols = alpn_names(alpn);
        config
    }

    /// Like [`client_config`](Self::client_config), with a certificate to show when a server asks for one.
    #[must_use]
    pub fn client_config_as(&self, identity: &Certificate, alpn: &[&str]) -> ClientConfig {
        let mut config = client_builder()
            .with_root_certificates(self.roots())
            .with_client_auth_cert(identity.chain.clone(), identity.private_key())
            .expect("a client certificate with its key");
        config.alpn_protocols = alpn_names(alpn);
        config
    }
}

impl Certificate {
    /// The chain in PEM, leaf first.
    #[must_use]
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// The private key in PEM (PKCS #8).
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The leaf's SHA-256 in base64url: what a token names in `cnf` as `x5t#S256` that is bound to it (RFC 8705).
    #[must_use]
    pub fn sha256(&self) -> String {
        crate::holder::sha256(&self.chain[0])
    }

    /// Writes `<name>.crt` and `<name>.key` into `folder` and gives both paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        (write(folder, &format!("{name}.crt"), &self.chain_pem), write(folder, &format!("{name}.key"), &self.key_pem))
    }

    /// A server configuration with this certificate and these ALPN names; with `clients` it demands a certificate of
    /// that authority from whoever connects.
    #[must_use]
    pub fn server_config(&self, alpn: &[&str], clients: Option<&Authority>) -> ServerConfig {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("the provider's protocol versions");
        let builder = match clients {
            Some(authority) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(authority.roots()), provider())
                    .build()
                    .expect("a verifier of client certificates"),
            ),
            None => builder.with_no_client_auth(),
        };
        let mut config =
            builder.with_single_cert(self.chain.clone(), self.private_key()).expect("a certificate with its key");
        config.alpn_protocols = alpn_names(alpn);
        config
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("the provider's protocol versions")
}

/// Named rather than taken from the process, since another crate in the build may have switched a second one on.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn alpn_names(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    path
}
