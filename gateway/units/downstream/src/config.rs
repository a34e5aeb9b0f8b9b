//! The configuration: `listeners`, where clients connect, and `downstream`, what they may cost.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::measure::{ByteSize, Span};
use sluice_vocabulary::{Faults, Path};

/// Both parts of this unit's configuration, which stand side by side at the document's root.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    #[serde(default)]
    pub listeners: Vec<ListenerConfig>,
    /// What clients may cost, and whom to believe.
    #[serde(default)]
    pub downstream: DownstreamConfig,
}

/// One address where clients connect.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Address and port, such as `0.0.0.0:8443` or `[::]:8080`. Port 0 takes any free one and logs which.
    #[schemars(with = "String")]
    pub address: SocketAddr,
    /// TLS; without it the listener speaks cleartext.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Whether HTTP/2 is spoken beside HTTP/1.1: by ALPN over TLS, by prior knowledge in cleartext.
    #[serde(default = "yes")]
    pub http2: bool,
    /// Peers that speak the PROXY protocol (version 1 or 2) first: load balancers. From them it is required; from
    /// anybody else it is refused like any other bytes that are not HTTP.
    #[serde(default)]
    pub proxy_protocol: Option<ProxyProtocolConfig>,
    /// Connections that the kernel may hold ready before they are accepted.
    #[serde(default = "default_backlog")]
    pub backlog: NonZeroU32,
}

/// TLS of one listener: versions 1.2 and 1.3 with the library's safe cipher suites.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// The certificates, chosen by the server name that the client asks for; the first is shown to a client that asks
    /// for none, or for one that no certificate has.
    pub certificates: Vec<CertificateConfig>,
    /// A file of PEM certificates: the authorities that may vouch for clients.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
    /// Whether clients show a certificate of one of these authorities. Without it they must where `client_ca` is given,
    /// and are not asked where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<ClientAuth>,
}

/// Whether a client is asked for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientAuth {
    /// It is not asked.
    None,
    /// It is asked and may show none. One that it shows must be good, or the handshake fails: so certificate-bound tokens
    /// (RFC 8705) can be used on a listener that others use without.
    Optional,
    /// Without a good one the handshake fails.
    Required,
}

impl TlsConfig {
    /// Whether clients are asked for a certificate, and by which file of authorities.
    pub(crate) fn client_auth(&self) -> Option<(&std::path::Path, ClientAuth)> {
        let authorities = self.client_ca.as_deref()?;
        match self.client_auth.unwrap_or(ClientAuth::Required) {
            ClientAuth::None => None,
            asked => Some((authorities, asked)),
        }
    }
}

/// A certificate and its key. Both files are read again when they change.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateConfig {
    /// PEM file of the chain, the server's own certificate first.
    pub cert: PathBuf,
    /// PEM file of the private key (PKCS #8, PKCS #1 or SEC 1), not encrypted.
    pub key: PathBuf,
}

/// Who speaks the PROXY protocol.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocolConfig {
    /// Networks of the peers that must send it.
    #[schemars(with = "Vec<String>")]
    pub from: Vec<IpNet>,
}

/// What clients may cost, and whom to believe.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DownstreamConfig {
    /// Threads that serve connections. Default: one for each processor that this process may use.
    pub workers: Option<NonZeroUsize>,
    /// Upper bounds.
    pub limits: LimitsConfig,
    /// Deadlines.
    pub timeouts: TimeoutsConfig,
    /// HTTP/2.
    pub http2: Http2Config,
    /// Networks of the proxies whose `Forwarded` and `X-Forwarded-*` fields are believed.
    #[schemars(with = "Vec<String>")]
    pub trusted_proxies: Vec<IpNet>,
    /// In which fields those proxies write the chain of addresses. The other kind is not believed, since a proxy passes
    /// on unread what it does not write itself.
    pub trusted_proxies_write: ProxyFields,
    /// Whether upstreams also get the standard `Forwarded` field (RFC 7239) beside `X-Forwarded-*`.
    pub send_forwarded: bool,
    /// How request paths are read.
    pub path: PathConfig,
}

/// Upper bounds on what clients may hold or send.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Connections at once, over all listeners. The default keeps well below the usual limit of open files, of which a
    /// proxied connection takes two.
    pub connections: NonZeroUsize,
    /// Connections at once from one client address (an IPv6 client counts by its /64 network). Default: no limit, since
    /// whole offices share one address.
    pub connections_per_address: Option<NonZeroUsize>,
    /// Requests from one client address (an IPv6 client counts by its /64 network). Default: no limit.
    pub requests_per_address: Option<RequestRateConfig>,
    /// Bytes of a request's whole head; more is answered 431.
    pub header_size: ByteSize,
    /// Header fields of a request; more is answered 431.
    pub header_fields: usize,
    /// Bytes of a request's body; more is answered 413. `0B` lifts the limit. The default is far beyond any form or
    /// document and still bounds what one request can occupy; a route may lower it.
    pub body_size: ByteSize,
    /// Bytes per second at which a body must arrive on average, counted only while the gateway waits for the client and
    /// after `timeouts.body_grace`; slower is answered 408. `0B` lifts it. The default is that of Kestrel: slower than
    /// any modem, faster than an attack that holds a connection with a byte now and then.
    pub body_rate: ByteSize,
    /// Refused requests that are logged each second at level info; those beyond are counted, and logged at level debug.
    pub refusals_logged_per_second: u32,
}

/// A rate of requests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestRateConfig {
    /// How many requests.
    pub requests: NonZeroU32,
    /// In how long a time.
    #[serde(default = "one_second")]
    pub per: Span,
    /// How many at once after a rest. Default: as many as `requests`.
    #[serde(default)]
    pub burst: Option<NonZeroU32>,
}

/// Deadlines. Each is the client's; none runs while the gateway itself is waiting for somebody else.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsConfig {
    /// For the PROXY protocol header and the TLS handshake together; later is a closed connection.
    pub handshake: Span,
    /// For a request's whole head, from its first byte (on a new connection: from its start); later is answered 408.
    pub header: Span,
    /// How long a connection may stay without a request before it is closed.
    pub idle: Span,
    /// The longest silence within a body; later is answered 408.
    pub body: Span,
    /// How long a body may take before its average rate is judged.
    pub body_grace: Span,
    /// How long a client may take nothing of what is sent to it before its connection is cut.
    pub write: Span,
    /// How long requests in flight may take to finish when the gateway stops.
    pub drain: Span,
}

/// HTTP/2.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Http2Config {
    /// Requests at once on one connection.
    pub streams: NonZeroU32,
    /// Bytes that one request's body may be ahead of its reader. Bounds memory, and with the round trip the speed of an
    /// upload: 256 KiB give 20 Mbit/s over 100 ms.
    pub stream_window: ByteSize,
    /// Bytes that all bodies of one connection may be ahead of their readers.
    pub connection_window: ByteSize,
    /// Bytes of one answer that wait for a slow reader. Small, so that many slow readers stay cheap.
    pub send_buffer: ByteSize,
}

/// How request paths are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PathConfig {
    /// What is done with a path that holds an encoded slash or backslash (`%2F`, `%5C`).
    pub encoded_slash: EncodedSlash,
}

/// The fields in which proxies write the chain of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyFields {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`: what nearly all load balancers write.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// What is done with a path that holds an encoded slash or backslash (`%2F`, `%5C`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncodedSlash {
    /// Answered 400. The default: an upstream that decodes it sees another path than the one that was authorised.
    #[default]
    Refuse,
    /// Forwarded as it is, and matched as it is: never as a separator.
    Keep,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            connections: NonZeroUsize::MIN.saturating_add(19_999),
            connections_per_address: None,
            requests_per_address: None,
            header_size: ByteSize::kib(32),
            header_fields: 100,
            body_size: ByteSize::mib(1024),
            body_rate: ByteSize::bytes(240),
            refusals_logged_per_second: 10,
        }
    }
}

impl Default for TimeoutsConfig {
    fn default() -> Self {
        Self {
            handshake: Span::secs(10),
            header: Span::secs(10),
            idle: Span::secs(60),
            body: Span::secs(30),
            body_grace: Span::secs(10),
            write: Span::secs(60),
            drain: Span::secs(30),
        }
    }
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            streams: NonZeroU32::MIN.saturating_add(127),
            stream_window: ByteSize::kib(256),
            connection_window: ByteSize::mib(1),
            send_buffer: ByteSize::kib(64),
        }
    }
}

impl RequestRateConfig {
    /// As requests per second, and the burst.
    pub(crate) fn per_second(&self) -> (f64, u32) {
        let rate = f64::from(self.requests.get()) / self.per.get().as_secs_f64();
        (rate, self.burst.unwrap_or(self.requests).get())
    }
}

impl Config {
    /// Reports everything that is wrong or risky and can be told without touching a file; `at` is the document's root.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        let listeners = at.key("listeners");
        for (index, listener) in self.listeners.iter().enumerate() {
            let at = listeners.index(index);
            listener.validate(&at, faults);
            let same = |other: &ListenerConfig| other.address == listener.address && listener.address.port() != 0;
            if let Some(first) = self.listeners[..index].iter().position(same) {
                faults
                    .error(&at.key("address"), format!("{} is taken by listeners[{first}] already", listener.address));
            }
        }
        self.downstream.validate(&at.key("downstream"), faults);
    }

    /// Makes every file's path relative to `folder`, where it is not absolute.
    pub fn resolve_paths(&mut self, folder: &std::path::Path) {
        for tls in self.listeners.iter_mut().filter_map(|listener| listener.tls.as_mut()) {
            for certificate in &mut tls.certificates {
                certificate.cert = folder.join(&certificate.cert);
                certificate.key = folder.join(&certificate.key);
            }
            if let Some(authorities) = &mut tls.client_ca {
                *authorities = folder.join(&*authorities);
            }
        }
    }
}

impl ListenerConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        if let Some(ClientAuth::Optional | ClientAuth::Required) = self.tls.as_ref().and_then(|tls| tls.client_auth)
            && self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_none())
        {
            faults.error(&at.key("tls").key("client_auth"), "no certificate can be verified without client_ca");
        }
        if let Some(tls) = &self.tls
            && tls.certificates.is_empty()
        {
            faults.error(&at.key("tls").key("certificates"), "no certificate is named, expected at least one");
        }
        if let Some(proxies) = &self.proxy_protocol {
            let at = at.key("proxy_protocol").key("from");
            if proxies.from.is_empty() {
                faults.error(&at, "no network is named, expected those of the load balancers in front");
            }
            warn_of_everybody(&proxies.from, &at, "anybody can claim any client address", faults);
        }
    }
}

impl DownstreamConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        warn_of_everybody(
            &self.trusted_proxies,
            &at.key("trusted_proxies"),
            "anybody can claim any client address with a header field",
            faults,
        );
        if let Some(workers) = self.workers
            && workers.get() > 1024
        {
            faults.error(&at.key("workers"), format!("{workers} threads, expected at most 1024"));
        }
        self.limits.validate(&at.key("limits"), faults);
        self.timeouts.validate(&at.key("timeouts"), faults);
        self.http2.validate(&at.key("http2"), faults);
    }
}

impl LimitsConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        let size = self.header_size;
        if size < ByteSize::bytes(512) || size > ByteSize::mib(1) {
            faults.error(&at.key("header_size"), format!("{size}, expected 512B to 1MiB"));
        }
        // Pingora's parser behind the guard refuses more than 256.
        if !(8..=250).contains(&self.header_fields) {
            faults.error(&at.key("header_fields"), format!("{} fields, expected 8 to 250", self.header_fields));
        }
        if self.body_size.get() == 0 {
            faults.warning(&at.key("body_size"), "request bodies are not bounded");
        }
        if let Some(rate) = &self.requests_per_address
            && rate.per.is_zero()
        {
            faults.error(&at.key("requests_per_address").key("per"), "0s, expected a length of time");
        }
    }
}

impl TimeoutsConfig {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        let named = [
            ("handshake", self.handshake),
            ("header", self.header),
            ("idle", self.idle),
            ("body", self.body),
            ("write", self.write),
        ];
        for (name, span) in named {
            if span.is_zero() {
                faults.push(
                    sluice_vocabulary::Fault::error(&at.key(name), "0s would end every connection at once")
                        .help("leave it out for the default"),
                );
            } else if span > Span::secs(600) {
                faults.warning(
                    &at.key(name),
                    format!("{span} lets a client that does nothing hold a connection that long"),
                );
            }
        }
    }
}

impl Http2Config {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        const LARGEST_WINDOW: u64 = (1 << 31) - 1;
        for (name, size) in [("stream_window", self.stream_window), ("connection_window", self.connection_window)] {
            if size < ByteSize::bytes(65_535) || size.get() > LARGEST_WINDOW {
                faults.error(&at.key(name), format!("{size}, expected 65535B to {LARGEST_WINDOW}B"));
            }
        }
        if self.send_buffer < ByteSize::kib(16) || self.send_buffer > ByteSize::mib(16) {
            faults.error(&at.key("send_buffer"), format!("{}, expected 16KiB to 16MiB", self.send_buffer));
        }
    }
}

fn warn_of_everybody(networks: &[IpNet], at: &Path, danger: &str, faults: &mut Faults) {
    for (index, network) in networks.iter().enumerate() {
        if network.prefix_len() == 0 {
            faults.warning(&at.index(index), format!("{network} is every address: {danger}"));
        }
    }
}

/// Whether `address` lies in one of `networks`; an IPv4 address seen through an IPv6 socket counts as what it is.
pub(crate) fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

const fn yes() -> bool {
    true
}

const fn one_second() -> Span {
    Span::secs(1)
}

fn default_backlog() -> NonZeroU32 {
    NonZeroU32::MIN.saturating_add(4095)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn faults_of(config: serde_json::Value) -> Vec<String> {
        let config: Config = serde_json::from_value(config).unwrap();
        let mut faults = Faults::new();
        config.validate(&Path::root(), &mut faults);
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_defaults_have_no_fault() {
        assert_eq!(faults_of(serde_json::json!({"listeners": [{"address": "0.0.0.0:80"}]})), Vec::<String>::new());
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let faults = faults_of(serde_json::json!({
            "listeners": [
                {"address": "0.0.0.0:80", "tls": {"certificates": [], "client_auth": "optional"}},
                {"address": "0.0.0.0:80", "proxy_protocol": {"from": ["::/0"]}},
            ],
            "downstream": {
                "limits": {"header_size": "1B", "header_fields": 1000, "body_size": "0B"},
                "timeouts": {"idle": "0s", "header": "1h"},
                "http2": {"stream_window": "1B", "send_buffer": "1B"},
                "trusted_proxies": ["10.0.0.0/8", "0.0.0.0/0"],
            },
        }));
        let at: Vec<&str> = faults.iter().filter_map(|fault| fault.split_once(": ")).map(|(at, _)| at).collect();
        assert_eq!(
            at,
            [
                "listeners[0].tls.client_auth",
                "listeners[0].tls.certificates",
                "listeners[1].proxy_protocol.from[0]",
                "listeners[1].address",
                "downstream.trusted_proxies[1]",
                "downstream.limits.header_size",
                "downstream.limits.header_fields",
                "downstream.limits.body_size",
                "downstream.timeouts.header",
                "downstream.timeouts.idle",
                "downstream.http2.stream_window",
                "downstream.http2.send_buffer",
            ]
        );
    }
}
