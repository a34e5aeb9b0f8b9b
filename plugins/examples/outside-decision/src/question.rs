//! What the service is asked, and the key under which its word is remembered.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha256};

/// All that a decision may hang on.
pub(crate) struct Question {
    pub(crate) subject: String,
    pub(crate) issuer: String,
    pub(crate) tenant: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
}

impl Question {
    pub(crate) fn json(&self) -> String {
        let scopes: Vec<String> = self.scopes.iter().map(|scope| quoted(scope)).collect();
        format!(
            r#"{{"subject":{},"issuer":{},"tenant":{},"scopes":[{}],"method":{},"host":{},"path":{}}}"#,
            quoted(&self.subject),
            quoted(&self.issuer),
            self.tenant.as_deref().map_or_else(|| "null".to_owned(), quoted),
            scopes.join(","),
            quoted(&self.method),
            quoted(&self.host),
            quoted(&self.path),
        )
    }

    /// A hash of the whole question, since it is longer than a key may be. JSON is how two questions cannot come to one text.
    pub(crate) fn key(&self) -> String {
        Base64UrlUnpadded::encode_string(&Sha256::digest(self.json()))
    }
}

/// A JSON string (RFC 8259 7).
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c < ' ' => quoted.push_str(&format!("\\u{:04x}", c as u32)),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(subject: &str, path: &str) -> Question {
        Question {
            subject: subject.to_owned(),
            issuer: "corp".to_owned(),
            tenant: None,
            scopes: vec!["a".to_owned(), "b".to_owned()],
            method: "GET".to_owned(),
            host: "api.example.com".to_owned(),
            path: path.to_owned(),
        }
    }

    #[test]
    fn a_question_is_json_whatever_is_in_it() {
        assert_eq!(
            question("a\"b\\c\n\u{1}é", "/x").json(),
            r#"{"subject":"a\"b\\c\u000a\u0001é","issuer":"corp","tenant":null,"scopes":["a","b"],"method":"GET","host":"api.example.com","path":"/x"}"#
        );
    }

    #[test]
    fn another_question_has_another_key() {
        let key = question("ada", "/x").key();
        assert_eq!(key.len(), 43);
        for other in [question("eve", "/x"), question("ada", "/y"), question("ada\",\"issuer\":\"x", "/x")] {
            assert_ne!(other.key(), key);
        }
    }
}
