//! What a phase decided, checked: nothing that a plugin made reaches a client before it went through here.

use http::{HeaderMap, StatusCode};
use sluice_vocabulary::{Reason, Refusal};

use crate::contract::actions;
use crate::contract::fields::HeaderFault;
use crate::edits::{MOST_BYTES, field_name, field_value};
use crate::failure::Failure;
use crate::host::{LONGEST_LINE, has_body, one_line};
use crate::message::Answer;

/// Bytes of a body that a plugin may answer with.
pub(crate) const LONGEST_BODY: usize = 256 * 1024;
/// Header fields of an answer.
const MOST_FIELDS: usize = 64;
/// Bytes of the public sentence of a refusal.
const LONGEST_DETAIL: usize = 256;

/// Checks an answer.
pub(crate) fn checked(answer: actions::Answer) -> Result<Answer, Failure> {
    let unusable = |what: String| Err(Failure::Output(what));
    let status = match StatusCode::from_u16(answer.status) {
        Ok(status) if (200..600).contains(&answer.status) => status,
        _ => return unusable(format!("an answer with status {}: expected 200 to 599", answer.status)),
    };
    if answer.body.len() > LONGEST_BODY {
        return unusable(format!("an answer of {} bytes: expected at most {LONGEST_BODY}", answer.body.len()));
    }
    if !answer.body.is_empty() && !has_body(status) {
        return unusable(format!("an answer with status {status} and a body"));
    }
    if answer.headers.len() > MOST_FIELDS {
        return unusable(format!(
            "an answer with {} header fields: expected at most {MOST_FIELDS}",
            answer.headers.len()
        ));
    }
    let bytes: usize = answer.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > MOST_BYTES {
        return unusable(format!("an answer with {bytes} bytes of header: expected at most {MOST_BYTES}"));
    }
    let mut headers = HeaderMap::with_capacity(answer.headers.len());
    for (name, value) in answer.headers {
        match field_name(&name).and_then(|name| Ok((name, field_value(value)?))) {
            Ok((name, value)) => headers.append(name, value),
            Err(fault) => {
                let what = match fault {
                    HeaderFault::InvalidName => "not a field name",
                    HeaderFault::InvalidValue => "not a field value",
                    HeaderFault::Forbidden | HeaderFault::ReadOnly => "not a plugin's to set",
                };
                return unusable(format!("an answer with the header field {:?}: {what}", one_line(&name, 64)));
            }
        };
    }
    Ok(Answer { status, headers, body: answer.body.into() })
}

/// Makes a refusal of a plugin's. What is too long is cut: a refusal must stand, however badly it is worded.
pub(crate) fn refusal(plugin: &str, refusal: actions::Refusal) -> Refusal {
    let mut made = Refusal::new(Reason::PluginRefused);
    if let Some(detail) = refusal.detail {
        made = made.detail(one_line(&detail, LONGEST_DETAIL));
    }
    let why = refusal.reason.map_or_else(
        || format!("plugin {plugin} refused"),
        |reason| format!("plugin {plugin} refused: {}", one_line(&reason, LONGEST_LINE)),
    );
    made.internal(why)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: usize) -> Result<Answer, Failure> {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        checked(actions::Answer { status, headers, body: vec![b'x'; body] })
    }

    #[test]
    fn a_sound_answer_passes_whole() {
        let answer = answer(418, &[("X-A", "1"), ("x-a", "2")], 3).unwrap();
        assert_eq!(answer.status, 418);
        assert_eq!(answer.headers.get_all("x-a").into_iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(&answer.body[..], b"xxx");
    }

    #[test]
    fn an_answer_that_would_break_the_message_is_not_sent() {
        assert!(answer(101, &[], 0).is_err());
        assert!(answer(600, &[], 0).is_err());
        assert!(answer(204, &[], 1).is_err());
        assert!(answer(200, &[("content-length", "5")], 1).is_err());
        assert!(answer(200, &[("x", "a\r\nb: c")], 0).is_err());
        assert!(answer(200, &[], LONGEST_BODY + 1).is_err());
        assert!(answer(200, &[("x", "y"); 65], 0).is_err());
        assert!(answer(200, &[("x", "y".repeat(8000).as_str()); 5], 0).is_err());
    }

    #[test]
    fn a_refusal_stands_however_badly_it_is_worded() {
        let refusal =
            refusal("p", actions::Refusal { detail: Some("x\n".repeat(1000)), reason: Some("y".repeat(5000)) });
        assert_eq!(refusal.reason, Reason::PluginRefused);
        assert_eq!(refusal.detail.unwrap().len(), LONGEST_DETAIL);
        assert!(refusal.internal.unwrap().len() < LONGEST_LINE + 64);
    }
}
