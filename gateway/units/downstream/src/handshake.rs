//! The TLS handshake of one connection, and what it tells.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use pingora_core::protocols::tls::SslDigest;
use rustls::{ProtocolVersion, ServerConnection};
use sha2::{Digest, Sha256};
use sluice_vocabulary::request::TlsInfo;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::metrics::{HandshakeOutcome, Metrics};
use crate::socket::EarlySocket;
use crate::tls::Certificates;

/// Shakes hands; none where the client does not come through it, which is counted.
pub(crate) async fn shake(
    socket: EarlySocket,
    certificates: &Certificates,
    deadline: tokio::time::Instant,
    metrics: &Metrics,
) -> Option<TlsStream<EarlySocket>> {
    let begun = Instant::now();
    let accept = TlsAcceptor::from(certificates.current()).accept(socket);
    let outcome = match tokio::time::timeout_at(deadline, accept).await {
        Ok(Ok(stream)) => {
            metrics.handshake_duration.observe(begun.elapsed().as_secs_f64());
            metrics.handshake(HandshakeOutcome::Ok, version(stream.get_ref().1));
            return Some(stream);
        }
        Ok(Err(error)) => classify(&error),
        Err(_elapsed) => HandshakeOutcome::Timeout,
    };
    metrics.handshake(outcome, "none");
    tracing::debug!(outcome = outcome.as_str(), "TLS handshake failed");
    None
}

fn classify(error: &io::Error) -> HandshakeOutcome {
    use rustls::Error::{
        AlertReceived, InappropriateHandshakeMessage, InappropriateMessage, InvalidCertificate, InvalidMessage,
        NoApplicationProtocol, NoCertificatesPresented, PeerIncompatible,
    };
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(InvalidMessage(_) | InappropriateMessage { .. } | InappropriateHandshakeMessage { .. }) => {
            HandshakeOutcome::NotTls
        }
        Some(PeerIncompatible(_) | NoApplicationProtocol) => HandshakeOutcome::Incompatible,
        Some(InvalidCertificate(_) | NoCertificatesPresented) => HandshakeOutcome::ClientCertificate,
        Some(AlertReceived(_)) => HandshakeOutcome::ClientAlert,
        Some(_) => HandshakeOutcome::Other,
        None => HandshakeOutcome::Closed,
    }
}

fn version(tls: &ServerConnection) -> &'static str {
    match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

/// What the handshake agreed on, for requests and logs.
pub(crate) fn info(tls: &ServerConnection) -> TlsInfo {
    TlsInfo {
        version: version(tls),
        cipher: tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("unknown"),
        server_name: tls.server_name().map(Into::into),
        client_certificate_sha256: tls
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|leaf| Sha256::digest(leaf).into()),
    }
}

/// The same for Pingora.
pub(crate) fn digest(info: &TlsInfo) -> Arc<SslDigest> {
    let certificate = info.client_certificate_sha256.map(Vec::from).unwrap_or_default();
    Arc::new(SslDigest::new(info.cipher, info.version, None, None, certificate))
}

/// Whether HTTP/2 was agreed on.
pub(crate) fn is_http2(tls: &ServerConnection) -> bool {
    tls.alpn_protocol() == Some(b"h2")
}
