//! What may be configured of logs, access records and trace context.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sluice_vocabulary::fault::{Fault, Faults, Path};

use crate::logs::parse_directives;

/// What the gateway tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The gateway's own log.
    pub logs: LogsConfig,
    /// One record per request.
    pub access_log: AccessLogConfig,
    /// Request ids and trace context.
    pub trace: TraceConfig,
}

/// The gateway's own log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogsConfig {
    /// How a line is written. Default: `auto`, which is `human` on a terminal and `json` elsewhere.
    pub format: Format,
    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) and, after commas, levels for parts of
    /// the gateway (`info,sluice_auth=debug`). Default: `info`. Libraries underneath speak from `warn` on unless named.
    pub level: String,
    /// Where lines go: `stderr` (default), `stdout`, or the path of a file, which is opened anew when it was moved away.
    pub output: Output,
}

impl Default for LogsConfig {
    fn default() -> Self {
        Self { format: Format::Auto, level: "info".to_owned(), output: Output::Stderr }
    }
}

/// One record per request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessLogConfig {
    /// How a record is written. Default: `off`, since at an edge it is the largest output there is and should be a choice.
    pub format: AccessFormat,
    /// Where records go: `stdout` (default), `stderr`, or the path of a file, which is opened anew when it was moved away.
    pub output: Output,
    /// Which share of the requests answered below 400 is recorded, from 0 to 1. Default: 1. Refused and failed requests
    /// are always recorded.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
    /// Whether the query is recorded with the path. Default: no, since queries carry tokens and personal data. A parameter
    /// that a route takes tokens from (`auth.token_from`) is recorded as `[redacted]`.
    pub query: bool,
    /// Whether the token's subject is recorded. Default: no, since it names a person.
    pub subject: bool,
}

impl Default for AccessLogConfig {
    fn default() -> Self {
        Self { format: AccessFormat::Off, output: Output::Stdout, sample: 1.0, query: false, subject: false }
    }
}

/// Request ids and trace context.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TraceConfig {
    /// Whose trace context (W3C `traceparent`, B3) is continued. Default: `anyone`. A new trace begins for all others.
    pub continue_from: TrustedFor,
}

/// Whose word is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrustedFor {
    /// Every client's.
    #[default]
    Anyone,
    /// Only that of the trusted proxies in front.
    TrustedProxies,
    /// Nobody's.
    Nobody,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `human` where the output is a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// One line of text, coloured on a terminal unless `NO_COLOR` is set.
    Human,
}

/// How an access record is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessFormat {
    /// Not at all.
    #[default]
    Off,
    /// One JSON object per line.
    Json,
    /// One line of text.
    Human,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
#[schemars(with = "String")]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to; made with mode 0640 where it does not exist.
    File(PathBuf),
}

impl From<String> for Output {
    fn from(text: String) -> Self {
        match text.as_str() {
            "stderr" => Self::Stderr,
            "stdout" => Self::Stdout,
            _ => Self::File(PathBuf::from(text)),
        }
    }
}

impl From<Output> for String {
    fn from(output: Output) -> Self {
        match output {
            Output::Stderr => "stderr".to_owned(),
            Output::Stdout => "stdout".to_owned(),
            Output::File(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl Config {
    /// Reports every fault at once. Whether a file can be opened is found out when it is.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        self.logs.validate(&at.key("logs"), faults);
        self.access_log.validate(&at.key("access_log"), faults);
    }
}

impl LogsConfig {
    /// Reports every fault at once.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        if let Err(why) = parse_directives(&self.level) {
            faults.push(
                Fault::error(&at.key("level"), why).help("write a level, such as info or info,sluice_auth=debug"),
            );
        }
        self.output.validate(&at.key("output"), faults);
    }
}

impl AccessLogConfig {
    /// Reports every fault at once.
    pub fn validate(&self, at: &Path, faults: &mut Faults) {
        if !(0.0..=1.0).contains(&self.sample) {
            faults.error(&at.key("sample"), format!("{} is not a share: expected a number from 0 to 1", self.sample));
        }
        if self.query && self.format != AccessFormat::Off {
            faults.warning(&at.key("query"), "queries often carry tokens and personal data, and are now recorded");
        }
        self.output.validate(&at.key("output"), faults);
    }
}

impl Output {
    fn validate(&self, at: &Path, faults: &mut Faults) {
        if let Self::File(path) = self
            && (path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().contains(&0))
        {
            faults.error(
                at,
                format!("{:?} is not a path: expected stderr, stdout or the path of a file", path.display()),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_without_fault() {
        let mut faults = Faults::new();
        Config::default().validate(&Path::root(), &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let mut config = Config::default();
        config.logs.level = "loud".to_owned();
        config.logs.output = Output::from(String::new());
        config.access_log.sample = 1.5;
        let mut faults = Faults::new();
        config.validate(&Path::root(), &mut faults);
        let places: Vec<_> = faults.iter().map(|fault| fault.path.to_string()).collect();
        assert_eq!(places, ["logs.level", "logs.output", "access_log.sample"]);
    }
}
