//! What came of an exchange, held against what was to come of it.

use bytes::Bytes;
use http::HeaderMap;
use sluice_plugins::Counted;

use super::format::{Metric, Outcome, Sides, Word};
use super::play::Played;
use super::ready::{Expectation, ExpectedMessage};
use super::wanted::{Unmet, Wanted, shown, shown_text};

/// Something that is not as it was expected.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) what: String,
    pub(super) expected: String,
    pub(super) got: String,
}

/// What a plugin left behind, as far as anything is expected of it.
pub(super) struct Left {
    /// The values of the keys that are named, in their order.
    pub(super) store: Vec<Option<Vec<u8>>>,
    pub(super) counted: Vec<Counted>,
}

/// Every difference; none where all is as expected.
pub(super) fn judge(played: &Played, expected: &Expectation, left: &Left) -> Vec<Difference> {
    let mut found = Differences::default();
    found.outcome(played, &expected.outcome);
    if let Some(kind) = expected.failure {
        let got: Vec<&str> = played.heard.failed.iter().map(|failed| failed.kind.as_str()).collect();
        if !got.contains(&kind) {
            let got = if got.is_empty() { "no failure".to_owned() } else { got.join(", ") };
            found.add("failure", kind.to_owned(), got);
        }
    }
    if let Some(wanted) = &expected.reason {
        found.text("reason", wanted, played.reason().as_deref().map(str::as_bytes));
    }
    if let Some(wanted) = &expected.detail {
        let detail = played.refusal.as_ref().and_then(|refusal| refusal.detail.as_deref());
        found.text("detail", wanted, detail.map(str::as_bytes));
    }
    match &played.sent {
        Some(sent) => found.message("request", &expected.request, (&sent.headers, &sent.pieces, &HeaderMap::new())),
        None if expected.request.is_empty() => {}
        None => found.add("request", "a request that goes upstream".to_owned(), "none was sent".to_owned()),
    }
    let answered = &played.answered;
    if let Some(status) = expected.response.status.filter(|status| *status != answered.status.as_u16()) {
        found.add("response status", status.to_string(), answered.status.as_u16().to_string());
    }
    found.message("response", &expected.response, (&answered.headers, &answered.pieces, &answered.trailers));
    if let Some(upstream) = expected.upstream.as_ref().filter(|upstream| **upstream != played.upstream) {
        found.add("upstream", upstream.as_str().to_owned(), played.upstream.as_str().to_owned());
    }
    for (name, wanted) in &expected.tags {
        let tag = played.tags.iter().find(|(known, _)| **known == **name);
        found.text(&format!("tag {name}"), wanted, tag.map(|(_, value)| value.as_bytes()));
    }
    for ((key, wanted), value) in expected.store.iter().zip(&left.store) {
        found.text(&format!("store {key}"), wanted, value.as_deref());
    }
    for metric in &expected.metrics {
        found.metric(metric, &left.counted);
    }
    found.log(played, expected);
    found.0
}

impl Played {
    /// Why it was refused, or failed, as far as that is the plugin's to say.
    pub(super) fn reason(&self) -> Option<String> {
        if let Some(failed) = self.heard.failed.iter().rev().find(|failed| failed.then != "fallback") {
            return Some(failed.why.clone());
        }
        let internal = self.refusal.as_ref()?.internal.as_deref()?;
        // Which plugin it was is known here.
        let own = internal.strip_prefix("plugin ").and_then(|rest| rest.split_once(' '));
        let own = own.map_or(internal, |(_, rest)| rest);
        Some(own.strip_prefix("refused: ").unwrap_or(own).to_owned())
    }

    /// The outcome of the whole.
    pub(super) fn whole(&self) -> Word {
        let sides = [self.request, self.response, self.end];
        sides.into_iter().find(|word| *word != Word::Continue).unwrap_or_default()
    }
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, what: &str, expected: String, got: String) {
        self.0.push(Difference { what: what.to_owned(), expected, got });
    }

    fn outcome(&mut self, played: &Played, expected: &Outcome) {
        let because = |word: Word| match played.reason() {
            Some(reason) if matches!(word, Word::Refuse | Word::Fail | Word::Abort) => {
                format!("{} ({})", word.as_str(), shown_text(&reason))
            }
            _ => word.as_str().to_owned(),
        };
        match *expected {
            Outcome::Whole(word) if word == played.whole() => {}
            Outcome::Whole(word) => self.add("outcome", word.as_str().to_owned(), because(played.whole())),
            Outcome::Sides(Sides { request, response, end }) => {
                let sides = [
                    ("outcome of the request", request, played.request),
                    ("outcome of the response", response, played.response),
                    ("outcome of the end", end, played.end),
                ];
                for (what, expected, got) in sides.into_iter().filter(|(_, expected, got)| expected != got) {
                    self.add(what, expected.as_str().to_owned(), because(got));
                }
            }
        }
    }

    fn text(&mut self, what: &str, wanted: &Wanted, got: Option<&[u8]>) {
        if let Some(Unmet { expected, got }) = wanted.unmet(got) {
            self.add(what, expected, got);
        }
    }

    fn message(
        &mut self,
        side: &str,
        expected: &ExpectedMessage,
        (headers, pieces, trailers): (&HeaderMap, &[Bytes], &HeaderMap),
    ) {
        for (kind, wanted, fields) in
            [("header", &expected.headers, headers), ("trailer", &expected.trailers, trailers)]
        {
            for (name, wanted) in wanted {
                if let Some(Unmet { expected, got }) = wanted.unmet(name, fields) {
                    self.add(&format!("{side} {kind} {name}"), expected, got);
                }
            }
        }
        if let Some(wanted) = &expected.body {
            let whole = pieces.concat();
            // No bytes are no body, and an empty text is none either.
            let is_empty = whole.is_empty() && !wanted.is_met_by(Some(b""));
            self.text(&format!("{side} body"), wanted, (!is_empty).then_some(&whole));
        }
        if let Some(chunks) = expected.chunks.as_ref().filter(|chunks| *chunks != pieces) {
            let list = |pieces: &[Bytes]| pieces.iter().map(|piece| shown(piece)).collect::<Vec<_>>().join(", ");
            self.add(&format!("{side} chunks"), format!("[{}]", list(chunks)), format!("[{}]", list(pieces)));
        }
    }

    fn metric(&mut self, expected: &Metric, counted: &[Counted]) {
        let is_it = |counted: &&Counted| {
            counted.name == expected.name
                && counted.labels.len() == expected.labels.len()
                && counted.labels.iter().all(|(name, value)| expected.labels.get(name) == Some(value))
        };
        let got = counted.iter().find(is_it).map(|counted| counted.value);
        if (got.unwrap_or_default() - expected.value).abs() <= f64::EPSILON * expected.value.abs() {
            return;
        }
        let got = match got {
            Some(value) => value.to_string(),
            None if counted.is_empty() => "nothing was counted".to_owned(),
            None => {
                let others: Vec<String> =
                    counted.iter().map(|other| format!("{} {}", series(other), other.value)).collect();
                format!("not counted; there is {}", others.join(", "))
            }
        };
        let labels = expected.labels.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let named = series(&Counted { name: expected.name.clone(), labels, value: 0.0 });
        self.add(&format!("metric {named}"), expected.value.to_string(), got);
    }

    fn log(&mut self, played: &Played, expected: &Expectation) {
        for (level, wanted) in &expected.log {
            let is_there = played.heard.lines.iter().any(|line| {
                level.is_none_or(|level| level == line.level)
                    && wanted.as_ref().is_none_or(|wanted| wanted.is_met_by(Some(line.text.as_bytes())))
            });
            // A line that must not be there is met by none that is.
            let is_met = match wanted {
                Some(Wanted::Absent) => {
                    !played.heard.lines.iter().any(|line| level.is_none_or(|level| level == line.level))
                }
                _ => is_there,
            };
            if !is_met {
                let wanted = wanted.as_ref().map_or_else(|| "a line".to_owned(), Wanted::shown);
                let expected = level.map_or_else(|| wanted.clone(), |level| format!("{}: {wanted}", level.as_str()));
                let lines: Vec<String> = played
                    .heard
                    .lines
                    .iter()
                    .map(|line| format!("{}: {}", line.level.as_str(), shown_text(&line.text)))
                    .collect();
                let got = if lines.is_empty() { "nothing was logged".to_owned() } else { lines.join("; ") };
                self.add("log", expected, got);
            }
        }
    }
}

fn series(counted: &Counted) -> String {
    let labels: Vec<String> = counted.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    if labels.is_empty() { counted.name.clone() } else { format!("{}{{{}}}", counted.name, labels.join(",")) }
}
