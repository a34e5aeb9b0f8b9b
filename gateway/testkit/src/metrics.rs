//! What `/metrics` said, as figures a test can ask for.

use std::collections::BTreeSet;

/// One scrape in OpenMetrics (or Prometheus) text, parsed.
#[derive(Debug, Clone)]
pub struct Metrics {
    samples: Vec<Sample>,
    families: BTreeSet<String>,
    gauges: BTreeSet<String>,
}

#[derive(Debug, Clone)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

impl Metrics {
    /// Parses a scrape.
    ///
    /// # Panics
    /// On a line that is not OpenMetrics text, naming it: a page that a scraper would refuse is a broken promise.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut samples = Vec::new();
        let mut families = BTreeSet::new();
        let mut gauges = BTreeSet::new();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix("# ") {
                if let Some((family, kind)) = comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' ')) {
                    families.insert(family.to_owned());
                    if kind == "gauge" {
                        gauges.insert(family.to_owned());
                    }
                }
                continue;
            }
            let sample = parse_sample(line).unwrap_or_else(|| panic!("not a line of OpenMetrics: {line:?}"));
            families.insert(sample.name.clone());
            samples.push(sample);
        }
        Self { samples, families, gauges }
    }

    /// The sum of all samples called `name` that carry at least `labels`; 0 where the metric exists but none does.
    ///
    /// # Panics
    /// If no metric of that name exists at all, since a misspelt name would otherwise read as a reassuring 0.
    #[must_use]
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.knows(name), "no metric {name:?}; those beginning alike: {:?}", self.names_like(name));
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// Whether a sample called `name` with at least `labels` exists.
    #[must_use]
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.matching(name, labels).next().is_some()
    }

    /// Every sample of a gauge, as `name{label="value",…}`, with its value: what should be back where it was once a load
    /// has gone.
    pub fn gauges(&self) -> impl Iterator<Item = (String, f64)> {
        self.samples.iter().filter(|sample| self.gauges.contains(&sample.name)).map(|sample| {
            let labels: Vec<String> = sample.labels.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
            (format!("{}{{{}}}", sample.name, labels.join(",")), sample.value)
        })
    }

    /// Every name of a sample or family, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.families.iter().map(String::as_str)
    }

    /// The distinct values of one label over all samples called `name`, sorted.
    #[must_use]
    pub fn label_values(&self, name: &str, label: &str) -> Vec<String> {
        let values: BTreeSet<String> = self
            .matching(name, &[])
            .flat_map(|sample| &sample.labels)
            .filter(|(key, _)| key == label)
            .map(|(_, value)| value.clone())
            .collect();
        values.into_iter().collect()
    }

    fn matching<'a>(&'a self, name: &'a str, labels: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| {
                    sample.labels.iter().any(|(have_key, have_value)| have_key == key && have_value == value)
                })
        })
    }

    /// A family without samples shows only its `TYPE` line, under the name without the suffix that its samples would
    /// carry.
    fn knows(&self, name: &str) -> bool {
        const SUFFIXES: [&str; 5] = ["_total", "_count", "_sum", "_bucket", "_info"];
        self.families.contains(name)
            || SUFFIXES
                .iter()
                .filter_map(|suffix| name.strip_suffix(suffix))
                .any(|family| self.families.contains(family))
    }

    fn names_like(&self, name: &str) -> Vec<&str> {
        let stem: String = name.split('_').take(2).collect::<Vec<_>>().join("_");
        self.names().filter(|known| known.starts_with(&stem)).collect()
    }
}

/// `name{label="value",…} 1.5 [timestamp] [# exemplar]`
fn parse_sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = Vec::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = parse_labels(inside, &mut labels)?;
    }
    let value = rest.trim_start().split(' ').next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads `key="value",…}` and gives what follows the brace.
fn parse_labels<'a>(mut text: &'a str, labels: &mut Vec<(String, String)>) -> Option<&'a str> {
    loop {
        text = text.trim_start_matches(',');
        if let Some(rest) = text.strip_prefix('}') {
            return Some(rest);
        }
        let (key, after) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next()? {
                (at, '"') => break at,
                (_, '\\') => match letters.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, letter) => value.push(letter),
            }
        };
        labels.push((key.to_owned(), value));
        text = &after[end + 1..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_are_told_from_counters() {
        let page = "# TYPE a gauge\na{x=\"1\"} 3\n# TYPE b counter\nb_total 4\n";
        let gauges: Vec<_> = Metrics::parse(page).gauges().collect();
        assert_eq!(gauges, [("a{x=\"1\"}".to_owned(), 3.0)]);
    }

    const PAGE: &str = "# HELP sluice_requests Requests.\n# TYPE sluice_requests counter\n\
        sluice_requests_total{route=\"a\",code=\"200\"} 3\n\
        sluice_requests_total{route=\"a\",code=\"401\"} 2\n\
        sluice_requests_total{route=\"odd \\\"}\\\" one\",code=\"200\"} 1\n\
        # TYPE sluice_refusals counter\n# EOF\n";

    #[test]
    fn figures_are_summed_over_the_labels_not_asked_for() {
        let metrics = Metrics::parse(PAGE);
        assert_eq!(metrics.value("sluice_requests_total", &[("route", "a")]), 5.0);
        assert_eq!(metrics.value("sluice_requests_total", &[("code", "200")]), 4.0);
        assert_eq!(metrics.value("sluice_requests_total", &[("route", "odd \"}\" one")]), 1.0);
    }

    #[test]
    fn a_family_without_samples_reads_as_zero() {
        assert_eq!(Metrics::parse(PAGE).value("sluice_refusals_total", &[]), 0.0);
    }

    #[test]
    #[should_panic(expected = "no metric \"sluice_request_total\"")]
    fn a_misspelt_name_does_not_read_as_zero() {
        let _ = Metrics::parse(PAGE).value("sluice_request_total", &[]);
    }
}
