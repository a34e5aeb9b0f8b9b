//! Quotas as they are configured, how one stands, and what is said of it.

/// Quotas that one request may count against.
const MOST: usize = 8;
/// A year.
const LONGEST_WINDOW: u64 = 366 * 24 * 3600;
/// The largest integer that a structured field can say (RFC 9651 3.3.1).
const MOST_REQUESTS: u64 = 999_999_999_999_999;

/// Whom a quota is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Subject,
    Tenant,
}

/// One quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) name: String,
    pub(crate) by: By,
    /// Seconds.
    pub(crate) window: u64,
}

impl Policy {
    /// Seconds until its window ends.
    pub(crate) const fn left(&self, now: u64) -> u64 {
        self.window - now % self.window
    }
}

/// Reads `quotas`; a configuration without any is an error, since a plugin that counts nothing lets everything in.
pub(crate) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Vec<Policy>, String> {
    let mut policies: Vec<Policy> = Vec::new();
    while let Some(name) = get(&format!("/quotas/{}/name", policies.len())) {
        let at = format!("/quotas/{}", policies.len());
        let is_name = (1..=32).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
        if !is_name || policies.iter().any(|other| other.name == name) {
            return Err(format!(
                "{at}/name: {name:?}: expected 1 to 32 letters, digits, `-` or `_`, and each name once"
            ));
        }
        if policies.len() == MOST {
            return Err(format!("quotas: more than {MOST}"));
        }
        let by = match get(&format!("{at}/by")).as_deref() {
            Some("subject") => By::Subject,
            Some("tenant") => By::Tenant,
            other => return Err(format!("{at}/by: {other:?} is neither `subject` nor `tenant`")),
        };
        let text = get(&format!("{at}/window")).unwrap_or_default();
        let window = text.parse().ok().filter(|window| (1..=LONGEST_WINDOW).contains(window));
        let window = window.ok_or_else(|| format!("{at}/window: {text:?}: expected 1 to {LONGEST_WINDOW} seconds"))?;
        policies.push(Policy { name, by, window });
    }
    if policies.is_empty() {
        return Err("quotas: there is none with a name".to_owned());
    }
    Ok(policies)
}

/// Reads a limit.
pub(crate) fn limit(text: &str) -> Result<u64, String> {
    let limit = text.parse().ok().filter(|limit| *limit <= MOST_REQUESTS);
    limit.ok_or_else(|| format!("limit: {text:?}: expected 0 to {MOST_REQUESTS}"))
}

/// One step of a JSON Pointer (RFC 6901 3).
pub(crate) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// How one quota stands.
#[derive(Debug)]
pub(crate) struct State {
    policy: Policy,
    limit: u64,
    count: u64,
    left: u64,
}

impl State {
    pub(crate) fn new(policy: Policy, limit: u64, count: i64, now: u64) -> Self {
        let left = policy.left(now);
        Self { policy, limit, count: u64::try_from(count).unwrap_or(0), left }
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.count > self.limit
    }

    /// Seconds until it begins anew.
    pub(crate) const fn left(&self) -> u64 {
        self.left
    }
}

/// Header fields that tell how quotas stand.
pub(crate) fn fields(states: &[State]) -> [(&'static str, String); 2] {
    let all = |of: &dyn Fn(&State) -> String| states.iter().map(of).collect::<Vec<_>>().join(", ");
    let policy = all(&|state| format!("\"{}\";q={};w={}", state.policy.name, state.limit, state.policy.window));
    let rest = all(&|state| {
        format!("\"{}\";r={};t={}", state.policy.name, state.limit.saturating_sub(state.count), state.left)
    });
    [("ratelimit-policy", policy), ("ratelimit", rest)]
}

/// The problem document (RFC 9457) for what is over the last of these. Names need no escape.
pub(crate) fn problem(states: &[State]) -> String {
    let name = states.last().map_or("", |state| state.policy.name.as_str());
    format!(
        "{{\"type\":\"https://iana.org/assignments/http-problem-types#quota-exceeded\",\"title\":\"Quota exceeded\",\
         \"status\":429,\"violated-policies\":[\"{name}\"]}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_from(entries: &[(&str, &str)]) -> Result<Vec<Policy>, String> {
        read(|key| entries.iter().find(|(known, _)| *known == key).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_window_ends_where_the_next_begins() {
        let policy = Policy { name: "m".into(), by: By::Tenant, window: 60 };
        assert_eq!([policy.left(0), policy.left(1), policy.left(59), policy.left(60)], [60, 59, 1, 60]);
    }

    #[test]
    fn a_quota_that_is_not_whole_is_refused() {
        assert!(read_from(&[]).is_err());
        let whole = [("/quotas/0/name", "m"), ("/quotas/0/by", "tenant"), ("/quotas/0/window", "60")];
        assert_eq!(read_from(&whole).unwrap().len(), 1);
        for (at, value) in [(0, "a\"b"), (0, ""), (1, "address"), (2, "0"), (2, "-1"), (2, "x")] {
            let mut entries = whole;
            entries[at].1 = value;
            assert!(read_from(&entries).is_err(), "{entries:?}");
        }
        assert!(limit("-1").is_err() && limit("1000000000000000").is_err());
        assert_eq!(limit("0"), Ok(0));
    }

    #[test]
    fn the_fields_say_limit_rest_and_time() {
        let policy = Policy { name: "m".into(), by: By::Tenant, window: 60 };
        let [policies, rest] = fields(&[State::new(policy, 5, 7, 90)]);
        assert_eq!(policies.1, "\"m\";q=5;w=60");
        assert_eq!(rest.1, "\"m\";r=0;t=30");
    }
}
