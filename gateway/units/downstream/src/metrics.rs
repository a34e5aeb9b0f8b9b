//! What this unit counts. Names are unprefixed here; the composer gives the prefix.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::breach::Breach;

/// Handshakes take a network round trip or two and some hundred microseconds of computing, and end by deadline after
/// ten seconds: from 1 ms to 16 s by doubling.
const HANDSHAKE_BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ListenerLabels {
    pub(crate) listener: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    reason: ConnectionRefusal,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    reason: &'static str,
    breach: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct HandshakeLabels {
    pub(crate) outcome: HandshakeOutcome,
    pub(crate) version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReloadLabels {
    pub(crate) outcome: &'static str,
}

macro_rules! label_values {
    ($(#[$doc:meta])* $type:ident { $( $(#[$variant_doc:meta])* $variant:ident = $text:literal, )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum $type { $( $(#[$variant_doc])* $variant, )* }

        impl $type {
            pub(crate) const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }
        }

        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), std::fmt::Error> {
                EncodeLabelValue::encode(&self.as_str(), encoder)
            }
        }
    };
}

label_values! {
    /// Why a connection was closed before it carried a request.
    ConnectionRefusal {
        /// `limits.connections` is reached.
        Connections = "connections",
        /// `limits.connections_per_address` is reached.
        PerAddress = "connections-per-address",
        /// The PROXY protocol header is missing or not well-formed.
        ProxyProtocol = "proxy-protocol",
        /// The PROXY protocol header did not arrive in time.
        ProxyProtocolTimeout = "proxy-protocol-timeout",
        /// The HTTP/2 preface did not arrive in time, or is not one.
        Http2Preface = "http2-preface",
    }
}

label_values! {
    /// How a TLS handshake ended.
    HandshakeOutcome {
        Ok = "ok",
        /// It did not end in time.
        Timeout = "timeout",
        /// The client left.
        Closed = "closed",
        /// The bytes are not TLS.
        NotTls = "not-tls",
        /// No common version, cipher suite, group or application protocol.
        Incompatible = "incompatible",
        /// The client's certificate is missing or not accepted.
        ClientCertificate = "client-certificate",
        /// The client ended it with an alert: most often it does not trust our certificate.
        ClientAlert = "client-alert",
        /// Anything else.
        Other = "other",
    }
}

/// Handles to all of it, made once.
#[derive(Debug)]
pub struct Metrics {
    connections: Family<ListenerLabels, Counter>,
    connections_active: Family<ListenerLabels, Gauge>,
    connections_refused: Box<[Counter]>,
    requests_refused: Box<[Counter]>,
    handshakes: Family<HandshakeLabels, Counter>,
    pub(crate) handshake_duration: Histogram,
    pub(crate) accept_errors: Counter,
    pub(crate) write_stalls: Counter,
    pub(crate) http2_rejected_streams: Counter,
    pub(crate) addresses_limited: Counter,
    certificate_reloads: Family<ReloadLabels, Counter>,
}

/// One listener's own handles.
#[derive(Debug, Clone)]
pub(crate) struct ListenerMetrics {
    pub(crate) connections: Counter,
    pub(crate) active: Gauge,
}

impl Metrics {
    /// Registers everything, with a sample for each label value that can occur, so that a rate over any of them begins
    /// at 0 rather than at nothing.
    pub fn new(registry: &mut Registry) -> Self {
        let connections = Family::<ListenerLabels, Counter>::default();
        registry.register("connections", "Connections accepted", connections.clone());
        let connections_active = Family::<ListenerLabels, Gauge>::default();
        registry.register("connections_active", "Connections open now", connections_active.clone());

        let refused = Family::<RefusedLabels, Counter>::default();
        registry.register(
            "connections_refused",
            "Connections closed before they carried a request, by reason",
            refused.clone(),
        );
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register(
            "requests_refused",
            "HTTP/1 requests refused for their form, size or slowness, by the reason told to the client and the breach found",
            requests.clone(),
        );
        let handshakes = Family::<HandshakeLabels, Counter>::default();
        for &outcome in HandshakeOutcome::ALL {
            let versions: &[_] = if outcome == HandshakeOutcome::Ok { &["TLSv1.2", "TLSv1.3"] } else { &["none"] };
            for &version in versions {
                drop(handshakes.get_or_create(&HandshakeLabels { outcome, version }));
            }
        }
        registry.register("handshakes", "TLS handshakes, by outcome and version", handshakes.clone());
        let handshake_duration = Histogram::new(HANDSHAKE_BUCKETS);
        registry.register_with_unit(
            "handshake_duration",
            "Duration of TLS handshakes that succeeded",
            Unit::Seconds,
            handshake_duration.clone(),
        );
        let accept_errors = Counter::default();
        registry.register(
            "accept_errors",
            "Failures to accept a connection, such as too many open files",
            accept_errors.clone(),
        );
        let write_stalls = Counter::default();
        registry.register(
            "write_stalls",
            "Connections cut because the client took nothing for too long",
            write_stalls.clone(),
        );
        let http2_rejected_streams = Counter::default();
        registry.register(
            "http2_rejected_streams",
            "HTTP/2 requests refused because they are malformed",
            http2_rejected_streams.clone(),
        );
        let addresses_limited = Counter::default();
        registry.register(
            "requests_address_limited",
            "Requests refused because their client address sends too many",
            addresses_limited.clone(),
        );
        let certificate_reloads = Family::<ReloadLabels, Counter>::default();
        for outcome in ["ok", "failed"] {
            drop(certificate_reloads.get_or_create(&ReloadLabels { outcome }));
        }
        registry.register("certificate_reloads", "Certificates read again, by outcome", certificate_reloads.clone());

        Self {
            connections,
            connections_active,
            connections_refused: ConnectionRefusal::ALL
                .iter()
                .map(|&reason| refused.get_or_create(&RefusedLabels { reason }).clone())
                .collect(),
            requests_refused: Breach::ALL
                .iter()
                .map(|breach| {
                    let labels = RequestLabels { reason: breach.reason().slug(), breach: breach.slug() };
                    requests.get_or_create(&labels).clone()
                })
                .collect(),
            handshakes,
            handshake_duration,
            accept_errors,
            write_stalls,
            http2_rejected_streams,
            addresses_limited,
            certificate_reloads,
        }
    }

    pub(crate) fn listener(&self, listener: &Arc<str>) -> ListenerMetrics {
        let labels = ListenerLabels { listener: Arc::clone(listener) };
        ListenerMetrics {
            connections: self.connections.get_or_create(&labels).clone(),
            active: self.connections_active.get_or_create(&labels).clone(),
        }
    }

    pub(crate) fn connection_refused(&self, reason: ConnectionRefusal) {
        self.connections_refused[reason as usize].inc();
    }

    pub(crate) fn request_refused(&self, breach: Breach) {
        self.requests_refused[breach.index()].inc();
    }

    /// Per connection, and beside a handshake the look-up is nothing.
    pub(crate) fn handshake(&self, outcome: HandshakeOutcome, version: &'static str) {
        self.handshakes.get_or_create(&HandshakeLabels { outcome, version }).inc();
    }

    pub(crate) fn certificate_reload(&self, outcome: &'static str) {
        self.certificate_reloads.get_or_create(&ReloadLabels { outcome }).inc();
    }
}
