//! Who watches a token being judged: nobody where a request is served, a [`Trail`](crate::explain::Trail) where an operator
//! asks why.
//!
//! The judgement is one, in [`crate::verify`]; it tells its witness of each step as it takes it. Where nobody watches, `()`
//! is the witness, and telling it costs nothing: its methods are empty, and details are only made for who wants them.

/// A step of the judgement, in the order in which an operator reads them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A token is found in the request.
    Token,
    /// It is among those already verified.
    Cache,
    /// It is three parts of base64url, and not too long.
    Shape,
    /// Its header.
    Header,
    /// Its payload can be read.
    Payload,
    /// It names an issuer of the route.
    Issuer,
    /// The issuer's algorithms hold its own.
    Algorithm,
    /// Its `typ` is what the issuer's tokens say.
    Type,
    /// A key of the issuer fits.
    Key,
    /// The signature.
    Signature,
    /// `aud`.
    Audience,
    /// `exp`.
    Expiry,
    /// `nbf`.
    NotBefore,
    /// `iat` and `sub` have the form they must have.
    Form,
    /// Its issuer's endpoint says what it stands for.
    Introspection,
    /// It was not revoked.
    Revocation,
    /// What it is bound to is what the route demands, and the connection's certificate is the one it is bound to.
    Binding,
    /// The DPoP proof.
    Proof,
    /// The route's scopes.
    Scopes,
    /// The route's rules on claims.
    Claims,
    /// How its user was authenticated.
    Authentication,
}

impl Step {
    /// Every step, in their order.
    pub(crate) const ALL: [Self; 21] = [
        Self::Token,
        Self::Cache,
        Self::Shape,
        Self::Header,
        Self::Payload,
        Self::Issuer,
        Self::Algorithm,
        Self::Type,
        Self::Key,
        Self::Signature,
        Self::Audience,
        Self::Expiry,
        Self::NotBefore,
        Self::Form,
        Self::Introspection,
        Self::Revocation,
        Self::Binding,
        Self::Proof,
        Self::Scopes,
        Self::Claims,
        Self::Authentication,
    ];

    /// Those that verify a token by keys. One that was verified before has them behind it, and one that only its issuer can
    /// judge has none of them.
    pub(crate) const BY_KEYS: [Self; 12] = [
        Self::Shape,
        Self::Header,
        Self::Payload,
        Self::Issuer,
        Self::Algorithm,
        Self::Type,
        Self::Key,
        Self::Signature,
        Self::Audience,
        Self::Expiry,
        Self::NotBefore,
        Self::Form,
    ];

    /// The stable name.
    pub(crate) const fn slug(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Cache => "cache",
            Self::Shape => "shape",
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Issuer => "issuer",
            Self::Algorithm => "algorithm",
            Self::Type => "type",
            Self::Key => "key",
            Self::Signature => "signature",
            Self::Audience => "audience",
            Self::Expiry => "expiry",
            Self::NotBefore => "not-before",
            Self::Form => "form",
            Self::Introspection => "introspection",
            Self::Revocation => "revocation",
            Self::Binding => "binding",
            Self::Proof => "proof",
            Self::Scopes => "scopes",
            Self::Claims => "claims",
            Self::Authentication => "step-up",
        }
    }
}

/// A witness of the judgement. Details never hold a token or a secret; what a token says stands in them shortened and
/// quoted, see [`shown`].
pub(crate) trait Witness: Send {
    /// Whether the judgement serves a request. Then it is counted, charged to the address and remembered. Where it only
    /// explains, it leaves no trace but what issuers were asked.
    const SERVES: bool;

    /// This step begins. The one before it has passed.
    fn begin(&mut self, _step: Step) {}

    /// A detail of the step under way, in place of what was told of it before. Where the step fails, this stands in place
    /// of the cause.
    fn note(&mut self, _detail: impl FnOnce() -> String) {}

    /// These steps, which may have the one under way among them, decide nothing, and why.
    fn skip(&mut self, _steps: &[Step], _why: &'static str) {}

    /// The step under way, and what led to it, decides nothing after all, and why.
    fn waive(&mut self, _why: &'static str) {}

    /// The issuer's keys are asked for and waited for.
    fn waits(&mut self) {}
}

/// Nobody.
impl Witness for () {
    const SERVES: bool = true;
}

/// The most characters of a value of a token that are shown.
const MOST_SHOWN: usize = 64;

/// A value of a token as it may be shown: in quotes, control characters escaped, the end cut off where it is long.
pub(crate) fn shown(value: &str) -> String {
    match value.char_indices().nth(MOST_SHOWN) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}

/// A length of time as people say it, in its two largest units: `45s`, `3m`, `2h 5m`, `12d 3h`.
pub(crate) fn spoken(seconds: u64) -> String {
    let pair = |large: u64, large_unit: char, small: u64, small_unit: char| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => pair(seconds / 60, 'm', seconds % 60, 's'),
        3600..86_400 => pair(seconds / 3600, 'h', seconds % 3600 / 60, 'm'),
        _ => pair(seconds / 86_400, 'd', seconds % 86_400 / 3600, 'h'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_stands_where_its_number_says_and_has_a_name_of_its_own() {
        let mut names: Vec<_> = Step::ALL.iter().map(|step| step.slug()).collect();
        assert!(Step::ALL.iter().enumerate().all(|(index, step)| *step as usize == index));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Step::ALL.len());
    }

    #[test]
    fn what_a_token_says_is_shown_so_that_it_can_do_no_harm() {
        assert_eq!(shown("k1"), r#""k1""#);
        assert_eq!(shown("a\u{1b}[31m\"b"), r#""a\u{1b}[31m\"b""#);
        assert_eq!(shown("\u{202e}x"), r#""\u{202e}x""#);
        let long = shown(&"é".repeat(1000));
        assert_eq!(long.chars().count(), MOST_SHOWN + 3);
    }

    #[test]
    fn times_are_told_as_people_say_them() {
        let told: Vec<_> = [0, 59, 60, 185, 3600, 7505, 86_400, 1_036_800 + 3 * 3600].map(spoken).into();
        assert_eq!(told, ["0s", "59s", "1m", "3m 5s", "1h", "2h 5m", "1d", "12d 3h"]);
    }
}
