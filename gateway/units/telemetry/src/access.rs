//! Access records: one line per request, written when it is over.
//!
//! The record borrows everything; it is turned into a line in a buffer that its thread keeps, and copied from there into
//! the sink. What may name a person or carry a token (the query, the subject) is left out unless the operator asked for it.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use sluice_vocabulary::clock::Random;

use crate::config::{AccessFormat, AccessLogConfig};
use crate::logs::escaped;
use crate::sink::{Buffering, LineStyle, OpenError, Sink, SinkMetrics};
use crate::stamp;

/// What is told of a request. Its fields in this order, under these names, are the JSON form; an absent one is left out.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord<'a> {
    /// When the request arrived.
    #[serde(rename = "timestamp", serialize_with = "as_rfc3339")]
    pub time: SystemTime,
    /// The request's id, as in the answer and upstream.
    pub request_id: &'a str,
    /// The trace's id, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    /// The client, as trusted proxies vouch for it.
    #[serde(rename = "client.address")]
    pub client: IpAddr,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// `TLSv1.3`, where there was TLS.
    #[serde(rename = "tls.version", skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The host asked for.
    pub host: &'a str,
    /// The normalised path.
    pub path: &'a str,
    /// The query as sent; left out unless configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<&'a str>,
    /// The route that matched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<&'a str>,
    /// The tenant it was done for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<&'a str>,
    /// Who vouched for the identity, as the operator named it.
    #[serde(rename = "identity.issuer", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    /// The token's subject; left out unless configured.
    #[serde(rename = "identity.subject", skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// The status the client got; 0 where it went away before one was sent.
    pub status: u16,
    /// Why the gateway refused it or could not serve it: a reason's stable name.
    #[serde(rename = "refusal", skip_serializing_if = "Option::is_none")]
    pub refusal: Option<&'a str>,
    /// What happened inside, for the operator's eyes.
    #[serde(rename = "error", skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the header's arrival to the answer's last byte.
    #[serde(rename = "duration_us", serialize_with = "as_micros")]
    pub duration: Duration,
    /// What plugins took of it.
    #[serde(rename = "plugins_us", skip_serializing_if = "Option::is_none", serialize_with = "as_some_micros")]
    pub plugins: Option<Duration>,
    /// What plugins said of it: names and values.
    #[serde(skip_serializing_if = "<[_]>::is_empty", serialize_with = "as_object")]
    pub tags: &'a [(Box<str>, Box<str>)],
    /// The upstream it went to.
    #[serde(rename = "upstream.name", skip_serializing_if = "Option::is_none")]
    pub upstream: Option<&'a str>,
    /// The endpoint chosen last.
    #[serde(rename = "upstream.address", skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// How long connecting took; left out where a pooled connection was used.
    #[serde(
        rename = "upstream.connect_us",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_some_micros"
    )]
    pub upstream_connect: Option<Duration>,
    /// From sending the request to the answer's header.
    #[serde(
        rename = "upstream.response_us",
        skip_serializing_if = "Option::is_none",
        serialize_with = "as_some_micros"
    )]
    pub upstream_response: Option<Duration>,
    /// Whether the connection had served before.
    #[serde(rename = "upstream.reused", skip_serializing_if = "Option::is_none")]
    pub upstream_reused: Option<bool>,
    /// How often it was tried again.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: u32,
}

impl<'a> AccessRecord<'a> {
    /// A record of which only the necessary is known: the rest is filled in by name.
    pub fn new(time: SystemTime, request_id: &'a str, client: IpAddr) -> Self {
        Self {
            time,
            request_id,
            trace_id: None,
            client,
            protocol: "",
            tls_version: None,
            method: "",
            host: "",
            path: "",
            query: None,
            route: None,
            tenant: None,
            issuer: None,
            subject: None,
            status: 0,
            refusal: None,
            error: None,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            plugins: None,
            tags: &[],
            upstream: None,
            endpoint: None,
            upstream_connect: None,
            upstream_response: None,
            upstream_reused: None,
            retries: 0,
        }
    }
}

/// Where access records go.
#[derive(Debug, Clone)]
pub struct AccessLog {
    config: AccessLogConfig,
    open: Option<Open>,
}

#[derive(Debug, Clone)]
struct Open {
    sink: Sink,
    style: LineStyle,
    /// Of 2^32 requests that went well, how many are recorded.
    sampled: u64,
    random: Arc<dyn Random>,
}

const ALL: u64 = 1 << 32;

impl AccessLog {
    /// Keeps no records.
    pub fn off() -> Self {
        Self { config: AccessLogConfig::default(), open: None }
    }

    /// Opens the output, unless the format is `off`.
    pub fn open(
        config: &AccessLogConfig,
        threads: usize,
        random: Arc<dyn Random>,
        metrics: &SinkMetrics,
    ) -> Result<Self, OpenError> {
        let style = match config.format {
            AccessFormat::Off => return Ok(Self { config: config.clone(), open: None }),
            AccessFormat::Json => LineStyle::Json,
            AccessFormat::Human => LineStyle::Human,
        };
        // Eight MiB in all is a second of 30 000 records; a tenth of a second of lingering makes one write of many lines.
        let shards = threads.clamp(1, 64);
        let buffering =
            Buffering { shards, bytes_per_shard: 8 * 1024 * 1024 / shards, linger: Duration::from_millis(100) };
        let sink = Sink::open("access", &config.output, style, buffering, metrics)?;
        // A share from 0 to 1 of 2^32 fits; anything else was refused by validation and saturates here.
        let sampled = (config.sample * ALL as f64) as u64;
        Ok(Self { config: config.clone(), open: Some(Open { sink, style, sampled, random }) })
    }

    /// The log for a new configuration: this one where nothing changed, another otherwise.
    pub fn reconfigured(
        &self,
        config: &AccessLogConfig,
        threads: usize,
        random: Arc<dyn Random>,
        metrics: &SinkMetrics,
    ) -> Result<Self, OpenError> {
        if *config == self.config { Ok(self.clone()) } else { Self::open(config, threads, random, metrics) }
    }

    /// Whether records are kept at all: where not, none need be made.
    pub fn is_on(&self) -> bool {
        self.open.is_some()
    }

    /// Writes the record, unless sampling leaves it out. Never waits.
    pub fn record(&self, record: &AccessRecord<'_>) {
        thread_local! { static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) } }
        let Some(open) = &self.open else { return };
        let went_well = (100..400).contains(&record.status) && record.refusal.is_none();
        if went_well && open.sampled < ALL && open.random.below(ALL) >= open.sampled {
            return;
        }
        let mut record = record.clone();
        record.query = record.query.filter(|_| self.config.query);
        record.subject = record.subject.filter(|_| self.config.subject);
        LINE.with_borrow_mut(|line| {
            line.clear();
            match open.style {
                // Serialising plain fields into a vector cannot fail.
                LineStyle::Json => drop(serde_json::to_writer(&mut *line, &record)),
                LineStyle::Human => human(&record, line),
            }
            line.push(b'\n');
            open.sink.put(line);
        });
    }

    /// Waits until what was recorded before is written, at most `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        self.open.as_ref().is_none_or(|open| open.sink.flush(patience))
    }
}

/// `2026-03-01T12:00:00.000123Z 200 GET api.example.com/orders/7 1.234ms client=… id=… route=… upstream=…`
fn human(record: &AccessRecord<'_>, out: &mut Vec<u8>) {
    // Writing into a vector cannot fail.
    stamp::write(record.time, out);
    let _ = write!(out, " {} ", record.status);
    for part in [record.method, " ", record.host, record.path] {
        escaped(part, out);
    }
    if let Some(query) = record.query {
        out.push(b'?');
        escaped(query, out);
    }
    let micros = record.duration.as_micros();
    let _ = write!(out, " {}.{:03}ms client={}", micros / 1_000, micros % 1_000, record.client);
    let fields = [
        ("id", Some(record.request_id)),
        ("route", record.route),
        ("tenant", record.tenant),
        ("issuer", record.issuer),
        ("subject", record.subject),
        ("upstream", record.upstream),
        ("refusal", record.refusal),
        ("error", record.error),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            let _ = write!(out, " {name}=");
            escaped(value, out);
        }
    }
    for (name, value) in record.tags {
        let _ = write!(out, " tags.{name}=");
        escaped(value, out);
    }
    if record.retries > 0 {
        let _ = write!(out, " retries={}", record.retries);
    }
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    thread_local! { static TEXT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) } }
    TEXT.with_borrow_mut(|text| {
        text.clear();
        stamp::write(*time, text);
        serializer.serialize_str(std::str::from_utf8(text).unwrap_or_default())
    })
}

fn as_micros<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn as_some_micros<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    as_micros(&duration.unwrap_or_default(), serializer)
}

fn as_object<S: Serializer>(members: &[(Box<str>, Box<str>)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(members.iter().map(|(name, value)| (name, value)))
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
