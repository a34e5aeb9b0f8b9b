//! The metrics page in the form its reader understands: OpenMetrics 1.0 for those that say so, Prometheus's text format
//! 0.0.4 for all others.
//!
//! The two differ, for what this process writes, in four things: the older form names a counter and an info in its
//! comments as in its samples, has no type for an info, and knows neither units nor an end mark.

use std::borrow::Cow;
use std::collections::HashMap;

use http::HeaderMap;
use http::header::ACCEPT;

pub(crate) const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Whether the reader asks for OpenMetrics.
pub(crate) fn wants_openmetrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_it = parts.next().is_some_and(|media| media.eq_ignore_ascii_case("application/openmetrics-text"));
        is_it && !parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

/// OpenMetrics text as Prometheus's text format 0.0.4.
pub(crate) fn to_text(openmetrics: &str) -> String {
    let types: HashMap<&str, &str> =
        openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let comment = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '));
        let line: Cow<'_, str> = match comment {
            Some(("HELP" | "TYPE", rest)) => {
                let (name, told) = rest.split_once(' ').unwrap_or((rest, ""));
                let (suffix, kind) = match types.get(name).copied().unwrap_or("unknown") {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "unknown" => ("", "untyped"),
                    other => ("", other),
                };
                let is_type = line.starts_with("# TYPE ");
                let word = if is_type { "TYPE" } else { "HELP" };
                format!("# {word} {name}{suffix} {}", if is_type { kind } else { told }).into()
            }
            Some(("UNIT", _)) => continue,
            _ if line == "# EOF" => continue,
            _ => line.into(),
        };
        text.push_str(&line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_form_names_counters_and_infos_by_their_samples() {
        let openmetrics = "\
# HELP sluice_requests Requests ended.
# TYPE sluice_requests counter
sluice_requests_total{route=\"a b # HELP x\"} 3
# HELP took_seconds Time.
# TYPE took_seconds histogram
# UNIT took_seconds seconds
took_seconds_bucket{le=\"+Inf\"} 1
# HELP build What runs.
# TYPE build info
build_info{version=\"1\"} 1
# EOF
";
        let text = "\
# HELP sluice_requests_total Requests ended.
# TYPE sluice_requests_total counter
sluice_requests_total{route=\"a b # HELP x\"} 3
# HELP took_seconds Time.
# TYPE took_seconds histogram
took_seconds_bucket{le=\"+Inf\"} 1
# HELP build_info What runs.
# TYPE build_info gauge
build_info{version=\"1\"} 1
";
        assert_eq!(to_text(openmetrics), text);
    }

    #[test]
    fn the_newer_form_is_for_those_who_ask() {
        let accepts = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, http::HeaderValue::from_static(value));
            wants_openmetrics(&headers)
        };
        assert!(accepts("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"));
        assert!(!accepts("text/plain, */*"));
        assert!(!accepts("application/openmetrics-text;q=0, text/plain"));
        assert!(!wants_openmetrics(&HeaderMap::new()));
    }
}
