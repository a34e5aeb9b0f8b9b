//! `sluice token inspect --request`: what a token is worth to a request, by a running gateway or by a file.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::door::{Door, Unanswered};
use super::{Failure, load, say};
use crate::inspection::{self, FromFile, TokenQuestion};

/// What a token is to be judged for, and by whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Judging {
    /// Judge it for this request, step by step: 'GET https://host/path'
    #[arg(long, value_name = "REQUEST")]
    pub(super) request: Option<String>,
    /// A further header field of the request, 'name: value': a DPoP proof, or 'cookie: session=TOKEN' with - and an empty
    /// standard input for the token, where the route takes it from there; may be given more than once
    #[arg(long, value_name = "FIELD", requires = "request")]
    header: Vec<String>,
    /// The client's address [default: 127.0.0.1]
    #[arg(long, value_name = "IP", requires = "request")]
    client: Option<IpAddr>,
    /// SHA-256 of the certificate that the client showed, in hexadecimal or base64url
    #[arg(long, value_name = "SHA256", requires = "request")]
    certificate: Option<String>,
    /// The running gateway to ask, by its operator's door: ADDRESS:PORT or unix:PATH [default: 127.0.0.1:9901]
    #[arg(long, value_name = "DOOR", requires = "request", conflicts_with = "config")]
    admin: Option<Door>,
    /// Judge by this configuration file in place of a running gateway. Its issuers are asked for their keys; what was revoked
    /// is known to a running gateway alone
    #[arg(short, long, value_name = "FILE", requires = "request")]
    config: Option<PathBuf>,
}

/// Has `token` judged for `request`, and shows how it came out.
pub(super) fn judge(judging: &Judging, request: &str, token: &str, as_json: bool) -> Result<(), Failure> {
    let question = judging.question(request, token)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(Failure::run)?;
    let page = match &judging.config {
        Some(file) => runtime.block_on(by_file(file, &question))?,
        None => {
            let door = judging.admin.clone().unwrap_or(Door::Tcp(sluice_admin::config::DEFAULT_ADDRESS.to_string()));
            runtime.block_on(door.post("/tokens/inspect", &question)).map_err(|unanswered| match unanswered {
                Unanswered::Refused(why) => Failure::Usage(why),
                Unanswered::Unheard(why) => Failure::Run(format!("{why}; --config judges by a file")),
            })?
        }
    };
    // What a reading thread or a slow disk holds up is not waited for.
    runtime.shutdown_background();
    if as_json {
        say(format_args!("{page:#}\n"))?;
    } else {
        say(text(&page, colours()))?;
    }
    match page["verdict"]["passes"] {
        Value::Bool(true) => Ok(()),
        _ => Err(Failure::Run(format!(
            "the request would be refused: {} {}",
            page["verdict"]["status"],
            page["verdict"]["reason"].as_str().unwrap_or_default()
        ))),
    }
}

impl Judging {
    /// The question as the door takes it.
    fn question(&self, request: &str, token: &str) -> Result<Value, Failure> {
        let mut headers = Map::new();
        for field in &self.header {
            let (name, value) = field.split_once(':').ok_or_else(|| {
                Failure::usage(format!("{field:?} is not a header field: expected the form 'name: value'"))
            })?;
            let values = headers.entry(name.trim().to_ascii_lowercase()).or_insert_with(|| json!([]));
            if let Value::Array(values) = values {
                values.push(value.trim().into());
            }
        }
        let question = json!({
            "token": if token.is_empty() { None } else { Some(token) },
            "request": request,
            "headers": headers,
            "client": self.client,
            "certificate": self.certificate,
        });
        // Wrong here as it would be there.
        TokenQuestion::read(question.to_string().as_bytes()).map_err(Failure::Usage)?;
        Ok(question)
    }
}

async fn by_file(file: &Path, question: &Value) -> Result<Value, Failure> {
    let loaded = load::read(file).map_err(|faults| Failure::Usage(faults.for_terminal()))?;
    let question = TokenQuestion::read(question.to_string().as_bytes()).map_err(Failure::Usage)?;
    let ground = FromFile::start(&loaded.config, load::folder_of(file))
        .map_err(|faults| Failure::Usage(sluice_config::render::text(&loaded.diagnose(&faults), load::colours())))?;
    ground.settled().await;
    let page = inspection::judge(&ground, question).await;
    ground.stop().await;
    Ok(page)
}

/// Whether standard output is a terminal that wants colours.
fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The page as people read it.
fn text(page: &Value, colours: bool) -> String {
    let painted = |colour: &str, text: &str| match colours {
        true => format!("\x1b[{colour}m{text}\x1b[0m"),
        false => text.to_owned(),
    };
    let mut text = match page["route"].as_str() {
        Some(route) => format!("route {}\n", plain(route)),
        None => "no route\n".to_owned(),
    };
    for step in page["steps"].as_array().into_iter().flatten() {
        let (name, detail) = (plain(&step["step"]), plain(&step["detail"]));
        let line = match step["outcome"].as_str() {
            Some("passed") => format!("  {} {name:<14}{detail}", painted("32", "✓")),
            Some("failed") => format!("  {} {name:<14}{}", painted("31", "✗"), painted("1", &detail)),
            _ => format!("  {} {name:<14}{}", painted("2", "–"), painted("2", &detail)),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&verdict(&page["verdict"], &painted));
    text
}

fn verdict(verdict: &Value, painted: &impl Fn(&str, &str) -> String) -> String {
    if verdict["passes"] == json!(true) {
        let as_whom = match (&verdict["identity"], verdict["status"].as_u64()) {
            (_, Some(status)) => format!(": the gateway answers it with {status}"),
            (Value::Null, None) => ", as nobody".to_owned(),
            (identity, None) => match identity["subject"].as_str() {
                Some(subject) => format!(", as {} of issuer {}", quoted(subject), plain(&identity["issuer"])),
                None => format!(", as somebody without sub, of issuer {}", plain(&identity["issuer"])),
            },
        };
        return format!("{}{as_whom}\n", painted("32", "passes"));
    }
    let title = format!("{} {}: {}", verdict["status"], plain(&verdict["reason"]), plain(&verdict["title"]));
    let mut text = format!("{} {title}\n", painted("31", "refused"));
    for header in verdict["headers"].as_array().into_iter().flatten() {
        text.push_str(&format!("  {}: {}\n", plain(&header["name"]), plain(&header["value"])));
    }
    text
}

/// A text without what could move a terminal's cursor.
fn plain(text: impl Plain) -> String {
    text.text().chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

trait Plain {
    fn text(&self) -> &str;
}

impl Plain for &str {
    fn text(&self) -> &str {
        self
    }
}

impl Plain for &Value {
    fn text(&self) -> &str {
        self.as_str().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_in_lines_that_no_token_can_disturb() {
        let page = json!({
            "route": "orders",
            "policy": null,
            "steps": [
                { "step": "header", "outcome": "passed", "detail": "alg ES256, kid \"\u{1b}[2J\"" },
                { "step": "expiry", "outcome": "failed", "detail": "expired 3m ago, leeway 30s" },
                { "step": "form", "outcome": "skipped", "detail": "not reached" },
            ],
            "verdict": {
                "passes": false, "status": 401, "reason": "token-expired", "title": "The token has expired",
                "cause": "expired 180 s ago", "identity": null,
                "headers": [ { "name": "www-authenticate", "value": "Bearer realm=\"sluice\"" } ],
            },
        });
        let expected = "route orders\n  ✓ header        alg ES256, kid \"\u{fffd}[2J\"\n  ✗ expiry        expired 3m ago, leeway 30s\n  \
             – form          not reached\nrefused 401 token-expired: The token has expired\n  \
             www-authenticate: Bearer realm=\"sluice\"\n";
        assert_eq!(text(&page, false), expected);
        assert!(text(&page, true).contains("\u{1b}[31m✗\u{1b}[0m"));
    }
}
